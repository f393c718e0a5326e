"""Experiment folders, checkpoints, seeds, devices, and how bad input is reported."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import math
import os
import random
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class InputError(Exception):
    """Something is wrong with what the user gave: the message says what was found, what was expected, what to do."""

    told = False  # by another process of the same run (see processes.py)


class Interrupted(Exception):
    """A run stopped because a signal asked it to: the message says where, and how to go on."""

    told = False  # by another process of the same run (see processes.py)

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def run_command(command: Callable[[], None], warns: bool = True) -> int:
    """Run a command-line program's body and return its exit status.

    An `InputError`, a file that the system refuses or too little memory becomes one line on stderr and status 2, an
    interrupt one line and status 128 + the signal's number, a warning one line (none unless it `warns`); any other
    exception is a programming error and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name need not be text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_: (
                print(f"warning: {one_line(message)}", file=sys.stderr) if warns else None
            )
            command()
            sys.stdout.flush()
    except InputError as error:
        if not error.told:
            print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # what reads the output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if not isinstance(error.filename, str | Path):
            raise
        print(f"error: {one_line(error.filename)}: {error.strerror}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if (lack := lack_of_memory(error)) is None:
            raise
        print(f"error: {lack}; try a smaller model or --batch_size", file=sys.stderr)
        return 2
    except Interrupted as interrupt:
        if not interrupt.told:
            print(f"interrupted: {interrupt}", file=sys.stderr)
        return 128 + interrupt.signal_number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def lack_of_memory(error: BaseException) -> str | None:
    """What an error says of too little memory, of the machine or of a GPU; None when it says something else."""
    said = r"(allocate|out of) memory|_ALLOC_FAILED|could not create a primitive$"  # the last is oneDNN's
    if not isinstance(error, MemoryError) and not re.search(said, str(error)):
        return None
    reason = (str(error).splitlines() or ["of this process"])[0]
    return f"not enough memory ({one_line(reason)})"


def one_line(message: object) -> str:
    """A message with everything that does not print, such as the line breaks of an odd file name, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message))


SAME_REQUEST = 2.0  # seconds in which SIGTERM comes twice where a cluster sends it to a job and to its processes


@contextlib.contextmanager
def stop_requests(says: bool = True) -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in the list that this gives instead of obeying them; a second one is obeyed.

    It `says` so when the first one comes. SIGTERM that comes again within `SAME_REQUEST` is no second one.
    """
    received: list[int] = []
    first = 0.0

    def note(number: int, _frame: object) -> None:
        nonlocal first
        if received and number == signal.SIGTERM and time.monotonic() - first < SAME_REQUEST:
            return
        if received:
            restore()
            os.kill(os.getpid(), number)
            return
        received.append(number)
        first = time.monotonic()
        if says:
            print("\nstopping as soon as all is saved; a second signal stops at once", file=sys.stderr)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield received
        return
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        restore()


# Types of command-line options


def switch(value: str) -> bool:
    """`True` or `False` as a configuration or a command line writes it."""
    if value.lower() not in {"true", "1", "yes", "false", "0", "no"}:
        raise argparse.ArgumentTypeError(f"{value!r}: expected True or False")
    return value.lower() in {"true", "1", "yes"}


def number(kind: type, low: float, high: float = float("inf"), inclusive: bool = True) -> Any:
    """An argparse type: a finite `kind` from `low` to `high`; `inclusive` of `high` or not."""
    excluded = {float("inf")} if inclusive else {float("inf"), high}

    def parse(value: str) -> float:
        try:
            parsed = kind(value)
        except ValueError:
            parsed = None
        if parsed is None or not low <= parsed <= high or parsed in excluded:
            expected = (
                f"at least {low}" if high == float("inf") else f"from {low} to {'' if inclusive else 'below '}{high}"
            )
            raise argparse.ArgumentTypeError(f"{value!r}: expected {kind.__name__} {expected}")
        return parsed

    return parse


def gpu(value: str) -> str:
    """A GPU's number, or `cpu`."""
    if value != "cpu" and not (value.isdecimal() and len(value) < 5):
        raise argparse.ArgumentTypeError(f"{value!r}: expected a GPU's number or cpu")
    return value


def file_path(value: str) -> Path:
    """A path that a file can have."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise argparse.ArgumentTypeError(f"{value!r}: expected a path in UTF-8 without NUL characters")
    return Path(value)


# Files


def read_bounded(path: Path, limit: int) -> bytes:
    """Content of a file of at most `limit` bytes.

    Raises
    ------
    InputError : it is larger, or no file
    OSError : it is missing or cannot be read
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # a pipe would be waited for
        raise InputError(f"{path}: a pipe or a device, expected a file")
    if stat.S_ISREG(status.st_mode) and status.st_size > limit:
        raise InputError(f"{path}: {status.st_size} bytes, expected at most {limit}; is it the right file, and whole?")
    return path.read_bytes()


MAX_TABLE_BYTES = 100 * 2**20  # KEMDy19's largest has under 3 MB


def decode(content: bytes, path: Path) -> str:
    """Text of a file in UTF-8 (with or without a byte order mark) or CP949."""
    for encoding in ("utf-8-sig", "cp949"):
        if b"\0" in content:
            break
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError(f"{path}: neither UTF-8 nor CP949 text; save it as UTF-8")


def check_archive(path: Path) -> None:
    """Raise `ValueError` where an archive would be more once read: what torch and NumPy save is not compressed."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its content is compressed, expected it as torch.save and numpy.savez write it")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("it announces more content than it holds")


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` that takes its place when the block ends, and vanishes when it fails."""
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        handle = tempfile.NamedTemporaryFile(  # noqa: SIM115
            mode, dir=path.parent, prefix=f".{path.name}.", delete=False, **text
        )
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written to ({error.strerror}); choose another folder") from error
    temporary = Path(handle.name)
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # NamedTemporaryFile makes it readable by its owner alone
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have a rename in `folder` outlast a power failure, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: dict) -> None:
    """Write `content` as indented UTF-8 JSON."""
    with atomic_write(path) as file:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        if any("\ud800" <= character <= "\udfff" for character in text):  # a path that is not UTF-8
            text = json.dumps(content, indent=2, allow_nan=False)
        file.write(text + "\n")


