"""Prediction: the numbers of a test, whichever way the dialogue is given; encoders, several runs, and wrong input."""

import os
import shutil
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import ROOT, train

import export
import predict
from constants import EMOTIONS
from corpora.utterances import read_utterances
from corpora.wavs import find_wavs
from metric import PREDICTION_COLUMNS
from prediction.inputs import from_corpus, from_folder, from_segments
from prediction.predictor import Predictor, Utterance
from utils import InputError, read_json, write_json

PROBABILITIES = [f"p_{name}" for name in EMOTIONS]
RESULTS = [*PROBABILITIES, "pred_arousal", "pred_valence"]
pytestmark = pytest.mark.filterwarnings("ignore:.*trained (on a synthetic|with a text encoder):UserWarning")


def rows_of_dialogue(run: Path) -> pd.DataFrame:
    """The rows of the first tested dialogue in a run's predictions.csv."""
    table = pd.read_csv(run / "predictions.csv")
    return table[table["dialogue"] == table["dialogue"].iloc[0]].reset_index(drop=True)


@pytest.fixture(scope="module")
def talk(preprocessed, audio_run, tmp_path_factory):
    """That dialogue as one recording with pauses, beside a transcript with times, and as a folder of utterances."""
    folder = tmp_path_factory.mktemp("talk")
    (folder / "parts").mkdir()
    wavs = find_wavs(preprocessed)
    pieces, segments, position = [], [], 0
    for number, segment in enumerate(rows_of_dialogue(audio_run)["segment_id"], start=1):
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


@pytest.fixture(scope="module")
def predictor(audio_run) -> Predictor:
    return Predictor(audio_run, gpu_id="cpu")


def run_predict(*arguments: object) -> int:
    return predict.main([*map(str, arguments), "--gpu_id", "cpu"])


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found[RESULTS], expected[RESULTS], rtol=0, atol=1e-5)


def changed_copy(run: Path, folder: Path, **changes: dict) -> Path:
    """A copy of a run folder with other entries in parts of its record."""
    shutil.copytree(run, folder)
    record = read_json(folder / "configuration.json")
    for part, entries in changes.items():
        record[part] = {name: value for name, value in (record[part] | entries).items() if value is not None}
    write_json(folder / "configuration.json", record)
    return folder


# The numbers of the test


@pytest.mark.parametrize("arguments", [("{}/talk.wav", "--segments", "{}/talk.json"), ("{}/parts",)])
def test_an_own_recording_gives_the_numbers_of_the_test(audio_run, talk, tmp_path, capsys, arguments):
    out = tmp_path / "out"
    assert run_predict(audio_run, *(argument.format(talk) for argument in arguments), "--out", out) == 0
    expected, found = rows_of_dialogue(audio_run), pd.read_csv(out / "predictions.csv")
    assert_same(found, expected)
    assert list(found["pred_emotion"]) == list(expected["pred_emotion"])
    assert list(found) == [*PREDICTION_COLUMNS, "role", "note"]
    assert found["true_emotion"].isna().all()
    assert found["segment_id"].is_unique
    page, printed = (out / "dialogue.html").read_text("utf-8"), capsys.readouterr()
    assert "talk.wav" in page if "--segments" in arguments else "1.wav" in page
    for said in (printed.err, page, found["note"][3]):
        assert [said.count(part) for part in ("synthetic corpus", "random weights")] == [1, 1]
    assert "(0.0%)" in printed.out  # of pieces that the tokenizer does not know


