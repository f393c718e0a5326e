"""This program against a plain implementation of the published procedure, stage by stage, in one run.

    python benchmark.py                           # a few minutes on two cores, on a synthetic corpus
    python benchmark.py --growth                  # also epochs and memory at 1, 2 and 4 times the corpus
    python benchmark.py --utterances 8222 --profile  # on a GPU

The plain side is written from the procedure's description: librosa loads and torchaudio transforms the eight wavs of a
window anew for every item, in one worker; contiguous float32; the loss is read every step. Both sides take turns, so
that what else the machine does meets both; times are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as main.py does, before torch reads it

import numpy as np
import pandas as pd
import soundfile
import torch
import torchaudio
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from constants import (
    EMOTIONS,
    F_MAX,
    F_MIN,
    FEATURE_DTYPES,
    HOP_LENGTH,
    MAX_SECONDS,
    N_EMOTIONS,
    N_FFT,
    N_MELS,
    N_RATERS,
    PRECISIONS,
    SAMPLE_RATE,
    TEXT_DIM,
)
from corpora.wavs import find_wavs
from dataset import Annotation, Batch, ShuffledBatches, WindowDataset, make_windows, read_annotation, unchanged
from features.log_mel import LogMels, open_store
from loss import make_loss
from model import MATE, ConvBlock
from training import engine
from training.engine import EVALUATION_BATCH, ahead, evaluate, has_bfloat16, make_optimizer, train_one_epoch
from utils import InputError, gpu, keep_freed_memory, number, pick_device, run_command

WS = 8
N_SAMPLES = MAX_SECONDS * SAMPLE_RATE
LOSS = make_loss("normal", 0.66, 0.99, np.ones(N_EMOTIONS, dtype=int))


# Corpora


class Corpus(NamedTuple):
    """Utterances with their wavs, random sentence embeddings, and where their log-mels may be kept."""

    annotation: Annotation
    wavs: dict[str, Path]
    text: Tensor
    features: Path


def make_corpus(folder: Path, n: int, seed: int = 0) -> None:
    """`n` utterances of 2 to 6.4 s of shaped noise, in dialogues of 50, with their wavs and a `df_speaker.csv`."""
    rng = np.random.default_rng(seed)
    (folder / "wav").mkdir(parents=True)
    rows = []
    for i in range(n):
        segment = f"Sess{i // 500 + 1:02d}_script{i // 50 % 10:02d}_{'FM'[i % 2]}{i % 50:03d}"
        seconds = np.arange(int(rng.uniform(2, 6.4) * SAMPLE_RATE)) / SAMPLE_RATE
        syllables = np.sin(2 * np.pi * rng.uniform(1, 3) * seconds) ** 2
        wave = syllables * np.sin(np.cumsum(rng.normal(0.1, 0.3, len(seconds)))) / 2
        soundfile.write(folder / "wav" / f"{segment}.wav", wave, SAMPLE_RATE, subtype="PCM_16")
        votes = rng.choice(EMOTIONS, N_RATERS).tolist()
        rows.append([segment, max(votes, key=votes.count), *rng.uniform(1, 5, 2), *votes])
    raters = [f"Emotion.{rater}" for rater in range(1, N_RATERS + 1)]
    table = pd.DataFrame(rows, columns=["Segment ID", "Emotion", "Arousal", "Valence", *raters])
    table.to_csv(folder / "df_speaker.csv", index=False)


def read_corpus(folder: Path, features: Path) -> Corpus:
    """The speakers' utterances of a pre-processed corpus that have a wav."""
    annotation, (wavs, where) = read_annotation(folder / "df_speaker.csv"), find_wavs(folder)
    there = np.array([segment in wavs for segment in annotation.ids])
    if not there.any():
        raise InputError(f"{where}: has no wav of {folder / 'df_speaker.csv'}")
    ids = [segment for segment in annotation.ids if segment in wavs]
    arrays = {name: value[there] for name, value in vars(annotation).items() if name != "ids"}
    text = torch.randn(len(ids), TEXT_DIM, generator=torch.Generator().manual_seed(0))
    return Corpus(Annotation(ids, **arrays), {segment: wavs[segment] for segment in ids}, text, features)


# The plain side


