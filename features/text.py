"""Text model: KoBERT or another encoder, its tokenizer, and the sentence embeddings that they give.

transformers' `AutoTokenizer` gives wrong ids for KoBERT, and SKT's own `kobert_tokenizer` cannot be installed beside
transformers 5. So SentencePiece reads KoBERT's vocabulary: `[CLS]`, its pieces and `[SEP]` are SKT's ids. (A tokenizer
of the `tokenizers` library made from the same file gives other ids for decomposed Hangul and for long repetitions.)
Other encoders (`klue/bert-base`, `klue/roberta-base`) bring the tokenizer that `AutoTokenizer` loads.
"""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.embeddings import digest_of
from utils import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from features.embeddings import EmbeddingCache

KOBERT = "skt/kobert-base-v1"
VOCABULARY = "spiece.model"
MAX_TOKENS = 512  # positions of the encoder; of a longer sentence only the first 510 pieces are used


class Tokenizer(ABC):
    """What the encoder of a sentence needs: ids and attention masks."""

    pad_token_id: int

    @abstractmethod
    def __len__(self) -> int:
        """Number of pieces in the vocabulary."""

    @abstractmethod
    def fingerprint(self) -> bytes:
        """Everything that the ids depend on."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, with the marks of its begin and end; at most as many as the encoder has positions."""

    def __call__(self, texts: str | Sequence[str]) -> dict[str, torch.Tensor]:
        """Ids and attention mask of a batch (a single text is a batch of one), padded on the right to its longest.

        Returns
        -------
        dict of `input_ids` and `attention_mask` : int64 tensors, shape = (B, tokens); the mask is 1 on tokens, else 0
        """
        import torch

        ids = [torch.tensor(self.encode(text)) for text in ([texts] if isinstance(texts, str) else texts)]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": pad(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad([torch.ones_like(sentence) for sentence in ids], batch_first=True),
        }


class KoBERTTokenizer(Tokenizer):
    """KoBERT's tokenizer, from its SentencePiece model.

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
        names = ("[UNK]", "[PAD]", "[CLS]", "[SEP]")
        ids = [self.pieces.piece_to_id(name) for name in names]
        if len(set(ids)) < len(ids):  # a piece that is lacking has the id of [UNK]
            raise InputError(f"{vocabulary}: lacks some of the pieces {' '.join(names)} of KoBERT's layout")
        _, self.pad_token_id, self.cls_token_id, self.sep_token_id = ids

    def __len__(self) -> int:
        return self.pieces.get_piece_size()

    def fingerprint(self) -> bytes:
        return self.pieces.serialized_model_proto()

    def encode(self, text: str) -> list[int]:
        """Ids of `[CLS]`, the pieces of `text`, `[SEP]`; at most 512."""
        ids = self.pieces.encode(text)[: MAX_TOKENS - 2]
        return [self.cls_token_id, *ids, self.sep_token_id]


class OwnTokenizer(Tokenizer):
    """The tokenizer that an encoder other than KoBERT brings along.

    Parameters
    ----------
    tokenizer : from `AutoTokenizer`
    max_tokens : positions of the encoder
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.pad_token_id = tokenizer.pad_token_id

    def __len__(self) -> int:
        return len(self.tokenizer)

    def fingerprint(self) -> bytes:
        return self.tokenizer.backend_tokenizer.to_str().encode()  # only fast tokenizers have one

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]


def load_text_model(
    name_or_path: str, text_dim: int | None = None, revision: str | None = None
) -> tuple[Tokenizer, PreTrainedModel]:
    """Tokenizer and encoder (evaluation mode, float32) of a folder or of a name on the hub.

    A BERT with a `spiece.model` is KoBERT and gets `KoBERTTokenizer`; any other brings its own. `revision` is the hub's
    commit, by default the newest.

    Raises
    ------
    InputError : it cannot be had, is no such encoder, or its sentence embeddings are not `text_dim` long
    """
    check_name(name_or_path, "text model", KOBERT)
    import transformers

    hush_libraries()
    try:
        found = {"trust_remote_code": False, "revision": revision or "main"}
        config = transformers.AutoConfig.from_pretrained(name_or_path, **found)
        tokenizer = _load_tokenizer(name_or_path, config, found["revision"])
        if text_dim not in (None, config.hidden_size):
            raise InputError(
                f"text model {name_or_path} gives embeddings of {config.hidden_size} values, --text_dim is {text_dim}"
            )
        # Without its vocabulary file AutoTokenizer makes a tokenizer that knows nothing but special tokens
        if not config.vocab_size / 2 < len(tokenizer) <= config.vocab_size:
            raise InputError(
                f"text model {name_or_path}: its tokenizer has {len(tokenizer)} pieces, its encoder "
                f"{config.vocab_size}; is the file of its vocabulary there?"
            )
        tokenizer.fingerprint()  # fails here, if it can, and not after the corpus was read
        model = transformers.AutoModel.from_pretrained(name_or_path, dtype="float32", **found)
    except InputError:
        raise
    except Exception as error:  # readers raise almost anything for damaged files and other models
        raise not_loaded(name_or_path, error, "text model") from error
    return tokenizer, model.eval()


