"""Segments: times, speakers and texts of the utterances in a recording, from a transcript file.

Each file format has a reader that yields fields; times, speakers and texts are parsed in the same way for all.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from prediction.captions import TAG, read_captions
from utils import InputError, count, decode

SHORTEST = 0.01  # s; a shorter segment is left out
WINDOW = 30.0  # s, Whisper's window: the maximum length of its last segment, which may have no end
LONG = 100  # integer times are milliseconds if the median length of the segments exceeds this
MAX_INVALID = 0.05  # share of the segments that may have invalid times
TIME = re.compile(r"(-?)(?:(?:(\d+):)?(\d+):)?(\d+(?:[.,]\d*)?)")
LABEL = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>|\[([^\[\]]+)\]:")  # speakers in WebVTT and WhisperX
NAME = re.compile(r"([^\W\d_][\w()-]*(?: [\w()-]+){0,2}) ?[:：](?:\s+(?=\S)|(?=[^\W\d_]))")  # names typed by people
FIELDS = {"starttime": "start", "endtime": "end", "speakerno": "speaker"}  # AI Hub's
FIELDS |= {"tmin": "start", "tmax": "end", "tier": "speaker"}  # Praat's
LISTS = ("segments", "chunks", "transcription", "conversation")  # keys of the segments in a JSON file

Rows = Iterator[tuple[str, dict[str, Any]]]  # place in the file; start, end, speaker and text as written


def read_segments(path: Path, duration: float = math.inf) -> pd.DataFrame:
    """The segments of a transcript in file order; `duration` (s) of the recording helps to detect milliseconds.

    Columns: `start` and `end` (s; NaN if invalid), `speaker` and `text` ("" if the file has none). The index has the
    place of each segment in the file, and its times as written. Raises `InputError` if the file cannot be read or has
    no segment.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        others = "see docs/prediction.md to convert other formats"
        raise InputError(f"{path}: not a transcript in a supported format ({', '.join(READERS)}); {others}")
    try:
        rows = dict(READERS[suffix](decode(path.read_bytes(), path)))
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    if not rows:
        raise InputError(f"{path}: no segments in this transcript")
    fields = pd.DataFrame([*rows.values()], columns=["start", "end", "speaker", "text"], dtype=object)
    written, table = (fields[["start", "end"]].map(read) for read in (read_text, parse_time))
    is_whole = written.map(lambda text: text.lstrip("-").isdecimal()) | table.isna()
    is_beyond = math.isinf(duration) or table["end"].max() > duration
    if is_whole.all(axis=None) and is_beyond and (table["end"] - table["start"]).median() > LONG:
        warnings.warn(f"{path}: times up to {table['end'].max():.0f} are read as milliseconds", stacklevel=2)
        table /= 1000
    table["speaker"], table["text"] = zip(*name_speakers(fields["speaker"], fields["text"]), strict=True)
    table.index = [f"{place}, {a:.20} to {b:.20}" for place, (a, b) in zip(rows, written.values, strict=True)]
    return table


def parse_time(value: Any) -> float:
    """Seconds from 62.5, "62,5", "1,234.5", "01:02.5" or "00:01:02,500", also negative; NaN otherwise."""
    text = f"{value:.6f}" if isinstance(value, float) else str(value).strip()
    match = TIME.fullmatch(re.sub(r",(?=\d{3}[,.])", "", text))
    if match is None:
        return math.nan
    hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in match.groups()[1:])
    time = 3600 * hours + 60 * minutes + seconds
    is_time = (match[3] is None or seconds < 60) and (match[2] is None or minutes < 60) and math.isfinite(time)
    return time * (-1 if match[1] else 1) if is_time else math.nan


def read_text(value: Any) -> str:
    """A field on one line, "" for null and NaN."""
    return "" if value is None or value != value else " ".join(str(value).split())


def name_speakers(speakers: Iterable[Any], texts: Iterable[Any]) -> list[tuple[str, str]]:
    """Speaker ("" if unknown) and words, without caption tags, of each segment of a dialogue.

    A speaker is a name, a number, or an object such as CLOVA's `{"label": "1", "name": "Kim"}`. Otherwise the text may
    name the speaker: `[Kim]: word` or `<v Kim>word</v>`. If no segment has a speaker, `Kim: word` is also accepted if
    the name occurs twice or most texts begin with a name.
    """
    found = []
    for speaker, text in zip(speakers, map(read_text, texts), strict=True):
        if isinstance(speaker, dict):
            speaker = speaker.get("name") or speaker.get("label")
        match = LABEL.match(text)
        words = html.unescape(TAG.sub("", text[match.end() :] if match else text)).strip()
        found.append((read_text(speaker) or read_text(match and (match[1] or match[2])), words))
    if any(speaker for speaker, _ in found):
        return found
    names = [NAME.match(words) for _, words in found]
    counts = Counter(match[1] for match in names if match)
    are_most = 1 < counts.total() > sum(words != "" for _, words in found) / 2
    return [
        (name[1], words[name.end() :]) if name and (are_most or counts[name[1]] > 1) else ("", words)
        for name, (_, words) in zip(names, found, strict=True)
    ]


