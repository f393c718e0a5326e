"""Utilisation: the arithmetic of a training step, and how much of a GPU's it takes."""

from __future__ import annotations

import time
from itertools import chain

import torch
from torch import nn

from model import MATE, cnn_sizes

# TFLOP/s of dense products in bfloat16, summed in float32, by NVIDIA's data sheets; the first name that fits holds
DENSE_PEAK = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "A40": 150,
    "A10": 125,
    "A6000": 155,
    "L40S": 362,
    "L4": 121,
    "RTX 3090": 71,
    "RTX 4090": 165,
    "RTX 5090": 210,
}


def dense_peak(name: str) -> float | None:
    """TFLOP/s of the GPU of this name in bfloat16, None for one that is not known."""
    words = name.split()
    for known, peak in DENSE_PEAK.items():
        parts = known.split()
        if all(any(word == part or word.startswith(f"{part}-") for word in words) for part in parts):
            return peak
    return None


def step_flop(model: MATE, sr: int) -> float:
    """FLOP of a training step for each window: products of convolutions, the LSTM or GRU and linear layers.

    A product is done three times, for the output and for the gradients of input and weight; what the model is given
    has no gradient. `sr` is that of the audio, Hz.
    """
    flop, has_encoder = 0.0, model.audio == "encoder" and model.uses_audio
    if has_encoder:
        flop += 2 * 2 * model.speech_branch.projection.weight.numel() * model.ws
    elif model.uses_audio:
        sizes = cnn_sizes(model.audio_embedding, sr)
        for number, (block, (mels, frames)) in enumerate(zip(model.audio_embedding, sizes, strict=False)):
            places = block.convolved_size(mels) * block.convolved_size(frames)
            flop += (2 if number == 0 else 3) * 2 * block.conv.weight.numel() * places
    for name, weight in getattr(model, model.backbone).named_parameters():
        if weight.dim() == 2:
            given = name.startswith("weight_ih_l0") and not (model.uses_audio or model.uses_speakers)
            flop += (2 if given else 3) * 2 * weight.numel() * model.ws
    heads = (model.mlp_emotion, model.mlp_av, model.mlp_arousal, model.mlp_valence)
    layers = chain.from_iterable(head.modules() for head in heads)
    return flop + sum(3 * 2 * layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear))


class Utilisation:
    """TFLOP/s of training between the looks at a GPU in an epoch, so without the first steps, which pick kernels.

    Parameters
    ----------
    flop : of a step, in all processes
    device, n_devices : the GPU, and how many alike work together
    bfloat16 : whether training is in it; only then is the share of the peak known
    """

    def __init__(self, flop: float, device: torch.device, n_devices: int, bfloat16: bool) -> None:
        self.flop = flop
        peak = dense_peak(torch.cuda.get_device_name(device)) if bfloat16 else None
        self.peak = None if peak is None else peak * n_devices
        self.steps, self.seconds = 0, 0.0  # that are measured
        self.last: tuple[int, float] | None = None  # step of the last look, and when it was

    def pause(self) -> None:
        """An epoch begins: what was done since the last look is no training."""
        self.last = None

    def look(self, step: int) -> None:
        """The GPU was waited for, and has done this step of an epoch."""
        now = time.perf_counter()
        if self.last is not None:
            self.steps += step - self.last[0]
            self.seconds += now - self.last[1]
        self.last = step, now

    @property
    def tflops(self) -> float:
        """TFLOP/s so far; 0 where nothing is measured yet."""
        return self.flop * self.steps / self.seconds / 1e12 if self.steps else 0.0

    def describe(self) -> str:
        """For the progress bar: `310 (31%)`."""
        share = "" if self.peak is None else f" ({self.tflops / self.peak:.0%})"
        return f"{self.tflops:.0f}{share}"

    def as_json(self) -> dict[str, float]:
        """For `result.json`."""
        found = {"tflops": round(self.tflops, 2)}
        return found if self.peak is None else found | {"share_of_peak": round(self.tflops / self.peak, 4)}
