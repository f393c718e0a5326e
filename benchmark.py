"""This program against a plain implementation of the published procedure, stage by stage, in one run.

    python benchmark.py                           # a few minutes on two cores, on a synthetic corpus
    python benchmark.py --growth                  # also epochs and memory at 1, 2 and 4 times the corpus
    python benchmark.py --gpu                     # on a GPU: epochs of KEMDy19's size, eager, compiled and graphed
    python benchmark.py --protocol                # five folds of 100 epochs, through main.py

The plain side is training/plain.py. Both sides take turns; times are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from training.devices import describe_device, pick_device, seed_everything, set_up_process

set_up_process()  # as main.py does, before torch is imported

import numpy as np
import torch
from torch import nn

from constants import FEATURE_DTYPES, PRECISIONS, SAMPLE_RATE
from dataset import (
    Batch,
    ShuffledBatches,
    Utterances,
    WindowDataset,
    ordered_loader,
    shuffled_loader,
)
from features.log_mel import LogMels, open_store
from training import measure_gpu as gpu
from training import measure_protocol as protocol
from training.arguments import ArgumentParser, number
from training.arguments import gpu as gpu_id
from training.engine import (
    EVALUATION_BATCH,
    build_model,
    evaluate,
    make_optimizer,
    prefetch,
    to_device,
    train_step,
    trains_in_bfloat16,
)
from training.measure import Sides, matrix_peak, peak_memory, take_turns, wait_for
from training.measure_corpus import Corpus, make_corpus, read_corpus
from training.measure_speech import measure_speech
from training.options import parse_args
from training.plain import (
    LOSS,
    WS,
    PlainWindows,
    plain_batch,
    plain_evaluate,
    plain_loader,
    plain_model,
    plain_optimizer,
    plain_steps,
)
from training.utilisation import step_flop
from utils import InputError, run_command


def plain_windows(corpus: Corpus) -> PlainWindows:
    return PlainWindows(corpus.annotation, corpus.wavs, corpus.text)


# Measuring


def features(corpus: Corpus, args: argparse.Namespace) -> LogMels:
    dtype = getattr(torch, args.feature_dtype)
    return LogMels(open_store(corpus.features, corpus.wavs, corpus.annotation.ids, SAMPLE_RATE, dtype, quiet=True))


class Ours:
    """This program's side, as main.py puts it together.

    Attributes
    ----------
    waited : seconds that `train` waited for batches
    """

    def __init__(self, corpus: Corpus, args: argparse.Namespace) -> None:
        self.device, self.batch_size = pick_device(args.gpu_id), args.batch_size
        self.evaluates_in_bfloat16 = args.precision == "bf16"
        self.bfloat16 = trains_in_bfloat16(args.precision, self.device)
        self.waited = 0.0
        utterances = Utterances(corpus.annotation, features(corpus, args), corpus.text).to(self.device)
        audio_dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        n = np.arange(len(corpus.annotation.ids))
        self.train_set = WindowDataset(utterances, n, WS, soft_targets=True, crop_seed=0, audio_dtype=audio_dtype)
        self.test_set = WindowDataset(utterances, n, WS)
        seed_everything(0)
        self.model = to_device(build_model(parse_args([])[0]), self.device)
        self.optimizer = make_optimizer("adam", self.model, 1e-3, 0.0, 1e-5)

    def batch(self, indices: list[int]) -> Batch:
        return self.train_set.__getitems__(indices)

    def train(self, batches: Iterable[Batch]) -> int:
        """A step on each batch; returns the number of windows."""
        self.model.train()
        batches, windows, losses = iter(batches), 0, []
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return windows
            losses.append(train_step(self.model, batch, LOSS, self.optimizer, self.bfloat16))
            if self.device.type == "cpu":
                losses[-1].item()
            windows += len(batch.text)

    def epoch(self) -> Iterator[Batch]:
        order = ShuffledBatches(len(self.train_set), self.batch_size, torch.Generator().manual_seed(0))
        return prefetch(shuffled_loader(self.train_set, order), self.device)

    def evaluate(self, windows: int) -> np.ndarray:
        loader = ordered_loader(self.test_set, EVALUATION_BATCH, share=range(windows))
        batches = prefetch(loader, self.device)
        return evaluate(self.model, batches, bfloat16=self.evaluates_in_bfloat16)[0]["emotion_pred"]


def differences(corpus: Corpus, args: argparse.Namespace, utterances: int = 8) -> tuple[float, float]:
    """The largest differences between the sides: of exact log-mels, and of the probabilities of some windows."""
    plain_set, ours = plain_windows(corpus), Ours(corpus, args)
    with torch.no_grad():  # fresh weights give about the same probabilities to any input
        for p in ours.model.parameters():
            if p.dim() > 1:
                nn.init.kaiming_normal_(p)
    numbers = torch.arange(min(utterances, len(corpus.annotation.ids)))
    exact = LogMels.from_waves([corpus.wavs[corpus.annotation.ids[i]] for i in numbers]).spectrograms(numbers)
    of_log_mels = max((plain_set.log_mel(i) - exact[i]).abs().max().item() for i in numbers.tolist())
    loader = plain_loader(plain_set, len(numbers), len(numbers), shuffle=False)
    expected = plain_evaluate(plain_model(ours.model), loader)
    return of_log_mels, float(np.abs(ours.evaluate(len(numbers)) - expected.numpy()).max())


def measure(corpus: Corpus, args: argparse.Namespace) -> dict[str, Sides | float]:
    """Seconds of both sides per utterance (feature build) or window (the other stages), and what goes with them."""
    found: dict[str, Sides | float] = {"feature build": measure_feature_build(corpus, args)}
    found["store, MB"] = folder_size(corpus.features) / 1e6
    ours = Ours(corpus, args)
    found["log-mels differ by"], found["probabilities differ by"] = differences(corpus, args)
    found |= measure_stages(corpus, ours, args.rounds)
    found["GFLOP"] = step_flop(ours.model, SAMPLE_RATE) / 1e9
    for dtype in (torch.float32, torch.bfloat16):
        found[f"peak {str(dtype).removeprefix('torch.')}"] = matrix_peak(ours.device, dtype)
    return found


def measure_feature_build(corpus: Corpus, args: argparse.Namespace) -> Sides:
    plain_set, n = plain_windows(corpus), len(corpus.annotation.ids)
    plain_set.log_mel(0)  # librosa compiles and imports at the first call

    def build_plain() -> int:
        return len([plain_set.log_mel(utterance) for utterance in range(min(n, 32))])

    def build_ours() -> int:
        for path in corpus.features.glob("*"):
            path.unlink()
        features(corpus, args)
        return n

    return take_turns(build_plain, build_ours, args.rounds, torch.device("cpu"))


def measure_stages(corpus: Corpus, ours: Ours, rounds: int) -> dict[str, Sides | float]:
    """From batch assembly to a whole epoch, and the share of an epoch that ours waits for data."""
    size, n, device = ours.batch_size, len(corpus.annotation.ids), ours.device
    some = np.random.default_rng(0).permutation(n)[:size].tolist()
    plain_set, plain = plain_windows(corpus), plain_model(ours.model)
    optimizer, batch = plain_optimizer(plain), ours.batch(some)
    loaded = plain_batch(batch)

    def plain_epoch() -> tuple[int, float]:
        """Without the wait for its first batch, which an epoch of 128 batches would not notice."""
        batches = iter(plain_loader(plain_set, 2 * size, size, shuffle=True))
        first = next(batches)
        start = time.perf_counter()
        return plain_steps(plain, optimizer, chain([first], batches), LOSS), time.perf_counter() - start

    found: dict[str, Sides | float] = {}
    found["batch assembly"] = take_turns(
        lambda: len([plain_set[index] for index in some[:4]]), lambda: len(ours.batch(some).text), rounds, device
    )
    found["training step"] = take_turns(
        lambda: plain_steps(plain, optimizer, [loaded], LOSS), lambda: ours.train([batch]), rounds, device
    )
    found["evaluation"] = take_turns(
        lambda: len(plain_evaluate(plain, plain_loader(plain_set, size, size, shuffle=False))),
        lambda: len(ours.evaluate(n)),
        rounds,
        device,
    )
    ours.waited = 0.0
    found["whole epoch"] = take_turns(plain_epoch, lambda: ours.train(ours.epoch()), rounds, device, warm_up=False)
    found["waiting for data"] = ours.waited / sum(found["whole epoch"].ours) / (n // size * size)
    return found


def folder_size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*"))


def alone(args: argparse.Namespace, corpus: Path, features: Path, side: str) -> dict[str, float]:
    """What `one_side` finds in a process of its own, whose memory is that side's alone."""
    options = ["--data_path", str(corpus), "--features", str(features), "--side", side]
    options += ["--batch_size", str(args.batch_size)]
    options += ["--precision", args.precision, "--feature_dtype", args.feature_dtype]
    options += ["--gpu_id", args.gpu_id] if args.gpu_id is not None else []
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one_side(corpus: Corpus, args: argparse.Namespace) -> dict[str, float]:
    """Seconds a window of the second of two epochs of ours, and the peak memory, GB; of the plain side two steps'."""
    size = args.batch_size
    ours = Ours(corpus, args)
    seconds = 0.0
    if args.side == "plain":
        plain = plain_model(ours.model)
        batch = plain_batch(ours.batch(list(range(size))))
        plain_steps(plain, plain_optimizer(plain), [batch, batch], LOSS)
    else:
        for _ in range(2):
            start = time.perf_counter()
            done = ours.train(ours.epoch())
            wait_for(ours.device)
            seconds = (time.perf_counter() - start) / done
    return {"seconds": seconds, "memory": peak_memory(ours.device)}


