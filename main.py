"""Train and test MATE on KEMDy19, KEMDy20 or a corpus in the same layout."""

from __future__ import annotations

import sys

from training.options import parse_args

if __name__ == "__main__":  # answers --help and mistyped options before the imports below, which take seconds
    parse_args(sys.argv[1:])

import argparse
import contextlib
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from corpora.sessions import check_sessions, parse_sessions, training_sessions
from corpora.utterances import read_utterances
from dataset import WindowDataset, prefetch, shuffled_batches, windows_of
from loss import Loss, make_loss
from metric import validation_figures
from model import MATE
from reports.plots import plot_loss_curve, save_figure
from reports.predictions import predictions_table
from reports.result import result_of_test, result_text
from reports.run_files import write_other_texts, write_test
from training import batch_norm, checkpoint, devices, engine, progress, record
from training.data_record import data_record, encoders_text
from utils import InputError, new_folder, run_command

SAVE_SECONDS = 60  # minimum time between two checkpoints
CHECK_EVERY = 50  # steps between updates of the shown loss on a GPU: reading the loss waits for the GPU


def train(options: argparse.Namespace, on_epoch: Callable[[int, dict[str, float]], object] | None = None) -> Path:
    """Train a new run with the options of `make_options`, or resume a run; test it, and return its folder.

    `on_epoch` is called after each epoch with its number and its figures, named as in history.csv. An exception in it,
    such as optuna.TrialPruned, ends the run. Raises `InputError` if the options, the corpus or the folder cannot be
    used, or if training fails.
    """
    with devices.joined_processes(options) as (accelerator, device), contextlib.ExitStack() as stack:
        # 1. The record of the run (options, data, environment), and the folder of a resumed run
        first, folder = accelerator.is_main_process, None  # only the first process writes and prints
        if options.resume not in (None, "auto"):
            folder = record.find_run(options.save_path, options.resume)
            options = record.options_to_resume(folder, options)
            if (folder / "result.json").exists():
                (folder / checkpoint.CHECKPOINT).unlink(missing_ok=True)  # the run was killed after writing its result
                devices.on_main_process(accelerator, lambda: print(f"{folder}: already finished"))
                return folder
        options = record.resolve_sessions(options)
        table = read_utterances(options.data_path, options.SorL)
        splits = options.test_split, options.valid_split, options.train_split
        train_sessions = training_sessions(table["session"], *splits)
        init, facts_of_init = record.load_init(options)
        data = data_record(options, table, train_sessions) | facts_of_init
        dtype = engine.training_dtype(options.precision, device)
        now = record.make_record(options, data, devices.environment(device) | {"training_precision": str(dtype)})
        folder = devices.on_main_process(accelerator, lambda: record.lock_resumed(folder, options, now, stack))

        # 2. The model and the windows of each split
        torch.manual_seed(options.seed)
        model = MATE.from_options(options, data)
        new_layers = checkpoint.load_matching(model, init.model.state_dict()) if init else []
        model = engine.to_device(model, device)
        sessions = {"train": train_sessions, "validate": options.valid_split or [], "test": options.test_split}
        if first:
            print(progress.run_summary(options, data, table, sessions, model, new_layers), flush=True)
        windows = partial(windows_of, options, table, engine.load_all_features(options, table, accelerator).to(device))
        train_set = windows(sessions["train"], soft_targets=True, crop_seed=options.seed, audio_dtype=dtype)
        valid_set = windows(sessions["validate"], soft_targets=True)
        test_set = windows(sessions["test"])
        engine.check_batch_size(options.batch_size, len(train_set))
        folder = devices.on_main_process(accelerator, lambda: folder or record.make_folder(options, now, stack))

        # 3. Training, and the test
        with progress.one_line_errors(folder, options):
            history = fit(folder, options, model, (train_set, valid_set), accelerator, on_epoch)
            if first:
                save_figure(plot_loss_curve(history), folder / record.TRAINED)
            finish(folder, options, model, (train_set, valid_set, test_set), accelerator)
        return folder


