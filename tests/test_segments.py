"""Segments: every file that people have, and every odd thing in it."""

import json

import numpy as np
import pytest

from prediction.segments import READERS, Segment, order_segments, parse_time, read_segments
from utils import InputError

EXPECTED = [Segment(1.5, 3.0, "Kim", "안녕 하세요"), Segment(62.345, 64.0, "", "네")]

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
    "semicolons.csv": 'Start;End;n;Text;Speaker\n1,5;3;1;"안녕\n하세요";Kim\n62,345;64;2;네;\n',
    "a.tsv": "end\tstart\ttext\tspeaker\n3\t1.5\t안녕 하세요\tKim\n64\t1:02.345\t네\t\n",
}


@pytest.mark.parametrize("name", SAME)
def test_every_format_says_the_same(tmp_path, name):
    path = tmp_path / name
    path.write_text(SAME[name], encoding="utf-8", newline="")
    assert read_segments(path) == EXPECTED


def test_cp949_and_capitals_are_read(tmp_path):
    path = tmp_path / "A.CSV"
    path.write_bytes("start,end,text\n0,1,안녕\n".encode("cp949"))
    assert read_segments(path) == [Segment(0, 1, "", "안녕")]


def test_missing_texts_are_none(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("start,end\n0,1\n")
    assert read_segments(path) == [Segment(0, 1)]
    path = tmp_path / "a.srt"
    path.write_text("1\n00:00:00,000 --> 00:00:01,000\n\n2\n00:00:01,000 --> 00:00:02,000\nb\n")
    assert [segment.text for segment in read_segments(path)] == [None, "b"]
    path = tmp_path / "a.json"
    path.write_text('{"segments": [{"start": 0, "end": 1, "text": "\\ud83d x &amp;"}]}')
    assert read_segments(path)[0].text == "? x &amp;"


def test_entities_are_webvtts_alone(tmp_path):
    for name, text in (("a.vtt", "a < b & c"), ("a.srt", "a &lt; b &amp; c")):
        path = tmp_path / name
        path.write_text(("WEBVTT\n\n" if name == "a.vtt" else "") + "00:00:00.000 --> 00:00:01.000\na &lt; b &amp; c\n")
        assert read_segments(path)[0].text == text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), (" 62.345 ", 62.345), ("62,5", 62.5), ("1:02.5", 62.5), ("00:01:02.345", 62.345), ("90:00", 5400)],
)
def test_times(value, seconds):
    assert parse_time(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "-1", "nan", "inf", "1:60", "1:60:00", "1e9x", "00:00:01:00", "1.2.3", "x"])