class PlainWindows(Dataset):
    """Windows whose wavs are loaded and transformed anew for every item."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus, self.windows = corpus, make_windows(corpus.annotation.dialogue, WS)
        self.mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP_LENGTH, f_min=F_MIN, f_max=F_MAX, n_mels=N_MELS, power=2.0
        )

    def log_mel(self, utterance: int) -> Tensor:
        """Standardised log-mel of the (central) 10 s, shape = (229, 313)."""
        import librosa

        wave, _ = librosa.load(self.corpus.wavs[self.corpus.annotation.ids[utterance]], sr=SAMPLE_RATE)
        start = max(0, (len(wave) - N_SAMPLES) // 2)
        wave = np.pad(wave[start : start + N_SAMPLES], (0, max(0, N_SAMPLES - len(wave))))
        decibels = torchaudio.functional.amplitude_to_DB(self.mel(torch.from_numpy(wave)), 10, 1e-10, 0)
        return nn.functional.batch_norm(decibels[None, None], None, None, training=True, eps=1e-5)[0, 0]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        audio, text = torch.zeros(WS, 1, N_MELS, N_SAMPLES // HOP_LENGTH + 1), torch.zeros(WS, 1, TEXT_DIM)
        for place, utterance in enumerate(self.windows[index]):
            if utterance >= 0:
                audio[place, 0], text[place, 0] = self.log_mel(utterance), self.corpus.text[utterance]
        a = self.corpus.annotation
        return audio, text, *(torch.from_numpy(np.atleast_1d(v[index])) for v in (a.soft, a.arousal, a.valence))


class PlainBlock(ConvBlock):
    """The published order of layers, with pooling by 1 where there is none."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(nn.functional.relu(self.bn(self.conv(x))), self.pool)


def plain_model(model: MATE) -> MATE:
    """A MATE with the same weights whose CNN is torch's own layers on the whole batch."""
    plain = MATE()
    sizes = [(b.conv.in_channels, b.conv.out_channels, b.conv.kernel_size[0], b.pool) for b in model.audio_embedding]
    plain.audio_embedding = nn.Sequential(*(PlainBlock(*size) for size in sizes))
    plain.load_state_dict(model.state_dict())
    return plain.to(next(model.parameters()).device)


def plain_loader(corpus: Corpus, windows: int, batch_size: int, shuffle: bool) -> DataLoader:
    data = torch.utils.data.Subset(PlainWindows(corpus), range(windows))
    return DataLoader(data, batch_size, shuffle=shuffle, num_workers=1, drop_last=shuffle)


def plain_steps(model: MATE, optimizer: torch.optim.Optimizer, batches: Iterable, device: torch.device) -> int:
    model.train()
    windows = 0
    for audio, text, *target in batches:
        prediction = model(audio.to(device), text.to(device), log=True)
        loss = LOSS(prediction, tuple(t.to(device) for t in target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        windows += len(audio)
    return windows


def plain_evaluate(model: MATE, batches: Iterable, device: torch.device) -> Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(audio.to(device), text.to(device))[0].cpu() for audio, text, *_ in batches])


# Measuring


class Sides(NamedTuple):
    """Seconds of both sides in each round."""

    plain: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """Median of ours over plain, round by round: what slows a round slows both."""
        return statistics.median(o / p for o, p in zip(self.ours, self.plain, strict=True))


Work = Callable[[], int | tuple[int, float]]


def take_turns(plain: Work, ours: Work, rounds: int, warm_up: bool = True) -> Sides:
    """Seconds of functions that do their work and say how many windows (or utterances) it was, or that and its time."""
    sides = Sides([], [])
    for turn in range(-1 if warm_up else 0, rounds):
        for function, seconds in ((plain, sides.plain), (ours, sides.ours)):
            start = time.perf_counter()
            done = function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            done, took = done if isinstance(done, tuple) else (done, time.perf_counter() - start)
            if turn >= 0:
                seconds.append(took / done)
    return sides


