"""How the corpus names and labels its utterances, and where it keeps their sound."""

from __future__ import annotations

import csv
import os
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from constants import EMOTION_ALIASES, EMOTIONS
from utils import InputError

MISSING_LIMIT = 0.05  # a larger share of utterances without wav or text stops the run


MAX_TABLE_BYTES = 100 * 2**20  # KEMDy19's largest has under 3 MB


def decode(content: bytes, path: Path) -> str:
    """Text of a file in UTF-8 (with or without a byte order mark) or CP949."""
    for encoding in ("utf-8-sig", "cp949"):
        if b"\0" in content:
            break
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


def find_wavs(
    data_path: Path, audio_path: Path | None = None, repeated: list[Path] | None = None
) -> tuple[dict[str, Path], str]:
    """Wavs by segment id, and in words where they were looked for; `repeated` as in `find_files`.

    With `audio_path` there and below. Otherwise below `data_path/wav`, and if no wav at all is there in `./audio`,
    where the published `audio.zip` unpacks to; never in both, since another corpus's wavs may have the same ids.
    """
    folders = [audio_path] if audio_path else [data_path / "wav", Path("audio")]
    for folder in folders:
        if found := find_files(folder, ".wav", repeated):
            return found, str(folder)
    return {}, " and ".join(map(str, folders))


def find_files(folder: Path, suffix: str, repeated: list[Path] | None = None) -> dict[str, Path]:
    """Files below `folder` with this (lower-case) suffix, in any case, by their name without it; links are followed.

    Of several with one name the first is taken, folders and files in alphabetical order; the others are added to
    `repeated`.

    Raises
    ------
    InputError : a folder cannot be read
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error

    found: dict[str, Path] = {}
    entered = set()  # folders, so that a link to one above is no way around for ever
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        place = os.path.realpath(parent)
        if place in entered:
            folders.clear()
            continue
        entered.add(place)
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


# What is beyond is no utterance, and would take memory without bound
SAMPLE_RATES = (1_000, 1_000_000)  # Hz
MAX_WAV_SECONDS = 1_800
MAX_AMPLITUDE = 2.0**31  # of floating-point samples: integers that were never scaled are usable
MAX_WAV_VALUES = 2**28  # samples of all channels, 1 GB
# How the formats of a wav write a chunk's name and length; riff is W64, whose lengths count these 24 bytes too
CHUNKS = {b"RIFF": "<4sI", b"RIFX": ">4sI", b"RF64": "<4sI", b"FORM": ">4sI", b"riff": "<4s12xQ"}
UNKNOWN_LENGTHS = (2**32 - 1, 2**64 - 1)  # what programs that write a wav into a pipe leave as the length of its data


def announced_bytes(file: IO[bytes], size: int) -> int | None:
    """Bytes of sound that a wav of `size` bytes announces from where `file` then is; None where it does not say."""
    kind = file.read(12)[:4]
    if kind not in CHUNKS:
        return None
    head, long, of_head, multiple = struct.Struct(CHUNKS[kind]), None, 0, 2
    if kind == b"riff":
        of_head, multiple = head.size, 8
        file.seek(40)
    while len(chunk := file.read(head.size)) == head.size:
        name, length = head.unpack(chunk)
        if name in (b"data", b"SSND"):
            if kind == b"RF64" and length in UNKNOWN_LENGTHS:
                return long
            return None if length in UNKNOWN_LENGTHS else max(0, length - of_head)
        end = file.tell() + max(0, length - of_head)
        if end > size:
            break
        if name == b"ds64":
            long = int.from_bytes(file.read(16)[8:], "little")
        file.seek(end + -end % multiple)
    return None


def wav_fault(path: Path) -> str | None:
    """Why a wav cannot be used, or None; without decoding it, unless its samples are floating-point numbers.

    Faults are a file that is empty, not readable as sound, without a sample, with samples that are not numbers, or (of
    a format in `CHUNKS`) with fewer samples than it announces.
    """
    import numpy as np
    import soundfile

    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                return "empty, 0 bytes"
            length = announced_bytes(file, size)
            if length is not None and (there := size - file.tell()) < length:
                return f"cut short, {there} of {length} bytes of sound are there"
        info = soundfile.info(path)
        if info.frames == 0:
            return "holds no sample of sound"
        if not SAMPLE_RATES[0] <= info.samplerate <= SAMPLE_RATES[1]:
            return f"of {info.samplerate} Hz, expected {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]}"
        if info.frames > MAX_WAV_SECONDS * info.samplerate or info.frames * info.channels > MAX_WAV_VALUES:
            return f"announces {info.frames} samples of {info.channels} channels at {info.samplerate} Hz, no utterance"
        if info.subtype in ("FLOAT", "DOUBLE"):
            loudest = np.abs(soundfile.read(path)[0]).max()
            if not np.isfinite(loudest):
                return "holds samples that are not numbers"
            if loudest > MAX_AMPLITUDE:
                return f"holds samples up to {loudest:.2g}, expected -1 to 1"
    except OSError as error:
        return f"not readable ({error.strerror or error})"
    except soundfile.SoundFileError as error:
        return f"not readable as sound ({getattr(error, 'error_string', error)})"
    return None


class Problem(NamedTuple):
    """A fault of a corpus and what was done about it: a row of `problems.csv`.

    file : path within the corpus folder
    row : of a table, counted from 1 with its header rows; "" elsewhere
    id : segment id it concerns, "" for none
    what : the kind of fault, equal for all faults of the kind
    found : what stands there
    done : what was done
    """

    file: str
    row: int | str
    id: str
    what: str
    found: str
    done: str

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row else ""
        segment = f" ({self.id})" if self.id and self.id not in self.file else ""
        found = f": {self.found}" if self.found else ""
        return f"{self.file}{row}{segment}{found}"


def warn_of_problems(problems: Sequence[Problem]) -> None:
    """One warning for each kind of fault, with how often it was found, the first one, and what was done."""
    times = Counter((problem.what, problem.done) for problem in problems)
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.what, problem.done), problem)
    for kind, problem in first.items():
        others = f" and {times[kind] - 1} more" if times[kind] > 1 else ""
        warnings.warn(f"{problem.what}: {problem}{others}; {problem.done}", stacklevel=2)


def write_problems(file: IO[str], problems: Sequence[Problem]) -> None:
    """`problems.csv`: a row a problem."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([Problem._fields, *problems])


