"""KoBERT's tokenizer, masked mean-pooled sentence embeddings of it and other encoders, and the files that keep them.

transformers' `AutoTokenizer` gives wrong ids for KoBERT and SKT's own `kobert_tokenizer` cannot be installed beside
transformers 5, so the SentencePiece model is used directly: `[CLS]` + pieces + `[SEP]` are SKT's ids. Other encoders
(`klue/bert-base`, `klue/roberta-base`) bring the tokenizer that `AutoTokenizer` loads.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from utils import InputError, atomic_write, check_archive, read_bounded

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

KOBERT = "skt/kobert-base-v1"
VOCABULARY = "spiece.model"
MAX_TOKENS = 512  # positions of the encoder; a longer sentence keeps its first 510 pieces


class KoBERTTokenizer:
    """KoBERT's SentencePiece tokenizer.

    Raises
    ------
    InputError : the file is no SentencePiece model with the pieces [UNK] [PAD] [CLS] [SEP]
    """

    def __init__(self, vocabulary: Path) -> None:
        import sentencepiece

        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{vocabulary}: not readable as a SentencePiece model ({error})") from error
        names = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]"}
        ids = {key: self.pieces.piece_to_id(piece) for key, piece in names.items()}
        if len(set(ids.values())) < len(ids):
            raise InputError(f"{vocabulary}: lacks some of the pieces {' '.join(names.values())} of KoBERT's layout")
        self.unk_token_id, self.pad_token_id, self.cls_token_id, self.sep_token_id = ids.values()

    def __len__(self) -> int:
        return self.pieces.get_piece_size()

    def fingerprint(self) -> bytes:
        """What the ids depend on."""
        return self.pieces.serialized_model_proto()

    def encode(self, text: str) -> list[int]:
        """Ids of `[CLS]`, the pieces of `text`, `[SEP]`; at most 512."""
        ids = self.pieces.encode(text)[: MAX_TOKENS - 2]
        return [self.cls_token_id, *ids, self.sep_token_id]

    def __call__(self, texts: str | Sequence[str]) -> dict[str, torch.Tensor]:
        """Ids and attention mask of a batch (a single text is a batch of one), padded on the right to its longest.

        Returns
        -------
        dict of `input_ids` and `attention_mask` : int64 tensors, shape = (B, tokens); the mask is 1 on tokens
        """
        return pad([self.encode(text) for text in ([texts] if isinstance(texts, str) else texts)], self.pad_token_id)


class OwnTokenizer:
    """The tokenizer that an encoder other than KoBERT brings along, with `KoBERTTokenizer`'s methods.

    Parameters
    ----------
    tokenizer : from `AutoTokenizer`
    max_tokens : positions of the encoder
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def __len__(self) -> int:
        return len(self.tokenizer)

    def fingerprint(self) -> bytes:
        """What the ids depend on."""
        return self.tokenizer.backend_tokenizer.to_str().encode()  # only fast tokenizers have one

    def encode(self, text: str) -> list[int]:
        """Ids of a text with the encoder's own marks of its begin and end; at most as many as it has positions."""
        return self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]

    def __call__(self, texts: str | Sequence[str]) -> dict[str, torch.Tensor]:
        """As `KoBERTTokenizer`'s."""
        texts = [texts] if isinstance(texts, str) else texts
        return pad([self.encode(text) for text in texts], self.tokenizer.pad_token_id)


