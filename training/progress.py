"""Progress: what the user sees of a run: its first lines, a bar, a line per epoch, and the curves of a tracker."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from corpora.corpus import corpus_of
from corpora.sessions import format_sessions
from model import MATE
from training.checkpoint import Row, best_epoch, epoch_of_weights, first_line, is_over
from training.devices import device_name, n_processes
from training.engine import NonFinite, trains_in_bfloat16
from training.options import names_of
from training.record import corpus_summary, encoder_summary
from utils import InputError, lack_of_memory

FIGURES = {"f1": "F1", "accuracy": "accuracy", "macro_f1": "macro F1"}  # of a validation, besides the loss
FIGURES |= {"ccc_arousal": "CCC arousal", "ccc_valence": "CCC valence"}


def progress_bar(epochs: int, steps: int, done: int, hidden: bool) -> tqdm:
    """A bar over the training steps of all epochs, of which `done` are done; shown in a terminal alone."""
    settings = {"unit": "step", "dynamic_ncols": True, "disable": True if hidden else None}
    bar = tqdm(None, "training", epochs * steps, initial=done * steps, **settings)
    bar.began = done, time.monotonic()  # a bar that is not shown does not count
    return bar


def print_epoch(bar: tqdm, history: Sequence[Row], options: argparse.Namespace) -> None:
    """Print the line of the last epoch: always into a log; in a terminal, which has a bar, if there is a validation."""
    row, figures, left = history[-1], "", ""
    if "valid_loss" in row:
        known = [f"{word} {row[f'valid_{name}']:.3f}" for name, word in FIGURES.items() if f"valid_{name}" in row]
        best = f"; best {options.monitor} so far" * (best_epoch(history, options.monitor) == row["epoch"])
        figures = f"; validation: loss {row['valid_loss']:.4f}, {', '.join(known)}{best}"
    if bar.disable:
        done, began = bar.began
        seconds = (time.monotonic() - began) / (len(history) - done) * (options.epochs - len(history))
        left = f"; {tqdm.format_interval(seconds)} left"
    if figures or left:
        loss = f"lr {row['lr']:.1e}, loss {row['train_loss']:.4f}"
        tqdm.write(f"epoch {row['epoch']}/{options.epochs}: {loss}{figures}{left}", file=sys.stderr)
    if is_over(history, options) and len(history) < options.epochs:
        tqdm.write(f"training stopped early: no better {options.monitor} in {options.patience} epochs", file=sys.stderr)


def run_summary(
    options: argparse.Namespace,
    data: Mapping[str, str],
    table: pd.DataFrame,
    splits: Mapping[str, Sequence[int]],
    model: MATE,
    device: torch.device,
) -> str:
    """The first lines of a run or a test; `splits` are the sessions to train on, to validate on and to test on."""
    n, whole = len(table), corpus_of(options.data_path).utterances.get(options.SorL, 0)
    is_part = data["synthetic"] != "yes" and n < 0.95 * whole  # some utterances have no label in the whole one, too
    synthetic = ": its figures say nothing about emotion recognition" * (data["synthetic"] == "yes")
    counts = {name: int(table["session"].isin(sessions).sum()) for name, sessions in splits.items() if sessions}
    precision = {True: "bfloat16", False: "float32"}
    trains = f"trains in {precision[trains_in_bfloat16(options.precision, device)]}, " if "train" in splits else ""
    lines = {
        "corpus": f"{corpus_summary(data)} in {options.data_path}{synthetic}",
        "text model": encoder_summary(data, "embeddings"),
        "role": f"{options.SorL}, {n:,} utterances" + f", the whole corpus has {whole:,}" * is_part,
        "sessions": "; ".join(f"{name} on {format_sessions(splits[name])}" for name in counts),
        "windows": ", ".join(f"{count:,} to {name}" for name, count in counts.items())
        + f", of {options.ws} utterances",
        "model": f"{options.backbone}, {options.modality}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "device": f"{device_name(device)}, {trains}tests in {precision[options.precision == 'bf16']}",
    }
    return "\n".join(f"{title + ':':<12}{line}" for title, line in lines.items())


def start_tracker(accelerator: Accelerator, folder: Path, options: argparse.Namespace, epoch: int) -> None:
    """Have `accelerator.log` report to `--report_to` from `epoch` on; TensorBoard's files lie in the run folder."""
    names = sorted(names_of("data", "test", "model", "training"))
    shown = {name: getattr(options, name) for name in names}
    shown = {name: value if isinstance(value, int | float) else str(value) for name, value in shown.items()}
    if options.report_to == "tensorboard":
        accelerator.project_configuration.logging_dir = str(folder.absolute().parent)
        accelerator.init_trackers(folder.absolute().name, None, {"tensorboard": {"purge_step": epoch}})
        if accelerator.is_main_process:
            curves = ["train_loss", *(f"valid_{name}" for name in ("loss", *FIGURES) if options.valid_split)]
            for summary in hparams(shown, dict.fromkeys(curves, 0)):  # for TensorBoard's table of runs
                accelerator.get_tracker("tensorboard", unwrap=True).file_writer.add_summary(summary)
    else:
        run = {"wandb": {"name": folder.name}, "mlflow": {"run_name": folder.name}, "trackio": {"name": folder.name}}
        accelerator.init_trackers("MATE", shown, run)


@contextlib.contextmanager
def one_line_errors(folder: Path, options: argparse.Namespace) -> Iterator[None]:
    """Add to an interrupt how to resume, and report what ends training as an `InputError`."""
    try:
        yield
    except KeyboardInterrupt as error:
        launcher = "python" if n_processes() == 1 else "the same launcher and"
        error.args = (f"resume with: {launcher} main.py --resume {shlex.quote(str(folder))}",)
        raise
    except (NonFinite, MemoryError, RuntimeError) as error:
        epoch = epoch_of_weights(folder, options.select, options.monitor)
        kept = f"training stopped; {folder} holds {f'the weights of epoch {epoch}' if epoch else 'no weights yet'}"
        if isinstance(error, NonFinite):
            raise InputError(f"{error}: {kept}; try a smaller --lr") from error
        if lack := lack_of_memory(error):
            raise InputError(f"{lack}: {kept}; try a --batch_size below {options.batch_size} in a new run") from error
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise InputError(f"--compile: torch cannot compile the model ({first_line(error)}); leave it out") from error