@pytest.mark.parametrize("kind", ["text", "audio", "speech"])
def test_a_dialogue_of_the_corpus_gives_the_rows_of_the_test(request, tmp_path, kind):
    run = request.getfixturevalue(f"{kind}_run")
    corpus = request.getfixturevalue("spoken" if kind == "speech" else "preprocessed")
    expected, out = rows_of_dialogue(run), tmp_path / "out"
    encoder = ("--audio_model", *(corpus / "encoders").iterdir()) if kind == "speech" else ()
    dialogue = ("--dialogue", expected["dialogue"][0], "--data_path", corpus)
    assert run_predict(run, *dialogue, *encoder, "--out", out) == 0
    found = pd.read_csv(out / "predictions.csv")
    assert_same(found, expected)
    known = [name for name in PREDICTION_COLUMNS if name not in RESULTS]
    pd.testing.assert_frame_equal(found[known], expected[known])


def test_a_dialogue_of_the_training_sessions_is_warned_of_where_it_is_read(text_run, preprocessed, tmp_path, capsys):
    assert export.main([str(text_run), str(tmp_path / "model")]) == 0
    runs = {"run": (text_run,), "exported": (tmp_path / "model", "--data_path", preprocessed)}
    dialogues = read_utterances(preprocessed, "speaker").groupby("session")["dialogue"].first()
    for session, is_trained in ((2, False), (5, True)):
        for name, arguments in runs.items():  # of a run the corpus is known
            capsys.readouterr()
            out = tmp_path / f"{name}{session}"
            assert run_predict(*arguments, "--dialogue", dialogues[session], "--out", out) == 0
            texts = [capsys.readouterr().err, (out / "dialogue.html").read_text("utf-8")]
            texts += pd.read_csv(out / "predictions.csv")["note"].tolist()
            assert {f"{arguments[0]}: the session of" in text for text in texts} == {is_trained}
    lost = changed_copy(text_run, tmp_path / "lost", options={"data_path": str(tmp_path / "gone")})
    assert run_predict(lost, "--dialogue", dialogues[2], "--out", tmp_path / "out") == 2
    assert "--data_path" in capsys.readouterr().err.splitlines()[-1]


def test_a_prediction_is_replaced_if_that_is_asked_for_and_nothing_else_is(text_run, talk, tmp_path, capsys):
    given, out = (text_run, talk / "talk.json", "--out", tmp_path / "out"), tmp_path / "out"
    out.mkdir()  # an empty folder can be used
    assert run_predict(*given) == 0
    (out / "predictions.csv").write_text("old")
    assert run_predict(*given) == 2
    assert "--overwrite" in capsys.readouterr().err.splitlines()[-1]
    assert (out / "predictions.csv").read_text() == "old"
    assert run_predict(*given, "--overwrite") == 0
    assert_same(pd.read_csv(out / "predictions.csv"), rows_of_dialogue(text_run))
    (out / "result.json").touch()  # a run folder has predictions too
    assert run_predict(*given, "--overwrite") == 2
    assert "result.json" in capsys.readouterr().err.splitlines()[-1]


def test_audio_alone_of_a_listener_needs_no_text(preprocessed, tmp_path):
    more = ("--modality", "audio", "--SorL", "listener", "--precision", "fp32", "--epochs", "1")
    run = train("audio", preprocessed, tmp_path / "exp", *more)
    expected = rows_of_dialogue(run)
    rows, utterances = from_corpus(expected["dialogue"][0], preprocessed, "listener")
    predictor = Predictor(run, gpu_id="cpu")
    assert (predictor.role, predictor.text_dim) == ("listener", None)
    prediction = predictor.dialogue([Utterance(utterance.wave) for utterance in utterances])
    assert list(rows["id"]) == list(expected["segment_id"])
    np.testing.assert_allclose(prediction.emotion, expected[PROBABILITIES], rtol=0, atol=1e-5)


# Several runs


