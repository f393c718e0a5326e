"""Segments and recordings: every transcript that people have, what is wrong in one, and the parts of a recording."""

import itertools
import json
import math
import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import ROOT

from prediction.inputs import Utterance, from_folder, from_segments
from prediction.segments import fit_to_recording, name_speakers, parse_time, read_segments
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
    "whisper.cpp.json": '{"transcription": [{"offsets": {"from": 1500, "to": 3000}, "text": " 안녕 하세요",'
    '"speaker": "Kim"}, {"timestamps": {}, "offsets": {"from": 62345, "to": 64000}, "text": "네"}]}',
    "clova.json": '{"segments": [{"start": 1500, "end": 3000, "text": "안녕 하세요", "speaker": {"label": "1",'
    '"name": "Kim"}}, {"start": 62345, "end": 64000, "text": "네", "speaker": {"label": "", "name": ""}}]}',
    "aihub.json": '{"Conversation": [{"TextNo": "1", "Text": "안녕 하세요", "StartTime": "1.50", "EndTime": "3.00",'
    '"SpeakerNo": "Kim"}, {"Text": "네", "StartTime": "62.345", "EndTime": "64.00", "SpeakerNo": ""}]}',
    "praat.tsv": "tmin\ttier\ttext\ttmax\n1.5\tKim\t안녕 하세요\t3\n62.345\t\t네\t64\n",
    "semicolons.CSV": 'Start;End;n;Text;Speaker\n1,5;3;1;"안녕\n하세요";Kim\n62,345;64;2;네;\n',
    "a.tsv": "end\tstart\ttext\tspeaker\n3\t1.5\t안녕 하세요\tKim\n64\t1:02.345\t네\t\n",
}


