"""Options: the command line of a run, and what each option is for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from constants import (
    AFFECT_LOSSES,
    AUDIO_BRANCHES,
    BACKBONES,
    FEATURE_DTYPES,
    LOSSES,
    MAX_BATCH_SIZE,
    MAX_EPOCHS,
    MAX_FACTOR,
    MAX_HIDDEN_SIZE,
    MAX_LAYERS,
    MAX_MINUTES,
    MAX_RATE,
    MAX_TEXT_DIM,
    MAX_WINDOW,
    MAX_WORKERS,
    MODALITIES,
    MONITORS,
    OPTIMIZERS,
    PRECISIONS,
    ROLES,
    SAMPLE_RATE,
    SAMPLERS,
    TEXT_DIM,
)
from corpora.sessions import parse_sessions
from training.arguments import ArgumentParser, file_path, gpu, number, switch
from utils import encoder_name

# The scopes: what an option decides. All but those of the call decide a run's outcome.
CALL = "call"  # this call alone; a resumed run or a test takes nothing of it from the configuration
CORPUS = "corpus"  # where the corpus lies; a resumed run and a test may find it elsewhere
MODEL = "model"  # what the model is and has seen; fixed once it is trained
TRAINING = "training"  # how it is trained; of no meaning to a test
TEST = "test"  # what is tested and how; a test may choose another value


# The command line


def get_args_parser() -> ArgumentParser:
    """The command line of main.py. A run's `configuration.json` holds all of it."""
    parser = ArgumentParser(
        description="Train MATE on KEMDy19 or KEMDy20 (or a corpus in their layout), test it, and report F1 and CCC. "
        "With both in --data_path, sessions carry their corpus, as in --test_split KEMDy19:13-16,KEMDy20:1-8; without "
        "--test_split the default test sessions of the first corpus are tested.",
        formatter_class=lambda prog: argparse.ArgumentDefaultsHelpFormatter(prog, max_help_position=40, width=130),
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    add_corpus_options(data)
    add_feature_options(data)
    add_model_options(parser.add_argument_group("model"))
    training = parser.add_argument_group("training")
    add_training_options(training)
    add_selection_options(training)
    add_run_options(parser.add_argument_group("run"))
    return parser


def add(group: Any, scope: str, name: str, **settings: Any) -> None:
    """Add an option to a group of the parser, and note its scope."""
    group.add_argument(name, **settings).scope = scope


def add_corpus_options(group: Any) -> None:
    add(
        group,
        CORPUS,
        "--data_path",
        type=file_path,
        nargs="+",
        metavar="FOLDER",
        default="data/KEMDy19",
        help="corpus, preprocessed by preprocessing.py, or several at once",
    )
    add(group, CORPUS, "--audio_path", type=file_path, help="folder of the wavs, if neither DATA_PATH/wav nor ./audio")
    add(group, TEST, "--SorL", choices=ROLES, default="speaker", help="whose emotion is predicted")
    add(
        group,
        TEST,
        "--test_split",
        type=parse_sessions,
        default="1-4",
        metavar="SESSIONS",
        help="sessions to test on; of KEMDy20 1-8 by default",
    )
    add(
        group,
        MODEL,
        "--valid_split",
        type=parse_sessions,
        metavar="SESSIONS",
        help="sessions to validate on, taken from training",
    )


def add_feature_options(group: Any) -> None:
    add(
        group,
        MODEL,
        "--ws",
        type=number(int, 1, MAX_WINDOW),
        default=8,
        help="window: how many utterances the model sees",
    )
    add(group, MODEL, "--sr", type=number(int, 4000, 48000), default=SAMPLE_RATE, help="sampling rate of the audio, Hz")
    add(
        group,
        MODEL,
        "--text_dim",
        type=number(int, 1, MAX_TEXT_DIM),
        default=TEXT_DIM,
        help="length of a sentence embedding",
    )
    add(
        group,
        CALL,
        "--no_cache",
        action="store_true",
        help="keep no log-mels in DATA_PATH/features; compute them every time",
    )
    add(
        group,
        TEST,
        "--feature_dtype",
        choices=FEATURE_DTYPES,
        default="float16",
        help="of the log-mels; float32 is exact",
    )
    add(
        group,
        CALL,
        "--num_workers",
        type=number(int, 0, MAX_WORKERS),
        default=0,
        help="extra processes that assemble batches",
    )


def add_model_options(group: Any) -> None:
    add(group, MODEL, "--backbone", choices=BACKBONES, default="lstm", help="recurrent network over the window")
    add(group, MODEL, "--hidden_size", type=number(int, 1, MAX_HIDDEN_SIZE), default=512, help="its hidden size")
    add(group, MODEL, "--num_layers", type=number(int, 1, MAX_LAYERS), default=4, help="its layers")
    flag = {"type": switch, "metavar": "BOOL", "nargs": "?", "const": True, "default": False}
    add(group, MODEL, "--bidirectional", help="run it in both directions", **flag)
    add(group, MODEL, "--modality", choices=MODALITIES, default="audio_text", help="the inputs of the model")
    add(group, MODEL, "--audio", choices=AUDIO_BRANCHES, default="cnn", help="CNN over log-mels, or a speech encoder")
    add(
        group,
        MODEL,
        "--audio_model",
        type=encoder_name,
        metavar="NAME",
        help="which encoder, where there are several",
    )
    add(group, MODEL, "--speakers", action="store_true", help="tell the model who says each utterance of the window")
    add(group, MODEL, "--no_concat", action="store_true", help="keep the emotion probabilities from the affect heads")
    note = "recorded, without effect, as in the published program"
    add(group, CALL, "--embed_d", type=int, default=32, help=note)  # it decides nothing, so two runs may differ in it


def add_training_options(group: Any) -> None:
    add(
        group,
        TRAINING,
        "--epochs",
        type=number(int, 1, MAX_EPOCHS),
        default=50,
        help="passes over the training windows",
    )
    add(
        group,
        TEST,
        "--batch_size",
        type=number(int, 1, MAX_BATCH_SIZE),
        default=64,
        help="windows in a batch; the published figures depend on it",
    )
    add(group, TRAINING, "--optim", choices=OPTIMIZERS, default="adam", help="optimizer")
    below_1 = number(float, 0, 1, inclusive=False)
    add(group, TRAINING, "--momentum", type=below_1, default=0.0, help="of sgd")
    rate = number(float, 0, MAX_RATE)
    add(group, TRAINING, "--lr", type=rate, default=1e-3, help="learning rate")
    add(
        group,
        TRAINING,
        "--lr_gamma",
        type=number(float, 0, MAX_FACTOR),
        default=0.7,
        help="its factor at epochs/3 and epochs/2",
    )
    add(group, TRAINING, "--lr_decay", type=rate, default=0.0, help="Adagrad's own decay")
    add(group, TRAINING, "--weight_decay", type=rate, default=1e-5, help="weight decay")
    add(group, TRAINING, "--loss", choices=LOSSES, default="normal", help="KLDiv + MSE, or class-balanced BCE + MSE")
    add(group, TRAINING, "--affect_loss", choices=AFFECT_LOSSES, default="mse", help="of arousal and valence")
    add(
        group,
        TRAINING,
        "--lam",
        type=number(float, 0, 1),
        default=0.66,
        help="weight of the emotion's part of the loss",
    )
    add(
        group,
        TRAINING,
        "--sampler",
        choices=SAMPLERS,
        default="shuffled",
        help="weighted: windows drawn by inverse class frequency",
    )
    add(group, TRAINING, "--beta", type=below_1, default=0.99, help="of cbloss")
    add(group, TRAINING, "--seed", type=number(int, 0, 2**32 - 1), default=0, help="of weights, shuffling and crops")


def add_selection_options(group: Any) -> None:
    add(
        group,
        TRAINING,
        "--select",
        choices=("last", "best"),
        default="last",
        help="epoch to test: last, or best by --monitor",
    )
    add(
        group,
        TRAINING,
        "--monitor",
        choices=MONITORS,
        default="loss",
        help="figure of --valid_split that says which epoch is best",
    )
    add(
        group,
        TRAINING,
        "--patience",
        type=number(int, 1, MAX_EPOCHS),
        metavar="EPOCHS",
        help="stop after so many epochs that are no better than the best",
    )


def add_run_options(group: Any) -> None:
    add(
        group,
        TEST,
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="bf16: bfloat16 in convolutions; auto: in training, where it is fast",
    )
    add(group, TRAINING, "--compile", action="store_true", help="compile the CNN for training; hardly pays on a CPU")
    add(
        group,
        TRAINING,
        "--cuda_graph",
        action="store_true",
        help="on a CUDA GPU: record a training step once, then launch it as one",
    )
    add(group, CALL, "--save_path", type=file_path, default="exp", help="folder of the experiment folders")
    add(
        group,
        CALL,
        "--resume",
        metavar="NAME",
        help="go on with folder NAME, or auto: the newest unfinished one like this",
    )
    add(
        group,
        CALL,
        "--save_every",
        type=number(int, 1),
        metavar="STEPS",
        help="steps between checkpoints, beside those by time",
    )
    add(
        group,
        CALL,
        "--save_minutes",
        type=number(float, 0, MAX_MINUTES),
        default=1.0,
        metavar="MINUTES",
        help="between checkpoints; 0 writes one after every epoch",
    )
    add(group, CALL, "--no_pages", action="store_true", help="write no dialogues.html of the tested dialogues")
    add(group, CALL, "--gpu_id", type=gpu, help="a GPU's number, cpu or mps; without it the first CUDA GPU, or the CPU")
    add(
        group,
        CALL,
        "--test_only",
        nargs="?",
        const=True,
        default=False,
        metavar="NAME",
        help="only test the experiment folder NAME",
    )
    add(group, CALL, "--test_path", metavar="NAME", help="experiment folder to test: in SAVE_PATH, or a path")


def parse_args(
    argv: Sequence[str], parser: argparse.ArgumentParser | None = None
) -> tuple[argparse.Namespace, set[str]]:
    """Arguments, and the names of those that the user gave; `parser` may be another that has these options.

    `--test_only --NAME`, as the published README writes it, means `--test_only NAME`.
    """
    parser = parser or get_args_parser()
    argv = list(argv)
    if "--test_only" in argv[:-1]:
        after = argv.index("--test_only") + 1
        if argv[after].startswith("--") and argv[after].partition("=")[0] not in parser._option_string_actions:
            argv[after] = argv[after][2:]
    args = parser.parse_args(argv)
    if isinstance(args.data_path, Path):  # the default
        args.data_path = [args.data_path]
    unset = object()
    parser.set_defaults(**dict.fromkeys(vars(args), unset))
    given = {name for name, value in vars(parser.parse_args(argv)).items() if value is not unset}
    if isinstance(args.test_only, str):
        if args.test_path not in (None, args.test_only):
            parser.error(f"--test_only {args.test_only} and --test_path {args.test_path} name two folders")
        args.test_path, args.test_only = args.test_only, True
    check_combination(args, parser)
    return args, given


def check_combination(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End the program with the parser's error where options contradict each other."""
    if args.test_only and args.test_path is None:
        parser.error("--test_only: which experiment folder? Add --test_path NAME")
    if args.test_path is not None and not args.test_only:
        parser.error("--test_path goes with --test_only")
    if args.resume is not None and args.test_only:
        parser.error("--resume goes on with training; --test_only only tests")
    if args.select == "best" and args.valid_split is None and not args.test_only and args.resume in (None, "auto"):
        parser.error("--select best needs --valid_split")
    if args.patience is not None and args.valid_split is None and not args.test_only and args.resume in (None, "auto"):
        parser.error("--patience needs --valid_split")
