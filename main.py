"""Train and test MATE on KEMDy19.

python main.py --SorL speaker --epochs 100
python main.py --resume <experiment folder>
python main.py --test_only --test_path <experiment folder>
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from constants import (
    EMOTIONS,
    MAX_RATE,
    SAMPLE_RATE,
)
from corpora.kemdy19 import N_SESSIONS, SEGMENT_ID
from training.options import (
    CALL,
    CORPUS,
    MODEL,
    TEST,
    TRAINING,
    as_json,
    identity,
    names_of,
    parse_args,
    read_options,
    sessions,
)
from training.processes import ALONE, Processes, join, launched
from utils import (
    InputError,
    Interrupted,
    atomic_write,
    environment,
    find_run,
    keep_freed_memory,
    lack_of_memory,
    load_weights,
    lock_folder,
    memory_size,
    new_folder,
    pick_device,
    read_json,
    run_command,
    save_safetensors,
    save_weights,
    seed_everything,
    stop_requests,
    timestamp,
    write_json,
)

if TYPE_CHECKING:  # torch, pandas and the rest take seconds to import: --help does without
    import numpy as np
    import torch

    from dataset import Annotation, ShuffledBatches, WindowDataset
    from features.log_mel import LogMels
    from loss import Loss

CHECKPOINT = "checkpoint.pt"  # in an experiment folder, until its run has finished

# Wiring


class Corpus(NamedTuple):
    """The utterances of one role and what the model is given of them; a modality that is left out is None."""

    annotation: Annotation
    log_mels: LogMels | None
    text: torch.Tensor | None  # float32 sentence embeddings, shape = (N, text_dim)
    missing: dict[str, list[str]]  # segment ids without wav, without text

    def windows(
        self,
        sessions: list[int],
        ws: int,
        soft_targets: bool,
        crop_seed: int | None = None,
        audio_dtype: torch.dtype | None = None,
    ) -> WindowDataset:
        """The windows whose last utterance is of these sessions; their log-mels are float32 unless told otherwise."""
        import numpy as np
        import torch

        from dataset import WindowDataset

        targets = np.flatnonzero(np.isin(self.annotation.session, sessions))
        arguments = (self.annotation, targets, ws, self.log_mels, self.text, soft_targets, crop_seed)
        return WindowDataset(*arguments, audio_dtype or torch.float32)

    def to(self, device: torch.device) -> Corpus:
        """The same on a GPU if it fits into a quarter of the memory that is free there, else as it is."""
        import torch

        held = [t for t in (self.log_mels and self.log_mels.frames, self.text) if t is not None]
        if device.type != "cuda" or sum(t.nbytes for t in held) > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        return self._replace(
            log_mels=None if self.log_mels is None else self.log_mels.to(device),
            text=None if self.text is None else self.text.to(device),
        )


def load_annotation(args: argparse.Namespace) -> Annotation:
    """The utterances of the side `--SorL` in `--data_path`."""
    from dataset import read_annotation

    if not args.data_path.is_dir():
        raise InputError(
            f"{args.data_path}: no such folder; pass --data_path, or put KEMDy19 there (data/README.md), or make the "
            "sample with 'python data/make_sample.py' and pass --data_path data/sample"
        )
    return read_annotation(args.data_path / f"df_{args.SorL}.csv")


def load_corpus(args: argparse.Namespace, annotation: Annotation, shows: bool = True) -> Corpus:
    """What the model of `--modality` is given of these utterances.

    It `shows` how log-mels are computed; where they are kept, the one process that computes them does so in any case.
    """
    import numpy as np
    import torch

    from corpora.problems import report_missing
    from corpora.wavs import find_wavs
    from features.embeddings import load_embeddings
    from features.log_mel import LogMels, stored_frames

    log_mels, text, missing = None, None, {}
    if "text" in args.modality:
        path = args.data_path / f"embedding_{args.text_dim}.npy"
        vectors = load_embeddings(path, args.text_dim)
        keys = [f"{segment}.txt" for segment in annotation.ids]
        missing["text"] = report_missing(annotation.ids, [key not in vectors for key in keys], "text", str(path))
        zeros = np.zeros(args.text_dim, dtype=np.float32)
        text = torch.from_numpy(np.stack([vectors.get(key, zeros) for key in keys]))
    if "audio" in args.modality:
        wavs, where = find_wavs(args.data_path, args.audio_path)
        wavs = {segment: path for segment, path in wavs.items() if SEGMENT_ID.fullmatch(segment)}
        absent = [segment not in wavs for segment in annotation.ids]
        report_missing(annotation.ids, absent, "wav", where, warn=False)  # before the minute that log-mels may take
        dtype = getattr(torch, args.feature_dtype)
        if args.no_cache:
            paths = [wavs.get(segment) for segment in annotation.ids]
            log_mels = LogMels(paths, args.sr, dtype, progress=shows)
        else:
            folder = args.data_path / "features"
            log_mels = LogMels(stored_frames(folder, wavs, annotation.ids, args.sr, dtype, progress=True), args.sr)
        absent = [gone or number in log_mels.faults for number, gone in enumerate(absent)]
        reason = next(iter(log_mels.faults.values()), "")
        missing["wav"] = report_missing(annotation.ids, absent, "wav", where, reason)
    return Corpus(annotation, log_mels, text, missing)


def training_sessions(there: set[int], test_split: list[int], valid_split: list[int] | None) -> list[int]:
    """The sessions to train on: those of the corpus that are neither tested nor validated on.

    Raises
    ------
    InputError : a session is tested and validated on, is not in the corpus, or none is left
    """
    held_out = {"--test_split": set(test_split), "--valid_split": set(valid_split or [])}
    both = set.intersection(*held_out.values())
    if both:
        raise InputError(f"--valid_split and --test_split share sessions {sorted(both)}")
    for option, split in held_out.items():
        check_sessions(there, split, option)
    left = there.difference(*held_out.values())
    if not left:
        raise InputError(f"no session is left to train on: the corpus has {sorted(there)}")
    return sorted(left)


def check_sessions(there: set[int], split: set[int], option: str) -> None:
    """Raise `InputError` when a session in `split` is not in the corpus: a part of a fold is no fold."""
    absent = sorted(split - there)
    if absent:
        raise InputError(f"{option}: the corpus has no utterance of sessions {absent}; it has {sorted(there)}")


def make_loader(
    dataset: WindowDataset,
    batch_size: int,
    num_workers: int,
    order: ShuffledBatches | None = None,
    share: range | None = None,
) -> torch.utils.data.DataLoader:
    """Batches of `dataset`: those of `order`, or without it all windows in order, or those of a `share`."""
    from torch.utils.data import DataLoader

    from dataset import unchanged

    sampling = {"batch_size": batch_size, "sampler": share}
    if order is not None:
        sampling = {"batch_sampler": order, "generator": order.generator}
    return DataLoader(dataset, num_workers=num_workers, collate_fn=unchanged, **sampling)


def build_model(args: argparse.Namespace) -> torch.nn.Module:
    """The MATE that the arguments describe, its convolutions channels-last: 0.7 of the time of contiguous ones.

    Raises
    ------
    InputError : it takes more than this machine's memory
    """
    import torch

    from model import MATE

    mate = partial(
        MATE,
        backbone=args.backbone,
        hidden_size=args.hidden_size,
        num_layers=args.num_layers,
        bidirectional=args.bidirectional,
        text_dim=args.text_dim,
        ws=args.ws,
        sr=args.sr,
        concat=not args.no_concat,
        modality=args.modality,
    )
    with torch.device("meta"):  # without memory: a system may give more than it has and kill the program later
        n_bytes = sum(weight.nbytes for weight in mate().parameters())
    if not args.test_only and not torch.cuda.is_available():
        n_bytes *= 3  # with gradients, and what the optimizer keeps
    if n_bytes > (memory := memory_size()):
        raise InputError(
            f"--hidden_size {args.hidden_size}, --num_layers {args.num_layers}, --ws {args.ws}, --text_dim "
            f"{args.text_dim}: the model takes {n_bytes / 1e9:.0f} GB, this machine has {memory / 1e9:.0f} GB; give "
            "smaller ones"
        )
    model = mate()
    if model.uses_audio:
        model.audio_embedding.to(memory_format=torch.channels_last)
    return model


def find_unfinished(args: argparse.Namespace) -> Path | None:
    """The newest experiment folder in `--save_path` of this configuration that has no result and is not trained in.

    One that was killed between its result and its end counts too: it has both a result and a checkpoint.
    """
    folders = [path.parent for path in args.save_path.glob("*/configuration.json")]
    wanted = identity(as_json(args))
    for folder in sorted(folders, key=lambda folder: (folder / "configuration.json").stat().st_mtime, reverse=True):
        if (folder / "result.json").exists() and not (folder / CHECKPOINT).exists():
            continue
        with contextlib.suppress(InputError):
            stored = read_json(folder / "configuration.json")
            if "versions" in stored and identity(stored) == wanted:
                with lock_folder(folder, "training"):  # of a match alone: another's owner may be about to lock it
                    return folder
    return None


def configure_resume(args: argparse.Namespace, given: set[str]) -> tuple[argparse.Namespace, Path | None]:
    """Arguments of a run that goes on, and its folder; None where `--resume auto` finds none to go on with.

    Raises
    ------
    InputError : there is no such folder, or the user gave an option that contradicts its configuration
    """
    if args.resume == "auto":
        folder = find_unfinished(args)
        found = "no unfinished run of this configuration, a new one begins" if folder is None else f"resuming {folder}"
        print(f"{args.save_path}: {found}")
        return args, folder
    folder = find_run(args.save_path, args.resume)
    path = folder / "configuration.json"
    configured, stored = argparse.Namespace(**vars(args)), read_json(path)
    if "versions" not in stored:
        raise InputError(f"{path}: of the published program, whose runs cannot go on; train anew, or test it")
    for name, value in read_options(path, stored).items():
        if name not in given:
            setattr(configured, name, value)
        elif name not in names_of(CALL, CORPUS) and getattr(args, name) != value:
            raise InputError(f"--{name} {getattr(args, name)}: the run in {folder} has {value}; leave it out")
    return configured, folder


def train(args: argparse.Namespace, given: Set[str] = frozenset()) -> Path:
    """Train, or go on with training, test, and return the experiment folder; `given` are the names the user gave."""
    import torch

    from loss import make_loss
    from training.engine import has_bfloat16

    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(join(args.gpu_id))
        folder = None
        if args.resume is not None:
            args, folder = processes.from_first(lambda: configure_resume(args, given))
        if folder is not None and processes.from_first(lambda: begin_again(folder, stack)):
            return folder
        with processes.together():
            check_batch_size(args.batch_size, processes.size)
            if args.lr * args.lr_gamma**2 > MAX_RATE:
                raise InputError(
                    f"--lr {args.lr}, --lr_gamma {args.lr_gamma}: the learning rate would exceed {MAX_RATE:g}"
                )
            device = processes.device or pick_device(args.gpu_id)
            bfloat16 = args.precision == "bf16" or (args.precision == "auto" and has_bfloat16(device))
            seed_everything(args.seed)
            annotation = load_annotation(args)
            train_split = training_sessions(set(annotation.session.tolist()), args.test_split, args.valid_split)
            corpus = load_corpus(args, annotation, shows=processes.first)
            if not args.num_workers:  # those have no GPU
                corpus = corpus.to(device)
            audio_dtype = torch.bfloat16 if bfloat16 else torch.float32
            train_set = corpus.windows(train_split, args.ws, True, crop_seed=args.seed, audio_dtype=audio_dtype)
            valid_set = corpus.windows(args.valid_split, args.ws, soft_targets=True) if args.valid_split else None
            test_set = corpus.windows(args.test_split, args.ws, soft_targets=False)
            if len(train_set) < args.batch_size:
                raise InputError(
                    f"--batch_size {args.batch_size}: training has {len(train_set)} windows and drops its last partial "
                    f"batch; give at most {len(train_set)}"
                )
            model = processes.synchronise_statistics(build_model(args).to(device))
            loss_function = make_loss(args.loss, args.lam, args.beta, train_set.class_counts, device)

        facts = {
            "train_split": train_split,
            "windows": {"train": len(train_set), "valid": len(valid_set or ()), "test": len(test_set)},
            "class_counts": dict(zip(EMOTIONS, train_set.class_counts.tolist(), strict=True)),
            "missing": corpus.missing,
        }
        now = environment(device) | {"training_precision": "bfloat16" if bfloat16 else "float32"}
        now |= {"processes": processes.size}

        def begin() -> Path:
            if folder is not None:
                warn_of_changes(folder, facts, now)
                return folder
            new = new_folder(args.save_path, f"{args.backbone}_{args.SorL}_{args.optim}_{args.ws}_{timestamp()}")
            stack.enter_context(lock_folder(new, "training"))
            write_json(new / "configuration.json", as_json(args) | facts | now)
            return new

        folder = processes.from_first(begin)
        received = stack.enter_context(stop_requests(says=processes.first))
        fit(args, model, loss_function, train_set, valid_set, device, folder, received, bfloat16, processes)
        model.zero_grad()  # the memory of gradients is for the test
        with processes.together():
            if processes.first:
                load_weights(model, folder / "model.pth")
                save_safetensors(model, folder / "model.safetensors")
        processes.spread(model.state_dict().values())

        def on_batch() -> None:
            if processes.size == 1:  # several have batches of their own, and cannot agree on one to stop at
                stop_if_asked(received[0] if received else 0, folder, "testing")

        arrays = predict(args, model, test_set, device, on_batch, processes)
        if processes.first:
            report_test(args, folder, corpus, test_set, arrays, int(train_set.class_counts.argmax()))
            (folder / CHECKPOINT).unlink(missing_ok=True)
        return folder


def begin_again(folder: Path, stack: contextlib.ExitStack) -> bool:
    """Lock the folder of a run that goes on; return whether it has finished already, and say so."""
    stack.enter_context(lock_folder(folder, "training"))
    if not (folder / "result.json").exists():
        return False
    (folder / CHECKPOINT).unlink(missing_ok=True)  # of a run that was killed behind its last line
    print(f"{folder}: finished already, its report is in {folder / 'result.json'}")
    return True


def check_batch_size(batch_size: int, n_processes: int) -> None:
    """Raise `InputError` when batch norm cannot train on the part of a batch that a process gets."""
    if n_processes > 1 and (batch_size % n_processes or batch_size < 2 * n_processes):
        raise InputError(
            f"--batch_size {batch_size}: {n_processes} processes take equal parts of a batch, of at least 2 windows; "
            f"give a multiple of {n_processes}, at least {2 * n_processes}"
        )
    if batch_size < 2:
        raise InputError("--batch_size 1: batch norm cannot train on a single window; give at least 2")


def smaller_batch(batch_size: int, n_processes: int) -> str:
    """What to try when memory does not suffice for `--batch_size`."""
    smallest = 2 * n_processes
    if batch_size <= smallest:
        return f"--batch_size {batch_size} is the smallest; try a smaller model, or --gpu_id cpu in place of a GPU"
    half = max(smallest, batch_size // 2 // n_processes * n_processes)
    return f"try --batch_size {half} in place of {batch_size}, in a new run"


def warn_of_changes(folder: Path, facts: dict[str, Any], now: dict[str, Any]) -> None:
    """Warn of another version or device than the run began with.

    Raises
    ------
    InputError : the corpus is another than the run began with
    """
    path = folder / "configuration.json"
    stored = read_json(path)
    for name, value in facts.items():
        if stored.get(name) != value:
            raise InputError(
                f"{path}: {name} is {stored.get(name)}, the corpus now gives {value}; a run goes on with the corpus it "
                "began with, or is trained anew"
            )
    changed = [f"{name} {stored.get(name)} is {value} now" for name, value in now.items() if stored.get(name) != value]
    if changed:
        warnings.warn(f"{folder}: {'; '.join(changed)}: the result may differ from an undisturbed run's", stacklevel=2)


def stop_if_asked(number: int, folder: Path, doing: str, processes: Processes = ALONE) -> None:
    """Raise `Interrupted` when the signal of this number was received; 0 is none."""
    if number:
        command = f"main.py --resume {shlex.quote(str(folder))}"
        command = f"python {command}" if processes.size == 1 else f"{command}, under the same launcher"
        raise processes.told_once(Interrupted(f"stopped in {doing}, all is saved; go on with: {command}", number))


def fit(
    args: argparse.Namespace,
    model: torch.nn.Module,
    loss_function: Loss,
    train_set: WindowDataset,
    valid_set: WindowDataset | None,
    device: torch.device,
    folder: Path,
    received: list[int],
    bfloat16: bool,
    processes: Processes,
) -> None:
    """Train up to `--epochs`, from the checkpoint in `folder` if there is one, writing weights and history after each.

    After each epoch, every `--save_every` steps, and when a signal is `received`, the checkpoint is written anew.
    Several processes train on equal parts of each batch, and stop behind the same step, whichever got the signal.
    """
    import torch
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    from dataset import ShuffledBatches
    from reports.plots import plot_loss_curve, save_figure
    from training.engine import NonFinite, evaluate, evaluation_batch, make_optimizer, make_scheduler, train_one_epoch
    from training.state import Progress, digest, load_checkpoint, save_checkpoint

    optimizer = make_optimizer(args.optim, model, args.lr, args.lr_decay, args.weight_decay)
    scheduler = make_scheduler(optimizer, args.epochs, args.lr_gamma)
    generator = torch.Generator().manual_seed(args.seed)
    part = slice(processes.rank, None, processes.size)
    order = ShuffledBatches(len(train_set), args.batch_size, generator, part)
    n_steps = len(order)
    train_loader = make_loader(train_set, args.batch_size, args.num_workers, order)
    valid_loader = None
    if valid_set:
        share = processes.share(len(valid_set))
        size = evaluation_batch(args.batch_size, processes.size)
        valid_loader = make_loader(valid_set, size, args.num_workers, share=share)
    decides = {name: as_json(args)[name] for name in names_of(MODEL, TRAINING, TEST)}
    run, checkpoint = digest(decides), folder / CHECKPOINT
    progress = Progress(1, 0, torch.zeros(0), generator.get_state())
    if processes.from_first(checkpoint.exists):
        with processes.together():
            progress = load_checkpoint(checkpoint, run, model, optimizer, scheduler, args.epochs, n_steps)
        generator.set_state(progress.order)
    history = progress.history
    trained = torch.compile(model, dynamic=False) if args.compile else model  # with the same parameters
    trained = processes.average_gradients(trained)

    def save() -> None:
        with processes.together():  # the others wait: one that ended would have its launcher stop process 0 as well
            # Without finite losses the last good one stays, and the next look at the loss stops the run
            if processes.first and progress.losses.isfinite().all():
                save_checkpoint(checkpoint, run, model, optimizer, scheduler, progress)

    def kept() -> str:
        weights = f"keeps the weights of epoch {progress.saved}" if progress.saved else "holds no weights yet"
        return f"{folder} {weights}" + (f" and {CHECKPOINT} from before" if checkpoint.exists() else "")

    try:
        with (
            tqdm(
                total=args.epochs * n_steps,
                initial=(progress.epoch - 1) * n_steps + progress.step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
                disable=not processes.first,
            ) as bar,
            contextlib.ExitStack() as stack,
        ):
            if processes.first:
                tensorboard = stack.enter_context(SummaryWriter(str(folder), purge_step=progress.epoch))
            for epoch in range(progress.epoch, args.epochs + 1):
                row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"]}
                shown = {"epoch": f"{epoch}/{args.epochs}", "lr": f"{row['lr']:.1e}"}
                shown |= {"valid": f"{history[-1]['valid_loss']:.3f}"} if history and valid_loader else {}
                losses = torch.zeros(n_steps, device=device)
                losses[: progress.step] = progress.losses.to(device)
                first_step = (epoch - 1) * n_steps + 1

                def on_step(
                    mean_loss: float | None,
                    shown: dict[str, str] = shown,
                    losses: torch.Tensor = losses,
                    first_step: int = first_step,
                ) -> None:
                    if mean_loss is not None:
                        bar.set_postfix(shown | {"loss": f"{mean_loss:.3f}"}, refresh=False)
                    bar.update()
                    progress.step += 1
                    step = first_step + progress.step - 1
                    asked = processes.highest(received[0] if received else 0)
                    if asked or (args.save_every and step % args.save_every == 0):
                        progress.losses = losses[: progress.step]
                        save()
                    stop_if_asked(asked, folder, f"step {step} of {args.epochs * n_steps}", processes)

                def on_batch(losses: torch.Tensor = losses, epoch: int = epoch) -> None:
                    # Several processes have batches of their own: they stop at the next step
                    if received and processes.size == 1:
                        progress.losses = losses
                        save()
                        stop_if_asked(received[0], folder, f"the validation of epoch {epoch}")

                train_set.set_epoch(epoch)
                order.skip = progress.step
                try:
                    arguments = (trained, train_loader, loss_function, optimizer, device, first_step, on_step, losses)
                    row["train_loss"] = train_one_epoch(*arguments, bfloat16, processes=processes)
                    if valid_loader:
                        processes.spread(model.buffers())
                        arguments = (model, valid_loader, device, loss_function, None, on_batch)
                        _, row["valid_loss"] = evaluate(
                            *arguments, bfloat16=args.precision == "bf16", processes=processes
                        )
                except NonFinite as error:
                    batch = [] if error.batch is None else order.batches[error.batch]
                    of = f" (windows {', '.join(train_set.ids[index] for index in batch)})" if batch else ""
                    stopped = InputError(f"{error}{of}: training stopped, {kept()}; try a smaller --lr")
                    raise processes.told_once(stopped) from error
                except (MemoryError, RuntimeError) as error:
                    if (lack := lack_of_memory(error)) is not None:  # every process speaks of its own
                        at, less = first_step + progress.step, smaller_batch(args.batch_size, processes.size)
                        raise InputError(f"{lack} at step {at}: training stopped, {kept()}; {less}") from error
                    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                        raise
                    reason = str(error).strip().splitlines()[0]
                    useless = InputError(f"--compile: torch cannot compile the model ({reason}); leave it out")
                    raise processes.told_once(useless) from error
                scheduler.step()
                history.append(row)
                if args.select == "last" or row["valid_loss"] < progress.best:
                    progress.saved, progress.best = epoch, row.get("valid_loss", progress.best)
                    with processes.together():
                        if processes.first:
                            save_weights(model, folder / "model.pth")
                with processes.together():
                    if processes.first:
                        write_history(history, folder)
                        for name in row.keys() - {"epoch"}:
                            tensorboard.add_scalar(name, row[name], epoch)
                progress.epoch, progress.step, progress.losses = epoch + 1, 0, torch.zeros(0)
                progress.order = generator.get_state()
                save()
    finally:  # also when it is interrupted
        if history and processes.first:
            save_figure(plot_loss_curve(history), folder / "loss_curve.png")


def write_history(history: list[dict[str, float]], folder: Path) -> None:
    """`history.csv` and `train_loss.log`, a row an epoch."""
    import pandas as pd

    with atomic_write(folder / "history.csv") as file:
        pd.DataFrame(history).to_csv(file, index=False)
    with atomic_write(folder / "train_loss.log") as file:
        file.writelines(f"epoch {row['epoch']} loss {row['train_loss']:.6f}\n" for row in history)


def predict(
    args: argparse.Namespace,
    model: torch.nn.Module,
    test_set: WindowDataset,
    device: torch.device,
    on_batch: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> dict[str, np.ndarray]:
    """Predictions of the windows to test, with their targets; `on_batch` is called after each batch.

    Several processes test a share of the windows each, and all get the predictions of all.
    """
    from training.engine import NonFinite, evaluate, evaluation_batch

    size = evaluation_batch(args.batch_size, processes.size)
    loader = make_loader(test_set, size, args.num_workers, share=processes.share(len(test_set)))
    shown = "testing" if processes.first else None
    try:
        bfloat16 = args.precision == "bf16"
        return evaluate(model, loader, device, None, shown, on_batch, bfloat16=bfloat16, processes=processes)[0]
    except NonFinite as error:
        useless = InputError(f"{error}: these weights are of no use; train anew with a smaller --lr")
        raise processes.told_once(useless) from error
    except (MemoryError, RuntimeError) as error:
        if (lack := lack_of_memory(error)) is None:
            raise
        raise InputError(
            f"{lack} in the test of {size} windows at once; test the run with --test_only and --gpu_id cpu, or a "
            "smaller --batch_size, which Precision, Recall and F1 depend on"
        ) from error


def report_test(
    args: argparse.Namespace,
    folder: Path,
    corpus: Corpus,
    test_set: WindowDataset,
    arrays: dict[str, np.ndarray],
    majority: int,
) -> None:
    """Write a test's files into `folder` and print its report."""
    from reports.result import describe_result, write_result

    result = write_result(folder, test_set.ids, arrays, majority, args.batch_size)
    print(describe_result(result, folder, args.SorL, args.test_split))


