"""Train and test MATE on KEMDy19, KEMDy20 or both.

python main.py --SorL speaker --epochs 100
python main.py --data_path data/KEMDy19 data/KEMDy20_v1_1 --test_split KEMDy19:13-16,KEMDy20:1-8
python main.py --resume <experiment folder>
python main.py --test_only --test_path <experiment folder>
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from constants import EMOTIONS
from training.configuration import as_json
from training.devices import set_up_process
from training.options import parse_args
from training.processes import Processes, join, launched
from training.setup import Setup, begin, check_batch_size, open_folder
from utils import (
    InputError,
    find_run,
    lack_of_memory,
    lock_folder,
    new_folder,
    run_command,
    stop_requests,
    timestamp,
    write_json,
)

if TYPE_CHECKING:  # torch and pandas take seconds to import: --help does without, so functions import what they use
    import numpy as np
    import torch

    from corpora.sessions import Session
    from dataset import Batch, WindowDataset
    from features.utterances import Utterances
    from loss import Loss
    from reports.result import Context
    from training.run import Run


# What training and testing share


def prepare(options: argparse.Namespace, processes: Processes, train_sessions: list[Session] | None = None) -> Setup:
    """Pick the device, read the tables, check the sessions, and see what the data are.

    Parameters
    ----------
    train_sessions : of a trained model; without it, those that `--test_split` and `--valid_split` leave
    """
    from corpora.annotation import load_annotations
    from corpora.sessions import check_sessions, training_sessions
    from training.devices import pick_device
    from training.provenance import describe_data

    device = processes.device or pick_device(options.gpu_id)
    annotation = load_annotations(options.data_path, options.SorL)
    present = set(annotation.session.tolist())
    if train_sessions is None:
        train_sessions = training_sessions(present, options.test_split, options.valid_split)
    else:
        check_sessions(present, set(options.test_split), "--test_split")
    return Setup(device, annotation, train_sessions, describe_data(options, annotation.ids))


def load(options: argparse.Namespace, setup: Setup, processes: Processes) -> Utterances:
    """The utterances with their features; log-mels that a corpus's store lacks are computed."""
    from features.utterances import load_utterances

    utterances = load_utterances(options, setup.annotation, quiet=not processes.first)
    return utterances if options.num_workers else utterances.to(setup.device)  # worker processes have no GPU


# Training


class Training(NamedTuple):
    """The model, its loss and the windows of a run.

    facts : what a run that goes on must find again; environment : what it had better find again
    """

    model: torch.nn.Module
    loss_function: Loss
    train_set: WindowDataset
    valid_set: WindowDataset | None
    test_set: WindowDataset
    facts: dict
    environment: dict


def train(options: argparse.Namespace, given: Collection[str] = ()) -> Path:
    """Train, or go on with training, and test; return the experiment folder.

    Parameters
    ----------
    given : names of the options that the user gave
    """
    from reports.result import Context
    from reports.sentences import labels_of_sentences
    from training.folders import has_finished, options_to_resume, settle_sessions
    from training.run import Run
    from training.selection import describe_choice
    from training.state import load_weights

    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(join(options.gpu_id))
        folder = None
        if options.resume in (None, "auto"):
            options = processes.from_first(lambda: settle_sessions(options, given))
        if options.resume is not None:
            options, folder = processes.from_first(lambda: options_to_resume(options, given))
        if folder is not None:
            processes.from_first(lambda: stack.enter_context(lock_folder(folder, "training")))
            if processes.from_first(lambda: has_finished(folder)):
                return folder
        with processes.all_or_none():
            setup = prepare(options, processes)
        folder = processes.from_first(lambda: open_folder(options, setup, folder, stack))
        with processes.all_or_none():
            training = prepare_training(options, processes, setup)
        processes.from_first(lambda: begin(training.facts, training.environment, folder))
        received = stack.enter_context(stop_requests(quiet=not processes.first))
        model = training.model
        run = Run(folder, options, model, training.train_set, received=received, processes=processes)

        fit(run, training)

        model.zero_grad()  # the test needs the memory of the gradients
        with processes.all_or_none():
            if processes.first:
                tested = load_weights(model, folder / "model.pth") or run.progress.saved
        processes.spread(model.state_dict().values())
        loader = test_loader(options, training.test_set, processes)
        arrays = predict(options, model, run.test_batches(loader), len(loader), processes)
        if processes.first:
            majority = int(training.train_set.class_counts.argmax())
            sentences = labels_of_sentences(setup.annotation, training.train_set.targets)
            transcripts, why = training.test_set.transcripts, describe_choice(options)
            context = Context(transcripts, sentences, tested, options.epochs, why)
            report(folder, options, training.test_set, arrays, majority, context)
            run.finish()
        return folder


