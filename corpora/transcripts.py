"""Transcripts: their files, their markup, and what was said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from corpora.problems import COUNTS_AS_ZEROS, file_problems
from corpora.wavs import find_files, first_of_each, raw_folders
from utils import InputError, decode

# Breath b, laughter l, noise n or N, o, u, c, s: the letter and a slash, or a run of them. Also misspelt: the slash in
# front, or the last one lacking. A letter that ends a Latin word is no mark (`on/off`), one after `BTS` or `6` is.
_MARK = re.compile(
    r"/?(?:(?<![a-z])[blnoucs]/|(?<![A-Za-z])N/)+(?:[blnoucsN](?![A-Za-z0-9]))?|(?<![A-Za-z0-9])/[blnoucsN](?![A-Za-z0-9])"
)
_PARENTHESES = re.compile(r"\(([^()]*)\)")


def clean_transcript(text: str) -> str:
    """A transcript without its markup: what was said, on one line.

    Removed are marks of noise (`b/`, `l/`, `n/`, ..., also `/n`), `*`, `"`, and the parentheses and the plus of `(A+B)`
    and `(A)`, whose words stay. White space becomes one space. Latin letters and digits that are spoken (`BTS가`,
    `QR코드`, `112에`) and `. ? ! ,` stay.
    """
    text = _MARK.sub("", text)
    while _PARENTHESES.search(text):  # the innermost pair first
        text = _PARENTHESES.sub(lambda overlap: overlap[1].replace("+", " "), text)
    return " ".join(re.sub(r'[()*"\ufeff]', "", text).split())


def read_transcripts(data_path: Path, ids: Sequence[str]) -> tuple[dict[str, str], pd.DataFrame]:
    """Transcripts with their markup by segment id, of the ids that have a readable `.txt` below `wav`; and problems.

    They lie in `data_path`, or in the raw corpora that `preprocessing.py --out` read.
    """
    files = [path for folder in raw_folders(data_path) for path in find_files(folder / "wav", ".txt")]
    paths, problems = first_of_each(files, ids, "transcript")
    transcripts = {}
    for segment in tqdm(ids, desc="transcripts", unit="file"):
        path = paths.get(segment)
        if path is None:
            problems.append((data_path / "wav", segment, "no transcript", "", COUNTS_AS_ZEROS))
            continue
        try:
            text = decode(path.read_bytes(), path)
        except InputError:
            problems.append((path, segment, "transcript that is neither UTF-8 nor CP949", "", COUNTS_AS_ZEROS))
            continue
        transcripts[segment] = text
        n_lines = sum(bool(line.strip()) for line in text.splitlines())
        if n_lines > 1:
            problems.append((path, segment, "transcript of several lines", f"{n_lines} lines", "joined"))
        if not clean_transcript(text):
            what = "transcript that is empty once cleaned" if n_lines else "transcript that is empty"
            done = "embedded as a sentence without words"
            problems.append((path, segment, what, " ".join(text.split()), done))
    return transcripts, file_problems(data_path, problems)
