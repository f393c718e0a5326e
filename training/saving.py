"""Saving: the weights and the checkpoint of a run, written by a thread while the run goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from training.state import save_tensors, snapshot

CHECKPOINT = "checkpoint.pt"  # in an experiment folder, until its run has finished
WEIGHTS = "model.pth"


class Saving:
    """Writes the weights to test and checkpoints into an experiment folder, both whole or not at all.

    What it is given is copied at once; the files are written in the order in which they were given. A write that failed
    raises its error at the next write or wait.

    Parameters
    ----------
    minutes : between checkpoints; 0 for one after every epoch
    """

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder, self.minutes = folder, minutes
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self.pending: list[Future] = []
        self.saved_at = time.monotonic()
        self.weights: dict[str, torch.Tensor] | None = None  # that `WEIGHTS` is to hold and does not yet

    def is_due(self, after_epoch: bool = False) -> bool:
        """Whether it is time for a checkpoint; not while one is being written."""
        if self.minutes == 0:
            return after_epoch
        return time.monotonic() - self.saved_at >= 60 * self.minutes and all(write.done() for write in self.pending)

    def keep_weights(self, model: torch.nn.Module) -> None:
        """Note the weights of an epoch, which are written with the next checkpoint, or when the run fails."""
        self.weights = snapshot(model.state_dict())

    def write_weights(self) -> None:
        """Begin to write the weights that were noted, if there are any."""
        self.wait()
        if self.weights is not None:
            weights, self.weights = snapshot(self.weights, "cpu"), None
            self.pending.append(self.thread.submit(save_tensors, weights, self.folder / WEIGHTS))

    def write(self, checkpoint: dict[str, Any]) -> None:
        """Begin to write the weights that were noted, and then a checkpoint."""
        self.write_weights()
        checkpoint = snapshot(checkpoint, "cpu")
        self.pending.append(self.thread.submit(save_tensors, checkpoint, self.folder / CHECKPOINT))
        self.saved_at = time.monotonic()

    def wait(self) -> None:
        """Return when all is written.

        Raises
        ------
        InputError : a file cannot be written
        """
        pending, self.pending = self.pending, []
        for write in pending:
            write.result()

    @contextlib.contextmanager
    def keeping_weights(self) -> Iterator[None]:
        """A block whose failure has the weights written that were noted: those of its last epoch can be tested."""
        try:
            yield
        except Exception:
            self.write_weights()
            self.wait()
            raise

    def close(self) -> None:
        """Return when nothing is being written any more, whether or not it failed."""
        self.thread.shutdown()
