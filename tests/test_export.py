"""Export: the Hub's format, the same predictions from it, and a card that says what the model must not be used for."""

import json
import resource
import shutil

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard

import export
import main
import predict
from prediction.predictor import Predictor, Utterance
from prediction.runs import open_run
from reports.result import verdict_text
from training.record import load_run
from utils import read_json, write_json

pytestmark = pytest.mark.filterwarnings("ignore:.*trained (on a synthetic|with a text encoder):UserWarning")


@pytest.fixture(scope="module")
def exported(audio_run, tmp_path_factory):
    """The folder that export.py made of a run; read only."""
    out = tmp_path_factory.mktemp("exported") / "model"
    assert export.main([str(audio_run), str(out)]) == 0
    return out


def test_the_layout_is_the_hubs_without_a_path_of_this_machine(exported, audio_run, preprocessed):
    assert {path.name for path in exported.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1  # others may read the weights too
    content = (exported / "config.json").read_text("utf-8")
    for path in (audio_run.parent, preprocessed):
        assert str(path) not in content
    assert json.loads(content)["data"]["text_model"] == "kobert"


def test_from_pretrained_gives_a_model_that_saves_the_same_files(exported, tmp_path):
    export.MATE.from_pretrained(exported).save_pretrained(tmp_path / "again")  # what push_to_hub uploads
    for path in exported.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("kind", ["text", "audio", "speech"])
def test_every_kind_of_run_predicts_the_same_once_exported(request, tmp_path, kind):
    run, corpus = (request.getfixturevalue(name) for name in (f"{kind}_run", "spoken"))
    assert export.main([str(run), str(tmp_path / "model")]) == 0
    encoders = {"text_model": str(corpus / "kobert"), "audio_model": str(next((corpus / "encoders").iterdir()))}
    utterances = [Utterance(np.full(n, 0.1, np.float32), text, "A") for n, text in ((16000, "말"), (8000, "네"))]
    expected, found = (Predictor(r, gpu_id="cpu", **encoders).dialogue(utterances) for r in (run, tmp_path / "model"))
    np.testing.assert_allclose(found.emotion, expected.emotion, rtol=0, atol=1e-6)


def test_the_card_says_what_it_is_and_what_it_must_not_be_used_for(exported, audio_run):
    card, result = ModelCard.load(exported / "README.md"), read_json(audio_run / "result.json")
    assert (card.data.license, card.data.language, card.data.library_name) == ("mit", ["ko"], "mate-kemdy19")
    assert "ETRI" not in card.content
    text = " ".join(card.text.split())
    for said in ("synthetic sample", "Diagnosis", "Surveillance", "Decisions about a person", "random weights"):
        assert said in text
    overall = result["overall"]
    four = (overall, result["raters"]["mean"], overall["majority"], overall["lookup"])
    assert verdict_text(result).split()[1:] == text.partition("**The model's ")[2].partition(".**")[0].split()
    for row in (
        f"F1 by batch | {result['F1']} | | {overall['majority_f1']:.3f} |",
        f"CCC arousal | {result['ccc_arousal']:.3f} | {result['raters']['mean']['ccc_arousal']:.3f} | |",
        " | ".join(["macro F1", *(f"{of['macro_f1']:.3f}" for of in four)]),
        "this model | one rater | majority class | sentence lookup",
        "trained on sessions | 3-6",
        "tested on sessions | 1-2",
        "corpus | synthetic sample in the layout of KEMDy19, sample, seed 0",
        "text encoder | kobert",
    ):
        assert f"| {row} |" in text


def test_the_card_names_only_the_encoders_that_the_model_uses(speech_run, tmp_path):
    about = export.parameters(load_run(speech_run))
    card = export.MATE(**about).generate_model_card().text
    assert f"| speech encoder | {about['data']['speech_model']}, " in card
    assert "with speakers" in card
    about["options"] |= {"modality": "text", "speakers": False}
    assert "with speakers" not in export.MATE(**about).generate_model_card().text


def test_the_card_of_a_model_of_a_real_corpus_has_etris_licence_and_no_warning(audio_run):
    about = export.parameters(load_run(audio_run))
    about["data"] |= {"synthetic": "no", "text_random": "no"}
    card = export.MATE(**about).generate_model_card()
    assert (card.data.license, card.data.license_name) == ("other", "etri-corpus")
    assert "ETRI's licence" in card.text
    assert not any(word in card.text for word in ("synthetic", "random", "meaningless"))


def test_the_cards_example_runs(exported, preprocessed, tmp_path, monkeypatch):
    code = (exported / "README.md").read_text("utf-8").partition("```python\n")[2].partition("```")[0]
    shutil.copytree(preprocessed / "kobert", tmp_path / "kobert")  # the name that config.json has of it
    soundfile.write(tmp_path / "utterance.wav", np.zeros(8000), 8000)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code.replace("this folder or its name on the Hub", str(exported)), "card", "exec"), names)
    assert names["prediction"].emotion.shape == (1, 7)


