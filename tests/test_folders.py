import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import SMALL, content, only_run, options, run, signals_at

import main as program
from constants import EMOTIONS
from corpora.annotation import load_annotation
from dataset import WindowDataset, ordered_loader
from features.utterances import load_utterances
from model import MATE
from training.engine import evaluate
from training.folders import load_run
from training.options import parse_args
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


def test_auto_finds_a_run_that_began_with_a_relative_path_to_its_corpus(finished, preprocessed, tmp_path, monkeypatch):
    monkeypatch.chdir(preprocessed.parent)
    with signals_at(2, signal.SIGTERM):
        assert run(preprocessed.name, tmp_path) == 128 + signal.SIGTERM
    folder = only_run(tmp_path)
    assert read_json(folder / "configuration.json")["data_path"] == preprocessed.name
    assert run(preprocessed, tmp_path, "--resume", "auto") == 0
    assert only_run(tmp_path) == folder
    assert content(folder) == content(finished)
