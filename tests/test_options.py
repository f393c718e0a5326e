"""options: names and defaults of main.py's command line, published command lines, refused values, make_options."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import constants
from training.options import get_args_parser, make_options, names_of, parse_args
from utils import InputError

GROUPS = ("data", "test", "model", "training", "run")
# Those of the published program (without gpu_id 1, lr_decay .001 and ./exp), and later ones as they were first written
PUBLISHED = {"save_path": Path("exp"), "backbone": "lstm", "embed_d": 32, "hidden_size": 512, "text_dim": 768, "ws": 8}
PUBLISHED |= {"SorL": "speaker", "sr": 16000, "test_split": None, "batch_size": 64, "optim": "adam", "loss": "normal"}
PUBLISHED |= {"lam": 0.66, "beta": 0.99, "lr": 1e-3, "weight_decay": 1e-5, "epochs": 50, "lr_decay": 0.0}
LATER = {"data_path": Path("data/KEMDy19"), "num_layers": 4, "modality": "audio_text", "audio": "cnn", "momentum": 0.0}
LATER |= {"lr_gamma": 0.7, "affect_loss": "mse", "sampler": "shuffled", "seed": 0, "select": "last", "monitor": "loss"}
LATER |= {"precision": "auto", "report_to": "tensorboard"}
LATER |= dict.fromkeys(("audio_path", "valid_split", "audio_model", "patience", "resume", "gpu_id", "test_path"))
LATER |= dict.fromkeys(("bidirectional", "speakers", "no_concat", "compile", "no_pages", "test_only"), False)


def test_every_option_has_its_published_name_and_default():
    options, given = parse_args([])
    assert vars(options) == PUBLISHED | LATER | {"given": set()}
    assert given == set()


def test_every_option_is_in_one_group():
    names = [name for group in GROUPS for name in names_of(group)]
    assert sorted(names) == sorted(PUBLISHED | LATER)


def test_help_names_every_option_and_imports_nothing_heavy():
    code = "import sys, training.options as o; o.get_args_parser().print_help(); print({*sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"--{name} " in done.stdout or f"--{name}\n" in done.stdout for name in PUBLISHED | LATER)
    defaults = {name: value for name, value in (PUBLISHED | LATER).items() if value is not None and value is not False}
    assert " ".join(done.stdout.split()).count("(default: ") == len(defaults) + 2  # of the test fold, and of the GPU
    for module in ("torch", "numpy", "pandas", "transformers", "librosa"):
        assert f"'{module}'" not in done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--SorL listener --epochs 100", {"SorL": "listener", "epochs": 100}),
        ("--bidirectional True --gpu_id 0", {"bidirectional": True, "gpu_id": "0"}),
        ("--bidirectional False", {"bidirectional": False}),
        ("--bidirectional --gpu_id mps", {"bidirectional": True, "gpu_id": "mps"}),
        ("--test_split [13,14,15,16] --no_concat", {"test_split": [13, 14, 15, 16], "no_concat": True}),
        ("--test_split 13-16 --valid_split 1,2", {"test_split": [13, 14, 15, 16], "valid_split": [1, 2]}),
        ("--loss cbloss --lam 0.9 --beta 0.999", {"loss": "cbloss", "lam": 0.9, "beta": 0.999}),
        ("--test_only --lstm_speaker_2022", {"test_only": True, "test_path": "lstm_speaker_2022"}),
        ("--test_only NAME", {"test_only": True, "test_path": "NAME"}),
        ("--test_only --test_path NAME", {"test_only": True, "test_path": "NAME"}),
        ("--test_only --gpu_id cpu --test_path NAME", {"test_only": True, "test_path": "NAME", "gpu_id": "cpu"}),
        ("--patience 3 --resume NAME", {"patience": 3, "resume": "NAME"}),  # the run has its --valid_split
        ("--data_path 자료/KEMDy20", {"data_path": Path("자료/KEMDy20")}),
    ],
)
def test_a_command_line_is_understood(line, expected):
    options, given = parse_args(line.split())
    assert {name: vars(options)[name] for name in expected} == expected
    assert (
        given
        == options.given
        == {part[2:] for part in line.split() if part[2:] in PUBLISHED | LATER and part[0] == "-"}
    )


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--epohcs 3", "--epochs"),
        ("--epoch 3", "--epochs"),  # no abbreviations: a later option may begin alike
        ("--SORL listener", "--SorL"),
        ("train", "train"),
        ("--data_path a b", "preprocessing.py --data_path a b --out"),
        ("--data_path a\0b", "--data_path"),
        ("--test_split 0-3", "--test_split"),
        ("--test_split x", "--test_split"),
        ("--ws 0", "--ws"),
        ("--sr 3999", "--sr"),
        ("--sr 1e4", "--sr"),
        ("--lam 1.1", "--lam"),
        ("--lam nan", "--lam"),
        ("--lr inf", "--lr"),
        ("--lr -1e-3", "--lr"),
        ("--beta 1", "--beta"),
        ("--momentum 1", "--momentum"),
        ("--seed 4294967296", "--seed"),
        ("--bidirectional perhaps", "--bidirectional"),
        ("--gpu_id -1", "--gpu_id"),
        ("--gpu_id gpu", "--gpu_id"),
        ("--backbone rnn", "--backbone"),
        ("--optim", "--optim"),
        ("--report_to comet", "--report_to"),
        ("--select best", "--valid_split"),
        ("--patience 3", "--valid_split"),
        ("--patience 3 --resume auto", "--valid_split"),
        ("--test_only", "--test_only"),
        ("--test_path NAME", "--test_only"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(line, named, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_args(line.split(" "))
    assert exit_.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert named in error


def test_options_of_a_notebook_are_those_of_the_command_line():
    keywords = {"data_path": Path("a b"), "test_split": [1, 2], "lr": 3e-4, "speakers": True, "bidirectional": True}
    options = make_options(**keywords, no_concat=False, valid_split=None)
    line = ["--data_path", "a b", "--test_split", "1-2", "--lr", "3e-4", "--speakers", "--bidirectional"]
    expected = parse_args(line)[0]
    assert options.given == expected.given | {"no_concat", "valid_split"}  # to resume or test a run that has others
    assert vars(options) | {"given": None} == vars(expected) | {"given": None}
    assert make_options(test_only="NAME").test_path == "NAME"


@pytest.mark.parametrize(
    "keywords",
    [{"epohcs": 3}, {"lam": 2}, {"lam": True}, {"lam": False}, {"epochs": None}, {"epochs": 2.5}, {"speakers": "x"}],
)
def test_bad_options_of_a_notebook_are_input_errors(keywords):
    with pytest.raises(InputError, match="--" + "".join(keywords)):
        make_options(**keywords)


def test_choices_are_the_constants():
    by_name = {action.dest: action.choices for action in get_args_parser()._actions}
    assert by_name["optim"] == constants.OPTIMIZERS
    assert by_name["report_to"] == constants.TRACKERS