def test_several_runs_give_their_mean_and_spread(audio_run, talk, tmp_path):
    other = changed_copy(audio_run, tmp_path / "other")
    state = torch.load(other / "model.pth", weights_only=True)
    torch.save({k: t * 0.5 if t.is_floating_point() else t for k, t in state.items()}, other / "model.pth")
    arguments = (talk / "talk.wav", "--segments", talk / "talk.json", "--out")
    for runs, name in (((audio_run,), "a"), ((other,), "b"), ((audio_run, other), "both")):
        assert run_predict(*runs, *arguments, tmp_path / name) == 0
    a, b, both = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("a", "b", "both"))
    np.testing.assert_allclose(both[RESULTS], (a[RESULTS] + b[RESULTS]) / 2, atol=1e-5)
    spread = both[[f"{name}_sd" for name in RESULTS]].to_numpy()
    np.testing.assert_allclose(spread, (a[RESULTS] - b[RESULTS]).abs() / 2, atol=1e-5)
    assert spread.max() > 1e-4


def test_runs_of_other_roles_have_no_mean(text_run, tmp_path):
    listener = changed_copy(text_run, tmp_path / "listener", options={"SorL": "listener"})
    with pytest.raises(InputError, match="listener"):
        Predictor(text_run, listener, gpu_id="cpu")


# Encoders


def test_a_text_encoder_that_is_not_found_or_is_another_one_is_asked_for(
    text_run, talk, preprocessed, tmp_path, capsys
):
    lost = changed_copy(text_run, tmp_path / "lost", data={"text_model": "unknown", "text_fingerprint": None})
    other = changed_copy(text_run, tmp_path / "other", data={"text_fingerprint": "00"})
    given, out = ("--text_model", preprocessed / "kobert"), tmp_path / "out"
    for runs in ((lost,), (text_run, other)):
        assert run_predict(*runs, talk / "talk.json", "--out", out) == 2
        assert "--text_model" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
    assert run_predict(lost, other, talk / "talk.json", *given, "--out", out) == 0
    assert f"{other}" in capsys.readouterr().err
    dialogue = ("--dialogue", "Sess01_script01", "--data_path", preprocessed)
    assert run_predict(other, *dialogue, "--out", tmp_path / "embedded") == 0
    assert capsys.readouterr().err.count("another text encoder") == 1


def test_the_recorded_revision_of_a_text_encoder_is_loaded(text_run, preprocessed, tmp_path, monkeypatch):
    repository, revisions = tmp_path / "hub" / "models--user--kobert", {"old": "0" * 40, "new": "1" * 40}
    for mark, commit in revisions.items():
        shutil.copytree(preprocessed / "kobert", repository / "snapshots" / commit)
        path = repository / "snapshots" / commit / "config.json"
        write_json(path, read_json(path) | {"marked": mark})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revisions["new"])
    recorded = {"text_model": "user/kobert", "text_revision": revisions["old"]}
    run = changed_copy(text_run, tmp_path / "run", data=recorded)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Predictor(run, gpu_id="cpu").encoder("text").model.config.marked == "old"
    for path in repository.rglob("spiece.model"):  # which an interrupted download has left out
        path.unlink()
    with pytest.raises(InputError, match=r"needs spiece\.model"):
        Predictor(run, gpu_id="cpu").encoder("text")


# What is wrong with the input

