"""Dataset: windows of utterances, and batches of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from constants import OTHER_SPEAKER, PADDING, SAME_SPEAKER
from features.standardised import keep_standardised
from features.utterances import Utterances

# Windows


def make_windows(dialogue: np.ndarray, ws: int) -> np.ndarray:
    """Windows of the last `ws` utterances of a dialogue, one window per utterance, which is the last in it.

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


def tell_speakers(speaker: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Whether the speaker of a window's last utterance says each of its utterances.

    Parameters
    ----------
    speaker : who says each of N utterances, shape = (N,)
    windows : int64 utterance numbers, -1 for padding, shape = (B, ws)

    Returns
    -------
    int64, shape = (B, ws) : `constants.PADDING`, `SAME_SPEAKER` or `OTHER_SPEAKER`
    """
    same = speaker[windows] == speaker[windows[:, -1:]]
    return np.where(windows < 0, PADDING, np.where(same, SAME_SPEAKER, OTHER_SPEAKER))


class Batch(NamedTuple):
    """Tensors of B windows; a modality that is left out is None, and so are labels where there are none.

    audio : float32 or bfloat16, shape = (B, ws, 229, 313), channels-last, or speech embeddings, float32,
        shape = (B, ws, layers, dimension)    text : float32, shape = (B, ws, text_dim)
    emotion : float32, shape = (B, 7), soft or multi-hot        arousal, valence : float32, shape = (B, 1)
    speakers : int64, shape = (B, ws), see `tell_speakers`; None where the model is not told
    """

    audio: Tensor | None
    text: Tensor | None
    emotion: Tensor | None
    arousal: Tensor | None
    valence: Tensor | None
    speakers: Tensor | None = None

    @property
    def target(self) -> tuple[Tensor, Tensor, Tensor]:
        """Emotion, arousal and valence, as the losses take them."""
        return self.emotion, self.arousal, self.valence

    def to(self, device: torch.device) -> Batch:
        """The same on `device`; copies to a CUDA GPU go through pinned memory, so that nothing waits for them.

        Those to an Apple GPU are waited for and contiguous: in torch 2.11 it takes wrong values of memory that is freed
        while it is copied (pytorch#139550), and wrong gradients of channels-last batch norm (pytorch#175189).
        """

        def move(t: Tensor) -> Tensor:
            if device.type == "mps":
                return t.contiguous().to(device)
            if device.type == "cuda" and t.device.type == "cpu":
                return t.pin_memory().to(device, non_blocking=True)
            return t.to(device)

        return Batch(*(None if t is None else move(t) for t in self))


WINDOWS_AT_ONCE = 4  # on a CPU: a few MB, which stay in its caches and which the allocator reuses


class WindowDataset(Dataset):
    """Windows whose last utterance is one of `targets`, a whole batch at a time.

    A `DataLoader` with `collate_fn=collate` passes `__getitems__` the window numbers of a batch and gets its tensors;
    an utterance that occurs in several windows of a batch is transformed once.

    Parameters
    ----------
    utterances : all utterances of one role, labelled or not
    targets : numbers of the utterances whose windows belong to this set
    ws : utterances in a window
    soft_targets : the raters' shares as labels; otherwise the majority labels, multi-hot
    crop_seed : of random crops of utterances over 10 s, new ones every epoch; None for the central 10 s
    audio_dtype : of the log-mels in a batch

    Attributes
    ----------
    ids : segment ids of the targets
    transcripts : of the targets, None where the table has none
    majority : float32 majority labels of the targets, multi-hot, shape = (N, 7), if there are labels
    device : where its inputs are and its batches are made
    class_counts : int64, shape = (7,), how often each emotion is a majority label of a target, ties counting each
    weights : float64, shape = (len(targets),), by which `--sampler weighted` draws them
    """

    def __init__(
        self,
        utterances: Utterances,
        targets: np.ndarray,
        ws: int,
        *,
        soft_targets: bool = False,
        crop_seed: int | None = None,
        audio_dtype: torch.dtype = torch.float32,
    ) -> None:
        annotation, self.log_mels, text = utterances.annotation, utterances.log_mels, utterances.text
        self.speech = utterances.speech
        self.targets, self.crop_seed, self.audio_dtype = targets, crop_seed, audio_dtype
        self.ids = [annotation.ids[target] for target in targets]
        self.transcripts = annotation.text and [annotation.text[target] for target in targets]
        self.windows = torch.from_numpy(make_windows(annotation.dialogue, ws)[targets])
        audio = self.speech if self.log_mels is None else self.log_mels
        self.device = (text if audio is None else audio.frames).device
        # The last row, which the -1 of a padded window finds, is zeros
        self.text = None if text is None else torch.cat([text, torch.zeros_like(text[:1])])
        self.speakers: Tensor | None = None
        if utterances.speaker is not None:
            told = tell_speakers(utterances.speaker, self.windows.numpy())
            self.speakers = torch.from_numpy(told).to(self.device)
        self.labels: tuple[Tensor, ...] | None = None
        if annotation.majority is not None:
            emotion = annotation.soft if soft_targets else annotation.majority
            columns = (emotion, annotation.arousal[:, None], annotation.valence[:, None])
            self.labels = tuple(torch.from_numpy(column[targets]).to(self.device) for column in columns)
            self.majority = annotation.majority[targets]
            self.class_counts = self.majority.sum(axis=0).astype(np.int64)
            self.weights = inverse_frequencies(self.majority, self.class_counts)
        crops = self.log_mels is not None and crop_seed is not None
        self.kept = keep_standardised(self.log_mels, audio_dtype) if crops else None  # for many epochs
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw new crops for utterances over 10 s: the same ones for the same seed and epoch."""
        self.crop = None
        if self.crop_seed is not None and self.log_mels is not None:
            generator = torch.Generator().manual_seed(self.crop_seed * 1_000_003 + epoch)
            self.crop = torch.rand(len(self.log_mels), generator=generator)
        if self.kept is not None:
            self.kept.crop_longer(self.crop)

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
        if self.speech is not None:
            audio = self.speech.of(windows)
        text = None if self.text is None else self.text[windows.to(self.device, non_blocking=True)]
        indices = indices.to(self.device, non_blocking=True)
        speakers = None if self.speakers is None else self.speakers[indices]
        labels = (None, None, None) if self.labels is None else (label[indices] for label in self.labels)
        return Batch(audio, text, *labels, speakers)

    def _audio(self, windows: Tensor) -> Tensor:
        """Log-mels of windows of utterance numbers, zeros for -1; shape = (B, ws) -> (B, ws, 229, 313)."""
        if self.kept is not None:
            return self.kept.of_windows(windows)
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
        at_once = WINDOWS_AT_ONCE if place.device.type == "cpu" else max(1, len(place))
        for into, part in zip(audio.split(at_once), place.split(at_once), strict=True):
            into.copy_(log_mels.mT.index_select(0, part.flatten()).unflatten(0, part.shape).mT)
        return audio


def inverse_frequencies(majority: np.ndarray, class_counts: np.ndarray) -> Tensor:
    """1 / count of each window's majority label, the mean over labels that tie: every emotion is drawn about as often.

    Parameters
    ----------
    majority : multi-hot, shape = (N, 7)
    class_counts : how often each emotion is a majority label, shape = (7,)

    Returns
    -------
    float64, shape = (N,)
    """
    inverse = 1 / np.maximum(class_counts, 1)
    return torch.from_numpy(majority.astype(np.float64) @ inverse / majority.sum(axis=1))


# Batches


class ShuffledBatches(Sampler):
    """The numbers below `n` in a random order drawn anew each time, in batches, without a partial last one.

    Parameters
    ----------
    n : number of windows
    batch_size : numbers per batch
    generator : draws the order
    part : which part of each batch is returned, for one of several processes
    weights : of the numbers, shape = (n,): `n` numbers are drawn by them instead, with replacement

    Attributes
    ----------
    skip : how many of the first batches are left out
    batches : those that were drawn last, whole, the left out ones too
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        generator: torch.Generator,
        part: slice = slice(None),
        weights: Tensor | None = None,
    ) -> None:
        self.n, self.batch_size, self.generator = n, batch_size, generator
        self.part, self.weights, self.skip = part, weights, 0
        self.batches: list[list[int]] = []

    def __len__(self) -> int:
        return self.n // self.batch_size - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        if self.weights is None:
            order = torch.randperm(self.n, generator=self.generator)
        else:
            order = torch.multinomial(self.weights, self.n, replacement=True, generator=self.generator)
        whole = order[: self.n // self.batch_size * self.batch_size].split(self.batch_size)
        self.batches = [batch.tolist() for batch in whole]
        return iter([batch[self.part] for batch in self.batches[self.skip :]])


def shuffled_loader(dataset: WindowDataset, order: ShuffledBatches, num_workers: int = 0) -> DataLoader:
    """The batches of `order`."""
    settings = {"generator": order.generator, "num_workers": num_workers, "collate_fn": collate}
    return DataLoader(dataset, batch_sampler=order, **settings)


def ordered_loader(
    dataset: WindowDataset, batch_size: int, num_workers: int = 0, share: range | None = None
) -> DataLoader:
    """All windows in order, or those of a `share`, in batches."""
    return DataLoader(dataset, batch_size, sampler=share, num_workers=num_workers, collate_fn=collate)


def collate(batch: Batch) -> Batch:
    """What `WindowDataset` gives, which collates its batches itself."""
    return batch