class Waiting:
    """Takes the place of `engine.ahead` and adds up for how many seconds the batches were waited for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, batches: DataLoader, device: torch.device) -> Iterator:
        batches = ahead(batches, device)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def matrix_peak(device: torch.device, dtype: torch.dtype, n: int = 2048) -> float:
    """GFLOP/s of the best of five matrix products."""
    a = torch.randn(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def step_gflop(model: MATE) -> float:
    """GFLOP of a training step a window: products of convolutions, linear layers and the LSTM."""
    from torch.utils.flop_counter import FlopCounterMode

    plain = plain_model(model).cpu()
    audio = torch.zeros(2, WS, N_MELS, N_SAMPLES // HOP_LENGTH + 1)
    with FlopCounterMode(display=False) as counter:
        prediction = plain(audio, torch.zeros(2, WS, TEXT_DIM), log=True)
        sum(p.sum() for p in prediction).backward()
    return counter.get_total_flops() / 2 / 1e9


def features(corpus: Corpus, args: argparse.Namespace) -> LogMels:
    dtype = getattr(torch, args.feature_dtype)
    return LogMels(open_store(corpus.features, corpus.wavs, corpus.annotation.ids, SAMPLE_RATE, dtype, quiet=True))


class Ours:
    """This program's side, as main.py puts it together."""

    def __init__(self, corpus: Corpus, args: argparse.Namespace) -> None:
        self.device = device = pick_device(args.gpu_id)
        self.evaluates_in_bfloat16 = args.precision == "bf16"
        self.bfloat16 = args.precision == "bf16" or (args.precision == "auto" and has_bfloat16(device))
        log_mels, text = features(corpus, args), corpus.text
        if device.type == "cuda":
            log_mels, text = log_mels.to(device), text.to(device)
        n = np.arange(len(corpus.annotation.ids))
        arguments = (corpus.annotation, n, WS, log_mels, text)
        self.train_set = WindowDataset(*arguments, True, 0, torch.bfloat16 if self.bfloat16 else torch.float32)
        self.test_set = WindowDataset(*arguments, False)
        torch.manual_seed(0)
        self.model = MATE()
        self.model.audio_embedding.to(memory_format=torch.channels_last)
        self.model.to(device)
        self.optimizer = make_optimizer("adam", self.model, 1e-3, 0.0, 1e-5)
        self.batch_size = args.batch_size

    def batch(self, indices: list[int]) -> Batch:
        return self.train_set.__getitems__(indices)

    def train(self, batches: DataLoader) -> int:
        train_one_epoch(self.model, batches, LOSS, self.optimizer, self.device, bfloat16=self.bfloat16)
        return len(batches) * self.batch_size

    def epoch(self) -> DataLoader:
        order = ShuffledBatches(len(self.train_set), self.batch_size, torch.Generator().manual_seed(0))
        return DataLoader(self.train_set, batch_sampler=order, collate_fn=unchanged)

    def evaluate(self, windows: int) -> np.ndarray:
        data = torch.utils.data.Subset(self.test_set, range(windows))
        loader = DataLoader(data, EVALUATION_BATCH, collate_fn=unchanged)
        return evaluate(self.model, loader, self.device, bfloat16=self.evaluates_in_bfloat16)[0]["emotion_pred"]


def differences(corpus: Corpus, args: argparse.Namespace, utterances: int = 8) -> tuple[float, float]:
    """The largest differences between the sides: of exact log-mels, and of the probabilities of some windows."""
    plain, ours = PlainWindows(corpus), Ours(corpus, args)
    with torch.no_grad():  # fresh weights give about the same probabilities to any input
        for p in ours.model.parameters():
            if p.dim() > 1:
                nn.init.kaiming_normal_(p)
    numbers = torch.arange(min(utterances, len(corpus.annotation.ids)))
    exact = LogMels.from_waves([corpus.wavs[corpus.annotation.ids[i]] for i in numbers]).spectrograms(numbers)
    of_log_mels = max((plain.log_mel(i) - exact[i]).abs().max().item() for i in numbers.tolist())
    loader = plain_loader(corpus, len(numbers), len(numbers), shuffle=False)
    expected = plain_evaluate(plain_model(ours.model), loader, ours.device)
    return of_log_mels, float(np.abs(ours.evaluate(len(numbers)) - expected.numpy()).max())