def configure_test(args: argparse.Namespace, given: set[str], path: Path) -> argparse.Namespace:
    """Arguments of a test: the configuration of the trained model, and over it what the user gave of `TEST_OPTIONS`.

    Adds `train_split`, the sessions that were trained on: where the configuration does not say, all others than its
    test and validation sessions.

    Raises
    ------
    InputError : the configuration holds an impossible value, or the user gave an option that contradicts it
    """
    stored = read_json(path)
    if "versions" not in stored:  # the published program's: its --sr had no effect, and it always had four layers
        stored |= {"sr": SAMPLE_RATE, "num_layers": 4}
    configured, trained = argparse.Namespace(**vars(args)), read_options(path, stored, names_of(TRAINING))
    for name, value in trained.items():
        if name not in given:
            setattr(configured, name, value)
        elif name not in names_of(CALL, CORPUS, TEST) and getattr(args, name) != value:
            raise InputError(f"--{name} {getattr(args, name)}: the model in {path.parent} was trained with {value}")
    if "train_split" in stored:
        try:
            configured.train_split = sessions(str(stored["train_split"]))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{path}: train_split: {error}") from error
        splits = [{*configured.train_split}, {*trained.get("test_split", ())}, {*(trained.get("valid_split") or ())}]
        if shared := sorted(s for s in range(1, N_SESSIONS + 1) if sum(s in split for split in splits) > 1):
            raise InputError(
                f"{path}: sessions {shared} are in two of train_split, test_split and valid_split, which main.py never "
                "writes; take the configuration that the model was trained with"
            )
    else:
        held_out = {*trained.get("test_split", args.test_split), *(trained.get("valid_split") or [])}
        configured.train_split = [s for s in range(1, N_SESSIONS + 1) if s not in held_out]
    return configured


