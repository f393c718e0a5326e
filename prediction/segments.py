"""Segments: who says what and when in a recording, from the transcripts that Whisper, WhisperX and people write.

SRT and WebVTT have a reader of our own: pysubs2 takes a line with a damaged time for text and drops `<v Kim>`.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from utils import InputError, count, decode

SHORTEST = 0.01  # s; a shorter segment is left out
OVERRUN = 0.5  # s by which a segment may exceed the recording without a warning: transcribers round up
TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:[.,]\d*)?)")
SPEAKER = re.compile(r"(?:<v(?:\.[^\s>]*)?\s+([^>]+)>|\[([^\[\]]+)\]:)?")  # as WebVTT and WhisperX name one
TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")

Rows = Iterator[tuple[str, dict[str, Any]]]  # place in the file; start, end, speaker and text as the file has them


def read_segments(path: Path) -> pd.DataFrame:
    """The segments of a transcript in the file's order: JSON of Whisper or WhisperX, SRT, WebVTT, CSV or TSV.

    Returns
    -------
    DataFrame of `start` and `end` (s), `speaker` and `text` ("" where the file has none)

    Raises
    ------
    InputError : the file cannot be read or has no segment, or one with a wrong time; the message names its place
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        kinds = ", ".join(READERS)
        raise InputError(f"{path}: not a transcript ({kinds}), nor a folder; a recording needs one as --segments")
    segments = []
    try:
        for place, fields in reader(decode(path.read_bytes(), path)):
            start, end = (parse_time(fields.get(name), place) for name in ("start", "end"))
            if end < start:
                raise ValueError(f"{place}: ends at {end:g} s, before its start at {start:g} s")
            speaker, text = (" ".join(str(fields.get(name) or "").split()) for name in ("speaker", "text"))
            segments.append((start, end, speaker, text))
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: {error}") from error
    if not segments:
        raise InputError(f"{path}: no segment; is the transcript empty?")
    return pd.DataFrame(segments, columns=["start", "end", "speaker", "text"])


def parse_time(value: Any, place: str) -> float:
    """Seconds of 62.5, "62,5", "01:02.5" or "00:01:02,500"; for anything else a `ValueError` that names the place."""
    text = f"{value:.6f}" if isinstance(value, float) else str(value).strip()
    if match := TIME.fullmatch(text):
        hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in match.groups())
        if (match[2] is None or seconds < 60) and (match[1] is None or minutes < 60):
            return 3600 * hours + 60 * minutes + seconds
    raise ValueError(f"{place}: the time {text[:40]!r}, expected seconds such as 62.345, or 00:01:02.345")


def split_speaker(text: str) -> tuple[str, str]:
    """Speaker ("" if none is named) and words, without tags, of `<v Kim>word</v>`, `[Kim]: word` or `word`."""
    match = SPEAKER.match(text)
    return match[1] or match[2] or "", TAG.sub("", text[match.end() :]).strip()


def read_whisper(content: str) -> Rows:
    """`{"segments": [{"start": 0.0, "end": 1.5, "text": "...", "speaker": "..."}]}`, or the list alone."""
    data = json.loads(content)
    segments = data.get("segments") if isinstance(data, dict) else data
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise ValueError("expected a list 'segments' of objects, as in the JSON of Whisper or WhisperX")
    for number, segment in enumerate(segments):
        yield f"segments[{number}]", segment


def read_table(content: str) -> Rows:
    """A table with the columns start and end, and perhaps speaker and text, in any order among others."""
    first = content.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)  # a spreadsheet's CSV may have semicolons
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or []]
    if not {"start", "end"} <= {*rows.fieldnames}:
        raise ValueError(f"line 1: {first.strip()[:60]!r}, expected columns such as start,end,speaker,text")
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"line {rows.line_num}: expected {len(rows.fieldnames)} columns")
        if "".join(row.values()).strip():
            yield f"line {rows.line_num}", row


def read_cues(content: str, strict: bool = True) -> Rows:
    """The cues of SRT or WebVTT: a line of times, lines of text.

    Between them `strict` admits only numbers; otherwise notes, styles and names of cues are left out.
    """
    cues, text = [], None  # the text of the cue that is being read
    for number, line in enumerate(map(str.strip, content.splitlines()), start=1):
        if "-->" in line:
            if text and text[-1].isdecimal():
                text.pop()  # the number of this cue, without an empty line before it
            start, _, after = line.partition("-->")
            end, text = (after.split() or [""])[0], []  # WebVTT's settings follow the end
            cues.append((f"line {number}", {"start": start, "end": end}, text))
        elif not line:
            text = None
        elif text is not None:
            text.append(line)
        elif strict and not line.isdecimal():
            raise ValueError(f"line {number}: {line[:60]!r}, expected a number, or 00:00:01,000 --> 00:00:02,500")
    for place, times, text in cues:
        speaker, words = split_speaker(" ".join(text))
        yield place, times | {"speaker": speaker, "text": html.unescape(words)}


READERS = {".json": read_whisper, ".csv": read_table, ".tsv": read_table}
READERS |= {".srt": read_cues, ".vtt": partial(read_cues, strict=False)}


def fit_to_recording(segments: pd.DataFrame, duration: float, name: str | Path) -> pd.DataFrame:
    """The segments that lie in a recording of `duration` s, sorted by start; one warning per kind of odd segments.

    Those that reach beyond the end of the recording are cut; those of which nothing is left are left out.
    Raises `InputError`, which begins with `name`, where no segment is left or the times are milliseconds.
    """

    def warn(odd: Sequence[bool], what: str) -> None:
        if any(odd):
            warnings.warn(f"{name}: {count(int(sum(odd)), 'segment')} {what}", stacklevel=3)

    times = segments[["start", "end"]].to_numpy()
    if (times % 1 == 0).all() and times.max() > 10 * duration:
        raise InputError(f"{name}: times beyond {duration:.1f} s; for milliseconds, as in Whisper's TSV, give its JSON")
    inside = segments.assign(end=segments["end"].clip(upper=duration))
    inside = inside[inside["end"] - inside["start"] >= SHORTEST]
    warn(~segments.index.isin(inside.index), "empty, or after the end of the recording, left out")
    if inside.empty:
        raise InputError(f"{name}: no segment within the {duration:.2f} s of the recording; is it of another one?")
    warn(segments["end"][inside.index] > duration + OVERRUN, f"cut at the end of the recording at {duration:.2f} s")
    ordered = inside.sort_values(["start", "end"], kind="stable")
    warn(ordered.index != inside.index, "not in the order of time, sorted")
    warn(ordered["start"] < ordered["end"].shift(), "overlapping the one before: both speakers are heard in them")
    return ordered.reset_index(drop=True)