PLACES = {"run": "audio_run", "talk": "talk", "corpus": "preprocessed"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("{run}", "{talk}/talk.wav"), "--segments"),
        (("{run}", "{talk}/parts/1.txt"), "1.txt: not readable as audio"),
        (("{run}", "{talk}/talk.json"), "talk_0001"),
        (("{run}", "{talk}/none.wav", "--segments", "{talk}/talk.json"), "none.wav"),
        (("{run}", "{talk}/parts", "--segments", "{talk}/talk.json"), "parts"),
        (("{talk}/no run", "{talk}/parts"), "no run"),
        (("{run}", "--dialogue", "Sess01_script99", "--data_path", "{corpus}"), "Sess01_script99"),
        (("{run}", "{talk}/parts", "--out", "{talk}/parts"), "parts"),
        (("{run}", "{talk}/parts", "--out", "{talk}/talk.wav/out"), "talk.wav/out"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(request, tmp_path, capsys, arguments, named):
    places = {place: request.getfixturevalue(fixture) for place, fixture in PLACES.items()}
    arguments = [argument.format(**places) for argument in arguments]
    before = {*places["talk"].rglob("*")}
    assert run_predict(*(["--out", tmp_path / "out"] if "--out" not in arguments else []), *arguments) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert named in error
    assert not (tmp_path / "out").exists()
    assert {*places["talk"].rglob("*")} == before


def test_missing_texts_and_unusable_wavs_are_warned_of_once(predictor, talk, tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    wavs = [tmp_path / "empty.wav", *(talk / "parts" / f"{number}.wav" for number in (2, 3, 4))]
    with pytest.warns(UserWarning, match="2 of 4|empty") as caught:
        prediction = predictor.dialogue([Utterance(w, t) for w, t in zip(wavs, ("네", None, None, "말"), strict=True)])
    messages = [str(warning.message) for warning in caught]
    assert [sum(part in message for message in messages) for part in ("2 of 4", "empty.wav")] == [1, 1]
    np.testing.assert_allclose(prediction.emotion.sum(axis=1), 1, atol=1e-5)
    for utterances in ([Utterance(None, "말")], [Utterance(wavs[1])], [Utterance(wavs[0], "말")], []):
        with pytest.raises(InputError):
            predictor.dialogue(utterances)


def test_marks_of_a_recogniser_are_left_out_with_a_warning_that_counts(text_run):
    predictor = Predictor(text_run, gpu_id="cpu")
    plain = predictor.dialogue([Utterance(None, "조금만"), Utterance(None, "더 있어")])
    other = predictor.dialogue([Utterance(None, "아니"), Utterance(None, "더 있어")])
    with pytest.warns(UserWarning, match="1 of 2 transcripts"):
        marked = predictor.dialogue([Utterance(None, "b/ <|ko|><|NEUTRAL|>조금만"), Utterance(None, "더 있어")])
    np.testing.assert_array_equal(marked.emotion, plain.emotion)
    assert (plain.emotion != other.emotion).any()


def write_noise(path: Path, samples: int = 16_000) -> np.ndarray:
    wave = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    soundfile.write(path, wave, 16_000, subtype="FLOAT" if path.suffix == ".wav" else None)
    return wave


def test_a_folder_of_a_mac_is_read_and_what_is_left_out_is_named(tmp_path):
    texts = {unicodedata.normalize("NFD", "가1"): "가1.txt", "가10": "가10.TXT", "가2": None}
    for name, text in texts.items():
        write_noise(tmp_path / f"{name}.wav")
        if text:
            (tmp_path / text).write_text("김: 조금만", "utf-8")
    (tmp_path / "._가1.wav").write_bytes(b"\0\5\x16\7")
    (tmp_path / "._가1.txt").write_bytes(b"\0\5\x16\7")
    (tmp_path / "가3.wav").symlink_to("nothing")
    for name in ("가4.pdf", "가4.txt"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"2 files .*가4\.pdf, 가4\.txt"):
        utterances = from_folder(tmp_path)
    assert [utterance.id for utterance in utterances] == ["가1", "가2", "가3", "가10"]
    assert [(u.speaker, u.text) for u in utterances] == [("김", "조금만"), ("", None), ("", None), ("김", "조금만")]
    assert [(u.start, u.end) for u in utterances] == [(0, 1), (1, 2), (2, 2), (2, 3)]  # one after the other on the page


def write_segments(path: Path, seconds: int) -> Path:
    """Segments of 2 s without pauses."""
    times = range(0, seconds, 2)
    write_json(path, {"segments": [{"start": start, "end": start + 2, "text": "네"} for start in times]})
    return path


def test_a_stretch_without_numbers_is_zeros_for_its_segment_alone(predictor, tmp_path):
    wave = write_noise(tmp_path / "whole.wav", 96_000)
    wave[70_000:80_000] = np.nan
    soundfile.write(tmp_path / "damaged.wav", wave, 16_000, subtype="FLOAT")
    utterances = from_segments(write_segments(tmp_path / "s.json", 6), tmp_path / "whole.wav")
    with pytest.warns(UserWarning, match=r"1 of 3 .*damaged\.wav, 4.00 to 6.00 s"):
        found = predictor.dialogue([replace(u, recording=tmp_path / "damaged.wav") for u in utterances])
    expected = predictor.dialogue([*utterances[:2], Utterance(np.zeros(16_000), "네")])
    np.testing.assert_array_equal(found.emotion[:2], expected.emotion[:2])
    assert np.isfinite(found.emotion).all()


@pytest.mark.parametrize("kind", ["wav", "mp3"])
def test_segments_in_the_lost_part_of_a_recording_are_zeros(predictor, tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    write_noise(path, 320_000)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.warns(UserWarning, match=rf"a\.{kind}: .* 20.00 s"):
        utterances = from_segments(write_segments(tmp_path / "s.json", 20), path)
    assert [len(utterance.read(16_000)) for utterance in utterances[:4]] == [32_000] * 4
    with pytest.warns(UserWarning, match=rf"[45] of 10 .*a\.{kind}"):
        assert np.isfinite(predictor.dialogue(utterances).emotion).all()


def test_a_recording_whose_channels_differ_is_warned_of_once(tmp_path):
    wave = write_noise(tmp_path / "mono.wav", 64_000)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, -wave], axis=1), 16_000)
    segments = write_segments(tmp_path.with_suffix(".json"), 4)
    for read in (lambda: from_segments(segments, tmp_path / "a.wav"), lambda: from_folder(tmp_path)):
        with pytest.warns(UserWarning, match=r"1 file .*a\.wav") as caught:
            read()
        assert len(caught) == 1


