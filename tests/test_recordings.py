"""Recordings that libsndfile does not read: their samples, their length, and where they are used."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import retest
from recordings import make_whisper, write_recording

import main
import metric
import predict
from corpora import wavs
from corpora.wavs import inspect_sound, read_channels, read_part, read_wav
from prediction.inputs import from_folder, from_segments, recording_length
from prediction.predictor import Predictor
from prediction.transcribe import Recogniser, transcribe
from utils import InputError, read_json, write_json

pytestmark = pytest.mark.filterwarnings("ignore:.*trained (on a synthetic|with a text encoder):UserWarning")


def noise(seconds: float, channels: int = 1, rate: int = 16_000) -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))
    return (values * 32_767).astype(np.int16)


@pytest.mark.parametrize(("name", "channels"), [("a.m4a", 1), ("a.mp4", 2), ("a.mov", 2)])
def test_a_lossless_recording_has_the_samples_of_its_wav(tmp_path, name, channels):
    samples = noise(2, channels)
    write_recording(tmp_path / name, samples, codec="alac", video=name == "a.mp4")
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    for part in ((0.0, np.inf), (0.5, 1.25)):
        (found, rate), (expected, _) = (read_channels(tmp_path / file, *part) for file in (name, "a.wav"))
        np.testing.assert_array_equal(found[: len(expected)], expected)
        assert rate == 16_000
    assert inspect_sound(tmp_path / name)[2] == channels


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.aac", "aac", 44_100), ("a.3gp", "aac", 16_000), ("a.webm", "libopus", 48_000), ("a.amr", "amr_nb", 8_000)],
)
def test_phones_and_browsers_recordings_are_read(tmp_path, name, codec, rate):
    write_recording(tmp_path / name, noise(2, rate=rate), rate, codec)
    seconds, announced, channels, _ = inspect_sound(tmp_path / name)
    assert 2 <= seconds == announced < 2.2
    assert channels == 1
    assert len(read_part(tmp_path / name, 1.0, 2.0, 16_000)) == 16_000
    assert 0.02 < read_wav(tmp_path / name).std() < 0.2


def test_a_recording_that_was_cut_has_its_decoded_part(tmp_path):
    path = write_recording(tmp_path / "a.webm", noise(8, rate=48_000), 48_000, "libopus")
    os.truncate(path, path.stat().st_size // 2)
    assert 3 < inspect_sound(path)[0] < 5
    assert 3 < len(read_wav(path)) / 16_000 < 5


def test_an_m4a_that_was_cut_says_so_as_a_wav_does(tmp_path):
    path = write_recording(tmp_path / "a.m4a", noise(8), options={"movflags": "faststart"})
    assert inspect_sound(path)[0] == inspect_sound(path)[1]
    os.truncate(path, path.stat().st_size // 2)
    seconds, announced, *_ = inspect_sound(path)
    assert 3 < seconds < 5
    assert 7.9 < announced < 8.2
    with pytest.warns(UserWarning, match=r"a\.m4a"):
        recording_length(path)
    with pytest.raises(InputError, match=r"a\.m4a"):  # of an utterance: it is incomplete
        read_wav(path)


def test_what_holds_no_sound_is_refused_with_its_name(tmp_path):
    write_recording(tmp_path / "a.mp4", noise(0), video=True)
    for name, content in (("b.m4a", b""), ("c.m4a", b"0" * 5000), ("d.raw", b"0" * 5000)):
        (tmp_path / name).write_bytes(content)
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=path.name):
            inspect_sound(path)


def test_a_recording_is_decoded_once_and_its_sound_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(wavs.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    wavs._decode.cache_clear()
    for number in range(wavs.KEPT + 2):
        path = write_recording(tmp_path / f"{number}.m4a", noise(0.5))
        read_wav(path)
        read_part(path, 0.1, 0.2, 16_000)
    assert wavs._decode.cache_info().misses == wavs.KEPT + 2
    assert len([*Path(tmp_path / "temporary").iterdir()]) == wavs.KEPT
    wavs._decode.cache_clear()
    assert not any((tmp_path / "temporary").iterdir())


def test_a_folder_of_a_phones_recordings_is_a_dialogue(audio_run, tmp_path):
    for name in ("1.m4a", "2.webm", "10.3gp"):
        rate = 48_000 if name == "2.webm" else 16_000
        write_recording(tmp_path / name, noise(1, rate=rate), rate, "libopus" if name == "2.webm" else "aac")
        (tmp_path / name).with_suffix(".txt").write_text("네", "utf-8")
    soundfile.write(tmp_path / "2.wav", noise(1), 16_000)
    with pytest.warns(UserWarning, match=r"1 file ignored.*2\.webm"):
        utterances = from_folder(tmp_path)
    assert [utterance.wave.name for utterance in utterances] == ["1.m4a", "2.wav", "10.3gp"]
    assert np.isfinite(Predictor(audio_run, gpu_id="cpu").dialogue(utterances).emotion).all()


# Without a transcript


@pytest.fixture(scope="module")
def whisper(made):
    return made("whisper", make_whisper)


def speech(path: Path, seconds: int = 70) -> Path:
    """A recording of two channels with noise, quiet at 25 and 55 s, where the first channel is silent at last."""
    samples = noise(seconds, 2)
    for start in (25, 55):
        samples[start * 16_000 : (start + 1) * 16_000] //= 100
    samples[40 * 16_000 :, 0] = 0
    return write_recording(path, samples, codec="alac")


def predict_recording(run: Path, path: Path, *arguments: object) -> int:
    return predict.main([*map(str, (run, path, *arguments)), "--gpu_id", "cpu"])


@pytest.mark.filterwarnings("ignore:.*pieces of the sentences:UserWarning")
def test_a_recording_is_transcribed_once_for_a_model_in_whispers_form(text_run, whisper, tmp_path, capsys):
    path, folder = speech(tmp_path / "talk.m4a"), tmp_path / "talk.predictions"
    assert predict_recording(text_run, path, "--transcribe", whisper) == 0
    content = read_json(folder / "segments.json")
    starts = [segment["start"] for segment in content["segments"]]
    assert starts == sorted(starts)
    assert max(starts) > 50  # in the last of the pieces, which a tiny Whisper does not place to the second
    for segment in content["segments"]:
        assert segment["end"] <= 25.6 or segment["start"] >= 25.4  # no piece goes beyond the quiet second
    predicted = pd.read_csv(folder / "predictions.csv")
    assert predicted["start"].tolist() == starts
    content["segments"][0]["text"] = "고친 말"  # a correction is kept
    write_json(folder / "segments.json", content)
    assert predict_recording(text_run, path, "--transcribe", whisper) == 2  # there is a prediction already
    assert predict_recording(text_run, path, "--transcribe", whisper, "--overwrite") == 0
    assert f"{folder / 'segments.json'}: " in capsys.readouterr().out
    assert pd.read_csv(folder / "predictions.csv", dtype=str)["text"][0] == "고친 말"
    other = ("--out", tmp_path / "other")  # the file that is there is that of another folder
    assert predict_recording(text_run, path, "--transcribe", whisper, *other) == 0
    assert f"{folder / 'segments.json'}: " in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "other" / "predictions.csv", dtype=str)["text"][0] == "고친 말"
    assert predict_recording(text_run, path, "--segments", folder / "segments.json") == 2
    assert predict_recording(text_run, path, "--segments", folder / "segments.json", "--overwrite") == 0
    assert predict_recording(text_run, path, "--transcribe", whisper, "--overwrite", "--language", "en") == 2
    write_recording(path, noise(5))  # another recording: the transcript is not of it, and is kept
    assert predict_recording(text_run, path, "--transcribe", whisper, "--overwrite") == 2
    assert read_json(folder / "segments.json") == content
    (folder / "segments.json").unlink()
    assert predict_recording(text_run, path, "--transcribe", whisper, "--overwrite") == 0
    assert pd.read_csv(folder / "predictions.csv")["end"].max() < 5.2


@pytest.mark.filterwarnings("ignore:.*(overlapping|pieces of the sentences):UserWarning")
def test_each_channel_can_be_a_speaker(text_run, whisper, tmp_path):
    path = speech(tmp_path / "talk.m4a")
    with pytest.warns(UserWarning, match=r"talk\.m4a.*--channels speakers"):
        recording_length(path)
    segments = transcribe(path, tmp_path / "talk.json", Recogniser(str(whisper)), "speakers")
    utterances = from_segments(segments, path, speakers=True)
    prediction = Predictor(text_run, gpu_id="cpu").dialogue(utterances)
    ends = {speaker: max(u.end for u in utterances if u.speaker == speaker) for speaker in ("channel 1", "channel 2")}
    assert ends["channel 1"] < 56 < 60 < ends["channel 2"]
    assert len(prediction.emotion) == len(utterances)
    assert [u.start for u in utterances] == sorted(u.start for u in utterances)
    for utterance in utterances:  # each is heard in its own channel
        part, _ = read_channels(path, utterance.start, utterance.end)
        np.testing.assert_array_equal(utterance.read(16_000), part[:, int(utterance.speaker == "channel 2")])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("silent.m4a", "--transcribe", "{whisper}"), "silent.m4a"),
        (("music.mp4", "--transcribe", "{mute}"), "music.mp4"),
        (("talk.m4a", "--transcribe", "{whisper}", "--channels", "speakers"), "one channel"),
        (("talk.m4a", "--transcribe", "{whisper}", "--language", "xx"), "--language xx"),
        (("talk.m4a", "--transcribe", "no/folder/here"), "no/folder/here"),
        (("talk.m4a",), "--segments or --transcribe"),
    ],
)
def test_speech_that_is_not_there_is_one_line(text_run, whisper, tmp_path, capsys, arguments, named):
    write_recording(tmp_path / "silent.m4a", noise(2) // 5000)
    write_recording(tmp_path / "talk.m4a", noise(2))
    tones = np.sin(np.arange(48_000)[:, None] * 2 * np.pi * np.array([440, 660]) / 16_000).sum(axis=1, keepdims=True)
    write_recording(tmp_path / "music.mp4", (tones * 9000).astype(np.int16))
    mute = make_whisper(tmp_path / "mute", says="") if "{mute}" in arguments else None  # as a good one does of music
    name, *arguments = [argument.format(whisper=whisper, mute=mute) for argument in arguments]
    assert predict_recording(text_run, tmp_path / name, *arguments) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert named in error
    assert not [*tmp_path.glob("*.predictions")]


@pytest.mark.filterwarnings("ignore:.*pieces of the sentences:UserWarning")
@pytest.mark.parametrize("language", ["ko", "en"])
def test_a_single_word_of_another_language_is_an_utterance(text_run, tmp_path, language):
    path, model = write_recording(tmp_path / "talk.m4a", noise(1)), make_whisper(tmp_path / "whisper", says="1")
    assert predict_recording(text_run, path, "--transcribe", model, "--language", language) == 0
    rows = pd.read_csv(tmp_path / "talk.predictions/predictions.csv", dtype=str)
    assert set("".join(rows["text"])) <= {"1", " "}
    assert rows["pred_emotion"].notna().all()


# A test with a recogniser's texts


def test_a_run_can_be_tested_with_other_texts(text_run, tmp_path, capsys):
    run = shutil.copytree(text_run, tmp_path / "run")
    rows = pd.read_csv(run / "predictions.csv").rename(columns={"segment_id": "id"})
    rows[["id", "text"]].to_csv(tmp_path / "same.csv", index=False)
    rows.assign(text="네")[["id", "text"]].iloc[1:].to_csv(tmp_path / "other.csv", index=False)
    result = read_json(retest(run, "--texts", str(tmp_path / "same.csv")) / "result.json")
    assert {of["difference"] for of in result["other_texts"].values()} == {0.0}
    folder = retest(run, "--texts", str(tmp_path / "other.csv"))
    other = pd.read_csv(folder / "predictions_other_texts.csv")
    found = read_json(folder / "result.json")["other_texts"]["ccc_arousal"]
    assert found["low"] <= found["difference"] <= found["high"]
    assert found["other"] == round(metric.figures(other)["ccc_arousal"], 4) != found["corpus"]
    output = capsys.readouterr()
    assert f"1 of {len(rows)} utterances" in output.err
    assert "difference" in output.out
    first = other["segment_id"][0]
    for content, named in (
        ("id\n", "text"),
        (f"id,text\n{first},네\n" * 2, first),
        ("", "x.csv"),
        (f"id,text\n{first},네\n", "x.csv"),
    ):
        (tmp_path / "x.csv").write_text(content, "utf-8")
        assert main.main(["--test_only", str(run), "--texts", str(tmp_path / "x.csv"), "--gpu_id", "cpu"]) == 2
        assert named in capsys.readouterr().err


def test_a_test_can_transcribe_its_wavs_once(text_run, whisper, tmp_path):
    run = shutil.copytree(text_run, tmp_path / "run")
    options = ("--transcribe", str(whisper), "--texts", str(tmp_path / "t.csv"))
    retest(run, *options)
    texts = pd.read_csv(tmp_path / "t.csv", dtype=str)
    assert set(texts["id"]) <= {*pd.read_csv(run / "predictions.csv")["segment_id"]}
    assert texts["text"].str.fullmatch("[123 ]*").all()
    texts.assign(text="네").to_csv(tmp_path / "t.csv", index=False)
    retest(run, *options)
    assert set(pd.read_csv(tmp_path / "t.csv")["text"]) == {"네"}
