"""Speech encoder: wav2vec2, HuBERT, WavLM, data2vec-audio or Whisper's encoder, and its embeddings of utterances.

An utterance's embedding has a row a layer: the mean of the layer's hidden states over the frames that hold its sound.
Utterances of a batch are padded, and get what each gets alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from features.text import check_name, hush_libraries, not_loaded
from utils import InputError, encoder_name

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "whisper")
EXAMPLE = "team-lucid/hubert-base-korean"  # for error messages
MAX_PIECE_SECONDS = 120  # a longer wave goes through in pieces: attention takes memory by the square of the length


class Piece(NamedTuple):
    """What the model takes of an utterance, or of a part of one that is too long for it.

    values : float32, samples (shape = (samples,)) or Whisper's log-mel
    frames : how many of the model's frames hold sound
    """

    values: Tensor
    frames: int


class RowByRow(nn.Module):
    """A layer of the model that padding would leak into, applied to each row of a padded batch without its padding.

    Group norm takes its statistics over time, and data2vec-audio's positions are convolutions one after the other.

    Parameters
    ----------
    layer : takes shape = (B, T) or (B, T, D)
    time : the dimension of its output that counts frames

    Attributes
    ----------
    lengths : of the rows without padding; set before each call
    """

    def __init__(self, layer: nn.Module, time: int) -> None:
        super().__init__()
        self.layer, self.time = layer, time
        self.lengths: list[int] = []

    def forward(self, batch: Tensor) -> Tensor:
        rows = [self.layer(row[None, :n])[0] for row, n in zip(batch, self.lengths, strict=True)]
        return pad_sequence([row.movedim(self.time - 1, 0) for row in rows], batch_first=True).movedim(1, self.time)


class SpeechEncoder:
    """A pretrained encoder with its feature extractor.

    Parameters
    ----------
    name : on the hub, or of its folder
    model, extractor : of `AutoModel` and `AutoFeatureExtractor`

    Attributes
    ----------
    layers, dimension : of an embedding; the first layer is what goes into the transformer
    rate : Hz, of the waves that it takes
    fingerprint : SHA-256 of its weights and settings
    """

    def __init__(self, name: str, model: PreTrainedModel, extractor: object) -> None:
        self.name, self.extractor, config = name, extractor, model.config
        self.is_whisper = config.model_type == "whisper"
        self.model = (model.get_encoder() if self.is_whisper else model).eval()
        self.layers, self.dimension = config.num_hidden_layers + 1, config.hidden_size
        self.rate = extractor.sampling_rate
        self.fingerprint = fingerprint(self.model, extractor)
        self.max_samples = extractor.n_samples if self.is_whisper else MAX_PIECE_SECONDS * self.rate
        self.convolutions = [] if self.is_whisper else list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.min_samples = 1  # what a first frame needs
        for kernel, stride in reversed(self.convolutions):
            self.min_samples = (self.min_samples - 1) * stride + kernel
        self.waves = self.positions = None  # the layers that work row by row
        if getattr(config, "feat_extract_norm", None) == "group":
            self.waves = self.model.feature_extractor = RowByRow(self.model.feature_extractor, time=2)
        if config.model_type == "data2vec-audio":
            self.positions = RowByRow(self.model.encoder.pos_conv_embed, time=1)
            self.model.encoder.pos_conv_embed = self.positions

    def frames(self, samples: int) -> int:
        """How many frames the model makes of so many samples, at least one."""
        if self.is_whisper:
            return max(1, math.ceil(samples * self.model.config.max_source_positions / self.extractor.n_samples))
        for kernel, stride in self.convolutions:
            samples = (samples - kernel) // stride + 1
        return samples

    def pieces(self, wave: np.ndarray) -> list[Piece]:
        """What the model takes of a wave: float32 at `rate` Hz, shape = (samples,), all of it, however long."""
        pieces = []
        for part in np.array_split(wave, max(1, math.ceil(len(wave) / self.max_samples))):
            part = np.pad(part, (0, max(0, self.min_samples - len(part))))
            values = self.extractor(part, sampling_rate=self.rate, return_tensors="pt")
            values = values["input_features" if self.is_whisper else "input_values"][0]
            pieces.append(Piece(values, self.frames(len(part))))
        return pieces

    @torch.inference_mode()
    def embed(self, utterances: Sequence[Sequence[Piece]]) -> Tensor:
        """Embeddings of a batch of utterances: float32 on the CPU, shape = (B, layers, dimension)."""
        pieces = [piece for utterance in utterances for piece in utterance]
        frames = torch.tensor([piece.frames for piece in pieces], device=self.model.device)
        states = self.hidden_states([piece.values for piece in pieces], [piece.frames for piece in pieces])
        sounding = torch.arange(states[0].shape[1], device=frames.device) < frames[:, None]
        sums = torch.stack([(state * sounding[:, :, None]).sum(1) for state in states], dim=1).float().cpu()
        counts, split = frames.cpu()[:, None, None], [len(utterance) for utterance in utterances]
        sums, counts = sums.split(split), counts.split(split)
        return torch.stack([s.sum(0) / n.sum(0) for s, n in zip(sums, counts, strict=True)])

    def hidden_states(self, values: list[Tensor], frames: list[int]) -> tuple[Tensor, ...]:
        """The states of each layer, shape = (B, T, dimension), of which `frames` of a row are real."""
        if self.is_whisper:
            return self.model(torch.stack(values).to(self.model.device), output_hidden_states=True).hidden_states
        lengths = [len(v) for v in values]
        if self.waves is not None:
            self.waves.lengths = lengths
        if self.positions is not None:
            self.positions.lengths = frames
        batch = pad_sequence(values, batch_first=True).to(self.model.device)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long().to(self.model.device)
        with warnings.catch_warnings():  # WavLM's masks are of two types
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask and attn_mask")
            return self.model(batch, attention_mask=mask, output_hidden_states=True).hidden_states


def fingerprint(model: PreTrainedModel, extractor: object) -> str:
    """SHA-256, in hex, of all that an embedding depends on besides the wave."""
    passing = ("transformers_version", "architectures", "dtype", "torch_dtype")
    settings = [
        {name: value for name, value in one.to_dict().items() if not name.startswith("_") and name not in passing}
        for one in (model.config, extractor)
    ]
    content = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        if name != "masked_spec_embed":  # for training; drawn at random if the file has none
            content.update(name.encode())
            content.update(tensor.detach().cpu().contiguous().view(-1).numpy().data)
    return content.hexdigest()


def load_speech_encoder(name_or_path: str) -> SpeechEncoder:
    """The speech encoder (evaluation mode, float32) of a folder or of a name on the hub.

    Raises
    ------
    InputError : it cannot be had, is of none of `FAMILIES`, or its file lacks weights
    """
    check_name(name_or_path, "speech encoder", EXAMPLE)
    import transformers

    hush_libraries()
    try:
        config = transformers.AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
        if config.model_type not in FAMILIES:
            raise InputError(
                f"speech encoder {name_or_path}: of the family {config.model_type}, expected {', '.join(FAMILIES)}"
            )
        model, loading = transformers.AutoModel.from_pretrained(
            name_or_path, trust_remote_code=False, dtype="float32", output_loading_info=True
        )
        absent = [n for n in loading["missing_keys"] if n != "masked_spec_embed" and not n.startswith("decoder.")]
        if absent:
            raise InputError(f"speech encoder {name_or_path}: its file lacks {min(absent)}; is it whole?")
        extractor = load_extractor(name_or_path, config)
    except InputError:
        raise
    except Exception as error:  # readers raise almost anything for damaged files and other models
        raise not_loaded(name_or_path, error, "speech encoder") from error
    return SpeechEncoder(encoder_name(name_or_path), model, extractor)


def load_extractor(name_or_path: str, config: PretrainedConfig) -> object:
    """The encoder's feature extractor; without its file wav2vec2's own, which standardises each wave."""
    import transformers

    try:
        return transformers.AutoFeatureExtractor.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError):
        if config.model_type == "whisper":
            raise
        warnings.warn(
            f"speech encoder {name_or_path}: no preprocessor_config.json, waves are standardised", stacklevel=2
        )
        return transformers.Wav2Vec2FeatureExtractor()