def hush_libraries() -> None:
    """Have no library print its attempts to reach the hub, or that a pooling layer, which is not used, is lacking."""
    import huggingface_hub
    import transformers

    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def describe_text_model(name_or_path: str, model: PreTrainedModel, fingerprint: str) -> dict[str, Any]:
    """A text model as `corpus.json` holds it.

    Parameters
    ----------
    name_or_path : as in `load_text_model`
    fingerprint : from `embeddings.fingerprint_of`

    Returns
    -------
    dict of `name`, `revision` (the hub's commit; None for a folder), `fingerprint`, and `random`: whether its
    configuration says that its weights were never trained, None where it says nothing
    """
    return {
        "name": name_or_path,
        "revision": getattr(model.config, "_commit_hash", None),
        "fingerprint": fingerprint,
        "random": getattr(model.config, "random_weights", None),
    }


def check_name(name_or_path: str, what: str, example: str) -> None:
    """Raise `InputError` if it can neither be a folder of an encoder nor a name on the hub, such as `example`."""
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder / 'config.json'}: not found; expected a folder in the layout of {example}")
        return
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name_or_path):
        raise InputError(f"{what} {name_or_path}: no such folder, and not a name such as {example}")
    print(f"looking for {name_or_path} on the Hugging Face hub", file=sys.stderr)


def not_loaded(name_or_path: str, error: Exception, what: str) -> InputError:
    """One line that says why an encoder could not be loaded."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if Path(name_or_path).is_dir():
        return InputError(f"{Path(name_or_path)}: not readable as a {what} ({reason})")
    return InputError(
        f"{what} {name_or_path}: no such folder, and the hub did not give it; on a machine with a network run "
        f"'hf download {name_or_path} --local-dir encoder', copy the folder here and pass its path as the name "
        f"({reason})"
    )


def _load_tokenizer(name_or_path: str, config: PretrainedConfig, revision: str) -> Tokenizer:
    if config.model_type == "bert" and (vocabulary := _find_vocabulary(name_or_path, revision)):
        return KoBERTTokenizer(vocabulary)
    from transformers import AutoTokenizer

    # RoBERTa's positions start after the id of padding
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False, revision=revision)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"a {config.model_type} without a padding token, expected an encoder such as BERT")
    return OwnTokenizer(tokenizer, min(MAX_TOKENS, config.max_position_embeddings - offset))


def _find_vocabulary(name_or_path: str, revision: str) -> Path | None:
    """KoBERT's SentencePiece model in a folder or on the hub, or None where there is none."""
    if Path(name_or_path).is_dir():
        path = Path(name_or_path, VOCABULARY)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(name_or_path, VOCABULARY, revision=revision))
    except EntryNotFoundError:
        return None


def embed_sentences(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    model: PreTrainedModel,
    batch_size: int = 64,
    quiet: bool = False,
    cache: EmbeddingCache | None = None,
) -> np.ndarray:
    """Sentence embeddings: the mean of the last hidden states over a sentence's tokens, [CLS] and [SEP] included.

    Sentences go through the encoder in order of length, so that batches hold little padding. Equal sentences are
    embedded once, and those in `cache` not at all.

    Parameters
    ----------
    tokenizer, model : from `load_text_model`; the computation is on the model's device
    batch_size : sentences at once
    quiet : without a progress bar
    cache : where embeddings are looked up and kept, also when this is interrupted; it forgets other sentences

    Returns
    -------
    float32, shape = (len(texts), hidden size), in the order of `texts`
    """
    from tqdm import tqdm

    known = {} if cache is None else cache.embeddings
    digests = {text: digest_of(text) for text in texts}
    embedding = {text: known[digest] for text, digest in digests.items() if digest in known}
    todo = [text for text in digests if text not in embedding]
    todo.sort(key=lambda text: len(tokenizer.encode(text)))
    bar = tqdm(
        desc="sentence embeddings",
        unit="sentence",
        total=len(digests),
        initial=len(embedding),
        disable=quiet,
    )
    try:
        with bar:
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                computed = dict(zip(batch, _embed_batch(batch, tokenizer, model), strict=True))
                embedding |= computed
                if cache is not None:
                    cache.add({digests[text]: vector for text, vector in computed.items()})
                bar.update(len(batch))
        if cache is not None:
            cache.keep(digests.values())
    finally:  # also when it is interrupted
        if cache is not None:
            cache.save()
    return np.stack([embedding[text] for text in texts])


def _embed_batch(texts: Sequence[str], tokenizer: Tokenizer, model: PreTrainedModel) -> np.ndarray:
    """Embeddings of one batch, float32, shape = (len(texts), hidden size)."""
    import torch

    batch = {name: tensor.to(model.device) for name, tensor in tokenizer(texts).items()}
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(2).to(hidden.dtype)
        return ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float().cpu().numpy()