def fit(
    folder: Path,
    options: argparse.Namespace,
    model: MATE,
    sets: tuple[WindowDataset, WindowDataset],
    accelerator: Accelerator,
    on_epoch: Callable[[int, dict[str, float]], object] | None,
) -> list[checkpoint.Row]:
    """Train `model`, from the run's checkpoint if there is one; return the history. It ends with the weights to test.

    Each of several processes trains on its part of every batch; the gradients are averaged.
    """
    (train_set, valid_set), device, first = sets, next(model.parameters()).device, accelerator.is_main_process
    n, rank, counts = accelerator.num_processes, accelerator.process_index, train_set.class_counts
    bfloat16, affect = train_set.audio_dtype == torch.bfloat16, options.affect_loss if train_set.has_affect else "none"
    loss_function = make_loss(options.loss, options.lam, options.beta, counts, device, affect)
    step_loss = engine.over_processes(loss_function) if n > 1 and "ccc" in affect else loss_function
    optimizer = engine.make_optimizer(options, model)
    scheduler = engine.make_scheduler(optimizer, options.epochs, options.lr_gamma)
    generator = torch.Generator().manual_seed(options.seed)  # draws the order of the windows
    run_id = record.Record.read(folder).run_id
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "order": generator}
    history, best = checkpoint.load_checkpoint(folder, run_id, state)
    trained = engine.wrap_for_training(model, accelerator, options.compile)
    progress.start_tracker(accelerator, folder, options, len(history) + 1)
    steps, saved_at = len(train_set) // options.batch_size, time.monotonic()
    with progress.progress_bar(options.epochs, steps, len(history), hidden=not first) as bar:
        while not checkpoint.is_over(history, options):
            epoch, losses = len(history) + 1, []
            trained.train()
            train_set.set_epoch(epoch)
            weights = train_set.weights if options.sampler == "weighted" else None
            order = shuffled_batches(len(train_set), options.batch_size, generator, weights)
            for batch in prefetch(train_set, [indices[rank::n] for indices in order], device):
                loss = engine.train_step(trained, batch, step_loss, optimizer, bfloat16)
                losses.append(accelerator.reduce(loss, "mean") if n > 1 else loss)
                bar.update()
                if device.type == "cpu" or len(losses) % CHECK_EVERY == 0:
                    bar.set_postfix(epoch=epoch, loss=f"{engine.mean_loss(losses):.3f}", refresh=False)
            row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "train_loss": engine.mean_loss(losses)}
            engine.check_weights(model)
            if options.bn_statistics == "train" and (len(valid_set) or epoch == options.epochs):
                batch_norm.compute_statistics(model, train_set, options, epoch, accelerator)
            history.append(row | validate(options, model, valid_set, loss_function, accelerator))
            scheduler.step()
            if options.select != "last" and checkpoint.best_epoch(history, options.select) == epoch:
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            if first and (checkpoint.is_over(history, options) or time.monotonic() - saved_at >= SAVE_SECONDS):
                checkpoint.save_checkpoint(folder, run_id, state, history, best)
                saved_at = time.monotonic()
            if first:
                progress.print_epoch(bar, history, options)
            accelerator.log({name: value for name, value in history[-1].items() if name != "epoch"}, epoch)
            if on_epoch is not None:
                on_epoch(epoch, dict(history[-1]))
    model.zero_grad()  # the test needs their memory
    model.load_state_dict(best or model.state_dict())
    if first:
        checkpoint.write_results(folder, model.state_dict(), history)  # a killed run may lack them
    return history


def validate(
    options: argparse.Namespace, model: MATE, windows: WindowDataset, loss_function: Loss, accelerator: Accelerator
) -> dict[str, float]:
    """Loss and figures of the validation windows, named as in history.csv; empty without `--valid_split`."""
    if not len(windows):
        return {}
    prediction = engine.predict_windows(options, model, windows, accelerator)
    loss = engine.mean_loss([loss_function(prediction, [label.to(prediction[0].device) for label in windows.labels])])
    rows = predictions_table(windows.table, windows.targets, engine.to_arrays(prediction))
    figures = validation_figures(rows, options.batch_size)
    if {"macro_f1": "macro_f1", "ccc": "ccc_arousal"}.get(options.select, "f1") not in figures:
        missing = "arousal and valence" if options.select == "ccc" else "a window with a single majority label"
        raise InputError(f"--select {options.select}: --valid_split lacks {missing}; choose another")
    return {f"valid_{name}": value for name, value in ({"loss": loss} | figures).items()}


def finish(
    folder: Path, options: argparse.Namespace, model: MATE, sets: Sequence[WindowDataset], accelerator: Accelerator
) -> None:
    """Test a trained run, and delete its checkpoint."""
    (train_set, valid_set, test_set), data, temperature = sets, record.Record.read(folder).data, 1.0
    if options.temperature:
        emotion = engine.predict_windows(options, model, valid_set, accelerator)[0]
        temperature = engine.choose_temperature(emotion, valid_set.labels[0])
    prediction = engine.predict_windows(options, model, test_set, accelerator, "testing")
    epoch = checkpoint.epoch_of_weights(folder, options.select)
    arrays, facts = engine.to_arrays(prediction, temperature), {"epoch": epoch, "temperature": temperature}
    facts |= batch_norm.compare_statistics(model, train_set, options)
    if accelerator.is_main_process:
        facts |= checkpoint.validation_of(folder, epoch)
        facts["warnings"] = record.caveats(data) + facts["warnings"]
        report(folder, options, test_set, arrays, parse_sessions(data["train_sessions"]), **facts)
        (folder / checkpoint.CHECKPOINT).unlink()


