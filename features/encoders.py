"""Embeddings of a corpus by pretrained encoders: computed once by preprocessing.py, and read by training.

Those of an encoder are kept in `DATA_PATH/features/KIND-NAME-FINGERPRINT/`, where KIND is text (float32, shape = (dim,)
an utterance) or speech (float16, shape = (layers, dim)). Several encoders of a kind may lie side by side. Beside them
the sentence embeddings in `embedding_<dim>.npy`, the published form, are those of the default text encoder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from corpora.utterances import read_utterances
from features.embeddings import load_embeddings
from features.store import FeatureStore, open_features, wavs_and_hashes
from utils import InputError, expand_home

EXAMPLES = {"text": "klue/roberta-base", "speech": "team-lucid/hubert-base-korean"}  # on the Hugging Face hub
OPTIONS = {"text": "--text_model", "speech": "--audio_model"}
DTYPES = {"text": torch.float32, "speech": torch.float16}
About = dict[str, Any]  # of an encoder: name, fingerprint, random, learnt_sessions and shape (of an embedding)


def encoder_name(name_or_folder: str) -> str:
    """The name of an encoder: its name on the hub, or that of its folder, wherever it lies."""
    folder = Path(expand_home(name_or_folder))
    return folder.resolve().name if folder.is_dir() else name_or_folder


def save_encoder_embeddings(data_path: Path, audio_path: Path | None, encoder: Any) -> str:
    """Compute the embeddings of a `TextEncoder` or `SpeechEncoder` that a folder lacks; a line says what it then has.

    Raises `InputError` if there is no text or wav, or the folder holds embeddings of another encoder of this name.
    """
    kind, about = encoder.kind, {**encoder.description, "shape": [*encoder.shape]}
    about["name"] = encoder_name(about["name"])
    about.pop("revision")
    table = all_utterances(data_path)
    for other in encoders_of(data_path, kind):
        if other["name"] == about["name"] and other != about:
            todo = "rename the folder of this encoder, or remove those embeddings"
            raise InputError(f"{_folder(data_path, kind, other)}: of another encoder called {about['name']}; {todo}")
    if kind == "text" and not table["text"].any():
        raise InputError(f"{data_path}: its tables have no text, of which embeddings could be computed")
    store = _open_store(data_path, audio_path, kind, about, table)
    if not store.hashes:
        raise InputError(f"{audio_path or data_path}: no wav of an utterance; --audio_path is the folder of the wavs")
    store.fill(encoder.embed_all, f"{kind} embeddings")
    n, shape = len(store.hashes) - len(store.faults), " x ".join(map(str, about["shape"]))
    return f"{kind} embeddings of {about['name']}: {n} utterances, {shape} values; without: {len(table) - n}"


def has_embeddings(data_path: Path, audio_path: Path | None, kind: str, name: str) -> bool:
    """Whether a pre-processed folder has an encoder's embeddings of all utterances."""
    for about in encoders_of(data_path, kind):
        if about["name"] == encoder_name(name):
            return not _open_store(data_path, audio_path, kind, about, all_utterances(data_path)).first_lacking()
    return False


def all_utterances(data_path: Path) -> pd.DataFrame:
    """The utterances of all roles, each once, as of `read_utterances`."""
    roles = [path.stem.removeprefix("df_") for path in sorted(data_path.glob("df_*.csv"), reverse=True)]
    return pd.concat([read_utterances(data_path, role) for role in roles]).drop_duplicates("id")


def _folder(data_path: Path, kind: str, about: About) -> Path:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", about["name"])
    return data_path / "features" / f"{kind}-{name}-{about['fingerprint'][:8]}"


def _open_store(data_path: Path, audio_path: Path | None, kind: str, about: About, table: pd.DataFrame) -> FeatureStore:
    """The embeddings of these utterances; of text they are computed from the tables' texts."""
    if kind == "text":
        sources = dict(zip(table["id"], table["text"], strict=True))
        hashes = {segment: hashlib.sha256(text.encode()).hexdigest() for segment, text in sources.items()}
    else:
        sources, hashes = wavs_and_hashes(data_path, audio_path, table)
    settings = {"version": 3, "encoder": about}  # embeddings of another version are computed anew
    return FeatureStore(_folder(data_path, kind, about), settings, table, sources, hashes)


def encoders_of(data_path: Path, kind: str) -> list[About]:
    """The encoders whose embeddings a folder holds, but for the default text encoder."""
    found = {}
    for path in sorted(data_path.glob(f"features/{kind}-*/Session*.safetensors")):
        if file := open_features(path):
            found[path.parent] = json.loads(file.metadata()["settings"]).get("encoder")
    return [about for about in found.values() if about]


def find_encoder(data_path: Path, kind: str, name: str | None = None) -> About:
    """The one of `encoders_of` called `name` (a folder counts by its own name), or the only one."""
    wanted = None if name is None else encoder_name(name)
    known = encoders_of(data_path, kind)
    found = [about for about in known if wanted in (None, about["name"])]
    if len(found) != 1:
        names = ", ".join(about["name"] for about in known) or "no encoder"
        todo = f"preprocessing.py --data_path {data_path} {OPTIONS[kind]} {name or EXAMPLES[kind]} computes them"
        raise InputError(f"{data_path}/features: {kind} embeddings of {names}, expected of {wanted or 'one'}; {todo}")
    return found[0]


def embeddings_digest(data_path: Path, kind: str, about: About, ids: Iterable[str]) -> str:
    """SHA-256 of an encoder's embeddings of these utterances."""
    digest, wanted = hashlib.sha256(), set(ids)
    for path in sorted(_folder(data_path, kind, about).glob("Session*.safetensors")):
        if file := open_features(path):
            for segment in sorted(wanted.intersection(file.keys())):
                digest.update(segment.encode())
                digest.update(file.get_tensor(segment).numpy().data)
    return digest.hexdigest()


def load_stored(
    data_path: Path, audio_path: Path | None, kind: str, name: str | None, table: pd.DataFrame
) -> tuple[Tensor, FeatureStore]:
    """`find_encoder`'s embeddings of a table's utterances, shape = (N, ...), and the store that holds them.

    They are zeros for an utterance without a usable wav. Raises `InputError` as `find_encoder` does, or if embeddings
    are lacking of a text or wav that is new or has changed.
    """
    about = find_encoder(data_path, kind, name)
    store = _open_store(data_path, audio_path, kind, about, table)
    if segment := store.first_lacking():
        todo = f"preprocessing.py --data_path {data_path} {OPTIONS[kind]} {about['name']} computes it"
        raise InputError(f"{store.folder}: lacks the embedding of {segment}, which is new or has changed; {todo}")
    embeddings = torch.zeros(len(table), *about["shape"], dtype=DTYPES[kind])
    for row, found in zip(embeddings, store, strict=True):
        if found is not None:
            row.copy_(found)
    return embeddings, store


def load_text(data_path: Path, name: str | None, text_dim: int, table: pd.DataFrame) -> tuple[Tensor, pd.Series]:
    """Sentence embeddings of a table's utterances, float32, shape = (N, dim), and which of them have none (zeros).

    They are those of the encoder called `name`, without it those in `embedding_<text_dim>.npy`.
    """
    if name is not None:
        return load_stored(data_path, None, "text", name, table)[0], pd.Series(False, table.index)
    vectors = load_embeddings(data_path / f"embedding_{text_dim}.npy", text_dim)
    names, zeros = table["id"] + ".txt", np.zeros(text_dim, np.float32)
    embeddings = np.stack([vectors.get(name, zeros) for name in names])
    return torch.from_numpy(embeddings), ~names.isin(vectors.keys())
