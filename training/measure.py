"""Measuring: two ways of doing the same work in turns, the work of a step, and peaks of processor and memory."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch


class Sides(NamedTuple):
    """Seconds of both sides in each round."""

    plain: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """Median of ours over plain, round by round: what slows a round slows both."""
        return statistics.median(o / p for o, p in zip(self.ours, self.plain, strict=True))


Work = Callable[[], int | tuple[int, float]]


def wait_for(device: torch.device) -> None:
    """Return when `device` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(plain: Work, ours: Work, rounds: int, device: torch.device, warm_up: bool = True) -> Sides:
    """Seconds of functions that do their work and say how many windows (or utterances) it was, or that and its time."""
    sides = Sides([], [])
    for turn in range(-1 if warm_up else 0, rounds):
        for function, seconds in ((plain, sides.plain), (ours, sides.ours)):
            start = time.perf_counter()
            done = function()
            wait_for(device)
            done, took = done if isinstance(done, tuple) else (done, time.perf_counter() - start)
            if turn >= 0:
                seconds.append(took / done)
    return sides


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of the best of five matrix products, on a GPU so large that its launch takes no part of the time."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def peak_memory(device: torch.device) -> float:
    """Peak memory, GB: on a GPU of what torch allocated there, else the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one
        (kilobytes,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
