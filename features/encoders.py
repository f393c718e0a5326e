"""Embeddings of a corpus from pretrained encoders: computed once by preprocessing.py and read by training.

They are stored in `DATA_PATH/features/KIND-NAME-FINGERPRINT/`. KIND is text (float32, shape = (dim,) per utterance) or
speech (float16, shape = (layers, dim)). A folder can have embeddings of several encoders. The text embeddings in
`embedding_<dim>.npy`, the published format, are those of the default text encoder.
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

EXAMPLES = {"text": "klue/roberta-base", "speech": "team-lucid/hubert-base-korean"}  # on the Hugging Face Hub
OPTIONS = {"text": "--text_model", "speech": "--audio_model"}
DTYPES = {"text": torch.float32, "speech": torch.float16}
About = dict[str, Any]  # of an encoder: name, fingerprint, random, learnt_sessions and shape of an embedding


def encoder_name(name_or_folder: str) -> str:
    """The name of an encoder: its name on the Hub, or the name of its folder without the path."""
    folder = Path(expand_home(name_or_folder))
    return folder.resolve().name if folder.is_dir() else name_or_folder


def save_encoder_embeddings(data_path: Path, audio_path: Path | None, encoder: Any) -> str:
    """Compute the missing embeddings of a `TextEncoder` or `SpeechEncoder`; returns a one-line summary.

    Raises `InputError` if there is no text or wav, or the folder has embeddings of another encoder with this name.
    """
    kind, about = encoder.kind, {**encoder.description, "shape": [*encoder.shape]}
    about["name"] = encoder_name(about["name"])
    about.pop("revision")
    table = all_utterances(data_path)
    for other in encoders_of(data_path, kind):
        if other["name"] == about["name"] and other != about:
            todo = "rename the folder of this encoder, or delete these embeddings"
            raise InputError(f"{_folder(data_path, kind, other)}: from another encoder named {about['name']}; {todo}")
    if kind == "text" and not table["text"].any():
        raise InputError(f"{data_path}: the tables have no transcripts to compute embeddings from")
    store = _open_store(data_path, audio_path, kind, about, table)
    if not store.hashes:
        raise InputError(f"{audio_path or data_path}: no wav of any utterance; set --audio_path to their folder")
    store.fill(encoder.embed_all, f"{kind} embeddings")
    n, shape = len(store.hashes) - len(store.faults), " x ".join(map(str, about["shape"]))
    return f"{kind} embeddings of {about['name']}: {n} utterances ({shape} values each), {len(table) - n} missing"


def has_embeddings(data_path: Path, audio_path: Path | None, kind: str, name: str) -> bool:
    """Whether a preprocessed folder has the embeddings of an encoder for all utterances."""
    for about in encoders_of(data_path, kind):
        if about["name"] == encoder_name(name):
            return not _open_store(data_path, audio_path, kind, about, all_utterances(data_path)).first_missing()
    return False


def all_utterances(data_path: Path) -> pd.DataFrame:
    """The utterances of all roles without duplicates, as from `read_utterances`."""
    roles = [path.stem.removeprefix("df_") for path in sorted(data_path.glob("df_*.csv"), reverse=True)]
    return pd.concat([read_utterances(data_path, role) for role in roles]).drop_duplicates("id")


def _folder(data_path: Path, kind: str, about: About) -> Path:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", about["name"])
    return data_path / "features" / f"{kind}-{name}-{about['fingerprint'][:8]}"


def _open_store(data_path: Path, audio_path: Path | None, kind: str, about: About, table: pd.DataFrame) -> FeatureStore:
    """The store of the embeddings of these utterances; text embeddings use the texts of the tables."""
    if kind == "text":
        sources = dict(zip(table["id"], table["text"], strict=True))
        hashes = {segment: hashlib.sha256(text.encode()).hexdigest() for segment, text in sources.items()}
    else:
        sources, hashes = wavs_and_hashes(data_path, audio_path, table)
    settings = {"version": 3, "encoder": about}  # embeddings of another version are recomputed
    return FeatureStore(_folder(data_path, kind, about), settings, table, sources, hashes)


def encoders_of(data_path: Path, kind: str) -> list[About]:
    """The encoders whose embeddings are in a folder, without the default text encoder."""
    found = {}
    for path in sorted(data_path.glob(f"features/{kind}-*/Session*.safetensors")):
        if file := open_features(path):
            found[path.parent] = json.loads(file.metadata()["settings"]).get("encoder")
    return [about for about in found.values() if about]


def find_encoder(data_path: Path, kind: str, name: str | None = None) -> About:
    """The encoder of `encoders_of` with this name (see `encoder_name`), or the only one."""
    wanted = None if name is None else encoder_name(name)
    known = encoders_of(data_path, kind)
    found = [about for about in known if wanted in (None, about["name"])]
    if len(found) != 1:
        names = ", ".join(about["name"] for about in known) or "no encoder"
        todo = f"compute them with preprocessing.py --data_path {data_path} {OPTIONS[kind]} {name or EXAMPLES[kind]}"
        found = f"{kind} embeddings of {names}, expected of {wanted or 'exactly one encoder'}"
        raise InputError(f"{data_path}/features: {found}; {todo}")
    return found[0]


def embeddings_digest(data_path: Path, kind: str, about: About, ids: Iterable[str]) -> str:
    """SHA-256 of the embeddings of these utterances."""
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
    """The embeddings of a table's utterances from `find_encoder`, shape = (N, ...), and their store.

    An utterance without a usable wav has zeros. Raises `InputError` as `find_encoder` does, or if the embedding of a
    new or changed text or wav is missing.
    """
    about = find_encoder(data_path, kind, name)
    store = _open_store(data_path, audio_path, kind, about, table)
    if segment := store.first_missing():
        todo = f"run preprocessing.py --data_path {data_path} {OPTIONS[kind]} {about['name']}"
        raise InputError(f"{store.folder}: no embedding of {segment}, which is new or has changed; {todo}")
    embeddings = torch.zeros(len(table), *about["shape"], dtype=DTYPES[kind])
    for row, found in zip(embeddings, store, strict=True):
        if found is not None:
            row.copy_(found)
    return embeddings, store


def load_text(data_path: Path, name: str | None, text_dim: int, table: pd.DataFrame) -> tuple[Tensor, pd.Series]:
    """Text embeddings of a table's utterances, float32, shape = (N, dim), and a mask of the missing ones (zeros).

    They are from the encoder `name`; without a name, from `embedding_<text_dim>.npy`.
    """
    if name is not None:
        return load_stored(data_path, None, "text", name, table)[0], pd.Series(False, table.index)
    vectors = load_embeddings(data_path / f"embedding_{text_dim}.npy", text_dim)
    names, zeros = table["id"] + ".txt", np.zeros(text_dim, np.float32)
    embeddings = np.stack([vectors.get(name, zeros) for name in names])
    return torch.from_numpy(embeddings), ~names.isin(vectors.keys())