def read_json(content: str) -> Rows:
    """JSON of Whisper, WhisperX, CLOVA, transformers, whisper.cpp or AI Hub; or a list of segments."""
    data = json.loads(content)
    lists = {name.lower(): found for name, found in data.items()} if isinstance(data, dict) else {"segments": data}
    kind = next((name for name in LISTS if name in lists), "segments")
    segments = lists.get(kind)
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise ValueError(f"expected a list of objects named {' or '.join(LISTS)}")
    for number, segment in enumerate(segments):
        fields = {FIELDS.get(name.lower(), name.lower()): found for name, found in segment.items()}
        if kind == "chunks" and isinstance(times := fields.get("timestamp"), list) and len(times) == 2:
            is_open = times[1] is None and number == len(segments) - 1
            fields |= {"start": times[0], "end": parse_time(times[0]) + WINDOW if is_open else times[1]}
        elif kind == "transcription" and isinstance(times := fields.get("offsets"), dict):
            fields |= {"start": parse_time(times.get("from")) / 1000, "end": parse_time(times.get("to")) / 1000}
        yield f"{kind}[{number}]", fields


def read_table(content: str) -> Rows:
    """A table with the columns start and end, and optional speaker and text, in any order."""
    first = content.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)  # spreadsheets may use semicolons
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL  # Whisper's TSV is not quoted
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    rows.fieldnames = [FIELDS.get(name, name) for name in map(str.lower, map(str.strip, rows.fieldnames or []))]
    if not {"start", "end"} <= {*rows.fieldnames}:
        raise ValueError(f"line 1: {first.strip()[:60]!r}, expected columns such as start,end,speaker,text")
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"line {rows.line_num}: expected {len(rows.fieldnames)} columns")
        if "".join(row.values()).strip():
            yield f"line {rows.line_num}", row


READERS = {".json": read_json, ".csv": read_table, ".tsv": read_table}
READERS |= {".srt": read_captions, ".vtt": partial(read_captions, strict=False)}


def fit_to_recording(segments: pd.DataFrame, duration: float, name: str | Path) -> pd.DataFrame:
    """The segments within a recording of `duration` s, sorted by start, with one warning per kind of problem.

    Segments are cut at the end of the recording. Segments with invalid times and empty segments are left out. Raises
    `InputError`, with `name`, if more than one segment and over 5% have invalid times, or no segment is left.
    """
    found = []

    def describe(affected: pd.Series, what: str) -> None:
        places = segments.index[segments.index.isin(affected.index[affected])]
        found.extend([f"{count(len(places), 'segment')} {what}; first: {places[0]}"] if len(places) else [])

    is_cut = (segments["start"] < duration) & (segments["end"] > duration + WINDOW)
    describe(is_cut, f"ending more than {WINDOW:.0f} s after the recording, cut at its end")
    segments = segments.assign(end=segments["end"].clip(upper=duration))
    invalid = ~(segments["start"].between(0, duration, inclusive="left") & (segments["start"] <= segments["end"]))
    describe(invalid, "with invalid times (missing, negative, reversed, after the end of the recording), left out")
    is_empty = ~invalid & (segments["end"] - segments["start"] < SHORTEST)
    describe(is_empty, f"under {SHORTEST} s, left out")
    ordered = segments[~invalid & ~is_empty].sort_values(["start", "end"], kind="stable")
    if invalid.sum() > max(1, MAX_INVALID * len(invalid)) or ordered.empty:
        advice = f"at most {MAX_INVALID:.0%} of {len(invalid)} may be invalid; correct them or check the recording"
        raise InputError(f"{name}: {'; '.join([*found, advice])}")
    describe(ordered["start"] < ordered["end"].shift(), "overlapping the previous one, with audio of both speakers")
    for line in found:
        warnings.warn(f"{name}: {line}", stacklevel=2)
    return ordered.reset_index(drop=True)