def test_a_run_that_an_earlier_version_tested_has_a_card_without_people_and_verdict(text_run, tmp_path):
    run = shutil.copytree(text_run, tmp_path / "run")
    result = read_json(run / "result.json")
    write_json(run / "result.json", {name: result[name] for name in result if name not in ("raters", "verdict")})
    text = export.MATE(**export.parameters(load_run(run))).generate_model_card().text
    assert f"| macro F1 | {result['overall']['macro_f1']:.3f} |  |" in text


def test_a_published_run_that_was_not_tested_can_be_exported(audio_run, tmp_path):
    run = shutil.copytree(audio_run, tmp_path / "run")
    (run / "result.json").unlink()
    options = read_json(run / "configuration.json")["options"]
    published = ("SorL", "ws", "backbone", "hidden_size", "text_dim", "bidirectional", "modality", "batch_size")
    write_json(run / "configuration.json", {name: options[name] for name in published} | {"hidden_size": 4})
    state = export.model.MATE("gru", 4, 4).state_dict()  # the published program has four layers and 16 kHz
    torch.save(state, run / "model.pth")
    assert export.main([str(run), str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "not been tested" in text
    assert "| corpus | not recorded |" in text


def test_a_run_that_has_not_finished_is_warned_of_wherever_its_weights_go(text_run, tmp_path, capsys):
    run = shutil.copytree(text_run, tmp_path / "run")
    for name in ("result.json", "loss_curve.png"):
        (run / name).unlink()
    latest = str(tmp_path / "latest")
    assert main.main(["--test_only", latest]) == export.main([latest, str(tmp_path / "out")]) == 0
    of_test, of_export = [line for line in capsys.readouterr().err.splitlines() if "not finished" in line]
    assert "epoch" in of_test
    assert str(run) in of_export
    assert "not finished" in (tmp_path / "out" / "README.md").read_text("utf-8")
    for folder in (latest, tmp_path / "out"):
        with pytest.warns(UserWarning, match="not finished"):
            assert open_run(str(folder)).folder in (run, tmp_path / "out")


DAMAGED = [("config.json", b'{"hidden_size": 8}'), ("config.json", b"{"), ("model.safetensors", b"x")]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_a_damaged_export_is_one_line(exported, tmp_path, capsys, name, content):
    shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content)
    assert predict.main([str(tmp_path / "model"), str(tmp_path), "--gpu_id", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line


def test_nothing_is_overwritten_or_left_half_written(exported, audio_run, tmp_path, capsys, monkeypatch):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert export.main([str(audio_run), str(exported)]) == 2
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert export.main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    monkeypatch.setattr(export.MATE, "generate_model_card", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.main([str(audio_run), str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(audio_run, tmp_path, capsys):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        assert export.main([str(audio_run), str(tmp_path / "model")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'model'}: ")
    assert not [*tmp_path.iterdir()]
