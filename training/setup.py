"""Setup: the device, the corpus and its split, the run's folder, and the lines that say so before anything long."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from corpora.problems import MISSING_LIMIT
from corpora.registry import by_corpus
from corpora.sessions import format_sessions
from training.configuration import as_json
from utils import InputError, lock_folder, new_folder, read_json, removed_if_empty, timestamp, write_json

if TYPE_CHECKING:
    import torch

    from corpora.annotation import Annotation
    from corpora.sessions import Session


class Setup(NamedTuple):
    """The device, the corpora and their split.

    train_sessions : sessions to train on, or that the model to test was trained on
    data : what the utterances come from, a record of `provenance.describe_data` for each corpus
    """

    device: torch.device
    annotation: Annotation
    train_sessions: list[Session]
    data: list[dict[str, Any]]

    def describe(self, options: argparse.Namespace, n_parameters: int | None, folder: Path) -> str:
        """The first lines of a run or of a test."""
        from training.devices import describe_device
        from training.engine import trains_in_bfloat16
        from training.provenance import describe_corpus, describe_text_model

        sessions = {"test": options.test_split}
        precision = f"tests in {precision_name(options.precision == 'bf16')}"
        if not options.test_only:
            sessions = {"train": self.train_sessions, "validate": options.valid_split or []} | sessions
            precision = f"trains in {precision_name(trains_in_bfloat16(options.precision, self.device))}, {precision}"
        sessions = {name: own for name, own in sessions.items() if own}
        counts = {name: np.isin(self.annotation.session, own).sum() for name, own in sessions.items()}
        parameters = f", {n_parameters:,} parameters" if n_parameters else ""
        synthetic = ": it has planted faults, and its figures say nothing about emotion recognition"
        corpora = [
            f"{describe_corpus(record)} in {path}{synthetic if record['synthetic'] else ''}"
            for path, record in zip(options.data_path, self.data, strict=True)
        ]
        lines = {
            "corpus": f"\n{'':<12}".join(corpora),
            "text model": describe_text_model(self.data[0]["text_model"]),
            "role": f"{options.SorL}, {self.describe_size(options.SorL)}",
            "sessions": "; ".join(f"{name} on {format_sessions(own)}" for name, own in sessions.items()),
            "windows": ", ".join(f"{n:,} to {name}" for name, n in counts.items()) + f", of {options.ws} utterances",
            "model": f"{options.backbone}, {options.modality}{parameters}",
            "device": f"{describe_device(self.device)}, {precision}",
            "folder": str(folder),
        }
        return "\n".join(f"{name + ':':<12}{line}" for name, line in lines.items())

    def describe_size(self, role: str) -> str:
        """How many utterances each corpus has here, and how many it should have, if that is clearly another number."""
        sizes = []
        for record, (corpus, ids) in zip(self.data, by_corpus(self.annotation.ids).items(), strict=True):
            n, expected = len(ids), corpus.utterances[role]
            is_part = not record["synthetic"] and abs(n - expected) > MISSING_LIMIT * expected
            name = f" of {corpus.name}" if len(self.data) > 1 else ""
            sizes.append(f"{n:,} utterances{name}" + (f", the whole corpus has {expected:,}" if is_part else ""))
        return "; ".join(sizes)


def precision_name(bfloat16: bool) -> str:
    return "bfloat16" if bfloat16 else "float32"


def check_batch_size(batch_size: int, n_processes: int) -> None:
    """Raise `InputError` when batch norm cannot train on the part of a batch that a process gets."""
    if n_processes > 1 and (batch_size % n_processes or batch_size < 2 * n_processes):
        raise InputError(
            f"--batch_size {batch_size}: {n_processes} processes take equal parts of a batch, of at least 2 windows; "
            f"give a multiple of {n_processes}, at least {2 * n_processes}"
        )
    if batch_size < 2:
        raise InputError("--batch_size 1: batch norm cannot train on a single window; give at least 2")


def open_folder(options: argparse.Namespace, setup: Setup, folder: Path | None, stack: contextlib.ExitStack) -> Path:
    """A new run's folder, locked until `stack` closes and gone again if nothing begins, or that of one that goes on.

    Prints what the run is. A run that goes on must find the data that it began with. The folder of a new one has its
    options from the start: killed while features are computed, it can go on.
    """
    from training.devices import environment
    from training.engine import count_parameters
    from training.provenance import as_stored, refuse_other_data

    if folder is not None:
        refuse_other_data(folder, setup.data)
    else:
        made = [] if options.save_path.exists() else [options.save_path]
        tested = format_sessions(options.test_split).replace(":", "-")  # no file of some systems may have a colon
        fold = f"test{tested}_seed{options.seed}"
        name = f"{options.backbone}_{options.SorL}_{options.optim}_{options.ws}_{fold}_{timestamp()}"
        folder = new_folder(options.save_path, name)
        stack.enter_context(removed_if_empty(folder, *made))
        stack.enter_context(lock_folder(folder, "training"))
        about = as_json(options) | {"data": as_stored(setup.data)} | environment(setup.device)
        write_json(folder / "configuration.json", about)
        stack.callback(take_back, folder)
    print(setup.describe(options, count_parameters(options), folder), flush=True)
    return folder


def take_back(folder: Path) -> None:
    """Remove the configuration of a run that has not begun."""
    path = folder / "configuration.json"
    if not has_begun(read_json(path)):
        path.unlink()


def has_begun(configuration: Mapping[str, Any]) -> bool:
    """Whether a run got as far as its first step: its configuration holds what it found."""
    return "train_split" in configuration


def begin(facts: dict, environment: dict, folder: Path) -> None:
    """Complete a new run's configuration; check that of one that goes on."""
    from training.folders import compare_circumstances

    stored = read_json(folder / "configuration.json")
    if has_begun(stored):
        compare_circumstances(folder, facts, environment)
    else:
        write_json(folder / "configuration.json", stored | facts | environment)