MAX_JSON_BYTES = 10 * 2**20  # a configuration has some thousand


def read_json(path: Path) -> dict:
    """Read a JSON object; raises `InputError` when the file is missing or holds anything else."""

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"it holds {number}, which is no number")
        return float(number)

    try:
        text = read_bounded(path, MAX_JSON_BYTES).decode("utf-8-sig")
        content = json.loads(text, parse_float=finite, parse_constant=finite)
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; an experiment folder made by main.py holds it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected a JSON object")
    return content


def new_folder(parent: Path, name: str) -> Path:
    """Make and return `parent/name`, or `parent/name-2`, `-3`, ... when that exists: nothing is ever reused."""
    for attempt in range(1, 1000):
        folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another --save_path") from error
        return folder
    raise InputError(f"{parent / name}: exists a thousand times over; choose another --save_path")


def timestamp() -> str:
    """Local time as `20221104-183000`."""
    return time.strftime("%Y%m%d-%H%M%S")


# Of `atomic_write`
TEMPORARY = re.compile(r"\..+\.(csv|html|json|log|md|np[yz]|png|pth?|safetensors|txt)\.[a-z0-9_]{8}")


@contextlib.contextmanager
def lock_folder(folder: Path, doing: str) -> Iterator[None]:
    """Keep two processes from `doing` something in `folder` at once, and clear away what a killed one left half done.

    Raises
    ------
    InputError : another process is at it, or the folder cannot be written to
    """
    import filelock

    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(f"{folder}: another process is {doing} there; wait for it or stop it") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from error
    try:
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink()
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()


