"""Feature store: the log-mel frames of a whole corpus in one memory-mapped file, computed once.

A store called `name` is the file `name.safetensors`. It holds the tensors `frames` and `index` (JSON that says which
rows belong to which segment id), and in its metadata the key that says how the frames were made and a checksum of both.
`name.lock` is held while the store is built. The file is replaced as a whole: a build that is killed changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import filelock
import numpy as np
import safetensors
import torch
from torch import Tensor

from utils import InputError, atomic_write

VERSION = 3  # of the layout of the file; versions 1 and 2 were an index and a file of frames
OLD_FILES = re.compile(r"\.?log_mel-\d+-float\d\d(\.index(\.\w{8})?|-[0-9a-f]{32})")

# Rows of one utterance: those of the whole one, and those of its central 10 s if it is longer; or why there are none
Rows = tuple[Tensor, Tensor] | InputError


class Frames(NamedTuple):
    """Rows of N utterances, one utterance after the other.

    values : float16 or float32, shape = (rows, width); row 0 is what padding reads
    spans : int64, shape = (N, 3): its first row, its number of rows, and how many rows of its central 10 s follow them
    faults : why an utterance's wav cannot be used, by the utterance's number; it has no rows
    """

    values: Tensor
    spans: Tensor
    faults: dict[int, str]


def frames_in_memory(padding: Tensor, rows_of_each: Iterable[Rows | None]) -> Frames:
    """Frames of utterances without a file; None is one that has no wav. `padding` is row 0, shape = (1, width)."""
    pieces, spans, faults, n_rows = [padding], [], {}, 1
    for number, rows in enumerate(rows_of_each):
        span = [n_rows, 0, 0]
        if isinstance(rows, InputError):
            faults[number] = str(rows)
        elif rows is not None:
            pieces += rows
            span[1:] = map(len, rows)
        spans.append(span)
        n_rows += sum(span[1:])
    return Frames(torch.cat(pieces), torch.tensor(spans, dtype=torch.int64).reshape(-1, 3), faults)


def join_frames(parts: Sequence[Frames]) -> Frames:
    """The frames of several corpora's utterances, one corpus after the other; those of one are not copied."""
    if len(parts) == 1:
        return parts[0]
    spans, faults, n_rows, n_utterances = [], {}, 0, 0
    for part in parts:
        spans.append(part.spans + torch.tensor([n_rows, 0, 0]))
        faults |= {n_utterances + number: fault for number, fault in part.faults.items()}
        n_rows += len(part.values)
        n_utterances += len(part.spans)
    return Frames(torch.cat([part.values for part in parts]), torch.cat(spans), faults)


class Identity(NamedTuple):
    """By what a wav that has changed is known, wherever it lies."""

    size: int  # bytes
    changed: int  # ns


class Entry(NamedTuple):
    """What the index holds of one wav: its identity, and its span (see `Frames`) or why it cannot be used."""

    identity: Identity
    span: tuple[int, int, int] | None
    fault: str | None


