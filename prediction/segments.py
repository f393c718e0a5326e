"""Segments: who says what and when in a recording, read from the files that people have.

SRT and WebVTT have a reader of our own: of the libraries, pysubs2 takes a line with a damaged time for text, and
webvtt-py leaves out empty and damaged cues of an SRT, so that rows would be wrong or lacking; neither says
which line it is.
"""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from utils import MAX_TABLE_BYTES, InputError, decode, read_bounded

MAX_SEGMENTS = 100_000  # speech of a week
SHORTEST = 0.01  # s: in less there is nothing to hear
OVERRUN = 0.5  # s by which a last segment may exceed the sound without a word: transcribers round up


class Segment(NamedTuple):
    """A stretch of a recording in which somebody speaks.

    start, end : s from the start of the recording
    speaker : "" where the file names none
    text : None where there is none
    """

    start: float
    end: float
    speaker: str = ""
    text: str | None = None


# Times and texts

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
_SECONDS = re.compile(r"\d+(?:[.,]\d*)?|[.,]\d+")
_SPEAKER = re.compile(r"\[([^\[\]]+)\]:\s*")  # how WhisperX writes a speaker into SRT and WebVTT
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")  # how WebVTT does
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&nbsp;": " ", "&lrm;": "", "&rlm;": "", "&amp;": "&"}  # WebVTT's; & last


def parse_time(value: str) -> float:
    """Seconds of a time such as `62.5`, `01:02.5` or `00:01:02,500`; raises `ValueError` for anything else."""
    value = value.strip()
    if match := _CLOCK.fullmatch(value):
        hours, minutes, seconds = int(match[1] or 0), int(match[2]), float(match[3].replace(",", "."))
        if seconds < 60 and (minutes < 60 or match[1] is None):
            return 3600 * hours + 60 * minutes + seconds
    elif _SECONDS.fullmatch(value):
        return float(value.replace(",", "."))
    raise ValueError(f"the time {value[:40]!r}, expected seconds such as 62.345, or 00:01:02.345")


def make_segment(start: Any, end: Any, speaker: Any, text: Any) -> Segment:
    """A segment of what a file holds; raises `ValueError` where that is no time, or runs backwards."""
    times = []
    for value in (start, end):
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"the time {value!r}, expected seconds such as 62.345")
        times.append(parse_time(str(value) if isinstance(value, str) else f"{value:.6f}"))
    if times[1] < times[0]:
        raise ValueError(f"an end at {times[1]:g} s before the start at {times[0]:g} s")
    return Segment(*times, plain(speaker) or "", plain(text) or None)


def plain(text: Any) -> str:
    """A text on one line, "" for None; raises `ValueError` for a number or a list.

    Half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a question mark.
    """
    if not isinstance(text, str | None):
        raise ValueError(f"{text!r:.40}, expected a text")
    return " ".join((text or "").split()).encode("utf-8", "replace").decode()


# Files


def read_segments(path: Path) -> list[Segment]:
    """The segments of a JSON file of Whisper or WhisperX, an SRT, WebVTT, CSV or TSV file, in the file's order.

    Raises
    ------
    InputError : it cannot be read, holds no segment, or one that is no such; the message says in which line
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: segments are read from {', '.join(READERS)}; export them as one of these")
    try:
        content = decode(read_bounded(path, MAX_TABLE_BYTES), path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; --segments is the transcript with times") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    segments = []
    for place, fields in reader(path, content):
        try:
            segments.append(make_segment(*fields))
        except ValueError as error:
            raise InputError(f"{path}, {place}: {error}") from error
    if not segments:
        raise InputError(f"{path}: holds no segment; is the transcript empty?")
    if len(segments) > MAX_SEGMENTS:
        raise InputError(f"{path}: {len(segments)} segments, expected at most {MAX_SEGMENTS}; is it the right file?")
    return segments


Rows = Iterator[tuple[str, tuple[Any, Any, Any, Any]]]  # place in the file; start, end, speaker and text


def read_whisper(path: Path, content: str) -> Rows:
    """`{"segments": [{"start": 0.0, "end": 1.5, "text": "...", "speaker": "..."}]}`, or the list alone."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    segments = data.get("segments") if isinstance(data, dict) else data
    if not isinstance(segments, list):
        raise InputError(f"{path}: has no list 'segments', expected the JSON that Whisper or WhisperX writes")
    for number, segment in enumerate(segments):
        place = f"segments[{number}]"
        if not isinstance(segment, dict) or not {"start", "end"} <= segment.keys():
            raise InputError(f"{path}, {place}: expected an object with start, end, and perhaps text and speaker")
        yield place, (segment["start"], segment["end"], segment.get("speaker"), segment.get("text"))


def read_table(path: Path, content: str) -> Rows:
    """A table with the columns start and end, and perhaps speaker and text, in any order among others."""
    first = content.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)  # a spreadsheet's CSV may have semicolons
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        if missing := [name for name in ("start", "end") if names.count(name) != 1]:
            raise InputError(
                f"{path}, line 1: no column {missing[0]}; expected a first line such as start,end,speaker,text, found "
                f"{first.strip()[:60]!r}"
            )
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            place = f"line {rows.line_num}"
            if len(row) != len(names):
                raise InputError(f"{path}, {place}: {len(row)} columns, expected {len(names)}: {', '.join(names)}")
            cells = dict(zip(names, row, strict=True))
            yield place, (cells["start"], cells["end"], cells.get("speaker"), cells.get("text"))
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: not readable as a table ({error})") from error


