"""Annotation tables, windows of utterances, log-mel features, and the torch Dataset that joins them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from constants import (
    AFFECT_RANGE,
    N_EMOTIONS,
    N_RATERS,
)
from corpora.kemdy19 import SEGMENT_ID
from corpora.labels import emotion_index, parse_emotions
from features.log_mel import LogMels
from utils import MAX_TABLE_BYTES, InputError, decode, read_bounded

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
        text = decode(read_bounded(path, MAX_TABLE_BYTES), path)
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
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


# Dataset


WINDOWS_AT_ONCE = 4  # on a CPU: a few MB, which its caches hold and the allocator hands out again


class Batch(NamedTuple):
    """Tensors of B windows; a modality that is left out is None.

    audio : float32 or bfloat16, shape = (B, ws, 229, 313), channels-last    text : float32, shape = (B, ws, text_dim)
    emotion : float32, shape = (B, 7), soft or multi-hot        arousal, valence : float32, shape = (B, 1)
    """

    audio: Tensor | None
    text: Tensor | None
    emotion: Tensor
    arousal: Tensor
    valence: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on `device`; what is copied to a GPU passes through pinned memory, so that nothing waits for it."""

        def move(t: Tensor) -> Tensor:
            pinned = t.pin_memory() if device.type == "cuda" and t.device.type == "cpu" else t
            return pinned.to(device, non_blocking=True)

        return Batch(*(None if t is None else move(t) for t in self))


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
    audio_dtype : of the log-mels in a batch

    Attributes
    ----------
    ids : segment ids of the targets
    device : where its data are and its batches are made: that of `log_mels` and `text`
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
        audio_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.targets, self.log_mels, self.crop_seed, self.audio_dtype = targets, log_mels, crop_seed, audio_dtype
        self.ids = [annotation.ids[target] for target in targets]
        self.windows = torch.from_numpy(make_windows(annotation.dialogue, ws)[targets])
        self.device = (text if log_mels is None else log_mels.frames).device
        emotion = annotation.soft if soft_targets else annotation.majority
        self.emotion = torch.from_numpy(emotion[targets]).to(self.device)
        self.class_counts = annotation.majority[targets].sum(axis=0).astype(np.int64)
        self.arousal = torch.from_numpy(annotation.arousal[targets])[:, None].to(self.device)
        self.valence = torch.from_numpy(annotation.valence[targets])[:, None].to(self.device)
        # The last row, which the -1 of a padded window finds, is zeros
        self.text = None if text is None else torch.cat([text, torch.zeros_like(text[:1])])
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw new crops for utterances over 10 s: the same ones for the same seed and epoch."""
        self.crop = None
        if self.crop_seed is not None and self.log_mels is not None:
            generator = torch.Generator().manual_seed(self.crop_seed * 1_000_003 + epoch)
            self.crop = torch.rand(len(self.log_mels), generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Batch:
        """One window, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of these windows."""
        indices = torch.as_tensor(indices)
        windows = self.windows[indices]
        audio = None if self.log_mels is None else self._audio(windows)
        text = None if self.text is None else self.text[windows.to(self.device, non_blocking=True)]
        indices = indices.to(self.device, non_blocking=True)
        return Batch(audio, text, self.emotion[indices], self.arousal[indices], self.valence[indices])

    def _audio(self, windows: Tensor) -> Tensor:
        """Log-mels of windows of utterance numbers, zeros for -1; shape = (B, ws) -> (B, ws, 229, 313)."""
        utterances, place = windows.unique(return_inverse=True)
        crop = None if self.crop is None else self.crop[utterances]
        log_mels = self.log_mels.spectrograms(utterances.clamp(min=0), crop, self.audio_dtype)
        if utterances[0] < 0:
            log_mels[0] = 0
        audio = torch.empty(
            *windows.shape,
            *log_mels.shape[1:],
            dtype=log_mels.dtype,
            device=log_mels.device,
            memory_format=torch.channels_last,
        )
        place = place.to(log_mels.device, non_blocking=True)
        for into, part in zip(audio.split(WINDOWS_AT_ONCE), place.split(WINDOWS_AT_ONCE), strict=True):
            into.copy_(log_mels.mT.index_select(0, part.flatten()).unflatten(0, part.shape).mT)
        return audio


class ShuffledBatches(torch.utils.data.Sampler):
    """The numbers below `n` in a random order drawn anew each time, in batches, without a partial last one.

    Parameters
    ----------
    n : how many there are
    batch_size : numbers a batch
    generator : draws the order
    part : of each batch, which is all that is given of it

    Attributes
    ----------
    skip : how many of the first batches are left out; 0 unless it is set
    batches : those that were drawn last, whole, the left out ones too
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator, part: slice = slice(None)) -> None:
        self.n, self.batch_size, self.generator, self.part, self.skip = n, batch_size, generator, part, 0
        self.batches: list[list[int]] = []

    def __len__(self) -> int:
        return self.n // self.batch_size - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.n, generator=self.generator)
        whole = order[: self.n // self.batch_size * self.batch_size].split(self.batch_size)
        self.batches = [batch.tolist() for batch in whole]
        return iter([batch[self.part] for batch in self.batches[self.skip :]])


def unchanged(batch: Batch) -> Batch:
    """`collate_fn` for `WindowDataset`, whose batches are collated already."""
    return batch
