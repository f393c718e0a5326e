"""Wavs: where a corpus keeps them, which cannot be used, and their samples."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO

import numpy as np

from constants import SAMPLE_RATE
from utils import InputError


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


def read_wav(path: Path, sr: int = SAMPLE_RATE) -> np.ndarray:
    """A wav of any rate and any number of channels as mono float32 in [-1, 1] at `sr` Hz, shape = (samples,).

    Raises
    ------
    InputError : it cannot be used, see `wav_fault`
    """
    import soundfile
    import soxr

    reason = wav_fault(path)
    if reason is not None:
        raise InputError(f"{path}: {reason}; replace it or take it away")
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(f"{path}: not readable as sound ({error}); replace it or take it away") from error
    wave = wave.mean(axis=1)
    return wave if rate == sr else soxr.resample(wave, rate, sr, quality="HQ")
