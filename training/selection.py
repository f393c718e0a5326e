"""Selection: the epoch that is tested and when training stops early, both by the history of validation."""

from __future__ import annotations

import argparse
import contextlib
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from corpora.sessions import format_sessions

Row = Mapping[str, float]  # of the history: an epoch's figures by their names in history.csv


def monitored(row: Row, monitor: str) -> float:
    """The figure that `--monitor` names; `ccc` is the mean of those of arousal and valence."""
    if monitor == "ccc":
        return (row["valid_ccc_arousal"] + row["valid_ccc_valence"]) / 2
    return row[f"valid_{monitor}"]


def best_epoch(history: Sequence[Row], monitor: str) -> int:
    """The first epoch whose monitored figure no other beats: the lowest loss, or the highest of anything else."""
    sign = 1 if monitor == "loss" else -1
    return int(min(history, key=lambda row: sign * monitored(row, monitor))["epoch"])


def is_exhausted(history: Sequence[Row], monitor: str, patience: int | None) -> bool:
    """Whether `patience` epochs in a row have been no better than the best one."""
    return patience is not None and bool(history) and len(history) - best_epoch(history, monitor) >= patience


def read_history(folder: Path) -> list[Row]:
    """The rows of an experiment folder's `history.csv`; none where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        lines = (folder / "history.csv").read_text("utf-8").splitlines()
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]
    return []


def epoch_of_weights(folder: Path, select: str, monitor: str) -> int | None:
    """The epoch whose weights an earlier version's `model.pth` holds; None where the folder's history does not tell."""
    if rows := read_history(folder):
        with contextlib.suppress(KeyError, ValueError):
            return best_epoch(rows, monitor) if select == "best" else int(rows[-1]["epoch"])
    return None


def describe_choice(options: argparse.Namespace) -> str:
    """Why the tested epoch was taken, in words, from a run's `--select`, `--monitor` and `--valid_split`."""
    if options.select != "best":
        return "the last one"
    return f"best by {options.monitor} on the validation sessions {format_sessions(options.valid_split or [])}".rstrip()


def describe_epoch(row: Row, epochs: int) -> str:
    """An epoch's figures in one line."""
    parts = [f"epoch {row['epoch']:.0f}/{epochs}: lr {row['lr']:.1e}, loss {row['train_loss']:.4f}"]
    if "valid_loss" in row:
        parts.append(f"validation: loss {row['valid_loss']:.4f}, F1 {row['valid_f1']:.3f}")
        parts += [
            f"{name.replace('_', ' ')} {row[f'valid_{name}']:.3f}"
            for name in ("accuracy", "macro_f1")
            if f"valid_{name}" in row
        ]
        parts.append(f"CCC arousal {row['valid_ccc_arousal']:.3f}, valence {row['valid_ccc_valence']:.3f}")
    return ", ".join(parts).replace(", validation:", "; validation:").replace("macro f1", "macro F1")