def read_srt(path: Path, content: str) -> Rows:
    """SRT: a number, a line of times, lines of text, an empty line."""
    yield from read_cues(path, content.splitlines(), 0, strict=True)


def read_vtt(path: Path, content: str) -> Rows:
    """WebVTT: `WEBVTT`, then cues that may have a name; notes and styles are left out."""
    lines = content.splitlines()
    if not lines or not re.match(r"WEBVTT(\s|$)", lines[0]):
        raise InputError(f"{path}, line 1: {(lines or [''])[0][:40]!r}, expected WEBVTT")
    for place, (start, end, speaker, text) in read_cues(path, lines, 1, strict=False):
        for entity, character in _ENTITIES.items():
            text = text.replace(entity, character)
        yield place, (start, end, speaker, text)


def read_cues(path: Path, lines: Sequence[str], number: int, strict: bool) -> Rows:
    """The cues of SRT or WebVTT from line `number` (from 0) on; `strict` admits nothing but numbers between them."""
    while number < len(lines):
        line, place = lines[number].strip(), f"line {number + 1}"
        number += 1
        if "-->" not in line:
            if strict and line and not line.isdecimal():
                raise InputError(
                    f"{path}, {place}: {line[:60]!r} between two segments, expected a number, or times such as "
                    "00:00:01,000 --> 00:00:02,500"
                )
            continue
        start, _, after = line.partition("-->")
        end = (after.split() or [""])[0]  # WebVTT's settings follow it
        text = []
        while number < len(lines) and lines[number].strip() and "-->" not in lines[number]:
            text.append(lines[number].strip())
            number += 1
        if number < len(lines) and "-->" in lines[number] and text and text[-1].isdecimal():
            text.pop()  # the number of the next one, where no empty line is between them
        yield place, (start, end, *split_speaker(" ".join(text)))


def split_speaker(text: str) -> tuple[str, str]:
    """Speaker and words of a cue: `<v Kim>word</v>`, `[SPEAKER_00]: word` or `word`, without tags."""
    voice = _VOICE.match(text.lstrip())
    text = _TAG.sub("", text).strip()
    if voice:
        return voice[1], text
    return split_name(text)


def split_name(text: str) -> tuple[str, str]:
    """Speaker and words of `[SPEAKER_00]: word`; "" and the text of any other."""
    named = _SPEAKER.match(text)
    return (named[1], text[named.end() :]) if named else ("", text)


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".json": read_whisper,
    ".srt": read_srt,
    ".vtt": read_vtt,
    ".csv": read_table,
    ".tsv": read_table,
}


# Against the recording


def order_segments(segments: Sequence[Segment], duration: float, name: str) -> list[Segment]:
    """The segments that hold sound, by their start; one warning for each kind of odd ones.

    Segments without length (under `SHORTEST`), or beyond the end of the sound, are left out; those that reach beyond it
    end there.

    Parameters
    ----------
    duration : of the recording, s
    name : of the file, for messages

    Raises
    ------
    InputError : no segment is left, or the times are milliseconds
    """
    last = max(segment.end for segment in segments)
    whole = all(segment.start % 1 == segment.end % 1 == 0 for segment in segments)
    if whole and last > 10 * duration and last / 1000 < duration + OVERRUN:
        raise InputError(
            f"{name}: a segment ends at {last:g}, the sound after {duration:.1f} s; are these milliseconds, as in "
            "Whisper's TSV? Give its JSON, SRT or VTT"
        )
    kept = [segment for segment in segments if segment.end - segment.start >= SHORTEST]
    warn_of(name, len(segments) - len(kept), f"last less than {SHORTEST:g} s and are left out")
    inside = [segment for segment in kept if segment.start <= duration - SHORTEST]
    warn_of(name, len(kept) - len(inside), f"begin after the end of the sound at {duration:.2f} s and are left out")
    if not inside:
        raise InputError(f"{name}: no segment lies in the {duration:.2f} s of sound; is it of another recording?")
    over = sum(segment.end > duration + OVERRUN for segment in inside)
    warn_of(name, over, f"reach beyond the end of the sound at {duration:.2f} s and are taken to end there")
    inside = [segment._replace(end=min(segment.end, duration)) for segment in inside]
    ordered = sorted(inside, key=lambda segment: (segment.start, segment.end))
    warn_of(name, sum(a != b for a, b in zip(inside, ordered, strict=True)), "are not in the order of time; sorted")
    overlapping = sum(b.start < a.end for a, b in pairwise(ordered))
    warn_of(name, overlapping, "begin before the one before ends: the model hears both speakers in them")
    return ordered


def warn_of(name: str, count: int, what: str) -> None:
    """Warn of `count` segments, if there are any."""
    if count:
        warnings.warn(f"{name}: {count} of its segments {what}", stacklevel=3)