def report_missing(
    ids: Sequence[str], missing: Sequence[bool], what: str, where: str, reason: str = "", warn: bool = True
) -> list[str]:
    """Say once (if `warn`) which utterances have no wav or no text, and return them.

    `reason` says what is wrong with the first one whose wav or text is there and cannot be used.

    Raises
    ------
    InputError : more than 5% are missing, or all of a session
    """
    absent = [segment for segment, is_missing in zip(ids, missing, strict=True) if is_missing]
    usable, first = (f"usable {what}", f"; first {reason}") if reason else (what, "")
    if len(absent) > MISSING_LIMIT * len(ids):
        raise InputError(
            f"{where}: {len(absent)} of {len(ids)} utterances have no {usable} there (such as {absent[0]}); "
            f"at most {MISSING_LIMIT:.0%} may be missing, so this is probably the wrong path{first}"
        )
    for session in sorted({segment.partition("_")[0] for segment in absent}):
        own = {segment for segment in ids if segment.startswith(f"{session}_")}
        if own <= {*absent}:
            raise InputError(
                f"{where}: none of the {len(own)} utterances of {session} has a {usable} there (such as {absent[0]}); "
                f"a session without any cannot be tested or trained on, so copy it there{first}"
            )
    if absent and warn:
        warnings.warn(
            f"{len(absent)} of {len(ids)} utterances have no {usable} in {where} and count as zeros: "
            f"{', '.join(absent)}{first}",
            stacklevel=2,
        )
    return absent
