"""Log-mels: from a wav to the standardised spectrograms that are the input of the model."""

from __future__ import annotations

import copy
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torchaudio
from torch import Tensor

import corpora.wavs
from constants import F_MAX, F_MIN, HOP_LENGTH, MAX_SECONDS, N_FFT, N_MELS, POWER_FLOOR, STANDARDISE_EPS, n_frames
from constants import SAMPLE_RATE as RATE
from features.store import FeatureStore, try_to_read, wavs_and_hashes
from utils import InputError, digest_file

SILENCE = 10 * math.log10(POWER_FLOOR)  # -100 dB
AT_ONCE = 4  # windows at a time on a CPU: a few MB, which fit into its caches
THREADS = threading.Lock()  # of `use_one_thread`
# Digests of the code that computes frames; read at import, as the files may be edited while the program runs
CODE = [digest_file(Path(file)) for file in (__file__, corpora.wavs.__file__)]


@cache
def _mel_transform(sr: int) -> torchaudio.transforms.MelSpectrogram:
    """Power on the mel scale, made once per sampling rate; at a low `sr` some filters are empty."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return torchaudio.transforms.MelSpectrogram(
            sr, n_fft=N_FFT, hop_length=HOP_LENGTH, f_min=F_MIN, f_max=min(F_MAX, sr / 2), n_mels=N_MELS, power=2.0
        )


def decibel_frames(wave: np.ndarray, sr: int = RATE) -> Tensor:
    """Log-mel of `wave` (float32 in [-1, 1]) padded to 10 s or longer, without the -100 dB frames at its end.

    float32, shape = (frames, 229): 10 log10(max(power, 1e-10)) in dB. Frame t is centred on sample 512 t.
    """
    n = len(wave)
    # Frames with all 2048 samples after the end of the audio are left out; the others need at most this many zeros
    padded = torch.zeros(max(n, min(MAX_SECONDS * sr, n + N_FFT + HOP_LENGTH)))
    padded[:n] = torch.from_numpy(wave)
    power = _mel_transform(sr)(padded)
    sounding = min(power.shape[1], math.ceil((n + N_FFT // 2) / HOP_LENGTH))
    return 10 * torch.log10(power[:, :sounding].clamp(min=POWER_FLOOR)).T


def log_mel(wave: np.ndarray, sr: int = RATE) -> Tensor:
    """The frames of `decibel_frames` in the form for `LogMels`: float16, shape = (frames, 229).

    For an utterance over 10 s, the frames of its central 10 s are appended, computed from those samples alone.
    """
    frames = decibel_frames(wave, sr)
    start = (len(wave) - MAX_SECONDS * sr) // 2
    if len(wave) > MAX_SECONDS * sr:
        frames = torch.cat([frames, decibel_frames(wave[start : start + MAX_SECONDS * sr], sr)])
    return frames.half()


def use_one_thread() -> None:
    """Let torch use a single thread for the operations of this thread.

    torch.set_num_threads also applies to threads that start later; a short-lived second thread resets that default.
    """
    with THREADS:
        of_others = torch.get_num_threads()
        torch.set_num_threads(1)
        resetting = threading.Thread(target=torch.set_num_threads, args=(of_others,))
        resetting.start()
        resetting.join()


def on_all_cores(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Apply `function` to each item, in order, in threads (soundfile and torch release the GIL)."""
    with ThreadPoolExecutor(os.cpu_count(), initializer=use_one_thread) as pool:
        yield from pool.map(function, items)


