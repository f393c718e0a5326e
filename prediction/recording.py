"""Recording: a sound file of any length, read a segment at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from constants import MAX_SECONDS
from corpora.wavs import MAX_AMPLITUDE, SAMPLE_RATES, to_mono
from utils import InputError

MAX_CHANNELS = 64


class Recording:
    """A sound file that libsndfile reads, of any rate, length and number of channels.

    Attributes
    ----------
    rate : Hz
    duration : s

    Raises
    ------
    InputError : it is missing, holds no sound, or is not readable as such
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected a recording, or a folder of wavs")
        try:
            info = soundfile.info(path)
        except soundfile.SoundFileError as error:
            formats = "WAV, FLAC, OGG or MP3"
            raise InputError(f"{path}: not readable as sound ({error}); convert it to {formats}") from error
        self.rate, self.duration = info.samplerate, info.frames / info.samplerate
        low, high = SAMPLE_RATES
        if info.frames == 0 or not low <= self.rate <= high or info.channels > MAX_CHANNELS:
            raise InputError(
                f"{path}: {info.frames} samples of {info.channels} channels at {self.rate} Hz, expected sound of "
                f"{low} to {high} Hz and at most {MAX_CHANNELS} channels"
            )

    def read(self, start: float, end: float, sr: int, longest: int = MAX_SECONDS) -> np.ndarray:
        """The sound from `start` to `end` (s) as mono float32 at `sr` Hz; the central `longest` s if it is longer.

        They are those that the segment's own wav would give. Hardly more than them is read, whatever the segment's
        length: whole seconds, so that a new sample lies where it lies in the whole, and a margin for the resampler.

        Raises
        ------
        InputError : the file is damaged there
        """
        first, last = round(start * self.rate), round(end * self.rate)
        samples = math.ceil((last - first) * (sr / self.rate))  # once resampled, as librosa counts them
        begin = max(0, (samples - longest * sr) // 2)
        second = max(0, begin // sr - 1)
        n = min(last - first - second * self.rate, (longest + 3) * self.rate)
        try:
            with soundfile.SoundFile(self.path) as file:
                file.seek(first + second * self.rate)
                wave = file.read(n, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise InputError(f"{self.path}: not readable from {start:.2f} to {end:.2f} s ({error})") from error
        if len(wave) == 0 or not np.isfinite(wave).all() or np.abs(wave).max() > MAX_AMPLITUDE:
            what = "samples that are not numbers" if len(wave) else "no sound"
            raise InputError(f"{self.path}: holds {what} from {start:.2f} to {end:.2f} s; is the file whole?")
        return to_mono(wave, self.rate, sr)[begin - second * sr :][: longest * sr]


class Clip(NamedTuple):
    """A segment of a recording, which is read when it is needed; `start` and `end` in s."""

    recording: Recording
    start: float
    end: float

    def read(self, sr: int, longest: int = MAX_SECONDS) -> np.ndarray:
        """See `Recording.read`."""
        return self.recording.read(self.start, self.end, sr, longest)
