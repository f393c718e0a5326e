"""Segments: who says what and when in a recording, from the transcripts that recognisers and people write.

A reader for each kind of file gives fields; times, speakers and texts are read from them in one way for all.
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
WINDOW = 30.0  # s that Whisper reads at a time: its last segment, where it has no end, is not longer
LONG = 100  # whole numbers by which more than half of the segments are longer than this are milliseconds
MAX_ODD = 0.05  # share of the segments that may have times that cannot be used
TIME = re.compile(r"(-?)(?:(?:(\d+):)?(\d+):)?(\d+(?:[.,]\d*)?)")
LABEL = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>|\[([^\[\]]+)\]:")  # as WebVTT and WhisperX name a speaker
NAME = re.compile(r"([^\W\d_][\w()-]*(?: [\w()-]+){0,2}) ?[:：](?:\s+(?=\S)|(?=[^\W\d_]))")  # as people do
FIELDS = {"starttime": "start", "endtime": "end", "speakerno": "speaker"}  # AI Hub's
FIELDS |= {"tmin": "start", "tmax": "end", "tier": "speaker"}  # Praat's
LISTS = ("segments", "chunks", "transcription", "conversation")  # where a JSON file has its segments

Rows = Iterator[tuple[str, dict[str, Any]]]  # place in the file; start, end, speaker and text as the file has them


def read_segments(path: Path, duration: float = math.inf) -> pd.DataFrame:
    """The segments of a transcript in the file's order; `duration` (s) of the recording tells milliseconds from s.

    Columns: `start` and `end` (s; NaN where they cannot be read), `speaker` and `text` ("" where the file has none).
    The index has the place of each in the file, and the times as they stand there. Raises `InputError`, which says
    where, if the file cannot be read or has no segment.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        others = "docs/prediction.md has commands that convert others"
        raise InputError(f"{path}: not a transcript ({', '.join(READERS)}); {others}")
    try:
        rows = dict(READERS[suffix](decode(path.read_bytes(), path)))
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    if not rows:
        raise InputError(f"{path}: no segment; is the transcript empty?")
    fields = pd.DataFrame([*rows.values()], columns=["start", "end", "speaker", "text"], dtype=object)
    written, table = (fields[["start", "end"]].map(read) for read in (read_text, parse_time))
    is_whole = written.map(lambda text: text.lstrip("-").isdecimal()) | table.isna()
    is_beyond = math.isinf(duration) or table["end"].max() > duration
    if is_whole.all(axis=None) and is_beyond and (table["end"] - table["start"]).median() > LONG:
        warnings.warn(f"{path}: times up to {table['end'].max():.0f}, read as milliseconds", stacklevel=2)
        table /= 1000
    table["speaker"], table["text"] = zip(*name_speakers(fields["speaker"], fields["text"]), strict=True)
    table.index = [f"{place}, {a:.20} to {b:.20}" for place, (a, b) in zip(rows, written.values, strict=True)]
    return table


# Fields


def parse_time(value: Any) -> float:
    """Seconds of 62.5, "62,5", "1,234.5", "01:02.5" or "00:01:02,500", also negative; NaN for anything else."""
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
    """Speaker ("" where none is named) and words, without the tags of captions, of each segment of a dialogue.

    A speaker is a name, a number, or an object such as CLOVA's `{"label": "1", "name": "Kim"}`. Where a segment has
    none, its text may name one: `[Kim]: word`, `<v Kim>word</v>`, or `Kim: word` where no segment of the dialogue has
    a speaker otherwise, and the name recurs or most texts begin with one.
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


# Kinds of files


def read_json(content: str) -> Rows:
    """JSON of Whisper, WhisperX, CLOVA, the pipeline of transformers, whisper.cpp or AI Hub; or the list alone."""
    data = json.loads(content)
    lists = {name.lower(): found for name, found in data.items()} if isinstance(data, dict) else {"segments": data}
    kind = next((name for name in LISTS if name in lists), "segments")
    segments = lists.get(kind)
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise ValueError(f"expected a list of objects: {', '.join(LISTS)}, as recognisers or AI Hub name it")
    for number, segment in enumerate(segments):
        fields = {FIELDS.get(name.lower(), name.lower()): found for name, found in segment.items()}
        if kind == "chunks" and isinstance(times := fields.get("timestamp"), list) and len(times) == 2:
            is_open = times[1] is None and number == len(segments) - 1
            fields |= {"start": times[0], "end": parse_time(times[0]) + WINDOW if is_open else times[1]}
        elif kind == "transcription" and isinstance(times := fields.get("offsets"), dict):
            fields |= {"start": parse_time(times.get("from")) / 1000, "end": parse_time(times.get("to")) / 1000}
        yield f"{kind}[{number}]", fields


def read_table(content: str) -> Rows:
    """A table with the columns start and end, and perhaps speaker and text, in any order among others."""
    first = content.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)  # a spreadsheet's CSV may have semicolons
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL  # Whisper's TSV has texts as they are
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


# Against the recording


def fit_to_recording(segments: pd.DataFrame, duration: float, name: str | Path) -> pd.DataFrame:
    """The segments that lie in a recording of `duration` s, sorted by start; one warning per kind of odd segments.

    Those that reach beyond the end of the recording are cut. Those whose times cannot be used are left out, as are
    those that are empty. Raises `InputError`, which begins with `name`, where the former are more than one and over
    5%, or no segment is left.
    """
    found = []

    def describe(odd: pd.Series, what: str) -> None:
        places = segments.index[segments.index.isin(odd.index[odd])]
        found.extend([f"{count(len(places), 'segment')} {what}; first: {places[0]}"] if len(places) else [])

    segments = segments.assign(end=segments["end"].clip(upper=duration))
    odd = ~(segments["start"].between(0, duration, inclusive="left") & (segments["start"] <= segments["end"]))
    describe(odd, "left out: times that are missing, negative, in the wrong order or after the end of the recording")
    is_empty = ~odd & (segments["end"] - segments["start"] < SHORTEST)
    describe(is_empty, "left out, as they are empty")
    ordered = segments[~odd & ~is_empty].sort_values(["start", "end"], kind="stable")
    if odd.sum() > max(1, MAX_ODD * len(odd)) or ordered.empty:
        advice = f"of {len(odd)}, at most {MAX_ODD:.0%} may be odd: correct them, or is it of another recording?"
        raise InputError(f"{name}: {'; '.join([*found, advice])}")
    describe(ordered["start"] < ordered["end"].shift(), "overlapping the one before: both speakers are heard in them")
    for line in found:
        warnings.warn(f"{name}: {line}", stacklevel=2)
    return ordered.reset_index(drop=True)
