"""The plain implementation of the published procedure, which benchmark.py sets this program beside.

It is written from the procedure's description: librosa loads and torchaudio transforms the eight wavs of a window anew
for every item, in one worker; contiguous float32; the loss is read after every step.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from constants import F_MAX, F_MIN, HOP_LENGTH, MAX_SECONDS, N_EMOTIONS, N_FFT, N_MELS, SAMPLE_RATE, TEXT_DIM
from corpora.annotation import Annotation
from dataset import Batch, make_windows
from loss import Loss, make_loss
from model import MATE, ConvBlock

WS = 8
LOSS = make_loss("normal", 0.66, 0.99, np.ones(N_EMOTIONS, dtype=int))  # of both sides
N_SAMPLES = MAX_SECONDS * SAMPLE_RATE


class PlainWindows(Dataset):
    """Windows whose wavs are loaded and transformed anew for every item.

    Parameters
    ----------
    wavs : by segment id
    text : float32 sentence embeddings, shape = (N, 768)
    """

    def __init__(self, annotation: Annotation, wavs: dict[str, Path], text: Tensor) -> None:
        self.annotation, self.wavs, self.text = annotation, wavs, text
        self.windows = make_windows(annotation.dialogue, WS)
        self.mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP_LENGTH, f_min=F_MIN, f_max=F_MAX, n_mels=N_MELS, power=2.0
        )

    def log_mel(self, utterance: int) -> Tensor:
        """Standardised log-mel of the (central) 10 s, shape = (229, 313)."""
        import librosa

        wave, _ = librosa.load(self.wavs[self.annotation.ids[utterance]], sr=SAMPLE_RATE)
        start = max(0, (len(wave) - N_SAMPLES) // 2)
        wave = np.pad(wave[start : start + N_SAMPLES], (0, max(0, N_SAMPLES - len(wave))))
        decibels = torchaudio.functional.amplitude_to_DB(self.mel(torch.from_numpy(wave)), 10, 1e-10, 0)
        return nn.functional.batch_norm(decibels[None, None], None, None, training=True, eps=1e-5)[0, 0]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        audio, text = torch.zeros(WS, 1, N_MELS, N_SAMPLES // HOP_LENGTH + 1), torch.zeros(WS, 1, TEXT_DIM)
        for place, utterance in enumerate(self.windows[index]):
            if utterance >= 0:
                audio[place, 0], text[place, 0] = self.log_mel(utterance), self.text[utterance]
        a = self.annotation
        return audio, text, *(torch.from_numpy(np.atleast_1d(v[index])) for v in (a.soft, a.arousal, a.valence))


class PlainBlock(ConvBlock):
    """The published order of layers, with pooling by 1 where there is none."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(nn.functional.relu(self.bn(self.conv(x))), self.pool)


def plain_model(model: MATE) -> MATE:
    """A MATE with the same weights whose CNN is torch's own layers on the whole batch."""
    plain = MATE()
    sizes = [(b.conv.in_channels, b.conv.out_channels, b.conv.kernel_size[0], b.pool) for b in model.audio_embedding]
    plain.audio_embedding = nn.Sequential(*(PlainBlock(*size) for size in sizes))
    plain.load_state_dict(model.state_dict())
    return plain.to(next(model.parameters()).device)


def plain_optimizer(model: MATE) -> torch.optim.Optimizer:
    """Adam, as the published program makes it."""
    return torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)


def plain_batch(batch: Batch) -> list[Tensor]:
    """A batch of this program as the plain side's loader gives it: contiguous float32 inputs and labels."""
    return [t.float().contiguous() for t in batch[:5]]


def plain_loader(windows: PlainWindows, n: int, batch_size: int, shuffle: bool) -> DataLoader:
    """Batches of the first `n` windows, made by one worker."""
    return DataLoader(Subset(windows, range(n)), batch_size, shuffle=shuffle, num_workers=1, drop_last=shuffle)


def plain_steps(model: MATE, optimizer: torch.optim.Optimizer, batches: Iterable, loss_function: Loss) -> int:
    """A training step on each batch; returns the number of windows."""
    model.train()
    device, windows = next(model.parameters()).device, 0
    for audio, text, *target in batches:
        prediction = model(audio.to(device), text.to(device), log=True)
        loss = loss_function(prediction, tuple(t.to(device) for t in target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        windows += len(audio)
    return windows


def plain_evaluate(model: MATE, batches: Iterable) -> Tensor:
    """Probabilities of the windows, shape = (N, 7)."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        return torch.cat([model(audio.to(device), text.to(device))[0].cpu() for audio, text, *_ in batches])
