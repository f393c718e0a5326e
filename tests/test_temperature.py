"""The temperature: chosen on validation sessions, applied by test, prediction and export; no figure depends on it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import only_run, retest, train
from scipy.special import log_softmax, softmax

import export
from constants import EMOTIONS
from corpora.utterances import SHARES, read_utterances
from metric import MAIN_FIGURES, figures
from prediction.predictor import Predictor, Utterance
from reports.predictions import read_predictions
from training.engine import choose_temperature
from utils import read_json

PROBABILITIES = [f"p_{name}" for name in EMOTIONS]
pytestmark = pytest.mark.filterwarnings("ignore:.*trained (on a synthetic|with a text encoder):UserWarning")


def cross_entropy(probabilities: np.ndarray, shares: np.ndarray) -> float:
    return -(shares * np.log(probabilities)).sum(axis=1).mean()


@pytest.fixture(scope="module")
def tempered(preprocessed, made) -> Path:
    """The folder of `text_run` with a temperature; read only."""
    return only_run(made("tempered", lambda folder: train("text", preprocessed, folder, "--temperature")))


def test_the_temperature_that_was_used_is_found():
    rng = np.random.default_rng(0)
    log_p = log_softmax(rng.normal(size=(500, 7)), axis=1)
    for temperature in (0.2, 1.0, 3.0):
        shares = torch.tensor(softmax(log_p / temperature, axis=1))
        assert choose_temperature(torch.tensor(log_p), shares) == pytest.approx(temperature, rel=1e-3)


def test_probabilities_change_by_the_temperature_and_no_figure_does(tempered, text_run):
    temperature = read_json(tempered / "result.json")["temperature"]
    assert temperature != 1 == read_json(text_run / "result.json")["temperature"]
    assert (tempered / "model.pth").read_bytes() == (text_run / "model.pth").read_bytes()
    found, plain = (read_predictions(folder / "predictions.csv") for folder in (tempered, text_run))
    expected = softmax(np.log(plain[PROBABILITIES]) / temperature, axis=1)
    np.testing.assert_allclose(found[PROBABILITIES], expected, rtol=0, atol=1e-6)
    assert [figures(found)[name] for name in MAIN_FIGURES] == [figures(plain)[name] for name in MAIN_FIGURES]


def test_validation_is_likeliest_at_the_temperature(tempered, text_run, preprocessed, tmp_path):
    shares = read_utterances(preprocessed, "speaker").set_index("id")[[*SHARES]]
    rows = []
    for run in (tempered, text_run):
        folder = shutil.copytree(run, tmp_path / run.parent.name)
        rows.append(read_predictions(retest(folder, "--test_split", "3") / "predictions.csv"))
    found, plain = (table[PROBABILITIES].to_numpy() for table in rows)
    target = shares.loc[rows[0]["segment_id"]].to_numpy()
    assert cross_entropy(found, target) < cross_entropy(plain, target)
    for factor in (0.9, 1.1):
        assert cross_entropy(found, target) < cross_entropy(softmax(np.log(found) * factor, axis=1), target)


@pytest.mark.filterwarnings("ignore:.*no temperature yet:UserWarning")
def test_prediction_and_export_have_it(tempered, text_run, tmp_path, capsys):
    assert export.main([str(tempered), str(tmp_path / "model")]) == 0
    utterances = [Utterance(embedding=np.full(768, value, np.float32)) for value in (0.1, -0.1)]
    runs = (text_run, tempered, tmp_path / "model")
    plain, found, exported = (Predictor(run, gpu_id="cpu").dialogue(utterances).emotion for run in runs)
    temperature = read_json(tempered / "result.json")["temperature"]
    np.testing.assert_allclose(found, softmax(np.log(plain) / temperature, axis=1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(exported, found, rtol=0, atol=1e-6)
    assert f"{temperature:.4f}" in (tmp_path / "model" / "README.md").read_text("utf-8")

    untested = shutil.copytree(tempered, tmp_path / "untested")
    (untested / "result.json").unlink()
    capsys.readouterr()
    retest(untested)
    assert "no temperature" in capsys.readouterr().err