class FeatureStore:
    """The frames of a corpus in a file; it is asked what it lacks, and computes nothing itself.

        store = FeatureStore(folder, name, key, wavs, padding)
        if store.missing():
            with store.build() as build:
                for segment in build.missing:
                    build.add(segment, rows)
        frames = store.frames(ids)

    A store that is damaged, or was made with another key, counts as empty.

    Parameters
    ----------
    folder, name : of the file
    key : what the frames depend on besides the wavs, as JSON can write it
    wavs : of the whole corpus by segment id
    padding : row 0, shape = (1, width); its dtype is the store's
    """

    def __init__(
        self, folder: Path, name: str, key: Mapping[str, Any], wavs: Mapping[str, Path], padding: Tensor
    ) -> None:
        self.path = folder / f"{name}.safetensors"
        self.lock_path = folder / f"{name}.lock"
        self.key = json.dumps({"version": VERSION, **key}, sort_keys=True)
        self.wavs, self.padding = wavs, padding
        self.identities = {segment: found for segment, path in wavs.items() if (found := _identity(path))}
        self.transient_faults: dict[str, str] = {}  # they are not in the file
        self.values: Tensor = padding
        self.entries: dict[str, Entry] = {}
        self.load()

    def missing(self) -> list[str]:
        """Segment ids whose wav is new or has changed (its size or its time of change) since it was computed."""
        known = {segment: entry.identity for segment, entry in self.entries.items()}
        return sorted(segment for segment, found in self.identities.items() if known.get(segment) != found)

    def frames(self, ids: Sequence[str]) -> Frames:
        """Frames of these segment ids; one that has no wav has no rows."""
        spans, faults = np.zeros((len(ids), 3), dtype=np.int64), {}
        for number, segment in enumerate(ids):
            if segment not in self.wavs:
                continue
            entry = self.entries.get(segment)
            if entry is not None and entry.span is not None:
                spans[number] = entry.span
                continue
            reason = "cannot be read; replace it or take it away" if entry is None else entry.fault
            faults[number] = f"{self.wavs[segment]}: {self.transient_faults.get(segment, reason)}"
        return Frames(self.values, torch.from_numpy(spans), faults)

    @contextlib.contextmanager
    def build(self) -> Iterator[Build]:
        """Write the store anew when the block ends, with what the block adds; another process waits meanwhile.

        If another process has built it in the meantime nothing is missing, and nothing is written. If the block fails,
        the store stays as it was.

        Raises
        ------
        OSError : the folder cannot be written to, or its file system has no locks
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.lock_path):
            self.load()
            missing = self.missing()
            if not missing:
                yield Build(self, missing, io.BytesIO())
                return
            self._remove_leftovers()
            try:
                with atomic_write(self.path, "wb") as file:
                    build = Build(self, missing, file)
                    yield build
                    build.finish()
            except InputError as error:
                if isinstance(error.__cause__, OSError):  # `atomic_write` could not write
                    raise error.__cause__ from None
                raise
            self.transient_faults = build.transient_faults
            if not self.load():
                raise OSError("what is written there cannot be read back")

    def load(self) -> bool:
        """Map the file into memory; False, and an empty store, if there is none that can be used."""
        try:
            self.values, self.entries = self._read()
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, safetensors.SafetensorError):
            self.values, self.entries = self.padding, {}
            return False
        return True

    def _read(self) -> tuple[Tensor, dict[str, Entry]]:
        """Frames and index of the file; of a damaged one, almost any exception."""
        with safetensors.safe_open(self.path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata["key"] != self.key:
                raise ValueError("made with other constants or another version")
            values, index = file.get_tensor("frames"), file.get_tensor("index")
        if values.dtype != self.padding.dtype or values.shape[1:] != self.padding.shape[1:]:
            raise ValueError("frames of another type or width")
        if f"{_checksum(index, _checksum(values)):08x}" != metadata["checksum"]:
            raise ValueError("damaged")
        entries = {
            segment: Entry(Identity(*wav), None if span is None else tuple(span), fault)
            for segment, (wav, span, fault) in json.loads(index.numpy().tobytes()).items()
        }
        spans = np.array([entry.span for entry in entries.values() if entry.span is not None]).reshape(-1, 3)
        if ((spans < 0) | (spans > len(values))).any() or (spans.sum(axis=1) > len(values)).any():
            raise ValueError("rows that are not there")
        return values, entries

    def _remove_leftovers(self) -> None:
        """Remove what killed builds, and versions of this program with other files, left in the folder."""
        for path in self.path.parent.iterdir():
            if path.name.startswith(f".{self.path.name}.") or OLD_FILES.fullmatch(path.name):
                path.unlink(missing_ok=True)


class Build:
    """The next version of a store: what has not changed of the old one, and what is added. See `FeatureStore.build`.

    It is written piece by piece; the library's `save_file` would need all frames at once. A safetensors file is the
    length of its header as 8 bytes, the header as JSON, and the tensors. The header comes last, into space left for it.

    Attributes
    ----------
    missing : segment ids to add, sorted
    transient_faults : by segment id the faults that may go away, such as a lacking permission; they are not written
    """

    def __init__(self, store: FeatureStore, missing: list[str], file: IO[bytes]) -> None:
        self.store, self.missing, self.file = store, missing, file
        self.n_rows = self.checksum = 0
        self.entries: dict[str, Entry] = {}
        self.transient_faults: dict[str, str] = {}
        self.header_size = 1024 + len(json.dumps(store.key))  # more than it needs, and a multiple of 8 for alignment
        self.header_size += -self.header_size % 8
        file.seek(8 + self.header_size)
        self._append(store.padding)
        for segment in sorted(store.identities.keys() - set(missing)):
            self._keep(segment)

    def add(self, segment: str, rows: Rows) -> None:
        """Add the rows of a wav, or why it cannot be used."""
        identity = self.store.identities[segment]
        if isinstance(rows, InputError):
            path = self.store.wavs[segment]
            reason = str(rows).removeprefix(f"{path}: ")
            if os.access(path, os.R_OK):
                self.entries[segment] = Entry(identity, None, reason)
            else:
                self.transient_faults[segment] = reason
        else:
            self.entries[segment] = Entry(identity, (self.n_rows, *map(len, rows)), None)
            for part in rows:
                self._append(part)

    def _keep(self, segment: str) -> None:
        """Take over an entry of the store that has not changed."""
        entry = self.store.entries[segment]
        if entry.span is not None:
            start, *lengths = entry.span
            entry = entry._replace(span=(self.n_rows, *lengths))
            self._append(self.store.values[start : start + sum(lengths)])
        self.entries[segment] = entry

    def _append(self, rows: Tensor) -> None:
        content = rows.contiguous()
        self.file.write(content.numpy().data)
        self.checksum = _checksum(content, self.checksum)
        self.n_rows += len(content)

    def finish(self) -> None:
        """Write the index and the header."""
        padding = self.store.padding
        index = torch.frombuffer(bytearray(json.dumps(self.entries).encode()), dtype=torch.uint8)
        self.file.write(index.numpy().data)
        end_of_frames = self.n_rows * padding.nbytes
        content = {
            "__metadata__": {"key": self.store.key, "checksum": f"{_checksum(index, self.checksum):08x}"},
            "frames": {
                "dtype": {torch.float16: "F16", torch.float32: "F32"}[padding.dtype],
                "shape": [self.n_rows, padding.shape[1]],
                "data_offsets": [0, end_of_frames],
            },
            "index": {
                "dtype": "U8",
                "shape": [len(index)],
                "data_offsets": [end_of_frames, end_of_frames + len(index)],
            },
        }
        header = json.dumps(content).encode().ljust(self.header_size)
        self.file.seek(0)
        self.file.write(len(header).to_bytes(8, "little") + header)


def _identity(path: Path) -> Identity | None:
    """None if it cannot be had, such as that of a link to nothing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Identity(status.st_size, status.st_mtime_ns)


def identity_digest(wavs: Mapping[str, Path], ids: Sequence[str]) -> str:
    """SHA-256 of the identities of these utterances' wavs, which are not read; one without a wav counts too."""
    content = hashlib.sha256()
    for segment in sorted(ids):
        identity = _identity(wavs[segment]) if segment in wavs else None
        content.update(f"{segment} {identity and tuple(identity)}\n".encode())
    return content.hexdigest()


def _checksum(values: Tensor, start: int = 0) -> int:
    """CRC-32, continued from `start`; 0.3 s for the 630 MB of KEMDy19."""
    return zlib.crc32(values.numpy().data, start)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire()
    except NotImplementedError as error:
        raise OSError("its file system has no locks") from error
    try:
        yield
    finally:
        lock.release()
