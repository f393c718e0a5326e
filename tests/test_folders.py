import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import SMALL, STEPS, content, only_run, options, run, signals_at
from torch.optim.optimizer import register_optimizer_step_post_hook

import main as program
from constants import EMOTIONS
from corpora.annotation import load_annotation
from dataset import WindowDataset, ordered_loader
from features.utterances import load_utterances
from model import MATE
from training.configuration import as_json
from training.engine import evaluate
from training.folders import find_unfinished, load_run
from training.options import parse_args
from training.run import CHECKPOINT
from utils import read_json, write_json

# A trained run


def test_a_loaded_run_has_its_options_its_sessions_and_the_predictions_of_its_model(finished, preprocessed):
    loaded = load_run(finished)
    began, _ = parse_args(["--data_path", str(preprocessed), *SMALL, "--save_path", "exp"])
    for name in ("data_path", "modality", "hidden_size", "num_layers", "batch_size", "test_split", "epochs", "seed"):
        assert getattr(loaded.options, name) == getattr(began, name)
    assert (loaded.folder, loaded.train_sessions) == (finished, [3, 4, 5, 6])

    utterances = load_utterances(loaded.options, load_annotation(preprocessed, "speaker"))
    windows = WindowDataset(utterances, utterances.in_sessions(loaded.options.test_split), loaded.options.ws)
    arrays, _ = evaluate(loaded.model, ordered_loader(windows, 7))
    table = pd.read_csv(finished / "predictions.csv")
    assert table["segment_id"].tolist() == windows.ids
    probabilities = table[[f"p_{name}" for name in EMOTIONS]]
    np.testing.assert_allclose(arrays["emotion_pred"], probabilities, rtol=0, atol=1e-5)
    for name in ("arousal_pred", "valence_pred"):
        np.testing.assert_allclose(arrays[name], table[name], rtol=0, atol=1e-5)


def test_a_loaded_run_takes_other_sessions_to_test(finished):
    assert load_run(finished, {"test_split": [3]}).options.test_split == [3]


def test_a_folder_of_the_published_program_is_loaded(tmp_path):
    """Its configuration has few options; its --sr had no effect, and it always had four layers."""
    torch.manual_seed(0)
    trained = MATE(hidden_size=8, num_layers=4).eval()
    torch.save(trained.state_dict(), tmp_path / "model.pth")
    write_json(tmp_path / "configuration.json", {"hidden_size": 8, "sr": 48_000, "test_split": "[1,2]", "gpu_id": 0})
    loaded = load_run(tmp_path)
    assert (loaded.options.sr, loaded.options.num_layers, loaded.options.test_split) == (16_000, 4, [1, 2])
    assert (loaded.options.hidden_size, loaded.options.modality, loaded.options.gpu_id) == (8, "audio_text", None)
    assert loaded.train_sessions == list(range(3, 21))
    window = (torch.randn(1, 8, 229, 313), torch.randn(1, 8, 768))
    with torch.inference_mode():
        for ours, expected in zip(loaded.model.eval()(*window), trained(*window), strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


# A run that goes on


@pytest.mark.parametrize("how", ["auto", "folder"])
def test_a_run_begun_before_an_option_existed_goes_on_to_the_same_result(
    stopped, finished, preprocessed, tmp_path, capsys, how
):
    folder = shutil.copytree(stopped, tmp_path / "exp" / stopped.name)
    configuration = read_json(folder / "configuration.json")
    del configuration["select"], configuration["precision"]
    write_json(folder / "configuration.json", configuration)
    argv = options(preprocessed, tmp_path / "exp", "--resume", "auto") if how == "auto" else ["--resume", str(folder)]
    assert program.main(argv) == 0
    if how == "auto":
        assert f"resuming {folder}" in capsys.readouterr().out
    assert only_run(tmp_path / "exp") == folder
    assert content(folder) == content(finished)


SGD = ("--optim", "sgd", "--lr", "0.05")


def test_an_sgd_run_of_before_momentum_was_an_option_keeps_the_momentum_of_its_time(preprocessed, tmp_path, capsys):
    momenta = set()
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: momenta.add(optimizer.param_groups[0]["momentum"]))
    try:
        assert run(preprocessed, tmp_path / "whole", *SGD, "--momentum", "0.9") == 0
        with signals_at(STEPS + 2, signal.SIGTERM):
            assert run(preprocessed, tmp_path / "exp", *SGD, "--momentum", "0.9") == 128 + signal.SIGTERM
        folder = only_run(tmp_path / "exp")
        begin_before_momentum(folder)
        scratch = shutil.copytree(folder, tmp_path / "scratch" / folder.name)
        (scratch / CHECKPOINT).unlink()  # killed before its first one
        assert run(preprocessed, tmp_path / "exp", *SGD, "--resume", str(folder), "--momentum", "0") == 2
        assert "the run in" in capsys.readouterr().err
        for path, argv in ((folder, ["--resume", "auto", "--momentum", "0.9"]), (scratch, ["--resume", str(scratch)])):
            exp = path.parent
            assert (run(preprocessed, exp, *SGD, *argv) if "auto" in argv else program.main(argv)) == 0
            assert only_run(exp) == path
            assert content(path) == content(only_run(tmp_path / "whole"))
    finally:
        hook.remove()
    assert momenta == {0.9}
    assert vars(load_run(folder).options)["momentum"] == 0.9


def begin_before_momentum(folder: Path) -> None:
    """Take out of a run's folder what is newer than the option `--momentum`."""
    configuration = read_json(folder / "configuration.json")
    del configuration["momentum"]
    write_json(folder / "configuration.json", configuration)
    checkpoint = torch.load(folder / CHECKPOINT, weights_only=True)
    del checkpoint["run"]["momentum"]
    torch.save(checkpoint, folder / CHECKPOINT)


def test_auto_does_not_go_on_with_an_earlier_run_of_another_momentum(preprocessed, tmp_path):
    configuration = as_json(parse_args(options(preprocessed, tmp_path, *SGD))[0]) | {"versions": {}}
    del configuration["momentum"]
    (tmp_path / "earlier").mkdir()
    write_json(tmp_path / "earlier" / "configuration.json", configuration)
    assert find_unfinished(parse_args(options(preprocessed, tmp_path, *SGD))[0]) is None
    found = find_unfinished(parse_args(options(preprocessed, tmp_path, *SGD, "--momentum", "0.9"))[0])
    assert found == tmp_path / "earlier"


def test_auto_finds_a_run_that_began_with_a_relative_path_to_its_corpus(finished, preprocessed, tmp_path, monkeypatch):
    monkeypatch.chdir(preprocessed.parent)
    with signals_at(2, signal.SIGTERM):
        assert run(preprocessed.name, tmp_path) == 128 + signal.SIGTERM
    folder = only_run(tmp_path)
    assert read_json(folder / "configuration.json")["data_path"] == preprocessed.name
    assert run(preprocessed, tmp_path, "--resume", "auto") == 0
    assert only_run(tmp_path) == folder
    assert content(folder) == content(finished)
