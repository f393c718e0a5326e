"""Speech embeddings: those of a whole corpus in a feature store, computed once by preprocessing.py --audio_model."""

from __future__ import annotations

import copy
import json
import os
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from corpora.registry import preprocessed_corpus
from corpora.wavs import find_wavs, read_wav
from features.speech_encoder import Piece, SpeechEncoder, load_speech_encoder
from features.store import FeatureStore, Frames, Rows
from utils import InputError, encoder_name, lock_folder

VERSION = 1  # of what an embedding is; another one means that all are computed anew
SAVE_SECONDS = 60.0  # what a process that is killed loses at most
BATCH_SECONDS = 64  # of sound at once, padding included
DTYPE = torch.float16
EXAMPLE = "team-lucid/hubert-base-korean"  # on the Hugging Face hub, for error messages


def embed_corpus(
    data_path: Path, name: str, device: torch.device, audio_path: Path | None = None, batch_size: int = 64
) -> str:
    """Compute the embeddings that the corpus's store lacks; return a line that says what is there.

    Parameters
    ----------
    name : hub name or folder of the speech encoder
    batch_size : utterances at once, at most `BATCH_SECONDS` in all

    Raises
    ------
    InputError : the encoder or the folder cannot be used, or there is no wav
    """
    wavs, where = find_wavs(data_path, audio_path)
    wavs = preprocessed_corpus(data_path).own(wavs)
    if not wavs:
        raise InputError(f"{where}: no wav of an utterance; --audio_path is the folder of the wavs")
    encoder = load_speech_encoder(name)
    encoder.model.to(device)
    described = describe_encoder(encoder)
    file = f"speech-{re.sub(r'[^A-Za-z0-9.-]+', '-', encoder.name)}-{encoder.fingerprint[:8]}"
    folder = data_path / "features"
    refuse_namesake(folder, file, encoder.name)
    with lock_folder(data_path, "pre-processing"):
        try:
            store = open_store(folder, file, described, wavs)
            fill(store, encoder, batch_size)
        except OSError as error:
            raise InputError(f"{folder}: embeddings cannot be kept there ({error.strerror or error})") from error
    n = sum(entry.span is not None for entry in store.entries.values())
    return (
        f"speech embeddings of {encoder.name}: {n} utterances, {encoder.layers} layers of {encoder.dimension}; "
        f"wavs that cannot be used: {len(wavs) - n}"
    )


def refuse_namesake(folder: Path, file: str, name: str) -> None:
    """Raise `InputError` where a folder holds embeddings of another encoder called `name`: runs know them by it."""
    for other, encoder in stored_encoders(folder).items():
        if other != file and encoder["name"] == name:
            raise InputError(
                f"{folder / other}.safetensors: of another encoder called {name}, and runs know an encoder by its "
                "name: give this one another name, by its folder, or take that file away if no run needs it"
            )


def describe_encoder(encoder: SpeechEncoder) -> dict[str, Any]:
    """An encoder as a store and a run's configuration hold it: its name, layers, dimension and fingerprint."""
    return {name: getattr(encoder, name) for name in ("name", "layers", "dimension", "fingerprint")}


def open_store(folder: Path, file: str, encoder: Mapping[str, Any], wavs: Mapping[str, Path]) -> FeatureStore:
    """The store of an encoder; a row a layer, and zeros for padding."""
    key = {"speech_version": VERSION, "speech_encoder": encoder}
    return FeatureStore(folder, file, key, wavs, torch.zeros(1, encoder["dimension"], dtype=DTYPE))


def fill(store: FeatureStore, encoder: SpeechEncoder, batch_size: int) -> None:
    """Compute what the store lacks; it is saved every minute, and also when this is interrupted or fails."""
    embedded = embed_wavs(encoder, {segment: store.wavs[segment] for segment in store.missing()}, batch_size)
    finished, failure = not store.missing(), None
    while not finished and failure is None:
        saved = time.monotonic()
        with store.build() as build:
            finished = True
            try:
                for segment, rows in embedded:
                    build.add(segment, rows)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        finished = False
                        break
            except (KeyboardInterrupt, RuntimeError, MemoryError) as error:
                failure = error
    if failure is not None:
        raise failure


def embed_wavs(encoder: SpeechEncoder, wavs: Mapping[str, Path], batch_size: int) -> Iterator[tuple[str, Rows]]:
    """Embeddings by segment id, or why a wav cannot be used, the longest first; threads read wavs ahead.

    Yields
    ------
    segment id, and its rows (float16, shape = (layers, dimension)) or an `InputError`
    """
    with ThreadPoolExecutor() as pool:
        seconds = dict(zip(wavs, pool.map(duration, wavs.values()), strict=True))

    def read(batch: list[str]) -> list[list[Piece] | InputError]:
        return [read_pieces(encoder, wavs[segment]) for segment in batch]

    n_threads, torch_threads = os.cpu_count(), torch.get_num_threads()
    pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
    batches, pending = deque(make_batches(seconds, batch_size)), deque()
    try:
        with tqdm(total=sum(map(round, seconds.values())), desc="speech embeddings", unit="s") as bar:  # of sound
            while batches or pending:
                while batches and len(pending) <= n_threads:
                    pending.append((batches[0], pool.submit(read, batches.popleft())))
                batch, reading = pending.popleft()
                yield from embed_batch(encoder, dict(zip(batch, reading.result(), strict=True))).items()
                bar.update(sum(round(seconds[segment]) for segment in batch))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)  # the pool's threads have set it for all threads started later


