"""Export: the hub's layout, the same predictions from it, and a card that says what the model must not be used for."""

import json
import re
import shutil
import warnings

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard

import export
from constants import N_MELS, n_frames
from prediction.predictor import Predictor, Utterance
from prediction.runs import open_run
from training.folders import load_run
from utils import read_json, write_json


@pytest.fixture(scope="module")
def exported(spoken, tmp_path_factory):
    """The folder that export.py made of a run; read only."""
    out = tmp_path_factory.mktemp("exported") / "model"
    assert export.main([str(spoken), str(out)]) == 0
    return out


def test_the_layout_is_the_hubs(exported, spoken):
    assert {path.name for path in exported.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1  # others may read the weights too
    content = (exported / "config.json").read_text("utf-8")
    assert str(spoken.parent) not in content  # no path of this machine
    assert json.loads(content)["about"]["text_model"]["name"] == "kobert"


def test_from_pretrained_gives_the_same_numbers(exported, spoken):
    loaded, trained = export.MATE.from_pretrained(exported), load_run(spoken).model.eval()
    audio, text = torch.randn(3, 8, N_MELS, n_frames(4000)), torch.randn(3, 8, 768)
    with torch.inference_mode():
        for found, expected in zip(loaded(audio, text), trained(audio, text), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_what_was_loaded_is_saved_with_the_same_card(exported, tmp_path):
    export.MATE.from_pretrained(exported).save_pretrained(tmp_path / "again")  # what push_to_hub uploads
    for path in exported.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_card_says_what_it_is_and_what_it_must_not_be_used_for(exported, spoken):
    card, result = ModelCard.load(exported / "README.md"), read_json(spoken / "result.json")
    assert card.data.license == "other"
    assert card.data.language == ["ko"]
    assert card.data.library_name == "mate-kemdy19"
    text = " ".join(card.text.split())
    assert "Trained on a synthetic sample corpus" in text
    for said in ("No diagnosis", "No surveillance", "No decision about a person", "acted speech of a few voices"):
        assert said in text
    assert "only as ETRI's licence of that corpus allows" in text
    majority = result["overall"]
    assert f"| F1 | {result['F1']} | {majority['majority_f1']:.3f} |" in text
    assert f"| CCC arousal | {result['ccc_arousal']:.3f} | 0.000 |" in text
    assert f"always {majority['majority_label']}" in text
    assert "| tested on sessions | 1-2 |" in text
    assert "| trained on sessions | 3-6 |" in text
    assert "KEMDy19 1" in text


def test_the_card_names_a_text_encoder_only_where_text_is_read(exported):
    for modality, is_named in (("audio_text", True), ("audio", False)):
        about = read_json(exported / "config.json")["about"]
        about["options"]["modality"] = modality
        card = export.MATE(about, hidden_size=4, num_layers=1, sr=4000).generate_model_card().text
        assert ("| text encoder | kobert |" in card) is is_named
        assert "who speaks" not in card


def test_the_cards_example_runs(exported, preprocessed, tmp_path, monkeypatch):
    code = (exported / "README.md").read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    shutil.copytree(preprocessed / "kobert", tmp_path / "kobert")  # the name that config.json has of it
    soundfile.write(tmp_path / "utterance.wav", np.zeros(8000), 8000)
    monkeypatch.chdir(tmp_path)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exec(compile(code.replace("this folder or its name on the hub", str(exported)), "card", "exec"), names)
    assert names["prediction"].emotion.shape == (1, 7)


def test_a_run_that_was_not_tested_says_so(spoken, tmp_path):
    shutil.copytree(spoken, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    configuration = read_json(tmp_path / "run" / "configuration.json")
    del configuration["data"]
    write_json(tmp_path / "run" / "configuration.json", configuration)
    assert export.main([str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "This model was not tested." in text
    assert "| corpus | not recorded |" in text


def test_a_run_that_has_not_finished_is_warned_of_wherever_its_weights_go(stopped, tmp_path, capsys):
    assert export.main([str(stopped), str(tmp_path / "out")]) == 0
    said = "the run has not finished: its weights are of epoch 1 of 3"
    assert f"warning: {stopped}: {said}" in capsys.readouterr().err
    assert f"Note that {said}." in (tmp_path / "out" / "README.md").read_text("utf-8")
    for run in (stopped, tmp_path / "out"):
        with pytest.warns(UserWarning, match=f"{re.escape(str(run))}: {said}"):
            open_run(run)


def test_predictions_from_it_are_those_of_the_run(exported, spoken, preprocessed, monkeypatch):
    utterances = [Utterance(np.zeros(16000, np.float32), "말"), Utterance(np.ones(8000, np.float32), "네")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = Predictor(spoken, gpu_id="cpu").dialogue(utterances)
        found = Predictor(exported, text_model=str(preprocessed / "kobert"), gpu_id="cpu").dialogue(utterances)
    np.testing.assert_allclose(found.emotion, expected.emotion, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: write_json(folder / "config.json", {"hidden_size": 8}), "not of a model that export.py wrote"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "not a file of weights alone"),
        (lambda folder: (folder / "model.safetensors").unlink(), "not found"),
    ],
)
def test_a_damaged_export_is_one_line(exported, tmp_path, capsys, spoil, message):
    import predict

    shutil.copytree(exported, tmp_path / "model")
    spoil(tmp_path / "model")
    assert predict.main([str(tmp_path / "model"), str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_nothing_is_overwritten_or_left_half_written(exported, spoken, tmp_path, capsys, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in exported.iterdir()}
    assert export.main([str(spoken), str(exported)]) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in exported.iterdir()} == before
    assert export.main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "no such experiment folder" in capsys.readouterr().err
    monkeypatch.setattr(export.MATE, "generate_model_card", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.main([str(spoken), str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []
