"""Utilities: one-line errors, atomic writes, JSON, and locked folders."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import signal
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import filelock

if TYPE_CHECKING:
    import pandas as pd

FORMULA = re.compile(r"^(?='*[=+\-@\t\r])")  # start of a text that a spreadsheet would run, or of such an escaped text


class InputError(Exception):
    """Invalid input of the user; the message has what was found, what was expected and what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


# Problems of the machine and what to do, by a regular expression for torch's error
FAULTS = {
    r"^\w*MemoryError|(allocate|out of) memory|_ALLOC(ATION)?_FAILED|could not create a primitive$": (
        "not enough memory; try a smaller model or --batch_size"
    ),
    r"busy or unavailable|no kernel image|uncorrectable ECC|CUDNN_STATUS_(NOT_INIT|\w*ARCH_MIS)": (
        "the GPU cannot be used; see nvidia-smi, or give another --gpu_id or cpu"
    ),
    r"^Dist\w*Error|NCCL|gloo": "the processes cannot reach each other; see the others' errors, then start all again",
}


def run_command(command: Callable[[], object], quiet: bool = False) -> int:
    """Run the body of a command-line program and return its exit status.

    `InputError`, errors of the file system and problems of the machine print one line and give status 2; Ctrl-C gives
    130, SIGTERM 143. A warning is one line, printed once (not if `quiet`). Other exceptions keep their traceback.
    """

    @cache  # prints each line once
    def print_line(line: str) -> None:
        print("".join(c if c.isprintable() else " " for c in line), file=sys.stderr)  # names may have line breaks

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher of several processes may send it again
        raise Terminated

    with contextlib.suppress(AttributeError):  # a notebook's output
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal cannot encode
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if quiet else "always", UserWarning)
            warnings.showwarning = lambda message, *_: print_line(f"warning: {message}")
            command()
            print(end="", flush=True)  # does nothing without stdout
            return 0
    except BrokenPipeError:  # the program that reads the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InputError as error:
        print_line(f"error: {error}")
    except KeyboardInterrupt as error:
        word, status = ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
        print_line(f"{word}: {error}" if str(error) else word)
        return status
    except (OSError, RuntimeError, MemoryError) as error:
        if not (fault := fault_of_machine(error)):
            raise
        print_line(f"error: {fault}")
    finally:
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, previous)
    return 2


def fault_of_machine(error: OSError | RuntimeError | MemoryError) -> str | None:
    """The message for an error of the file system or of the machine; None for another error."""
    if isinstance(error, OSError):
        return None if error.filename is None else f"{error.filename}: {error.strerror}"
    text = f"{type(error).__name__}: {error}"
    found = (sentence for pattern, sentence in FAULTS.items() if re.search(pattern, text))
    return next((f"{sentence} ({text.splitlines()[0]})" for sentence in found), None)


def first_line(error: BaseException, *files: Path) -> str:
    """The first line of a reader's error, or a message if one of the `files` is a Git LFS pointer."""
    for path in files:
        with contextlib.suppress(OSError), path.open("rb") as file:
            if file.read(24) == b"version https://git-lfs.":
                return f"{path.name} is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder"
    return (str(error).splitlines() or [type(error).__name__])[0]


def expand_home(path: str) -> str:
    """`path` with `~` expanded, which shells leave as it is in `--text_model=~/kobert`."""
    return os.path.expanduser(path)  # noqa: PTH111 (on Windows Path would change the slash of a Hub name)


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def decode(content: bytes, path: Path) -> str:
    """Text of a file in UTF-8 (with or without a byte order mark) or CP949, in NFC; `path` is for the `InputError`."""
    for encoding in ("utf-8-sig", "cp949") if b"\0" not in content else ():  # UTF-16 has NUL characters
        with contextlib.suppress(UnicodeDecodeError):
            return unicodedata.normalize("NFC", content.decode(encoding))
    raise InputError(f"{path}: expected text in UTF-8 or CP949; save it as UTF-8")


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file that replaces `path` at the end of the block; `InputError` if it cannot be written."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    try:
        with temporary.open(mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: Path, table: pd.DataFrame, **settings: str) -> None:
    """Write a table for people, atomically; `settings` as of `to_csv`.

    It begins with a byte order mark, so that Excel reads UTF-8. Texts (never numbers) that a spreadsheet would run as a
    formula begin with an apostrophe.
    """
    texts = table.select_dtypes(exclude="number").map(lambda v: FORMULA.sub("'", v) if isinstance(v, str) else v)
    with atomic_write(path) as file:
        file.write("\ufeff")
        table.assign(**texts).to_csv(file, index=False, **settings)


def write_json(path: Path, content: dict) -> None:
    """Write `content` as indented UTF-8 JSON, atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON object; raises `InputError` if the file is missing or contains anything else."""
    try:
        content = json.loads(path.read_text("utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError(f"contains a {type(content).__name__}")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON object ({getattr(error, 'strerror', None) or error})") from error
    return content


def new_folder(parent: Path, name: str) -> Path:
    """Make and return `parent/name_20221104-183000` (local time), with `-2`, `-3`, ... if it exists."""
    name = f"{name}_{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in itertools.count(1):
        folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


@contextlib.contextmanager
def lock_file(path: Path, wait: bool = False) -> Iterator[bool]:
    """Lock the file `path` against other processes; `filelock.Timeout` if another process has it, unless `wait`.

    If the file system does not support locks, as some network file systems, this warns and gives False.
    """
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except OSError as error:
        if isinstance(error, filelock.Timeout):
            raise
        sentence = f"cannot be locked ({error.strerror}); make sure that no other process writes to it"
        warnings.warn(f"{path.parent}: {sentence}", stacklevel=4)
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextlib.contextmanager
def lock_folder(folder: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Lock `folder` against processes `doing` the same (`InputError`); remove temporary files of killed processes."""
    try:
        with lock_file(folder / ".lock", wait) as is_locked:
            for path in folder.glob(".*.part") if is_locked else ():
                if re.fullmatch(r"\..+\.[0-9a-f]{8}\.part", path.name):  # of `atomic_write`
                    path.unlink()
            try:
                yield
            finally:
                with contextlib.suppress(PermissionError):  # Windows keeps an open file, which `lock_file` then removes
                    (folder / ".lock").unlink(missing_ok=True)
    except filelock.Timeout as error:
        raise InputError(f"{folder}: another process is {doing} in it; wait for it or stop it") from error


def count(n: int, noun: str) -> str:
    """`1 fold`, `5 folds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
