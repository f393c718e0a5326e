"""Compare the training time of this program with a plain implementation of the original procedure, on a CPU or GPU.

    python -m tools.benchmark                                   # on the sample from make train, some minutes
    python -m tools.benchmark --data_path data/KEMDy19 --utterances 8222 --gpu_id 0

The plain implementation follows the description of the procedure: one worker loads and transforms the eight wavs of
each window, tensors are contiguous float32, and the loss is read after every step. Both are measured alternately.
"""

from __future__ import annotations

import training  # isort: skip  (sets what torch reads when it is imported)  # noqa: F401

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pandas as pd
import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from constants import N_EMOTIONS
from corpora.utterances import read_utterances, shares
from corpora.wavs import find_wavs
from dataset import WindowDataset, load_features, make_windows, prefetch, shuffled_batches
from loss import make_loss
from model import MATE, ConvBlock
from training.devices import device_name, pick_device, set_up_process
from training.engine import make_optimizer, to_device, train_step, training_dtype
from training.options import ArgumentParser, file_path, gpu, make_options, number
from utils import InputError, run_command

WS, BATCH, ROUNDS = 8, 64, 3  # utterances per window, windows per batch, rounds for the median
LOSS = make_loss("normal", 0.66, 0.99, np.ones(N_EMOTIONS, dtype=int))


class PlainWindows(Dataset):
    """Windows whose wavs are loaded and transformed each time; `text` is float32, shape = (N, 768)."""

    def __init__(self, table: pd.DataFrame, paths: list[Path], text: Tensor) -> None:
        self.paths, self.text, self.windows = paths, text, make_windows(table["dialogue"].to_numpy(), WS)
        affect = torch.tensor(table[["arousal", "valence"]].to_numpy())
        self.targets = [torch.tensor(shares(table)), *affect.T[..., None]]
        settings = {"n_fft": 2048, "hop_length": 512, "f_min": 30.0, "f_max": 8000.0, "n_mels": 229, "power": 2.0}
        self.mel = torchaudio.transforms.MelSpectrogram(16000, **settings)

    def log_mel(self, utterance: int) -> Tensor:
        """Standardised log-mel of the central 10 s, shape = (229, 313)."""
        wave, _ = librosa.load(self.paths[utterance], sr=16000)
        start = max(0, (len(wave) - 160_000) // 2)
        wave = librosa.util.fix_length(wave[start : start + 160_000], size=160_000)
        decibels = torchaudio.functional.amplitude_to_DB(self.mel(torch.from_numpy(wave)), 10, 1e-10, 0)
        return F.batch_norm(decibels[None, None], None, None, training=True, eps=1e-5)[0, 0]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        audio, text = torch.zeros(WS, 1, 229, 313), torch.zeros(WS, 1, 768)
        for place, utterance in enumerate(self.windows[index].tolist()):
            if utterance >= 0:
                audio[place, 0], text[place, 0] = self.log_mel(utterance), self.text[utterance]
        return audio, text, *(target[index] for target in self.targets)


class PlainBlock(ConvBlock):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn(self.conv(x))), self.pool)  # the published order


def plain_step(model: MATE, optimizer: torch.optim.Optimizer, parts: list[Tensor]) -> Tensor:
    """A training step of the plain implementation; returns the loss."""
    device = next(model.parameters()).device
    audio, text, *target = (part.to(device) for part in parts)
    loss = LOSS(model(audio, text, log=True), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return torch.tensor(loss.item())


def seconds(step: Callable[[Any], Tensor], batches: Iterable[Any]) -> float:
    """Training time per window in seconds."""
    start = time.perf_counter()
    losses = torch.stack([step(batch) for batch in batches]).tolist()  # waits for a GPU
    return (time.perf_counter() - start) / (len(losses) * BATCH)


def compare(args: argparse.Namespace) -> None:
    set_up_process()
    table, wavs = read_utterances(args.data_path, "speaker"), find_wavs(args.data_path)
    table = table[table["id"].isin(wavs.keys())][: args.utterances].reset_index(drop=True)
    if len(table) < BATCH:
        raise InputError(f"{args.data_path}: {len(table)} utterances with wavs, expected at least {BATCH} (a batch)")
    device = pick_device(args.gpu_id)
    dtype = training_dtype("auto", device)
    features = load_features(make_options(data_path=args.data_path), table).to(device)
    settings = {"soft_targets": True, "crop_seed": 0, "audio_dtype": dtype}
    windows = WindowDataset(table, features, np.arange(len(table)), WS, **settings)
    plain_windows = PlainWindows(table, [*table["id"].map(wavs)], features.text.cpu())
    loader = DataLoader(plain_windows, BATCH, shuffle=True, num_workers=1, drop_last=True)
    plain_batch, batch = next(iter(loader)), windows.batch(torch.arange(BATCH))
    order = shuffled_batches(len(windows), BATCH, torch.Generator())
    plain, mate = MATE().to(device), to_device(MATE(), device)
    for block in plain.audio_embedding:
        block.__class__ = PlainBlock
    adam = torch.optim.Adam(plain.parameters(), lr=1e-3, weight_decay=1e-5)
    fused = make_optimizer(make_options(), mate)
    steps = partial(plain_step, plain, adam), lambda batch: train_step(mate, batch, LOSS, fused, dtype != torch.float32)
    print(f"{'seconds per window':20}{'plain':>10}{'program':>10}{'ratio':>8}")
    for stage in ("training step", "epoch"):
        times = []
        for _ in range(ROUNDS):
            both = (loader, prefetch(windows, order, device)) if stage == "epoch" else ([plain_batch], [batch])
            times.append([*map(seconds, steps, both)])
        medians = np.median(times, axis=0)
        print(f"{stage:20}{medians[0]:10.5f}{medians[1]:10.5f}{medians[1] / medians[0]:8.3f}", flush=True)
    print(f"{device_name(device)}, torch {torch.__version__}, batch size {BATCH}, program in {dtype}")


def get_args_parser() -> ArgumentParser:
    examples = "-m tools.benchmark", "-m tools.benchmark --utterances 1000 --gpu_id 0"
    parser = ArgumentParser(examples, description="Compare the speed with a plain implementation of the paper.")
    add = parser.add_argument
    add("--data_path", type=file_path, default=Path("data/sample"), help="preprocessed corpus folder")
    add("--utterances", type=number(int, 2), default=192, help="number of utterances to use")
    add("--gpu_id", type=gpu, help="number of the GPU to use, or cpu (default: the first CUDA GPU, or the CPU)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(lambda: compare(get_args_parser().parse_args())))
