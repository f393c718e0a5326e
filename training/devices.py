"""Devices: which one computes, its memory, and what makes its results repeatable."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
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
    torch.use_deterministic_algorithms(has_cuda(), warn_only=True)
    # It would fill every new tensor with NaN, which on a GPU writes 2 GB a step more and changes no result
    torch.utils.deterministic.fill_uninitialized_memory = False


@contextlib.contextmanager
def tensor_cores(enabled: bool) -> Iterator[None]:
    """A block in which a CUDA GPU may multiply faster: float32 matrices in TF32, and by what cuDNN finds fastest.

    TF32 rounds factors to 11 significant bits, bfloat16 to 8. cuDNN tries its repeatable algorithms when it meets a
    shape for the first time; another run may take another one, and differ in rounding.
    """
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if not enabled:
        yield
        return
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = True
    try:
        yield
    finally:
        cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = False


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


def has_cuda() -> bool:
    """Whether torch can use a CUDA GPU; torch's own warning of an old driver is left to `pick_device`."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def pick_device(gpu_id: str | None) -> torch.device:
    """The device for `--gpu_id`: a GPU's number, `cpu` or `mps`; without one the first CUDA GPU, or the CPU.

    Raises
    ------
    InputError : there is no such device, or the installed torch cannot use the GPU
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False  # convolutions in TF32 are off by 1e-3; the same numbers everywhere
    if gpu_id == "cpu":
        return torch.device("cpu")
    if gpu_id == "mps":  # only when asked for: see `engine.to_device`
        if not torch.backends.mps.is_available():
            raise InputError("--gpu_id mps: torch finds no Apple GPU here; give cpu")
        return torch.device("mps")
    count = torch.cuda.device_count() if has_cuda() else 0
    if not count:
        check_driver()
    if gpu_id is None and not count:
        return torch.device("cpu")
    device = torch.device(f"cuda:{gpu_id or 0}")
    if device.index >= count:
        raise InputError(f"--gpu_id {gpu_id}: this machine has {count} CUDA devices; give a smaller number or cpu")
    check_card(device)
    return device


OLDER_CUDA = "https://download.pytorch.org/whl/cu126"  # torch for drivers from 525 and cards from Maxwell on


def check_driver() -> None:
    """Raise `InputError` where there is a GPU whose driver is too old for the installed torch."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # also: no driver, no GPU, a torch without CUDA
        if "driver on your system is too old" in str(error):
            reason = f"the NVIDIA driver is too old for the installed torch, which is of CUDA {torch.version.cuda}"
            raise InputError(f"{reason}; update it, {older_torch()}, or give --gpu_id cpu") from error


def check_card(device: torch.device) -> None:
    """Raise `InputError` where the installed torch has no code for this GPU."""
    import torch

    capability, compiled = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    if compiled and not any(runs_on(capability, architecture) for architecture in compiled):
        name = f"{device} ({torch.cuda.get_device_name(device)}, sm_{capability[0]}{capability[1]})"
        supported = f"the installed torch has code for {', '.join(compiled)} alone"
        raise InputError(f"{name}: {supported}; {older_torch()}, or give --gpu_id cpu")


def runs_on(capability: tuple[int, int], architecture: str) -> bool:
    """Whether a GPU runs code for `sm_80` (the same major version, no higher minor one) or `compute_90` (no higher)."""
    kind, _, version = architecture.partition("_")
    major, minor = divmod(int(version.rstrip("af")), 10)
    if kind == "compute":
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]


def older_torch() -> str:
    """What to install for older drivers and cards."""
    packages = " ".join(f"{package}=={version(package).partition('+')[0]}" for package in ("torch", "torchaudio"))
    return f"install torch for an older CUDA (pip install --force-reinstall {packages} --index-url {OLDER_CUDA})"


def describe_device(device: torch.device) -> str:
    """A device by its number and name, and the threads that work beside it."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device} ({name}, {torch.get_num_threads()} threads)"


def memory_size() -> float:
    """Bytes of main memory of this machine, infinite where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


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
        "device": describe_device(device),
    }
