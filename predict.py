"""Predict the emotions of a dialogue with trained runs.

python predict.py exp/<run> talk.wav --segments talk.json
python predict.py exp/<run> folder_of_wavs
python predict.py exp/<run> --dialogue Sess01_script01 --data_path data/KEMDy19
python predict.py exp/<run1> exp/<run2> talk.wav --segments talk.srt

The runs are experiment folders, folders of export.py, or names on the Hugging Face hub. As a library:

from predict import Predictor, Utterance
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.arguments import ArgumentParser, file_path, gpu
from training.devices import set_up_process
from utils import InputError, removed_if_empty, run_command

if TYPE_CHECKING:
    from prediction.predictor import Predictor, Utterance


def __getattr__(name: str) -> Any:
    """`from predict import Predictor, Utterance`, without torch where only --help is asked for."""
    if name not in ("Predictor", "Utterance"):
        raise AttributeError(f"module 'predict' has no attribute {name!r}")
    import prediction.predictor

    return getattr(prediction.predictor, name)


def predict(args: argparse.Namespace) -> Path:
    """Predict a dialogue and write `predictions.csv` and `dialogue.html`; returns their folder."""
    from prediction.output import describe, make_output, prediction_table, write_table
    from prediction.page import write_dialogue_page
    from prediction.predictor import Predictor

    folder = output_folder(args)
    if folder.exists():
        raise InputError(f"{folder}: exists already and is not overwritten; give another folder as --out")
    predictor = Predictor(
        *args.runs, text_model=args.text_model, audio_model=args.audio_model, gpu_id=args.gpu_id, quiet=False
    )
    utterances = read_utterances(args, predictor)
    with removed_if_empty(folder):
        make_output(folder)  # a folder that cannot be made is known before the hour that a long recording may take
        prediction = predictor.dialogue(utterances)
        table = prediction_table(utterances, prediction, predictor.role, len(args.runs))
        write_table(folder / "predictions.csv", table)
        of_corpus = args.dialogue is not None
        write_dialogue_page(
            folder / "dialogue.html",
            args.dialogue if of_corpus else args.input.resolve().name,
            utterances,
            prediction,
            predictor,
            args.data_path if of_corpus else None,
        )
    print(describe(table, predictor.role, len(args.runs), folder))
    return folder


def output_folder(args: argparse.Namespace) -> Path:
    """`--out`, or a folder beside the input that is named after it; in the current folder for a corpus's dialogue."""
    if args.out is not None:
        return args.out
    if args.dialogue is not None:
        return Path(f"{args.dialogue}.predictions")
    return args.input.with_name(f"{args.input.resolve().name if args.input.is_dir() else args.input.stem}.predictions")


def read_utterances(args: argparse.Namespace, predictor: Predictor) -> list[Utterance]:
    """The utterances that the command line names."""
    from prediction.inputs import from_corpus, from_folder, from_recording, from_segments_alone
    from prediction.segments import READERS

    if args.dialogue is not None:
        text_dim = None if args.text_model else predictor.text_dim
        if text_dim is not None:
            predictor.check_embeddings(args.data_path)
        settings = {"text_dim": text_dim, "audio": predictor.reads_audio, "audio_path": args.audio_path}
        return from_corpus(args.dialogue, args.data_path, predictor.role, **settings)
    if not args.input.exists():
        raise InputError(f"{args.input}: no such file; expected a recording, or a folder of wavs")
    if args.input.is_dir():
        if args.segments is not None:
            raise InputError(f"{args.input}: a folder of utterances needs no --segments; leave it out")
        return from_folder(args.input)
    if args.input.suffix.lower() in READERS and args.segments is None:
        if predictor.reads_audio:
            raise InputError(f"{args.input}: the model reads sound; give the recording, and this as --segments")
        return from_segments_alone(args.input)
    if args.segments is None:
        raise InputError(
            f"{args.input}: which parts of it are utterances? Give --segments talk.json (or .srt, .vtt, .csv)"
        )
    return from_recording(args.input, args.segments)


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Predict the emotion, arousal and valence of every utterance of a dialogue.", allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "paths",
        nargs="+",
        metavar="RUN... INPUT",
        help="experiment folders (several: their mean), then a recording, or a folder of utterance wavs with a .txt "
        "beside each; with --dialogue, runs alone",
    )
    add("--segments", type=file_path, help="of the recording: Whisper's or WhisperX's JSON, SRT, WebVTT, CSV or TSV")
    add("--dialogue", metavar="NAME", help="a dialogue of a pre-processed corpus, such as Sess01_script01")
    add("--data_path", type=file_path, default=Path("data/KEMDy19"), help="that corpus (%(default)s)")
    add("--audio_path", type=file_path, help="folder of its wavs, if neither DATA_PATH/wav nor ./audio")
    add("--out", type=file_path, help="new folder for the results (INPUT.predictions)")
    add(
        "--text_model",
        metavar="NAME",
        help="hub name or folder of the sentence encoder (the one that the runs were trained with)",
    )
    add("--audio_model", metavar="NAME", help="the same of the speech encoder, of runs with --audio encoder")
    add("--gpu_id", type=gpu, help="a GPU's number, or cpu (the best there is)")
    return parser


def parse_args(argv: list[str]) -> argparse.Namespace:
    """The arguments, with `paths` as `runs` and `input`."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    paths = args.paths
    if args.dialogue is None and len(paths) < 2:
        parser.error("give a run and an input, such as: predict.py exp/<run> talk.wav --segments talk.json")
    if args.dialogue is not None and args.segments is not None:
        parser.error("--dialogue and --segments name two inputs")
    args.runs, args.input = (paths, None) if args.dialogue is not None else (paths[:-1], Path(paths[-1]))
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(sys.argv[1:] if argv is None else argv)
    set_up_process()
    return run_command(lambda: predict(args))


if __name__ == "__main__":
    sys.exit(main())
