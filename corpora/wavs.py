"""Wavs and other sound files: where they are, which of them cannot be used, their samples, and the hashes of wavs."""

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

PARTS_OF_WAVS = "manifest_parts"  # folder of the utterances of a manifest that are parts of wavs
MAX_AMPLITUDE = 2.0**31  # of floating-point samples: integers that were never scaled are usable

# In libsndfile's log, bytes of sound: those that are announced, and those that are there
CUT_SHORT = re.compile(r"^ *data *: (\d+) \(should be (\d+)\)", re.MULTILINE)
UNKNOWN_LENGTH = 0x7FFFF000  # bytes; programs that write a wav into a pipe leave this or more as its length, or 0:
NO_LENGTH = re.compile(r"^data : 0\n(?!End|\w{3}. : )", re.MULTILINE)  # in libsndfile's log: then what follows is sound
END_TOLERANCE = 0.5  # s by which a manifest, or the container of a recording, may say an end too late
MIN_SECONDS = 0.005  # of an utterance
TOO_SHORT = f"holds less than {MIN_SECONDS} s of sound"
LOOK_SECONDS, MIN_CORRELATION = 3, 0.5  # of the parts of a file in which its channels are compared
BLOCK = 2**16  # samples
KEPT = 8  # recordings whose decoded sound is kept


# Where they are


def find_files(folder: Path, suffix: str) -> list[Path]:
    """Files in and below `folder` whose names end so, in any case, in alphabetical order; links are followed."""

    def stop(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=stop, followlinks=True) if folder.is_dir() else []:
        # A Mac writes `._a.wav` beside `a.wav`
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in files if name.lower().endswith(suffix) and not name.startswith("."))
        found += [path for path in (Path(parent, name) for name in names) if path.is_file()]  # no link to nothing
    return found


def stem(path: Path) -> str:
    """The name of a file without its ending, in composed letters: a Mac's names are decomposed."""
    return unicodedata.normalize("NFC", path.stem)


def raw_folder(data_path: Path) -> Path:
    """The raw corpus of which `preprocessing.py --out` made the files in `data_path`, or the folder itself."""
    content = None if (data_path / "wav").is_dir() else read_corpus_json(data_path)
    return Path(content["raw"]) if content and content["raw"] else data_path


def wav_files(data_path: Path, audio_path: Path | None = None) -> list[Path]:
    """All wavs of `find_wavs`, also where several have one name."""
    raw = raw_folder(data_path)
    if audio_path is None and raw != data_path:
        audio_path = read_corpus_json(data_path)["audio_path"]
    if audio_path:
        return find_files(Path(audio_path), ".wav")
    return find_files(raw / "wav", ".wav") or find_files(Path("audio"), ".wav")


def is_part(rows: pd.DataFrame) -> pd.Series:
    """Whether an utterance of a manifest is a part of its wav, or one of its channels."""
    return rows[["first", "last", "channel"]].ne("").any(axis=1) & (rows["wav"] != "")


