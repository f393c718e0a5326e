"""The feature store: the log-mel frames of a whole corpus in one memory-mapped file, computed once.

A store called `name` is three files in a folder: `name.index`, JSON behind its digest, which says which rows of which
frames file belong to which segment id; the frames file, whose own name is never used twice; and `name.lock`, held while
it is built. The index is written last, so that it never names frames that are not all there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import filelock
import numpy as np
import torch
from torch import Tensor

from utils import InputError, atomic_write

VERSION = 2  # of the layout of the index and of the frames file

# Rows of one utterance: those of the whole one, and those of its central 10 s if it is longer; or why there are none
Rows = tuple[Tensor, Tensor] | InputError
Compute = Callable[[Sequence[Path]], Iterator[Rows]]


class Frames(NamedTuple):
    """Rows of N utterances, one utterance behind the other.

    values : float16 or float32, shape = (rows, width); row 0 is what padding reads
    spans : int64, shape = (N, 3): its first row, its number of rows, and how many rows of its central 10 s follow them
    faults : why an utterance's wav cannot be used, by the utterance's number; it has no rows
    """

    values: Tensor
    spans: Tensor
    faults: dict[int, str]


class Index(NamedTuple):
    """What an index file says.

    file : name of the frames file
    rows : how many it holds
    checksum : CRC-32 of its content, compared once a start: 0.3 s for the 630 MB of KEMDy19
    entries : by segment id what was known of the wav (see `identity`), and its row of `Frames.spans` or its fault
    """

    file: str
    rows: int
    checksum: int
    entries: dict[str, tuple[list[int], list[int] | str]]


def in_memory(padding: Tensor, parts: Iterator[Rows | None]) -> Frames:
    """Frames of utterances without a file; None is one that has no wav. `padding` is row 0, shape = (1, width)."""
    pieces, spans, faults, rows = [padding], [], {}, 1
    for number, part in enumerate(parts):
        if isinstance(part, InputError):
            faults[number] = str(part)
        lengths = (0, 0) if part is None or isinstance(part, InputError) else (len(part[0]), len(part[1]))
        pieces += part if any(lengths) else ()
        spans.append((rows, *lengths))
        rows += sum(lengths)
    return Frames(torch.cat(pieces), torch.tensor(spans, dtype=torch.int64).reshape(-1, 3), faults)


def stored(
    folder: Path,
    name: str,
    constants: Mapping[str, Any],
    wavs: Mapping[str, Path],
    ids: Sequence[str],
    padding: Tensor,
    compute: Compute,
) -> Frames:
    """Frames of `ids` from the store `name` in `folder`; it is built, or mended, where it does not hold all `wavs`.

    Parameters
    ----------
    constants : what the frames depend on besides the wavs, as JSON has it; with other constants all are computed anew
    wavs : of the whole corpus by segment id; one whose size or time of change is another is computed anew, alone
    ids : whose frames are wanted; one that has no wav has no rows
    padding : row 0, shape = (1, width); its dtype is the store's
    compute : gives the rows of wavs in their order

    Raises
    ------
    OSError : the store has to be built or mended and `folder` cannot be written to
    """
    known = {segment: found for segment, path in wavs.items() if (found := identity(path))}
    content = {"version": VERSION, "constants": dict(constants), "dtype": str(padding.dtype), "width": padding.shape[1]}
    passing: dict[str, str] = {}
    opened = _open(folder, name, content, padding.dtype)
    if opened is None or _stale(opened[0], known):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(folder / f"{name}.lock"):
                opened = _open(folder, name, content, padding.dtype)
                if opened is None or _stale(opened[0], known):  # else another process has built it meanwhile
                    passing = _build(folder, name, content, wavs, known, padding, compute, opened)
                    opened = _open(folder, name, content, padding.dtype)
        except NotImplementedError as error:
            raise OSError("its file system has no locks") from error
    if opened is None:
        raise OSError("what is written there cannot be read back")
    index, values = opened
    spans, faults = np.zeros((len(ids), 3), dtype=np.int64), {}
    for number, segment in enumerate(ids):
        _, span = index.entries.get(segment, (None, "cannot be read; replace it or take it away"))
        if isinstance(span, list):
            spans[number] = span if segment in wavs else 0
        elif segment in wavs:
            faults[number] = f"{wavs[segment]}: {passing.get(segment, span)}"
    return Frames(values, torch.from_numpy(spans), faults)


def identity(path: Path) -> list[int] | None:
    """Size in bytes and time of the last change in ns of a file, wherever it lies; None when they cannot be had."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _stale(index: Index, known: Mapping[str, list[int]]) -> list[str]:
    """Segment ids whose wav is not the one that the index knows."""
    return [segment for segment, found in known.items() if index.entries.get(segment, (None,))[0] != found]


