"""Audio files: where wavs are, which files are unusable, their samples, and the hashes of wavs."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import tempfile
import unicodedata
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import av
import numpy as np
import pandas as pd
import soundfile
import soxr
from tqdm import tqdm

from constants import SAMPLE_RATE
from corpora.corpus_json import read_corpus_json
from corpora.problems import COUNTS_AS_ZEROS, file_problems
from utils import InputError, count, digest_file, read_json, write_json

PARTS_OF_WAVS = "manifest_parts"  # folder of the utterances that are parts of the wavs of a manifest
MAX_AMPLITUDE = 2.0**31  # of floating-point samples; unscaled integers are accepted

# In libsndfile's log: bytes of audio that the header announces, and bytes in the file
CUT_SHORT = re.compile(r"^ *data *: (\d+) \(should be (\d+)\)", re.MULTILINE)
UNKNOWN_LENGTH = 0x7FFFF000  # bytes; a program that writes a wav to a pipe sets at least this length, or 0:
NO_LENGTH = re.compile(r"^data : 0\n(?!End|\w{3}. : )", re.MULTILINE)  # in libsndfile's log: length 0, then audio
END_TOLERANCE = 0.5  # s by which the end in a manifest or container may exceed the audio
MIN_SECONDS = 0.005  # of an utterance
TOO_SHORT = f"shorter than {MIN_SECONDS} s"
LOOK_SECONDS, MIN_CORRELATION = 3, 0.5  # of the parts of a file in which channels are compared
BLOCK = 2**16  # samples
KEPT = 8  # recordings whose decoded audio is kept


def find_files(folder: Path, suffix: str) -> list[Path]:
    """Files in and below `folder` with this suffix, in any case, in alphabetical order; links are followed."""

    def stop(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=stop, followlinks=True) if folder.is_dir() else []:
        # A Mac writes `._a.wav` beside `a.wav`
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in files if name.lower().endswith(suffix) and not name.startswith("."))
        found += [path for path in (Path(parent, name) for name in names) if path.is_file()]  # no broken link
    return found


def stem(path: Path) -> str:
    """The name of a file without its suffix, in composed letters (macOS decomposes them)."""
    return unicodedata.normalize("NFC", path.stem)


def raw_folder(data_path: Path) -> Path:
    """The raw corpus from which `preprocessing.py --out` made `data_path`, or `data_path` itself."""
    content = None if (data_path / "wav").is_dir() else read_corpus_json(data_path)
    return Path(content["raw"]) if content and content["raw"] else data_path


def wav_files(data_path: Path, audio_path: Path | None = None) -> list[Path]:
    """All wavs in the folder of `find_wavs`, with duplicate names."""
    raw = raw_folder(data_path)
    if audio_path is None and raw != data_path:
        audio_path = read_corpus_json(data_path)["audio_path"]
    if audio_path:
        return find_files(Path(audio_path), ".wav")
    return find_files(raw / "wav", ".wav") or find_files(Path("audio"), ".wav")


def is_part(rows: pd.DataFrame) -> pd.Series:
    """Whether an utterance of a manifest is a part or a channel of its wav."""
    return rows[["first", "last", "channel"]].ne("").any(axis=1) & (rows["wav"] != "")


def find_wavs(data_path: Path, audio_path: Path | None = None) -> dict[str, Path]:
    """Wavs by segment id; of several with the same name, the first in alphabetical order.

    They are searched in and below `audio_path` if it is given, otherwise where `preprocessing.py --out` found them.
    Otherwise they are below `data_path/wav`, or if that has no wavs in `./audio`, as the published `audio.zip`
    unpacks; never in both, since another corpus's wavs may have the same ids. A manifest names them in `wav`.
    """
    content = read_corpus_json(data_path)
    if content and "sessions" in content:
        rows = pd.read_csv(data_path / "df_speaker.csv", dtype=str, keep_default_na=False)
        folder = Path(audio_path or content["audio_path"] or raw_folder(data_path))
        each = zip(rows["Segment ID"], rows["wav"], is_part(rows), strict=True)
        of_parts = data_path / PARTS_OF_WAVS
        paths = {segment: of_parts / f"{segment}.wav" if part else folder / wav for segment, wav, part in each}
        return {segment: path for segment, path in paths.items() if path.is_file()}
    return {stem(path): path for path in reversed(wav_files(data_path, audio_path))}


def first_of_each(files: Iterable[Path], ids: Iterable[str], kind: str) -> tuple[dict[str, Path], list[tuple]]:
    """The first of `files` named after each id, and problems (see `file_problems`) of the others."""
    wanted, first, problems = set(ids), {}, []
    for path in files:
        if (name := stem(path)) in wanted and first.setdefault(name, path) is not path:
            done = "the first in alphabetical order is used"
            problems.append((path, name, f"duplicate {kind}", "", done))
    return first, problems


def check_wavs(data_path: Path, audio_path: Path | None, ids: Sequence[str]) -> pd.DataFrame:
    """The problems of the wavs of a corpus with annotation tables, and of duplicate wavs."""
    wavs, problems = first_of_each(wav_files(data_path, audio_path), ids, "wav")
    return file_problems(data_path, problems + wav_problems(wavs, ids, audio_path or data_path / "wav", {}))


def wav_problems(
    wavs: Mapping[str, Path], ids: Iterable[str], folder: Path, parts: Mapping[str, Sequence[float]]
) -> list[tuple]:
    """The problems of ids with a wav that is missing (in `folder`), unusable, or has different channels.

    `parts` : start and end (s) and channel of each utterance in its wav by id, 0 if not given
    """
    paths = [path for path in dict.fromkeys(wavs.values()) if path.is_file()]

    with ThreadPoolExecutor() as pool:  # reading a header is mostly waiting
        found = pool.map(lambda path: wav_fault(path) or inspect_sound(path), paths)
        checked = dict(zip(paths, tqdm(found, "checking wavs", len(paths), unit="file"), strict=True))
    problems = []
    for segment in ids:
        path, (start, end, channel) = wavs.get(segment), parts.get(segment, (0, 0, 0))
        if (result := checked.get(path)) is None:
            problems.append((folder, segment, "missing wav", "", COUNTS_AS_ZEROS))
            continue
        if isinstance(result, str):
            problems.append((path, segment, "unusable wav", result, COUNTS_AS_ZEROS))
            continue
        seconds, _, channels, differ = result
        if start >= seconds or end > seconds + END_TOLERANCE or channel > channels:
            what = "start, end or channel not in the wav"
            problems.append((path, segment, what, f"{seconds:.2f} s, {count(channels, 'channel')}", COUNTS_AS_ZEROS))
        elif differ and not channel:
            problems.append((path, segment, "wav with differing channels", "", "the mean of the channels is used"))
    return problems


@contextlib.contextmanager
def open_sound(path: Path) -> Iterator[tuple[soundfile.SoundFile, float]]:
    """An open audio file at its first sample, and the length (s) in its container, or 0; raises `InputError`.

    Formats that libsndfile does not read, such as recordings of phones and browsers, are decoded by FFmpeg's libraries;
    so is a wav with length 0 in its header.
    """
    file, announced = None, 0.0
    try:
        with contextlib.suppress(soundfile.SoundFileError, TypeError):  # TypeError: the name ends in .raw
            file = soundfile.SoundFile(path)
        if file is None or NO_LENGTH.search(file.extra_info):
            status = path.stat()
            opened, announced = _decode(path, status.st_size, status.st_mtime_ns)
            file = opened()
        with file:
            yield file, announced
    except (OSError, av.FFmpegError, soundfile.SoundFileError, ValueError) as error:
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not readable as audio ({reason})") from error


@lru_cache(KEPT)
def _decode(path: Path, *status: int) -> tuple[Callable[[], soundfile.SoundFile], float]:
    """A function that opens the decoded audio of a recording, or of a video's first audio track, and its length (s).

    The audio is decoded in bounded memory to a temporary file, which is removed with the function. The length is from
    the container of an mp4, m4a, mov or 3gp, otherwise 0. `status` is the recording's size and modification time, so
    that a changed file is decoded again.
    """
    with av.open(path) as container:
        if not container.streams.audio:
            raise ValueError("no audio track")
        stream = container.streams.audio[0]
        announced = float((stream.duration or 0) * stream.time_base) if "mp4" in container.format.name else 0.0
        resampler = av.AudioResampler("s16", stream.layout, stream.rate)
        with tempfile.NamedTemporaryFile(prefix="sound-", delete=False) as file:
            form = {"channels": len(stream.layout.channels), "format": "RAW", "subtype": "PCM_16"}
            opened = partial(soundfile.SoundFile, file.name, samplerate=stream.rate, **form)
            weakref.finalize(opened, os.unlink, file.name)
            for packet in container.demux(stream):
                with contextlib.suppress(av.error.InvalidDataError):  # a damaged packet
                    for frame in packet.decode():
                        file.writelines(part.to_ndarray() for part in resampler.resample(frame))
    return opened, announced


def inspect_sound(path: Path) -> tuple[float, float, int, bool]:
    """The length of an audio file (s), the length in its header, its number of channels, and whether these differ.

    Channels differ if they are in opposite phase or have different content, such as one speaker each. Memory is
    bounded. Raises `InputError` if the file is not readable as audio.
    """
    with open_sound(path) as (file, length):
        rate, channels, samples, decoded = file.samplerate, file.channels, file.frames, 0
        announced = length * rate if length > samples / rate + END_TOLERANCE else samples
        for in_header, in_file in (map(int, found) for found in CUT_SHORT.findall(file.extra_info)):
            if 0 < in_file < in_header < UNKNOWN_LENGTH:
                announced = samples * in_header / in_file
        with contextlib.suppress(soundfile.SoundFileError):
            file.seek(max(0, samples - 1))
            decoded = samples * len(file.read(1))
    if samples and not decoded:  # the header of a cut MP3 or FLAC has the old length
        with open_sound(path) as (file, _), contextlib.suppress(soundfile.SoundFileError):
            while found := len(file.read(BLOCK)):
                decoded += found
    seconds = decoded / rate
    return seconds, announced / rate, channels, channels > 1 and _channels_differ(path, seconds)


def _channels_differ(path: Path, seconds: float) -> bool:
    """Whether two channels differ in at most ten 3 s parts spread over the file. Silent channels are ignored."""
    parts = [np.zeros((1, 1))]
    with contextlib.suppress(InputError):  # reported when the file is read
        starts = np.arange(0, seconds, max(LOOK_SECONDS, seconds / 10))
        parts = [read_channels(path, start, start + LOOK_SECONDS)[0] for start in starts] or parts
    samples = np.nan_to_num(np.concatenate(parts), posinf=0, neginf=0).astype(float)
    levels = samples.std(axis=0)
    sounding = samples[:, levels > 0.01 * levels.max()]
    return sounding.shape[1] > 1 and bool(np.corrcoef(sounding.T).min() < MIN_CORRELATION)


def samples_fault(samples: np.ndarray, rate: int) -> str | None:
    """Why samples at `rate` Hz, shape = (samples, ...), are unusable, or None."""
    if len(samples) < MIN_SECONDS * rate:
        return TOO_SHORT
    if np.abs(samples).max() <= MAX_AMPLITUDE:  # False for NaN
        return None
    return f"contains samples that are NaN or not from {-MAX_AMPLITUDE:.0f} to {MAX_AMPLITUDE:.0f}"


def wav_fault(path: Path) -> str | None:
    """Why a wav is unusable according to its header, or None: unreadable, too short, or incomplete."""
    try:
        seconds, announced, *_ = inspect_sound(path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    if seconds < announced:
        return f"incomplete, has {seconds:.2f} of {announced:.2f} s of audio"
    return TOO_SHORT if seconds < MIN_SECONDS else None


def read_channels(
    path: Path, start: float = 0.0, end: float = math.inf, channel: int | None = None
) -> tuple[np.ndarray, int]:
    """The samples from `start` to `end` (s) of an audio file, float32, shape = (samples, channels), and their rate.

    `channel` (from 0) selects one channel.
    """
    with open_sound(path) as (file, _):
        rate = file.samplerate
        if channel is not None and channel >= file.channels:
            raise InputError(f"{path}: no channel {channel + 1}; the file has {count(file.channels, 'channel')}")
        first = file.seek(min(round(start * rate), file.frames))
        n = -1 if end == math.inf else max(0, round(end * rate) - first)
        samples = file.read(n, dtype="float32", always_2d=True)
        return samples if channel is None else samples[:, [channel]], rate


def read_wav(path: Path, sr: int = SAMPLE_RATE) -> np.ndarray:
    """An audio file of any rate and number of channels as mono float32 in [-1, 1] at `sr` Hz, shape = (samples,).

    Raises `InputError` if it is unusable, see `wav_fault` and `samples_fault`.
    """
    if (fault := wav_fault(path)) is None:
        samples, rate = read_channels(path)
        if (fault := samples_fault(samples, rate)) is None:
            return resample(samples, rate, sr)
    raise InputError(f"{path}: {fault}; replace or remove the file")


def read_part(path: Path, start: float, end: float, sr: int, channel: int | None = None) -> np.ndarray:
    """The samples from `start` to `end` (s) of a recording, as `read_wav` reads a wav of that part."""
    samples, rate = read_channels(path, start, end, channel)
    if fault := samples_fault(samples, rate):
        raise InputError(f"{path}, {start:.2f} to {end:.2f} s: {fault}")
    return resample(samples, rate, sr)


def resample(samples: np.ndarray, rate: int, sr: int) -> np.ndarray:
    """The mean of the channels at `sr` Hz, equal to `librosa.load`, which the original code calls.

    float32, shape = (samples, channels) at `rate` Hz -> (samples,). librosa itself would import 190 MB.
    """
    wave = samples.mean(axis=1)
    if rate == sr:
        return wave
    n = math.ceil(len(wave) * (sr / rate))
    resampled = soxr.resample(wave, rate, sr, quality="HQ")[:n]
    return np.pad(resampled, (0, n - len(resampled)))


def hash_wavs(data_path: Path, wavs: Mapping[str, Path], ids: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the wav of each id that has one; "" for a wav that cannot be read.

    `DATA_PATH/features/wavs.json` stores them with size and modification time, so that only new and changed wavs are
    read again, as in git's index. A copy of a corpus with other times is read once and has the same hashes.
    """
    index_path = data_path / "features" / "wavs.json"
    try:
        index = read_json(index_path)
    except InputError:  # missing or damaged: it only saves time
        index = {}
    paths = {segment: str(wavs[segment].absolute()) for segment in ids if segment in wavs}
    status = {path: os.stat(path) for path in paths.values()}  # noqa: PTH116 (a Path for each takes longer)
    times = {path: [found.st_size, found.st_mtime_ns] for path, found in status.items()}
    changed = [path for path, time in times.items() if index.get(path, [])[:2] != time or not index[path][2]]

    def digest(path: str) -> str:
        with contextlib.suppress(OSError):
            return digest_file(Path(path))
        return ""

    if changed:
        with ThreadPoolExecutor() as pool:  # hashing leaves other threads free to run
            digests = tqdm(pool.map(digest, changed), "hashing wavs", len(changed), unit="file")
            index |= {path: [*times[path], digest] for path, digest in zip(changed, digests, strict=True)}
        with contextlib.suppress(OSError, InputError):  # without write access they are read again next time
            index_path.parent.mkdir(exist_ok=True)
            write_json(index_path, index)
    return {segment: index[path][2] for segment, path in paths.items()}


def audio_digest(hashes: Mapping[str, str], ids: Iterable[str]) -> str:
    """SHA-256 of the hashes of the wavs of these ids, in order, with an empty hash for a missing wav."""
    lines = (f"{segment} {hashes.get(segment, '')}\n" for segment in ids)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