def find_wavs(data_path: Path, audio_path: Path | None = None) -> dict[str, Path]:
    """Wavs by segment id; of several with one name the first in alphabetical order.

    They are looked for in and below `audio_path` if it is given; without it where `preprocessing.py --out` found
    them, if its files are in `data_path`. Otherwise below `data_path/wav`, and if no wav at all is there in `./audio`,
    where the published `audio.zip` unpacks to; never in both, since another corpus's wavs may have the same ids.
    Those of a manifest are in its column `wav`.
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
    """By id the first of `files` that is called after it, and problems (see `file_problems`) of the others."""
    wanted, first, problems = set(ids), {}, []
    for path in files:
        if (name := stem(path)) in wanted and first.setdefault(name, path) is not path:
            done = "the first in alphabetical order is used"
            problems.append((path, name, f"second {kind} of one id", "", done))
    return first, problems


def check_wavs(data_path: Path, audio_path: Path | None, ids: Sequence[str]) -> pd.DataFrame:
    """The problems of the wavs of a corpus with annotation tables, and of wavs of the same name."""
    wavs, problems = first_of_each(wav_files(data_path, audio_path), ids, "wav")
    return file_problems(data_path, problems + wav_problems(wavs, ids, audio_path or data_path / "wav", {}))


def wav_problems(
    wavs: Mapping[str, Path], ids: Iterable[str], folder: Path, parts: Mapping[str, Sequence[float]]
) -> list[tuple]:
    """The problems of ids without a wav (in `folder`), or with one that cannot be used, or whose channels differ.

    `parts` : by id start and end (s) and channel of an utterance in its wav, 0 for one that is not named
    """
    paths = [path for path in dict.fromkeys(wavs.values()) if path.is_file()]

    with ThreadPoolExecutor() as pool:  # reading the head of a file is mostly waiting
        found = pool.map(lambda path: wav_fault(path) or inspect_sound(path), paths)
        looks = dict(zip(paths, tqdm(found, "wavs", len(paths), unit="file"), strict=True))
    problems = []
    for segment in ids:
        path, (start, end, channel) = wavs.get(segment), parts.get(segment, (0, 0, 0))
        if (look := looks.get(path)) is None:
            problems.append((folder, segment, "no wav", "", COUNTS_AS_ZEROS))
            continue
        if isinstance(look, str):
            problems.append((path, segment, "wav that cannot be used", look, COUNTS_AS_ZEROS))
            continue
        seconds, _, channels, differ = look
        if start >= seconds or end > seconds + END_TOLERANCE or channel > channels:
            what = "start, end or channel that the wav does not have"
            problems.append((path, segment, what, f"{seconds:.2f} s, channels: {channels}", COUNTS_AS_ZEROS))
        elif differ and not channel:
            problems.append((path, segment, "wav whose channels differ", "", "their mean is used"))
    return problems


# Their faults and samples


@contextlib.contextmanager
def open_sound(path: Path) -> Iterator[tuple[soundfile.SoundFile, float]]:
    """A sound file, open at its first sample, and the length (s) in its container or 0; raises `InputError`.

    What libsndfile does not read, such as the recording of a phone or of a browser, is decoded by FFmpeg's libraries,
    and so is a wav whose header has 0 as its length.
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
        raise InputError(f"{path}: not readable as sound ({reason})") from error


@lru_cache(KEPT)
def _decode(path: Path, *status: int) -> tuple[Callable[[], soundfile.SoundFile], float]:
    """A function that opens the decoded sound of a recording, or of a video's first sound track, and its length (s).

    The sound is decoded in bounded memory to a temporary file, which is removed with the function. The length is that
    in the container of an mp4, m4a, mov or 3gp, 0 of other formats. `status` is the recording's size and time of
    change: a file that has changed is another one.
    """
    with av.open(path) as container:
        if not container.streams.audio:
            raise ValueError("no sound track")
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
    """The length of a sound file (s), that which its head announces, its number of channels, and whether these differ.

    They do where they are in opposite phase, or hold other sounds, such as a speaker each. Bounded memory is enough.
    Raises `InputError` where the file is no sound.
    """
    with open_sound(path) as (file, length):
        rate, channels, samples, decoded = file.samplerate, file.channels, file.frames, 0
        announced = length * rate if length > samples / rate + END_TOLERANCE else samples
        for said, there in (map(int, found) for found in CUT_SHORT.findall(file.extra_info)):
            if 0 < there < said < UNKNOWN_LENGTH:
                announced = samples * said / there
        with contextlib.suppress(soundfile.SoundFileError):
            file.seek(max(0, samples - 1))
            decoded = samples * len(file.read(1))
    if samples and not decoded:  # the head of an MP3 or a FLAC announces what is no longer there
        with open_sound(path) as (file, _), contextlib.suppress(soundfile.SoundFileError):
            while found := len(file.read(BLOCK)):
                decoded += found
    seconds = decoded / rate
    return seconds, announced / rate, channels, channels > 1 and _channels_differ(path, seconds)


def _channels_differ(path: Path, seconds: float) -> bool:
    """Whether two channels do, in at most ten parts of 3 s, spread over the file. Silent channels do not count."""
    parts = [np.zeros((1, 1))]
    with contextlib.suppress(InputError):  # which reading reports
        starts = np.arange(0, seconds, max(LOOK_SECONDS, seconds / 10))
        parts = [read_channels(path, start, start + LOOK_SECONDS)[0] for start in starts] or parts
    samples = np.nan_to_num(np.concatenate(parts), posinf=0, neginf=0).astype(float)
    levels = samples.std(axis=0)
    sounding = samples[:, levels > 0.01 * levels.max()]
    return sounding.shape[1] > 1 and bool(np.corrcoef(sounding.T).min() < MIN_CORRELATION)