def compare(corpus: Corpus, args: argparse.Namespace) -> dict[str, Sides | float]:
    """Both sides' seconds for an utterance (feature build) or a window (the other stages), and what goes with them."""
    device, size = pick_device(args.gpu_id), args.batch_size
    n = len(corpus.annotation.ids)
    found: dict[str, Sides | float] = {}
    plain_set = PlainWindows(corpus)
    plain_set.log_mel(0)  # librosa compiles and imports at the first call

    def build_plain() -> int:
        return len([plain_set.log_mel(utterance) for utterance in range(min(n, 32))])

    def build_ours() -> int:
        for path in corpus.features.glob("*"):
            path.unlink()
        features(corpus, args)
        return n

    found["feature build"] = take_turns(build_plain, build_ours, args.rounds)
    found["store, MB"] = sum(path.stat().st_size for path in corpus.features.glob("*")) / 1e6
    ours = Ours(corpus, args)
    found["log-mels differ by"], found["probabilities differ by"] = differences(corpus, args)

    some = np.random.default_rng(0).permutation(n)[:size].tolist()
    found["batch assembly"] = take_turns(
        lambda: len([plain_set[index] for index in some[:4]]), lambda: len(ours.batch(some).text), args.rounds
    )

    plain = plain_model(ours.model)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, weight_decay=1e-5)
    batch = ours.batch(some)
    plain_batch = [t.float().contiguous() for t in batch]
    found["training step"] = take_turns(
        lambda: plain_steps(plain, optimizer, [plain_batch], device),
        lambda: ours.train(DataLoader([batch], batch_size=None, collate_fn=unchanged)),
        args.rounds,
    )
    found["evaluation"] = take_turns(
        lambda: len(plain_evaluate(plain, plain_loader(corpus, size, size, shuffle=False), device)),
        lambda: len(ours.evaluate(n)),
        args.rounds,
    )

    def plain_epoch() -> tuple[int, float]:
        """Without the wait for its first batch, which an epoch of 128 batches would not notice."""
        batches = iter(plain_loader(corpus, 2 * size, size, shuffle=True))
        first = next(batches)
        start = time.perf_counter()
        return plain_steps(plain, optimizer, chain([first], batches), device), time.perf_counter() - start

    waiting = Waiting()
    engine.ahead = waiting
    found["whole epoch"] = take_turns(plain_epoch, lambda: ours.train(ours.epoch()), args.rounds, warm_up=False)
    engine.ahead = ahead
    found["waiting for data"] = waiting.seconds / sum(found["whole epoch"].ours) / (n // size * size)
    found["GFLOP"] = step_gflop(ours.model)
    for dtype in (torch.float32, torch.bfloat16):
        found[f"peak {str(dtype).removeprefix('torch.')}"] = matrix_peak(device, dtype)
    return found


def alone(args: argparse.Namespace, corpus: Path, features: Path, side: str) -> dict[str, float]:
    """What `one_side` finds in a process of its own, whose memory is that side's alone."""
    options = ["--data_path", str(corpus), "--features", str(features), "--side", side]
    options += ["--batch_size", str(args.batch_size)]
    options += ["--precision", args.precision, "--feature_dtype", args.feature_dtype]
    options += ["--gpu_id", args.gpu_id] if args.gpu_id is not None else []
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> float:
    """Peak resident memory of this process, GB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one
        (kilobytes,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def one_side(corpus: Corpus, args: argparse.Namespace) -> dict[str, float]:
    """Seconds a window of the second of two epochs of ours, and the peak memory, GB; of the plain side two steps'."""
    device, size = pick_device(args.gpu_id), args.batch_size
    ours = Ours(corpus, args)
    seconds = 0.0
    if args.side == "plain":
        plain = plain_model(ours.model)
        optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, weight_decay=1e-5)
        batch = [t.float().contiguous() for t in ours.batch(list(range(size)))]
        plain_steps(plain, optimizer, [batch, batch], device)
    else:
        for _ in range(2):
            start = time.perf_counter()
            done = ours.train(ours.epoch())
            seconds = (time.perf_counter() - start) / done
    return {"seconds": seconds, "memory": peak_memory()}


# The command line