def test(args: argparse.Namespace, given: set[str]) -> Path:
    """Test an experiment folder, of this program or of the published one; return the new folder inside it."""
    import numpy as np

    with join(args.gpu_id) as processes:
        with processes.together():
            run = find_run(args.save_path, args.test_path)
            args = configure_test(args, given, run / "configuration.json")
            device = processes.device or pick_device(args.gpu_id)
            model = build_model(args)
            load_weights(model, run / "model.pth")
            annotation = load_annotation(args)
            session = annotation.session
            check_sessions(set(session.tolist()), set(args.test_split), "--test_split")
            corpus = load_corpus(args, annotation, shows=processes.first)
            if not args.num_workers:
                corpus = corpus.to(device)
        test_set = corpus.windows(args.test_split, args.ws, soft_targets=False)
        seen = sorted(set(args.train_split) & set(args.test_split))
        if seen:
            warnings.warn(f"the model was trained on sessions {seen}, which are tested here", stacklevel=2)
        trained = np.isin(session, args.train_split)
        if not trained.any():
            warnings.warn(
                "the corpus has no training session: the majority is that of the tested windows", stacklevel=2
            )
            trained = np.isin(session, args.test_split)
        majority = int(annotation.majority[trained].sum(axis=0).argmax())
        arrays = predict(args, model.to(device), test_set, device, processes=processes)

        def report() -> Path:
            folder = new_folder(run, f"test_{timestamp()}")
            facts = {"missing": corpus.missing} | environment(device) | {"processes": processes.size}
            write_json(folder / "configuration.json", as_json(args) | facts)
            report_test(args, folder, corpus, test_set, arrays, majority)
            return folder

        return processes.from_first(report)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args, given = parse_args(sys.argv[1:] if argv is None else argv)
    # Read when torch starts. Threads wait awake for a little while only: 4% slower alone, and 1.6 times as fast when
    # another program wants the processor too
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what repeatable LSTMs on a GPU need
    keep_freed_memory()
    speaks = launched()[0] == 0
    return run_command(lambda: test(args, given) if args.test_only else train(args, given), warns=speaks)


if __name__ == "__main__":
    sys.exit(main())