def samples_fault(samples: np.ndarray, rate: int) -> str | None:
    """Why samples at `rate` Hz, shape = (samples, ...), cannot be used, or None."""
    if len(samples) < MIN_SECONDS * rate:
        return TOO_SHORT
    if np.abs(samples).max() <= MAX_AMPLITUDE:  # which no NaN is
        return None
    return f"holds samples that are not numbers from {-MAX_AMPLITUDE:.0f} to {MAX_AMPLITUDE:.0f}"


def wav_fault(path: Path) -> str | None:
    """Why a wav cannot be used as far as its head says, or None: it is no sound, too short, or cut short."""
    try:
        seconds, announced, *_ = inspect_sound(path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    if seconds < announced:
        return f"cut short, {seconds:.2f} of {announced:.2f} s of sound are there"
    return TOO_SHORT if seconds < MIN_SECONDS else None


def read_channels(
    path: Path, start: float = 0.0, end: float = math.inf, channel: int | None = None
) -> tuple[np.ndarray, int]:
    """The samples from `start` to `end` (s) of a sound file, float32, shape = (samples, channels), and their rate.

    With `channel`, from 0, they are of it alone.
    """
    with open_sound(path) as (file, _):
        rate = file.samplerate
        if channel is not None and channel >= file.channels:
            raise InputError(f"{path}: no channel {channel + 1}, it has {count(file.channels, 'channel')}")
        first = file.seek(min(round(start * rate), file.frames))
        n = -1 if end == math.inf else max(0, round(end * rate) - first)
        samples = file.read(n, dtype="float32", always_2d=True)
        return samples if channel is None else samples[:, [channel]], rate


def read_wav(path: Path, sr: int = SAMPLE_RATE) -> np.ndarray:
    """A sound file of any rate and any number of channels as mono float32 in [-1, 1] at `sr` Hz, shape = (samples,).

    Raises `InputError` where it cannot be used, see `wav_fault` and `samples_fault`.
    """
    if (fault := wav_fault(path)) is None:
        samples, rate = read_channels(path)
        if (fault := samples_fault(samples, rate)) is None:
            return resample(samples, rate, sr)
    raise InputError(f"{path}: {fault}; replace it or take it away")


def read_part(path: Path, start: float, end: float, sr: int, channel: int | None = None) -> np.ndarray:
    """The samples from `start` to `end` (s) of a recording, as `read_wav` gives them of a wav of that part."""
    samples, rate = read_channels(path, start, end, channel)
    if fault := samples_fault(samples, rate):
        raise InputError(f"{path}, {start:.2f} to {end:.2f} s: {fault}")
    return resample(samples, rate, sr)


def resample(samples: np.ndarray, rate: int, sr: int) -> np.ndarray:
    """The mean of the channels at `sr` Hz, as `librosa.load` gives it, which the published program calls.

    float32, shape = (samples, channels) at `rate` Hz -> (samples,). librosa itself would import 190 MB for it.
    """
    wave = samples.mean(axis=1)
    if rate == sr:
        return wave
    n = math.ceil(len(wave) * (sr / rate))
    resampled = soxr.resample(wave, rate, sr, quality="HQ")[:n]
    return np.pad(resampled, (0, n - len(resampled)))


# Their content


def hash_wavs(data_path: Path, wavs: Mapping[str, Path], ids: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the content of the wav of each id that has one, "" of one that may not be read.

    `DATA_PATH/features/wavs.json` keeps them with size and time of change, so that only new and changed wavs are read
    again, as in git's index. A copy of a corpus without its times is read once, and has the same hashes.
    """
    index_path = data_path / "features" / "wavs.json"
    try:
        index = read_json(index_path)
    except InputError:  # not there yet, or damaged: it saves time alone
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
            digests = tqdm(pool.map(digest, changed), "hashes of wavs", len(changed), unit="file")
            index |= {path: [*times[path], digest] for path, digest in zip(changed, digests, strict=True)}
        with contextlib.suppress(OSError, InputError):  # where nothing can be written they are read again next time
            index_path.parent.mkdir(exist_ok=True)
            write_json(index_path, index)
    return {segment: index[path][2] for segment, path in paths.items()}


def audio_digest(hashes: Mapping[str, str], ids: Iterable[str]) -> str:
    """SHA-256 of the hashes of all wavs of these ids, in their order; an id without a wav counts as such."""
    lines = (f"{segment} {hashes.get(segment, '')}\n" for segment in ids)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