NOISE = np.random.default_rng(0).normal(0, 0.1, 16_000)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"wave": NOISE.tolist()}, "wave"),
        ({"wave": (NOISE * 1000).astype(np.int16)}, "wave"),
        ({"wave": NOISE.reshape(2, -1)}, "wave"),
        ({"wave": NOISE, "text": 5}, "text"),
        ({"wave": NOISE, "speaker": 0}, "speaker"),
        ({"wave": NOISE, "embedding": [0.0] * 768}, "embedding"),
        ({"wave": NOISE, "embedding": np.zeros(5, np.float32)}, "768"),
        ({"wave": NOISE, "embedding": np.full(768, 1e30)}, "768"),
        ({"wave": NOISE, "embedding": np.full(768, np.nan)}, "768"),
        ({"recording": "a.wav"}, "recording"),
        ({"recording": "a.wav", "start": 2.0, "end": np.nan}, "recording"),
    ],
)
def test_fields_of_the_wrong_kind_are_refused_with_their_name(predictor, fields, named):
    with pytest.raises(InputError, match=named):
        predictor.dialogue([Utterance(**{"text": "네"} | fields)])


@pytest.mark.parametrize("wave", [NOISE * np.nan, NOISE * 1e30, NOISE[:0], NOISE[:1]])
def test_arrays_that_are_no_sound_are_zeros_as_such_files_are(predictor, wave):
    with pytest.warns(UserWarning, match="1 of 2"):
        predictor.dialogue([Utterance(NOISE, "네"), Utterance(wave, "네")])
    with pytest.raises(InputError, match="usable audio"):
        predictor.dialogue([Utterance(wave, "네")])


def test_arrays_may_have_any_stride_and_width(predictor):
    backwards = np.ascontiguousarray(NOISE[::-1], dtype=np.float32)
    expected = predictor.dialogue([Utterance(backwards, "네")]).emotion
    for wave in (NOISE[::-1], np.stack([backwards] * 2, axis=1)[:, 0]):
        np.testing.assert_array_equal(predictor.dialogue([Utterance(wave, "네")]).emotion, expected)


