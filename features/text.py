"""Text encoder: KoBERT or another encoder, its tokenizer, and its text embeddings.

transformers' `AutoTokenizer` returns wrong ids for KoBERT, and SKT's own `kobert_tokenizer` cannot be installed with
transformers 5. So KoBERT's vocabulary is read with SentencePiece. (A tokenizer of the `tokenizers` library made from
the same file returns other ids for decomposed Hangul and for long repetitions.)
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import numpy as np
import sentencepiece
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from constants import LEARNT
from utils import InputError, expand_home, first_line

KOBERT = "skt/kobert-base-v1"
VOCABULARY = "spiece.model"
FILES = (".safetensors", ".bin", ".model", ".json", ".txt")  # of weights and tokenizers
UNUSED = ("pooler.",)  # prefixes of weights that embeddings do not depend on
MAX_TOKENS = 512  # of the encoder; a longer sentence is cut after 510 tokens
WARN_UNKNOWN, MAX_UNKNOWN = 0.02, 0.2  # shares of unknown tokens that cause a warning, an error


def may_be_on_hub(name: str) -> bool:
    """Whether a name can be a Hub name: not a path, and not a name in an existing folder."""
    named = re.fullmatch(r"(?!exp/|data/)(\w[\w.-]*/)?\w[\w.-]*", name)
    return named is not None and ("/" not in name or not Path(name).parent.is_dir())


@contextlib.contextmanager
def loading(name_or_folder: str, what: str, example: str) -> Iterator[None]:
    """Convert errors while loading an encoder from a folder or the Hugging Face Hub to `InputError`."""
    folder = Path(name_or_folder)
    if not folder.is_dir():
        if not may_be_on_hub(name_or_folder):
            raise InputError(f"{what} {name_or_folder}: no such folder, and not a name on the Hugging Face Hub")
        print(f"loading {name_or_folder} from the Hugging Face Hub", file=sys.stderr)
    # Hide messages about connections and about a missing pooling layer, which is not used
    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # damaged files and other models raise errors of many kinds
        reason = first_line(error, *(path for path in sorted(folder.glob("*.*")) if path.suffix in FILES))
        expected = f"a Hub name such as {example}, or a folder from 'hf download NAME --local-dir FOLDER'"
        raise InputError(f"{what} {name_or_folder}: cannot be loaded ({reason}); expected {expected}") from error


def load_model(name_or_folder: str, unused: tuple[str, ...], **hub: Any) -> transformers.PreTrainedModel:
    """The model of a folder or of the Hub in float32; weights whose names begin with `unused` are not checked.

    transformers initialises missing weights at random. Raises `ValueError` if weights are missing or not finite.
    """
    model, found = transformers.AutoModel.from_pretrained(
        name_or_folder, dtype="float32", output_loading_info=True, **hub
    )
    if missing := sorted(name for name in found["missing_keys"] if not name.startswith(unused)):
        instead = f"; unexpected: {min(found['unexpected_keys'])}" if found["unexpected_keys"] else ""
        raise ValueError(f"{len(missing)} weights are missing, first: {missing[0]}{instead}")
    for name, weight in model.named_parameters():
        if not weight.isfinite().all() and not name.startswith(unused):
            raise ValueError(f"weight {name} is not finite")
    if left_out := sorted(name for name in found["unexpected_keys"] if re.search(r"\blayers?\.\d+\.", name)):
        warnings.warn(f"{name_or_folder}: {left_out[0]} is not used: config.json has fewer layers", stacklevel=4)
    return model


def describe(name: str, model: transformers.PreTrainedModel, content: bytes, unused: tuple[str, ...]) -> dict[str, Any]:
    """The record of an encoder: `name` as given, `fingerprint`, and values of its configuration.

    The fingerprint is the SHA-256 of `content` (settings or tokenizer) and of all weights except `unused` (see
    `load_model`). The other values are `revision`, the Hub's commit (None for a folder), `random`, whether the weights
    are random, and `learnt_sessions`, the sessions by corpus used by finetune.py.
    """
    digest = hashlib.sha256(content)
    for weight, tensor in model.state_dict().items():
        if not weight.startswith(unused):
            digest.update(weight.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().data)
    attributes = {"revision": "_commit_hash", "random": "random_weights", LEARNT: LEARNT}
    values = {key: getattr(model.config, attribute, None) for key, attribute in attributes.items()}
    return {"name": name, "fingerprint": digest.hexdigest(), **values}


class Tokenizer(NamedTuple):
    encode: Callable[[str], list[int]]  # token ids of a sentence, with begin and end tokens
    pad_id: int
    unknown_id: int | None
    size: int  # of the vocabulary
    content: bytes  # everything that the ids depend on


def kobert_tokenizer(vocabulary: Path) -> Tokenizer:
    """KoBERT's tokenizer, from its SentencePiece model with the tokens [UNK] [PAD] [CLS] [SEP]."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    unknown, pad, cls, sep = map(pieces.piece_to_id, ("[UNK]", "[PAD]", "[CLS]", "[SEP]"))
    if len({unknown, pad, cls, sep}) < 4:  # a missing token has the id of [UNK]
        raise ValueError(f"{vocabulary} has no [UNK], [PAD], [CLS] or [SEP]")

    def encode(text: str) -> list[int]:
        return [cls, *pieces.encode(text)[: MAX_TOKENS - 2], sep]

    return Tokenizer(encode, pad, unknown, pieces.get_piece_size(), pieces.serialized_model_proto())


