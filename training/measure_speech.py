"""Measuring speech: pre-processing against its encoder alone, and training on embeddings against training the CNN."""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from constants import N_EMOTIONS, N_MELS, SAMPLE_RATE, n_frames
from corpora.wavs import read_wav
from dataset import Batch
from features.speech import duration, fill, make_batches, open_store
from features.speech_encoder import SpeechEncoder
from loss import make_loss
from training.engine import build_model, make_optimizer, train_step, trains_in_bfloat16
from training.measure import Sides, take_turns
from training.options import parse_args
from training.utilisation import step_flop

WS = 8


def measure_speech(wavs: dict[str, Path], device: torch.device, batch_size: int, rounds: int) -> str:
    """A table of both comparisons, with a randomly initialised wav2vec2 of base size; wavs by segment id."""
    build = measure_embedding(wavs, device, batch_size, rounds)
    step, work = measure_training(device, batch_size, rounds)
    lines = [f"{'':34}{'seconds':>12}{'against':>12}{'ratio':>8}"]
    for name, sides in (
        ("pre-processing, encoder alone", build),
        ("training step, CNN and encoder", Sides(step.ours, step.plain)),
    ):
        ours, plain = statistics.median(sides.ours), statistics.median(sides.plain)
        lines.append(f"{name:34}{ours:12.5f}{plain:12.5f}{sides.ratio:8.2f}")
    lines.append(f"{'GFLOP a window of that step':34}{work[0]:12.5f}{work[1]:12.5f}{work[0] / work[1]:8.2f}")
    return "\n".join(lines)


def measure_embedding(wavs: dict[str, Path], device: torch.device, batch_size: int, rounds: int) -> Sides:
    """Seconds an utterance: the encoder alone on padded batches that are ready, and from wavs to the store."""
    import transformers

    torch.manual_seed(0)
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).to(device).eval()
    seconds = {segment: duration(path) for segment, path in wavs.items()}
    waves = [[read_wav(wavs[s]) for s in batch] for batch in make_batches(seconds, batch_size)]
    batches = [pad_sequence([torch.from_numpy(wave) for wave in batch], batch_first=True).to(device) for batch in waves]
    encoder = SpeechEncoder(
        "base", transformers.Wav2Vec2Model(model.config).to(device), transformers.Wav2Vec2FeatureExtractor()
    )
    described = {"name": "base", "layers": encoder.layers, "dimension": encoder.dimension, "fingerprint": ""}

    @torch.inference_mode()
    def alone() -> int:
        for batch in batches:
            model(batch, output_hidden_states=True)
        return len(wavs)

    def ours() -> int:
        with TemporaryDirectory() as folder:
            fill(open_store(Path(folder), "speech", described, wavs), encoder, batch_size)
        return len(wavs)

    return take_turns(alone, ours, rounds, device)


def measure_training(device: torch.device, batch_size: int, rounds: int) -> tuple[Sides, list[float]]:
    """Seconds a window of a training step with the CNN and with embeddings of base size, the rest being the same.

    With the GFLOP a window of both; the LSTM and the heads, which both have, are nearly all of the second one's.
    """
    loss = make_loss("normal", 0.66, 0.99, np.ones(N_EMOTIONS, dtype=int))
    bfloat16 = trains_in_bfloat16("auto", device)
    work: list[float] = []

    def step(audio: str, shape: tuple[int, int]):
        options, _ = parse_args(["--audio", audio])
        model = build_model(options, speech_shape=shape).to(device).train()
        work.append(step_flop(model, SAMPLE_RATE) / 1e9)
        optimizer = make_optimizer("adam", model, 1e-3, 0.0, 1e-5)
        inputs = torch.randn(batch_size, WS, *shape)
        if audio == "cnn":
            inputs = inputs.to(torch.bfloat16 if bfloat16 else torch.float32, memory_format=torch.channels_last)
        ratings = torch.full((batch_size, 1), 3.0)
        emotion = torch.full((batch_size, N_EMOTIONS), 1 / N_EMOTIONS)
        batch = Batch(inputs, torch.randn(batch_size, WS, options.text_dim), emotion, ratings, ratings).to(device)

        def train() -> int:
            train_step(model, batch, loss, optimizer, bfloat16).item()
            return batch_size

        return train

    cnn, encoder = step("cnn", (N_MELS, n_frames(SAMPLE_RATE))), step("encoder", (13, 768))
    return take_turns(cnn, encoder, rounds, device), work
