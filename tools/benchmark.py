"""This program against a plain implementation of the published procedure, stage by stage, on a CPU or a GPU.

    python -m tools.benchmark                                   # on the sample that make train makes, some minutes
    python -m tools.benchmark --data_path data/KEMDy19 --utterances 8222 --gpu_id 0

The plain side is written from the description of the procedure: one worker loads and transforms the eight wavs of a
window for every item, tensors are contiguous float32, and the loss is read after every step. The sides take turns.
"""

from __future__ import annotations

import training  # isort: skip  (sets what torch reads when it is imported)  # noqa: F401

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from constants import N_EMOTIONS, PRECISIONS, SAMPLE_RATE
from corpora.utterances import read_utterances, shares
from corpora.wavs import find_wavs
from dataset import Batch, WindowDataset, load_features, make_windows, prefetch, shuffled_batches
from features.log_mel import LogMels, compute_log_mels
from loss import make_loss
from model import MATE, ConvBlock
from training.devices import device_name, pick_device, set_up_process
from training.engine import make_optimizer, predict_all, to_arrays, to_device, train_step, training_dtype
from training.options import ArgumentParser, file_path, gpu, make_options, number
from utils import InputError, run_command

WS = 8
LOSS = make_loss("normal", 0.66, 0.99, np.ones(N_EMOTIONS, dtype=int))
Stage = Callable[[], int]  # does its work and returns the number of windows, or of the utterances of log-mels


class PlainWindows(Dataset):
    """Windows whose wavs are loaded and transformed for every item; `text` is float32, shape = (N, 768)."""

    def __init__(self, table: pd.DataFrame, paths: list[Path], text: Tensor) -> None:
        self.paths, self.text, self.windows = paths, text, make_windows(table["dialogue"].to_numpy(), WS)
        self.targets = [
            torch.tensor(shares(table)),
            *torch.tensor(table[["arousal", "valence"]].to_numpy()).T[..., None],
        ]
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


def plain_stages(windows: PlainWindows, model: MATE, batch: Batch, device: torch.device) -> dict[str, Stage]:
    """The stages of the plain side, which trains a copy of `model`."""
    size, plain = len(batch.text), MATE()
    for block in plain.audio_embedding:
        block.__class__ = PlainBlock
    plain.load_state_dict(model.state_dict())
    plain.to(device)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, weight_decay=1e-5)
    loaded = [part.float().contiguous() for part in (batch.audio, batch.text, *batch.target)]

    def run(batches: Iterable[list[Tensor]], learning: bool = True) -> int:
        plain.train(learning)
        n = 0
        for audio, text, *target in batches:
            with torch.set_grad_enabled(learning):
                prediction = plain(audio.to(device), text.to(device), log=True)
            loss = LOSS(prediction, tuple(part.to(device) for part in target))
            if learning:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss.item()
            n += len(audio)
        return n

    return {
        "log-mels": lambda: len([windows.log_mel(utterance) for utterance in range(min(32, len(windows)))]),
        "training step": lambda: run([loaded]),
        "evaluation": lambda: run(DataLoader(Subset(windows, range(size)), size, num_workers=1), learning=False),
        "epoch": lambda: run(DataLoader(windows, size, shuffle=True, num_workers=1, drop_last=True)),
    }


def our_stages(
    windows: WindowDataset, model: MATE, paths: list[Path], batch: Batch, bfloat16: bool
) -> dict[str, Stage]:
    """The stages of this program, put together as in main.py."""
    size, device, optimizer = len(batch.text), windows.device, make_optimizer("adam", model, 1e-3, 0.0, 1e-5)

    def train(batches: Iterable[Batch]) -> int:
        model.train()
        return size * len([train_step(model, batch, LOSS, optimizer, bfloat16) for batch in batches])

    return {
        "log-mels": lambda: len(LogMels([*compute_log_mels(paths, SAMPLE_RATE)])),
        "training step": lambda: train([batch]),
        "evaluation": lambda: len(to_arrays(predict_all(model, windows, size))["emotion_pred"]),
        "epoch": lambda: train(prefetch(windows, shuffled_batches(len(windows), size, torch.Generator()), device)),
    }


def seconds(stage: Stage, device: torch.device) -> float:
    """Seconds of a stage for each window or utterance."""
    start = time.perf_counter()
    n = stage()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / n


def compare(args: argparse.Namespace) -> None:
    set_up_process()
    torch.manual_seed(0)
    table, wavs = read_utterances(args.data_path, "speaker"), find_wavs(args.data_path)
    table = table[table["id"].isin(wavs.keys())][: args.utterances].reset_index(drop=True)
    if len(table) < 2 * args.batch_size:
        raise InputError(f"{args.data_path}: {len(table)} wavs; expected two batches of --batch_size {args.batch_size}")
    paths, device = [*table["id"].map(wavs)], pick_device(args.gpu_id)
    bfloat16 = training_dtype(args.precision, device) == torch.bfloat16
    options = make_options(data_path=args.data_path)
    features = load_features(options, table).to(device)
    settings = {"soft_targets": True, "crop_seed": 0, "audio_dtype": torch.bfloat16 if bfloat16 else torch.float32}
    windows = WindowDataset(table, features, np.arange(len(table)), WS, **settings)
    model, batch = to_device(MATE.from_options(options, {}), device), windows.batch(torch.arange(args.batch_size))
    ours = our_stages(windows, model, paths, batch, bfloat16)
    plain = plain_stages(PlainWindows(table, paths, features.text.cpu()), model, batch, device)
    print(f"{'seconds a window':20}{'plain':>10}{'here':>10}{'ratio':>8}")
    for stage in plain:
        warm_up = stage != "epoch"
        times = [[seconds(side[stage], device) for side in (plain, ours)] for _ in range(args.rounds + warm_up)]
        medians = np.median(times[warm_up:], axis=0)
        print(f"{stage:20}{medians[0]:10.5f}{medians[1]:10.5f}{medians[1] / medians[0]:8.3f}", flush=True)
    precision = "bfloat16" if bfloat16 else "float32"
    print(f"{device_name(device)}, torch {torch.__version__}, batches of {args.batch_size}, training in {precision}")


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Compare this program with a plain implementation of the published procedure.")
    add = parser.add_argument
    add("--data_path", type=file_path, default=Path("data/sample"), help="pre-processed corpus (default: %(default)s)")
    add("--utterances", type=number(int, 2), default=192, help="of the corpus that are used (default: %(default)s)")
    add("--batch_size", type=number(int, 2), default=64, help="windows in a batch (default: %(default)s)")
    add("--rounds", type=number(int, 1), default=3, help="rounds, whose median counts (default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="auto", help="as of main.py (default: %(default)s)")
    add("--gpu_id", type=gpu, help="as of main.py")
    return parser


if __name__ == "__main__":
    args = get_args_parser().parse_args()
    sys.exit(run_command(lambda: compare(args)))