def embed_batch(encoder: SpeechEncoder, batch: Mapping[Any, list[Piece] | InputError]) -> dict[Any, Rows]:
    """Embeddings of a batch as a store has them, by the keys of the batch; why a wav cannot be used stays."""
    usable = {key: pieces for key, pieces in batch.items() if not isinstance(pieces, InputError)}
    vectors = encoder.embed(list(usable.values())) if usable else []
    limit = torch.finfo(DTYPE).max
    rows = {key: v.clamp(-limit, limit).to(DTYPE) for key, v in zip(usable, vectors, strict=True)}
    return {key: (rows[key], rows[key][:0]) if key in rows else fault for key, fault in batch.items()}


def duration(path: Path) -> float:
    """Seconds of a wav, 0 if it cannot be read."""
    try:
        return soundfile.info(path).duration
    except (OSError, soundfile.SoundFileError):
        return 0.0


def make_batches(seconds: Mapping[Any, float], batch_size: int) -> Iterator[list[Any]]:
    """Segment ids, or numbers, in batches of like length, the longest first: what lacks memory fails at once."""
    batch: list[Any] = []
    for segment in sorted(seconds, key=lambda segment: (-seconds[segment], segment)):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * seconds[batch[0]] > BATCH_SECONDS):
            yield batch
            batch = []
        batch.append(segment)
    if batch:
        yield batch


def read_pieces(encoder: SpeechEncoder, path: Path) -> list[Piece] | InputError:
    """What the encoder takes of a wav, or why the wav cannot be used."""
    try:
        return encoder.pieces(read_wav(path, encoder.rate))
    except InputError as error:
        return error
    except (OSError, soundfile.SoundFileError) as error:
        return InputError(f"{path}: not readable as sound ({error}); replace it or take it away")


# What training reads


class SpeechEmbeddings:
    """Speech embeddings of N utterances.

    Parameters
    ----------
    encoder : its name, layers, dimension and fingerprint
    frames : of the utterances: a row a layer, none for an utterance without a wav; row 0 is zeros

    Attributes
    ----------
    shape : layers and dimension
    faults : why a wav cannot be used, by the utterance's number
    """

    def __init__(self, encoder: Mapping[str, Any], frames: Frames) -> None:
        self.encoder, self.shape = dict(encoder), (encoder["layers"], encoder["dimension"])
        self.frames, spans, self.faults = frames
        there = spans[:, 1:2] > 0
        rows = torch.where(there, spans[:, :1] + torch.arange(self.shape[0]), 0)
        self.rows = torch.cat([rows, torch.zeros_like(rows[:1])])  # the last one, which a -1 finds, is padding

    def to(self, device: torch.device) -> SpeechEmbeddings:
        """A copy on `device`."""
        moved = copy.copy(self)
        moved.frames, moved.rows = self.frames.to(device), self.rows.to(device)
        return moved

    def of(self, windows: Tensor) -> Tensor:
        """Embeddings of windows of utterance numbers, zeros for -1: float32, (B, ws) -> (B, ws, layers, dimension)."""
        rows = self.rows[windows.to(self.rows.device, non_blocking=True)]
        return self.frames.index_select(0, rows.flatten()).float().view(*rows.shape, -1)


def open_frames(
    folder: Path, wavs: Mapping[str, Path], ids: Sequence[str], name: str | None = None
) -> tuple[dict[str, Any], Frames]:
    """The encoder, and the rows of the utterances `ids`, in the store of the encoder `name`, or in the only one.

    Raises
    ------
    InputError : there is no such store, there are several, or it lacks a wav that is new or has changed
    """
    file, encoder = find_encoder(folder, name)
    store = open_store(folder, file, encoder, wavs)
    lacking = [s for s in {*ids}.intersection(store.missing()) if os.access(wavs[s], os.R_OK)]
    if lacking:
        raise InputError(
            f"{store.path}: lacks {len(lacking)} utterances such as {min(lacking)}, whose wavs are new or changed; "
            f"compute them with preprocessing.py --data_path {folder.parent} --audio_model {encoder['name']}"
        )
    return encoder, store.frames(ids)


def find_encoder(folder: Path, name: str | None = None) -> tuple[str, dict[str, Any]]:
    """The store of the encoder `name`, or the only one, and its encoder: name, layers, dimension and fingerprint.

    Raises
    ------
    InputError : there is no such store, or there are several
    """
    known = stored_encoders(folder)
    if name is not None:
        known = {file: encoder for file, encoder in known.items() if encoder["name"] == encoder_name(name)}
    if not known:
        what = "speech embeddings" if name is None else f"speech embeddings of {name}"
        command = f"preprocessing.py --data_path {folder.parent} --audio_model {name or EXAMPLE}"
        raise InputError(f"{folder}: holds no {what}; compute them with {command}")
    if len(known) > 1:
        names = ", ".join(f"{encoder['name']} ({file})" for file, encoder in known.items())
        raise InputError(f"{folder}: holds speech embeddings of {names}; name one with --audio_model")
    ((file, encoder),) = known.items()
    return file, encoder


def stored_encoders(folder: Path) -> dict[str, dict[str, Any]]:
    """The encoders whose embeddings a folder holds, by the name of the store."""
    known = {}
    for path in sorted(folder.glob("speech-*.safetensors")):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                key = json.loads(file.metadata()["key"])
            if key["speech_version"] == VERSION:
                known[path.name.removesuffix(".safetensors")] = key["speech_encoder"]
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
            continue  # damaged: preprocessing.py computes it anew
    return known
