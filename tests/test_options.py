"""options: names and defaults of main.py's command line, published command lines, refused values, make_options."""

from pathlib import Path

import pytest
import torch

from corpora.utterances import read_utterances
from training.options import get_args_parser, make_options, names_of, parse_args, without_effect
from training.progress import run_summary
from utils import InputError, read_json

# Those of the published program (without gpu_id 1, lr_decay .001 and ./exp), and later ones as they were first written
PUBLISHED = {"save_path": Path("exp"), "backbone": "lstm", "embed_d": 32, "hidden_size": 512, "text_dim": 768, "ws": 8}
PUBLISHED |= {"SorL": "speaker", "sr": 16000, "test_split": None, "batch_size": 64, "optim": "adam", "loss": "normal"}
PUBLISHED |= {"lam": 0.66, "beta": 0.99, "lr": 1e-3, "weight_decay": 1e-5, "epochs": 50, "lr_decay": 0.0}
LATER = {"data_path": Path("data/KEMDy19"), "num_layers": 4, "modality": "audio_text", "audio": "cnn", "momentum": 0.0}
LATER |= {"lr_gamma": 0.7, "affect_loss": "mse", "sampler": "shuffled", "seed": 0, "select": "last", "monitor": "loss"}
LATER |= {"precision": "auto", "report_to": "tensorboard", "bn_statistics": "running"}
LATER |= {"language": "ko"}
LATER |= dict.fromkeys(("audio_path", "valid_split", "train_split", "audio_model", "patience", "resume", "gpu_id"))
LATER |= dict.fromkeys(("texts", "transcribe", "text_model", "test_path", "init"))
LATER |= dict.fromkeys(("bidirectional", "speakers", "no_concat", "temperature", "compile"), False)
LATER |= dict.fromkeys(("no_test", "no_pages", "test_only"), False)


def test_every_option_has_its_published_name_and_default_and_one_group():
    assert vars(parse_args([])) == PUBLISHED | LATER | {"given": set()}
    names = [name for group in ("data", "test", "model", "training", "run") for name in names_of(group)]
    assert sorted(names) == sorted(PUBLISHED | LATER)


def test_help_names_every_option_with_its_default():
    assert "--lam LAM" in get_args_parser().format_help()
    for action in get_args_parser()._actions[1:]:
        value = (PUBLISHED | LATER)[action.dest]
        assert action.help.endswith("(default: %(default)s)") == (value is not None and value is not False)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--SorL listener --bidirectional True --gpu_id 0", {"SorL": "listener", "bidirectional": True, "gpu_id": "0"}),
        ("--bidirectional False", {"bidirectional": False}),
        ("--bidirectional --gpu_id cpu", {"bidirectional": True, "gpu_id": "cpu"}),
        ("--test_split [13,14,15,16] --no_concat", {"test_split": [13, 14, 15, 16], "no_concat": True}),
        ("--test_split 13-16 --valid_split 1,2", {"test_split": [13, 14, 15, 16], "valid_split": [1, 2]}),
        ("--test_only --lstm_speaker_2022", {"test_only": True, "test_path": "lstm_speaker_2022"}),
        ("--test_only NAME", {"test_only": True, "test_path": "NAME"}),
        ("--test_only --gpu_id cpu --test_path NAME", {"test_only": True, "test_path": "NAME", "gpu_id": "cpu"}),
        ("--patience 3 --resume NAME", {"patience": 3, "resume": "NAME"}),  # the run has its --valid_split
        ("--data_path 자료/KEMDy20", {"data_path": Path("자료/KEMDy20")}),
    ],
)
def test_a_command_line_is_understood(line, expected):
    options = parse_args(line.split())
    assert {name: vars(options)[name] for name in expected} == expected
    assert options.given == {part[2:] for part in line.split() if part[2:] in PUBLISHED | LATER and part[0] == "-"}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--epohcs 3", "--epochs"),
        ("--epoch 3", "--epochs"),  # no abbreviations: a later option may begin alike
        ("--SORL listener", "--SorL"),
        ("--data_path a b", "b"),
        ("--test_split 0-3", "--test_split"),
        ("--ws 0", "--ws"),
        ("--sr 3999", "--sr"),
        ("--lam 1.1", "--lam"),
        ("--lam nan", "--lam"),
        ("--lr inf", "--lr"),
        ("--beta 1", "--beta"),
        ("--seed 4294967296", "--seed"),
        ("--bidirectional perhaps", "--bidirectional"),
        ("--gpu_id mps", "--gpu_id"),
        ("--backbone rnn", "--backbone"),
        ("--select best", "--valid_split"),
        ("--texts t.csv", "--test_only"),
        ("--patience 3 --resume auto", "--valid_split"),
        ("--temperature", "--valid_split"),
        ("--test_only NAME --no_test", "--no_test"),
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


@pytest.mark.parametrize(
    ("line", "idle"),
    [
        ("", "audio_model beta lr_decay momentum monitor"),
        ("--loss cbloss --optim sgd --valid_split 1", "audio_model lr_decay"),
        ("--optim adagrad --audio encoder", "beta compile momentum monitor sr"),
        ("--modality text --audio encoder", "audio audio_model beta compile lr_decay momentum monitor sr"),
        ("--modality audio", "audio_model beta lr_decay momentum monitor text_dim text_model"),
    ],
)
def test_an_option_has_no_effect_without_its_partner(line, idle):
    assert without_effect(parse_args(line.split())).keys() == {*idle.split()}


def test_a_run_names_the_options_that_are_given_and_have_no_effect(text_run, preprocessed):
    line = ["--data_path", str(preprocessed), "--beta", "0.5", "--sr", "8000", "--modality", "text", "--lr", "0.01"]
    data, table = read_json(text_run / "configuration.json")["data"], read_utterances(preprocessed, "speaker")
    about = data, table, {"train": [1]}, torch.nn.Linear(2, 2)
    for argv, named in ((line, {"--beta", "--sr"}), (line[:2], set())):
        lines = [text for text in run_summary(parse_args(argv), *about).splitlines() if text.startswith("unused:")]
        assert {part.split()[0] for text in lines for part in text.removeprefix("unused:").split(";")} == named


def test_options_of_a_notebook_are_those_of_the_command_line():
    keywords = {"data_path": Path("a b"), "test_split": [1, 2], "lr": 3e-4, "speakers": True, "bidirectional": True}
    options = make_options(**keywords, no_concat=False, valid_split=None)
    line = ["--data_path", "a b", "--test_split", "1-2", "--lr", "3e-4", "--speakers", "--bidirectional"]
    expected = parse_args(line)
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
