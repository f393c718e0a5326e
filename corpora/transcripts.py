"""Transcripts: their files, their markup, and what was said."""

from __future__ import annotations

import re
from pathlib import Path

from corpora.files import find_files, path_within, repeated_files
from corpora.problems import COUNTS_AS_ZEROS, Problem
from corpora.provenance import source_of
from utils import InputError, decode, read_bounded

MAX_TRANSCRIPT_BYTES = 100_000  # an utterance of 40 s has some hundred

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


def read_transcripts(data_path: Path, ids: list[str], problems: list[Problem]) -> dict[str, str]:
    """Transcripts with their markup by segment id, of the ids that have a readable `.txt` below `wav`.

    They lie in `data_path`, or in the raw corpus that `preprocessing.py --out` read. Transcripts that are missing,
    unreadable, empty or longer than a line are added to `problems`.
    """
    from tqdm import tqdm

    repeated: list[Path] = []
    paths = find_files(source_of(data_path).raw / "wav", ".txt", repeated)
    problems += repeated_files(data_path, repeated, ids, "transcript")
    transcripts = {}
    for segment in tqdm(ids, desc="transcripts", unit="file"):
        if segment not in paths:
            file = path_within(data_path, data_path / "wav")
            problems.append(Problem(file, "", segment, "no transcript", "", COUNTS_AS_ZEROS))
            continue
        file = path_within(data_path, paths[segment])
        try:
            text = decode(read_bounded(paths[segment], MAX_TRANSCRIPT_BYTES), paths[segment])
        except (OSError, InputError) as error:
            what, found = "transcript that is not readable", _reason(error, paths[segment])
            problems.append(Problem(file, "", segment, what, found, COUNTS_AS_ZEROS))
            continue
        problems += [Problem(file, "", segment, *fault) for fault in _faults(text)]
        transcripts[segment] = text
    return transcripts


def _reason(error: OSError | InputError, path: Path) -> str:
    """What an error of reading `path` says, without the path and without what to do."""
    reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path}: ")
    return str(reason).partition(";")[0]


def _faults(text: str) -> list[tuple[str, str, str]]:
    """What is wrong with a transcript that was read: what, found and done of a `Problem`."""
    n_lines = sum(bool(line.strip()) for line in text.splitlines())
    faults = []
    if n_lines > 1:
        faults.append(("transcript of several lines", f"{n_lines} lines", "joined"))
    if not clean_transcript(text):
        what = "transcript that is empty once cleaned" if n_lines else "transcript that is empty"
        faults.append((what, " ".join(text.split()), "embedded as a sentence without words"))
    return faults