@pytest.mark.filterwarnings("ignore:.*milliseconds:UserWarning")
@pytest.mark.parametrize("encoding", ["utf-8", "cp949"])
@pytest.mark.parametrize("name", SAME)
def test_every_format_gives_the_same_segments(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_text(SAME[name].lstrip("\ufeff" if encoding == "cp949" else ""), encoding=encoding, newline="")
    pd.testing.assert_frame_equal(read_segments(path).reset_index(drop=True), EXPECTED)


def test_texts_that_are_missing_or_hold_entities(tmp_path):
    cue = "00:00:00.000 --> 00:00:01.000\na &lt; b &amp; c\n\n00:00:01.000 --> 00:00:02.000\n"
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n" + cue)
    assert list(read_segments(tmp_path / "a.vtt")["text"]) == ["a < b & c", ""]
    (tmp_path / "a.csv").write_text("start,end\n0,1\n")
    assert list(read_segments(tmp_path / "a.csv")["text"]) == [""]


TIMES = {62: 62, 1e-7: 0, " 62.345 ": 62.345, "62,5": 62.5, "1:02.5": 62.5, "00:01:02.345": 62.345, "90:00": 5400}
TIMES |= {"1,234.56": 1234.56, "1,234,567.8": 1234567.8, -0.02: -0.02, "-00:00:01,500": -1.5}
NO_TIMES = ("", float("nan"), float("inf"), True, None, "1:60", "1:60:00", "00:00:01:00", "x", "9" * 400, "1,2.3")


def test_times_are_read_and_others_are_none():
    assert [parse_time(value) for value in TIMES] == pytest.approx([*TIMES.values()])
    assert np.isnan([parse_time(value) for value in NO_TIMES]).all()


def read(folder: Path, name: str, content: str, duration: float = math.inf) -> list[tuple]:
    """Start, end, speaker and text of the segments that are used of a transcript with this content."""
    (folder / name).write_text(content, "utf-8")
    segments = fit_to_recording(read_segments(folder / name, duration), duration, name)
    return [tuple(row) for row in segments.to_numpy()]


def test_the_last_chunk_of_a_pipeline_ends_with_the_recording(tmp_path):
    chunks = [{"timestamp": [0.0, 5.0], "text": " 네"}, {"timestamp": [5.0, None], "text": " 그래"}]
    content = json.dumps({"text": "네 그래", "chunks": chunks})
    assert read(tmp_path, "a.json", content, 9.0) == [(0, 5, "", "네"), (5, 9, "", "그래")]
    assert read(tmp_path, "a.json", content)[1] == (5, 35, "", "그래")
    chunks[0]["timestamp"] = None
    with pytest.warns(UserWarning, match=r"chunks\[0\]"):
        assert len(read(tmp_path, "a.json", json.dumps({"chunks": chunks}))) == 1


@pytest.mark.filterwarnings("ignore:.*left out:UserWarning")
@pytest.mark.parametrize("duration", [math.inf, 9.0])
@pytest.mark.parametrize("end", ["", "\n-20\t900\t앞", "\n\t900\t앞"])
def test_milliseconds_of_whisper_are_recognised_with_and_without_a_recording(tmp_path, duration, end):
    content = f'start\tend\ttext\n0\t5500\t"네" 그래\n5500\t8000\t"왜{end}\n'
    with pytest.warns(UserWarning, match="milliseconds"):
        assert read(tmp_path, "a.tsv", content, duration) == [(0, 5.5, "", '"네" 그래'), (5.5, 8, "", '"왜')]


@pytest.mark.parametrize(
    ("rows", "duration"),
    [("0\t5\t네\n5\t30\t왜", math.inf), ("0\t150\t네\n150\t290\t왜", 300), ("0\t150\t네\n150.5\t290\t왜", math.inf)],
)
def test_whole_seconds_stay_seconds(tmp_path, rows, duration):
    assert read(tmp_path, "a.tsv", f"start\tend\ttext\n{rows}\n", duration)[0][1] == int(rows.split("\t")[1])


# Captions that show a sentence again and again

CUES = [  # start, end, and the two lines on the screen
    ("00.000", "02.000", " ", "안녕<00:00:00.480><c> 하세요</c>"),
    ("02.000", "02.010", "안녕 하세요", " "),
    ("02.010", "04.000", "안녕 하세요", "네"),
    ("04.000", "04.010", "네", " "),
    ("04.010", "05.000", "네", "네"),
    ("05.000", "05.010", "네", " "),
    ("09.000", "11.000", " ", "네"),
]
TIMED = "00:00:{} --> 00:00:{} align:start position:0%\n{}\n{}\n"
ROLLING = "\n".join(["WEBVTT\nKind: captions\n", *(TIMED.format(*cue) for cue in CUES)])
SAID = [(0, 2, "", "안녕 하세요"), (2.01, 4, "", "네"), (4.01, 5, "", "네"), (9, 11, "", "네")]
TAGS = re.compile("<.*?>")


def as_srt(vtt: str) -> str:
    """What ffmpeg makes of WebVTT: without word times and settings."""
    numbers = itertools.count(1)
    cues = TAGS.sub("", vtt.partition("\n\n")[2]).replace(" align:start position:0%", "")
    return re.sub("^(.*-->.*)$", lambda times: f"{next(numbers)}\n{times[1].replace('.', ',')}", cues, flags=re.M)


@pytest.mark.parametrize(("name", "content"), [("a.vtt", ROLLING), ("a.srt", as_srt(ROLLING))])
def test_rolling_captions_have_each_sentence_once_in_its_time(tmp_path, name, content):
    assert read(tmp_path, name, content) == SAID
    if name == "a.vtt":
        first = content.partition("00:00:02.010")[0]
        assert read(tmp_path, name, first) == SAID[:1]


HIGHLIGHTED = ["<u>왜</u> 이제 와", "왜 이제 와", "왜 <u>이제</u> 와", "왜 이제 <u>와</u>"]
HIGHLIGHTED += ["<u>네</u>", "네", "<u>네</u>"]


@pytest.mark.parametrize("tags", ["<u> </u>", '<font color="#00ff00"> </font>'])
def test_highlighted_words_are_one_utterance_a_sentence(tmp_path, tags):
    start, end = tags.rsplit(" ", 1)
    texts = [text.replace("<u>", start).replace("</u>", end) for text in HIGHLIGHTED]
    cues = (f"{n + 1}\n00:00:0{n},000 --> 00:00:0{n + 1},000\n[김]: {text}\n" for n, text in enumerate(texts))
    expected = [(0, 4, "김", "왜 이제 와"), (4, 6, "김", "네"), (6, 7, "김", "네")]
    assert read(tmp_path, "a.srt", "\n".join(cues)) == expected


def test_people_repeat_themselves(tmp_path):
    texts = ["네", "네", "왜\n그래", "그래\n왜", "<u>네</u>", "네 네", "네 네"]
    cues = [f"00:00:0{n}.000 --> 00:00:0{n + 1}.000\n{text}\n" for n, text in enumerate(texts)]
    found = read(tmp_path, "a.vtt", "WEBVTT\n\n" + "\n".join(cues))
    assert [row[3] for row in found] == [TAGS.sub("", text).replace("\n", " ") for text in texts]


# Speakers


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["김민수: 안녕하세요", "이영희:네", "김민수: 그래", "참고: 내일"], ["김민수", "이영희", "김민수", "참고"]),
        (["화자 1: 네", "왜", "이제", "와", "화자 1: 네", "참고: 내일"], ["화자 1", "", "", "", "화자 1", ""]),
        (["참고: 내일", "12: 30에 봐", "오후 3:30에", "오후 3:40에"], [""] * 4),
        (["[김]: 네", "<v 이>왜</v>", "참고: 가", "참고: 나"], ["김", "이", "", ""]),
        (["가: 나"], [""]),
    ],
)
def test_a_text_names_its_speaker(texts, expected):
    found = name_speakers([None] * len(texts), texts)
    assert [speaker for speaker, _ in found] == expected
    for text, (speaker, words) in zip(texts, found, strict=True):
        assert words == TAGS.sub("", re.sub(rf"^\[?{speaker}\]?:" if speaker else "", "", text)).strip()


