"""Devices: which one computes, its memory, and what makes its results repeatable."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import random
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils import InputError

if TYPE_CHECKING:
    import torch


def set_up_process() -> None:
    """Set what torch reads when it starts, and how memory is kept; called before torch is imported."""
    # Threads wait awake for a short while only: 4% slower alone, and 1.6 times as fast when another program wants the
    # processor too
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what repeatable LSTMs on a GPU need
    keep_freed_memory()


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and ask a GPU for repeatable algorithms (see `set_up_process`)."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(torch.cuda.is_available(), warn_only=True)


def keep_freed_memory() -> None:
    """Have glibc keep up to 2 GB of freed memory for the next step; the system would have to zero the pages again.

    It takes tensors over 32 MB from the system in any case. Without glibc nothing is done.
    """
    if (libc := glibc()) is not None:
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Have glibc give back to the system what it keeps, before work that needs memory of other sizes."""
    if (libc := glibc()) is not None:
        libc.malloc_trim(0)


def glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def pick_device(gpu_id: str | None) -> torch.device:
    """The device for `--gpu_id`: a GPU's number or `cpu`; without one CUDA, then Apple's MPS, then the CPU."""
    import torch

    torch.backends.cudnn.allow_tf32 = False  # convolutions in TF32 are off by 1e-3; the same numbers everywhere
    if gpu_id is None:
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if gpu_id == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if int(gpu_id) >= count:
        raise InputError(f"--gpu_id {gpu_id}: this machine has {count} CUDA devices; give a smaller number or cpu")
    return torch.device(f"cuda:{gpu_id}")


def memory_size() -> float:
    """Bytes of main memory of this machine, infinite where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


def name_device(device: torch.device) -> str:
    """A device in words."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device} ({name}, {torch.get_num_threads()} threads)"


def environment(device: torch.device) -> dict[str, Any]:
    """What a result depends on besides its arguments: versions, commit of the program, device."""
    git = ["git", "-C", str(Path(__file__).parent.parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"  # not a clone, or no git
    return {
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "torchaudio", "numpy", "pandas", "scikit-learn")},
        "commit": commit,
        "device": name_device(device),
    }
