"""Feature store: features of a corpus's utterances in one safetensors file per session, computed once.

A file holds a tensor per utterance, named by its id. Its metadata holds what the features depend on: `settings`, and in
`hashes` by id the SHA-256 of the wav or text that an utterance's were computed from. What is lacking, or was computed
from another one, is computed anew.
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
    """`read_wav`, or why the wav cannot be used."""
    try:
        return read_wav(path, sr)
    except InputError as error:
        return error


def open_features(path: Path) -> Any | None:
    """An open file of features, or None if there is none, or a damaged one."""
    try:
        return safetensors.safe_open(path, "pt") if path.exists() else None
    except (OSError, safetensors.SafetensorError) as error:
        warnings.warn(f"{path}: damaged ({error}); its features must be computed anew", stacklevel=2)
        return None


def wavs_and_hashes(data_path: Path, audio_path: Path | None, table: pd.DataFrame) -> tuple[dict, dict]:
    """`sources` and `hashes` of a `FeatureStore` of what is computed from wavs."""
    wavs = find_wavs(data_path, audio_path)
    return wavs, hash_wavs(data_path, wavs, table["id"])


class FeatureStore:
    """Features of the utterances (`id`, `session`) of a table, in a folder.

    Iterating gives the features of each utterance, or None, in the order of the table; one file is open at a time.

    settings : what the features depend on besides the sources, as JSON can write it; files of others are replaced
    sources : by id the wav, or the text, from which features are computed
    hashes : by id the SHA-256 of each source that there is
    faults : by id why a wav cannot be used
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

    def first_lacking(self) -> str | None:
        """An utterance whose features are lacking and can be computed; of those before it `faults` says why not."""
        for ids in self._lacking().values():
            for segment in ids:
                source = self.sources[segment]
                found = try_to_read(source) if isinstance(source, Path) else source
                if not isinstance(found, InputError):
                    return segment
                self.faults[segment] = str(found)
        return None

    def fill(self, compute: Callable[[Sequence[Any]], Iterable[Tensor | InputError]], what: str) -> None:
        """Compute what is lacking, with a progress bar for `what`, and save it after each session.

        `compute` gives for each of some sources its features, or why they cannot be computed. Another process waits
        meanwhile.
        Raises `OSError` or `InputError` if the folder cannot be written to.
        """
        if self.first_lacking() is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(self.folder, f"computing {what}", wait=True):
            lacking = self._lacking()  # what another process has not computed meanwhile
            with tqdm(total=sum(map(len, lacking.values())), desc=what, unit="utterance") as bar:
                for session, ids in lacking.items():
                    computed = {}
                    for segment, found in zip(ids, compute([self.sources[segment] for segment in ids]), strict=True):
                        if isinstance(found, InputError):
                            self.faults[segment] = str(found)
                        else:
                            computed[segment] = found
                        bar.update()
                    self._save(session, computed)

    def _lacking(self) -> dict[int, list[str]]:
        """By session the utterances with a source from which the features in its file were not computed."""
        lacking = {}
        for session, rows in groupby(sorted(self.rows), key=itemgetter(0)):
            _, hashes = self._open(session)
            ids = [segment for _, segment in rows if segment in self.hashes]
            lacking[session] = [segment for segment in ids if hashes.get(segment) != self.hashes[segment]]
        return lacking

    def _open(self, session: int) -> tuple[Any, dict[str, str]]:
        """A session's file and its `hashes`; these are empty without a file of these settings."""
        file = open_features(self.folder / f"Session{session:02d}.safetensors")
        if file is None or file.metadata()["settings"] != self.settings:
            return None, {}
        return file, json.loads(file.metadata()["hashes"])

    def _save(self, session: int, computed: Mapping[str, Tensor]) -> None:
        """Add features to a session's file, which is replaced as a whole."""
        if computed:
            file, hashes = self._open(session)
            tensors = {segment: file.get_tensor(segment).clone() for segment in hashes} | computed
            del file  # Windows replaces no file that is open or mapped into memory
            hashes |= {segment: self.hashes[segment] for segment in computed}
            metadata = {"settings": self.settings, "hashes": json.dumps(hashes)}
            with atomic_write(self.folder / f"Session{session:02d}.safetensors", "wb") as target:
                target.write(safetensors.torch.save(tensors, metadata))