def test_numbers_objects_and_nothing_are_speakers():
    given = [0, 1, None, {"label": "1", "name": "A"}, {"label": "2"}, float("nan"), "  김\n민수 "]
    assert [speaker for speaker, _ in name_speakers(given, ["네"] * 7)] == ["0", "1", "", "A", "2", "", "김 민수"]


# What cannot be read


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", "start,end,text\n2,1,b\n", "line 2"),
        ("a.csv", "start,end,text\n0,1,a\n\nx,1,b\ny,2,c\n", "line 4"),
        ("a.csv", "from,to\n0,1\n", "line 1"),
        ("a.csv", 'start,end,text\n0,1,"a\n', ""),
        ("a.csv", "start,end,text\n", ""),
        ("a.srt", "1\n00:00:01,500 --> 00:0x:02,000\nhello\n", "line 2"),
        ("a.srt", "1\n00:00:01,500 --> 00:00:02,000\na\n\nstray\n", "line 5"),
        ("a.srt", "\0\1\2", ""),
        ("a.vtt", "WEBVTT\n\n00:01.500 --> 00:0x.000\nx", "line 3"),
        ("a.json", "{", "line 1"),
        ("a.json", '{"text": "x"}', "segments"),
        ("a.json", '{"segments": [{"start": 0}]}', "segments[0]"),
        ("a.json", '{"segments": [{"start": 0, "end": NaN}]}', "segments[0]"),
        ("a.docx", "x", ".json"),
        ("a.TextGrid", "x", "docs/prediction.md"),
    ],
)
def test_the_error_of_an_unreadable_transcript_names_file_and_place(tmp_path, name, content, place):
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(InputError) as error:
        from_segments(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert place in str(error.value)


def test_the_command_that_converts_rttm_does_so(tmp_path):
    path = tmp_path / "my talk.rttm"
    path.write_text("SPEAKER talk 1 3600.123 2.30 <NA> <NA> A <NA> <NA>\n")
    (command,) = [line[2:] for line in (ROOT / "docs/prediction.md").read_text().splitlines() if "awk" in line]
    subprocess.run(command.replace("talk.", "'my talk'."), shell=True, check=True, cwd=tmp_path)
    assert read_segments(tmp_path / "my talk.csv").to_numpy().tolist() == [[3600.123, 3602.423, "A", ""]]


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
    assert numbers == ["1", "3", "1"]  # beyond, empty, overlapping


ODD = {"end before": (1, 0.98), "negative": (-0.02, 1), "nan": (1, math.nan), "null": (None, 1), "beyond": (50, 60)}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_segment_of_many_is_left_out_and_counted(tmp_path, kind):
    rows = [{"start": n, "end": n + 1, "text": "네"} for n in range(40)]
    odd = [{"start": ODD[kind][0], "end": ODD[kind][1], "text": "odd"}] * 3
    for n, share in ((1, 2), (2, 40)):  # one, or up to 5%, of them
        with pytest.warns(UserWarning, match=rf"\[{share}\]") as caught:
            found = read(tmp_path, "a.json", json.dumps(rows[:share] + odd[:n]), 45.0)
        assert len(found) == share
        assert [str(warning.message).split()[1] for warning in caught] == [str(n)]
    with pytest.raises(InputError, match=r"a\.json: 3 segments .*\[40\]"):
        read(tmp_path, "a.json", json.dumps(rows + odd), 45.0)


def test_segments_of_another_recording_are_an_error():
    with pytest.raises(InputError, match="talk"):
        fit_to_recording(table((11, 12)), 9.2, "talk")


# Recordings


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (int(seconds * rate), channels)).astype(np.float32)


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


# Folders


def test_a_folder_of_segment_ids_is_warned_of_and_one_without_sound_is_refused(tmp_path):
    soundfile.write(tmp_path / "Sess01_script01_F001.wav", noise(1, 8000), 8000)
    with pytest.warns(UserWarning, match="order"):
        assert len(from_folder(tmp_path)) == 1
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none"):
        from_folder(tmp_path / "none")
