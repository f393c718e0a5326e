"""Predict the emotion, arousal and valence of every utterance of a dialogue with trained runs.

As a library: `from predict import Predictor, Utterance`.
"""

from __future__ import annotations

import training  # noqa: F401, isort: skip (must be first, see training/__init__.py)

import argparse
import contextlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from metric import AFFECT, PROBABILITIES
from prediction.inputs import Utterance, from_corpus, from_folder, from_segments, recording_length
from prediction.predictor import Prediction, Predictor
from prediction.segments import READERS
from prediction.transcribe import CHANNELS, SEGMENTS, WHISPER, Recogniser, transcribe
from reports.dialogues import write_dialogues_page
from reports.predictions import predictions_table
from training.data_record import corpus_facts
from training.devices import set_up_process
from training.learnt import check_learnt
from training.options import ArgumentParser, file_path, gpu
from utils import InputError, count, run_command, write_csv

FILES = ("predictions.csv", "dialogue.html")  # written by a prediction


def predict(args: argparse.Namespace) -> None:
    """Predict a dialogue and write `predictions.csv` and `dialogue.html`."""
    source = args.input.resolve()
    stem = source.name if source.is_dir() else source.stem
    folder = args.out or args.input.parent / f"{stem}.predictions"
    existing = ({path.name for path in folder.iterdir()} if folder.exists() else set()) - {SEGMENTS}  # which is kept
    if existing - {*FILES} or (existing and not args.overwrite):
        what = f"already contains {min(existing - {*FILES}, default=FILES[0])}"
        raise InputError(f"{folder}: {what}; choose another --out, or pass --overwrite to replace a prediction")
    encoders = {"text_model": args.text_model, "audio_model": args.audio_model}
    found, show = {}, warnings.showwarning  # each warning once, for the table and the page

    def collect(message: Warning, *where: Any) -> None:
        found[str(message)] = message
        show(message, *where)

    with warnings.catch_warnings():
        warnings.showwarning = collect
        predictor = Predictor(*args.runs, **encoders, gpu_id=args.gpu_id, quiet=False)
        folder.mkdir(parents=True, exist_ok=True)  # before a long computation
        try:
            if args.transcribe:
                recogniser = Recogniser(args.transcribe, args.language, predictor.device)
                args.segments = transcribe(args.input, folder / SEGMENTS, recogniser, args.channels, progress=True)
            table, utterances = read_input(args, predictor)
            rows = prediction_rows(table, predictor.dialogue(utterances), predictor)
            write_csv(folder / FILES[0], rows.assign(note="; ".join(found)))
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if it is empty
    named = (run.folder if Path(name).name == "latest" else Path(name) for name, run in predictor.runs.items())
    notes = [f"{'mean of the runs' if len(predictor.runs) > 1 else 'run'}: {', '.join(path.name for path in named)}"]
    if args.dialogue is None:
        notes.append("These are predictions, not facts about a person. The model was trained on a few speakers.")
    write_dialogues_page(
        folder / FILES[1],
        rows,
        {u.id: u.recording or u.wave for u in utterances if u.recording or u.wave},
        title=source.name,
        role=predictor.role,
        notes=notes,
        warnings=[*found],
        recording=utterances[0].recording is not None,
    )
    print(f"{count(len(rows), 'utterance')}, role: {predictor.role}")
    print("emotions:", ", ".join(f"{name} {n}" for name, n in rows["pred_emotion"].value_counts().items()))
    arousal, valence = (rows[f"pred_{name}"].mean() for name in AFFECT)
    print(f"mean arousal {arousal:.2f}, mean valence {valence:.2f} (1 to 5)")
    print(f"table: {folder / FILES[0]}, page: {folder / FILES[1]}")