def find_run(save_path: Path, name: str) -> Path:
    """The experiment folder called `name`: a folder in `save_path`, or a path."""
    for folder in (save_path / name, Path(name)):
        if (folder / "configuration.json").is_file():
            return folder
    for folder in (save_path / name, Path(name)):
        if folder.is_dir():
            raise InputError(f"{folder}: has no configuration.json, so it is no experiment folder of this program")
    raise InputError(f"{name}: no such experiment folder, neither in {save_path} nor as a path")


# Weights


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write the state dict alone, whole or not at all."""
    import torch

    with atomic_write(path, "wb") as file:
        torch.save(model.state_dict(), file)


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote: tensors on the CPU and plain containers, executing nothing else the file may hold.

    Raises whatever zipfile and torch raise of a file that is damaged or holds more. torch itself does not compare a
    file's content with its checksums.
    """
    import torch

    if zipfile.is_zipfile(path):
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not fit its content")
    return torch.load(path, map_location="cpu", weights_only=True)


def save_safetensors(model: torch.nn.Module, path: Path) -> None:
    """Write the weights in the safetensors format, which holds tensors and nothing that could be run."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(path, "wb") as file:
        file.write(save(state, {"format": "pt"}))


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load the state dict in `path`, or in the safetensors file beside it if there is one, into `model`.

    Nothing that the files may hold is executed.

    Raises
    ------
    InputError : there is no file, it is not a state dict, does not fit the model or holds values that are not numbers,
    or the two differ
    """
    import torch

    safe = path.with_suffix(".safetensors")
    files = [file for file in (safe, path) if file.exists()]
    if not files:
        raise InputError(f"{path}: not found; training writes it after its first epoch")
    state, *others = [_read_state(file) for file in files]
    expected = model.state_dict()
    for name in expected.keys() | state.keys():
        found, wanted = (list(d[name].shape) if name in d else "none" for d in (state, expected))
        if found != wanted:
            raise InputError(
                f"{files[0]}: {name} has shape {found}, the configuration's model has {wanted}; "
                f"is configuration.json beside it the one it was trained with?"
            )
        if not is_plain(state[name], expected[name]):
            raise InputError(
                f"{files[0]}: {name} holds {state[name].dtype} values that are not finite or not dense, expected "
                f"finite {expected[name].dtype}; train anew with a smaller --lr, or copy the file again"
            )
    for other in others:
        if other.keys() != state.keys() or not all(torch.equal(other[name], state[name]) for name in state):
            raise InputError(f"{safe}: holds other weights than {path.name} beside it; take away the one that is wrong")
    model.load_state_dict(state)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors.torch import load

    try:
        state = load(path.read_bytes()) if path.suffix == ".safetensors" else read_tensors(path)
    except Exception as error:  # damaged bytes make the readers raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a file of weights alone ({reason})") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise InputError(f"{path}: holds no state dict (names and tensors), expected what torch.save(state_dict) wrote")
    return state


def is_plain(tensor: torch.Tensor, like: torch.Tensor) -> bool:
    """Whether a tensor from a file holds finite numbers of the same kind as `like`, not sparse, quantized or absent."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    kinds = {(t.is_floating_point(), t.is_complex(), t.dtype == torch.bool) for t in (tensor, like)}
    return len(kinds) == 1 and bool(tensor.isfinite().all())


# Reproducibility and devices


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and ask a GPU for repeatable algorithms (main.py sets what cuBLAS wants for it)."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(torch.cuda.is_available(), warn_only=True)


def keep_freed_memory() -> None:
    """Have glibc keep up to 2 GB of freed memory for the next step, whose pages the system else hands out zeroed anew.

    Tensors over 32 MB it takes from the system in any case; elsewhere than in glibc nothing is done.
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


def environment(device: torch.device) -> dict[str, Any]:
    """What a result depends on besides its arguments: versions, commit of the program, device."""
    import platform
    from importlib.metadata import version

    import torch

    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"  # not a clone, or no git
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "torchaudio", "numpy", "pandas", "scikit-learn")},
        "commit": commit,
        "device": f"{device} ({name}, {torch.get_num_threads()} threads)",
    }
