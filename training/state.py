"""What a training run needs to go on where it stopped, as if it never had."""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils import InputError, atomic_write, is_plain, read_tensors

FORMAT = 1


@dataclass
class Progress:
    """How far a run has come.

    epoch : of the next step, counted from 1
    step : steps of that epoch that are done
    losses : of these steps, float32, shape = (step,)
    order : state of the generator that shuffles, as it was at the begin of that epoch
    history : a row of figures a finished epoch
    saved : epoch whose weights `model.pth` holds, 0 for none
    best : its validation loss, where the best epoch is selected
    """

    epoch: int
    step: int
    losses: Tensor
    order: Tensor
    history: list[dict[str, float]] = field(default_factory=list)
    saved: int = 0
    best: float = float("inf")


def digest(configuration: dict[str, Any]) -> str:
    """A digest of what decides a run's outcome, which tells its checkpoint from another run's."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def save_checkpoint(
    path: Path,
    run: str,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    progress: Progress,
) -> None:
    """Write everything that decides how the run named `run` (see `identity`) goes on, whole or not at all."""
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    content = {
        "format": FORMAT,
        "run": run,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "progress": {**vars(progress), "losses": progress.losses.cpu()},
        "random": {
            "python": random.getstate(),
            "numpy": (torch.from_numpy(keys.astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
    }
    with atomic_write(path, "wb") as file:
        torch.save(content, file)


def load_checkpoint(
    path: Path,
    run: str,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    epochs: int,
    n_steps: int,
) -> Progress:
    """Put back everything that `save_checkpoint` wrote in a run of `epochs` of `n_steps`, executing nothing else.

    Raises
    ------
    InputError : the file is damaged, no checkpoint of this program, or one of another run
    """
    todo = "take it away to train from the beginning"
    try:
        content = read_tensors(path)
        found = content["format"], content["run"]
    except Exception as error:  # damaged bytes make torch's readers raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not readable as a checkpoint ({reason}); {todo}") from error
    if found[0] != FORMAT:
        raise InputError(f"{path}: a checkpoint of format {found[0]!r}, this program writes {FORMAT}; {todo}")
    if found[1] != run:
        raise InputError(f"{path}: the checkpoint of a run with another configuration or corpus; {todo}")
    try:
        progress = Progress(**content["progress"])
        at, n_losses = (progress.epoch, progress.step), len(progress.losses)
        if [type(number) for number in (*at, progress.saved, progress.best)] != [int, int, int, float]:
            raise ValueError("an epoch, step or loss that is no number")
        if not ((1 <= at[0] <= epochs and 0 <= at[1] <= n_steps) or at == (epochs + 1, 0)):
            raise ValueError(f"epoch {at[0]} and step {at[1]}, in a run of {epochs} epochs of {n_steps} steps")
        if progress.losses.shape != (at[1],) or not is_plain(progress.losses, torch.zeros(0)):
            raise ValueError(f"epoch {at[0]}, step {at[1]} and {n_losses} losses")
        if not 0 <= progress.saved < at[0] or len(progress.history) != at[0] - 1:
            raise ValueError(f"epoch {at[0]}, weights of {progress.saved} and {len(progress.history)} finished ones")
        if not all(math.isfinite(number) for row in progress.history for number in row.values()):
            raise ValueError("a history of values that are not numbers")
        torch.Generator().set_state(progress.order)
        expected = model.state_dict()
        if expected.keys() != content["model"].keys():
            raise ValueError("the weights of another model")
        for name, weight in content["model"].items():
            if weight.shape != expected[name].shape or not is_plain(weight, expected[name]):
                raise ValueError(f"{name} is of another shape or kind, or not finite")
        of_optimizer = content["optimizer"]["state"]
        for number, weight in enumerate(model.parameters()):
            for name, kept in of_optimizer.get(number, {}).items():
                if kept is not None and (kept.shape not in (weight.shape, ()) or not is_plain(kept, weight)):
                    raise ValueError(f"the optimizer's {name} is of another shape or kind, or not finite")
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        scheduler.load_state_dict(content["scheduler"])
        states = content["random"]
        version, keys, gauss = states["python"]
        random.setstate((version, tuple(keys), gauss))
        np.random.set_state(("MT19937", states["numpy"][0].numpy().astype(np.uint32), *states["numpy"][1:]))  # noqa: NPY002
        torch.set_rng_state(states["torch"])
        if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(states["cuda"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a checkpoint of this run ({reason}); {todo}") from error
    return progress
