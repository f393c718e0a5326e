"""How the corpus names and labels its utterances, and where it keeps their sound."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from constants import EMOTION_ALIASES, EMOTIONS
from utils import InputError

MISSING_LIMIT = 0.05  # a larger share of utterances without wav or text stops the run


def decode(content: bytes, path: Path) -> str:
    """Text of a file in UTF-8 (with or without a byte order mark) or CP949."""
    for encoding in ("utf-8-sig", "cp949"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError(f"{path}: neither UTF-8 nor CP949 text; save it as UTF-8")


def emotion_index(label: str) -> int:
    """Index in `EMOTIONS` of a label as tables spell it; raises `ValueError` when it is none of the seven."""
    name = label.strip().lower()
    name = EMOTION_ALIASES.get(name, name)
    if name not in EMOTIONS:
        raise ValueError(f"emotion {label!r}, expected one of {', '.join(EMOTIONS)}")
    return EMOTIONS.index(name)


def parse_emotions(cell: str) -> list[int]:
    """Label indices of a table cell: one emotion, or several that tie, joined by `;`; `ValueError` as above."""
    return [emotion_index(label) for label in cell.split(";")]


def find_wavs(data_path: Path, audio_path: Path | None = None) -> tuple[dict[str, Path], str]:
    """Wavs by segment id, and in words where they were looked for.

    With `audio_path` there and below. Otherwise below `data_path/wav`, and if no wav at all is there in `./audio`,
    where the published `audio.zip` unpacks to; never in both, since another corpus's wavs may have the same ids.
    """
    folders = [audio_path] if audio_path else [data_path / "wav", Path("audio")]
    for folder in folders:
        found = {}
        for parent, _, files in os.walk(folder):
            paths = (Path(parent, name) for name in files)
            found |= {path.stem: path for path in paths if path.suffix.lower() == ".wav"}
        if found:
            return found, str(folder)
    return {}, " and ".join(map(str, folders))


def report_missing(
    ids: Sequence[str], missing: Sequence[bool], what: str, where: str, reason: str = "", warn: bool = True
) -> list[str]:
    """Say once (if `warn`) which utterances have no wav or no text, and return them.

    `reason` says what is wrong with the first one whose wav or text is there and cannot be used.

    Raises
    ------
    InputError : more than 5% are missing
    """
    absent = [segment for segment, is_missing in zip(ids, missing, strict=True) if is_missing]
    usable, first = (f"usable {what}", f"; first {reason}") if reason else (what, "")
    if len(absent) > MISSING_LIMIT * len(ids):
        raise InputError(
            f"{where}: {len(absent)} of {len(ids)} utterances have no {usable} there (such as {absent[0]}); "
            f"at most {MISSING_LIMIT:.0%} may be missing, so this is probably the wrong path{first}"
        )
    if absent and warn:
        warnings.warn(
            f"{len(absent)} of {len(ids)} utterances have no {usable} in {where} and count as zeros: "
            f"{', '.join(absent)}{first}",
            stacklevel=2,
        )
    return absent
