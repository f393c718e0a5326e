"""Transcripts: their files, their markup, and what was said."""

from __future__ import annotations

import re
from pathlib import Path

from corpora.problems import MISSING_LIMIT, Problem
from corpora.wavs import find_files
from utils import InputError, decode, read_bounded

MAX_TRANSCRIPT_BYTES = 100_000  # an utterance of 40 s has some hundred

# Breath b, laughter l, noise n or N, o, u, c, s: the letter and a slash, runs of them, misspelt with the slash in front
# or with the last one lacking. A letter that ends a Latin word is no mark (`on/off`), one behind `BTS` or `6` is.
_MARK = re.compile(
    r"/?(?:(?<![a-z])[blnoucs]/|(?<![A-Za-z])N/)+(?:[blnoucsN](?![A-Za-z0-9]))?|(?<![A-Za-z0-9])/[blnoucsN](?![A-Za-z0-9])"
)
_PARENTHESES = re.compile(r"\(([^()]*)\)")


def clean_transcript(text: str) -> str:
    """A transcript without its markup: what was said, on one line.

    Marks of noise (`b/`, `l/`, `n/`, ..., also `/n`) go, `(A+B)` and `(A)` leave their words, `*` and `"` go, white
    space is one space. Latin letters and digits that are spoken (`BTS가`, `QR코드`, `112에`) and `. ? ! ,` stay.
    """
    text = _MARK.sub("", text)
    while _PARENTHESES.search(text):  # the innermost pair first
        text = _PARENTHESES.sub(lambda overlap: overlap[1].replace("+", " "), text)
    return " ".join(re.sub(r'[()*"\ufeff]', "", text).split())


def read_transcripts(data_path: Path, ids: list[str], problems: list[Problem]) -> dict[str, str]:
    """Transcripts as they are written, of the ids that have a readable `.txt` below `data_path/wav`.

    Those that are missing, unreadable, empty or longer than a line are added to `problems`.
    """
    from tqdm import tqdm

    repeated: list[Path] = []
    paths = find_files(data_path / "wav", ".txt", repeated)
    problems += repeated_files(data_path, repeated, ids, "transcript")
    transcripts = {}
    for segment in tqdm(ids, desc="transcripts", unit="file"):
        file = within(data_path, paths.get(segment, data_path / "wav"))
        if segment not in paths:
            problems.append(Problem(file, "", segment, "no transcript", "", ZEROS))
            continue
        try:
            text = decode(read_bounded(paths[segment], MAX_TRANSCRIPT_BYTES), paths[segment])
        except (OSError, InputError) as error:
            found = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{paths[segment]}: ")
            found = str(found).partition(";")[0]
            problems.append(Problem(file, "", segment, "transcript that is not readable", found, ZEROS))
            continue
        n_lines = sum(bool(line.strip()) for line in text.splitlines())
        if n_lines > 1:
            problems.append(Problem(file, "", segment, "transcript of several lines", f"{n_lines} lines", "joined"))
        if not clean_transcript(text):
            what = "transcript that is empty once cleaned" if n_lines else "transcript that is empty"
            problems.append(
                Problem(file, "", segment, what, " ".join(text.split()), "embedded as a sentence without words")
            )
        transcripts[segment] = text
    return transcripts


ZEROS = f"counts as zeros in training, which stops where more than {MISSING_LIMIT:.0%} do"


def repeated_files(data_path: Path, repeated: list[Path], ids: list[str], kind: str) -> list[Problem]:
    what, done, known = f"second {kind} of one id", "the first in alphabetical order is used", {*ids}
    return [Problem(within(data_path, path), "", path.stem, what, "", done) for path in repeated if path.stem in known]


def within(data_path: Path, path: Path) -> str:
    """`path` as it is called within the corpus folder."""
    return str(path.relative_to(data_path) if path.is_relative_to(data_path) else path)
