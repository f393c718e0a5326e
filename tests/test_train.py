"""main.py: what a run leaves, what its options change, which epoch is tested, trackers, and input that is refused."""

import contextlib
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT, SMALL, argv_of, only_run, retest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.optimizer import register_optimizer_step_post_hook

import dataset
import main
from corpora.utterances import read_utterances
from training.options import make_options, parse_args
from training.record import run_id
from utils import read_json

TEXT = (*SMALL, "--modality", "text", "--test_split", "1-2", "--epochs", "1")
MLFLOW = importlib.util.find_spec("mlflow") is not None
TEST_FILES = {
    *("configuration.json", "result.json", "predictions.csv", "confusion.txt", "dialogues.html", "result.html"),
    *(f"{plot}.{suffix}" for plot in ("confusion", "reliability") for suffix in ("png", "pdf")),
}
RUN_FILES = TEST_FILES | {"model.pth", "train_loss.log", "history.csv", "loss_curve.png", "loss_curve.pdf"}


def run(corpus: Path, save_path: Path, *options: str) -> int:
    return main.main(["--data_path", str(corpus), "--save_path", str(save_path), *options])


def trained(corpus: Path, save_path: Path, *options: str) -> Path:
    """The folder of a run that is made with these options."""
    assert run(corpus, save_path, *options) == 0
    return only_run(save_path)


def history_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv")


def one_error(capsys) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.splitlines()[-1]


# The command line


