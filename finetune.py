"""Fine-tune a text or a speech encoder on the training sessions of a corpus, one utterance at a time.

It writes an encoder folder for preprocessing.py --text_model FOLDER or --audio_model FOLDER.
"""

from __future__ import annotations

import training  # noqa: F401, isort: skip (must be first, see training/__init__.py)

import argparse
import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from accelerate import PartialState
from safetensors import SafetensorError

import metric
from constants import N_EMOTIONS
from corpora.sessions import format_sessions, training_sessions
from corpora.utterances import read_utterances
from features.encoders import encoder_name
from features.speech_encoder import load_speech_encoder
from features.text import load_text_encoder
from loss import make_loss
from reports.predictions import predictions_table
from reports.result import format_interval
from training import devices, engine
from training.data_record import corpus_facts, corpus_summary, described, digest_of, encoder_summary
from training.finetune_options import folder_name, get_args_parser
from training.finetuning import EmotionModel, Inputs, collate, examples, read_inputs, test, write_encoder
from training.learnt import check_learnt
from training.record import resolve_sessions
from utils import InputError, fault_of_machine, first_line, lock_folder, read_json, run_command, write_csv, write_json

RECORD, CHECKPOINTS = "finetune.json", "checkpoints"
OF_CALL = ("data_path", "audio_path", "save_path", "resume", "report_to", "gpu_id")  # options that no record has


def finetune(options: argparse.Namespace) -> Path:
    """Fine-tune the encoder of `options` (see `get_args_parser`), test it, and return its folder.

    Raises `InputError` if the encoder, the corpus or the folder cannot be used, or if training fails.
    """
    options, name = resolve_sessions(options), options.text_model or options.audio_model
    folder = options.save_path.absolute() / folder_name(options)
    arguments = training_arguments(options, folder)  # joins the processes of the run
    processes = PartialState()
    with contextlib.ExitStack() as stack:
        # 1. The encoder, the corpus and their record
        encoder = load_text_encoder(name) if options.text_model else load_speech_encoder(name)
        table = read_utterances(options.data_path, options.SorL)
        sessions = {"train": training_sessions(table["session"], options.test_split, options.valid_split)}
        sessions |= {"valid": options.valid_split or [], "test": options.test_split}
        data = corpus_facts(options.data_path) | described(encoder.kind, encoder.description)
        data |= {f"{encoder.kind}_model": encoder_name(name), "role": options.SorL}
        data |= {"table": digest_of(options.data_path, f"df_{options.SorL}.csv")}
        data |= {f"{part}_sessions": format_sessions(of_part) for part, of_part in sessions.items()}
        check_learnt(data, options.test_split)
        environment = {"transformers": transformers.__version__, "bfloat16": "yes" if arguments.bf16 else "no"}
        environment |= devices.environment(arguments.device)
        values = {name: value for name, value in vars(options).items() if name not in OF_CALL}
        values |= {"text_model": data.get("text_model"), "audio_model": data.get("speech_model")}
        record = {"options": values, "data": data, "environment": environment}

        # 2. The utterances of each split, and the model
        inputs = read_inputs(encoder, table, options.data_path, options.audio_path)
        tables = {part: table[table["session"].isin(sessions[part]) & table["id"].isin(inputs)] for part in sessions}
        if empty := [part for part in sessions if sessions[part] and tables[part].empty]:
            raise InputError(f"{options.data_path}: no usable wav in the {empty[0]} sessions; give --audio_path")
        checkpoint = devices.on_main_process(processes, lambda: begin(folder, record, options.resume, stack))
        if checkpoint == folder:
            return folder
        train_set, valid_set = (examples(tables[part], inputs) for part in ("train", "valid"))
        collator = partial(collate, rate=getattr(encoder, "rate", None))
        affect = options.affect_loss if tables["train"]["arousal"].notna().all() else "none"
        torch.manual_seed(options.seed)
        model = EmotionModel(encoder, make_loss("normal", options.lam, 0.0, np.zeros(N_EMOTIONS), affect=affect))
        if options.gradient_checkpointing:
            old = encoder.model.gradient_checkpointing_enable  # its name before transformers 5.1
            getattr(encoder.model, "activation_checkpointing_enable", old)()
        if processes.is_main_process:
            record["left_out"] = len(table) - len(inputs)
            counts = (f"{part} {data[f'{part}_sessions']} ({len(tables[part]):,})" for part in tables if sessions[part])
            print(f"{'corpus:':<10}{corpus_summary(data)}\n{'encoder:':<10}{encoder_summary(data, encoder.kind)}")
            print(f"{'sessions:':<10}{', '.join(counts)}; {record['left_out']} utterances without usable wav")
            print(f"{'device:':<10}{environment['device']}, bfloat16: {environment['bfloat16']}")
            print(f"{'folder:':<10}{folder}", flush=True)

        # 3. Training, and the test
        with one_line_errors(folder):
            stopping = [transformers.EarlyStoppingCallback(options.patience)] if options.patience else None
            trainer = transformers.Trainer(model, arguments, collator, train_set, valid_set, callbacks=stopping)
            trainer.train(str(checkpoint) if checkpoint else None)
            record["history"] = [row for row in trainer.state.log_history if {"loss", "eval_loss"} & row.keys()]
            devices.on_main_process(processes, lambda: finish(folder, record, model, tables["test"], inputs))
    return folder


def choose_device(gpu_id: str | None) -> torch.device:
    """The device of `--gpu_id`, one for each process. Trainer uses all visible GPUs, so only this GPU stays visible."""
    if devices.n_processes() > 1 and gpu_id != "cpu" and torch.cuda.is_available():
        return devices.pick_device(os.environ["LOCAL_RANK"])
    if gpu_id == "cpu":
        return devices.pick_device(gpu_id)
    n, seen = int(gpu_id or 0), os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = str(n) if seen is None else ",".join(seen.split(",")[n : n + 1])
    return devices.pick_device(gpu_id and "0")


