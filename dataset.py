"""Annotation tables, windows of utterances, log-mel features, and the torch Dataset that joins them."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile
import soxr
import torch
import torchaudio
from torch import Tensor
from tqdm import tqdm

from constants import (
    AFFECT_RANGE,
    F_MAX,
    F_MIN,
    HOP_LENGTH,
    MAX_SECONDS,
    N_EMOTIONS,
    N_FFT,
    N_MELS,
    N_RATERS,
    POWER_FLOOR,
    SAMPLE_RATE,
    SEGMENT_ID,
    STANDARDISE_EPS,
    n_frames,
)
from corpus import check_wav, decode, emotion_index, parse_emotions
from utils import InputError

# Annotation


@dataclass(frozen=True)
class Annotation:
    """The utterances of `df_speaker.csv` or `df_listener.csv`, in the file's order.

    ids : N segment ids
    session : int64, shape = (N,)
    dialogue : int64, shape = (N,), equal for the utterances of one dialogue
    majority : float32 multi-hot majority label(s), shape = (N, 7)
    soft : float32 share of the raters' votes, shape = (N, 7)
    arousal, valence : float32, shape = (N,), 1 to 5
    """

    ids: list[str]
    session: np.ndarray
    dialogue: np.ndarray
    majority: np.ndarray
    soft: np.ndarray
    arousal: np.ndarray
    valence: np.ndarray


def read_annotation(path: Path) -> Annotation:
    """Read a table that preprocessing.py wrote, or a published one of the same name.

    Raises
    ------
    InputError : it is missing, lacks a column, or a row holds what cannot be a segment id, a label or a rating
    """
    try:
        table = pd.read_csv(io.StringIO(decode(path.read_bytes(), path)), dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; run preprocessing.py --data_path {path.parent} first") from error
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path}: not readable as a CSV table ({error})") from error
    votes = [f"Emotion.{rater}" for rater in range(1, N_RATERS + 1)]
    absent = [c for c in ("Segment ID", "Emotion", "Arousal", "Valence", *votes) if c not in table.columns]
    if absent:
        found = ", ".join(map(repr, table.columns[:3]))
        raise InputError(
            f"{path}: has no column {absent[0]!r}, its first ones are {found}; expected the columns that "
            "preprocessing.py writes, separated by commas"
        )
    if table.empty:
        raise InputError(f"{path}: has no rows")

    n = len(table)
    ids = table["Segment ID"].tolist()
    session = np.empty(n, dtype=np.int64)
    majority, soft = np.zeros((n, N_EMOTIONS), dtype=np.float32), np.zeros((n, N_EMOTIONS), dtype=np.float32)
    affect = np.empty((n, 2), dtype=np.float32)
    dialogues, seen = [], set()
    last: dict[str, int] = {}  # running number by dialogue and speaker
    backwards = []
    cells = table[["Emotion", "Arousal", "Valence", *votes]].itertuples(index=False, name=None)
    for row, (segment, (emotion, arousal, valence, *rated)) in enumerate(zip(ids, cells, strict=True)):
        match = SEGMENT_ID.fullmatch(segment)
        if match is None or segment in seen:
            found = "occurs twice" if match else "expected an id such as Sess01_script01_F001"
            raise InputError(f"{path}, row {row + 2}: segment id {segment!r}: {found}")
        seen.add(segment)
        session[row] = int(match["session"])
        dialogues.append(segment.rpartition("_")[0])
        if int(match["sequence"]) < last.get(segment[:-3], 0):
            backwards.append(segment)
        last[segment[:-3]] = int(match["sequence"])
        try:
            majority[row, parse_emotions(emotion)] = 1
            for vote in filter(str.strip, rated):
                soft[row, emotion_index(vote)] += 1
            affect[row] = float(arousal), float(valence)
        except ValueError as error:
            raise InputError(f"{path}, row {row + 2} ({segment}): {error}") from error
        if not ((AFFECT_RANGE[0] <= affect[row]) & (affect[row] <= AFFECT_RANGE[1])).all():
            raise InputError(
                f"{path}, row {row + 2} ({segment}): arousal {arousal}, valence {valence}; expected 1 to 5"
            )
        if not soft[row].any():
            raise InputError(f"{path}, row {row + 2} ({segment}): no rater's emotion in Emotion.1 to Emotion.10")
    if backwards:
        warnings.warn(
            f"{path}: {len(backwards)} utterances such as {backwards[0]} stand behind later ones of their dialogue; "
            "windows follow the order of the file, so it should be the order of time",
            stacklevel=2,
        )
    return Annotation(
        ids=ids,
        session=session,
        dialogue=pd.factorize(pd.Series(dialogues))[0],
        majority=majority,
        soft=soft / soft.sum(axis=1, keepdims=True),
        arousal=affect[:, 0],
        valence=affect[:, 1],
    )


def make_windows(dialogue: np.ndarray, ws: int) -> np.ndarray:
    """Windows of the last `ws` utterances of a dialogue, one window an utterance, itself last.

    Parameters
    ----------
    dialogue : shape = (N,), equal for the utterances of one dialogue, in time order within it
    ws : utterances in a window

    Returns
    -------
    int64, shape = (N, ws) : utterance numbers in time order, padded on the left with -1
    """
    order = np.argsort(dialogue, kind="stable")
    grouped = dialogue[order]
    position = np.arange(len(order))[:, None] + np.arange(1 - ws, 1)
    inside = (position >= 0) & (grouped[position.clip(0)] == grouped[:, None])
    windows = np.empty((len(order), ws), dtype=np.int64)
    windows[order] = np.where(inside, order[position.clip(0)], -1)
    return windows


# Log-mel


@cache
def _mel_spectrogram(sr: int) -> torchaudio.transforms.MelSpectrogram:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return torchaudio.transforms.MelSpectrogram(
            sr, n_fft=N_FFT, hop_length=HOP_LENGTH, f_min=F_MIN, f_max=min(F_MAX, sr / 2), n_mels=N_MELS, power=2.0
        )


def read_wav(path: Path, sr: int = SAMPLE_RATE) -> np.ndarray:
    """A wav of any rate and any number of channels as mono float32 in [-1, 1] at `sr` Hz, shape = (samples,).

    Raises
    ------
    InputError : it is not readable as sound (see `corpus.check_wav`), or holds samples that are not numbers
    """
    check_wav(path)
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(f"{path}: not readable as sound ({error}); replace it or take it away") from error
    if not np.isfinite(wave).all():
        raise InputError(f"{path}: holds samples that are not numbers; replace it or take it away")
    wave = wave.mean(axis=1)
    return wave if rate == sr else soxr.resample(wave, rate, sr, quality="HQ")


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
    variance, mean = torch.var_mean(decibels, dim=(-2, -1), correction=0, keepdim=True)
    return (decibels - mean) / torch.sqrt(variance + STANDARDISE_EPS)


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


class LogMels:
    """Log-mel frames of many utterances, one behind the other in memory; padding is implied.

    Parameters
    ----------
    waves : of each utterance the wav's path or its samples at `sr` Hz, or None where it has none
    sr : Hz
    """

    def __init__(self, waves: Sequence[Path | np.ndarray | None], sr: int = SAMPLE_RATE, progress: bool = False):
        self.n_frames = n_frames(sr)
        silence = torch.full((1, N_MELS), 10 * np.log10(POWER_FLOOR))

        def frames(wave: Path | np.ndarray | None) -> tuple[Tensor, Tensor]:
            """All frames, and where the utterance is longer than 10 s those of its central 10 s."""
            if wave is None:
                return silence[:0], silence[:0]
            wave = read_wav(wave, sr) if isinstance(wave, Path) else wave
            crop = central_crop(wave, sr)
            whole = decibel_frames(wave, sr)
            return whole, decibel_frames(crop, sr) if len(crop) < len(wave) else silence[:0]

        # soundfile and torch release the interpreter lock: threads are enough
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(
                tqdm(
                    pool.map(frames, waves),
                    total=len(waves),
                    desc="log-mel",
                    unit="utterance",
                    disable=not progress,
                )
            )
        whole, central = zip(*parts, strict=True) if parts else ((), ())
        pieces = [silence, *whole, *central]  # row 0 is what padding reads
        ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        n = len(waves)
        self.frames = torch.cat(pieces)
        self.start, self.length = starts[1 : n + 1], (ends - starts)[1 : n + 1]
        self.central_start, self.central_length = starts[n + 1 :], (ends - starts)[n + 1 :]

    def spectrograms(self, utterances: Tensor, crop: Tensor | None = None) -> Tensor:
        """Standardised log-mels, float32, shape = (len(utterances), 229, 313); zeros where there is no wav.

        Parameters
        ----------
        utterances : int64 utterance numbers
        crop : float in [0, 1) an utterance, where the 10 s of a longer one begin; without it they are the central ones
        """
        start, length = self.start[utterances], self.length[utterances]
        if crop is None:
            longer = self.central_length[utterances] > 0
            start = torch.where(longer, self.central_start[utterances], start)
            length = torch.where(longer, self.central_length[utterances], length)
        else:
            start = start + (crop * (length - self.n_frames + 1).clamp(min=0)).long()
            length = length.clamp(max=self.n_frames)
        frame = torch.arange(self.n_frames)
        rows = torch.where(frame < length[:, None], start[:, None] + frame, 0)
        return standardise(self.frames[rows].transpose(1, 2))


# Dataset


class Batch(NamedTuple):
    """Tensors of B windows; a modality that is left out is None.

    audio : float32, shape = (B, ws, 229, 313)        text : float32, shape = (B, ws, text_dim)
    emotion : float32, shape = (B, 7), soft or multi-hot        arousal, valence : float32, shape = (B, 1)
    """

    audio: Tensor | None
    text: Tensor | None
    emotion: Tensor
    arousal: Tensor
    valence: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(None if t is None else t.to(device, non_blocking=True) for t in self))


class WindowDataset(torch.utils.data.Dataset):
    """Windows whose last utterance is one of `targets`, a whole batch at a time.

    A `DataLoader` with `collate_fn=unchanged` hands `__getitems__` the window numbers of a batch and gets its tensors;
    an utterance that occurs in several windows of a batch is transformed once.

    Parameters
    ----------
    annotation : all utterances of one role
    targets : numbers of the utterances whose windows belong to this set
    ws : utterances in a window
    log_mels : of all utterances, or None to leave audio out
    text : float32, sentence embeddings of all utterances, shape = (N, text_dim), or None to leave text out
    soft_targets : the raters' shares; otherwise the majority labels, multi-hot
    crop_seed : of random crops of utterances over 10 s, anew every epoch; None for the central ones

    Attributes
    ----------
    class_counts : int64, shape = (7,), how often each emotion is a majority label of a target, ties counting each
    """

    def __init__(
        self,
        annotation: Annotation,
        targets: np.ndarray,
        ws: int,
        log_mels: LogMels | None,
        text: Tensor | None,
        soft_targets: bool,
        crop_seed: int | None = None,
    ) -> None:
        self.targets, self.log_mels, self.crop_seed = targets, log_mels, crop_seed
        self.windows = torch.from_numpy(make_windows(annotation.dialogue, ws)[targets])
        emotion = annotation.soft if soft_targets else annotation.majority
        self.emotion = torch.from_numpy(emotion[targets])
        self.class_counts = annotation.majority[targets].sum(axis=0).astype(np.int64)
        self.arousal = torch.from_numpy(annotation.arousal[targets])[:, None]
        self.valence = torch.from_numpy(annotation.valence[targets])[:, None]
        # The last row, which the -1 of a padded window finds, is zeros
        self.text = None if text is None else torch.cat([text, torch.zeros(1, text.shape[1])])
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw new crops for utterances over 10 s: the same ones for the same seed and epoch."""
        self.crop = None
        if self.crop_seed is not None and self.log_mels is not None:
            generator = torch.Generator().manual_seed(self.crop_seed * 1_000_003 + epoch)
            self.crop = torch.rand(len(self.log_mels.start), generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Batch:
        """One window, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of these windows."""
        indices = torch.as_tensor(indices)
        windows = self.windows[indices]
        audio = None
        if self.log_mels is not None:
            utterances, place = windows.unique(return_inverse=True)
            padded = utterances < 0
            crop = None if self.crop is None else self.crop[utterances]
            spectrograms = self.log_mels.spectrograms(utterances.clamp(min=0), crop)
            spectrograms[padded] = 0
            audio = spectrograms[place]
        text = None if self.text is None else self.text[windows]
        return Batch(audio, text, self.emotion[indices], self.arousal[indices], self.valence[indices])


class ShuffledBatches(torch.utils.data.Sampler):
    """The numbers below `n` in a random order drawn anew each time, in batches, without a partial last one.

    Parameters
    ----------
    n : how many there are
    batch_size : numbers a batch
    generator : draws the order

    Attributes
    ----------
    skip : how many of the first batches are left out; 0 unless it is set
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator) -> None:
        self.n, self.batch_size, self.generator, self.skip = n, batch_size, generator, 0

    def __len__(self) -> int:
        return self.n // self.batch_size - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.n, generator=self.generator)
        whole = order[: self.n // self.batch_size * self.batch_size].split(self.batch_size)
        return (batch.tolist() for batch in whole[self.skip :])


def unchanged(batch: Batch) -> Batch:
    """`collate_fn` for `WindowDataset`, whose batches are collated already."""
    return batch