def report(found: dict[str, Sides | float], memory: dict[str, dict[str, float]], device: torch.device) -> str:
    """The table of `compare` and the lines below it."""
    lines = [f"{'seconds a window':24}{'plain':>12}{'ours':>12}{'ratio':>8}"]
    for name, value in found.items():
        if isinstance(value, Sides):
            medians = [statistics.median(side) for side in value]
            unit = " (an utterance)" if name == "feature build" else ""
            lines.append(f"{name + unit:24}{medians[0]:12.5f}{medians[1]:12.5f}{value.ratio:8.3f}")
    step = found["training step"]
    achieved = [found["GFLOP"] / statistics.median(side) for side in step]
    lines += [
        f"{'peak memory, GB':24}{memory['plain']['memory']:12.2f}{memory['ours']['memory']:12.2f}"
        f"{memory['ours']['memory'] / memory['plain']['memory']:8.3f}",
        f"work of a step: {found['GFLOP']:.1f} GFLOP a window; {achieved[0]:.0f} and {achieved[1]:.0f} GFLOP/s, "
        f"matrix products {found['peak float32']:.0f} (float32) and {found['peak bfloat16']:.0f} (bfloat16)",
        f"waiting for data: {found['waiting for data']:.1%} of an epoch; feature store {found['store, MB']:.1f} MB",
        f"the sides differ by at most {found['log-mels differ by']:.1e} in a log-mel (kept in float32) and "
        f"{found['probabilities differ by']:.1e} in a probability",
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads",
    ]
    return "\n".join(lines)


def growth(args: argparse.Namespace, folder: Path) -> str:
    """A table of the second epoch's seconds and the peak memory at 1, 2 and 4 times the corpus."""
    lines = [f"{'windows':>8}{'s an epoch':>12}{'s a window':>12}{'peak, GB':>10}{'store, GB':>11}"]
    for times in (1, 2, 4):
        corpus, features = folder / f"corpus{times}", folder / f"features{times}"
        make_corpus(corpus, args.utterances * times)
        found = alone(args, corpus, features, "ours")
        size = sum(path.stat().st_size for path in features.glob("*")) / 1e9
        n = args.utterances * times // args.batch_size * args.batch_size
        lines.append(f"{n:8}{found['seconds'] * n:12.2f}{found['seconds']:12.4f}{found['memory']:10.2f}{size:11.3f}")
    return "\n".join(lines)


def profile(corpus: Corpus, args: argparse.Namespace) -> str:
    """The five kernels (on a CPU, operators) that most of an epoch's time goes to."""
    from torch.profiler import ProfilerActivity

    ours = Ours(corpus, args)
    ours.train(ours.epoch())
    on_gpu = ours.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        ours.train(ours.epoch())
    column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, column))
    whole = sum(getattr(event, column) for event in events)
    return "\n".join(f"{getattr(event, column) / whole:6.1%}  {event.key[:100]}" for event in events[:5])


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Compare this program with a plain implementation of the published procedure.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = parser.add_argument
    option("--data_path", type=Path, help="a pre-processed corpus instead of a synthetic one; its store is left alone")
    option("--utterances", type=number(int, 2), default=192, help="of the synthetic corpus, and windows of an epoch")
    option("--batch_size", type=number(int, 2), default=64, help="windows in a batch")
    option("--rounds", type=number(int, 1), default=3, help="in which the sides take turns")
    option("--precision", choices=PRECISIONS, default="auto", help="as of main.py")
    option("--feature_dtype", choices=FEATURE_DTYPES, default="float16", help="as of main.py")
    option("--gpu_id", type=gpu, help="a GPU's number, or cpu; without it the best there is")
    option("--growth", action="store_true", help="also an epoch and its memory at 1, 2 and 4 times the corpus")
    option("--profile", action="store_true", help="also the operators or kernels that an epoch's time goes to")
    option("--side", choices=("plain", "ours"), help=argparse.SUPPRESS)  # this and the next: see `alone`
    option("--features", type=Path, help=argparse.SUPPRESS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Make or read the corpus, compare, and print."""
    keep_freed_memory()
    if args.side:
        print(json.dumps(one_side(read_corpus(args.data_path, args.features), args)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder, store = args.data_path or Path(scratch, "corpus"), Path(scratch, "features")
        if args.data_path is None:
            make_corpus(folder, args.utterances)
        corpus = read_corpus(folder, store)
        n = len(corpus.annotation.ids)
        if n < 2 * args.batch_size:
            raise InputError(f"--batch_size {args.batch_size}: two batches are needed, the corpus has {n} windows")
        found = compare(corpus, args)
        memory = {side: alone(args, folder, store, side) for side in ("plain", "ours")}
        print(report(found, memory, pick_device(args.gpu_id)))
        if args.profile:
            print(profile(corpus, args))
        if args.growth:
            print(growth(args, Path(scratch)))


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = get_args_parser().parse_args(argv)
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
