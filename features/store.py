"""Feature store: features of a corpus's utterances in one safetensors file per session, computed once.

A file has one tensor per utterance, named by its id. Its metadata records what the features depend on: `settings`, and
`hashes`, the SHA-256 of the wav or text of each utterance by id. Features that are missing or whose source has changed
are computed again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
from torch import Tensor
from tqdm import tqdm

from constants import SAMPLE_RATE
from corpora.wavs import find_wavs, hash_wavs, read_wav
from utils import InputError, atomic_write, lock_folder


def try_to_read(path: Path, sr: int = SAMPLE_RATE) -> np.ndarray | InputError:
    """`read_wav`, or the error of an unusable wav."""
    try:
        return read_wav(path, sr)
    except InputError as error:
        return error


def open_features(path: Path) -> Any | None:
    """An open file of features, or None if it is missing or damaged."""
    try:
        return safetensors.safe_open(path, "pt") if path.exists() else None
    except (OSError, safetensors.SafetensorError) as error:
        warnings.warn(f"{path}: damaged ({error}); its features must be computed again", stacklevel=2)
        return None


def wavs_and_hashes(data_path: Path, audio_path: Path | None, table: pd.DataFrame) -> tuple[dict, dict]:
    """`sources` and `hashes` of a `FeatureStore` of features of wavs."""
    wavs = find_wavs(data_path, audio_path)
    return wavs, hash_wavs(data_path, wavs, table["id"])


class FeatureStore:
    """Features of the utterances (`id`, `session`) of a table, in a folder.

    Iteration yields the features of each utterance, or None, in the order of the table; one file is open at a time.

    settings : what the features depend on besides the sources (JSON); files with other settings are replaced
    sources : the wav or text of each id
    hashes : the SHA-256 of each existing source, by id
    faults : the error of each unusable wav, by id
    """

    def __init__(self, folder: Path, settings: dict, table: pd.DataFrame, sources: Mapping, hashes: Mapping) -> None:
        self.folder, self.settings = folder, json.dumps(settings, sort_keys=True)
        self.rows = [*zip(table["session"], table["id"], strict=True)]
        self.sources, self.hashes = sources, hashes
        self.faults: dict[str, str] = {}

    def __iter__(self) -> Iterator[Tensor | None]:
        for session, rows in groupby(self.rows, key=itemgetter(0)):
            file, hashes = self._open(session)
            for _, segment in rows:
                is_current = segment in hashes and hashes[segment] == self.hashes.get(segment)
                yield file.get_tensor(segment) if is_current else None

    def first_missing(self) -> str | None:
        """The first utterance whose missing features can be computed; unusable wavs before it go to `faults`."""
        for ids in self._missing().values():
            for segment in ids:
                source = self.sources[segment]
                found = try_to_read(source) if isinstance(source, Path) else source
                if not isinstance(found, InputError):
                    return segment
                self.faults[segment] = str(found)
        return None

    def fill(self, compute: Callable[[Sequence[Any]], Iterable[Tensor | InputError]], what: str) -> None:
        """Compute missing features, with a progress bar for `what`, and save them after each session.

        `compute` returns for each source its features or an error. Other processes wait until this is done.
        Raises `OSError` or `InputError` if the folder cannot be written to.
        """
        if self.first_missing() is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(self.folder, f"computing {what}", wait=True):
            missing = self._missing()  # another process may have computed some
            with tqdm(total=sum(map(len, missing.values())), desc=what, unit="utterance") as bar:
                for session, ids in missing.items():
                    computed = {}
                    for segment, found in zip(ids, compute([self.sources[segment] for segment in ids]), strict=True):
                        if isinstance(found, InputError):
                            self.faults[segment] = str(found)
                        else:
                            computed[segment] = found
                        bar.update()
                    self._save(session, computed)

    def _missing(self) -> dict[int, list[str]]:
        """By session, the utterances whose features are missing or were computed from another source."""
        missing = {}
        for session, rows in groupby(sorted(self.rows), key=itemgetter(0)):
            _, hashes = self._open(session)
            ids = [segment for _, segment in rows if segment in self.hashes]
            missing[session] = [segment for segment in ids if hashes.get(segment) != self.hashes[segment]]
        return missing

    def _open(self, session: int) -> tuple[Any, dict[str, str]]:
        """The file of a session and its `hashes`, which are empty without a file of these settings."""
        file = open_features(self.folder / f"Session{session:02d}.safetensors")
        if file is None or file.metadata()["settings"] != self.settings:
            return None, {}
        return file, json.loads(file.metadata()["hashes"])

    def _save(self, session: int, computed: Mapping[str, Tensor]) -> None:
        """Add features to the file of a session, which is replaced as a whole."""
        if computed:
            file, hashes = self._open(session)
            tensors = {segment: file.get_tensor(segment).clone() for segment in hashes} | computed
            del file  # Windows cannot replace an open file
            hashes |= {segment: self.hashes[segment] for segment in computed}
            metadata = {"settings": self.settings, "hashes": json.dumps(hashes)}
            with atomic_write(self.folder / f"Session{session:02d}.safetensors", "wb") as target:
                target.write(safetensors.torch.save(tensors, metadata))
