"""options: names and defaults of main.py's command line, published command lines, refused values, make_options."""

import re
from pathlib import Path

import make_sample
import pytest
import torch

import experiments
import export
import predict
import preprocessing
from corpora.utterances import read_utterances
from tools import benchmark
from training import finetune_options, options
from training.options import SCOPES, get_args_parser, make_options, names_of, parse_args, without_effect
from training.progress import run_summary
from utils import InputError, read_json

# Those of the published program (without gpu_id 1, lr_decay .001 and ./exp), and later ones as they were first written
PUBLISHED = {"save_path": Path("exp"), "backbone": "lstm", "embed_d": 32, "hidden_size": 512, "text_dim": 768, "ws": 8}
PUBLISHED |= {"SorL": "speaker", "sr": 16000, "test_split": None, "batch_size": 64, "optim": "adam", "loss": "normal"}
PUBLISHED |= {"lam": 0.66, "beta": 0.99, "lr": 1e-3, "weight_decay": 1e-5, "epochs": 50, "lr_decay": 0.0}
LATER = {"data_path": Path("data/KEMDy19"), "num_layers": 4, "modality": "audio_text", "audio": "cnn"}
LATER |= {"lr_gamma": 0.7, "affect_loss": "mse", "sampler": "shuffled", "seed": 0, "select": "last"}
LATER |= {"precision": "auto", "report_to": "tensorboard", "bn_statistics": "running"}
LATER |= dict.fromkeys(("audio_path", "valid_split", "train_split", "audio_model", "patience", "resume", "gpu_id"))
LATER |= dict.fromkeys(("texts", "transcribe", "text_model", "test_path", "init"))
LATER |= dict.fromkeys(("bidirectional", "speakers", "no_concat", "temperature", "compile"), False)
LATER |= {"test_only": False}
HIDDEN = {"embed_d", "lr_decay", "test_path", "text_dim"}  # published, and not in --help


def test_every_option_has_its_published_name_and_default_and_one_scope():
    assert vars(parse_args([])) == PUBLISHED | LATER | {"given": set()}
    names = [name for scope in SCOPES for name in SCOPES[scope].split()]
    assert sorted(names) == sorted(PUBLISHED | LATER)
    assert names_of("data", "run") == {*SCOPES["data"].split(), *SCOPES["run"].split()}


def test_help_has_at_most_45_options_each_with_its_default():
    shown = {action.dest: action for action in get_args_parser()._actions if action.help != "==SUPPRESS=="}
    assert len(shown) <= 45
    assert shown.keys() == {*PUBLISHED, *LATER, "help"} - HIDDEN
    parts = dict(re.findall(r"^  --(\w+) (.*?)(?=^  --|^\S|\Z)", get_args_parser().format_help(), re.M | re.S))
    for name in shown.keys() - {"help"}:
        value, text = (PUBLISHED | LATER)[name], " ".join(parts[name].split())
        assert text.endswith(f"(default: {value})") or value is None or value is False


MODULES = (options, finetune_options, predict, preprocessing, export, make_sample, benchmark)
PARSERS = [(module.get_args_parser, []) for module in MODULES]
PARSERS += [(experiments.get_parser, command) for command in ([], *([name] for name in experiments.COMMANDS))]


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize(("make_parser", "command"), PARSERS)
def test_help_fits_the_terminal_and_ends_in_two_examples(make_parser, command, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        make_parser().parse_args([*command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert [line.startswith("  python ") for line in lines[lines.index("examples:") + 1 :]] == [True, True]
    assert any(line.startswith("  --jobs") for line in lines) == (command == ["run"])
    assert any(line.startswith("  --seeds") for line in lines) == (command not in ([], ["runs"]))


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


REFUSED = {line: line.split()[0] for line in ("--test_split 0-3", "--ws 0", "--sr 3999", "--lam 1.1")}
REFUSED |= {
    line: line.split()[0] for line in ("--lam nan", "--lr inf", "--beta 1", "--seed 4294967296", "--gpu_id mps")
}
REFUSED |= {line: line.split()[0] for line in ("--bidirectional perhaps", "--backbone rnn", "--select best")}
REFUSED |= {line: line.split()[0] for line in ("--momentum 0.9", "--no_pages", "--monitor f1", "--test_only")}
REFUSED |= {"--epohcs 3": "--epochs", "--epoch 3": "--epochs", "--SORL speaker": "--SorL", "--data_path a b": "b"}
REFUSED |= dict.fromkeys(("--select f1", "--temperature", "--patience 3 --resume auto"), "--valid_split")
REFUSED |= dict.fromkeys(("--texts t.csv", "--test_path NAME"), "--test_only")
REFUSED |= {"--resume auto --init exp/latest": "--init"}


@pytest.mark.parametrize(("line", "named"), REFUSED.items())
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
        ("", "audio_model beta lr_decay"),
        ("--loss cbloss --optim sgd", "audio_model lr_decay"),
        ("--optim adagrad --audio encoder", "beta compile sr"),
        ("--modality text --audio encoder", "audio audio_model beta compile lr_decay sr"),
        ("--modality audio", "audio_model beta lr_decay text_dim text_model"),
    ],
)
def test_an_option_has_no_effect_without_its_partner(line, idle):
    assert without_effect(parse_args(line.split())).keys() == {*idle.split()}


def test_a_run_names_the_options_that_are_given_and_have_no_effect(text_run, preprocessed):
    line = ["--data_path", str(preprocessed), "--beta", "0.5", "--sr", "8000", "--modality", "text", "--lr", "0.01"]
    data, table = read_json(text_run / "configuration.json")["data"], read_utterances(preprocessed, "speaker")
    about = data, table, {"train": [1]}, torch.nn.Linear(2, 2)
    for argv, named in ((line, {"--beta", "--sr"}), (line[:2], set())):
        lines = [text for text in run_summary(parse_args(argv), *about).splitlines() if text.startswith("ignored:")]
        assert {part.split()[0] for text in lines for part in text.removeprefix("ignored:").split(";")} == named


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
