"""KoBERT's tokenizer, masked mean-pooled sentence embeddings of it and other encoders, and the files that keep them.

transformers' `AutoTokenizer` gives wrong ids for KoBERT and SKT's own `kobert_tokenizer` cannot be installed beside
transformers 5, so the SentencePiece model is used directly: `[CLS]` + pieces + `[SEP]` are SKT's ids. Other encoders
(`klue/bert-base`, `klue/roberta-base`) bring the tokenizer that `AutoTokenizer` loads.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.embeddings import digest_of
from utils import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from features.embeddings import EmbeddingCache

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
    keys = {text: digest_of(text) for text in distinct}
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
