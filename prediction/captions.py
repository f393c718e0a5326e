"""Captions: the cues of SRT and WebVTT, each sentence once where a file shows it again and again.

The reader is our own: pysubs2 takes a line with a damaged time for text and drops `<v Kim>`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
WORD_TIME = re.compile(r"<\d+:\d[\d:.]*>")
HIGHLIGHT = re.compile(r"<(?:u|font\b[^<>]*)>")  # round the word that is spoken: Whisper's, stable-ts's


class Cue(NamedTuple):
    """A cue: its place in the file, start and end as written there, and its lines with their tags."""

    place: str
    start: str
    end: str
    lines: list[str]


def read_captions(content: str, strict: bool = True) -> Iterator[tuple[str, dict[str, str]]]:
    """Place, start, end and text of each sentence of SRT or WebVTT; `strict` as `read_cues` has it."""
    for cue in drop_repeats(read_cues(content, strict), has_word_times=bool(WORD_TIME.search(content))):
        yield cue.place, {"start": cue.start, "end": cue.end, "text": " ".join(cue.lines)}


def read_cues(content: str, strict: bool) -> list[Cue]:
    """The cues of SRT or WebVTT: a line of times, then lines of text up to an empty one.

    Between them `strict` admits only numbers; otherwise notes, styles and names of cues are left out.
    """
    cues, text = [], None  # the text of the cue that is being read
    for number, line in enumerate(content.splitlines(), start=1):
        if "-->" in line:
            if text and text[-1].isdecimal():
                text.pop()  # the number of this cue, without an empty line before it
            start, _, after = line.partition("-->")
            text = []
            cues.append(Cue(f"line {number}", start, (after.split() or [""])[0], text))  # WebVTT's settings follow
        elif not line:
            text = None
        elif text is not None:
            text.append(line.strip())  # a line of white space is padding
        elif strict and line.strip() and not line.strip().isdecimal():
            raise ValueError(f"line {number}: {line[:60]!r}, expected a number, or 00:00:01,000 --> 00:00:02,500")
    return cues


def drop_repeats(cues: list[Cue], has_word_times: bool) -> list[Cue]:
    """The cues without what they repeat, in two ways of showing a sentence that is being spoken.

    Rolling captions (yt-dlp's of YouTube): a cue begins with the lines on which the one before it ends. These go.
    Highlights (`--highlight_words`): a cue for each word, all with the whole sentence, are one cue.
    """
    plain = [[TAG.sub("", line).strip() for line in cue.lines] for cue in cues]
    carried = [0, *(overlap(before, lines) for before, lines in itertools.pairwise(plain))]
    rolls = [n > 0 for n, lines in zip(carried, plain, strict=False) if sum(map(bool, lines)) > 1]
    is_padded = any("" in lines for lines in plain)
    is_rolling = sum(rolls) > max(1, len(rolls) / 2) or (has_word_times and (is_padded or any(rolls)))
    found, highlighted = [], -1
    for row, (cue, lines) in enumerate(zip(cues, plain, strict=True)):
        match = HIGHLIGHT.search(" ".join(cue.lines))
        position, last = match.start() if match else -1, highlighted
        highlighted = position
        if row and lines == plain[row - 1] and (position > last if match else last >= 0):
            found[-1] = found[-1]._replace(end=cue.end)
            highlighted = max(position, last)
        elif not is_rolling:
            found.append(cue)
        elif any(lines[carried[row] :]):
            found.append(cue._replace(lines=cue.lines[carried[row] :]))
    return found


def overlap(before: list[str], lines: list[str]) -> int:
    """The number of lines on which `before`, without padding at its end, ends and with which `lines` begin."""
    while before and not before[-1]:
        before = before[:-1]
    return next((n for n in range(min(len(before), len(lines)), 0, -1) if before[-n:] == lines[:n]), 0)
