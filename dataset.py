"""Dataset: the features of a corpus's utterances, windows of utterances, and batches of windows."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from constants import OTHER_SPEAKER, PADDING, SAME_SPEAKER
from corpora.tables import multi_hot
from corpora.utterances import shares
from features.encoders import load_stored, load_text
from features.log_mel import LogMels, load_log_mels, use_one_thread
from utils import InputError

MISSING_LIMIT = 0.05  # share of the utterances that may have no wav or no text


@dataclass
class Features:
    """The model's inputs for N utterances; an unused modality is None."""

    log_mels: LogMels | None
    text: Tensor | None  # float32 sentence embeddings, shape = (N, text_dim)
    speech: Tensor | None  # speech encoder embeddings instead of log-mels, shape = (N, layers, dimension)
    missing: dict[str, list[str]] = field(default_factory=dict)  # ids of the utterances without `wav`, without `text`

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors of all modalities."""
        return [t for t in (self.log_mels and self.log_mels.frames, self.text, self.speech) if t is not None]

    def to(self, device: torch.device) -> Features:
        """The features on a CUDA GPU if they fit into a quarter of its free memory, else unchanged."""
        n_bytes = sum(tensor.nbytes for tensor in self.tensors)
        if device.type != "cuda" or n_bytes > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        parts = (self.log_mels, self.text, self.speech)
        return Features(*(None if part is None else part.to(device) for part in parts), self.missing)


def load_features(options: argparse.Namespace, table: pd.DataFrame) -> Features:
    """The inputs of `--modality` for the utterances of a table; warns of utterances without wav or text.

    Raises `InputError` if an input cannot be read, or is missing for more than 5% of the utterances or a full session.
    """
    features, data_path = Features(None, None, None), options.data_path
    if "text" in options.modality:
        features.text, is_missing = load_text(data_path, options.text_model, options.text_dim, table)
        features.missing["text"] = report_missing(table, is_missing, "text embedding", data_path)
    if "audio" in options.modality:
        if options.audio == "encoder":
            features.speech, store = load_stored(data_path, options.audio_path, "speech", options.audio_model, table)
        else:
            features.log_mels, store = load_log_mels(data_path, options.audio_path, options.sr, table)
        reason = f"; first {next(iter(store.faults.values()))}" if store.faults else ""
        is_missing = ~table["id"].isin(store.hashes.keys() - store.faults.keys())
        features.missing["wav"] = report_missing(table, is_missing, "wav", options.audio_path or data_path, reason)
    return features


def report_missing(table: pd.DataFrame, is_missing: pd.Series, what: str, where: Path, reason: str = "") -> list[str]:
    """Warn of the utterances without `what` ("wav" or "text embedding"), which become zeros; return their ids.

    Raises `InputError` if they are more than 5%, or all of a session.
    """
    ids, of_session = table["id"][is_missing].tolist(), is_missing.groupby(table["session"]).mean()
    found = f"{where}: {len(ids)} of {len(table)} utterances have no usable {what}"
    if len(ids) > MISSING_LIMIT * len(table) or of_session.max() == 1:
        found += f", {of_session.max():.0%} of session {of_session.idxmax()}, such as {ids[0]}"
        raise InputError(
            f"{found}; at most {MISSING_LIMIT:.0%} may be missing; give the right path or another --modality{reason}"
        )
    if ids:
        warnings.warn(f"{found}; zeros are used for {', '.join(ids)}{reason}", stacklevel=3)
    return ids


def make_windows(dialogue: Sequence[object], ws: int) -> np.ndarray:
    """Windows of the last `ws` utterances of a dialogue, one window for each utterance, which is its last.

    `dialogue` is equal for the utterances of one dialogue, in the order of time. The result has utterance numbers,
    padded on the left with -1: int64, shape = (N, ws).
    """
    numbers = pd.Series(np.arange(len(dialogue))).groupby(np.asarray(dialogue), sort=False)
    return np.stack([numbers.shift(back, fill_value=-1) for back in reversed(range(ws))], axis=1)


def speaker_flags(speaker: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """The speaker flag of each utterance in a window: PADDING, SAME_SPEAKER (as the last utterance) or OTHER_SPEAKER.

    `speaker` is of N utterances, `windows` as of `make_windows`; the result is int64, shape = (B, ws).
    """
    same = speaker[windows] == speaker[windows[:, -1:]]
    return np.where(windows < 0, PADDING, np.where(same, SAME_SPEAKER, OTHER_SPEAKER))


class Batch(NamedTuple):
    """Tensors of B windows; None for an unused modality and for missing labels."""

    audio: Tensor | None  # log-mels, (B, ws, 229, 313), channels-last, or speech embeddings, (B, ws, layers, dimension)
    text: Tensor | None  # float32, (B, ws, text_dim)
    emotion: Tensor | None  # float32, (B, 7), soft or multi-hot
    arousal: Tensor | None  # float32, (B, 1)
    valence: Tensor | None  # float32, (B, 1)
    speakers: Tensor | None = None  # int64, (B, ws), see `speaker_flags`

    @property
    def target(self) -> tuple[Tensor, Tensor, Tensor]:
        """Emotion, arousal and valence, the target of the losses."""
        return self.emotion, self.arousal, self.valence

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; copies to a CUDA GPU use pinned memory and are asynchronous."""

        def move(t: Tensor) -> Tensor:
            if device.type == "cuda" and t.device.type == "cpu":
                return t.pin_memory().to(device, non_blocking=True)
            return t.to(device)

        return Batch(*(None if t is None else move(t) for t in self))


