"""main.py: what a run leaves, what its options change, which epoch is tested, trackers, and input that is refused."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, SMALL, argv_of, only_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.optim.optimizer import register_optimizer_step_post_hook

import main
from constants import EMOTIONS
from corpora.utterances import read_utterances, shares
from dataset import load_features
from loss import make_loss
from metric import ccc
from training import engine
from training.options import make_options
from training.record import load_run
from utils import InputError, read_json

TEXT = (*SMALL, "--modality", "text", "--test_split", "1-2", "--epochs", "1")
TEST_FILES = {
    "configuration.json",
    "result.json",
    "confusion.txt",
    "confusion.png",
    "predictions.csv",
    "dialogues.html",
}
RUN_FILES = TEST_FILES | {"model.pth", "train_loss.log", "history.csv", "loss_curve.png"}


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


def test_a_run_folder_holds_what_the_documentation_says(text_run, preprocessed):
    names = {path.name for path in text_run.iterdir()}
    assert names - RUN_FILES == {name for name in names if name.startswith("events.out.tfevents")} != set()
    assert names >= RUN_FILES
    assert re.fullmatch(r"lstm_speaker_adam_8_test1-2_seed0_\d{8}-\d{6}", text_run.name)
    history = history_of(text_run)
    assert history["epoch"].tolist() == [1, 2]
    assert history[["train_loss", "valid_loss", "lr"]].notna().all(axis=None)
    lines = (text_run / "train_loss.log").read_text().splitlines()
    assert lines == [f"epoch {n} loss {loss:.6f}" for n, loss in enumerate(history["train_loss"], 1)]
    assert read_json(text_run / "configuration.json")["environment"]["training_precision"] == "float32"
    state = torch.load(text_run / "model.pth", weights_only=True)
    assert {type(value) for value in state.values()} == {torch.Tensor}


def test_predictions_are_of_the_test_sessions_with_the_raters_labels(text_run, preprocessed):
    rows, table = pd.read_csv(text_run / "predictions.csv"), read_utterances(preprocessed, "speaker")
    tested = table[table["session"] <= 2]
    assert rows["segment_id"].tolist() == tested["id"].tolist()
    np.testing.assert_allclose(rows["true_valence"], tested["valence"], rtol=1e-5)
    probabilities = rows[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    result = read_json(text_run / "result.json")
    for name in ("arousal", "valence"):
        assert result[f"ccc_{name}"] == pytest.approx(ccc(rows[f"pred_{name}"], rows[f"true_{name}"]), abs=2e-4)


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


def test_a_test_of_the_validation_sessions_gives_the_figures_of_the_history(text_run, preprocessed, tmp_path):
    folder = shutil.copytree(text_run, tmp_path / text_run.name)
    options = make_options(data_path=preprocessed, save_path=tmp_path, test_path=folder.name, test_only=True)
    options.given |= {"test_split"}
    options.test_split = [3]
    result = read_json(main.test(options) / "result.json")
    row = history_of(folder).set_index("epoch").loc[result["epoch"]]
    for name in ("f1", "ccc_arousal", "ccc_valence"):
        assert row[f"valid_{name}"] == pytest.approx(result[name], abs=1e-4)
    for name in ("accuracy", "macro_f1"):
        assert row[f"valid_{name}"] == pytest.approx(result["overall"][name], abs=1e-4)


def test_predictions_do_not_depend_on_the_batches_of_evaluation(audio_run, preprocessed, tmp_path, monkeypatch):
    folder = shutil.copytree(audio_run, tmp_path / audio_run.name)
    expected = pd.read_csv(folder / "predictions.csv").select_dtypes("number")
    monkeypatch.setattr(main, "EVALUATION_BATCH", 3)
    assert run(preprocessed, tmp_path, "--gpu_id", "cpu", "--precision", "fp32", "--test_only", folder.name) == 0
    ours = pd.read_csv(next(folder.glob("test_*")) / "predictions.csv").select_dtypes("number")
    np.testing.assert_allclose(ours, expected, rtol=0, atol=0.02)  # of bfloat16


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
    assert main.main(["--test_only", str(folder), "--gpu_id", "cpu"]) == 0
    (again,) = folder.glob("test_*")
    assert (again / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()


def test_training_and_validation_get_soft_targets_and_only_training_random_crops(preprocessed, monkeypatch):
    made = []

    def refuse(*_: object) -> None:
        raise InputError("")

    monkeypatch.setattr(main, "WindowDataset", lambda *_, **settings: made.append(settings) or [])
    monkeypatch.setattr(main.engine, "check_batch_size", refuse)
    with pytest.raises(InputError):
        main.train(make_options(data_path=preprocessed, modality="text", test_split=[1, 2], seed=7, gpu_id="cpu"))
    train, valid, test = ({name: made_[name] for name in made_ if name != "audio_dtype"} for made_ in made)
    assert train == {"soft_targets": True, "crop_seed": 7, "speakers": False}
    assert valid == {"soft_targets": True, "speakers": False}
    assert test == {"speakers": False}


def test_validation_loss_is_that_of_the_raters_shares(text_run, preprocessed):
    loaded = load_run(text_run)
    table = read_utterances(preprocessed, "speaker")
    windows = main.windows_of(loaded.options, table, load_features(loaded.options, table), [3], soft_targets=True)
    np.testing.assert_array_equal(windows.batch(range(len(windows))).emotion, shares(table[table["session"] == 3]))
    loss = make_loss("normal", 0.66, 0.99, windows.class_counts)
    _, expected = engine.evaluate(loaded.model, windows, 8, torch.device("cpu"), loss)
    history = history_of(text_run)
    assert history["valid_loss"].min() == pytest.approx(expected, rel=1e-5)
    assert history["valid_loss"].argmin() + 1 == loaded.epoch == read_json(text_run / "result.json")["epoch"]


def test_training_learns(preprocessed, tmp_path):
    loss = history_of(trained(preprocessed, tmp_path, *TEXT, "--epochs", "20", "--lr", "3e-4"))["train_loss"]
    assert loss.iloc[-1] < 0.6 * loss.iloc[0]


def test_training_stops_after_patience_and_tests_the_best_epoch(preprocessed, tmp_path, capsys):
    options = ("--valid_split", "3", "--select", "best", "--monitor", "macro_f1", "--patience", "2", "--epochs", "6")
    reported = {}
    options, _ = main.parse_args(
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


def test_precision_decides_where_bfloat16_is_used(preprocessed, tmp_path, monkeypatch):
    used = set()

    def note(self, *inputs, **settings):
        used.add((self.training, torch.is_autocast_enabled("cpu")))
        return forward(self, *inputs, **settings)

    forward = main.MATE.forward
    monkeypatch.setattr(main.MATE, "forward", note)
    for precision, fast, training, testing in (
        ("auto", True, True, False),
        ("auto", False, False, False),
        ("fp32", True, False, False),
        ("bf16", False, True, True),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda fast=fast: {"avx512_bf16": fast})
        used.clear()
        folder = trained(preprocessed, tmp_path / f"{precision}-{fast}", *TEXT, "--precision", precision)
        assert used == {(True, training), (False, testing)}
        stored = read_json(folder / "configuration.json")["environment"]["training_precision"]
        assert stored == ("bfloat16" if training else "float32")


# A notebook


def test_a_notebook_trains_and_tests_and_may_end_a_run(preprocessed, tmp_path):
    keywords = {"data_path": preprocessed, "modality": "text", "hidden_size": 4, "num_layers": 1, "batch_size": 8}
    options = make_options(**keywords, test_split=[1, 2], epochs=2, save_path=tmp_path / "a", gpu_id="cpu")
    folder = main.train(options)
    tested = main.test(make_options(test_only=True, test_path=str(folder), gpu_id="cpu"))
    assert (tested / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()

    def prune(epoch: int, figures: dict[str, float]) -> None:
        raise StopIteration(epoch)

    options.save_path = tmp_path / "b"
    with pytest.raises(StopIteration, match="1"):
        main.train(options, prune)
    with pytest.raises(InputError, match="--batch_size"):
        main.train(make_options(**keywords | {"batch_size": 1000}, test_split=[1, 2], save_path=tmp_path / "c"))
    assert not (tmp_path / "c").exists()


# Trackers


def test_tensorboard_gets_every_epoch_and_the_options(text_run):
    events = EventAccumulator(str(text_run)).Reload()
    history = history_of(text_run)
    for name in history.columns.drop("epoch"):
        assert [event.value for event in events.Scalars(name)] == pytest.approx(history[name].tolist(), rel=1e-5)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["hidden_size"].number_value == 16
    assert options["select"].string_value == "best"


def test_a_run_reports_to_nothing_or_to_a_tracker_that_is_installed(preprocessed, tmp_path, capsys):
    folder = trained(preprocessed, tmp_path / "none", *TEXT, "--report_to", "none")
    assert not [*folder.glob("events*")]
    for tracker in ("wandb", "mlflow", "trackio"):
        if importlib.util.find_spec(tracker) is None:
            assert run(preprocessed, tmp_path / tracker, *TEXT, "--report_to", tracker) == 2
            assert f"--report_to {tracker}" in one_error(capsys)
            assert not (tmp_path / tracker).exists()


# Training that fails


@pytest.mark.parametrize("rate", [1e15, 1e30], ids=["loss", "weights"])
def test_a_loss_or_weights_that_are_not_finite_end_the_run_with_what_was_saved(
    preprocessed, tmp_path, capsys, rate, monkeypatch
):
    monkeypatch.setattr(main, "SAVE_SECONDS", 0)
    steps = 0

    def leap(optimizer: torch.optim.Optimizer, *_: object) -> None:
        """A learning rate for the second epoch that no weight outlasts."""
        nonlocal steps
        steps += 1
        if steps == 6:
            optimizer.param_groups[0]["lr"] = rate

    hook = register_optimizer_step_post_hook(leap)
    try:
        assert run(preprocessed, tmp_path, *TEXT, "--epochs", "3") == 2
    finally:
        hook.remove()
    folder = only_run(tmp_path)
    assert str(folder) in one_error(capsys)
    assert history_of(folder)["epoch"].tolist() == [1]
    state = torch.load(folder / "model.pth", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory. Tried to allocate 1 GiB."), KeyError("a bug")])
def test_a_lack_of_memory_is_one_line_and_a_bug_keeps_its_traceback(preprocessed, tmp_path, capsys, error):
    def fail(*_: object) -> None:
        raise error

    hook = register_optimizer_step_post_hook(fail)
    try:
        if isinstance(error, KeyError):
            with pytest.raises(KeyError):
                run(preprocessed, tmp_path, *TEXT)
        else:
            assert run(preprocessed, tmp_path, *TEXT) == 2
            assert "--batch_size" in one_error(capsys)
    finally:
        hook.remove()


def test_compiling_that_fails_is_one_line(preprocessed, tmp_path, capsys, monkeypatch):
    def fail(module: torch.nn.Module, **_: object) -> torch.nn.Module:
        module.forward = lambda *_: (_ for _ in ()).throw(
            torch._dynamo.exc.TorchDynamoException("no compiler\nand more")
        )
        return module

    monkeypatch.setattr(torch, "compile", fail)
    options = (*SMALL, "--test_split", "1-2", "--epochs", "1", "--compile")
    assert run(preprocessed, tmp_path, *options) == 2
    assert "--compile" in one_error(capsys)


# Bad input


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--test_split 5-8", "--test_split"),
        ("--valid_split 7", "--valid_split"),
        ("--test_split 1-6", "no session"),
        ("--batch_size 1", "--batch_size 1"),
        ("--valid_split 2-3", "--valid_split"),
        ("--batch_size 1000", "--batch_size 1000"),
        ("--text_dim 512", "embedding_512.npy"),
        ("--gpu_id 99", "--gpu_id 99"),
        ("--data_path nowhere", "nowhere"),
        ("--modality audio_text --audio_path corpora", "corpora"),
    ],
)
def test_training_that_cannot_be_is_refused_in_one_line_before_a_folder_is_made(
    preprocessed, tmp_path, capsys, options, named
):
    assert run(preprocessed, tmp_path / "exp", *TEXT, *options.split()) == 2
    assert named in one_error(capsys)
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("model.pth", b"torn", "model.pth"),
        ("model.pth", None, "model.pth"),
        ("configuration.json", b"{", "configuration.json"),
        ("configuration.json", None, ""),
    ],
)
def test_damaged_run_folders_are_refused_in_one_line(text_run, tmp_path, capsys, file, content, named):
    folder = shutil.copytree(text_run, tmp_path / "run")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    assert main.main(["--test_only", str(folder)]) == 2
    assert str(folder / named) in one_error(capsys)
    assert not list(folder.glob("test_*"))
