"""Speech encoder: wav2vec2, HuBERT, WavLM, data2vec-audio or Whisper's encoder, and its embeddings of utterances."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor

from features.encoders import EXAMPLES
from features.store import try_to_read
from features.text import describe, load_model, loading
from utils import InputError, expand_home

PREPROCESSOR = "preprocessor_config.json"
FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "whisper")
MAX_PART_SECONDS = 120  # a longer wave is embedded in parts, as the memory of attention grows with the square
FIRST_FRAME = 400  # samples; a shorter wave is padded with zeros
UNUSED = ("masked_spec_embed", "decoder.")  # a weight for training, and Whisper's decoder


class SpeechEncoder:
    """A pretrained encoder with its feature extractor, from `AutoModel` and `AutoFeatureExtractor`.

    shape : (layers, dim) of an embedding; the first layer is the input of the transformer
    rate : sampling rate of its input, Hz
    description : see `text.describe`; the fingerprint covers weights and settings
    """

    kind = "speech"

    def __init__(self, name: str, model: transformers.PreTrainedModel, extractor: object) -> None:
        self.is_whisper = model.config.model_type == "whisper"
        self.model = (model.get_encoder() if self.is_whisper else model).eval()
        self.extractor, self.rate, config = extractor, extractor.sampling_rate, self.model.config
        self.shape = (config.num_hidden_layers + 1, config.hidden_size)
        self.description = describe(name, self.model, _settings(config, extractor), UNUSED)
        self.max_samples = extractor.n_samples if self.is_whisper else MAX_PART_SECONDS * self.rate
        self.min_samples = 1 if self.is_whisper else FIRST_FRAME

    @torch.inference_mode()
    def embed(self, wave: np.ndarray) -> Tensor:
        """The embedding of an utterance: for each layer, the mean of the hidden states over the frames.

        `wave` is float32 at `rate` Hz, shape = (samples,), of any length. The result is float32 on the CPU, shape =
        (layers, dim).
        """
        total, n_frames = torch.zeros(self.shape, device=self.model.device), 0
        for part in np.array_split(wave, max(1, math.ceil(len(wave) / self.max_samples))):
            states = self._hidden_states(np.pad(part, (0, max(0, self.min_samples - len(part)))))
            total += states.sum(dim=1)
            n_frames += states.shape[1]
        return (total / n_frames).cpu()

    def embed_all(self, paths: Sequence[Path]) -> Iterator[Tensor | InputError]:
        """The embedding of each wav as stored, float16, or the error of an unusable wav; a thread reads ahead."""
        limit = torch.finfo(torch.float16).max
        with ThreadPoolExecutor(1) as pool:
            for wave in pool.map(partial(try_to_read, sr=self.rate), paths):
                yield wave if isinstance(wave, InputError) else self.embed(wave).clamp(-limit, limit).half()

    def _hidden_states(self, wave: np.ndarray) -> Tensor:
        """Hidden states of a wave of at most `max_samples`, shape = (layers, frames, dim)."""
        inputs = self.extractor(wave, sampling_rate=self.rate, return_tensors="pt")
        values = inputs["input_features" if self.is_whisper else "input_values"].to(self.model.device)
        states = torch.cat(self.model(values, output_hidden_states=True).hidden_states)
        if not self.is_whisper:
            return states
        # Whisper pads each wave to 30 s
        n_frames = len(wave) * self.model.config.max_source_positions / self.extractor.n_samples
        return states[:, : max(1, math.ceil(n_frames))]


def _settings(config: transformers.PretrainedConfig, extractor: object) -> bytes:
    """The settings that embeddings depend on."""
    passing = ("transformers_version", "architectures", "dtype", "torch_dtype")
    settings = [
        {name: value for name, value in part.to_dict().items() if not name.startswith("_") and name not in passing}
        for part in (config, extractor)
    ]
    return json.dumps(settings, sort_keys=True, default=str).encode()


def load_speech_encoder(name_or_folder: str, device: torch.device | str = "cpu") -> SpeechEncoder:
    """Load a speech encoder (evaluation mode, float32) from a folder or by its name on the Hugging Face Hub.

    Raises `InputError` if it cannot be loaded, is not one of `FAMILIES`, or weights are missing.
    """
    name_or_folder, hub = expand_home(name_or_folder), {"trust_remote_code": False}
    with loading(name_or_folder, "speech encoder", EXAMPLES["speech"]):
        config = transformers.AutoConfig.from_pretrained(name_or_folder, **hub)
        if config.model_type not in FAMILIES:
            raise ValueError(f"model type is {config.model_type}, expected {', '.join(FAMILIES)}")
        model = load_model(name_or_folder, UNUSED, **hub)
        try:
            extractor = transformers.AutoFeatureExtractor.from_pretrained(name_or_folder, **hub)
        except (OSError, ValueError):
            if config.model_type == "whisper" or Path(name_or_folder, PREPROCESSOR).is_file():
                raise
            extractor = transformers.Wav2Vec2FeatureExtractor()
            warnings.warn(f"{name_or_folder}: no {PREPROCESSOR}; audio is scaled to mean 0, variance 1", stacklevel=2)
    return SpeechEncoder(name_or_folder, model.to(device), extractor)