def prepare_training(options: argparse.Namespace, processes: Processes, setup: Setup) -> Training:
    """Everything that a run needs before its first step: what cannot be trained fails here."""
    import torch

    from dataset import WindowDataset
    from loss import make_loss
    from training.devices import environment, seed_everything
    from training.engine import build_model, to_device, trains_in_bfloat16
    from training.folders import speech_facts

    check_batch_size(options.batch_size, processes.size)
    seed_everything(options.seed)
    device, train_sessions = setup.device, setup.train_sessions
    utterances = load(options, setup, processes)
    bfloat16 = trains_in_bfloat16(options.precision, device)

    def windows(sessions: list[Session], **settings) -> WindowDataset:
        return WindowDataset(utterances, utterances.in_sessions(sessions), options.ws, **settings)

    audio_dtype = torch.bfloat16 if bfloat16 else torch.float32
    train_set = windows(train_sessions, soft_targets=True, crop_seed=options.seed, audio_dtype=audio_dtype)
    valid_set = windows(options.valid_split, soft_targets=True) if options.valid_split else None
    test_set = windows(options.test_split)
    if len(train_set) < options.batch_size:
        raise InputError(
            f"--batch_size {options.batch_size}: training has {len(train_set)} windows and drops its last partial "
            f"batch; give at most {len(train_set)}"
        )
    speech = utterances.speech
    model = to_device(build_model(options, speech_shape=speech and speech.shape), device)
    model = processes.synchronise_statistics(model)
    loss_function = make_loss(
        options.loss, options.lam, options.beta, train_set.class_counts, device, options.affect_loss
    )
    facts = {
        "train_split": train_sessions,
        "windows": {"train": len(train_set), "valid": len(valid_set or ()), "test": len(test_set)},
        "class_counts": dict(zip(EMOTIONS, train_set.class_counts.tolist(), strict=True)),
        "missing": utterances.missing,
    } | speech_facts(speech)
    now = environment(device) | {
        "training_precision": "bfloat16" if bfloat16 else "float32",
        "processes": processes.size,
    }
    return Training(model, loss_function, train_set, valid_set, test_set, facts, now)


def fit(run: Run, training: Training) -> None:
    """The training loop, from the run's checkpoint on if it has one."""
    from metric import validation_figures
    from reports.plots import plot_loss_curve, save_figure
    from training.engine import evaluate
    from training.graphs import make_step
    from training.selection import read_history

    options, bfloat16 = run.options, training.environment["training_precision"] == "bfloat16"
    valid_loader = test_loader(options, training.valid_set, run.processes) if training.valid_set else None
    loss_function = training.loss_function
    if options.affect_loss != "mse":  # the CCC of a batch is not the mean of its parts'
        loss_function = run.processes.of_whole_batch(loss_function)
    step = make_step(run, loss_function, bfloat16)
    try:
        with run.displayed(), run.explaining_failures():
            for epoch in run.epochs():
                run.trained.train()
                for batch in run.batches(epoch):
                    run.log(step(batch))
                    run.save_or_stop()
                validation = None
                if valid_loader:
                    batches, in_bfloat16 = run.validation_batches(valid_loader), options.precision == "bf16"
                    arrays, loss = evaluate(run.model, batches, training.loss_function, in_bfloat16, run.processes)
                    arrays["emotion"] = training.valid_set.majority  # the loss is that of the raters' shares
                    validation = {"loss": loss} | validation_figures(arrays, options.batch_size)
                run.end_epoch(validation)
    finally:  # also of a run that was stopped
        if run.processes.first and (history := read_history(run.folder)):
            save_figure(plot_loss_curve(history), run.folder / "loss_curve.png")


# Testing


def test_loader(
    options: argparse.Namespace, windows: WindowDataset, processes: Processes
) -> torch.utils.data.DataLoader:
    """The windows that this process evaluates, in order."""
    from dataset import ordered_loader
    from training.engine import evaluation_batch

    size = evaluation_batch(options.batch_size, processes.size)
    return ordered_loader(windows, size, options.num_workers, share=processes.share(len(windows)))


