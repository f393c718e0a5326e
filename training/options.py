"""Options: the command line of main.py, and the parser that all commands share. Imports nothing that takes time."""

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
    """`True` or `False`, as a command line or a configuration writes it."""
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

    parse.__name__ = kind.__name__  # for argparse's message where `value` is no number
    return parse


def gpu(value: str) -> str:
    """A GPU's number, or `cpu`."""
    if value != "cpu" and not (value.isdecimal() and len(value) < 5):
        raise argparse.ArgumentTypeError(f"{value!r}: expected a GPU's number, or cpu")
    return value


def file_path(value: str) -> Path:
    """A path that a file can have and a configuration can hold."""
    if "\0" in value or value != value.encode(errors="ignore").decode():
        raise argparse.ArgumentTypeError(f"{value!r}: expected a path in UTF-8 without NUL characters")
    return Path(expand_home(value))


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser with errors of one line, and a suggestion for a mistyped name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            by_folded = {option.casefold(): option for option in self._option_string_actions}
            close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
            meant = f"did you mean {by_folded[close[0]]}?" if close else "--help lists the options"
            self.error(f"{name}: no such option, {meant}")
        return parsed


# The options of main.py. Of the group data a resumed or tested run may have other values, of the group test a tested
# one; those of model and training are fixed once a run has begun, and those of run are of this call alone


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Train MATE on KEMDy19 or KEMDy20, test it, and report F1 and CCC.")
    add = parser.add_argument_group("data").add_argument
    add("--data_path", type=file_path, default=Path("data/KEMDy19"), help="pre-processed corpus")
    add("--audio_path", type=file_path, help="folder of the wavs, if neither DATA_PATH/wav nor ./audio")
    add = parser.add_argument_group("test").add_argument
    add("--SorL", choices=ROLES, default="speaker", help="predict the emotion of the speaker or the listener")
    add("--test_split", type=parse_sessions, metavar="SESSIONS", help="sessions to test on (default: the first fold)")
    add("--batch_size", type=number(int, 1), default=64, help="windows in a batch; the published figures depend on it")
    add("--precision", choices=PRECISIONS, default="auto", help="of convolutions; auto: bf16 in training if it is fast")
    fresh = "running: of training, as published; train: computed anew over training windows before validation and test"
    add("--bn_statistics", choices=("running", "train"), default="running", help=f"statistics of batch norm: {fresh}")
    add_fixed_options(parser)
    add = parser.add_argument_group("run").add_argument
    add("--save_path", type=file_path, default=Path("exp"), help="folder of the run folders")
    add("--resume", metavar="NAME", help="resume run NAME; auto: the newest unfinished run with these options and data")
    add("--report_to", choices=TRACKERS, default="tensorboard", help="experiment tracker")
    add("--no_test", action="store_true", help="leave the test to a later --resume")
    add("--no_pages", action="store_true", help="do not write dialogues.html")
    add("--gpu_id", type=gpu, help="number of a GPU, or cpu (default: the first CUDA GPU, or the CPU)")
    add("--test_only", nargs="?", const=True, default=False, metavar="NAME", help="only test the run NAME")
    add("--test_path", metavar="NAME", help="run to test: a folder in SAVE_PATH, or a path")
    add("--texts", type=file_path, metavar="FILE", help="CSV of id,text: also test with these texts (--test_only)")
    add("--transcribe", nargs="?", const="openai/whisper-small", metavar="NAME", help="the same with texts of Whisper")
    add("--language", default="ko", help="of --transcribe")
    add("--embed_d", type=int, default=32, help="without effect, as in the published program")
    for action in parser._actions:
        if action.default is not None and action.default is not False and action.default != argparse.SUPPRESS:
            action.help += " (default: %(default)s)"
    return parser


