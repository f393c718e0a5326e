"""Measuring on a GPU: epochs that are eager, compiled and graphed, and the stages of both implementations."""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from constants import SAMPLE_RATE
from dataset import Batch, ShuffledBatches, WindowDataset, shuffled_loader
from training.devices import describe_device, seed_everything
from training.engine import (
    build_model,
    evaluate,
    make_optimizer,
    prefetch,
    to_device,
    train_step,
    trains_in_bfloat16,
    with_compiled_cnn,
)
from training.graphs import GraphedStep, Step, why_not
from training.measure import peak_memory, wait_for
from training.measure_corpus import make_corpus, random_utterances, read_corpus
from training.options import parse_args
from training.plain import (
    LOSS,
    WS,
    PlainWindows,
    plain_batch,
    plain_evaluate,
    plain_model,
    plain_optimizer,
    plain_steps,
)
from training.utilisation import dense_peak, step_flop

N_WINDOWS = 8222  # that a fold of KEMDy19 trains on
EPOCHS = 20
CALLS = 10  # of a stage, on a GPU
WAYS = ("eager", "compiled", "graphed", "compiled+graphed")  # of main.py: --compile and --cuda_graph


class Way(NamedTuple):
    """What training in one way took.

    first : seconds of the first epoch, in which kernels are picked, compiled and recorded
    epochs : seconds of each epoch after it
    step : seconds of a training step on a batch that is there
    memory : peak, GB
    failed : whether the graph could not be recorded, so that the steps were plain ones
    """

    first: float
    epochs: list[float]
    step: float
    memory: float
    failed: bool


class Bench:
    """The windows of an epoch, and training on them.

    Attributes
    ----------
    n_steps : of an epoch
    flop : of an epoch
    """

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.device, self.batch_size = device, args.batch_size
        self.bfloat16 = trains_in_bfloat16(args.precision, device)
        self.tests_in_bfloat16 = args.precision == "bf16"
        utterances, n = random_utterances(args.utterances).to(device), args.utterances
        audio_dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        settings = {"soft_targets": True, "crop_seed": 0, "audio_dtype": audio_dtype}
        self.train_set = WindowDataset(utterances, np.arange(n), WS, **settings)
        self.test_set = WindowDataset(utterances, np.arange(n), WS)
        self.order = ShuffledBatches(n, self.batch_size, torch.Generator().manual_seed(0))
        self.n_steps = len(self.order)
        with torch.device("meta"):
            self.flop = self.n_steps * self.batch_size * step_flop(build_model(parse_args([])[0]), SAMPLE_RATE)

    def batch(self, windows: WindowDataset) -> Batch:
        return windows.__getitems__(list(range(self.batch_size)))

    def new_model(self) -> torch.nn.Module:
        seed_everything(0)
        return to_device(build_model(parse_args([])[0]), self.device)

    def make_step(self, way: str) -> Step:
        """A training step of a new model, in one of `WAYS`."""
        model = self.new_model().train()
        optimizer = make_optimizer("adam", model, 1e-3, 0.0, 1e-5)
        trained = with_compiled_cnn(model) if "compiled" in way else model

        def step(batch: Batch) -> torch.Tensor:
            return train_step(trained, batch, LOSS, optimizer, self.bfloat16)

        return GraphedStep(step, optimizer, self.device) if "graphed" in way else step

    def epoch(self, step: Step, number: int) -> float:
        """Seconds of an epoch, as main.py trains it."""
        start = time.perf_counter()
        self.train_set.set_epoch(number)
        losses = torch.zeros(self.n_steps, device=self.device)
        for at, batch in enumerate(prefetch(shuffled_loader(self.train_set, self.order), self.device)):
            losses[at] = step(batch)
        wait_for(self.device)
        return time.perf_counter() - start

    def seconds(self, work: Callable[[], object]) -> float:
        """The median of some calls, each waited for, after one that does not count."""
        taken = []
        for _ in range(1 + (CALLS if self.device.type == "cuda" else 1)):
            start = time.perf_counter()
            work()
            wait_for(self.device)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[1:])


def measure_gpu(args: argparse.Namespace, device: torch.device) -> str:
    """Markdown tables of the stages of both implementations, and of epochs in each way."""
    bench = Bench(args, device)
    impossible = {way: why_not(device) for way in args.ways if "graphed" in way}
    ways = [way for way in args.ways if not impossible.get(way)]
    with tqdm(total=len(ways) * (1 + args.epochs), desc="measuring", unit="epoch", disable=None) as bar:
        measured = {way: measure_way(bench, way, args.epochs, bar) for way in ways}
    stages = measure_stages(bench)
    precision = "bfloat16" if bench.bfloat16 else "float32"
    windows = f"{bench.n_steps * bench.batch_size:,} windows in {bench.n_steps} steps"
    lines = [
        f"{describe_device(device)}, torch {torch.__version__}, training in {precision}; an epoch is {windows}, "
        f"{bench.flop / 1e12:.2f} TFLOP",
        "",
        *stage_table(stages, bench),
        "",
        *epoch_table(measured, stages["plain"], bench),
        *(f"\n{way}: {reason}" for way, reason in impossible.items() if reason),
    ]
    return "\n".join(lines)


