"""KoBERT's tokenizer, masked mean-pooled sentence embeddings, and the file that keeps them.

transformers' `AutoTokenizer` gives wrong ids for KoBERT and SKT's own `kobert_tokenizer` cannot be installed beside
transformers 5, so the SentencePiece model is used directly: `[CLS]` + pieces + `[SEP]` are SKT's ids.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from utils import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

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

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> KoBERTTokenizer:
        """The tokenizer of a model folder, or of a model on the hub (fetched into the hub's cache)."""
        return cls(_model_file(str(name_or_path), VOCABULARY))

    def __len__(self) -> int:
        return self.pieces.get_piece_size()

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
        import torch

        texts = [texts] if isinstance(texts, str) else texts
        ids = [torch.tensor(self.encode(text)) for text in texts]
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        }


def _model_file(name_or_path: str, file: str) -> Path:
    """Path of `file` of a model given as a folder or as a name on the hub."""
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / file).is_file():
            raise InputError(f"{folder / file}: not found; expected a folder in the layout of {KOBERT}")
        return folder / file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # of its five attempts
    print(f"looking for {name_or_path} on the Hugging Face hub", file=sys.stderr)
    try:
        return Path(hf_hub_download(name_or_path, file))
    except HFValidationError as error:
        raise InputError(f"text model {name_or_path}: no such folder, and not a name such as {KOBERT}") from error
    except OSError as error:  # every hub and connection error is one
        raise InputError(_unreachable(name_or_path)) from error


def _unreachable(name: str) -> str:
    return (
        f"text model {name}: no such folder, and the hub did not give it; on a machine with a network run "
        f"'hf download {name} --local-dir kobert', copy the folder here and pass --text_model kobert"
    )


def load_text_model(name_or_path: str, text_dim: int) -> tuple[KoBERTTokenizer, PreTrainedModel]:
    """Tokenizer and encoder (evaluation mode) of a folder or of a name on the hub.

    Raises
    ------
    InputError : it cannot be had, or its sentence embeddings are not `text_dim` long
    """
    tokenizer = KoBERTTokenizer.from_pretrained(name_or_path)
    import transformers

    # The pooling layer of KoBERT's file is not used, which transformers would report at length
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.BertModel.from_pretrained(name_or_path, add_pooling_layer=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if Path(name_or_path).is_dir() else ""
        raise InputError(f"{name_or_path}: {reason}" if reason else _unreachable(name_or_path)) from error
    if model.config.hidden_size != text_dim:
        raise InputError(
            f"text model {name_or_path} gives embeddings of {model.config.hidden_size} values, --text_dim is {text_dim}"
        )
    if model.config.vocab_size < len(tokenizer):
        raise InputError(
            f"{name_or_path}: the tokenizer has {len(tokenizer)} pieces, the encoder {model.config.vocab_size}"
        )
    return tokenizer, model.eval()


def embed_sentences(
    texts: Sequence[str],
    tokenizer: KoBERTTokenizer,
    model: PreTrainedModel,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> np.ndarray:
    """Sentence embeddings: the mean of the last hidden states over a sentence's tokens, [CLS] and [SEP] included.

    Sentences go through the encoder in order of length, so that batches hold little padding; equal ones go once.

    Returns
    -------
    float32, shape = (len(texts), hidden size), in the order of `texts`
    """
    import torch
    from tqdm import tqdm

    distinct = sorted(dict.fromkeys(texts), key=lambda text: len(tokenizer.encode(text)))
    embedding = np.empty((len(distinct), model.config.hidden_size), dtype=np.float32)
    model = model.to(device)
    bar = tqdm(total=len(distinct), desc="sentence embeddings", unit="sentence", disable=not progress)
    with torch.inference_mode(), bar:
        for start in range(0, len(distinct), batch_size):
            batch = {k: v.to(device) for k, v in tokenizer(distinct[start : start + batch_size]).items()}
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(2).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            embedding[start : start + len(mean)] = mean.float().cpu().numpy()
            bar.update(len(mean))
    row = {text: i for i, text in enumerate(distinct)}
    return embedding[[row[text] for text in texts]]


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


_ADMITTED = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _DType}
_ADMITTED |= {("_codecs", "encode"): lambda text, encoding: text.encode("latin1")}  # bytes, in protocol 2
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = lambda *arguments: _Array().fill(*arguments)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
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
        content = io.BytesIO(path.read_bytes())
        major, _ = np.lib.format.read_magic(content)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        read_header(content)
        embeddings = _ArrayUnpickler(content).load()  # np.save pickles a 0-dimensional array around the dict
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; run preprocessing.py first") from error
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused, {error}") from error
    except Exception as error:  # damaged bytes make the readers raise almost anything
        raise InputError(f"{path}: not an embedding file of preprocessing.py ({error})") from error
    if isinstance(embeddings, _Array):
        embeddings = embeddings.value
    if not isinstance(embeddings, dict):
        raise InputError(f"{path}: holds a {type(embeddings).__name__}, expected a dict of segment ids and vectors")
    vectors = {}
    for key, value in embeddings.items():
        vector = getattr(value, "value", None)
        if not isinstance(vector, np.ndarray) or vector.size != text_dim or not np.isfinite(vector).all():
            found = (
                f"an array of shape {vector.shape}" if isinstance(vector, np.ndarray) else f"a {type(value).__name__}"
            )
            raise InputError(f"{path}: {key} holds {found}, expected {text_dim} finite numbers (--text_dim {text_dim})")
        vectors[str(key)] = vector.astype(np.float32).reshape(text_dim)
    return vectors
