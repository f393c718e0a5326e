"""Statistics of batch norm: computed anew in training and for a run that exists, and compared with those of batches."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from conftest import argv_of, only_run, retest, train
from test_engine import dataset, small_model
from torch.nn.modules.batchnorm import _BatchNorm

import main
import training.batch_norm
from training.batch_norm import batches_of, compare_statistics, compute_statistics
from training.checkpoint import CHECKPOINT
from training.options import make_options
from utils import read_json

RUN = ("--epochs", "3", "--select", "last")
TRAIN = ("--bn_statistics", "train")


@pytest.fixture(scope="module")
def running(preprocessed, tmp_path_factory) -> Path:
    """The folder of a run with running statistics; read only."""
    return train("text", preprocessed, tmp_path_factory.mktemp("running"), *RUN)


@pytest.fixture(scope="module")
def anew(preprocessed, tmp_path_factory) -> Path:
    """The folder of the same run with statistics of training windows; read only."""
    return train("text", preprocessed, tmp_path_factory.mktemp("anew"), *RUN, *TRAIN)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pth", weights_only=True)


@pytest.mark.parametrize(("n_windows", "n_batches"), [(2048, 3), (32, 2), (17, 2), (1, 1)])
def test_statistics_are_the_means_of_those_of_batches_in_float64(n_windows, n_batches, monkeypatch):
    model, windows = small_model(), dataset(56)
    monkeypatch.setattr(training.batch_norm, "WINDOWS", n_windows)
    options, found = make_options(batch_size=16), {}
    plain = copy.deepcopy(model).double().train()
    for name, norm in plain.named_modules():
        if isinstance(norm, _BatchNorm):
            norm.register_forward_pre_hook(lambda _, x, name=name: found.setdefault(name, []).append(x[0].detach()))
    for indices in batches_of(windows, options, 7)[:n_batches]:
        plain(None, windows.batch(indices).text.double())
    before = copy.deepcopy(model)
    compute_statistics(model, windows, options, 7, Accelerator(cpu=True))
    assert len(found) == 11
    for name, inputs in found.items():
        norm, inputs = model.get_submodule(name), torch.stack(inputs)
        for ours, exact in ((norm.running_mean, inputs.mean(1)), (norm.running_var, inputs.var(1))):
            torch.testing.assert_close(ours.double(), exact.mean(0), rtol=1e-5, atol=1e-5)
        assert (norm.momentum, norm.num_batches_tracked) == (0.1, n_batches)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))


def test_training_is_the_same_and_a_mended_run_is_the_one_that_was_trained_so(running, anew, tmp_path):
    one, other = weights(running), weights(anew)
    assert {name.rpartition(".")[2] for name in one if not torch.equal(one[name], other[name])} == {
        *("running_mean", "running_var", "num_batches_tracked")
    }
    mended = retest(shutil.copytree(running, tmp_path / "run"), *TRAIN)
    for name in ("model.pth", "predictions.csv"):
        assert (mended / name).read_bytes() == (anew / name).read_bytes()
        assert (tmp_path / "run" / name).read_bytes() == (running / name).read_bytes()
    assert (mended / "predictions.csv").read_bytes() != (running / "predictions.csv").read_bytes()


def test_dead_units_ruin_a_test_which_says_so_and_are_mended(running, tmp_path, capsys):
    folder = shutil.copytree(running, tmp_path / "run")
    planted = weights(folder)
    planted["mlp_emotion.0.fc.2.running_var"][::2] = 1e-36
    torch.save(planted, folder / "model.pth")
    result = read_json(retest(folder) / "result.json")
    assert result["batch_norm"]["statistics"] == "running"
    assert result["batch_norm"]["loss"] > 1.1 * result["batch_norm"]["loss_of_batches"]
    (sentence,) = [text for text in result["warnings"] if "--bn_statistics train" in text]
    assert f"warning: {sentence}" in capsys.readouterr().err.splitlines()
    mended = retest(folder, *TRAIN)
    result = read_json(mended / "result.json")
    assert result["batch_norm"]["loss"] <= 1.1 * result["batch_norm"]["loss_of_batches"]
    assert not any("--bn_statistics" in text for text in result["warnings"])
    assert (weights(mended)["mlp_emotion.0.fc.2.running_var"] != planted["mlp_emotion.0.fc.2.running_var"]).all()
    assert torch.equal(weights(folder)["mlp_emotion.0.fc.2.running_var"], planted["mlp_emotion.0.fc.2.running_var"])
    again = retest(mended)  # it is a run folder, too
    assert (again / "predictions.csv").read_bytes() == (mended / "predictions.csv").read_bytes()


def test_a_comparison_changes_nothing():
    model, windows = small_model(), dataset(56)
    before = copy.deepcopy(model.state_dict())
    assert compare_statistics(model, windows, make_options(batch_size=16))["batch_norm"]["windows"] == 48
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert compare_statistics(model, windows, make_options(batch_size=57))["batch_norm"] is None


def test_a_run_that_is_killed_in_the_pass_resumes_to_the_same_bytes(anew, preprocessed, tmp_path, monkeypatch):
    passes = []

    def kill(*_: object) -> None:
        passes.append(None)
        if len(passes) == 5:  # in the second of the passes over three batches
            raise KeyboardInterrupt
        return predict(*_)

    predict = training.batch_norm.predict
    monkeypatch.setattr(main, "SAVE_SECONDS", 0)
    monkeypatch.setattr(training.batch_norm, "predict", kill)
    argv = argv_of("text", preprocessed, tmp_path, *RUN, *TRAIN)
    assert main.main(argv) == 130
    folder = only_run(tmp_path)
    assert (folder / CHECKPOINT).exists()
    assert len((folder / "history.csv").read_text().splitlines()) == 2
    assert main.main([*argv, "--resume", "auto"]) == 0
    for name in ("model.pth", "history.csv", "result.json", "predictions.csv"):
        assert (folder / name).read_bytes() == (anew / name).read_bytes()


def test_statistics_that_cannot_be_are_one_line(anew, kemdy20_run, preprocessed, tmp_path, capsys):
    for folder, options in ((anew, ("--bn_statistics", "running")), (kemdy20_run, TRAIN)):
        copied = shutil.copytree(folder, tmp_path / folder.name)
        argv = ["--test_only", str(copied), "--gpu_id", "cpu", "--data_path", str(preprocessed), *options]
        assert main.main([*argv, "--test_split", "1"]) == 2
        assert "--bn_statistics" in capsys.readouterr().err.splitlines()[-1]
        assert not [*copied.glob("test_*")]