def test_no_times(value):
    with pytest.raises(ValueError, match="the time"):
        parse_time(value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "start,end,text\n0,1,a\n2,1,b\n", "line 3: an end at 1 s before the start at 2 s"),
        ("a.csv", "start,end,text\n0,1,a\nx,1,b\n", "line 3: the time 'x', expected seconds"),
        ("a.csv", "start,end\n0,1,a\n", "line 2: 3 columns, expected 2"),
        ("a.csv", "from,to\n0,1\n", "line 1: no column start"),
        ("a.csv", "start,end,start\n0,1,2\n", "line 1: no column start"),
        ("a.csv", 'start,end,text\n0,1,"a\n', "not readable as a table"),
        ("a.csv", "start,end,text\n", "holds no segment"),
        ("a.csv", "", "no column start"),
        ("a.srt", "1\n00:00:01,500 -> 00:00:02,000\nhello\n", "line 2: '00:00:01,500 -> 00:00:02,000' between two"),
        ("a.srt", "1\n00:00:01,500 --> 00:0x:02,000\nhello\n", "line 2: the time '00:0x:02,000'"),
        ("a.srt", "1\n00:00:01,500 -->\nhello\n", "line 2: the time ''"),
        ("a.srt", "1\n00:00:01,500 --> 00:00:02,000\na\n\nstray\n", "line 5: 'stray' between two segments"),
        ("a.vtt", "00:01.500 --> 00:02.000\nx", "line 1: '00:01.500 --> 00:02.000', expected WEBVTT"),
        ("a.vtt", "WEBVTT\n", "holds no segment"),
        ("a.json", "{", "not readable as JSON"),
        ("a.json", "[" * 100_000, "not readable as JSON"),
        ("a.json", '{"text": "x"}', "has no list 'segments'"),
        (
            "a.json",
            '{"segments": [{"start": 0, "end": 1}, {"start": 0}]}',
            "segments[1]: expected an object with start",
        ),
        ("a.json", '{"segments": [{"start": 0, "end": true}]}', "segments[0]: the time True"),
        ("a.json", '{"segments": [{"start": 0, "end": NaN}]}', "segments[0]: the time 'nan'"),
        ("a.json", '{"segments": [{"start": -0.5, "end": 1}]}', "segments[0]: the time '-0.5"),
        ("a.json", '{"segments": [{"start": 0, "end": 1, "text": 5}]}', "segments[0]: 5, expected a text"),
        ("a.docx", "x", "segments are read from .json, .srt, .vtt, .csv, .tsv"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_says_where(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, "utf-8")
    with pytest.raises(InputError) as error:
        read_segments(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_segments(tmp_path / "none.srt")
    (tmp_path / "a.srt").write_bytes(b"\0\1\2")
    with pytest.raises(InputError, match="neither UTF-8"):
        read_segments(tmp_path / "a.srt")
    assert {*READERS} == {".json", ".srt", ".vtt", ".csv", ".tsv"}


# Against the recording


def test_orderly_segments_stay_as_they_are_without_a_warning(recwarn):
    segments = [Segment(0, 1, "A", "a"), Segment(1, 2.4, "B", "b")]
    assert order_segments(segments, 2.4, "talk") == segments
    assert order_segments([Segment(0, 2.6)], 2.4, "talk") == [Segment(0, 2.4)]  # a transcriber rounded up
    assert not recwarn.list


def test_odd_segments_are_warned_of_once_for_each_kind():
    segments = [
        Segment(5, 6, "", "late"),
        Segment(0, 2, "", "first"),
        Segment(1, 3, "", "overlapping"),
        Segment(4, 4, "", "zero"),
        Segment(4.5, 4.504, "", "next to nothing"),
        Segment(9, 12, "", "half beyond"),
        Segment(9.996, 11, "", "begins with the end"),
        Segment(99, 100, "", "beyond"),
    ]
    with pytest.warns(UserWarning, match=".") as caught:
        found = order_segments(segments, 10.0, "talk")
    assert [(s.start, s.end, s.text) for s in found] == [
        (0, 2, "first"),
        (1, 3, "overlapping"),
        (5, 6, "late"),
        (9, 10, "half beyond"),
    ]
    kinds = (
        "2 of its segments last less than 0.01 s",
        "2 of its segments begin after the end",
        "1 of its segments reach beyond",
        "not in the order of time",
    )
    messages = [str(warning.message) for warning in caught]
    for kind in (*kinds, "1 of its segments begin before the one before ends"):
        assert sum(kind in message for message in messages) == 1, kind
    assert len(messages) == 5


def test_segments_of_another_recording_are_an_error():
    with pytest.warns(UserWarning, match="after the end"), pytest.raises(InputError, match="another recording"):
        order_segments([Segment(11, 12)], 10.0, "talk")


def test_milliseconds_are_not_taken_for_seconds():
    with pytest.raises(InputError, match="milliseconds"):
        order_segments([Segment(0, 1500), Segment(1500, 9000)], 9.2, "talk")


def test_a_whisper_file_of_three_hours(tmp_path):
    words = [{"word": "말", "start": 0.0, "end": 0.1}] * 8
    segments = [{"start": n * 2.0, "end": n * 2.0 + 1.5, "text": "말", "words": words} for n in range(5400)]
    (tmp_path / "a.json").write_text(json.dumps({"segments": segments}))
    starts = [segment.start for segment in read_segments(tmp_path / "a.json")]
    np.testing.assert_allclose(starts, np.arange(5400) * 2.0)