class WindowDataset:
    """Windows of `ws` utterances whose last one is one of `targets`, numbers of rows of the table.

    table, features : of all utterances of a role (see `read_utterances`), with labels or without
    soft_targets : use soft labels (the raters' shares) instead of multi-hot majority labels
    crop_seed : seed of random crops of utterances over 10 s, new in every epoch; None for the central 10 s
    majority : float32 majority labels of the targets, multi-hot, shape = (len(targets), 7), with labels only
    has_affect : whether the targets have arousal and valence
    class_counts : int64, shape = (7,), number of targets with each emotion as a majority label; ties count for each
    weights : float64, shape = (len(targets),), of the targets for `--sampler weighted`
    """

    def __init__(  # noqa: PLR0913 (the settings of a set, by name)
        self,
        table: pd.DataFrame,
        features: Features,
        targets: np.ndarray,
        ws: int,
        *,
        speakers: bool = False,
        soft_targets: bool = False,
        crop_seed: int | None = None,
        audio_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.table, self.features, self.targets = table, features, np.asarray(targets, dtype=np.int64)
        self.crop_seed, self.audio_dtype = crop_seed, audio_dtype
        self.device = features.tensors[0].device  # where batches are made
        windows = make_windows(table["dialogue"], ws)[self.targets]
        self.windows = torch.from_numpy(windows).to(self.device)
        flags = speaker_flags(pd.factorize(table["speaker"])[0], windows)
        self.speakers = torch.from_numpy(flags).to(self.device) if speakers else None
        self.labels: list[Tensor | None] = [None, None, None]
        if "emotion" in table:
            rows = table.iloc[self.targets]
            self.majority = multi_hot(rows["emotion"]).to_numpy(np.float32)
            self.class_counts = self.majority.sum(axis=0).astype(np.int64)
            # Weight 1 / count, so that all emotions are drawn about as often; for ties the mean over the labels
            inverse = 1 / np.maximum(self.class_counts, 1)
            self.weights = torch.from_numpy(self.majority.astype(np.float64) @ inverse / self.majority.sum(axis=1))
            self.has_affect = bool(rows[["arousal", "valence"]].notna().all(axis=None))
            columns = (shares(rows) if soft_targets else self.majority, rows[["arousal"]], rows[["valence"]])
            self.labels = [torch.tensor(np.array(column), dtype=torch.float32).to(self.device) for column in columns]
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.targets)

    def set_epoch(self, epoch: int) -> None:
        """Draw new crops of utterances over 10 s, equal for equal seed and epoch."""
        self.log_mels = self.features.log_mels
        if self.crop_seed is not None and self.log_mels is not None:
            generator = torch.Generator().manual_seed(self.crop_seed * 1_000_003 + epoch)
            self.log_mels = self.log_mels.cropped(torch.rand(len(self.log_mels), generator=generator))

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """The batch of these windows, by their numbers in the set, on `device`."""
        indices = torch.as_tensor(indices).to(self.device, non_blocking=True)
        windows = self.windows[indices]
        if self.log_mels is not None:
            audio = self.log_mels.spectrograms(windows, self.audio_dtype)
        else:
            audio = _gather(self.features.speech, windows)
        labels = (None if label is None else label[indices] for label in (*self.labels, self.speakers))
        return Batch(audio, _gather(self.features.text, windows), *labels)


def windows_of(
    options: argparse.Namespace, table: pd.DataFrame, features: Features, sessions: Sequence[int], **settings: Any
) -> WindowDataset:
    """The windows whose last utterance is of these sessions."""
    targets = np.flatnonzero(table["session"].isin(sessions))
    return WindowDataset(table, features, targets, options.ws, speakers=options.speakers, **settings)


def _gather(embeddings: Tensor | None, windows: Tensor) -> Tensor | None:
    """Embeddings of windows, zeros for padding: float32, shape = (B, ws) -> (B, ws, ...)."""
    if embeddings is None:
        return None
    is_padding = (windows < 0).view(*windows.shape, *[1] * (embeddings.dim() - 1))
    return embeddings[windows.clamp(min=0)].float().masked_fill_(is_padding, 0)


def shuffled_batches(
    n: int, batch_size: int, generator: torch.Generator, weights: Tensor | None = None
) -> list[Tensor]:
    """The numbers below `n` in a new random order, in full batches.

    With `weights` (float64, shape = (n,)) `n` numbers are drawn with replacement instead.
    """
    if weights is None:
        order = torch.randperm(n, generator=generator)
    else:
        order = torch.multinomial(weights, n, replacement=True, generator=generator)
    torch.empty((), dtype=torch.int64).random_(generator=generator)  # as a DataLoader draws it after each order
    return [order[start : start + batch_size] for start in range(0, n - batch_size + 1, batch_size)]


def prefetch(dataset: WindowDataset, batches: Iterable[Tensor], device: torch.device) -> Iterator[Batch]:
    """The batches of these numbers on `device`; a second thread prepares the next batch."""
    with ThreadPoolExecutor(1, initializer=use_one_thread) as thread:
        pending = []
        for indices in batches:
            pending.append(thread.submit(lambda indices=indices: dataset.batch(indices).to(device)))
            if len(pending) == 2:
                yield pending.pop(0).result()
        for last in pending:
            yield last.result()
