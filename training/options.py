"""Options: the command line of main.py, and the parser class of all commands. Imports no slow package."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from constants import OPTIMIZERS, PRECISIONS, ROLES, SAMPLE_RATE, TEXT_DIM, TRACKERS
from corpora.sessions import parse_sessions
from utils import InputError, expand_home


def switch(value: str) -> bool:
    """`True` or `False`, as written in a command line or a configuration."""
    if value.lower() not in ("true", "1", "yes", "false", "0", "no"):
        raise argparse.ArgumentTypeError(f"{value!r}: expected True or False")
    return value.lower() in ("true", "1", "yes")


def number(kind: type, low: float, high: float = float("inf")) -> Any:
    """An argparse type: a finite `kind` from `low` to `high`."""

    def parse(value: str) -> float:
        parsed = kind(value)
        if not low <= parsed <= high or parsed == float("inf"):
            expected = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{value!r}: expected {kind.__name__} {expected}")
        return parsed

    parse.__name__ = kind.__name__  # argparse's message names it if `value` is not a number
    return parse


def gpu(value: str) -> str:
    """The number of a GPU, or `cpu`."""
    if value != "cpu" and not (value.isdecimal() and len(value) < 5):
        raise argparse.ArgumentTypeError(f"{value!r}: expected the number of a GPU, or cpu")
    return value


def file_path(value: str) -> Path:
    """A path that the file system and a JSON file accept."""
    if "\0" in value or value != value.encode(errors="ignore").decode():
        raise argparse.ArgumentTypeError(f"{value!r}: expected a path in UTF-8 without NUL characters")
    return Path(expand_home(value))


class HelpFormatter(argparse.HelpFormatter):
    """argparse's formatter, with the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        has_default = isinstance(action.default, int | float | str | Path) and action.default is not False
        if not has_default or action.default == argparse.SUPPRESS or "%(default)" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser with errors of one line, a suggestion for a mistyped name, and examples below its help."""

    def __init__(self, examples: Sequence[str] = (), **settings: Any) -> None:
        shared = {"allow_abbrev": False, "formatter_class": HelpFormatter, "usage": "%(prog)s [options]"}
        super().__init__(**shared | settings)
        self.examples = examples

    def format_help(self) -> str:
        return super().format_help() + "\nexamples:\n" + "".join(f"  python {line}\n" for line in self.examples)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            by_folded = {option.casefold(): option for option in self._option_string_actions}
            close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
            meant = f"did you mean {by_folded[close[0]]}?" if close else "--help lists the options"
            self.error(f"{name}: {'no such option' if name[0] == '-' else 'unexpected argument'}, {meant}")
        return parsed


# A resumed or tested run may have other values of the options in `data`, a tested run also of those in `test`. Those in
# `model` and `training` are fixed when a run starts; those in `run` are of each call
SCOPES = {
    "data": "data_path audio_path",
    "test": "SorL test_split batch_size precision bn_statistics",
    "model": "ws sr text_model text_dim backbone hidden_size num_layers bidirectional modality audio audio_model"
    " speakers no_concat",
    "training": "valid_split train_split init epochs optim lr lr_gamma lr_decay weight_decay loss affect_loss lam"
    " sampler beta seed select patience temperature compile",
    "run": "save_path resume report_to gpu_id test_only test_path texts transcribe embed_d",
}


def names_of(*scopes: str) -> frozenset[str]:
    """Names of the options in these scopes."""
    return frozenset(name for scope in scopes for name in SCOPES[scope].split())


def get_args_parser() -> ArgumentParser:
    examples = "main.py --data_path data/KEMDy19 --test_split 13-16", "main.py --test_only exp/latest"
    parser = ArgumentParser(examples, description="Train MATE on a preprocessed corpus, test it, report F1 and CCC.")
    add = parser.add_argument_group("Data").add_argument
    add("--data_path", type=file_path, default=Path("data/KEMDy19"), help="preprocessed corpus folder")
    add("--SorL", choices=ROLES, default="speaker", help="predict the emotion of the speaker or of the listener")
    sessions = {"type": parse_sessions, "metavar": "SESSIONS"}
    add("--test_split", **sessions, help="sessions to test on, such as 13-16 (default: the first fold)")
    add_model_options(parser)
    add_training_options(parser)
    add = parser.add_argument_group("Validation").add_argument
    add("--valid_split", **sessions, help="sessions to validate on after each epoch instead of training on them")
    best = "epoch to test: the last, or the best by this value on --valid_split (ccc: mean of both CCCs)"
    add("--select", choices=("last", "loss", "f1", "macro_f1", "ccc"), default="last", help=best)
    add("--patience", type=number(int, 1), metavar="EPOCHS", help="stop after this many epochs without improvement")
    add("--temperature", action="store_true", help="calibrate probabilities by a temperature fitted on --valid_split")
    add = parser.add_argument_group("Testing").add_argument
    add("--test_only", nargs="?", const=True, default=False, metavar="RUN", help="test this run (latest: the newest)")
    statistics = "batch norm in tests: running statistics (as published), or recomputed on training windows (robust)"
    add("--bn_statistics", choices=("running", "train"), default="running", help=statistics)
    add("--texts", type=file_path, metavar="FILE", help="with --test_only: also test with the texts of a CSV (id,text)")
    whisper = "with --test_only: also test with transcripts by this Whisper model (without NAME openai/whisper-small)"
    add("--transcribe", nargs="?", const="openai/whisper-small", metavar="NAME", help=whisper)
    add = parser.add_argument_group("Run").add_argument
    add("--save_path", type=file_path, default=Path("exp"), help="parent folder of the run folders")
    add("--resume", metavar="RUN", help="resume this run; auto: the newest unfinished run with these options and data")
    add("--gpu_id", type=gpu, help="number of the GPU to use, or cpu (default: the first CUDA GPU, or the CPU)")
    add("--report_to", choices=TRACKERS, default="tensorboard", help="experiment tracker")
    add = parser.add_argument_group("Rarely used").add_argument
    add("--audio_path", type=file_path, help="folder of the wav files, if it is neither DATA_PATH/wav nor ./audio")
    add("--train_split", **sessions, help="sessions to train on (default: all others), to measure the effect of data")
    add("--sr", type=number(int, 4000, 48000), default=SAMPLE_RATE, help="sampling rate in Hz; a lower one is faster")
    add("--precision", choices=PRECISIONS, default="auto", help="precision of convolutions; auto: bf16 if fast")
    add("--compile", action="store_true", help="compile the CNN for training, for long runs on a GPU")
    hidden = {"help": argparse.SUPPRESS}  # options of the published program
    parser.add_argument("--embed_d", type=int, default=32, **hidden)  # without effect there, too
    parser.add_argument("--text_dim", type=number(int, 1), default=TEXT_DIM, **hidden)
    parser.add_argument("--lr_decay", type=number(float, 0), default=0.0, **hidden)
    parser.add_argument("--test_path", **hidden)
    return parser


def add_model_options(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("Model").add_argument
    add("--modality", choices=("audio_text", "audio", "text"), default="audio_text", help="inputs of the model")
    add("--backbone", choices=("lstm", "gru"), default="lstm", help="recurrent network over the utterances of a window")
    add("--hidden_size", type=number(int, 1), default=512, help="hidden size of the recurrent network")
    add("--num_layers", type=number(int, 1), default=4, help="number of recurrent layers; fewer train faster")
    add("--bidirectional", type=switch, nargs="?", const=True, default=False, metavar="BOOL", help="recur both ways")
    add("--ws", type=number(int, 1), default=8, help="window size: utterances that the model receives at once")
    add("--speakers", action="store_true", help="add a speaker embedding: same speaker as the last utterance, or other")
    add("--no_concat", action="store_true", help="do not feed emotion probabilities to the arousal and valence heads")
    add = parser.add_argument_group("Encoders").add_argument
    add("--text_model", metavar="NAME", help="text encoder (default: the encoder of embedding_768.npy)")
    add("--audio", choices=("cnn", "encoder"), default="cnn", help="CNN over log-mels, or speech encoder embeddings")
    add("--audio_model", metavar="NAME", help="speech encoder for --audio encoder, if there are embeddings of several")


def add_training_options(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("Training").add_argument
    add("--epochs", type=number(int, 1), default=50, help="number of epochs; the paper uses 100")
    add("--batch_size", type=number(int, 1), default=64, help="windows in a batch; the F1 by batch depends on it")
    add("--optim", choices=OPTIMIZERS, default="adam", help="optimizer")
    add("--lr", type=number(float, 0), default=1e-3, help="learning rate; lower it if the loss is not finite")
    add("--lr_gamma", type=number(float, 0), default=0.7, help="learning rate factor after 1/3 and 1/2 of the epochs")
    add("--weight_decay", type=number(float, 0), default=1e-5, help="weight decay of the optimizer")
    losses = "emotion loss; normal: KL divergence, cbloss: class-balanced BCE"
    add("--loss", choices=("normal", "cbloss"), default="normal", help=losses)
    add("--beta", type=number(float, 0, 0.99999), default=0.99, help="beta of the class-balanced loss (--loss cbloss)")
    add("--affect_loss", choices=("mse", "ccc", "mse_ccc"), default="mse", help="loss of arousal and valence")
    add("--lam", type=number(float, 0, 1), default=0.66, help="weight of the emotion loss, from 0 to 1")
    add("--sampler", choices=("shuffled", "weighted"), default="shuffled", help="weighted: oversample rare emotions")
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, help="random seed; use several to measure the variation")
    add("--init", metavar="RUN", help="initialise with the weights of this run (another corpus, role or fold)")


NEEDS = {  # options that have an effect only with certain values of another option
    "beta": ("loss", ["cbloss"]),
    "lr_decay": ("optim", ["adagrad"]),
    "text_dim": ("modality", ["audio_text", "text"]),
    "text_model": ("modality", ["audio_text", "text"]),
    "audio": ("modality", ["audio_text", "audio"]),
    "audio_model": ("audio", ["encoder"]),
    "sr": ("audio", ["cnn"]),
    "compile": ("audio", ["cnn"]),
}


def without_effect(options: argparse.Namespace) -> dict[str, str]:
    """The options of main.py that have no effect with these values of the others, and the reason of each."""
    found = {}
    for name, (other, values) in NEEDS.items():
        if other in found or getattr(options, other) not in values:
            found[name] = found.get(other) or f"has no effect without --{other} {' or '.join(values)}"
    return found


def parse_args(argv: Sequence[str], parser: ArgumentParser | None = None) -> argparse.Namespace:
    """Parse the options of main.py; `given` holds the names of those on the command line. `parser` may have more.

    `--test_only --NAME`, as in the published README, means `--test_only NAME`.
    """
    parser, argv = parser or get_args_parser(), [*argv]
    if "--test_only" in argv[:-1]:
        after = argv.index("--test_only") + 1
        if argv[after].startswith("--") and argv[after].partition("=")[0] not in parser._option_string_actions:
            argv[after] = argv[after][2:]
    options = parser.parse_args(argv)
    given = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(options))))
    options.given = {name for name, value in vars(given).items() if value is not None}
    if isinstance(options.test_only, str):
        options.test_path, options.test_only = options.test_only, True
    if options.test_only != (options.test_path is not None):
        parser.error("--test_only needs the name of a run")
    if (options.texts or options.transcribe) and not options.test_only:
        parser.error("--texts and --transcribe need --test_only")
    if options.resume == "auto" and Path(options.init or "").name == "latest":
        parser.error("--resume auto needs the folder of the run of --init, not latest, which changes")
    validates = options.valid_split is not None or options.test_only or options.resume not in (None, "auto")
    if not validates and (options.select != "last" or options.patience is not None or options.temperature):
        parser.error("--patience, --temperature and every --select except last need --valid_split")
    return options


def make_options(**keywords: Any) -> argparse.Namespace:
    """Options for `main.train` and `main.test` in a notebook: `keywords`, and main.py's defaults for the others.

    `make_options(data_path="data/sample", modality="text", test_split=[1, 2], epochs=3)`; raises `InputError` if an
    option does not exist or its value is invalid.
    """
    parser, argv = get_args_parser(), []

    def raise_error(message: str) -> NoReturn:
        raise InputError(message)

    parser.error = raise_error
    for name, value in keywords.items():
        if name in defaults() and value is defaults()[name]:  # None or False, which no command line can express
            continue
        argv.append(f"--{name}" if value is True else f"--{name}={value}")
    options = parse_args(argv, parser)
    options.given = {*keywords}
    return options


@cache
def defaults() -> dict[str, Any]:
    """The default of every option."""
    return vars(get_args_parser().parse_args([]))
