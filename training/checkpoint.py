"""Checkpoints: the weights of a run, the state to resume it from, its history, and the choice of an epoch."""

from __future__ import annotations

import argparse
import contextlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from utils import InputError, atomic_write, first_line

CHECKPOINT = "checkpoint.pt"  # in a run folder until the run has finished

Row = dict[str, float]  # the figures of an epoch by their names in history.csv
Weights = Mapping[str, Tensor]


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load the state dict in `path`, a `.pth` or `.safetensors` file, into `model`; no code in the file is executed.

    Raises `InputError` if it is missing or damaged, does not match the model, or contains values that are not finite.
    """
    try:
        model.load_state_dict(read_tensors(path))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]  # torch names every tensor
        raise InputError(f"{path}: does not match the model of its configuration ({reason})") from error
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name} is not finite; train again with a smaller --lr, or copy the file again")


def load_matching(model: torch.nn.Module, weights: Weights) -> list[str]:
    """Load the weights of the same name and shape into `model`; return the names of the layers without any."""
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    model.load_state_dict(fitting, strict=False)
    return [*dict.fromkeys(name.rpartition(".")[0] for name in own.keys() - fitting.keys())]


def read_tensors(path: Path) -> Any:
    """Tensors and plain containers from a file, on the CPU; raises `InputError` if it contains anything else."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch does not compare the content with its checksums
                if damaged := archive.testzip():
                    raise ValueError(f"the checksum of {damaged} does not match")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; the run has no weights yet, or its folder is incomplete") from error
    except Exception as error:  # damaged bytes make the readers raise almost anything
        raise InputError(f"{path}: damaged, or contains more than tensors ({first_line(error, path)})") from error


def save_tensors(content: Any, path: Path) -> None:
    """`torch.save`, atomically; raises `InputError` if the disk is full or the folder is not writable."""
    try:
        with atomic_write(path, "wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # of torch, when the file raises
        raise InputError(f"{path}: cannot be written; is the disk full? ({first_line(error)})") from error


def save_checkpoint(
    folder: Path, run_id: str, training: Mapping[str, Any], history: Sequence[Row], best: Weights | None
) -> None:
    """Write the state of a run at the end of an epoch, atomically; then its weights and history in files of their own.

    `training` has the model, optimizer, scheduler and the generator that shuffles; `best` is the best epoch's weights.
    """
    states = {
        name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        for name, part in training.items()
    }
    content = {"run_id": run_id, "epoch": len(history), "history": [*history], "best": best}
    save_tensors(content | states | {"random": torch.get_rng_state()}, folder / CHECKPOINT)
    write_results(folder, best or states["model"], history)


def load_checkpoint(folder: Path, run_id: str, training: Mapping[str, Any]) -> tuple[list[Row], Weights | None]:
    """Restore `training` from a run's checkpoint; return its history and `best`, or `[], None` without a checkpoint.

    Raises `InputError` if it is damaged or belongs to another run.
    """
    path, fused = folder / CHECKPOINT, training["optimizer"].defaults["fused"]
    if not path.exists():
        return [], None
    try:
        content = read_tensors(path)
        if content["run_id"] != run_id:
            raise ValueError(f"run {content['run_id']}")
        for name, part in training.items():
            (part.set_state if isinstance(part, torch.Generator) else part.load_state_dict)(content[name])
        for group in training["optimizer"].param_groups:
            group["fused"] = fused  # depends on the device, not on the run
        torch.set_rng_state(content["random"])
        return content["history"], content["best"]
    except (InputError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"not a checkpoint of this run ({first_line(error)})"
        raise InputError(f"{path}: {reason}; delete it to start over") from error


def write_results(folder: Path, weights: Weights, history: Sequence[Row]) -> None:
    """Write `model.pth`, `history.csv` and `train_loss.log` (a row per epoch)."""
    save_tensors(weights, folder / "model.pth")
    with atomic_write(folder / "history.csv") as file:
        pd.DataFrame(history).to_csv(file, index=False)
    with atomic_write(folder / "train_loss.log") as file:
        file.writelines(f"epoch {row['epoch']} loss {row['train_loss']:.6f}\n" for row in history)


def best_epoch(history: Sequence[Row], select: str) -> int:
    """The first epoch with the best validation figure of `--select`: `ccc` is the mean of both, `last` means `loss`."""

    def score(row: Row) -> float:
        if select == "ccc":
            return row["valid_ccc_arousal"] + row["valid_ccc_valence"]
        return -row["valid_loss"] if select in ("last", "loss") else row[f"valid_{select}"]

    return int(max(history, key=score)["epoch"])


def epoch_of_weights(folder: Path, select: str) -> int | None:
    """The epoch whose weights a run's `model.pth` holds, by its `history.csv`; None if that cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        history = pd.read_csv(folder / "history.csv").to_dict("records")
        return int(history[-1]["epoch"]) if select == "last" else best_epoch(history, select)
    return None


def validation_of(folder: Path, epoch: int | None) -> dict[str, Row]:
    """The validation figures of an epoch in `history.csv`, as `valid` of a result.json; {} without validation."""
    if epoch is None:
        return {}
    row = pd.read_csv(folder / "history.csv").set_index("epoch").loc[epoch]
    found = {name.removeprefix("valid_"): value for name, value in row.items() if name.startswith("valid_")}
    return {"valid": found} if found else {}


def is_over(history: Sequence[Row], options: argparse.Namespace) -> bool:
    """Whether all epochs are done, or the last `--patience` epochs were no better than the best one."""
    if options.patience is None or not history:
        return len(history) == options.epochs
    return len(history) == options.epochs or len(history) - best_epoch(history, options.select) >= options.patience
