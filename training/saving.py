"""Saving: the weights, history and checkpoint of a run, written by a thread while the run goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from training.state import save_tensors, snapshot, with_epoch
from utils import atomic_write

CHECKPOINT = "checkpoint.pt"  # in an experiment folder, until its run has finished
WEIGHTS = "model.pth"

Row = Mapping[str, float]  # an epoch's figures by their names in history.csv


class Finished(NamedTuple):
    """What is to be written of the epochs that are done.

    history : one row for each
    weights : to test, which say of which epoch they are; None where those that are written already stay
    """

    history: tuple[Row, ...]
    weights: dict[str, torch.Tensor] | None


class Saving:
    """Writes weights, history and checkpoints into an experiment folder, each file whole or not at all.

    What it is given is copied at once; the files are written in the order in which they were given. A write that failed
    raises its error at the next write or wait. The history is written with the weights, and the weights say of which
    epoch they are: whenever the run is killed, what lies in the folder tells the truth about them.

    Parameters
    ----------
    minutes : between checkpoints; 0 for one after every epoch
    """

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder, self.minutes = folder, minutes
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self.pending: list[Future] = []
        self.saved_at = time.monotonic()
        self.finished: Finished | None = None  # that the folder is to hold and does not yet

    def is_due(self, after_epoch: bool = False) -> bool:
        """Whether it is time for a checkpoint; not while one is being written."""
        if self.minutes == 0:
            return after_epoch
        return time.monotonic() - self.saved_at >= 60 * self.minutes and all(write.done() for write in self.pending)

    def keep_epoch(self, history: Sequence[Row], model: torch.nn.Module | None) -> None:
        """Note the history after an epoch, to be written with the next checkpoint, or when the run fails.

        `model` is given where the weights of this epoch are those to test.
        """
        weights = None if self.finished is None else self.finished.weights
        if model is not None:
            weights = with_epoch(snapshot(model.state_dict()), int(history[-1]["epoch"]))
        self.finished = Finished(tuple(history), weights)

    def write_epoch(self) -> None:
        """Begin to write the epoch that was noted, if there is one."""
        self.wait()
        if self.finished is not None:
            finished, self.finished = self.finished, None
            weights = snapshot(finished.weights, "cpu")
            self.pending.append(self.thread.submit(write_finished, self.folder, finished._replace(weights=weights)))

    def write(self, checkpoint: dict[str, Any]) -> None:
        """Begin to write the epoch that was noted, and then a checkpoint."""
        self.write_epoch()
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
    def at_work(self) -> Iterator[None]:
        """A block at whose end nothing is being written any more.

        One that fails has the epoch written that was noted, so that it can be tested.
        """
        try:
            yield
        except Exception:
            self.write_epoch()
            self.wait()
            raise
        finally:
            self.thread.shutdown()


def write_finished(folder: Path, finished: Finished) -> None:
    """`model.pth`, where there are other weights, `history.csv` and `train_loss.log`, one row per epoch.

    The weights come first: a run that is killed in between has a shorter history, which the next one writes again.
    """
    import pandas as pd

    if finished.weights is not None:
        save_tensors(finished.weights, folder / WEIGHTS)
    (folder / "loss_curve.png").unlink(missing_ok=True)  # of fewer epochs, from when the run was stopped
    with atomic_write(folder / "history.csv") as file:
        pd.DataFrame(finished.history).to_csv(file, index=False)
    with atomic_write(folder / "train_loss.log") as file:
        file.writelines(f"epoch {row['epoch']} loss {row['train_loss']:.6f}\n" for row in finished.history)