def _open(folder: Path, name: str, content: dict, dtype: torch.dtype) -> tuple[Index, Tensor] | None:
    """A store's index and mapped frames, or None where there is none, or one that was made otherwise or is damaged."""
    try:
        digest, _, text = (folder / f"{name}.index").read_bytes().partition(b"\n")
        if digest != hashlib.sha256(text).hexdigest().encode():
            return None
        found = json.loads(text)
        index = Index(found.pop("file"), found.pop("rows"), found.pop("checksum"), found.pop("entries"))
        if found != json.loads(json.dumps(content)) or not re.fullmatch(re.escape(name) + "-[0-9a-f]{32}", index.file):
            return None
        spans = np.array([span for _, span in index.entries.values() if isinstance(span, list)]).reshape(-1, 3)
        n_values, path = index.rows * content["width"], folder / index.file
        within = (spans >= 0).all() and (spans.sum(axis=1) <= index.rows).all()
        if not within or path.stat().st_size != n_values * dtype.itemsize:
            return None
        values = torch.from_file(str(path), size=n_values, dtype=dtype)
        if zlib.crc32(values.view(torch.uint8).numpy()) != index.checksum:
            return None
        return index, values.view(index.rows, -1)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _build(
    folder: Path,
    name: str,
    content: dict,
    wavs: Mapping[str, Path],
    known: Mapping[str, list[int]],
    padding: Tensor,
    compute: Compute,
    old: tuple[Index, Tensor] | None,
) -> dict[str, str]:
    """Write a frames file and then its index, with what did not change since `old`; the lock is held.

    Returns
    -------
    by segment id the faults that may pass, such as a lacking permission; they are not written down
    """
    for leftover in folder.glob(f"{name}-*"):  # of a build that was killed
        if old is None or leftover.name != old[0].file:
            leftover.unlink()
    path = folder / f"{name}-{uuid.uuid4().hex}"
    changed = sorted(known if old is None else _stale(old[0], known))
    entries: dict[str, tuple[list[int], list[int] | str]] = {}
    passing: dict[str, str] = {}
    rows = checksum = 0

    def append(file: IO[bytes], *parts: Tensor) -> list[int]:
        nonlocal rows, checksum
        start = rows
        for part in parts:
            values = part.contiguous().numpy().data
            file.write(values)
            checksum = zlib.crc32(values, checksum)
            rows += len(part)
        return [start, *map(len, parts)]

    try:
        with path.open("xb") as file:
            append(file, padding)
            for segment in sorted(known.keys() - set(changed)):
                _, span = old[0].entries[segment]
                if isinstance(span, list):
                    start, *lengths = span
                    span = append(file, *old[1][start : start + sum(lengths)].split(lengths))
                entries[segment] = known[segment], span
            for segment, part in zip(changed, compute([wavs[segment] for segment in changed]), strict=True):
                if isinstance(part, tuple):
                    entries[segment] = known[segment], append(file, *part)
                    continue
                reason = str(part).removeprefix(f"{wavs[segment]}: ")
                if not os.access(wavs[segment], os.R_OK):
                    passing[segment] = reason
                else:
                    entries[segment] = known[segment], reason
            file.flush()
            os.fsync(file.fileno())
        text = json.dumps(
            content | {"file": path.name, "rows": rows, "checksum": checksum, "entries": entries}
        ).encode()
        try:
            with atomic_write(folder / f"{name}.index", "wb") as file:
                file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        except InputError as error:
            raise OSError(str(error)) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if old is not None:
        (folder / old[0].file).unlink(missing_ok=True)  # whoever has it mapped keeps it
    return passing