def add_fixed_options(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--ws", type=number(int, 1), default=8, help="window size: utterances that the model sees at once")
    add("--sr", type=number(int, 4000, 48000), default=SAMPLE_RATE, help="sampling rate of the audio in Hz")
    embeddings = "text encoder whose embeddings the corpus has besides embedding_TEXT_DIM.npy; of --texts its folder"
    add("--text_model", metavar="NAME", help=embeddings)
    add("--text_dim", type=number(int, 1), default=TEXT_DIM, help="dimension of the embeddings without --text_model")
    add("--backbone", choices=("lstm", "gru"), default="lstm", help="recurrent network over the window")
    add("--hidden_size", type=number(int, 1), default=512, help="hidden size of the recurrent network")
    add("--num_layers", type=number(int, 1), default=4, help="number of recurrent layers")
    add("--bidirectional", type=switch, nargs="?", const=True, default=False, help="run the recurrence both ways")
    add("--modality", choices=("audio_text", "audio", "text"), default="audio_text", help="inputs of the model")
    add("--audio", choices=("cnn", "encoder"), default="cnn", help="CNN over log-mels, or speech embeddings")
    add("--audio_model", metavar="NAME", help="speech encoder of --audio encoder, if the corpus has several")
    add("--speakers", action="store_true", help="add a speaker embedding: same speaker as the last utterance, or other")
    add("--no_concat", action="store_true", help="do not feed emotion probabilities to the arousal and valence heads")
    add = parser.add_argument_group("training").add_argument
    add("--valid_split", type=parse_sessions, metavar="SESSIONS", help="training sessions to validate on instead")
    add("--train_split", type=parse_sessions, metavar="SESSIONS", help="sessions to train on (default: all others)")
    add("--init", metavar="NAME", help="begin with the weights of run NAME, of another corpus, role or fold")
    add("--epochs", type=number(int, 1), default=50, help="passes over the training windows")
    add("--optim", choices=OPTIMIZERS, default="adam", help="optimizer")
    add("--momentum", type=number(float, 0, 0.99999), default=0.0, help="momentum of --optim sgd")
    add("--lr", type=number(float, 0), default=1e-3, help="learning rate")
    add("--lr_gamma", type=number(float, 0), default=0.7, help="factor of the learning rate at epochs/3 and epochs/2")
    add("--lr_decay", type=number(float, 0), default=0.0, help="learning rate decay of --optim adagrad")
    add("--weight_decay", type=number(float, 0), default=1e-5, help="weight decay")
    add("--loss", choices=("normal", "cbloss"), default="normal", help="KL divergence, or class-balanced BCE")
    add("--affect_loss", choices=("mse", "ccc", "mse_ccc"), default="mse", help="loss of arousal and valence")
    add("--lam", type=number(float, 0, 1), default=0.66, help="weight of the emotion loss, from 0 to 1")
    add("--sampler", choices=("shuffled", "weighted"), default="shuffled", help="weighted: by inverse class size")
    add("--beta", type=number(float, 0, 0.99999), default=0.99, help="beta of the class-balanced loss")
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, help="random seed")
    add("--select", choices=("last", "best"), default="last", help="epoch to test: the last, or the best by --monitor")
    add("--monitor", choices=("loss", "f1", "macro_f1", "ccc"), default="loss", help="figure of the best epoch")
    add("--patience", type=number(int, 1), metavar="EPOCHS", help="stop after so many epochs that are no better")
    add("--temperature", action="store_true", help="scale log-probabilities by a number chosen on --valid_split")
    add("--compile", action="store_true", help="compile the CNN for training (for GPUs)")


NEEDS = {  # options that act only beside others: the other one, and those of its values
    "beta": ("loss", ["cbloss"]),
    "momentum": ("optim", ["sgd"]),
    "lr_decay": ("optim", ["adagrad"]),
    "monitor": ("valid_split", ["SESSIONS"]),
    "text_dim": ("modality", ["audio_text", "text"]),
    "text_model": ("modality", ["audio_text", "text"]),
    "audio": ("modality", ["audio_text", "audio"]),
    "audio_model": ("audio", ["encoder"]),
    "sr": ("audio", ["cnn"]),
    "compile": ("audio", ["cnn"]),
}


def without_effect(options: argparse.Namespace) -> dict[str, str]:
    """The options of main.py that have no effect beside the others, by their names, and why, in words."""
    found = {}
    for name, (other, values) in NEEDS.items():
        value = "SESSIONS" if isinstance(getattr(options, other), list) else getattr(options, other)
        if other in found or value not in values:
            found[name] = found.get(other) or f"has no effect without --{other} {' or '.join(values)}"
    return found


@cache
def names_of(*scopes: str) -> frozenset[str]:
    """Names of the options in these groups of `get_args_parser`."""
    groups = [group for group in get_args_parser()._action_groups if group.title in scopes]
    return frozenset(action.dest for group in groups for action in group._group_actions)


def parse_args(argv: Sequence[str], parser: ArgumentParser | None = None) -> argparse.Namespace:
    """The options of main.py, with the names of those that the user gave as `given`; of a `parser` that has them.

    `--test_only --NAME`, as the published README writes it, means `--test_only NAME`.
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
        parser.error("--test_only NAME tests a run, and needs its name")
    if (options.texts or options.transcribe) and not options.test_only:
        parser.error("--texts and --transcribe are for --test_only")
    validates = options.valid_split is not None or options.test_only or options.resume not in (None, "auto")
    if not validates and (options.select == "best" or options.patience is not None or options.temperature):
        parser.error("--select best, --patience and --temperature need --valid_split")
    if options.test_only and options.no_test:
        parser.error("--test_only and --no_test exclude each other")
    return options


def make_options(**keywords: Any) -> argparse.Namespace:
    """Options for `main.train` and `main.test` in a notebook: main.py's defaults, and `keywords` in place of some.

    `make_options(data_path="data/sample", modality="text", test_split=[1, 2], epochs=3)`; raises `InputError` where an
    option does not exist or does not take the value.
    """
    parser, argv = get_args_parser(), []

    def refuse(message: str) -> NoReturn:
        raise InputError(message)

    parser.error = refuse
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
