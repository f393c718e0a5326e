"""Files: the wavs and transcripts of a corpus by utterance, and how faults name them."""

from __future__ import annotations

import os
from pathlib import Path

from corpora.problems import Problem
from utils import InputError


def find_files(folder: Path, suffix: str, repeated: list[Path] | None = None) -> dict[str, Path]:
    """Files in and below `folder` by their name without the ending; links are followed.

    Of several files with one name the first is taken, with folders and files in alphabetical order. The others are
    added to `repeated`.

    Parameters
    ----------
    suffix : the ending, in lower case, such as ".wav"; files may have it in any case

    Raises
    ------
    InputError : a folder cannot be read
    """
    found: dict[str, Path] = {}
    entered = set()  # a link to a folder above must not lead round in circles
    for parent, folders, files in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        real_path = os.path.realpath(parent)
        if real_path in entered:
            folders.clear()
            continue
        entered.add(real_path)
        folders.sort()
        for name in sorted(files):
            stem, ending = os.path.splitext(name)  # noqa: PTH122 (a Path for every file of a corpus takes seconds)
            if ending.lower() != suffix:
                continue
            if stem not in found:
                found[stem] = Path(parent, name)
            elif repeated is not None:
                repeated.append(Path(parent, name))
    return found


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


def repeated_files(data_path: Path, repeated: list[Path], ids: list[str], kind: str) -> list[Problem]:
    """A problem for each file of `repeated` (see `find_files`) that belongs to one of `ids`.

    `kind` is what the files hold: "wav" or "transcript".
    """
    what, done = f"second {kind} of one id", "the first in alphabetical order is used"
    known = set(ids)
    return [
        Problem(path_within(data_path, path), "", path.stem, what, "", done) for path in repeated if path.stem in known
    ]


def path_within(data_path: Path, path: Path) -> str:
    """`path` relative to the corpus folder, as problems.csv names it; unchanged if it lies elsewhere."""
    return str(path.relative_to(data_path) if path.is_relative_to(data_path) else path)
