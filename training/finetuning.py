"""Fine-tuning: an encoder with linear heads, its training utterances, and the folder of the fine-tuned encoder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from constants import AFFECT_RANGE, LEARNT, MAX_SECONDS, N_EMOTIONS
from corpora.sessions import parse_sessions
from corpora.utterances import shares
from corpora.wavs import find_wavs, read_wav
from features.speech_encoder import SpeechEncoder
from features.store import try_to_read
from features.text import TextEncoder, _find_vocabulary
from loss import Loss, Outputs
from metric import AFFECT, HEADINGS
from training.engine import NonFinite, to_arrays
from training.learnt import add_learnt, learnt_text
from utils import InputError

Encoder = TextEncoder | SpeechEncoder
Inputs = dict[str, Tensor | Path]  # by id the tokens of a text, int64, or the path of a wav


def read_inputs(encoder: Encoder, table: pd.DataFrame, data_path: Path, audio_path: Path | None) -> Inputs:
    """The inputs of a table's utterances; for a speech encoder, of those with a usable wav."""
    if encoder.kind == "text":
        if not table["text"].any():
            raise InputError(f"{data_path}: the tables have no text to fine-tune a text encoder on")
        tokens = {text: encoder.tokenizer.encode(text) for text in table["text"].unique()}
        encoder._check_pieces(table["text"], tokens, show=True)
        return {segment: torch.tensor(tokens[text]) for segment, text in zip(table["id"], table["text"], strict=True)}
    wavs = find_wavs(data_path, audio_path)
    paths = [(segment, wavs[segment]) for segment in table["id"] if segment in wavs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waves = pool.map(lambda found: try_to_read(found[1], encoder.rate), paths)
        looked = tqdm(zip(paths, waves, strict=True), "checking wavs", len(paths), unit="wav")
        return dict(found for found, wave in looked if not isinstance(wave, InputError))


def examples(table: pd.DataFrame, inputs: Inputs) -> list[tuple[Tensor | Path, Tensor]]:
    """Input and labels of each utterance: the raters' shares, arousal and valence, float32, shape = (9,)."""
    labels = np.column_stack([shares(table), table[[*AFFECT]]]).astype(np.float32)
    return [*zip([inputs[segment] for segment in table["id"]], torch.from_numpy(labels), strict=True)]


def collate(items: Sequence[tuple[Tensor | Path, Tensor]], rate: int | None) -> dict[str, Any]:
    """The arguments of `EmotionModel.forward`; waves are read here, at `rate` Hz, the central 10 s of a longer one."""

    def centre(path: Path) -> np.ndarray:
        wave, n = read_wav(path, rate), MAX_SECONDS * rate
        return wave[max(0, (len(wave) - n) // 2) :][:n]

    inputs = [centre(found) if isinstance(found, Path) else found for found, _ in items]
    return {"labels": torch.stack([labels for _, labels in items]), "inputs": inputs}


class EmotionModel(nn.Module):
    """An encoder with two linear heads over an utterance's embedding: for the emotions, and for arousal and valence.

    The embedding is the same as in preprocessing.py; for a speech encoder, that of the last layer.
    """

    def __init__(self, encoder: Encoder, loss: Loss) -> None:
        super().__init__()
        self.source, self.encoder, self.loss = encoder, encoder.model, loss
        self.emotion, self.affect = (nn.Linear(encoder.shape[-1], n) for n in (N_EMOTIONS, len(AFFECT)))
        if encoder.kind == "speech":
            # No layer drop or masks as in pretraining: masks are longer than short utterances
            self.encoder.layerdrop = self.encoder.config.layerdrop = 0.0
            self.encoder.config.apply_spec_augment = False
            if hasattr(self.encoder, "feature_extractor"):
                self.encoder.feature_extractor._freeze_parameters()  # HubertModel lacks freeze_feature_encoder

    def embed(self, inputs: Sequence[Tensor | np.ndarray]) -> Tensor:
        """Embeddings of B texts (tokens, int64) or waves (float32), shape = (B, dim).

        Waves are encoded one by one: padding would change the group norm of the first convolution.
        """
        if self.source.kind == "speech":
            waves = [np.pad(wave, (0, max(0, self.source.min_samples - len(wave)))) for wave in inputs]
            return torch.stack([self.source._hidden_states(wave)[-1].mean(dim=0) for wave in waves])
        tokens = pad_sequence([*inputs], True, self.source.tokenizer.pad_id)
        mask = pad_sequence([torch.ones_like(ids) for ids in inputs], True)
        hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        return (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def predict(self, embeddings: Tensor) -> Outputs:
        """Log-probabilities of the emotions, arousal and valence of embeddings, in float32 as in `model.MATE`."""
        with torch.autocast(embeddings.device.type, enabled=False):
            emotion = torch.log_softmax(self.emotion(embeddings.float()), dim=1)
            low, high = AFFECT_RANGE
            affect = (high - low) * torch.sigmoid(self.affect(embeddings.float())) + low
        return emotion, affect[:, :1], affect[:, 1:]

    def forward(self, inputs: Sequence[Tensor | np.ndarray], labels: Tensor) -> dict[str, Tensor]:
        """The loss of a batch; labels as of `examples`, shape = (B, 9). Raises `NonFinite`."""
        loss = self.loss(self.predict(self.embed(inputs)), labels.split([N_EMOTIONS, 1, 1], dim=1))
        if not loss.isfinite():
            raise NonFinite("the loss is not finite")
        return {"loss": loss}


@torch.inference_mode()
def test(model: EmotionModel, table: pd.DataFrame, inputs: Inputs) -> dict[str, np.ndarray]:
    """Predictions for each utterance, as of `engine.to_arrays`, from the embeddings of preprocessing.py.

    The embeddings are float32, of waves of full length.
    """
    encoder = model.eval().source
    if encoder.kind == "text":
        embeddings = torch.from_numpy(encoder.embed(table["text"].tolist()))
    else:
        paths = tqdm([inputs[segment] for segment in table["id"]], "testing", unit="utterance")
        embeddings = torch.stack([encoder.embed(read_wav(path, encoder.rate))[-1] for path in paths])
    return to_arrays(model.predict(embeddings.to(model.emotion.weight.device)))


def write_encoder(folder: Path, encoder: Encoder, record: dict[str, Any]) -> None:
    """Write an encoder in the Hub's format: configuration, weights, tokenizer or feature extractor, and a model card.

    Its configuration names the sessions that it was trained on.
    """
    data, kind, config, source = record["data"], encoder.kind, encoder.model.config, encoder.description
    sessions = parse_sessions(data["train_sessions"]) + (record["options"]["valid_split"] or [])
    setattr(config, LEARNT, add_learnt(source[LEARNT], data, sessions))
    if hasattr(config, "random_weights"):
        config.random_weights = False  # they are trained now
    revision = source["revision"] or "main"
    if kind == "speech":
        encoder.extractor.save_pretrained(folder)
    elif config.model_type == "bert" and (vocabulary := _find_vocabulary(source["name"], revision)):
        for path in (vocabulary, vocabulary.with_name("tokenizer_config.json")):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    else:
        transformers.AutoTokenizer.from_pretrained(source["name"], revision=revision).save_pretrained(folder)
    weights = None  # the model's own
    if config.model_type == "whisper":  # AutoModel loads it with a decoder
        weights = {f"encoder.{name}": weight for name, weight in encoder.model.state_dict().items()}
    encoder.model.save_pretrained(folder, state_dict=weights)
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors: for the owner only
    about = {"name": folder.name, "parent": data[f"{kind}_model"], "kind": kind}
    about["learnt"] = learnt_text(config.learnt_sessions)
    template = Path(__file__).with_name("encoder_card.md").read_text("utf-8")
    card = jinja2.Template(template, trim_blocks=True, lstrip_blocks=True).render(record | about, headings=HEADINGS)
    (folder / "README.md").write_text(card, "utf-8")