# The command line


def report(found: dict[str, Sides | float], memory: dict[str, dict[str, float]], device: torch.device) -> str:
    """The table of `measure` and the lines below it."""
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
        f"torch {torch.__version__}, {describe_device(device)}",
    ]
    return "\n".join(lines)


def growth(args: argparse.Namespace, folder: Path) -> str:
    """A table of the second epoch's seconds and the peak memory at 1, 2 and 4 times the corpus."""
    lines = [f"{'windows':>8}{'s an epoch':>12}{'s a window':>12}{'peak, GB':>10}{'store, GB':>11}"]
    for times in (1, 2, 4):
        corpus, features = folder / f"corpus{times}", folder / f"features{times}"
        make_corpus(corpus, args.utterances * times)
        found = alone(args, corpus, features, "ours")
        size = folder_size(features) / 1e9
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


def measure_training(args: argparse.Namespace) -> str:
    """The tables of `--gpu` or `--protocol`, of KEMDy19's size unless a size is given."""
    device = pick_device(args.gpu_id)
    if args.gpu and args.data_path is not None:
        raise InputError("--gpu: its windows are random ones, of no corpus; leave --data_path out, or give --protocol")
    if device.type != "cuda" and args.utterances is None:
        mode = "--gpu" if args.gpu else "--protocol"
        trial = "--utterances 100 --batch_size 4 --epochs 1"
        raise InputError(f"{mode}: no CUDA GPU was chosen or found; for a trial on {device} add a size, as {trial}")
    epochs, utterances = (gpu.EPOCHS, gpu.N_WINDOWS) if args.gpu else (protocol.EPOCHS, protocol.N_UTTERANCES)
    sizes = {"epochs": args.epochs or epochs, "utterances": args.utterances or utterances}
    args = argparse.Namespace(**vars(args) | sizes)
    if args.gpu:
        return gpu.measure_gpu(args, device)
    with tempfile.TemporaryDirectory() as scratch:
        return protocol.measure_protocol(args, device, Path(scratch))