def test_an_utterance_without_a_speaker_has_the_nearest_one(speech_run, spoken, talk):
    (encoder,), wav = (spoken / "encoders").iterdir(), talk / "parts" / "1.wav"
    predictor = Predictor(speech_run, audio_model=str(encoder), gpu_id="cpu")

    def predict(speakers: str, times: list[tuple]) -> np.ndarray:
        rows = zip(speakers, times, strict=True)
        return predictor.dialogue([Utterance(wav, "네", who.strip(), *time) for who, time in rows]).emotion

    times, none = [(0, 1), (3, 4), (4.1, 5)], [()] * 3
    assert (predict("AAB", times) != predict("ABB", times)).any()
    for expected, given in (("ABB", times), ("AAB", none)):
        with pytest.warns(UserWarning, match="1 of 3.* utterance 2"):
            np.testing.assert_array_equal(predict("A B", given), predict(expected, given))


def test_a_run_with_speakers_needs_a_speaker(speech_run, talk):
    with pytest.raises(InputError, match="speaker"):
        Predictor(speech_run, gpu_id="cpu").dialogue([Utterance(talk / "parts" / "1.wav", "네")] * 2)


# As a library and as a command


def test_threads_that_predict_at_once_change_nothing_for_others(audio_run, talk):
    utterances = [Utterance(talk / "parts" / f"{number}.wav", "네") for number in (1, 2)]
    cudnn, threads = torch.backends.cudnn, torch.get_num_threads()
    cudnn.allow_tf32, cudnn.deterministic = True, False
    predictor = Predictor(audio_run, gpu_id="cpu")
    assert (cudnn.allow_tf32, cudnn.deterministic) == (False, True)  # as in a test
    try:
        torch.backends.mkldnn.enabled, cudnn.allow_tf32 = False, True
        torch.set_num_threads(3)
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(lambda _: predictor.dialogue(utterances), range(2))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
        assert (torch.backends.mkldnn.enabled, cudnn.allow_tf32) == (False, True)
    finally:
        torch.backends.mkldnn.enabled, cudnn.allow_tf32 = True, False
        torch.set_num_threads(threads)
    np.testing.assert_allclose(one.emotion, other.emotion, rtol=0, atol=1e-6)


def test_the_example_of_the_documents_runs(audio_run, talk, monkeypatch, capsys):
    page = (ROOT / "docs/prediction.md").read_text("utf-8")
    (code,) = [block.partition("```")[0] for block in page.split("```python\n")[1:] if "Predictor(" in block]
    monkeypatch.chdir(talk)
    exec(compile(code.replace("exp/latest", str(audio_run)), "prediction.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == len([*(talk / "parts").glob("*.wav")])


@pytest.mark.parametrize("name", ["exp/typo", "./exp/typo", "a/b/c", "typo", "{}/typo"])
def test_a_run_in_the_home_folder_is_found_and_a_mistyped_one_not_looked_for_on_the_hub(
    monkeypatch, tmp_path, text_run, name
):
    monkeypatch.setenv("HOME", str(text_run.parent))
    monkeypatch.setenv("USERPROFILE", str(text_run.parent))
    assert Predictor(f"~/{text_run.name}", gpu_id="cpu").role == "speaker"
    monkeypatch.chdir(tmp_path)  # where no exp lies
    monkeypatch.setattr("prediction.runs.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(InputError, match=r"typo|a/b/c"):
        Predictor(name.format(tmp_path), gpu_id="cpu")


@pytest.mark.parametrize("command", ["main", "preprocessing", "predict", "experiments", "export"])
def test_an_environment_that_is_not_active_is_one_line(command):
    done = subprocess.run([sys.executable, "-S", f"{command}.py"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "requirements.txt" in done.stderr


@pytest.mark.parametrize("argv", [["a"], ["a", "--dialogue", "x", "--segments", "y"]])
def test_a_mistyped_command_is_one_line(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict.main(argv)
    assert capsys.readouterr().err.count("\n") == 1