def pad(sentences: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Token ids and attention mask, int64, shape = (B, tokens of the longest); the mask is 1 on tokens, 0 behind."""
    import torch

    ids = [torch.tensor(sentence) for sentence in sentences]
    return {
        "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
    }


Tokenizer = KoBERTTokenizer | OwnTokenizer


def load_text_model(name_or_path: str, text_dim: int | None = None) -> tuple[Tokenizer, PreTrainedModel]:
    """Tokenizer and encoder (evaluation mode, float32) of a folder or of a name on the hub.

    A BERT with a `spiece.model` is KoBERT and gets `KoBERTTokenizer`; any other brings its own.

    Raises
    ------
    InputError : it cannot be had, is no such encoder, or its sentence embeddings are not `text_dim` long
    """
    folder = Path(name_or_path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{folder / 'config.json'}: not found; expected a folder in the layout of {KOBERT}")
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name_or_path):
            raise InputError(f"text model {name_or_path}: no such folder, and not a name such as {KOBERT}")
        print(f"looking for {name_or_path} on the Hugging Face hub", file=sys.stderr)
    import huggingface_hub
    import transformers

    # Of five attempts to reach the hub, and of the pooling layer, which is not used
    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
        tokenizer = _load_tokenizer(name_or_path, config)
        if text_dim not in (None, config.hidden_size):
            raise InputError(
                f"text model {name_or_path} gives embeddings of {config.hidden_size} values, --text_dim is {text_dim}"
            )
        # Of a folder without vocabulary AutoTokenizer makes a tokenizer that knows its special tokens only
        if not config.vocab_size / 2 < len(tokenizer) <= config.vocab_size:
            raise InputError(
                f"text model {name_or_path}: its tokenizer has {len(tokenizer)} pieces, its encoder "
                f"{config.vocab_size}; is the file of its vocabulary there?"
            )
        tokenizer.fingerprint()
        model = transformers.AutoModel.from_pretrained(name_or_path, trust_remote_code=False, dtype="float32")
    except InputError:
        raise
    except Exception as error:  # damaged files and other models make the readers raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if folder.is_dir():
            raise InputError(f"{folder}: not readable as a text model ({reason})") from error
        raise InputError(
            f"text model {name_or_path}: no such folder, and the hub did not give it; on a machine with a network run "
            f"'hf download {name_or_path} --local-dir encoder', copy the folder here and pass --text_model encoder "
            f"({reason})"
        ) from error
    return tokenizer, model.eval()


def _load_tokenizer(name_or_path: str, config: PretrainedConfig) -> Tokenizer:
    if config.model_type == "bert" and (vocabulary := _find_vocabulary(name_or_path)):
        return KoBERTTokenizer(vocabulary)
    from transformers import AutoTokenizer

    # RoBERTa counts its positions from behind the id of padding
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"a {config.model_type} without a padding token, expected an encoder such as BERT")
    return OwnTokenizer(tokenizer, min(MAX_TOKENS, config.max_position_embeddings - offset))


def _find_vocabulary(name_or_path: str) -> Path | None:
    """KoBERT's SentencePiece model in a folder or on the hub, or None where there is none."""
    if Path(name_or_path).is_dir():
        path = Path(name_or_path, VOCABULARY)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(name_or_path, VOCABULARY))
    except EntryNotFoundError:
        return None


def embed_sentences(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    model: PreTrainedModel,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = True,
    cache: EmbeddingCache | None = None,
) -> np.ndarray:
    """Sentence embeddings: the mean of the last hidden states over a sentence's tokens, [CLS] and [SEP] included.

    Sentences go through the encoder in order of length, so that batches hold little padding; equal ones go once, and
    those in `cache` not at all.

    Returns
    -------
    float32, shape = (len(texts), hidden size), in the order of `texts`
    """
    import torch
    from tqdm import tqdm

    known = {} if cache is None else cache.embeddings
    distinct = list(dict.fromkeys(texts))
    keys = {text: _digest(text) for text in distinct}
    embedding = {text: known[keys[text]] for text in distinct if keys[text] in known}
    todo = sorted((text for text in distinct if text not in embedding), key=lambda text: len(tokenizer.encode(text)))
    model = model.to(device)
    bar = tqdm(
        total=len(distinct),
        initial=len(embedding),
        desc="sentence embeddings",
        unit="sentence",
        disable=not progress,
    )
    try:
        with torch.inference_mode(), bar:
            for start in range(0, len(todo), batch_size):
                texts_of_batch = todo[start : start + batch_size]
                batch = {k: v.to(device) for k, v in tokenizer(texts_of_batch).items()}
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(2).to(hidden.dtype)
                mean = ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu().numpy()
                embedding |= dict(zip(texts_of_batch, mean, strict=True))
                if cache is not None:
                    cache.add({keys[text]: embedding[text] for text in texts_of_batch})
                bar.update(len(mean))
        if cache is not None:
            cache.keep(keys.values())
    finally:  # also when it is interrupted
        if cache is not None:
            cache.save()
    return np.stack([embedding[text] for text in texts])


