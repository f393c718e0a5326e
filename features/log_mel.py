"""Log-mels: from a wav to the standardised spectrogram that the model sees."""

from __future__ import annotations

import copy
import hashlib
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
def _mel_spectrogram(sr: int) -> torchaudio.transforms.MelSpectrogram:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return torchaudio.transforms.MelSpectrogram(
            sr, n_fft=N_FFT, hop_length=HOP_LENGTH, f_min=F_MIN, f_max=min(F_MAX, sr / 2), n_mels=N_MELS, power=2.0
        )


def decibel_frames(wave: np.ndarray, sr: int = SAMPLE_RATE) -> Tensor:
    """Log-mel frames that hold sound: the log-mel of `wave` padded with zeros to 10 s, less its -100 dB tail.

    Parameters
    ----------
    wave : float32 in [-1, 1] at `sr` Hz, shape = (samples,); beyond 10 s it is taken whole

    Returns
    -------
    float32 tensor, shape = (frames, 229), in dB: 10 log10(max(power, 1e-10)). Frame t is centred on sample 512 t.
    """
    limit, n = MAX_SECONDS * sr, len(wave)
    # Frames whose 2048 samples all lie behind the sound hold nothing; zeros enough that none reaches past the padding
    length = max(n, min(limit, n + N_FFT + HOP_LENGTH))
    padded = torch.zeros(length)
    padded[:n] = torch.from_numpy(wave)
    power = _mel_spectrogram(sr)(padded)
    sounding = min(power.shape[1], -(-(n + N_FFT // 2) // HOP_LENGTH))
    return 10 * torch.log10(power[:, :sounding].clamp(min=POWER_FLOOR)).T


def standardise(decibels: Tensor) -> Tensor:
    """Each spectrogram to mean 0 and variance 1 over all its values (biased variance + 1e-5), shape = (..., 229, T)."""
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
    features = LogMels([central_crop(wave, sr)], sr)
    return features.spectrograms(torch.tensor([0]))[0]


def central_crop(wave: np.ndarray, sr: int = SAMPLE_RATE) -> np.ndarray:
    """The central 10 s of a longer `wave`, a shorter one as it is."""
    start = max(0, (len(wave) - MAX_SECONDS * sr) // 2)
    return wave[start : start + MAX_SECONDS * sr]


def silence(dtype: torch.dtype) -> Tensor:
    """A frame of -100 dB, which padding reads, shape = (1, 229)."""
    return torch.full((1, N_MELS), 10 * np.log10(POWER_FLOOR), dtype=dtype)


def compute_frames(
    waves: Sequence[Path | np.ndarray | None], sr: int, dtype: torch.dtype, quiet: bool
) -> Iterator[Rows | None]:
    """Log-mel frames of each wave in dB, in order, by all cores; they are computed only a few waves ahead.

    Parameters
    ----------
    waves : of each utterance the wav's path or its samples at `sr` Hz, or None where it has none
    sr : Hz

    Yields
    ------
    all frames, shape = (frames, 229), and those of the central 10 s if it is longer, else none; the `InputError` of a
    wav that cannot be used; None for None
    """

    def frames(wave: Path | np.ndarray | None) -> Rows | None:
        if wave is None:
            return None
        try:
            wave = read_wav(wave, sr) if isinstance(wave, Path) else wave
        except InputError as error:
            return error
        except (OSError, soundfile.SoundFileError) as error:
            return InputError(f"{wave}: not readable as sound ({error}); replace it or take it away")
        crop = central_crop(wave, sr)
        whole = decibel_frames(wave, sr).to(dtype)
        return whole, decibel_frames(crop, sr).to(dtype) if len(crop) < len(wave) else whole[:0]

    # soundfile and torch release the interpreter lock: threads are enough, each with a core of its own
    n_threads, of_torch = os.cpu_count(), torch.get_num_threads()
    pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
    pending = deque()
    try:
        with tqdm(total=len(waves), desc="log-mel", unit="utterance", disable=quiet or not waves) as bar:
            for wave in waves:
                pending.append(pool.submit(frames, wave))
                if len(pending) > 8 * n_threads:
                    yield pending.popleft().result()
                    bar.update()
            while pending:
                yield pending.popleft().result()
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(of_torch)  # for threads to come: it was set in those of the pool for all that follow


def open_store(
    folder: Path, wavs: Mapping[str, Path], ids: Sequence[str], sr: int, dtype: torch.dtype, quiet: bool
) -> Frames:
    """Log-mel frames of the utterances `ids` from the feature store in `folder`, which first gets what it lacks.

    If it cannot be written there, the frames are computed without it, with a warning.

    Parameters
    ----------
    wavs : of the whole corpus by segment id
    ids : of the utterances whose frames are wanted; one without a wav has none
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
    return {
        "sr": sr,
        "n_fft": N_FFT,
        "hop_length": HOP_LENGTH,
        "n_mels": N_MELS,
        "f_min": F_MIN,
        "f_max": F_MAX,
        "power_floor": POWER_FLOOR,
        "max_seconds": MAX_SECONDS,
        "code": CODE_DIGEST,
    }


# On a CPU so many are worked on together: tensors of a few MB, which caches like and the allocator hands out again
UTTERANCES_AT_ONCE = 8


class LogMels:
    """Standardised log-mels of many utterances from their frames, which are in memory or in a feature store.

    Parameters
    ----------
    waves : of each utterance the wav's path or its samples at `sr` Hz, or None where it has none; or their frames
    sr : Hz
    dtype : of the frames that are kept: float32, or float16 for half the memory and probabilities within 2e-3

    Attributes
    ----------
    faults : why a wav cannot be used, by number of the utterance; it counts as having none
    """

    def __init__(
        self,
        waves: Sequence[Path | np.ndarray | None] | Frames,
        sr: int = SAMPLE_RATE,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ) -> None:
        if not isinstance(waves, Frames):
            waves = frames_in_memory(silence(dtype), compute_frames(waves, sr, dtype, quiet=not progress))
        self.n_frames = n_frames(sr)
        self.frames, spans, self.faults = waves
        self.start, self.length, self.central_length = spans.unbind(1)

    def __len__(self) -> int:
        return len(self.start)

    def to(self, device: torch.device | str) -> LogMels:
        """The same with the frames on `device`, where spectrograms are then made."""
        moved = copy.copy(self)
        moved.frames = self.frames.to(device)
        return moved

    def spectrograms(
        self, utterances: Tensor, crop: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Standardised log-mels, shape = (len(utterances), 229, 313), a view of (..., 313, 229); zeros without a wav.

        Parameters
        ----------
        utterances : int64 utterance numbers
        crop : float in [0, 1) an utterance, where the 10 s of a longer one begin; without it they are the central ones
        dtype : of the result; it is computed in float32
        """
        start, length = self.start[utterances], self.length[utterances]
        if crop is None:
            central = self.central_length[utterances]
            start, length = torch.where(central > 0, start + length, start), torch.where(central > 0, central, length)
        else:
            start = start + (crop * (length - self.n_frames + 1).clamp(min=0)).long()
            length = length.clamp(max=self.n_frames)
        frame = torch.arange(self.n_frames)
        rows = torch.where(frame < length[:, None], start[:, None] + frame, 0)
        rows = rows.to(self.frames.device, non_blocking=True)
        log_mels = torch.empty(*rows.shape, N_MELS, dtype=dtype, device=rows.device)
        at_once = UTTERANCES_AT_ONCE if rows.device.type == "cpu" else max(1, len(rows))
        for into, part in zip(log_mels.split(at_once), rows.split(at_once), strict=True):
            into.copy_(standardise(self.frames.index_select(0, part.flatten()).float().view_as(into)))
        return log_mels.mT
