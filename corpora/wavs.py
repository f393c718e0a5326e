"""Wavs: where a corpus keeps them, which of them cannot be used, and their samples."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from constants import SAMPLE_RATE
from corpora.files import find_files, path_within, repeated_files
from corpora.problems import COUNTS_AS_ZEROS, Problem
from corpora.provenance import source_of
from utils import InputError

# A wav beyond these bounds is no utterance, and would take memory without limit
SAMPLE_RATES = (1_000, 1_000_000)  # Hz
MAX_WAV_SECONDS = 1_800
MAX_WAV_VALUES = 2**28  # samples of all channels: 1 GB as float32
MAX_AMPLITUDE = 2.0**31  # of floating-point samples: integers that were never scaled are usable


def find_wavs(
    data_path: Path, audio_path: Path | None = None, repeated: list[Path] | None = None
) -> tuple[dict[str, Path], str]:
    """Wavs by segment id, and in words where they were looked for; `repeated` as in `find_files`.

    They are looked for in and below `audio_path` if it is given; without it where `preprocessing.py --out` found
    them, if its files are in `data_path`. Otherwise below `data_path/wav`, and if no wav at all is there in `./audio`,
    where the published `audio.zip` unpacks to; never in both, since another corpus's wavs may have the same ids.
    """
    source = source_of(data_path)
    audio_path = audio_path or source.audio_path
    folders = [audio_path] if audio_path else [source.raw / "wav", Path("audio")]
    for folder in folders:
        if found := find_files(folder, ".wav", repeated):
            return found, str(folder)
    return {}, " and ".join(map(str, folders))


def check_wavs(data_path: Path, audio_path: Path | None, ids: list[str], problems: list[Problem]) -> None:
    """Add the ids without a wav, or with one that cannot be used, to `problems`.

    Raises
    ------
    InputError : there is no folder `audio_path`
    """
    from tqdm import tqdm

    if audio_path is not None and not audio_path.is_dir():
        raise InputError(f"--audio_path {audio_path}: no such folder")
    repeated: list[Path] = []
    wavs, where = find_wavs(data_path, audio_path, repeated)
    problems += repeated_files(data_path, repeated, ids, "wav")
    if not wavs:
        problems.append(Problem("wav", "", "", "no wav at all", where, "only --modality text can be trained"))
        return
    found = {segment: wavs[segment] for segment in ids if segment in wavs}
    with ThreadPoolExecutor() as pool:  # reading the head of a file is mostly waiting
        reasons = tqdm(pool.map(wav_fault, found.values()), total=len(found), desc="wavs", unit="file")
        faults = dict(zip(found, reasons, strict=True))
    for segment in ids:
        if segment not in found:
            folder = path_within(data_path, Path(where))
            problems.append(Problem(folder, "", segment, "no wav", "", COUNTS_AS_ZEROS))
        elif faults[segment]:
            file = path_within(data_path, found[segment])
            problems.append(Problem(file, "", segment, "wav that cannot be used", faults[segment], COUNTS_AS_ZEROS))


def wav_fault(path: Path) -> str | None:
    """Why a wav cannot be used, or None; without decoding it, unless its samples are floating-point numbers.

    Faults are a file that is empty, not readable as sound, without a sample, beyond the bounds above, with samples that
    are not numbers, or (of a format in `CONTAINERS`) with fewer samples than it announces.
    """
    import soundfile

    try:
        return _size_fault(path) or _sound_fault(path)
    except OSError as error:
        return f"not readable ({error.strerror or error})"
    except soundfile.SoundFileError as error:
        return f"not readable as sound ({getattr(error, 'error_string', error)})"


def _size_fault(path: Path) -> str | None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return "empty, 0 bytes"
        announced = announced_bytes(file, size)
        present = size - file.tell()
    if announced is not None and present < announced:
        return f"cut short, {present} of {announced} bytes of sound are there"
    return None


def _sound_fault(path: Path) -> str | None:
    import soundfile

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
    return None


class Container(NamedTuple):
    """How a format of a wav writes its chunks, each of which is a header (name and length) and its content."""

    header: str  # as `struct` reads it
    first: int = 12  # byte at which the first chunk starts
    alignment: int = 2  # a chunk starts at a multiple of this number of bytes
    header_counts: bool = False  # whether a chunk's length includes its header


CONTAINERS = {
    b"RIFF": Container("<4sI"),
    b"RIFX": Container(">4sI"),
    b"RF64": Container("<4sI"),
    b"FORM": Container(">4sI"),  # AIFF
    b"riff": Container("<4s12xQ", first=40, alignment=8, header_counts=True),  # W64
}
UNKNOWN_LENGTHS = (2**32 - 1, 2**64 - 1)  # what programs that write a wav into a pipe leave as the length of its sound


def announced_bytes(file: IO[bytes], size: int) -> int | None:
    """Bytes of sound that a wav of `size` bytes announces after the place where `file` then is; None if unknown.

    libsndfile notes in its log where a chunk is cut short, but not for RF64 and W64, and the log ends at 2 KB, which
    the comments in front of the sound may fill.
    """
    kind = file.read(4)
    container = CONTAINERS.get(kind)
    if container is None:
        return None
    header = struct.Struct(container.header)
    length_in_ds64 = None  # RF64 keeps the length of its sound in a chunk of its own, where it has 64 bits
    file.seek(container.first)
    while len(chunk := file.read(header.size)) == header.size:
        name, length = header.unpack(chunk)
        content = max(0, length - header.size) if container.header_counts else length
        if name in (b"data", b"SSND"):
            if length in UNKNOWN_LENGTHS:
                return length_in_ds64
            return content
        end = file.tell() + content
        if end > size:
            break
        if name == b"ds64" and kind == b"RF64":
            length_in_ds64 = int.from_bytes(file.read(16)[8:], "little")
        file.seek(end + -end % container.alignment)
    return None


def read_wav(path: Path, sr: int = SAMPLE_RATE) -> np.ndarray:
    """A wav of any rate and any number of channels as mono float32 in [-1, 1] at `sr` Hz, shape = (samples,).

    As the published program reads it, with `librosa.load`.

    Raises
    ------
    InputError : it cannot be used, see `wav_fault`
    """
    import librosa
    import soundfile

    reason = wav_fault(path)
    if reason is not None:
        raise InputError(f"{path}: {reason}; replace it or take it away")
    try:
        return librosa.load(soundfile.SoundFile(path), sr=sr)[0]  # given the path, it would try other readers as well
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(f"{path}: not readable as sound ({error}); replace it or take it away") from error


def to_mono(wave: np.ndarray, rate: int, sr: int) -> np.ndarray:
    """Sound of `rate` Hz, shape = (samples, channels), as mono at `sr` Hz, shape = (samples,).

    The samples are those of `librosa.load`, which may add a last one; librosa itself takes 1.5 s to import.
    """
    import soxr

    wave = wave.mean(axis=1)
    return wave if rate == sr else soxr.resample(wave, rate, sr, quality="HQ")
