"""Predicting own recordings: the numbers of a test, whichever way the dialogue is given."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import ROOT
from small_runs import only_run, run

import predict
from constants import EMOTIONS, SAMPLE_RATE
from corpora.registry import parse_id
from corpora.wavs import find_wavs, read_wav
from features.text import load_text_model
from prediction.encoders import Wanted
from prediction.inputs import from_corpus, from_folder, from_recording, from_segments_alone
from prediction.predictor import Predictor, Utterance
from prediction.runs import open_run
from training.options import parse_args
from utils import InputError, write_json

PROBABILITIES = [f"p_{name}" for name in EMOTIONS]
RESULTS = [*PROBABILITIES, "arousal", "valence"]


@pytest.fixture(scope="module")
def tested(spoken):
    """The rows of a tested dialogue in predictions.csv, with the columns of predict.py."""
    table = pd.read_csv(spoken / "predictions.csv")
    table["dialogue"] = [parse_id(segment).dialogue for segment in table["segment_id"]]
    table = table[table["dialogue"] == table["dialogue"].iloc[0]].drop(columns=["arousal", "valence"])
    return table.rename(columns={"arousal_pred": "arousal", "valence_pred": "valence"}).reset_index(drop=True)


@pytest.fixture(scope="module")
def talk(preprocessed, tested, tmp_path_factory):
    """The same dialogue as one recording with pauses, beside a transcript with times, and as a folder of utterances."""
    folder = tmp_path_factory.mktemp("talk")
    (folder / "parts").mkdir()
    wavs = find_wavs(preprocessed)[0]
    pieces, segments, position = [], [], 0
    for number, segment in enumerate(tested["segment_id"], start=1):
        wave, rate = soundfile.read(wavs[segment], dtype="int16")
        text = wavs[segment].with_suffix(".txt").read_text("utf-8")
        shutil.copy(wavs[segment], folder / "parts" / f"{number}.wav")
        (folder / "parts" / f"{number}.txt").write_text(text, "utf-8")
        segments.append({"start": position / rate, "end": (position + len(wave)) / rate, "text": text, "speaker": "A"})
        pieces += [wave, np.zeros(rate // 4, dtype="int16")]
        position += len(wave) + rate // 4
    soundfile.write(folder / "talk.wav", np.concatenate(pieces), rate)
    write_json(folder / "talk.json", {"segments": segments})
    return folder


def run_quietly(*arguments: object) -> int:
    return predict.main([*map(str, arguments), "--gpu_id", "cpu"])


def read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions.csv")


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found[RESULTS], expected[RESULTS], rtol=0, atol=1e-5)


# The numbers of the test


def test_a_recording_with_segments_gives_the_numbers_of_the_test(spoken, talk, tested, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_quietly(spoken, talk / "talk.wav", "--segments", talk / "talk.json", "--out", out) == 0
    assert_same(read(out), tested)
    assert list(read(out)["emotion"]) == [EMOTIONS[row.argmax()] for row in tested[PROBABILITIES].to_numpy()]
    assert set(read(out)["of"]) == {"speaker"}
    assert {path.name for path in out.iterdir()} == {"predictions.csv", "dialogue.html"}
    captured = capsys.readouterr()
    assert "random text encoder" in captured.err
    assert f"{len(tested)} utterances: the emotion of the speaker" in captured.out


def test_a_folder_of_wavs_gives_the_numbers_of_the_test(spoken, talk, tested, tmp_path):
    assert run_quietly(spoken, talk / "parts", "--out", tmp_path / "out") == 0
    assert_same(read(tmp_path / "out"), tested)


def test_a_dialogue_of_the_corpus_gives_the_numbers_of_the_test(spoken, preprocessed, tested, tmp_path):
    name = tested["dialogue"].iloc[0]
    arguments = (spoken, "--dialogue", name, "--data_path", preprocessed, "--out", tmp_path / "out")
    assert run_quietly(*arguments) == 0
    table = read(tmp_path / "out")
    assert_same(table, tested)
    assert list(table["id"]) == list(tested["segment_id"])
    page = (tmp_path / "out" / "dialogue.html").read_text("utf-8")
    for text in table["text"].dropna():
        assert text not in page


def test_more_utterances_than_are_in_memory_at_once_are_the_same(spoken, talk, tested, monkeypatch):
    monkeypatch.setattr("prediction.predictor.AT_ONCE", 2)
    wavs = sorted((talk / "parts").glob("*.wav"), key=lambda path: int(path.stem))
    utterances = [Utterance(path, path.with_suffix(".txt").read_text("utf-8")) for path in wavs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        prediction = Predictor(spoken, gpu_id="cpu").dialogue(utterances)
    np.testing.assert_allclose(prediction.emotion, tested[PROBABILITIES], rtol=0, atol=1e-5)


def test_samples_are_as_good_as_files(spoken, talk, tmp_path):
    wave = read_wav(talk / "parts" / "1.wav")
    soundfile.write(tmp_path / "1.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    predictor = Predictor(spoken, gpu_id="cpu", text_model=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        of_file, of_samples = (predictor.dialogue([Utterance(sound, "말")]) for sound in (tmp_path / "1.wav", wave))
    np.testing.assert_array_equal(of_file.emotion, of_samples.emotion)


def test_texts_lose_the_markup_that_preprocessing_takes_away(spoken):
    predictor = Predictor(spoken, gpu_id="cpu")
    wave = np.zeros(SAMPLE_RATE, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        marked, plain, other = (
            predictor.dialogue([Utterance(wave, text)]) for text in ("b/ 밥 먹자", "밥 먹자", "아니")
        )
    np.testing.assert_array_equal(marked.emotion, plain.emotion)
    assert (plain.emotion != other.emotion).any()


# One modality, several runs, listeners


def test_a_run_of_text_needs_no_sound(finished, preprocessed, talk, tmp_path):
    arguments = (finished, talk / "talk.json", "--text_model", preprocessed / "kobert", "--out", tmp_path / "out")
    assert run_quietly(*arguments) == 0
    expected = pd.read_csv(finished / "predictions.csv")[PROBABILITIES][: len(read(tmp_path / "out"))]
    np.testing.assert_allclose(read(tmp_path / "out")[PROBABILITIES], expected, rtol=0, atol=1e-5)


def test_a_run_of_sound_needs_no_text(preprocessed, tmp_path):
    exp, sound = tmp_path / "exp", ("--modality", "audio", "--sr", "4000", "--epochs", "1", "--SorL", "listener")
    assert run(preprocessed, exp, *sound) == 0
    utterances = from_corpus("Sess01_script01", preprocessed, "listener")
    predictor = Predictor(only_run(exp), gpu_id="cpu")
    assert predictor.role == "listener"
    prediction = predictor.dialogue([Utterance(u.wave) for u in utterances])
    expected = pd.read_csv(only_run(exp) / "predictions.csv").set_index("segment_id").loc[[u.id for u in utterances]]
    np.testing.assert_allclose(prediction.emotion, expected[PROBABILITIES], rtol=0, atol=1e-5)


def test_a_run_that_is_told_who_speaks_gives_the_numbers_of_its_test(preprocessed, talk, tmp_path):
    assert run(preprocessed, tmp_path / "exp", "--speakers", "--epochs", "1") == 0
    told, out = only_run(tmp_path / "exp"), tmp_path / "out"
    expected = pd.read_csv(told / "predictions.csv")
    name = expected["dialogue"][0]
    assert run_quietly(told, "--dialogue", name, "--data_path", preprocessed, "--out", out) == 0
    found = read(out)[PROBABILITIES]
    np.testing.assert_allclose(found, expected.query("dialogue == @name")[PROBABILITIES], rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="1 of 2 utterances have no speaker, the first is number 2"):
        Predictor(told, gpu_id="cpu").dialogue([Utterance(text="네", speaker="A"), Utterance(text="네")])


SPOKEN_BY = {
    "a.json": '[{"start": 0, "end": 1, "text": "네", "speaker": "A"}, '
    '{"start": 1, "end": 2, "text": "네", "speaker": "B"}]',
    "a.srt": "1\n00:00:00,000 --> 00:00:01,000\n[A]: 네\n\n2\n00:00:01,000 --> 00:00:02,000\n[B]: 네\n",
    "a.vtt": "WEBVTT\n\n00:00.000 --> 00:01.000\n<v A>네\n\n00:01.000 --> 00:02.000\n[B]: 네\n",
    "a.csv": "start,end,speaker,text\n0,1,A,네\n1,2,B,네\n",
    "a.tsv": "start\tend\tspeaker\ttext\n00:00:00\t00:00:01\tA\t네\n1\t2\tB\t네\n",
}


def test_every_input_tells_who_speaks(talk, tmp_path):
    for name, content in SPOKEN_BY.items():
        (tmp_path / name).write_text(content, "utf-8")
        found = [from_segments_alone(tmp_path / name), from_recording(talk / "talk.wav", tmp_path / name)]
        assert [[(u.speaker, u.text) for u in utterances] for utterances in found] == [[("A", "네"), ("B", "네")]] * 2
    for number, text in ((1, "[A]: 네"), (2, "[B]: 네\n"), (3, "네 [C]: 네")):
        shutil.copy(talk / "parts" / "1.wav", tmp_path / f"{number}.wav")
        (tmp_path / f"{number}.txt").write_text(text, "utf-8")
    assert [(u.speaker, u.text) for u in from_folder(tmp_path)] == [("A", "네"), ("B", "네"), ("", "네 [C]: 네")]


def test_several_runs_give_their_mean_and_spread(spoken, preprocessed, talk, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(spoken, other)
    scale_weights(other, 0.5)
    arguments = (talk / "talk.wav", "--segments", talk / "talk.json", "--out")
    for runs, name in (((spoken,), "a"), ((other,), "b"), ((spoken, other), "both")):
        assert run_quietly(*runs, *arguments, tmp_path / name) == 0
    a, b, both = (read(tmp_path / name) for name in ("a", "b", "both"))
    np.testing.assert_allclose(both[RESULTS], (a[RESULTS] + b[RESULTS]) / 2, atol=1e-5)
    spread = both[[f"{name}_sd" for name in RESULTS]].to_numpy()
    np.testing.assert_allclose(spread, (a[RESULTS] - b[RESULTS]).abs() / 2, atol=1e-5)
    assert spread.max() > 1e-4
    assert not [name for name in a if name.endswith("_sd")]


def scale_weights(folder: Path, factor: float) -> None:
    """Give a run other weights."""
    import torch

    state = torch.load(folder / "model.pth", weights_only=True)
    torch.save({k: t * factor if t.is_floating_point() else t for k, t in state.items()}, folder / "model.pth")


def test_a_run_of_listeners_says_so(spoken, talk, tmp_path, capsys):
    listener = tmp_path / "listener"
    shutil.copytree(spoken, listener)
    configuration = json.loads((listener / "configuration.json").read_text("utf-8"))
    write_json(listener / "configuration.json", configuration | {"SorL": "listener"})
    arguments = (talk / "talk.wav", "--segments", talk / "talk.json", "--out", tmp_path / "out")
    assert run_quietly(listener, *arguments) == 0
    assert "the emotion of the listener, not of the one who speaks" in capsys.readouterr().out
    assert set(read(tmp_path / "out")["of"]) == {"listener"}
    assert "The emotion of the listener is predicted" in (tmp_path / "out" / "dialogue.html").read_text("utf-8")
    assert run_quietly(spoken, listener, *arguments[:-1], tmp_path / "mixed") == 2
    assert "SorL differs between the runs" in capsys.readouterr().err


# The text encoder


def test_another_text_encoder_is_warned_of(spoken, talk, preprocessed, tmp_path, capsys):
    import torch

    other = tmp_path / "kobert"
    shutil.copytree(preprocessed / "kobert", other)
    _, model = load_text_model(str(other))
    with torch.no_grad():
        model.embeddings.word_embeddings.weight += 0.01
    (other / "pytorch_model.bin").unlink()
    model.save_pretrained(other)
    arguments = (spoken, talk / "parts", "--text_model", other, "--out", tmp_path / "out")
    assert run_quietly(*arguments) == 0
    assert "is not the one that" in capsys.readouterr().err


@pytest.mark.parametrize("data", [None, {"text_model": "unknown, published files"}])
def test_a_run_without_the_record_needs_text_model(spoken, talk, preprocessed, tmp_path, capsys, data):
    old = tmp_path / "old"
    shutil.copytree(spoken, old)
    configuration = json.loads((old / "configuration.json").read_text("utf-8"))
    write_json(old / "configuration.json", configuration | {"data": data})
    assert run_quietly(old, talk / "parts", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {old}: does not say which text model")
    assert "--text_model" in error
    assert not (tmp_path / "out").exists()
    assert run_quietly(old, talk / "parts", "--text_model", preprocessed / "kobert", "--out", tmp_path / "out") == 0


def test_a_corpus_embedded_by_another_text_encoder_is_warned_of(spoken, preprocessed, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(spoken, other)
    configuration = json.loads((other / "configuration.json").read_text("utf-8"))
    configuration["data"]["text_model"] |= {"fingerprint": "00", "name": "klue/bert-base"}
    write_json(other / "configuration.json", configuration)
    for folder, is_warned_of in ((spoken, False), (other, True)):
        arguments = (
            "--dialogue",
            "Sess01_script01",
            "--data_path",
            preprocessed,
            "--out",
            tmp_path / f"out {folder.name}",
        )
        assert run_quietly(folder, *arguments) == 0
        warned = (
            f"text model of {preprocessed} ({preprocessed / 'kobert'}) is not the one that {folder} was trained with"
        )
        assert (f"{warned} (klue/bert-base)" in capsys.readouterr().err) is is_warned_of


def test_runs_agree_on_an_encoder_by_its_fingerprint():
    def wanted(*records):
        return Wanted(
            "text model", "--text_model", "x", "text", {f"run {n}": record for n, record in enumerate(records)}
        )

    one, moved, other = ({"name": f"at/{name}", "fingerprint": name[0], "revision": name} for name in ("a1", "a2", "b"))
    assert wanted(one, moved).find(None) == ("at/a1", "a1")
    assert wanted(one, other, None).find("given") == ("given", None)
    with pytest.raises(InputError, match=r"the text model differs between the runs \(run 0 at/a1, run 1 at/b\)"):
        wanted(one, other).find(None)
    with pytest.raises(InputError, match="run 0: was trained with the text model of a folder called kobert; give"):
        wanted({"name": "kobert", "fingerprint": "a", "revision": None}).find(None)


def test_runs_of_unlike_embeddings_are_named(spoken, finished):
    runs = [open_run(spoken), open_run(finished), open_run(finished)]
    runs[2].options.text_dim = 1024
    with pytest.raises(InputError, match=rf"{re.escape(runs[1].name)} 768, {re.escape(runs[2].name)} 1024\)"):
        Predictor.common("text_dim", runs[1:])


HUB = """
import sys
from features.text import load_text_model
from prediction.predictor import Predictor
print(load_text_model("user/kobert")[1].config.marked, Predictor(sys.argv[1]).load_text_encoder()[1].config.marked)
"""


def test_the_recorded_revision_of_a_text_encoder_is_loaded(spoken, preprocessed, tmp_path):
    repository = tmp_path / "hub" / "models--user--kobert"
    revisions = {"old": "0" * 40, "new": "1" * 40}
    for mark, commit in revisions.items():
        shutil.copytree(preprocessed / "kobert", repository / "snapshots" / commit)
        path = repository / "snapshots" / commit / "config.json"
        write_json(path, json.loads(path.read_text("utf-8")) | {"marked": mark})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revisions["new"])
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    folder = Path(shutil.copytree(spoken, tmp_path / "run"))
    configuration = json.loads((folder / "configuration.json").read_text("utf-8"))
    configuration["data"]["text_model"] |= {"name": "user/kobert", "revision": revisions["old"]}
    write_json(folder / "configuration.json", configuration)
    command = [sys.executable, "-W", "ignore", "-c", HUB, folder]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["new", "old"], done.stderr


def test_a_text_encoder_that_has_moved_is_asked_for(spoken, talk, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(spoken, moved)
    configuration = json.loads((moved / "configuration.json").read_text("utf-8"))
    configuration["data"]["text_model"]["name"] = str(tmp_path / "gone away")
    write_json(moved / "configuration.json", configuration)
    assert run_quietly(moved, talk / "parts", "--out", tmp_path / "out") == 2
    assert "give the place where it is now as --text_model" in capsys.readouterr().err


# What is given wrongly

PLACES = {"run": "spoken", "talk": "talk", "corpus": "preprocessed"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{run}", "{talk}/talk.wav"), "--segments"),
        (("{run}", "{talk}/talk.json"), "the model reads sound"),
        (("{run}", "{talk}/none"), "none: no such file; expected a recording, or a folder of wavs"),
        (("{run}", "{talk}/none.wav", "--segments", "{talk}/talk.json"), "none.wav: no such file"),
        (("{run}", "{talk}/talk.json", "--segments", "{talk}/talk.json"), "not readable as sound"),
        (("{run}", "{talk}/talk.wav", "--segments", "{talk}/none.json"), "none.json: no such file"),
        (("{run}", "{talk}/parts", "--segments", "{talk}/talk.json"), "leave it out"),
        (("{talk}/parts", "{talk}/parts"), "expected an experiment folder"),
        (("{talk}/nothing here", "{talk}/parts"), "no such experiment folder"),
        (("{run}", "--dialogue", "Sess01_script99", "--data_path", "{corpus}"), "has none of this name"),
        (("{run}", "--dialogue", "Sess01_script01", "--data_path", "{talk}/none"), "no such folder"),
    ],
)
def test_wrong_input_is_one_line(request, tmp_path, capsys, arguments, message):
    places = {place: request.getfixturevalue(fixture) for place, fixture in PLACES.items()}
    arguments = [argument.format(**places) for argument in arguments]
    assert run_quietly(*arguments, "--out", tmp_path / "out") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "out").exists()


def test_results_are_not_overwritten(spoken, talk, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.csv").write_text("mine")
    assert run_quietly(spoken, talk / "parts", "--out", tmp_path / "out") == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "out" / "predictions.csv").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_known_at_once(spoken, talk, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(Predictor, "dialogue", lambda *_: pytest.fail("predicted in vain"))
    assert run_quietly(spoken, talk / "parts", "--out", tmp_path / "file" / "out") == 2
    assert f"error: {tmp_path / 'file' / 'out'}: cannot be made" in capsys.readouterr().err


def test_missing_texts_and_unusable_wavs_are_warned_of_once(spoken, talk, tmp_path):
    parts = tmp_path / "parts"
    shutil.copytree(talk / "parts", parts)
    (parts / "2.txt").unlink()
    (parts / "3.txt").unlink()
    (parts / "1.wav").write_bytes(b"")
    utterances = [Utterance(parts / f"{n}.wav", text_of(parts / f"{n}.txt")) for n in (1, 2, 3, 4)]
    with pytest.warns(UserWarning, match=".") as caught:
        prediction = Predictor(spoken, gpu_id="cpu").dialogue(utterances)
    messages = [str(warning.message) for warning in caught]
    assert sum("2 of 4 utterances have no text" in message for message in messages) == 1
    assert sum("1 wavs cannot be used" in message for message in messages) == 1
    np.testing.assert_allclose(prediction.emotion.sum(axis=1), 1, atol=1e-5)
    silent = [Utterance(None, "말") for _ in range(2)]
    with pytest.raises(InputError, match="no utterance has sound"):
        Predictor(spoken, gpu_id="cpu").dialogue(silent)
    with pytest.raises(InputError, match="without an utterance"):
        Predictor(spoken, gpu_id="cpu").dialogue([])


def text_of(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


# As a library and as a command


def test_the_readme_example_runs(spoken, talk, monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text("utf-8")
    (code,) = [block.partition("```")[0] for block in readme.split("```python\n")[1:] if "Predictor(" in block]
    assert len(code.strip().splitlines()) <= 10
    monkeypatch.chdir(talk)
    code = code.replace("exp/<run>", str(spoken))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("predict.py", ["a", "b", "--segmets", "x"], "--segmets: no such option, did you mean --segments?"),
        ("predict.py", ["a"], "give a run and an input, such as: predict.py exp/<run> talk.wav --segments talk.json"),
        ("predict.py", ["a", "--dialogue", "x", "--segments", "y"], "--dialogue and --segments name two inputs"),
        ("export.py", ["a", "b", "--savepath", "x"], "--savepath: no such option, did you mean --save_path?"),
        ("data/make_sample.py", ["--sesions", "3"], "--sesions: no such option, did you mean --sessions?"),
    ],
)
def test_a_mistyped_command_is_one_line(program, arguments, message):
    done = subprocess.run([sys.executable, ROOT / program, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


def test_help_needs_no_torch():
    code = "import sys, predict, export; [m.get_args_parser().format_help() for m in (predict, export)]; "
    code += "sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_pages_leaves_the_page_out(preprocessed, finished, tmp_path):
    assert (finished / "dialogues.html").is_file()
    assert run(preprocessed, tmp_path / "exp", "--no_pages") == 0
    assert not (only_run(tmp_path / "exp") / "dialogues.html").exists()
    assert parse_args([])[0].no_pages is False