def report(
    folder: Path,
    options: argparse.Namespace,
    windows: WindowDataset,
    arrays: Mapping[str, np.ndarray],
    train_sessions: Sequence[int],
    other: Mapping[str, np.ndarray] | None = None,  # predictions from other texts
    **facts: Any,
) -> None:
    """Write the files of a test into `folder` and print its figures; `facts` are further entries of `result.json`."""
    train_rows = windows.table[windows.table["session"].isin(train_sessions)]
    rows = predictions_table(windows.table, windows.targets, arrays, train_rows)
    tested = windows.table.iloc[windows.targets]
    result = result_of_test(rows, options, tested, train_rows, facts["temperature"]) | facts
    result |= {"missing": windows.features.missing, "encoders": encoders_text(record.Record.read(folder).data)}
    if other:
        result |= write_other_texts(folder, rows, predictions_table(windows.table, windows.targets, other, train_rows))
    write_test(folder, rows, options, result)
    print(result_text(result, folder, options))


def test(options: argparse.Namespace) -> Path:
    """Test the run folder `options.test_path`, also one of the published program; return the new folder inside it.

    Given options may choose other test sessions, another corpus, role, batch size or precision. Raises `InputError` if
    the folder or the corpus cannot be used, or if an option contradicts the trained model.
    """
    with devices.joined_processes(options) as (accelerator, device):
        first, text_encoder = accelerator.is_main_process, options.text_model
        run = record.load_run(record.find_run(options.save_path, options.test_path))
        options, train_sessions = record.options_to_test(run, options)
        table = read_utterances(options.data_path, options.SorL)
        check_sessions(table["session"], options.test_split, "--test_split")
        data = data_record(options, table, train_sessions)
        model = engine.to_device(run.model, device)
        dtype = engine.training_dtype(options.precision, device)
        of_training = argparse.Namespace(**vars(options) | {"batch_size": run.options.batch_size})
        new_statistics = options.bn_statistics == "train" and "bn_statistics" in options.given
        if first:
            summary = progress.run_summary(options, data, table, {"test": options.test_split}, model)
            print(summary, f"{'run:':<12}{run.folder}", sep="\n", flush=True)
        found = record.warnings_of_test(run, options, data, train_sessions)
        for sentence in found:
            warnings.warn(sentence, stacklevel=2)
        windows = partial(windows_of, options, table, engine.load_all_features(options, table, accelerator).to(device))
        train_set = windows(train_sessions, soft_targets=True, crop_seed=options.seed, audio_dtype=dtype)
        test_set = windows(options.test_split)
        if new_statistics:
            batch_norm.compute_statistics(model, train_set, of_training, run.epoch or 0, accelerator)
        try:
            prediction = engine.predict_windows(options, model, test_set, accelerator, "testing")
            arrays, facts = engine.to_arrays(prediction, run.temperature), {"epoch": run.epoch}
            facts |= {"temperature": run.temperature} | batch_norm.compare_statistics(model, train_set, of_training)
            if options.texts or options.transcribe:
                from prediction.other_texts import with_other_texts  # here, as transformers takes seconds to import

                others = with_other_texts(run, options, test_set, accelerator, text_encoder)
                prediction = engine.predict_windows(options, model, others, accelerator, "other texts")
                facts["other"] = engine.to_arrays(prediction, run.temperature)
        except engine.NonFinite as error:
            raise InputError(f"{run.folder}: {error}; train again with a smaller --lr") from error
        folder = devices.on_main_process(accelerator, lambda: new_folder(run.folder, "test"))
        if first:
            record.make_record(options, data, devices.environment(device)).write(folder)
            if new_statistics:
                checkpoint.save_tensors(model.state_dict(), folder / "model.pth")
            else:
                facts |= checkpoint.validation_of(run.folder, run.epoch)
            facts["warnings"] = found + facts["warnings"]
            report(folder, options, test_set, arrays, train_sessions, **facts)
        return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse_args(sys.argv[1:] if argv is None else argv)
    silent = int(os.environ.get("RANK", 0)) > 0
    return run_command(lambda: test(options) if options.test_only else train(options), silent)


if __name__ == "__main__":
    sys.exit(main())
