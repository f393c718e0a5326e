"""Wavs: where a corpus keeps them, which of them cannot be used, their samples, and the hashes of their content."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import soxr
from tqdm import tqdm

from constants import SAMPLE_RATE
from corpora.corpus_json import read_corpus_json
from corpora.problems import COUNTS_AS_ZEROS, file_problems
from utils import InputError, digest_file, read_json, write_json

MAX_AMPLITUDE = 2.0**31  # of floating-point samples: integers that were never scaled are usable

# In libsndfile's log, bytes of sound: those that are announced, and those that are there
CUT_SHORT = re.compile(r"^ *data *: (\d+) \(should be (\d+)\)", re.MULTILINE)
UNKNOWN_LENGTH = 2**32 - 1  # what programs that write a wav into a pipe leave as the length


# Where they are


def find_files(folder: Path, suffix: str) -> list[Path]:
    """Files in and below `folder` whose names end so, in any case, in alphabetical order; links are followed."""

    def stop(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=stop, followlinks=True) if folder.is_dir() else []:
        folders.sort()
        paths = [Path(parent, name) for name in sorted(files) if name.lower().endswith(suffix)]
        found += [path for path in paths if path.is_file()]  # no link to nothing
    return found


def raw_folders(data_path: Path) -> list[Path]:
    """The raw corpora of which `preprocessing.py --out` made the files in `data_path`, or the folder itself."""
    content = None if (data_path / "wav").is_dir() else read_corpus_json(data_path)
    return [Path(path) for path in content["raw"]] if content and content["raw"] else [data_path]


def wav_files(data_path: Path, audio_path: Path | None = None) -> list[Path]:
    """All wavs of `find_wavs`, also where several have one name."""
    folders = raw_folders(data_path)
    if audio_path is None and folders != [data_path]:
        audio_path = read_corpus_json(data_path)["audio_path"]
    if audio_path:
        return find_files(Path(audio_path), ".wav")
    return [path for raw in folders for path in find_files(raw / "wav", ".wav") or find_files(Path("audio"), ".wav")]


def find_wavs(data_path: Path, audio_path: Path | None = None) -> dict[str, Path]:
    """Wavs by segment id, of all corpora of the folder; of several with one name the first in alphabetical order.

    They are looked for in and below `audio_path` if it is given; without it where `preprocessing.py --out` found
    them, if its files are in `data_path`. Otherwise below `data_path/wav`, and if no wav at all is there in `./audio`,
    where the published `audio.zip` unpacks to; never in both, since another corpus's wavs may have the same ids.
    """
    return {path.stem: path for path in reversed(wav_files(data_path, audio_path))}


def first_of_each(files: Iterable[Path], ids: Iterable[str], kind: str) -> tuple[dict[str, Path], list[tuple]]:
    """By id the first of `files` that is called after it, and problems (see `file_problems`) of the others."""
    wanted, first, problems = set(ids), {}, []
    for path in files:
        if path.stem in wanted and first.setdefault(path.stem, path) is not path:
            done = "the first in alphabetical order is used"
            problems.append((path, path.stem, f"second {kind} of one id", "", done))
    return first, problems


def check_wavs(data_path: Path, audio_path: Path | None, ids: Sequence[str]) -> pd.DataFrame:
    """The problems of the wavs: ids without one, or with one that cannot be used.

    Raises
    ------
    InputError : there is no folder `audio_path`
    """
    if audio_path is not None and not audio_path.is_dir():
        raise InputError(f"--audio_path {audio_path}: no such folder")
    wavs, problems = first_of_each(wav_files(data_path, audio_path), ids, "wav")
    with ThreadPoolExecutor() as pool:  # reading the head of a file is mostly waiting
        faults = tqdm(pool.map(wav_fault, wavs.values()), "wavs", len(wavs), unit="file")
        faults = dict(zip(wavs, faults, strict=True))
    for segment in ids:
        if segment not in wavs:
            problems.append((audio_path or data_path / "wav", segment, "no wav", "", COUNTS_AS_ZEROS))
        elif fault := faults[segment]:
            problems.append((wavs[segment], segment, "wav that cannot be used", fault, COUNTS_AS_ZEROS))
    return file_problems(data_path, problems)


# Their faults and samples


def wav_fault(path: Path) -> str | None:
    """Why a wav cannot be used as far as its head says, or None: it is no sound, has no sample, or is cut short."""
    try:
        info = soundfile.info(path, verbose=True)
    except soundfile.SoundFileError as error:
        return f"not readable as sound ({getattr(error, 'error_string', error)})"
    if info.frames == 0:
        return "holds no sample of sound"
    for announced, present in CUT_SHORT.findall(info.extra_info):  # libsndfile reads it without a word
        if int(present) < int(announced) < UNKNOWN_LENGTH:
            return f"cut short, {present} of {announced} bytes of sound are there"
    return None


def read_wav(path: Path, sr: int = SAMPLE_RATE) -> np.ndarray:
    """A wav of any rate and any number of channels as mono float32 in [-1, 1] at `sr` Hz, shape = (samples,).

    Raises `InputError` where it cannot be used, see `wav_fault`, or holds samples that are not numbers.
    """
    fault = wav_fault(path)
    if fault is None:
        try:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            if np.abs(samples).max() <= MAX_AMPLITUDE:  # which no NaN is
                return resample(samples, rate, sr)
            fault = f"holds samples that are not numbers from {-MAX_AMPLITUDE:.0f} to {MAX_AMPLITUDE:.0f}"
        except (soundfile.SoundFileError, ValueError) as error:
            fault = f"not readable as sound ({error})"
    raise InputError(f"{path}: {fault}; replace it or take it away")


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
    """SHA-256 of the content of the wav of each id that has one.

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
    changed = [path for path, time in times.items() if index.get(path, [])[:2] != time]
    if changed:
        with ThreadPoolExecutor() as pool:  # hashing leaves other threads free to run
            digests = tqdm(pool.map(digest_file, map(Path, changed)), "hashes of wavs", len(changed), unit="file")
            index |= {path: [*times[path], digest] for path, digest in zip(changed, digests, strict=True)}
        with contextlib.suppress(OSError, InputError):  # where nothing can be written they are read again next time
            index_path.parent.mkdir(exist_ok=True)
            write_json(index_path, index)
    return {segment: index[path][2] for segment, path in paths.items()}


def audio_digest(hashes: Mapping[str, str], ids: Iterable[str]) -> str:
    """SHA-256 of the hashes of all wavs of these ids, in their order; an id without a wav counts as such."""
    lines = (f"{segment} {hashes.get(segment, '')}\n" for segment in ids)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
