"""Data record: the data that a run is trained or tested on, as in its record, and differences from other data."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from constants import LEARNT
from corpora.corpus import corpus_of
from corpora.corpus_json import CORPUS_FILE, is_synthetic, read_corpus_json
from corpora.sessions import format_sessions
from corpora.wavs import audio_digest, find_wavs, hash_wavs
from features.encoders import embeddings_digest, find_encoder
from training.learnt import learnt_text
from utils import digest_file

UNKNOWN = "unknown"
# What decides a run's result besides its options
DECISIVE = ("table", "text_embeddings", "audio", "speech_embeddings", "init_weights", "train_sessions")


def corpus_facts(folder: Path) -> dict[str, str]:
    """Name and version of the corpus in a preprocessed folder, and whether it is synthetic."""
    written = read_corpus_json(folder) or {"version": UNKNOWN, "synthetic": is_synthetic(folder)}
    facts = {"corpus": corpus_of(folder).name, "version": written["version"]}
    return facts | {"synthetic": "yes" if written["synthetic"] else "no"}


def data_record(options: argparse.Namespace, table: pd.DataFrame, train_sessions: Iterable[int]) -> dict[str, Any]:
    """The data that a model is trained or tested on; warns of files that have changed since preprocessing.

    `table`, `audio`, `text_embeddings` and `speech_embeddings` are a name and a SHA-256. The text encoder has
    `text_model` (its name), `text_shape` (of an embedding), `text_fingerprint`, `text_revision`, `text_random` and
    `text_learnt` (see training/learnt.py), as far as known; the speech encoder has the same. Computes no feature.
    """
    folder, ids = options.data_path, table["id"].tolist()
    data = corpus_facts(folder) | {"utterances": str(len(table)), "table": digest_of(folder, f"df_{options.SorL}.csv")}
    if "text" in options.modality and options.text_model is None:
        data |= default_text(folder, options.text_dim)
    elif "text" in options.modality:
        data |= encoder_facts(folder, "text", options.text_model, ids)
    if "audio" in options.modality and options.audio == "encoder":
        data |= encoder_facts(folder, "speech", options.audio_model, ids)
    elif "audio" in options.modality:
        hashes = hash_wavs(folder, find_wavs(folder, options.audio_path), ids)
        data["audio"] = f"wavs {audio_digest(hashes, ids)}"
    return data | {"train_sessions": format_sessions(train_sessions)}


def digest_of(folder: Path, file: str) -> str:
    """Name and SHA-256 of a file of a preprocessed folder; warns if the file has changed since preprocessing."""
    found, written = digest_file(folder / file), read_corpus_json(folder)
    if written and written["files"].get(file, found) != found:
        warnings.warn(f"{folder / file}: changed since preprocessing.py wrote {CORPUS_FILE}", stacklevel=2)
    return f"{file} {found}"


def default_text(folder: Path, text_dim: int) -> dict[str, Any]:
    """The entries of `data_record` for the text encoder of embedding_<text_dim>.npy."""
    file, facts = f"embedding_{text_dim}.npy", {"text_model": UNKNOWN, "text_shape": [text_dim]}
    if (folder / file).is_file():
        facts["text_embeddings"] = digest_of(folder, file)
        about = (read_corpus_json(folder) or {"text_models": {}})["text_models"].get(file)
        if about and about["sha256"] in facts["text_embeddings"]:
            facts |= described("text", about)
    return facts


def encoder_facts(folder: Path, kind: str, name: str | None, ids: Iterable[str]) -> dict[str, Any]:
    """The entries of `data_record` for an encoder whose embeddings are in `features`."""
    about = find_encoder(folder, kind, name)
    digest = f"{kind} embeddings {embeddings_digest(folder, kind, about, ids)}"
    return {f"{kind}_embeddings": digest, f"{kind}_shape": about["shape"]} | described(kind, about)


def described(kind: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The description of an encoder as in `data_record`."""
    facts = {"model": about["name"], "random": "yes" if about["random"] else "no", "learnt": about.get(LEARNT)}
    facts |= {name: about.get(name) for name in ("revision", "fingerprint")}
    return {f"{kind}_{name}": value for name, value in facts.items() if value is not None}


def differences(stored: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str] = DECISIVE) -> list[str]:
    """How the `data` of a record differ from other data: a phrase for each difference, with the file name.

    Entries that `stored` lacks are not compared: the published program's record is empty.
    """
    found = []
    for name in [name for name in names if name in stored and stored[name] != now.get(name)]:
        file = stored[name].rpartition(" ")[0] or "training sessions"
        kind = name.removesuffix("_embeddings")
        before, after = (encoder_summary(data, kind) for data in (stored, now))  # "" if not of an encoder
        found.append(file if before == after else f"{file} ({before}; now {after})")
    return found


def encoder_summary(data: Mapping[str, Any], kind: str) -> str:
    """The "text" or "speech" encoder of a run as text; "" if it has none."""
    name = data.get(f"{kind}_model", "")
    if not name or name == UNKNOWN:
        return name and f"{UNKNOWN}, as are the data that it was trained on"
    random = ", random weights" if data.get(f"{kind}_random") == "yes" else ""
    learnt = f", fine-tuned on {learnt_text(data[f'{kind}_learnt'])}" if f"{kind}_learnt" in data else ""
    return f"{name}{random}, fingerprint {data[f'{kind}_fingerprint'][:12]}{learnt}"


def encoders_text(data: Mapping[str, Any]) -> list[str]:
    """The encoders and initial weights of a run as text, with the sessions that they were trained on."""
    found = [f"{kind} encoder: {encoder_summary(data, kind)}" for kind in ("text", "speech") if f"{kind}_model" in data]
    if "init" in data:
        before = "; ".join(data["init_encoders"])
        found.append(f"initial weights of {data['init']}, trained on {learnt_text(data['init_learnt'])} ({before})")
    return found


def corpus_summary(data: Mapping[str, Any]) -> str:
    """Name and version of a run's corpus, and whether it is the synthetic sample."""
    return f"{data['corpus']} (version {data['version']}{', synthetic' if data['synthetic'] == 'yes' else ''})"