def test_help_and_a_mistyped_option_are_answered_before_torch_is_imported():
    for argument, status in (("--help", 0), ("--epoch", 2)):
        command = [sys.executable, "-X", "importtime", "main.py", argument, "3"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == status
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
        assert "argparse" in imported
        assert not imported & {"torch", "pandas", "numpy", "matplotlib", "accelerate"}


# What a run leaves


def test_a_run_folder_holds_what_the_documentation_says(text_run, audio_run, preprocessed):
    names = {path.name for path in text_run.iterdir()}
    assert names - RUN_FILES == {name for name in names if name.startswith("events.out.tfevents")} != set()
    assert names >= RUN_FILES
    assert re.fullmatch(r"lstm_speaker_adam_8_test1-2_seed0_\d{8}-\d{6}", text_run.name)
    history = history_of(text_run)
    assert history["epoch"].tolist() == [1, 2]
    assert history[["train_loss", "valid_loss", "lr"]].notna().all(axis=None)
    assert "valid" not in read_json(audio_run / "result.json")  # of a run without validation
    lines = (text_run / "train_loss.log").read_text().splitlines()
    assert lines == [f"epoch {n} loss {loss:.6f}" for n, loss in enumerate(history["train_loss"], 1)]
    rows, table = pd.read_csv(text_run / "predictions.csv"), read_utterances(preprocessed, "speaker")
    assert rows["segment_id"].tolist() == table[table["session"] <= 2]["id"].tolist()
    events = EventAccumulator(str(text_run)).Reload()
    for name in history.columns.drop("epoch"):
        assert [event.value for event in events.Scalars(name)] == pytest.approx(history[name].tolist(), rel=1e-5)


def test_testing_again_gives_the_same_files_in_all_spellings_and_overwrites_nothing(text_run, preprocessed, tmp_path):
    folder = shutil.copytree(text_run, tmp_path / text_run.name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for spelling in (["--test_path", folder.name], [folder.name], [f"--{folder.name}"]):
        assert run(preprocessed, tmp_path, "--gpu_id", "cpu", "--test_only", *spelling) == 0
    tests = sorted(folder.glob("test_*"))
    assert len(tests) == 3
    for test in tests:
        assert {path.name for path in test.iterdir()} == TEST_FILES
        for name in ("result.json", "predictions.csv"):
            assert (test / name).read_bytes() == before[name]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_test_of_the_validation_sessions_gives_the_figures_of_the_history(text_run, tmp_path):
    folder = shutil.copytree(text_run, tmp_path / text_run.name)
    result = read_json(retest(folder, "--test_split", "3") / "result.json")
    row = history_of(folder).set_index("epoch").loc[result["epoch"]]
    for name in ("f1", "ccc_arousal", "ccc_valence"):
        assert row[f"valid_{name}"] == pytest.approx(result[name], abs=1e-4)
    for name in ("accuracy", "macro_f1"):
        assert row[f"valid_{name}"] == pytest.approx(result["overall"][name], abs=1e-4)
    assert {f"valid_{name}": value for name, value in result["valid"].items()} == row.filter(like="valid_").to_dict()


# Options that change what is trained


@pytest.fixture(scope="module")
def plain(preprocessed, tmp_path_factory) -> pd.DataFrame:
    """The history of a small run without other options."""
    return history_of(trained(preprocessed, tmp_path_factory.mktemp("plain"), *TEXT))


@pytest.mark.parametrize(
    "options",
    [
        *("--loss cbloss", "--loss cbloss --beta 0.5", "--lam 0.5", "--optim sgd", "--lr 1e-4", "--seed 6"),
        *("--affect_loss ccc", "--sampler weighted", "--no_concat", "--speakers", "--SorL listener"),
        *("--optim adagrad --weight_decay 0.1 --lr_decay 0.1", "--bidirectional --ws 3 --num_layers 2"),
    ],
)
def test_options_of_training_change_the_loss_and_can_be_tested_again(preprocessed, tmp_path, plain, options):
    folder = trained(preprocessed, tmp_path, *TEXT, *options.split())
    assert history_of(folder)["train_loss"][0] != plain["train_loss"][0]
    assert (retest(folder) / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()


def test_training_on_some_of_the_sessions(preprocessed, tmp_path, plain, capsys):
    some, rest = (trained(preprocessed, tmp_path / split, *TEXT, "--train_split", split) for split in ("4-5", "3-6"))
    records = {folder: read_json(folder / "configuration.json") for folder in (some, rest)}
    assert records[some]["data"]["train_sessions"] == "4-5"
    pd.testing.assert_frame_equal(history_of(rest), plain)
    assert history_of(some)["train_loss"][0] != plain["train_loss"][0]
    assert records[rest]["run_id"] == run_id(parse_args(TEXT), records[rest]["data"])  # the run of all that are left
    assert records[rest]["run_id"] != records[some]["run_id"]
    for session, is_seen in (("4", True), ("6", False)):
        capsys.readouterr()
        retest(some, "--test_split", session)
        assert ("trained on sessions" in capsys.readouterr().err) == is_seen


def test_training_and_validation_get_soft_targets_and_only_training_random_crops(preprocessed, tmp_path, monkeypatch):
    made, make = [], dataset.WindowDataset
    monkeypatch.setattr(
        dataset, "WindowDataset", lambda *args, **settings: made.append(settings) or make(*args, **settings)
    )
    trained(preprocessed, tmp_path, *TEXT, "--seed", "7")
    assert [settings.get("soft_targets", False) for settings in made] == [True, True, False]
    assert [settings.get("crop_seed") for settings in made] == [7, None, None]


def test_training_learns(preprocessed, tmp_path):
    loss = history_of(trained(preprocessed, tmp_path, *TEXT, "--epochs", "20", "--lr", "3e-4"))["train_loss"]
    assert loss.iloc[-1] < 0.6 * loss.iloc[0]


@pytest.mark.filterwarnings("ignore:batch norm")
def test_training_stops_after_patience_and_tests_the_best_epoch(preprocessed, tmp_path, capsys):
    options = ("--valid_split", "3", "--select", "macro_f1", "--patience", "2", "--epochs", "6")
    reported = {}
    options = main.parse_args(
        [*argv_of("text", preprocessed, tmp_path), *options, "--lr", "0.003", "--lr_gamma", "100"]
    )
    folder = main.train(options, reported.__setitem__)  # the learning rate leaps, and the figures get worse
    history = history_of(folder)
    best = int(history["valid_macro_f1"].argmax()) + 1
    assert len(history) == best + 2 < 6
    assert read_json(folder / "result.json")["epoch"] == best
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == len(history)
    for (epoch, figures), row in zip(reported.items(), history.to_dict("records"), strict=True):
        assert figures == pytest.approx(row)
        assert epoch == row["epoch"]


@pytest.mark.parametrize(
    ("precision", "fast", "expected"),
    [
        ("auto", True, (True, False)),
        ("auto", False, (False, False)),
        ("fp32", True, (False, False)),
        ("bf16", False, (True, True)),
    ],
)
def test_precision_decides_where_bfloat16_is_used(preprocessed, tmp_path, monkeypatch, precision, fast, expected):
    """`expected`: in training, in testing."""
    used = set()

    def note(self, *inputs, **settings):
        used.add((self.training, torch.is_autocast_enabled("cpu")))
        return forward(self, *inputs, **settings)

    forward = main.MATE.forward
    monkeypatch.setattr(main.MATE, "forward", note)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast})
    folder = trained(preprocessed, tmp_path, *TEXT, "--precision", precision, "--report_to", "none")
    assert used == {(True, expected[0]), (False, expected[1]), (False, expected[0])}  # the last with both statistics
    stored = read_json(folder / "configuration.json")["environment"]["training_precision"]
    assert stored == ("torch.bfloat16" if expected[0] else "torch.float32")
    assert not [*folder.glob("events*")]


@pytest.mark.filterwarnings("ignore:trained (on a synthetic|with a text encoder):UserWarning")
def test_a_notebook_trains_and_tests_and_may_end_a_run(preprocessed, tmp_path):
    options = make_options(data_path=preprocessed, test_split=[1, 2], save_path=tmp_path / "a", gpu_id="cpu")
    vars(options).update(modality="text", hidden_size=4, num_layers=1, batch_size=8, epochs=2, bn_statistics="train")
    folder = main.train(options)
    tested = main.test(make_options(test_only=True, test_path=str(folder), gpu_id="cpu"))
    assert (tested / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()

    def prune(epoch: int, figures: dict[str, float]) -> None:
        raise StopIteration(epoch)

    options.save_path = tmp_path / "b"
    with pytest.raises(StopIteration, match="1"):
        main.train(options, prune)


# Training that fails


@contextlib.contextmanager
def after_step(number: int, do: Callable[[torch.optim.Optimizer], None]) -> Iterator[None]:
    """A block in which `do` is called with the optimizer after its step of this number."""
    steps = itertools.count(1)
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: do(optimizer) if next(steps) == number else None)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("rate", [1e15, 1e30], ids=["loss", "weights"])
def test_a_loss_or_weights_that_are_not_finite_end_the_run_with_what_was_saved(
    preprocessed, tmp_path, capsys, rate, monkeypatch
):
    monkeypatch.setattr(main, "SAVE_SECONDS", 0)
    with after_step(6, lambda optimizer: optimizer.param_groups[0].update(lr=rate)):  # in the second epoch
        assert run(preprocessed, tmp_path, *TEXT, "--epochs", "3") == 2
    folder = only_run(tmp_path)
    assert str(folder) in one_error(capsys)
    assert history_of(folder)["epoch"].tolist() == [1]
    state = torch.load(folder / "model.pth", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 1 GiB."), "--batch_size"),
        (torch._dynamo.exc.TorchDynamoException("no compiler\nand more"), "--compile"),
        (KeyError("a bug"), None),
    ],
    ids=["memory", "compiling", "bug"],
)
def test_what_a_user_can_change_is_one_line_and_a_bug_keeps_its_traceback(preprocessed, tmp_path, capsys, error, named):
    def fail(_: torch.optim.Optimizer) -> None:
        raise error

    with after_step(1, fail), pytest.raises(KeyError) if named is None else contextlib.nullcontext():
        assert run(preprocessed, tmp_path, *TEXT) == 2
    assert named is None or named in one_error(capsys)


# Bad input


REFUSED = ["--test_split 5-8", "--valid_split 7", "--valid_split 2-3", "--train_split 2-3", "--train_split 7"]
REFUSED = {options: options.split()[0] for options in (*REFUSED, "--batch_size 1", "--batch_size 1000", "--gpu_id 99")}
REFUSED |= {"--test_split 1-6": "session", "--valid_split 3 --train_split 3-4": "--train_split"}
REFUSED |= {"--text_dim 512": "embedding_512.npy", "--data_path nowhere": "nowhere"}
REFUSED |= {"--modality audio_text --audio_path corpora": "corpora"}
REFUSED |= {} if MLFLOW else {"--report_to mlflow": "--report_to mlflow"}


@pytest.mark.parametrize(("options", "named"), REFUSED.items())
def test_training_that_cannot_be_is_refused_in_one_line_before_a_folder_is_made(
    preprocessed, tmp_path, capsys, options, named
):
    assert run(preprocessed, tmp_path / "exp", *TEXT, *options.split()) == 2
    assert named in one_error(capsys)
    assert not (tmp_path / "exp").exists()
