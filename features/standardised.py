"""Standardised log-mels, kept on a GPU, so that the log-mels of a batch are one gather."""

from __future__ import annotations

import torch
from torch import Tensor

from constants import N_MELS
from features.log_mel import LogMels

UTTERANCES_AT_ONCE = 64  # when they are standardised: some 20 MB


def fits(n_bytes: int, device: torch.device) -> bool:
    """Whether a quarter of the memory that is free on a CUDA GPU suffices; the rest is for training."""
    return n_bytes <= torch.cuda.mem_get_info(device)[0] / 4


def keep_standardised(log_mels: LogMels, dtype: torch.dtype) -> StandardisedFrames | None:
    """The log-mels in bfloat16 on the GPU that their frames are on; None if they do not fit, and in float32.

    On a CPU they would take more memory than they save time.
    """
    device = log_mels.frames.device
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    n_rows = int((log_mels.length + 1).clamp(max=log_mels.n_frames).sum())
    return StandardisedFrames(log_mels, dtype) if fits(n_rows * N_MELS * dtype.itemsize, device) else None


class StandardisedFrames:
    """The standardised log-mel frames of all utterances, on the device of their frames.

    Of an utterance of up to 10 s the frames that hold sound are kept, and one of silence that pads it; of a longer one
    the 10 s of the last crop, the first 10 s until there is one (see `crop_longer`).

    Parameters
    ----------
    dtype : of the frames; they are computed in float32

    Attributes
    ----------
    frames : shape = (rows, 229); the last row is zeros, for places of a window without an utterance
    longer : int64, numbers of the utterances that are longer than 10 s
    """

    def __init__(self, log_mels: LogMels, dtype: torch.dtype) -> None:
        self.log_mels, device = log_mels, log_mels.frames.device
        length = log_mels.length.cpu()
        self.longer = (length > log_mels.n_frames).nonzero()[:, 0].to(device)
        # One more utterance, which the -1 of a padded window finds, has the row of zeros
        n_rows = torch.cat([(length + 1).clamp(max=log_mels.n_frames), torch.ones_like(length[:1])])
        self.n_rows, self.start = n_rows.to(device), (n_rows.cumsum(0) - n_rows).to(device)
        self.frames = torch.zeros(int(n_rows.sum()), N_MELS, dtype=dtype, device=device)
        self.fill(torch.arange(len(log_mels), device=device), torch.zeros(len(log_mels), device=device))

    def crop_longer(self, crop: Tensor) -> None:
        """Keep other 10 s of the utterances that are longer; `crop` is of all utterances, as for `spectrograms`."""
        self.fill(self.longer, crop.to(self.longer.device)[self.longer])

    def fill(self, utterances: Tensor, crop: Tensor) -> None:
        """Compute the rows of these utterances."""
        for first in range(0, len(utterances), UTTERANCES_AT_ONCE):
            part = slice(first, first + UTTERANCES_AT_ONCE)
            some = utterances[part]
            log_mels = self.log_mels.spectrograms(some, crop[part], self.frames.dtype).mT
            self.frames.index_copy_(0, self.rows(some).flatten(), log_mels.flatten(0, 1))

    def rows(self, utterances: Tensor) -> Tensor:
        """Rows of all frames of 10 s, the last one of an utterance again and again, shape = (...) -> (..., 313)."""
        frame = torch.arange(self.log_mels.n_frames, device=utterances.device)
        return self.start[utterances, None] + torch.minimum(frame, self.n_rows[utterances, None] - 1)

    def of_windows(self, windows: Tensor) -> Tensor:
        """Log-mels of windows of utterance numbers, zeros for -1, channels-last; (B, ws) -> (B, ws, 229, 313)."""
        rows = self.rows(windows.to(self.frames.device, non_blocking=True))
        log_mels = self.frames.index_select(0, rows.flatten()).view(*rows.shape, N_MELS)
        return log_mels.mT.contiguous(memory_format=torch.channels_last)
