"""Experiment folders, checkpoints, seeds, devices, plots, and how bad input is reported."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import signal
import stat
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO


class InputError(Exception):
    """Something is wrong with what the user gave: the message says what was found, what was expected, what to do."""

    reported = False  # by another process of the same run (see training/processes.py)


class Interrupted(Exception):
    """A run stopped because a signal asked it to: the message says where, and how to go on."""

    reported = False  # by another process of the same run (see training/processes.py)

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def run_command(command: Callable[[], object], quiet: bool = False) -> int:
    """Run a command-line program's body and return its exit status.

    An `InputError`, a file that the system refuses or too little memory becomes one line on stderr and status 2, an
    interrupt one line and status 128 + the signal's number, a warning one line (none if `quiet`, and none that was
    said before); any other exception is a programming error and keeps its traceback.
    """
    said = set()

    def say(message: object, *_: object) -> None:
        if (line := one_line(message)) not in said:
            print(f"warning: {line}", file=sys.stderr)
        said.add(line)

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name need not be text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if quiet else "always", UserWarning)
            warnings.showwarning = say
            command()
            sys.stdout.flush()
    except BrokenPipeError:  # what reads the output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (Exception, KeyboardInterrupt) as error:
        status, line = describe_failure(error)
        if status is None:
            raise
        if line:
            print(line, file=sys.stderr)
        return status
    return 0


def describe_failure(error: BaseException) -> tuple[int | None, str]:
    """Exit status of an error and the line that reports it; None for a programming error."""
    if isinstance(error, InputError):
        return 2, "" if error.reported else f"error: {one_line(error)}"
    if isinstance(error, Interrupted):
        return 128 + error.signal_number, "" if error.reported else f"interrupted: {error}"
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, "interrupted"
    if isinstance(error, OSError) and isinstance(error.filename, str | Path):
        return 2, f"error: {one_line(error.filename)}: {error.strerror}"
    if (lack := lack_of_memory(error)) is not None:
        return 2, f"error: {lack}; try a smaller model or --batch_size"
    return None, ""


def lack_of_memory(error: BaseException) -> str | None:
    """What an error says of too little memory, of the machine or of a GPU; None when it says something else."""
    pattern = r"(allocate|out of) memory|_ALLOC(ATION)?_FAILED|could not create a primitive$"  # the last is oneDNN's
    of_torch = isinstance(error, RuntimeError) and re.search(pattern, str(error))
    if not of_torch and not isinstance(error, MemoryError):
        return None
    reason = (str(error).splitlines() or ["of this process"])[0]
    return f"not enough memory ({one_line(reason)})"


def one_line(message: object) -> str:
    """A message with everything that does not print, such as the line breaks of an odd file name, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message))


SAME_REQUEST = 2.0  # seconds in which SIGTERM comes twice where a cluster sends it to a job and to its processes


@contextlib.contextmanager
def stop_requests(quiet: bool = False) -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in the list that this gives instead of obeying them; a second one is obeyed.

    It says so when the first one comes, unless `quiet`. SIGTERM again within `SAME_REQUEST` is no second one.
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
        if not quiet:
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


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            content.update(chunk)
    return content.hexdigest()


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
        temporary.chmod(0o666 & ~_umask())  # NamedTemporaryFile makes it readable by its owner alone
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _umask() -> int:
    """The permissions that new files do not get; asked once, since it is set to be asked, for all threads."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


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


@contextlib.contextmanager
def removed_if_empty(*folders: Path) -> Iterator[None]:
    """Take these folders away, the first one first, if they are empty when the block ends."""
    try:
        yield
    finally:
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def timestamp() -> str:
    """Local time as `20221104-183000`."""
    return time.strftime("%Y%m%d-%H%M%S")


# Of `atomic_write`
TEMPORARY = re.compile(r"\..+\.(css|csv|html|json|log|md|np[yz]|png|pth?|safetensors|txt)\.[a-z0-9_]{8}")


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


def count(n: int, noun: str) -> str:
    """`1 fold`, `5 folds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def count_epochs(folder: Path) -> int | None:
    """Epochs that the run in an experiment folder has done, by its `history.csv`; None where that is not there."""
    try:
        return max(0, (folder / "history.csv").read_bytes().count(b"\n") - 1)
    except OSError:
        return None


def encoder_name(name_or_path: str) -> str:
    """What a speech encoder is known by: its name on the hub, or that of its folder, wherever it lies."""
    is_folder = os.path.isdir(name_or_path)  # noqa: PTH112 (it takes names that are too long for a path)
    return Path(name_or_path).resolve().name if is_folder else name_or_path


def find_run(save_path: Path, name: str) -> Path:
    """The experiment folder called `name`: a folder in `save_path`, or a path."""
    for folder in (save_path / name, Path(name)):
        if (folder / "configuration.json").is_file():
            return folder
    for folder in (save_path / name, Path(name)):
        if folder.is_dir():
            raise InputError(f"{folder}: has no configuration.json, so it is no experiment folder of this program")
    raise InputError(f"{name}: no such experiment folder, neither in {save_path} nor as a path")