def predict(
    options: argparse.Namespace,
    model: torch.nn.Module,
    batches: Iterable[Batch],
    n_batches: int,
    processes: Processes,
) -> dict[str, np.ndarray]:
    """Predictions of the windows to test, with their labels; several processes get those of all."""
    from tqdm import tqdm

    from training.engine import NonFinite, evaluate, evaluation_batch

    bar = tqdm(batches, "testing", n_batches, unit="batch", disable=None if processes.first else True)
    try:
        return evaluate(model, bar, bfloat16=options.precision == "bf16", processes=processes)[0]
    except NonFinite as error:
        useless = InputError(f"{error}: these weights are of no use; train anew with a smaller --lr")
        raise processes.reported_by_first(useless) from error
    except (MemoryError, RuntimeError) as error:
        if (lack := lack_of_memory(error)) is None:
            raise
        size = evaluation_batch(options.batch_size, processes.size)
        raise InputError(
            f"{lack} in the test of {size} windows at once; test the run with --test_only and --gpu_id cpu, or a "
            "smaller --batch_size, which Precision, Recall and F1 depend on"
        ) from error


def report(
    folder: Path,
    options: argparse.Namespace,
    test_set: WindowDataset,
    arrays: dict[str, np.ndarray],
    majority: int,
    context: Context,
) -> None:
    """Write the files of a test into `folder` and print its report."""
    from corpora.registry import by_corpus
    from reports.dialogues import write_test_page
    from reports.result import describe_result, write_result

    result = write_result(folder, test_set.ids, arrays, majority, options.batch_size, context)
    if not options.no_pages:
        write_test_page(folder, options.data_path, options.SorL, options.audio_path)
    print(describe_result(result, folder, options.SorL, options.test_split, [*by_corpus(test_set.ids)]))


def test(args: argparse.Namespace, given: Collection[str]) -> Path:
    """Test an experiment folder, of this program or of the published one; return the new folder inside it."""
    from dataset import WindowDataset
    from features.utterances import commonest_label
    from reports.result import Context
    from reports.sentences import labels_of_sentences
    from training.devices import environment
    from training.engine import prefetch, to_device
    from training.folders import check_encoder, load_run, on_its_corpora, speech_facts, trained_on
    from training.provenance import as_stored, warn_of_test
    from training.selection import describe_choice, epoch_of_weights

    with join(args.gpu_id) as processes:
        with processes.all_or_none():
            chosen = {name: getattr(args, name) for name in {*given, "test_only", "test_path"}}
            trained = load_run(find_run(args.save_path, args.test_path), chosen)
            run = on_its_corpora(trained, given)
            options = run.options
            setup = prepare(options, processes, run.train_sessions)
            device, train_sessions = setup.device, setup.train_sessions
            if processes.first:
                n_parameters = sum(weight.numel() for weight in run.model.parameters())
                print(setup.describe(options, n_parameters, run.folder), flush=True)
            found = warn_of_test(run, options, setup.data)
            utterances = load(options, setup, processes)
        test_set = WindowDataset(utterances, utterances.in_sessions(options.test_split), options.ws)
        check_encoder(run, utterances.speech)
        majority = commonest_label(utterances, train_sessions, options.test_split)
        sentences = labels_of_sentences(utterances.annotation, utterances.in_sessions(train_sessions))
        epoch = run.epoch or epoch_of_weights(run.folder, options.select, options.monitor)
        loader = test_loader(options, test_set, processes)
        arrays = predict(options, to_device(run.model, device), prefetch(loader, device), len(loader), processes)
        folder = processes.from_first(lambda: new_folder(run.folder, f"test_{timestamp()}"))
        if processes.first:
            facts = {"data": as_stored(setup.data), "train_split": train_sessions, "missing": utterances.missing}
            facts |= {"processes": processes.size} | speech_facts(utterances.speech)
            if trained.corpora != run.corpora:
                facts |= trained_on(trained)
            write_json(folder / "configuration.json", as_json(options) | facts | environment(device))
            why = describe_choice(options)
            context = Context(test_set.transcripts, sentences, epoch, options.epochs, why, found)
            report(folder, options, test_set, arrays, majority, context)
        return folder


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options, given = parse_args(sys.argv[1:] if argv is None else argv)
    set_up_process()
    quiet = launched()[0] > 0
    return run_command(lambda: test(options, given) if options.test_only else train(options, given), quiet)


if __name__ == "__main__":
    sys.exit(main())