def training_arguments(options: argparse.Namespace, folder: Path) -> transformers.TrainingArguments:
    """The settings of Trainer; creating them joins the processes of the run."""
    device, tracker = choose_device(options.gpu_id), options.report_to
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(f"--report_to {tracker}: not installed; pip install {tracker}, or give none")
    if tracker == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder)
    precision = "fp32" if options.precision == "auto" and device.type == "cpu" else options.precision
    settings = {"num_train_epochs": options.epochs, "learning_rate": options.lr, "weight_decay": 0.01}
    settings |= {"warmup_steps": 0.1, "optim": "adamw_torch", "seed": options.seed}  # a tenth of the steps
    settings |= {f"per_device_{part}_batch_size": options.batch_size for part in ("train", "eval")}
    settings |= {"gradient_accumulation_steps": options.accumulate, "use_cpu": device.type == "cpu"}
    settings |= {"bf16": engine.training_dtype(precision, device) == torch.bfloat16}
    settings |= {"dataloader_num_workers": 2 if options.audio_model and device.type == "cuda" else 0}
    settings |= {"save_strategy": "epoch", "logging_strategy": "epoch", "save_total_limit": 1}  # and the best one
    if options.valid_split:
        settings |= {"eval_strategy": "epoch", "load_best_model_at_end": True}
        settings |= {"restore_callback_states_from_checkpoint": True}  # of --patience
    settings |= {"prediction_loss_only": True, "label_names": ["labels"], "remove_unused_columns": False}
    settings |= {"disable_tqdm": False, "report_to": tracker, "run_name": folder.name}
    arguments = transformers.TrainingArguments(str(folder / CHECKPOINTS), **settings)
    devices.set_up_process()  # after accelerate, which may turn TF32 on
    return arguments


def begin(folder: Path, record: Mapping[str, Any], resume: bool, stack: contextlib.ExitStack) -> Path | None:
    """Lock a folder and write its record; return the checkpoint to resume from, if any, or `folder` if finished."""
    states = folder.glob(f"{CHECKPOINTS}/*/trainer_state.json")  # the last file of a checkpoint
    checkpoints = [path.parent for path in states if path.stat().st_size]
    is_finished = (folder / "model.safetensors").exists() and "figures" in read_json(folder / RECORD)
    if (is_finished or checkpoints) and not resume:
        what = "already finished; rename the folder" if is_finished else "unfinished; resume with --resume"
        raise InputError(f"{folder}: {what}, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(lock_folder(folder, "fine-tuning"))
    if not is_finished and not checkpoints:
        write_json(folder / RECORD, dict(record))
        return None
    stored = read_json(folder / RECORD)
    for part, name in ((kind, name) for kind in ("options", "data") for name in record[kind]):
        if (before := stored[part].get(name)) != (now := record[part][name]):
            raise InputError(f"{folder}: started with {name} {before}, not {now}; give the same value, or remove it")
    if is_finished:
        print(f"{folder}: already finished")
        return folder
    return max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]))


def finish(folder: Path, record: dict[str, Any], model: EmotionModel, table: pd.DataFrame, inputs: Inputs) -> None:
    """Test the model, write the encoder, its card and finally its record, and remove the checkpoints."""
    rows = predictions_table(table, range(len(table)), test(model, table, inputs))
    found, bounds = metric.figures(rows), metric.bootstrap([metric.dialogue_sums(rows)[:, None]])[["low", "high"]]
    record["figures"] = {name: found[name] for name in ("n", "n_single_label")}
    record["figures"] |= metric.rounded(found, metric.WHOLE_FIGURES)
    defined = [name for name in metric.WHOLE_FIGURES if record["figures"][name] is not None]
    record["intervals"] = {name: metric.bounds_of(bounds.loc[name]) for name in defined}
    write_csv(folder / "predictions.csv", rows)
    write_encoder(folder, model.source, record)
    write_json(folder / RECORD, record)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    print(f"test on {found['n']} single utterances, {found['n_single_label']} of them with one majority label:")
    for name in defined:
        print(f"{metric.HEADINGS[name]:<12} {found[name]:.3f}  {format_interval(*bounds.loc[name])}")
    print(f"encoder: {folder}")


@contextlib.contextmanager
def one_line_errors(folder: Path) -> Iterator[None]:
    """Add to an interrupt how to resume, and convert errors that end training to `InputError`."""
    try:
        yield
    except (KeyboardInterrupt, engine.NonFinite, OSError, RuntimeError, MemoryError, SafetensorError) as error:
        print(file=sys.stderr)  # below the progress bar
        if isinstance(error, KeyboardInterrupt):
            error.args = ("resume with the same command and --resume",)
        elif isinstance(error, engine.NonFinite):
            raise InputError(f"{error}; remove {folder} and try a smaller --lr") from error
        elif fault := fault_of_machine(error):
            raise InputError(f"{fault}: training stopped; {folder} is unfinished") from error
        elif isinstance(error, OSError | SafetensorError) or "inline_container" in str(error):
            raise InputError(f"{folder}: cannot be written; is the disk full? ({first_line(error)})") from error
        raise


def main(argv: Sequence[str] | None = None) -> int:
    parser = get_args_parser()
    options = parser.parse_args(argv)
    if options.patience and not options.valid_split:
        parser.error("--patience needs --valid_split")
    return run_command(lambda: finetune(options), quiet=int(os.environ.get("RANK", 0)) > 0)


if __name__ == "__main__":
    sys.exit(main())