class LogMels:
    """Log-mels of N utterances: all frames in one tensor, standardised when a batch is made.

    A spectrogram covers 10 s: the central 10 s of a longer utterance; a shorter one is padded with silence. It has mean
    0 and variance 1 over all its values (biased variance, plus 1e-5).

    frames_of_each : the result of `log_mel` for each utterance, or None if it has no wav; iterated over twice
    """

    def __init__(self, frames_of_each: Iterable[Tensor | None], sr: int = RATE) -> None:
        self.n_frames = n_frames(sr)
        rows = [0 if frames is None else len(frames) for frames in frames_of_each]
        rows = torch.tensor([*rows, 0])  # the last one, index -1 for padding, has no frames
        self.first = 1 + rows.cumsum(0) - rows
        is_longer = rows > self.n_frames
        self.longer, self.whole = is_longer.nonzero()[:, 0], rows - self.n_frames * is_longer
        self.start = self.first + self.whole * is_longer
        # In dB; row 0 is silence, used for padding
        self.frames = torch.full((1 + int(rows.sum()), N_MELS), SILENCE, dtype=torch.float16)
        for first, frames in zip(self.first.tolist(), frames_of_each, strict=False):
            if frames is not None:
                self.frames[first : first + len(frames)] = frames
        self.mean, self.rstd = torch.full((len(rows), 1, 1), SILENCE), torch.zeros(len(rows), 1, 1)
        self._standardise(rows.nonzero()[:, 0])

    def __len__(self) -> int:
        return len(self.start) - 1

    def to(self, device: torch.device | str) -> LogMels:
        """A copy on `device`, which also computes the spectrograms there."""
        moved = copy.copy(self)
        vars(moved).update({name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)})
        return moved

    def cropped(self, places: Tensor) -> LogMels:
        """A copy with other crops of utterances over 10 s; `places`: float32 from 0 (start) to 1, shape = (N,)."""
        cropped = copy.copy(self)
        cropped.start, cropped.mean, cropped.rstd = self.start.clone(), self.mean.clone(), self.rstd.clone()
        places = places.to(self.start.device, non_blocking=True)[self.longer]
        offsets = (places * (self.whole[self.longer] - self.n_frames + 1)).long()
        cropped.start[self.longer] = self.first[self.longer] + offsets
        cropped._standardise(self.longer)
        return cropped

    def spectrograms(self, windows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standardised log-mels of windows of utterances, shape = (B, ws) -> (B, ws, 229, 313), channels-last.

        `windows` has int64 indices of utterances, -1 for padding. Padding and utterances without a wav are zeros.
        The computation is in float32, whatever the `dtype` of the result.
        """
        settings = {"dtype": dtype, "device": windows.device, "memory_format": torch.channels_last}
        result = torch.empty(*windows.shape, N_MELS, self.n_frames, **settings)
        at_once = AT_ONCE if windows.device.type == "cpu" else max(1, len(windows))
        for part, into in zip(windows.split(at_once), result.split(at_once), strict=True):
            decibels = self._frames_of(part).float()
            into.copy_(decibels.sub_(self.mean[part]).mul_(self.rstd[part]).to(dtype).mT)
        return result

    def _frames_of(self, utterances: Tensor) -> Tensor:
        """Frames of 10 s in dB, shape = (...) -> (..., 313, 229)."""
        frame = torch.arange(self.n_frames, device=utterances.device)
        rows = torch.where(frame < self.whole[utterances, None], self.start[utterances, None] + frame, 0)
        return self.frames.index_select(0, rows.flatten()).view(*rows.shape, N_MELS)

    def _standardise(self, utterances: Tensor) -> None:
        """Compute mean and 1 / standard deviation of the spectrograms of `utterances`, about 20 MB at a time."""
        for part in utterances.split(8 if utterances.device.type == "cpu" else 64):
            frames = self._frames_of(part).float()
            _, mean, rstd = torch.native_layer_norm(frames, frames.shape[1:], None, None, STANDARDISE_EPS)
            self.mean[part], self.rstd[part] = mean, rstd


def load_log_mels(
    data_path: Path, audio_path: Path | None, sr: int, table: pd.DataFrame
) -> tuple[LogMels, FeatureStore]:
    """Log-mels of a table's utterances, computed once per corpus, and their store."""

    def compute(path: Path) -> Tensor | InputError:
        wave = try_to_read(path, sr)
        return wave if isinstance(wave, InputError) else log_mel(wave, sr)

    constants = (N_FFT, HOP_LENGTH, N_MELS, F_MIN, F_MAX, POWER_FLOOR, MAX_SECONDS)
    settings = {"sr": sr, "constants": constants, "code": CODE}
    folder, wavs = data_path / "features" / f"log_mel-{sr}", wavs_and_hashes(data_path, audio_path, table)
    store = FeatureStore(folder, settings, table, *wavs)
    store.fill(partial(on_all_cores, compute), "log-mels")
    return LogMels(store, sr), store