def own_tokenizer(name_or_folder: str, config: transformers.PretrainedConfig, **hub: Any) -> Tokenizer:
    """The tokenizer of an encoder other than KoBERT, such as `klue/bert-base` or `klue/roberta-base`."""
    own = transformers.AutoTokenizer.from_pretrained(name_or_folder, **hub)
    if own.pad_token_id is None:
        raise ValueError(f"a {config.model_type} without a padding token; expected an encoder such as BERT")
    n_marked = sum(piece.startswith("\u2581") for piece in own.get_vocab())  # SentencePiece's mark of a word
    if type(own.backend_tokenizer.model).__name__ == "WordPiece" and n_marked > len(own) / 10:
        raise ValueError("the vocabulary is for SentencePiece but is loaded as WordPiece")
    # RoBERTa's positions start after the padding id
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    max_tokens = min(MAX_TOKENS, config.max_position_embeddings - offset)
    encode = partial(own.encode, truncation=True, max_length=max_tokens)
    return Tokenizer(encode, own.pad_token_id, own.unk_token_id, len(own), own.backend_tokenizer.to_str().encode())


class TextEncoder:
    """A pretrained encoder with its tokenizer.

    shape : (dim,) of a text embedding
    description : see `describe`
    """

    kind = "text"

    def __init__(self, name: str, tokenizer: Tokenizer, model: transformers.PreTrainedModel) -> None:
        self.tokenizer, self.model, self.shape = tokenizer, model.eval(), (model.config.hidden_size,)
        self.description = describe(name, model, tokenizer.content, UNUSED)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch_size: int = 64, progress: bool = False) -> np.ndarray:
        """Text embeddings, float32, shape = (len(texts), dim).

        An embedding is the mean of the last hidden states over the tokens of a text, with [CLS] and [SEP]. Texts are
        sorted by length to reduce padding, and duplicates are encoded once. `progress` prints the share of unknown
        tokens; raises `InputError` if it is `MAX_UNKNOWN` or more.
        """
        ids = {text: self.tokenizer.encode(text) for text in dict.fromkeys(texts)}
        self._check_pieces(texts, ids, progress)
        ids = {text: torch.tensor(pieces) for text, pieces in ids.items()}
        order, found = sorted(ids, key=lambda text: len(ids[text])), {}
        for start in tqdm(range(0, len(order), batch_size), "text embeddings", unit="batch", disable=not progress):
            batch = order[start : start + batch_size]
            padded = pad_sequence([ids[text] for text in batch], True, self.tokenizer.pad_id).to(self.model.device)
            mask = pad_sequence([torch.ones_like(ids[text]) for text in batch], True).to(self.model.device)
            hidden = self.model(input_ids=padded, attention_mask=mask).last_hidden_state
            mask = mask[:, :, None].to(hidden.dtype)
            vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            found |= zip(batch, vectors.float().cpu().numpy(), strict=True)
        return np.array([found[text] for text in texts], dtype=np.float32).reshape(-1, *self.shape)

    def embed_all(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The embedding of each text as it is stored: float32, shape = (dim,)."""
        return [*map(torch.tensor, self.embed(texts))]

    def _check_pieces(self, texts: Sequence[str], ids: dict[str, list[int]], show: bool) -> None:
        """Print the share of unknown tokens in all texts; warn or raise `InputError` if it is large."""
        unknown = {text: pieces[1:-1].count(self.tokenizer.unknown_id) for text, pieces in ids.items()}
        n, total = sum(unknown[text] for text in texts), sum(len(ids[text][1:-1]) for text in texts)
        share = n / max(1, total)
        found = f"{n} of {total} tokens ({share:.1%}) are unknown to the text encoder"
        if show:
            print(found, flush=True)
        if share >= WARN_UNKNOWN and n > 1:  # a sentence may have an emoji
            first = next(text for text in texts if unknown[text])
            found = f"text encoder {self.description['name']}: {found}, first in {first!r}"
            if share >= MAX_UNKNOWN and n > 3:
                raise InputError(f"{found}; expected under {MAX_UNKNOWN:.0%}: use a --text_model for Korean")
            warnings.warn(found, stacklevel=3)


def load_text_encoder(
    name_or_folder: str, device: torch.device | str = "cpu", revision: str | None = None
) -> TextEncoder:
    """Load a text encoder (evaluation mode, float32) from a folder or by its name on the Hugging Face Hub.

    A BERT with a `spiece.model` is KoBERT. `revision` is a commit on the Hub, by default the newest. Raises
    `InputError` if it cannot be loaded, or weights or the tokenizer are missing.
    """
    name_or_folder = expand_home(name_or_folder)
    hub = {"trust_remote_code": False, "revision": revision or "main"}
    with loading(name_or_folder, "text encoder", KOBERT):
        config = transformers.AutoConfig.from_pretrained(name_or_folder, **hub)
        vocabulary = _find_vocabulary(name_or_folder, hub["revision"]) if config.model_type == "bert" else None
        try:
            tokenizer = kobert_tokenizer(vocabulary) if vocabulary else own_tokenizer(name_or_folder, config, **hub)
            # Without a vocabulary file AutoTokenizer makes a tokenizer with special tokens only
            if not config.vocab_size / 2 < tokenizer.size <= config.vocab_size:
                raise ValueError(f"the vocabulary has {tokenizer.size} tokens, the weights expect {config.vocab_size}")
        except Exception as error:  # see `loading`
            kobert = f"; KoBERT needs {VOCABULARY} of {KOBERT}" if config.model_type == "bert" else ""
            raise ValueError(f"tokenizer: {first_line(error)}{kobert}") from error
        model = load_model(name_or_folder, UNUSED, **hub)
    return TextEncoder(name_or_folder, tokenizer, model.to(device))


def _find_vocabulary(name_or_folder: str, revision: str) -> Path | None:
    """KoBERT's SentencePiece model in a folder or on the Hub; None if it is missing, also in the offline cache."""
    if Path(name_or_folder).is_dir():
        return next(Path(name_or_folder).glob(VOCABULARY), None)
    try:
        return Path(huggingface_hub.hf_hub_download(name_or_folder, VOCABULARY, revision=revision))
    except huggingface_hub.errors.EntryNotFoundError:
        return None