def read_input(args: argparse.Namespace, predictor: Predictor) -> tuple[pd.DataFrame, Sequence[Utterance]]:
    """The utterances given on the command line, and their rows (see `predictions_table`)."""
    if args.dialogue:
        own = next(iter(predictor.runs.values())).options
        data_path = args.data_path or own.data_path
        audio_path = args.audio_path or (None if args.data_path else own.audio_path)
        table, utterances = from_corpus(args.dialogue, data_path, predictor.role, audio_path)
        if predictor.text_dim and not args.text_model:
            stored = predictor.stored_texts(data_path, table)
            utterances = [replace(u, text=None, embedding=e) for u, e in zip(utterances, stored, strict=True)]
        for name, run in predictor.runs.items():
            check_learnt(run.record.data | corpus_facts(data_path), {*table["session"]})
            if run.is_of(data_path) and {*run.train_sessions} & {*table["session"]}:
                warnings.warn(f"{name}: the session of this dialogue was used in training", stacklevel=2)
        return table, utterances
    if args.segments:
        utterances = from_segments(args.segments, args.input, args.channels == "speakers")
    elif args.input.is_dir():
        utterances = from_folder(args.input)
    elif args.input.suffix.lower() in READERS:
        utterances = from_segments(args.input)
    else:
        seconds = recording_length(args.input)  # checks that it is audio
        raise InputError(f"{args.input}: a recording of {seconds:.1f} s; add --segments or --transcribe")
    return pd.DataFrame(utterances).assign(dialogue=args.input.resolve().stem), utterances


def prediction_rows(table: pd.DataFrame, prediction: Prediction, predictor: Predictor) -> pd.DataFrame:
    """Rows of predictions.csv, with the role, and for several runs their standard deviation (`_sd`)."""
    arrays = {f"{name}_pred": getattr(prediction, name) for name in ("emotion", *AFFECT)}
    rows = predictions_table(table, range(len(table)), arrays).assign(role=predictor.role)
    if len(predictor.runs) > 1:
        rows[[f"{name}_sd" for name in PROBABILITIES]] = prediction.emotion_sd
        for name in AFFECT:
            rows[f"pred_{name}_sd"] = getattr(prediction, f"{name}_sd")
    return rows


def get_args_parser() -> ArgumentParser:
    examples = "predict.py exp/latest talk.wav --transcribe", "predict.py exp/latest talk.wav --segments talk.srt"
    description = "Predict the emotion, arousal and valence of every utterance of a dialogue with trained runs."
    parser = ArgumentParser(examples, description=description, usage="%(prog)s RUN... INPUT [options]")
    add, either = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    inputs = "run folders, exported folders or Hub names (several are averaged); then a recording, or a folder of wavs"
    add("paths", nargs="+", metavar="RUN... INPUT", help=f"{inputs} with a .txt for each. With --dialogue only runs")
    either("--segments", type=file_path, help="transcript with times: JSON, SRT, WebVTT, CSV or TSV")
    whisper = f"transcribe with this Whisper model: Hub name or folder (without NAME {WHISPER})"
    either("--transcribe", nargs="?", const=WHISPER, metavar="NAME", help=whisper)
    either("--dialogue", metavar="NAME", help="predict a dialogue of a corpus instead, such as Sess01_script01")
    add("--data_path", type=file_path, help="preprocessed corpus of --dialogue (default: that of the first run)")
    add("--audio_path", type=file_path, help="folder of the wav files of --dialogue, if not DATA_PATH/wav or ./audio")
    add("--language", default="ko", help="language for --transcribe")
    speakers = "speakers: each channel has one speaker and is transcribed alone. mean: average the channels"
    add("--channels", choices=CHANNELS, default="mean", help=speakers)
    add("--out", type=file_path, help="new folder for the results (default: INPUT.predictions, beside the input)")
    add("--overwrite", action="store_true", help="overwrite the results in that folder")
    add("--text_model", metavar="NAME", help="text encoder: Hub name or folder (default: that of the runs)")
    add("--audio_model", metavar="NAME", help="speech encoder: Hub name or folder, for runs with --audio encoder")
    add("--gpu_id", type=gpu, help="number of the GPU to use, or cpu (default: the first CUDA GPU, or the CPU)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = get_args_parser()
    args = parser.parse_args(argv)
    args.runs = args.paths if args.dialogue else args.paths[:-1]
    args.input = Path(args.dialogue or args.paths[-1])
    if not args.runs:
        parser.error("expected a run and an input, such as: predict.py exp/<run> talk.wav --segments talk.json")
    if args.transcribe and args.input.is_dir():
        parser.error("--transcribe needs a recording, not a folder; the texts of a folder are its .txt files")
    set_up_process()
    return run_command(lambda: predict(args))


if __name__ == "__main__":
    sys.exit(main())