def measure_way(bench: Bench, way: str, epochs: int, bar: tqdm) -> Way:
    """Train a new model in one of `WAYS`."""
    if bench.device.type == "cuda":
        torch._dynamo.reset()  # which holds an earlier way's model
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    step, seconds = bench.make_step(way), []
    for number in range(1 + epochs):
        seconds.append(bench.epoch(step, number))
        bar.update()
    memory = peak_memory(bench.device)
    batch = bench.batch(bench.train_set)
    failed = isinstance(step, GraphedStep) and step.failed
    return Way(seconds[0], seconds[1:], bench.seconds(partial(step, batch)), memory, failed)


def measure_stages(bench: Bench) -> dict[str, dict[str, float]]:
    """Seconds a batch of each stage, of "plain" and "ours".

    The plain side computes as torch does unless it is told otherwise: convolutions in TF32 where the GPU has it.
    """
    step, model = bench.make_step("eager"), bench.new_model()
    batch, tested = bench.batch(bench.train_set), bench.batch(bench.test_set)
    ours = {
        "batch assembly": bench.seconds(lambda: bench.batch(bench.train_set)),
        "training step": bench.seconds(lambda: step(batch)),
        "evaluation": bench.seconds(lambda: evaluate(model, [tested], bfloat16=bench.tests_in_bfloat16)),
    }
    theirs = plain_model(model)
    optimizer, loaded = plain_optimizer(theirs), plain_batch(tested)
    cudnn = torch.backends.cudnn
    with cudnn.flags(cudnn.enabled, benchmark=False, deterministic=False, allow_tf32=True):
        plain = {
            "batch assembly": bench.batch_size * plain_loading(),
            "training step": bench.seconds(lambda: plain_steps(theirs, optimizer, [loaded], LOSS)),
            "evaluation": bench.seconds(lambda: plain_evaluate(theirs, [loaded])),
        }
    return {"plain": plain, "ours": ours}


def plain_loading(windows: int = 4) -> float:
    """Seconds in which the plain side's worker loads and transforms a window."""
    with tempfile.TemporaryDirectory() as scratch:
        make_corpus(Path(scratch, "corpus"), WS + windows)
        corpus = read_corpus(Path(scratch, "corpus"), Path(scratch, "features"))
        plain_set = PlainWindows(corpus.annotation, corpus.wavs, corpus.text)
        plain_set.log_mel(0)  # librosa compiles and imports at the first call
        start = time.perf_counter()
        for window in range(WS, WS + windows):
            plain_set[window]
        return (time.perf_counter() - start) / windows


# Tables


def stage_table(stages: dict[str, dict[str, float]], bench: Bench) -> list[str]:
    """A row a stage."""
    lines = [f"| ms a batch of {bench.batch_size} | plain | ours | ratio |", "|---|---|---|---|"]
    for name, ours in stages["ours"].items():
        plain = stages["plain"][name]
        lines.append(f"| {name} | {1e3 * plain:,.2f} | {1e3 * ours:,.2f} | {ours / plain:.4f} |")
    return lines


def epoch_table(measured: dict[str, Way], plain: dict[str, float], bench: Bench) -> list[str]:
    """A row a way to train, and one of the plain implementation, whose worker loads while the GPU works."""
    peak = dense_peak(torch.cuda.get_device_name(bench.device)) if bench.device.type == "cuda" else None
    where = "GPU" if bench.device.type == "cuda" else "process"
    lines = [
        f"| training | step, ms | epoch, s | first epoch, s | TFLOP/s | of the peak | peak memory of the {where}, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, way in measured.items():
        mean = statistics.mean(way.epochs)
        deviation = statistics.stdev(way.epochs) if len(way.epochs) > 1 else 0.0
        tflops = bench.flop / mean / 1e12
        share = f"{tflops / peak:.0%}" if peak and bench.bfloat16 else "–"
        epoch = f"{mean:.3f} ± {deviation:.3f}"
        name += " (could not be recorded)" if way.failed else ""
        lines.append(
            f"| {name} | {1e3 * way.step:.2f} | {epoch} | {way.first:.1f} | {tflops:.2f} | {share} | {way.memory:.2f} |"
        )
    step, loading = plain["training step"], plain["batch assembly"]
    seconds = bench.n_steps * max(step, loading)
    tflops = bench.flop / seconds / 1e12
    lines.append(f"| plain, by its stages | {1e3 * step:.2f} | {seconds:.1f} | – | {tflops:.2f} | – | – |")
    return lines