# What an interrupted run had, and what a later run with the same encoder need not compute again


SAVE_SECONDS = 30.0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class EmbeddingCache:
    """Sentence embeddings of one text model by the SHA-256 of the sentence, in an `.npz` of plain arrays.

    A file that is missing, damaged, or of another text model is an empty cache.

    Parameters
    ----------
    path : of the file
    tokenizer, model : whose embeddings it holds

    Attributes
    ----------
    embeddings : dict of 32 bytes -> float32, shape = (hidden size,)
    fault : why the file is damaged, or None
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, model: PreTrainedModel) -> None:
        self.path = path
        content = hashlib.sha256(tokenizer.fingerprint())
        for name, tensor in model.state_dict().items():
            if not name.startswith("pooler."):  # is drawn anew where the file has none, and not used
                content.update(name.encode())
                content.update(tensor.detach().cpu().contiguous().view(-1).numpy().data)
        self.text_model = content.hexdigest()
        self.embeddings: dict[bytes, np.ndarray] = {}
        self.fault: str | None = None
        self.saved_at, self.changed = time.monotonic(), False
        if path.exists():
            self.embeddings = self._read(model.config.hidden_size)

    def _read(self, dimension: int) -> dict[bytes, np.ndarray]:
        try:
            check_archive(self.path)
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if str(arrays["text_model"]) != self.text_model:
                    return {}
                digest, embedding = arrays["sha256"], arrays["embedding"]
            if digest.shape != (len(digest), 32) or embedding.shape != (len(digest), dimension):
                raise ValueError(f"arrays of shape {digest.shape} and {embedding.shape}")
            if (digest.dtype, embedding.dtype) != (np.uint8, np.float32) or not np.isfinite(embedding).all():
                raise ValueError("other values than digests and finite embeddings")
        except Exception as error:  # damaged bytes make the readers raise almost anything
            self.fault = str(error)
            return {}
        return {key.tobytes(): vector for key, vector in zip(digest, embedding, strict=True)}

    def add(self, embeddings: dict[bytes, np.ndarray]) -> None:
        """Add embeddings, and save where the last time is half a minute ago."""
        self.embeddings |= embeddings
        self.changed = True
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()

    def keep(self, digests: Iterable[bytes]) -> None:
        """Forget all sentences but these."""
        kept = {digest: self.embeddings[digest] for digest in digests if digest in self.embeddings}
        self.changed |= len(kept) < len(self.embeddings)
        self.embeddings = kept

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.changed:
            with atomic_write(self.path, "wb") as file:
                np.savez(
                    file,
                    text_model=np.array(self.text_model),
                    sha256=np.frombuffer(b"".join(self.embeddings), dtype=np.uint8).reshape(-1, 32),
                    embedding=np.stack(list(self.embeddings.values())),
                )
        self.saved_at, self.changed = time.monotonic(), False


# The embedding file: numpy.save of a dict "<segment id>.txt" -> float32 (text_dim,), the published format. That is a
# pickle, and a pickle calls what it names. The names of numpy's constructors are admitted, but what they get is these
# stand-ins: numpy's own can be made to read memory that is not theirs.


class _DType:
    """`numpy.dtype(code, align, copy)` and its state, whose second item is the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in {"f2", "f4", "f8", "O", "O8"}:
            raise pickle.UnpicklingError(f"it holds values of type {code!r}, expected floating point")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")

    def __str__(self) -> str:
        return self.order + self.code


