"""Devices: choosing a device, the processes of a run, and settings for repeatable results."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list

from training import ROOT
from utils import InputError


def set_up_process() -> None:
    """Set memory use and rounding of this process; may be called again (see also `training/__init__.py`)."""
    if (libc := glibc()) is not None:  # keep up to 2 GB of freed memory: the system would have to zero the pages again
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 2**31 - 1)
    set_switches()


def set_switches() -> None:
    """Set torch's switches for training, tests and prediction: float32 without TF32, and repeatable results.

    TF32, with errors of 1e-3, is torch's default in cuDNN, and in all of CUDA with TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, as
    in NVIDIA's images (torch reads it once). Only `engine.tensor_cores` turns it on.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(torch.cuda.is_available(), warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # on a GPU it would write 2 GB in each step


def return_freed_memory() -> None:
    """Return freed memory to the system, before work with tensors of other sizes."""
    if (libc := glibc()) is not None:
        libc.malloc_trim(0)


def glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def pick_device(gpu_id: str | None) -> torch.device:
    """The device for `--gpu_id`, the number of a GPU or `cpu`; without it the first CUDA GPU, or the CPU.

    Raises `InputError` if the device does not exist or the installed torch cannot use it.
    """
    if gpu_id == "cpu":
        return torch.device("cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an old driver, or a GPU that torch does not support
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if gpu_id is None and not count:
                return torch.device("cpu")
            if int(gpu_id or 0) >= count:
                raise InputError(f"--gpu_id {gpu_id}: found {count} CUDA devices; give a smaller number, or cpu")
            return torch.zeros(1, device=f"cuda:{gpu_id or 0}").add_(1).device
    except (RuntimeError, Warning) as error:
        raise InputError(f"torch cannot use the GPU ({str(error).splitlines()[0]}); give --gpu_id cpu") from error


def n_processes() -> int:
    """The number of processes that `accelerate launch` or `torchrun` started for this run."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def joined_processes(options: argparse.Namespace) -> Iterator[tuple[Accelerator, torch.device]]:
    """A block in which this process trains or tests, alone or with the other processes of its run.

    Raises `InputError` if the device cannot be used, several processes name one GPU, or the tracker is not installed.
    """
    alone, tracker = n_processes() == 1, options.report_to
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(f"--report_to {tracker}: not installed; pip install {tracker}, or give tensorboard or none")
    if alone and os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ:
        raise InputError("accelerate launch --cpu needs MPI; use --multi_gpu instead, and --gpu_id cpu of main.py")
    if not alone and options.gpu_id not in (None, "cpu"):
        raise InputError(f"--gpu_id {options.gpu_id}: each process uses its own GPU; remove the option, or give cpu")
    gpu_id = options.gpu_id
    if not alone and gpu_id is None and torch.cuda.is_available():
        gpu_id = os.environ["LOCAL_RANK"]  # one GPU each
    device = pick_device(gpu_id)
    accelerator = Accelerator(
        cpu=alone or device.type == "cpu",  # a single process places its tensors itself
        mixed_precision="no",
        log_with=None if tracker == "none" else tracker,
        project_dir=options.save_path,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    set_up_process()  # after accelerate, which may turn TF32 on
    try:
        yield accelerator, device
    finally:
        accelerator.end_training()


def on_main_process(accelerator: Accelerator, make: Callable[[], Any]) -> Any:
    """Call `make` on the main process only; return its result, or raise its `InputError`, on all processes."""
    outcome = None
    if accelerator.is_main_process:
        try:
            outcome = make()
        except InputError as error:
            outcome = error
    (outcome,) = broadcast_object_list([outcome])
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


def device_name(device: torch.device) -> str:
    """A device with its name and the number of CPU threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device} ({name}, {torch.get_num_threads()} threads)"


def environment(device: torch.device) -> dict[str, str]:
    """What may change a result besides options and data: versions, commit, device and number of processes."""
    commit = "unknown"  # no git, or no clone: the folder may be inside another repository, or GIT_DIR may be set
    git = ["git", f"--git-dir={ROOT / '.git'}", f"--work-tree={ROOT}", "describe", "--always", "--dirty", "--abbrev=40"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    packages = ("torch", "torchaudio", "numpy", "pandas", "scikit-learn")
    versions = {"python": platform.python_version()} | {package: version(package) for package in packages}
    return versions | {"commit": commit, "device": device_name(device), "processes": str(n_processes())}
