"""Progress: the summary of a run, its progress bar, a line for each epoch, and the curves of a tracker."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator
from tqdm import tqdm

from corpora.sessions import format_sessions
from model import MATE
from training.checkpoint import CHECKPOINT, Row, best_epoch, epoch_of_weights, is_over
from training.data_record import corpus_summary, encoders_text
from training.devices import device_name, n_processes
from training.engine import NonFinite, training_dtype
from training.options import names_of, without_effect
from utils import InputError, fault_of_machine, first_line


def progress_bar(epochs: int, steps: int, done: int, hidden: bool) -> tqdm:
    """A bar over the training steps of all epochs, of which `done` are done; shown only in a terminal."""
    settings = {"unit": "step", "dynamic_ncols": True, "disable": True if hidden else None}
    bar = tqdm(None, "training", epochs * steps, initial=done * steps, **settings)
    bar.began = done, time.monotonic()  # a hidden bar does not count
    return bar


def print_epoch(bar: tqdm, history: Sequence[Row], options: argparse.Namespace) -> None:
    """Print the last row of the history; without a bar, as in a log, also the remaining time."""
    row, line = history[-1], f"epoch {len(history)}/{options.epochs}: "
    line += ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    if "valid_loss" in row and best_epoch(history, options.select) == row["epoch"]:
        line += "; best so far"
    if bar.disable:
        done, began = bar.began
        seconds = (time.monotonic() - began) / (len(history) - done) * (options.epochs - len(history))
        line += f"; {tqdm.format_interval(seconds)} left"
    if is_over(history, options) and len(history) < options.epochs:
        line += f"\ntraining stopped early: no improvement in {options.patience} epochs"
    tqdm.write(line, file=sys.stderr)


def run_summary(
    options: argparse.Namespace,
    data: Mapping[str, Any],
    table: pd.DataFrame,
    splits: Mapping[str, Sequence[int]],
    model: MATE,
    new_layers: Sequence[str] = (),
) -> str:
    """The summary of a run or a test on these `splits`; `new_layers` are those without weights from `--init`."""
    device = next(model.parameters()).device
    synthetic = ": scores on synthetic speech are meaningless" * (data["synthetic"] == "yes")
    counts = {name: int(table["session"].isin(sessions).sum()) for name, sessions in splits.items() if sessions}
    windows = (f"{name} on sessions {format_sessions(splits[name])} ({n:,} windows)" for name, n in counts.items())
    tests = "bfloat16" if options.precision == "bf16" else "float32"
    trains = f"training in {training_dtype(options.precision, device)}, ".replace("torch.", "") * ("train" in splits)
    idle = (f"--{name} {why}" for name, why in without_effect(options).items() if name in options.given)
    lines = {
        "corpus": f"{corpus_summary(data)} in {options.data_path}{synthetic}",
        "encoders": "; ".join(encoders_text(data)),
        "role": f"{options.SorL}, {len(table):,} utterances",
        "sessions": "; ".join(windows),
        "model": f"{options.backbone}, {options.modality}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "new layers": ", ".join(new_layers),
        "device": f"{device_name(device)}, {trains}testing in {tests}",
        "ignored": "; ".join(idle),
    }
    return "\n".join(f"{title + ':':<12}{line}" for title, line in lines.items() if line)


def start_tracker(accelerator: Accelerator, folder: Path, options: argparse.Namespace, epoch: int) -> None:
    """Make `accelerator.log` report to `--report_to` from `epoch` on; TensorBoard's files are in the run folder."""
    if options.report_to == "tensorboard":
        accelerator.project_configuration.logging_dir = str(folder.absolute().parent)
        accelerator.init_trackers(folder.absolute().name, None, {"tensorboard": {"purge_step": epoch}})
        return
    values = {name: getattr(options, name) for name in sorted(names_of("data", "test", "model", "training"))}
    shown = {name: value if isinstance(value, int | float) else str(value) for name, value in values.items()}
    run = {"wandb": {"name": folder.name}, "mlflow": {"run_name": folder.name}, "trackio": {"name": folder.name}}
    accelerator.init_trackers("MATE", shown, run)


@contextlib.contextmanager
def one_line_errors(folder: Path, options: argparse.Namespace) -> Iterator[None]:
    """Add the command to resume to an interrupt, and convert errors that end training to `InputError`."""
    try:
        yield
    except KeyboardInterrupt as error:
        launcher = "python" if n_processes() == 1 else "the same launcher and"
        again = "resume" if (folder / CHECKPOINT).exists() else "no checkpoint yet; start again at epoch 1"
        error.args = (f"{again} with: {launcher} main.py --resume {shlex.quote(str(folder))}",)
        raise
    except (NonFinite, MemoryError, RuntimeError) as error:
        epoch = epoch_of_weights(folder, options.select)
        kept = f"training stopped; {folder} holds {f'the weights of epoch {epoch}' if epoch else 'no weights'}"
        if isinstance(error, NonFinite):
            raise InputError(f"{error}: {kept}; try a smaller --lr") from error
        if fault := fault_of_machine(error):
            raise InputError(f"{fault}: {kept}") from error
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise InputError(f"--compile: torch cannot compile the model ({first_line(error)}); omit it") from error
