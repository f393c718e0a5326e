"""The training run: how far it has come, what it writes, and how it stops. The loop in main.py asks it."""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from dataset import Batch, ShuffledBatches, WindowDataset, shuffled_loader
from model import MATE
from training.configuration import as_json, outcome_options
from training.engine import (
    NonFinite,
    make_optimizer,
    make_scheduler,
    prefetch,
    trains_in_bfloat16,
    with_compiled_cnn,
)
from training.processes import ALONE, Processes
from training.saving import CHECKPOINT, Saving
from training.selection import best_epoch, describe_epoch, is_exhausted
from training.state import Progress, Trainee, load_checkpoint, make_checkpoint
from training.utilisation import Utilisation, step_flop
from utils import (
    InputError,
    Interrupted,
    lack_of_memory,
    read_json,
    write_json,
)

SAVE = 1  # asks to save and to go on, where a signal's number asks to save and to stop; it is less than SIGINT's
CHECK_EVERY = 50  # steps between looks at the loss on a GPU, each of which waits for it


class Run:
    """A training run, in its experiment folder.

    Several processes train on equal parts of each batch, and stop after the same step, whichever got the signal.
    Process 0 alone writes and prints.

    Parameters
    ----------
    folder : the experiment folder, with its configuration; if it holds a checkpoint, the run goes on from there
    received : numbers of the signals that asked this process to stop, filled by `utils.stop_requests`
    """

    def __init__(
        self,
        folder: Path,
        options: argparse.Namespace,
        model: torch.nn.Module,
        train_set: WindowDataset,
        *,
        received: Sequence[int] = (),
        processes: Processes = ALONE,
    ) -> None:
        self.folder, self.options, self.model, self.train_set = folder, options, model, train_set
        self.received, self.processes = received, processes
        self.device = next(model.parameters()).device
        self.configuration = read_json(folder / "configuration.json")
        rates = options.lr, options.lr_decay, options.weight_decay, options.momentum
        self.optimizer = make_optimizer(options.optim, model, *rates)
        self.scheduler = make_scheduler(self.optimizer, options.epochs, options.lr_gamma)
        self.generator = torch.Generator().manual_seed(options.seed)
        part = slice(processes.rank, None, processes.size)
        weights = train_set.weights if options.sampler == "weighted" else None
        self.order = ShuffledBatches(len(train_set), options.batch_size, self.generator, part, weights)
        self.n_steps = len(self.order)
        self.progress = self.load_progress()
        self.losses = torch.zeros(0)  # of the epoch's steps
        self.saving = Saving(folder, options.save_minutes)
        self.trained = processes.average_gradients(self.compiled(model))
        self.utilisation = None
        if self.device.type == "cuda":
            flop = options.batch_size * step_flop(model, options.sr)
            bfloat16 = trains_in_bfloat16(options.precision, self.device)
            self.utilisation = Utilisation(flop, self.device, processes.size, bfloat16)

    def compiled(self, model: MATE) -> MATE:
        """The model as `--compile` has it trained, which shares its weights."""
        if not self.options.compile:
            return model
        has_cnn = hasattr(model, "audio_embedding")
        if self.processes.first:
            first = "the first step takes up to a minute" if has_cnn else "this model has no CNN to compile"
            print(f"--compile: {first}", flush=True)
        return with_compiled_cnn(model) if has_cnn else model

    @property
    def trainee(self) -> Trainee:
        return Trainee(self.model, self.optimizer, self.scheduler)

    @property
    def step(self) -> int:
        """Steps that are done, in all epochs."""
        return (self.progress.epoch - 1) * self.n_steps + self.progress.step

    def load_progress(self) -> Progress:
        """Where the checkpoint in the folder says that the run is, or its beginning."""
        path = self.folder / CHECKPOINT
        if not self.processes.from_first(path.exists):
            return Progress(1, 0, torch.zeros(0), self.generator.get_state())
        with self.processes.all_or_none():
            progress = load_checkpoint(path, self.configuration, self.trainee, self.options.epochs, self.n_steps)
        self.generator.set_state(progress.order)
        return progress

    # What the loop asks for

    def epochs(self) -> Iterator[int]:
        """The epochs that are not done, counted from 1; they end early where `--patience` does."""
        history, monitor, patience = self.progress.history, self.options.monitor, self.options.patience
        while self.progress.epoch <= self.options.epochs:
            if is_exhausted(history, monitor, patience):
                best = f"none since epoch {best_epoch(history, monitor)} had a better validation {monitor}"
                self.say(f"training stopped early, after {len(history)} of {self.options.epochs} epochs: {best}")
                return
            yield self.progress.epoch

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch whose steps are not done, on the device, made one ahead."""
        if self.utilisation is not None:
            self.utilisation.pause()
        self.train_set.set_epoch(epoch)
        self.order.skip = self.progress.step
        self.losses = torch.zeros(self.n_steps, device=self.device)
        self.losses[: self.progress.step] = self.progress.losses.to(self.device)
        yield from prefetch(shuffled_loader(self.train_set, self.order, self.options.num_workers), self.device)
        if not torch.stack([p.isfinite().all() for p in self.model.parameters()]).all():
            raise NonFinite(f"the weights are not finite after step {self.step}")

    def validation_batches(self, loader: DataLoader) -> Iterator[Batch]:
        """The batches of `loader` on the device; stops after one when a signal asks for it, and saves first."""
        self.processes.spread(self.model.buffers())
        for batch in prefetch(loader, self.device):
            yield batch
            if self.received and self.processes.size == 1:  # several have different batches: they stop at a step
                self.save(wait=True)
                self.stop(self.received[0], f"the validation of epoch {self.progress.epoch}")

    def test_batches(self, loader: DataLoader) -> Iterator[Batch]:
        """The batches of `loader` on the device; stops after one when a signal asks for it."""
        for batch in prefetch(loader, self.device):
            yield batch
            if self.received and self.processes.size == 1:
                self.stop(self.received[0], "testing")

    def log(self, loss: Tensor) -> None:
        """Note the loss of a step that is done.

        Raises
        ------
        NonFinite : it, or one before it, is not finite
        """
        at, first = self.progress.step, (self.progress.epoch - 1) * self.n_steps + 1
        self.losses[at] = self.processes.mean(loss)
        if (at + 1) % CHECK_EVERY == 0 or at + 1 == self.n_steps or self.device.type == "cpu":
            mean = self.losses[: at + 1].mean().item()
            if not math.isfinite(mean):
                bad = int((~self.losses.isfinite()).nonzero()[0])
                raise NonFinite(f"the loss is {self.losses[bad].item()} at step {first + bad}", bad)
            if self.utilisation is not None:
                self.utilisation.look(at)
            self.show(mean)
        self.progress.step += 1
        self.bar.update()

    def save_or_stop(self) -> None:
        """Save every `--save_every` steps and `--save_minutes`, and save and stop when a signal asked for it."""
        due = self.processes.first and self.saving.is_due()
        asked = self.processes.highest(self.received[0] if self.received else SAVE * due)
        if asked or (self.options.save_every and self.step % self.options.save_every == 0):
            self.save(wait=asked > SAVE)
        if asked > SAVE:
            self.stop(asked, f"step {self.step} of {self.options.epochs * self.n_steps}")

    def end_epoch(self, validation: Mapping[str, float] | None = None) -> None:
        """Note what an epoch gave: history, weights if they are the ones to test; save if it is time or all is done.

        `validation` holds its loss and `metric.validation_figures`; all processes take those of process 0.

        Raises
        ------
        NonFinite : the validation's loss is not finite
        InputError : it lacks the figure of `--monitor`
        """
        progress, epoch, monitor = self.progress, self.progress.epoch, self.options.monitor
        (validation, *_) = self.processes.gather([validation or {}])
        self.check_validation(validation)
        row = {"epoch": epoch, "lr": self.lr, "train_loss": self.losses.mean().item()}
        row |= {f"valid_{name}": value for name, value in validation.items()}
        self.scheduler.step()
        progress.history.append(row)
        with self.processes.all_or_none():
            if self.options.select == "last" or best_epoch(progress.history, monitor) == epoch:
                progress.saved = epoch
            if self.processes.first:
                self.saving.keep_epoch(progress.history, self.model if progress.saved == epoch else None)
                for name in row.keys() - {"epoch"}:
                    self.tensorboard.add_scalar(name, row[name], epoch)
        progress.epoch, progress.step, progress.order = epoch + 1, 0, self.generator.get_state()
        progress.losses = self.losses[:0]
        last = epoch == self.options.epochs or is_exhausted(progress.history, monitor, self.options.patience)
        if self.processes.highest(int(last or (self.processes.first and self.saving.is_due(after_epoch=True)))):
            self.save(wait=last)
        self.show_epoch(row)

    def check_validation(self, validation: Mapping[str, float]) -> None:
        """Raise an error where an epoch's validation cannot be kept, or cannot choose an epoch."""
        if not math.isfinite(validation.get("loss", 0)):
            raise NonFinite(f"the validation loss is {validation['loss']} after step {self.step}")
        if validation and self.options.monitor == "macro_f1" and "macro_f1" not in validation:
            lacking = "no window of --valid_split has a single majority label; take another"
            raise self.processes.reported_by_first(InputError(f"--monitor macro_f1: {lacking}"))

    def finish(self) -> None:
        """Note the utilisation beside the result, and take the checkpoint away."""
        if self.utilisation is not None and self.utilisation.steps:
            path = self.folder / "result.json"
            write_json(path, read_json(path) | {"utilisation": self.utilisation.as_json()})
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    # Saving and stopping

    def save(self, wait: bool = False) -> None:
        """Begin to write weights and checkpoint, or `wait` until they are written.

        Where a loss is not finite the last good ones stay, and the run stops soon.
        """
        self.progress.losses = self.losses[: self.progress.step].clone()
        with self.processes.all_or_none():  # others wait: one that ended would have its launcher stop process 0 as well
            if self.processes.first and self.progress.losses.isfinite().all():
                self.saving.write(make_checkpoint(self.configuration, self.trainee, self.progress))
                if wait:
                    self.saving.wait()

    def stop(self, signal_number: int, doing: str) -> None:
        """Raise `Interrupted`: all is saved."""
        command = f"main.py --resume {shlex.quote(str(self.folder))}"
        command = f"python {command}" if self.processes.size == 1 else f"{command}, under the same launcher"
        message = f"stopped in {doing}, all is saved; go on with: {command}"
        raise self.processes.reported_by_first(Interrupted(message, signal_number))

    # What the user sees

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def show(self, mean_loss: float) -> None:
        """Epoch, learning rate and loss beside the progress bar."""
        shown = {"epoch": f"{self.progress.epoch}/{self.options.epochs}", "lr": f"{self.lr:.1e}"}
        if self.utilisation is not None and self.utilisation.steps:
            shown["TFLOP/s"] = self.utilisation.describe()
        self.bar.set_postfix(shown | {"loss": f"{mean_loss:.3f}"}, refresh=False)

    def say(self, line: str) -> None:
        """Print a line on stderr, above the progress bar if there is one."""
        if self.processes.first:
            tqdm.write(line, file=sys.stderr)

    def show_epoch(self, row: Mapping[str, float]) -> None:
        """A line for an epoch that is done: of each in a log, of validated ones in a terminal, which has a bar."""
        if not self.bar.disable and "valid_loss" not in row:
            return
        line = describe_epoch(row, self.options.epochs)
        if "valid_loss" in row and best_epoch(self.progress.history, self.options.monitor) == row["epoch"]:
            line += f"; best {self.options.monitor} so far"
        if self.bar.disable:
            steps = self.options.epochs * self.n_steps
            left = (time.monotonic() - self.began) / max(1, self.step - self.first_step) * (steps - self.step)
            line += f"; {tqdm.format_interval(left)} left"
        self.say(line)

    @contextlib.contextmanager
    def displayed(self) -> Iterator[None]:
        """Show a progress bar if this is a terminal, and write TensorBoard's curves."""
        total, self.began, self.first_step = self.options.epochs * self.n_steps, time.monotonic(), self.step
        quiet = None if self.processes.first else True  # None: tqdm shows it in a terminal alone
        with contextlib.ExitStack() as stack:
            bar = tqdm(total=total, initial=self.step, desc="training", unit="step", dynamic_ncols=True, disable=quiet)
            self.bar = stack.enter_context(bar)
            if self.processes.first:
                self.tensorboard = SummaryWriter(str(self.folder), purge_step=self.progress.epoch)
                stack.enter_context(self.tensorboard)
                self.write_hyperparameters()
            yield

    def write_hyperparameters(self) -> None:
        """The options that decide the outcome, for TensorBoard's table of runs, with the curves that it shows there."""
        options = outcome_options(as_json(self.options))
        shown = {name: str(value) if isinstance(value, list) else value for name, value in options.items()}
        curves = ["train_loss"]
        if self.options.valid_split:
            names = ("loss", "f1", "accuracy", "macro_f1", "ccc_arousal", "ccc_valence")
            curves += [f"valid_{name}" for name in names]
        for summary in hparams(shown, dict.fromkeys(curves, 0)):
            self.tensorboard.file_writer.add_summary(summary)

    @contextlib.contextmanager
    def explaining_failures(self) -> Iterator[None]:
        """Turn a loss that is not finite, lack of memory and a failed compilation into one line; write what is kept."""
        try:
            with self.saving.at_work():
                yield
        except NonFinite as error:
            batch = [] if error.batch is None else self.order.batches[error.batch]
            of = f" (windows {', '.join(self.train_set.ids[index] for index in batch)})" if batch else ""
            stopped = InputError(f"{error}{of}: training stopped, {self.describe_saved()}; try a smaller --lr")
            raise self.processes.reported_by_first(stopped) from error
        except (MemoryError, RuntimeError) as error:
            if (lack := lack_of_memory(error)) is not None:  # every process reports its own
                remedy = smaller_batch(self.options.batch_size, self.processes.size)
                saved = f"training stopped, {self.describe_saved()}"
                raise InputError(f"{lack} at step {self.step + 1}: {saved}; {remedy}") from error
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = str(error).strip().splitlines()[0]
            useless = InputError(f"--compile: torch cannot compile the model ({reason}); leave it out")
            raise self.processes.reported_by_first(useless) from error

    def describe_saved(self) -> str:
        """What the folder holds of the run so far."""
        saved = self.progress.saved
        weights = f"keeps the weights of epoch {saved}" if saved else "holds no weights yet"
        checkpoint = f" and {CHECKPOINT} from before" if (self.folder / CHECKPOINT).exists() else ""
        return f"{self.folder} {weights}{checkpoint}"


def smaller_batch(batch_size: int, n_processes: int) -> str:
    """What to try when memory does not suffice for `--batch_size`."""
    smallest = 2 * n_processes
    if batch_size <= smallest:
        return f"--batch_size {batch_size} is the smallest; try a smaller model, or --gpu_id cpu in place of a GPU"
    half = max(smallest, batch_size // 2 // n_processes * n_processes)
    return f"try --batch_size {half} in place of {batch_size}, in a new run"
