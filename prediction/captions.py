"""Captions: the cues of SRT and WebVTT, without the repetitions of rolling captions.

pysubs2 is not used: it reads a line with a damaged time as text and drops `<v Kim>`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
WORD_TIME = re.compile(r"<\d+:\d[\d:.]*>")
HIGHLIGHT = re.compile(r"<(?:u|font\b[^<>]*)>")  # marks the spoken word: Whisper, stable-ts

Cue = tuple[str, str, str, list[str]]  # place in the file; start, end and lines as written


def read_captions(content: str, strict: bool = True) -> Iterator[tuple[str, dict[str, str]]]:
    """Place, start, end and text of each sentence of SRT or WebVTT; `strict` as in `read_cues`."""
    for place, start, end, lines in drop_repeats(read_cues(content, strict), bool(WORD_TIME.search(content))):
        yield place, {"start": start, "end": end, "text": " ".join(lines)}


def read_cues(content: str, strict: bool) -> list[Cue]:
    """The cues of SRT or WebVTT: a line of times, then lines of text up to an empty line.

    Between cues, `strict` accepts only numbers; otherwise notes, styles and cue names are left out.
    """
    cues, text = [], None  # the text of the cue that is being read
    for number, line in enumerate(content.splitlines(), start=1):
        if "-->" in line:
            if text and text[-1].isdecimal():
                text.pop()  # the number of the next cue, without an empty line before it
            start, _, after = line.partition("-->")
            text = []
            cues.append((f"line {number}", start, (after.split() or [""])[0], text))  # without WebVTT's settings
        elif not line:
            text = None
        elif text is not None:
            text.append(line.strip())  # a line of white space is empty
        elif strict and line.strip() and not line.strip().isdecimal():
            raise ValueError(f"line {number}: {line[:60]!r}, expected a cue number or 00:00:01,000 --> 00:00:02,500")
    return cues


def drop_repeats(cues: list[Cue], has_word_times: bool) -> list[Cue]:
    """The cues without repeated sentences.

    Rolling captions (YouTube's, from yt-dlp): a cue begins with the last lines of the previous cue, which are removed.
    Highlights (`--highlight_words`): one cue per word, each with the whole sentence, are merged to one cue.
    """
    plain = [[TAG.sub("", line).strip() for line in lines] for *_, lines in cues]
    carried = [0, *(overlap(before, lines) for before, lines in itertools.pairwise(plain))]
    rolls = [n > 0 for n, lines in zip(carried, plain, strict=False) if sum(map(bool, lines)) > 1]
    is_padded = any("" in lines for lines in plain)
    is_rolling = sum(rolls) > max(1, len(rolls) / 2) or (has_word_times and (is_padded or any(rolls)))
    found, highlighted = [], -1  # position of the highlighted word in its sentence
    for row, (place, start, end, lines) in enumerate(cues):
        match, last = HIGHLIGHT.search(" ".join(lines)), highlighted
        highlighted = match.start() if match else -1
        if row and plain[row] == plain[row - 1] and (highlighted > last if match else last >= 0):
            found[-1] = (*found[-1][:2], end, found[-1][3])
            highlighted = max(highlighted, last)
        elif not is_rolling or any(plain[row][carried[row] :]):
            found.append((place, start, end, lines[carried[row] if is_rolling else 0 :]))
    return found


def overlap(before: list[str], lines: list[str]) -> int:
    """The number of last lines of `before`, without empty ones, that are the first of `lines`."""
    while before and not before[-1]:
        before = before[:-1]
    return next((n for n in range(min(len(before), len(lines)), 0, -1) if before[-n:] == lines[:n]), 0)
