"""Speech embeddings of a corpus: computed once by preprocessing.py --audio_model, and read by training.

They are kept in `DATA_PATH/features/speech-NAME-FINGERPRINT/`, float16, shape = (layers, dimension) an utterance.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from corpora.utterances import read_utterances
from features.store import FeatureStore, open_features, try_to_read
from utils import InputError, expand_home

if TYPE_CHECKING:  # training does not need transformers
    from features.speech_encoder import SpeechEncoder

EXAMPLE = "team-lucid/hubert-base-korean"  # on the Hugging Face hub, for error messages


def encoder_name(name_or_folder: str) -> str:
    """The name of a speech encoder: its name on the hub, or that of its folder, wherever it lies."""
    folder = Path(expand_home(name_or_folder))
    return folder.resolve().name if folder.is_dir() else name_or_folder


def save_speech_embeddings(data_path: Path, audio_path: Path | None, encoder: SpeechEncoder) -> str:
    """Compute the embeddings that a pre-processed folder lacks; return a line that says what it then has.

    Raises `InputError` if there is no wav, or the folder holds embeddings of another encoder of this name.
    """
    roles = [path.stem.removeprefix("df_") for path in sorted(data_path.glob("df_*.csv"), reverse=True)]
    table = pd.concat([read_utterances(data_path, role) for role in roles]).drop_duplicates("id")
    about = {"name": encoder.name, "fingerprint": encoder.fingerprint}
    about |= {"layers": encoder.layers, "dimension": encoder.dim}
    for other in speech_encoders(data_path):
        if other["name"] == encoder.name and other != about:
            raise InputError(
                f"{data_path}/features/{_kind(other)}: of another encoder called {encoder.name}, by which name runs "
                "know it: rename the folder of this encoder, or remove those embeddings if no run needs them"
            )
    store = FeatureStore(data_path, audio_path, _kind(about), _settings(about), table)
    if not store.hashes:
        raise InputError(f"{audio_path or data_path}: no wav of an utterance; --audio_path is the folder of the wavs")
    store.fill(partial(_embed_wavs, encoder), "speech embeddings")
    return (
        f"speech embeddings of {encoder.name}: {len(store.hashes) - len(store.faults)} utterances, {encoder.layers} "
        f"layers of {encoder.dim}; wavs that cannot be used: {len(store.faults)}"
    )


def _kind(encoder: Mapping[str, Any]) -> str:
    """The name of the folder of an encoder's embeddings."""
    return f"speech-{re.sub(r'[^A-Za-z0-9.-]+', '-', encoder['name'])}-{encoder['fingerprint'][:8]}"


def _settings(encoder: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": 2, "speech_encoder": encoder}  # embeddings of another version are computed anew


def _embed_wavs(encoder: SpeechEncoder, paths: Sequence[Path]) -> Iterator[Tensor | InputError]:
    """The embedding of each wav, as it is stored; a second thread reads the next ones."""
    limit = torch.finfo(torch.float16).max
    with ThreadPoolExecutor(1) as pool:
        for wave in pool.map(partial(try_to_read, sr=encoder.rate), paths):
            yield wave if isinstance(wave, InputError) else encoder.embed(wave).clamp(-limit, limit).half()


def speech_encoders(data_path: Path) -> list[dict[str, Any]]:
    """The encoders whose embeddings a folder holds: name, fingerprint, layers and dimension."""
    found = {}
    for path in sorted(data_path.glob("features/speech-*/Session*.safetensors")):
        if file := open_features(path):
            found[path.parent] = json.loads(file.metadata()["settings"])["speech_encoder"]
    return [*found.values()]


def find_encoder(data_path: Path, name: str | None = None) -> dict[str, Any]:
    """The one of `speech_encoders` called `name` (a folder counts by its own name), or the only one."""
    wanted = None if name is None else encoder_name(name)
    known = [encoder for encoder in speech_encoders(data_path) if wanted in (None, encoder["name"])]
    if len(known) != 1:
        names = " and ".join(encoder["name"] for encoder in known)
        raise InputError(
            f"{data_path}/features: speech embeddings of {names or 'no such encoder'}, expected of one: compute them "
            f"with preprocessing.py --data_path {data_path} --audio_model {name or EXAMPLE}, or name one"
        )
    return known[0]


def speech_digest(data_path: Path, name: str | None, ids: Iterable[str]) -> str:
    """SHA-256 of the embeddings of these utterances, by `find_encoder`'s encoder."""
    digest, wanted = hashlib.sha256(), set(ids)
    kind = _kind(find_encoder(data_path, name))
    for path in sorted(data_path.glob(f"features/{kind}/Session*.safetensors")):
        if file := open_features(path):
            for segment in sorted(wanted.intersection(file.keys())):
                digest.update(segment.encode())
                digest.update(file.get_tensor(segment).numpy().data)
    return digest.hexdigest()


def load_speech(
    data_path: Path, audio_path: Path | None, name: str | None, table: pd.DataFrame
) -> tuple[Tensor, FeatureStore]:
    """Speech embeddings of a table's utterances, and the store that holds them.

    They are float16, shape = (N, layers, dimension), zeros for an utterance without a usable wav. Raises `InputError`
    as `find_encoder` does, or if embeddings are lacking of a wav that is new or has changed.
    """
    encoder = find_encoder(data_path, name)
    store = FeatureStore(data_path, audio_path, _kind(encoder), _settings(encoder), table)
    if segment := store.first_lacking():
        raise InputError(
            f"{store.folder}: lacks the embedding of {segment}, whose wav is new or changed; compute it with "
            f"preprocessing.py --data_path {data_path} --audio_model {encoder['name']}"
        )
    embeddings = torch.zeros(len(table), encoder["layers"], encoder["dimension"], dtype=torch.float16)
    for row, found in zip(embeddings, store, strict=True):
        if found is not None:
            row.copy_(found)
    return embeddings, store
