"""Log-mels: the way from a wav to the standardised spectrogram that the model sees."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor
from tqdm import tqdm

import corpora.wavs
from constants import (
    F_MAX,
    F_MIN,
    HOP_LENGTH,
    MAX_SECONDS,
    N_FFT,
    N_MELS,
    POWER_FLOOR,
    SAMPLE_RATE,
    STANDARDISE_EPS,
    n_frames,
)
from corpora.wavs import read_wav
from features.store import FeatureStore, Frames, Rows, frames_in_memory
from utils import InputError

# Of the code that makes frames of a wav; read at import, since the files may be edited while the program runs
CODE_DIGEST = hashlib.sha256(Path(__file__).read_bytes() + Path(corpora.wavs.__file__).read_bytes()).hexdigest()


@cache
def _mel_transform(sr: int) -> torchaudio.transforms.MelSpectrogram:
    """Power on the mel scale, made once per sampling rate; at a low `sr` some of its filters are empty."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return torchaudio.transforms.MelSpectrogram(
            sr, n_fft=N_FFT, hop_length=HOP_LENGTH, f_min=F_MIN, f_max=min(F_MAX, sr / 2), n_mels=N_MELS, power=2.0
        )


def decibel_frames(wave: np.ndarray, sr: int = SAMPLE_RATE) -> Tensor:
    """Log-mel frames that hold sound: the log-mel of `wave` padded with zeros to 10 s, without its -100 dB tail.

    Parameters
    ----------
    wave : float32 in [-1, 1] at `sr` Hz, shape = (samples,); if it is longer than 10 s, all of it is used

    Returns
    -------
    float32 tensor, shape = (frames, 229), in dB: 10 log10(max(power, 1e-10)). Frame t is centred on sample 512 t.
    """
    n = len(wave)
    # Frames whose 2048 samples all lie after the sound are silent and left out. So this many zeros are enough: no frame
    # that is kept reaches past them.
    padded = torch.zeros(max(n, min(MAX_SECONDS * sr, n + N_FFT + HOP_LENGTH)))
    padded[:n] = torch.from_numpy(wave)
    power = _mel_transform(sr)(padded)
    sounding = min(power.shape[1], math.ceil((n + N_FFT // 2) / HOP_LENGTH))
    return 10 * torch.log10(power[:, :sounding].clamp(min=POWER_FLOOR)).T


def standardise(decibels: Tensor) -> Tensor:
    """Scale each spectrogram to mean 0 and variance 1 over all its values, shape = (..., 229, T).

    The variance is the biased one, plus 1e-5.
    """
    return torch.nn.functional.layer_norm(decibels, decibels.shape[-2:], eps=STANDARDISE_EPS)


def log_mel(wave: np.ndarray, sr: int = SAMPLE_RATE) -> Tensor:
    """The model's input for one utterance: standardised log-mel of its (central) 10 s.

    Parameters
    ----------
    wave : float32 in [-1, 1] at `sr` Hz, shape = (samples,)

    Returns
    -------
    float32 tensor, shape = (229, 313) at 16 kHz
    """
    log_mels = LogMels.from_waves([central_crop(wave, sr)], sr)
    return log_mels.spectrograms(torch.tensor([0]))[0]


def central_crop(wave: np.ndarray, sr: int = SAMPLE_RATE) -> np.ndarray:
    """The central 10 s of a `wave` that is longer, or all of it."""
    start = max(0, (len(wave) - MAX_SECONDS * sr) // 2)
    return wave[start : start + MAX_SECONDS * sr]


def silence(dtype: torch.dtype) -> Tensor:
    """A frame of -100 dB, which stands in for every frame that is not there, shape = (1, 229)."""
    return torch.full((1, N_MELS), 10 * np.log10(POWER_FLOOR), dtype=dtype)


Wave = Path | np.ndarray | None  # of an utterance: the wav's path, or its samples (float32 in [-1, 1]), or none


def _compute_rows(wave: Wave, sr: int, dtype: torch.dtype) -> Rows | None:
    """The rows of one wave, see `compute_frames`."""
    if wave is None:
        return None
    try:
        samples = read_wav(wave, sr) if isinstance(wave, Path) else wave
    except InputError as error:
        return error
    except (OSError, soundfile.SoundFileError) as error:
        return InputError(f"{wave}: not readable as sound ({error}); replace it or take it away")
    crop = central_crop(samples, sr)
    whole = decibel_frames(samples, sr).to(dtype)
    return whole, decibel_frames(crop, sr).to(dtype) if len(crop) < len(samples) else whole[:0]


def compute_frames(waves: Sequence[Wave], sr: int, dtype: torch.dtype, quiet: bool) -> Iterator[Rows | None]:
    """Log-mel frames of each wave in dB, in order, on all cores; only a few waves are computed in advance.

    Parameters
    ----------
    waves : one per utterance
    sr : Hz, of the frames and of waves that are samples; a file is resampled
    dtype : of the frames
    quiet : without a progress bar

    Yields
    ------
    one item per wave: all its frames, shape = (frames, 229), and the frames of its central 10 s, shape = (0, 229) if it
    is no longer than that; or the `InputError` of a wav that cannot be used; or None for None
    """
    # soundfile and torch release the interpreter lock, so threads are enough; each uses one core
    n_threads, torch_threads = os.cpu_count(), torch.get_num_threads()
    pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
    pending = deque()
    try:
        with tqdm(total=len(waves), desc="log-mel", unit="utterance", disable=quiet or not waves) as bar:
            for wave in waves:
                pending.append(pool.submit(_compute_rows, wave, sr, dtype))
                if len(pending) > 8 * n_threads:
                    yield pending.popleft().result()
                    bar.update()
            while pending:
                yield pending.popleft().result()
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)  # the pool's threads have set it for all threads started later


def open_store(
    folder: Path, wavs: Mapping[str, Path], ids: Sequence[str], sr: int, dtype: torch.dtype, quiet: bool
) -> Frames:
    """Log-mel frames of the utterances `ids` from the feature store in `folder`; what it lacks is computed first.

    If the store cannot be written, the frames are computed in memory, with a warning.

    Parameters
    ----------
    wavs : of the whole corpus by segment id
    ids : segment ids of the utterances whose frames are wanted; one without a wav has no frames
    sr, dtype, quiet : see `compute_frames`
    """
    name = f"log_mel-{sr}-{str(dtype).removeprefix('torch.')}"
    try:
        store = FeatureStore(folder, name, _store_key(sr), wavs, silence(dtype))
        if store.missing():
            with store.build() as build:
                computed = compute_frames([wavs[segment] for segment in build.missing], sr, dtype, quiet)
                for segment, rows in zip(build.missing, computed, strict=True):
                    build.add(segment, rows)
        return store.frames(ids)
    except OSError as error:
        warnings.warn(
            f"{folder}: log-mels cannot be kept there ({error.strerror or error}) and are computed anew", stacklevel=2
        )
        computed = compute_frames([wavs.get(segment) for segment in ids], sr, dtype, quiet)
        return frames_in_memory(silence(dtype), computed)


def _store_key(sr: int) -> dict[str, Any]:
    """What the frames depend on besides the wavs: the constants, and the code that makes frames of a wav."""
    return constants_of(sr) | {"code": CODE_DIGEST}


def constants_of(sr: int) -> dict[str, Any]:
    """The constants that frames depend on."""
    return {
        "sr": sr,
        "n_fft": N_FFT,
        "hop_length": HOP_LENGTH,
        "n_mels": N_MELS,
        "f_min": F_MIN,
        "f_max": F_MAX,
        "power_floor": POWER_FLOOR,
        "max_seconds": MAX_SECONDS,
    }


# Utterances standardised together on a CPU: their tensors of a few MB fit into caches, and their memory is used again
UTTERANCES_AT_ONCE = 8


class LogMels:
    """Standardised log-mels of many utterances, made on demand of frames that are in memory or in a feature store.

    Parameters
    ----------
    frames : of the utterances, see `open_store` and `from_waves`
    sr : Hz, of the audio

    Attributes
    ----------
    faults : why a wav cannot be used, by the utterance's number; such an utterance counts as one without a wav
    """

    def __init__(self, frames: Frames, sr: int = SAMPLE_RATE) -> None:
        self.n_frames = n_frames(sr)
        self.frames, spans, self.faults = frames
        self.start, self.length, self.central_length = spans.unbind(1)

    @classmethod
    def from_waves(
        cls, waves: Sequence[Wave], sr: int = SAMPLE_RATE, dtype: torch.dtype = torch.float32, quiet: bool = True
    ) -> LogMels:
        """Log-mels whose frames are computed now and kept in memory; for the parameters see `compute_frames`.

        float16 takes half the memory of float32, and moves probabilities by less than 2e-3.
        """
        return cls(frames_in_memory(silence(dtype), compute_frames(waves, sr, dtype, quiet)), sr)

    def __len__(self) -> int:
        return len(self.start)

    def to(self, device: torch.device | str) -> LogMels:
        """A copy with its frames on `device`, where the spectrograms are then made."""
        moved = copy.copy(self)
        for name in ("frames", "start", "length", "central_length"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def spectrograms(
        self, utterances: Tensor, crop: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Standardised log-mels, shape = (len(utterances), 229, 313); zeros for an utterance without a wav.

        In memory the frames of an utterance follow one another: the result is the view of a (..., 313, 229) tensor.

        Parameters
        ----------
        utterances : int64, their numbers
        crop : float in [0, 1) per utterance: where the 10 s of a longer one begin; by default they are the central 10 s
        dtype : of the result; the computation is in float32
        """
        utterances = utterances.to(self.frames.device, non_blocking=True)  # few bytes, unlike `rows`
        start, length = self.start[utterances], self.length[utterances]
        if crop is None:
            central = self.central_length[utterances]
            start, length = torch.where(central > 0, start + length, start), torch.where(central > 0, central, length)
        else:
            crop = crop.to(self.frames.device, non_blocking=True)
            start = start + (crop * (length - self.n_frames + 1).clamp(min=0)).long()
            length = length.clamp(max=self.n_frames)
        frame = torch.arange(self.n_frames, device=self.frames.device)
        rows = torch.where(frame < length[:, None], start[:, None] + frame, 0)
        log_mels = torch.empty(*rows.shape, N_MELS, dtype=dtype, device=rows.device)
        at_once = UTTERANCES_AT_ONCE if rows.device.type == "cpu" else max(1, len(rows))
        for into, part in zip(log_mels.split(at_once), rows.split(at_once), strict=True):
            into.copy_(standardise(self.frames.index_select(0, part.flatten()).float().view_as(into)))
        return log_mels.mT