class _Array:
    """`numpy.ndarray` as `_reconstruct` makes it: its state is (version, shape, dtype, Fortran order, content)."""

    value: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        self.fill(content, dtype, shape, "F" if fortran else "C")

    def fill(self, content: Any, dtype: _DType, shape: tuple, order: str) -> _Array:
        """A 0-dimensional array of one object, or floating-point values."""
        if dtype.code.startswith("O"):
            (self.value,) = content
        else:
            self.value = np.frombuffer(content, dtype=str(dtype)).reshape(shape, order=order)
        return self


MAX_EMBEDDING_BYTES = 2**30  # KEMDy19's has 32 MB

_ADMITTED = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _DType}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = lambda *arguments: _Array().fill(*arguments)


class _ArrayUnpickler(pickle.Unpickler):
    """Gives the stand-ins, and encodes no more text than the file holds: one text could be encoded again and again."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.left = len(file.getbuffer())

    def encode(self, text: str, _encoding: str) -> bytes:
        """`codecs.encode` for bytes as protocol 2 writes them."""
        self.left -= len(text)
        if self.left < 0:
            raise pickle.UnpicklingError("it holds more text than its size")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is none of numpy's array constructors")
        return _ADMITTED[module, name]


def save_embeddings(file: IO[bytes], embeddings: dict[str, np.ndarray]) -> None:
    """Write `"<segment id>.txt" -> float32 (text_dim,)` in the published format."""
    np.save(file, np.array(embeddings, dtype=object), allow_pickle=True)


def load_embeddings(path: str | Path, text_dim: int) -> dict[str, np.ndarray]:
    """Read an embedding file without running anything it may hold.

    Returns
    -------
    dict of "<segment id>.txt" -> float32, shape = (text_dim,)

    Raises
    ------
    InputError : it is missing, damaged, of another dimension, or names a callable other than numpy's constructors
    """
    path = Path(path)
    try:
        raw = read_bounded(path, MAX_EMBEDDING_BYTES)
        content = io.BytesIO(raw)
        major, _ = np.lib.format.read_magic(content)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        read_header(content)
        start = content.tell()
        for opcode, argument, _ in pickletools.genops(content):  # of such a place a table is made that may fill memory
            if "PUT" in opcode.name and argument > len(raw):
                raise pickle.UnpicklingError(f"it keeps an object at place {argument}")
        content.seek(start)
        embeddings = _ArrayUnpickler(content).load()  # np.save pickles a 0-dimensional array around the dict
    except FileNotFoundError as error:
        others = sorted(other.name for other in path.parent.glob("embedding_*.npy"))
        todo = f"{', '.join(others)} is there: give its --text_dim" if others else "run preprocessing.py first"
        raise InputError(f"{path}: not found; {todo}") from error
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused, {error}") from error
    except Exception as error:  # damaged bytes make the readers raise almost anything
        raise InputError(f"{path}: not an embedding file of preprocessing.py ({error})") from error
    if isinstance(embeddings, _Array):
        embeddings = embeddings.value
    if not isinstance(embeddings, dict):
        raise InputError(f"{path}: holds a {type(embeddings).__name__}, expected a dict of segment ids and vectors")
    if len(embeddings) * text_dim > len(raw):
        raise InputError(
            f"{path}: {len(raw)} bytes for {len(embeddings)} vectors, expected {text_dim} numbers in each (--text_dim "
            f"{text_dim})"
        )
    vectors = {}
    for key, value in embeddings.items():
        if not isinstance(key, str):
            raise InputError(f"{path}: a key is a {type(key).__name__}, expected one such as Sess01_script01_F001.txt")
        vector = getattr(value, "value", None)
        if not isinstance(vector, np.ndarray) or vector.size != text_dim or not np.isfinite(vector).all():
            found = (
                f"an array of shape {vector.shape}" if isinstance(vector, np.ndarray) else f"a {type(value).__name__}"
            )
            expected = f"{text_dim} finite numbers (--text_dim {text_dim})"
            raise InputError(f"{path}: {key[:80]} holds {found}, expected {expected}")
        vectors[key] = vector.astype(np.float32).reshape(text_dim)
    return vectors