def get_args_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(
        description="Compare this program with a plain implementation of the published procedure.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = parser.add_argument
    option("--data_path", type=Path, help="a pre-processed corpus instead of a synthetic one; its store is left alone")
    option(
        "--utterances",
        type=number(int, 2),
        help="of the synthetic corpus, and windows of an epoch; 192, or KEMDy19's with --gpu and --protocol",
    )
    option("--batch_size", type=number(int, 2), default=64, help="windows in a batch")
    option("--rounds", type=number(int, 1), default=3, help="in which the sides take turns")
    option("--precision", choices=PRECISIONS, default="auto", help="as of main.py")
    option("--feature_dtype", choices=FEATURE_DTYPES, default="float16", help="as of main.py")
    option("--gpu_id", type=gpu_id, help="as of main.py")
    option("--growth", action="store_true", help="also an epoch and its memory at 1, 2 and 4 times the corpus")
    option("--profile", action="store_true", help="also the operators or kernels that an epoch's time goes to")
    option("--speech", action="store_true", help="instead: --audio encoder, against its encoder alone and the CNN")
    option("--gpu", action="store_true", help="instead: tables of a GPU's epochs, eager, compiled and graphed")
    option("--protocol", action="store_true", help="instead: five folds of 100 epochs with tests, by main.py")
    option("--main_options", default="", metavar="'...'", help="of main.py, for --protocol: '--compile --cuda_graph'")
    option("--epochs", type=number(int, 1), help=argparse.SUPPRESS)  # this and the next two: for a trial
    option("--folds", type=number(int, 1, protocol.FOLDS), default=protocol.FOLDS, help=argparse.SUPPRESS)
    option("--ways", nargs="+", choices=gpu.WAYS, default=gpu.WAYS, help=argparse.SUPPRESS)
    option("--side", choices=("plain", "ours"), help=argparse.SUPPRESS)  # this and the next: see `alone`
    option("--features", type=Path, help=argparse.SUPPRESS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Make or read the corpus, compare, and print."""
    if args.side:
        print(json.dumps(one_side(read_corpus(args.data_path, args.features), args)))
        return
    if args.gpu or args.protocol:
        print(measure_training(args))
        return
    args.utterances = args.utterances or 192
    with tempfile.TemporaryDirectory() as scratch:
        folder, store = args.data_path or Path(scratch, "corpus"), Path(scratch, "features")
        if args.data_path is None:
            make_corpus(folder, args.utterances)
        corpus = read_corpus(folder, store)
        if args.speech:
            print(measure_speech(corpus.wavs, pick_device(args.gpu_id), args.batch_size, args.rounds))
            return
        n = len(corpus.annotation.ids)
        if n < 2 * args.batch_size:
            raise InputError(f"--batch_size {args.batch_size}: two batches are needed, the corpus has {n} windows")
        found = measure(corpus, args)
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
