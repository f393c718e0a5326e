"""Segments and recordings: every transcript that people have, what is wrong in one, and the parts of a recording."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile

from prediction.inputs import Utterance, from_folder, from_segments
from prediction.segments import fit_to_recording, parse_time, read_segments
from utils import InputError


def table(*segments: tuple) -> pd.DataFrame:
    return pd.DataFrame([(*s, *("",) * (4 - len(s))) for s in segments], columns=["start", "end", "speaker", "text"])


EXPECTED = table((1.5, 3.0, "Kim", "안녕 하세요"), (62.345, 64.0, "", "네"))

SAME = {
    "whisper.json": '{"text": "x", "segments": ['
    '{"id": 0, "start": 1.5, "end": 3, "text": " 안녕 하세요", "speaker": "Kim"},'
    '{"start": 62.345, "end": 64.0, "text": "네", "words": []}], "language": "ko"}',
    "list.json": '[{"start": "1.5", "end": "00:03", "text": "안녕\\n하세요", "speaker": "Kim"},'
    '{"start": "00:01:02.345", "end": 64, "text": "네", "speaker": null}]',
    "a.srt": "1\n00:00:01,500 --> 00:00:03,000\n[Kim]: <i>안녕</i>\n하세요\n\n2\n00:01:02,345 --> 00:01:04,000\n네\n",
    "no empty line.srt": "\ufeff1\r\n00:00:01.500 --> 00:00:03.000\r\n[Kim]: 안녕 하세요\r\n2\r\n"
    "0:01:02,345-->0:01:04,0\r\n네",
    "a.vtt": "WEBVTT - talk\n\nNOTE 1\nnothing\n\nSTYLE\n::cue { color: red }\n\n"
    "first\n00:01.500 --> 00:03.000 align:start\n"
    "<v Kim>안녕 <b>하세요</b></v>\n\n01:02.345 --> 00:01:04.000\n{\\an8}네\n",
    "a.csv": "start,end,speaker,text\n1.5,3,Kim,안녕 하세요\n\n00:01:02.345,64.0,,네\n",
    "semicolons.CSV": 'Start;End;n;Text;Speaker\n1,5;3;1;"안녕\n하세요";Kim\n62,345;64;2;네;\n',
    "a.tsv": "end\tstart\ttext\tspeaker\n3\t1.5\t안녕 하세요\tKim\n64\t1:02.345\t네\t\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "cp949"])
@pytest.mark.parametrize("name", SAME)
def test_every_format_gives_the_same_segments(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_text(SAME[name].lstrip("\ufeff" if encoding == "cp949" else ""), encoding=encoding, newline="")
    pd.testing.assert_frame_equal(read_segments(path), EXPECTED)


def test_texts_that_are_missing_or_hold_entities(tmp_path):
    cue = "00:00:00.000 --> 00:00:01.000\na &lt; b &amp; c\n\n00:00:01.000 --> 00:00:02.000\n"
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n" + cue)
    assert list(read_segments(tmp_path / "a.vtt")["text"]) == ["a < b & c", ""]
    (tmp_path / "a.csv").write_text("start,end\n0,1\n")
    assert list(read_segments(tmp_path / "a.csv")["text"]) == [""]


TIMES = {62: 62, 1e-7: 0, " 62.345 ": 62.345, "62,5": 62.5, "1:02.5": 62.5, "00:01:02.345": 62.345, "90:00": 5400}
NO_TIMES = ("", "-1", float("nan"), float("inf"), True, None, "1:60", "1:60:00", "00:00:01:00", "x")


def test_times_are_read_and_others_refused_with_their_place():
    assert [parse_time(value, "line 3") for value in TIMES] == pytest.approx([*TIMES.values()])
    for value in NO_TIMES:
        with pytest.raises(ValueError, match="line 3"):
            parse_time(value, "line 3")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", "start,end,text\n0,1,a\n2,1,b\n", "line 3"),
        ("a.csv", "start,end,text\n0,1,a\n\nx,1,b\n", "line 4"),
        ("a.csv", "from,to\n0,1\n", "line 1"),
        ("a.csv", 'start,end,text\n0,1,"a\n', ""),
        ("a.csv", "start,end,text\n", ""),
        ("a.srt", "1\n00:00:01,500 --> 00:0x:02,000\nhello\n", "line 2"),
        ("a.srt", "1\n00:00:01,500 --> 00:00:02,000\na\n\nstray\n", "line 5"),
        ("a.srt", "\0\1\2", ""),
        ("a.vtt", "WEBVTT\n\n00:01.500 --> 00:0x.000\nx", "line 3"),
        ("a.json", "{", "line 1"),
        ("a.json", '{"text": "x"}', "segments"),
        ("a.json", '{"segments": [{"start": 0, "end": 1}, {"start": 0}]}', "segments[1]"),
        ("a.json", '{"segments": [{"start": 0, "end": NaN}]}', "segments[0]"),
        ("a.docx", "x", ".json"),
    ],
)
def test_the_error_of_an_unreadable_transcript_names_file_and_place(tmp_path, name, content, place):
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(InputError) as error:
        read_segments(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert place in str(error.value)


# Against the recording


def test_segments_in_order_stay_as_they_are_without_a_warning():
    segments = table((0.0, 1.0, "A", "a"), (1.0, 2.4, "B", "b"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pd.testing.assert_frame_equal(fit_to_recording(segments, 2.4, "talk"), segments)
        assert fit_to_recording(table((0.0, 2.6)), 2.4, "talk")["end"].item() == 2.4  # a transcriber rounded up
        assert len(fit_to_recording(segments, float("inf"), "talk")) == 2  # no recording


def test_each_kind_of_odd_segments_is_warned_of_once():
    segments = table(
        (5, 6, "", "late"),
        (0, 2, "", "first"),
        (1, 3, "", "overlapping"),
        (4, 4, "", "zero"),
        (4.5, 4.504, "", "next to nothing"),
        (9, 12, "", "half beyond"),
        (9.996, 11, "", "begins with the end"),
        (99, 100, "", "beyond"),
    )
    with pytest.warns(UserWarning, match="talk") as caught:
        found = fit_to_recording(segments, 10.0, "talk")
    assert found["text"].tolist() == ["first", "overlapping", "late", "half beyond"]
    assert found[["start", "end"]].to_numpy().tolist() == [[0, 2], [1, 3], [5, 6], [9, 10]]
    numbers = [str(warning.message).split()[1] for warning in caught]
    assert numbers == ["4", "1", "3", "1"]  # left out, cut, sorted, overlapping


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("segments", [table((11, 12)), table((0, 1500), (1500, 9000))])
def test_segments_of_another_recording_or_in_milliseconds_are_an_error(segments):
    with pytest.raises(InputError, match="talk"):
        fit_to_recording(segments, 9.2, "talk")


# Recordings


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (int(seconds * rate), channels)).astype(np.float32)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_a_recording_of_any_format_is_read(tmp_path, kind):
    path = tmp_path / f"talk.{kind}"
    soundfile.write(path, noise(3, 44100, 2), 44100)
    (tmp_path / "a.csv").write_text("start,end\n1,2.5\n")
    (utterance,) = from_segments(tmp_path / "a.csv", path)
    wave = utterance.read(16000)
    assert (wave.shape, wave.dtype) == ((24000,), np.float32)


# The ends of some lie between two samples at 16 kHz
@pytest.mark.parametrize(("rate", "n"), [(16000, 32000), (48000, 96000), (22050, 271217), (44100, 542433)])
def test_a_part_of_a_recording_is_what_its_own_wav_would_be(tmp_path, rate, n):
    wave, first = noise(33, rate), rate + 7
    soundfile.write(tmp_path / "talk.wav", wave, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "part.wav", wave[first : first + n], rate, subtype="FLOAT")
    whole = Utterance(tmp_path / "part.wav").read(16000)
    part = Utterance(start=first / rate, end=(first + n) / rate, recording=tmp_path / "talk.wav").read(16000)
    assert part.dtype == np.float32
    np.testing.assert_allclose(part, whole, rtol=0, atol=1e-6)
    if rate == 16000:  # samples are as good as a wav
        np.testing.assert_allclose(Utterance(wave[first : first + n, 0]).read(rate), whole, rtol=0, atol=1e-6)


def test_a_recording_that_cannot_be_used_is_an_input_error(tmp_path):
    (tmp_path / "a.csv").write_text("start,end\n0,1\n1,2\n")
    (tmp_path / "text.wav").write_text("text")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 16000)
    wave = noise(2, 16000)
    wave[20_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, 16000, subtype="FLOAT")
    for name in ("none.wav", "text.wav", "empty.wav"):
        with pytest.raises(InputError, match=name):
            from_segments(tmp_path / "a.csv", tmp_path / name)
    first, second = from_segments(tmp_path / "a.csv", tmp_path / "nan.wav")
    assert len(first.read(16000)) == 16000
    with pytest.raises(InputError, match=r"nan\.wav.* 1\.00 to 2\.00"):
        second.read(16000)


# Speakers and folders


def test_a_folder_is_read_in_the_order_of_numbers(tmp_path):
    texts = {"1": "[A]: 네", "2": "[B]: 네\n", "10": "네 [C]: 네"}
    for stem, text in texts.items():
        soundfile.write(tmp_path / f"{stem}.wav", noise(1, 8000), 8000)
        (tmp_path / f"{stem}.txt").write_text(text, "utf-8")
    soundfile.write(tmp_path / "9.wav", noise(1, 8000), 8000)
    found = from_folder(tmp_path)
    assert [u.id for u in found] == ["1", "2", "9", "10"]
    assert [(u.speaker, u.text) for u in found] == [("A", "네"), ("B", "네"), ("", None), ("", "네 [C]: 네")]
    assert [(u.start, u.end) for u in found] == list(itertools.pairwise(range(5)))  # one after the other on the page


def test_a_folder_of_segment_ids_is_warned_of_and_one_without_sound_is_refused(tmp_path):
    soundfile.write(tmp_path / "Sess01_script01_F001.wav", noise(1, 8000), 8000)
    with pytest.warns(UserWarning, match="order"):
        assert len(from_folder(tmp_path)) == 1
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none"):
        from_folder(tmp_path / "none")
