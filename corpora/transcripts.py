"""Transcripts: reading their files and removing their markup."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from corpora.problems import COUNTS_AS_ZEROS, file_problems
from corpora.wavs import find_files, first_of_each, raw_folder
from utils import InputError, count, decode

# Breath b, laughter l, noise n or N, o, u, c, s: a letter and a slash, or several in a row. Also with the slash in
# front, or without the last slash. A letter at the end of a Latin word (`on/off`) is no mark; after `BTS` or `6` it is.
_MARK = re.compile(
    r"/?(?:(?<![a-z])[blnoucs]/|(?<![A-Za-z])N/)+(?:[blnoucsN](?![A-Za-z0-9]))?|(?<![A-Za-z0-9])/[blnoucsN](?![A-Za-z0-9])"
)
_PARENTHESES = re.compile(r"\(([^()]*)\)")

# Tags and sound labels of recognisers, captions and other corpora. Tags may be within a word
_TAG = re.compile(
    r"</?(?:[bcipsuv]|em|strong|font|span|ruby|rt|lang)(?:[ .][^<>]*)?>|<\d[\d:.]*>|\{\\[^{}]*\}", re.IGNORECASE
)
_SOUND = (
    "(?:(?:코?웃음|박수|박수갈채|배경 ?음악|음악|한숨|기침|재채기|울음|흐느낌|환호|비명|휘파람|소음|잡음|숨)(?: ?소리)?"
    "|웃으며|울며|침묵|무음|laugh(?:s|ter|ing)?|music|applau(?:se|ding)|clap(?:s|ping)?|cough(?:s|ing)?|sigh(?:s|ing)?"
    "|sob(?:s|bing)?|crying|scream(?:s|ing)?|singing|clearing|breath(?:s|ing)?|noise|silence|blank_audio|inaudible)"
)
_EVENT = re.compile(
    r"<\|[^<>|]*\|>|</?(?:unk|pad|sil|br ?/?)>"  # of Whisper and SenseVoice
    rf"|[(<]\s*{_SOUND}\s*[)>]"  # in parentheses only alone: KEMDy has words there
    rf"|[\[{{【](?:[^\[\]{{}}【】]*\s)?(?:{_SOUND}|[^\s\[\]{{}}【】]*소리)\s*[\]}}】]"
    "|[\u2669-\u266c\U0001f300-\U0001faff]",  # music notes, and SenseVoice's emoji
    re.IGNORECASE,
)
_PAIR = re.compile(r"\(([^()]*)\)\s*/\s*\([^()]*\)")  # of spelling and pronunciation


def clean_transcript(text: str) -> str:
    """A transcript without its markup, on one line.

    Removed are marks of noise (`b/`, `l/`, `n/`, ..., also `/n`), `*`, `"`, and the parentheses and the plus of `(A+B)`
    and `(A)`, but not their words. White space becomes one space. Latin letters and digits that are spoken (`BTS가`,
    `QR코드`, `112에`) and `. ? ! ,` are kept.

    Tokens, tags and sound labels of recognisers and captions are removed, and the pronunciation in `(3시)/(세 시)`
    (see `other_marks`). The result is in composed letters (NFC).
    """
    text = _EVENT.sub(" ", _TAG.sub("", unicodedata.normalize("NFC", text)))
    text = _MARK.sub("", _PAIR.sub(r"\1", text))
    for _ in range(8):  # the innermost pairs first; 8 levels are enough
        text = _PARENTHESES.sub(lambda overlap: overlap[1].replace("+", " "), text)
    return " ".join(re.sub(r'[()*"\ufeff]', "", text).split())


def other_marks(text: str) -> list[str]:
    """The marks in a transcript that KEMDy does not use."""
    text = unicodedata.normalize("NFC", text)
    return [found[0] for pattern in (_TAG, _EVENT, _PAIR) for found in pattern.finditer(text)]


def clean_transcripts(texts: Sequence[str]) -> list[str]:
    """`clean_transcript` of each text; warns of marks that KEMDy does not use."""
    if marked := [marks[0] for marks in map(other_marks, texts) if marks]:
        n = f"{len(marked)} of {count(len(texts), 'transcript')}"
        what = "with tags, sound labels or pronunciations, which are removed"
        warnings.warn(f"{n} {what}; first: {marked[0]}", stacklevel=4)
    return [clean_transcript(text) for text in texts]


def read_transcripts(data_path: Path, ids: Sequence[str]) -> tuple[dict[str, str], pd.DataFrame]:
    """Transcripts with their markup, by segment id, from the readable `.txt` files below `wav`; and problems.

    `wav` is in `data_path`, or in the raw corpus that `preprocessing.py --out` read.
    """
    files = find_files(raw_folder(data_path) / "wav", ".txt")
    paths, problems = first_of_each(files, ids, "transcript")
    transcripts = {}
    for segment in tqdm(ids, desc="reading transcripts", unit="file"):
        path = paths.get(segment)
        if path is None:
            problems.append((data_path / "wav", segment, "missing transcript", "", COUNTS_AS_ZEROS))
            continue
        try:
            text = decode(path.read_bytes(), path)
        except InputError:
            problems.append((path, segment, "transcript not in UTF-8 or CP949", "", COUNTS_AS_ZEROS))
            continue
        transcripts[segment] = text
        if marks := other_marks(text):
            done = "removed; of spelling and pronunciation the spelling is kept"
            problems.append((path, segment, "transcript with tags, sound labels or pronunciations", marks[0], done))
        if not clean_transcript(text):
            what = "transcript empty after cleaning" if text.strip() else "empty transcript"
            problems.append((path, segment, what, text.strip(), "embedded as an empty sentence"))
    return transcripts, file_problems(data_path, problems)
