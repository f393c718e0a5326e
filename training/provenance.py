"""Provenance: what data a run is made from, and whether they are those of another."""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.provenance import CORPUS_FILE, UNKNOWN, describe_embeddings, is_synthetic, read_corpus_file
from corpora.registry import corpus_of
from corpora.wavs import find_wavs
from features.log_mel import CODE_DIGEST, constants_of
from features.store import identity_digest
from utils import InputError, count_epochs, digest_file, read_json

if TYPE_CHECKING:
    from training.folders import TrainedRun

KIND = ("corpus", "version", "synthetic")  # of the data: a test on another says so
WORDS = {  # for what differs, by the digest
    "table": "the role's table",
    "embeddings": "the sentence embeddings",
    "wavs": "the wavs' sizes or times of change (copies keep the times with cp -p)",
    "features": "the constants of the log-mels",
}


def describe_data(options: argparse.Namespace, ids: Sequence[str]) -> dict[str, Any]:
    """What a run is made from, as its `configuration.json` holds it under `data`; no wav is read.

    Parameters
    ----------
    options : of main.py
    ids : segment ids of the role's table

    Returns
    -------
    dict of `corpus`, `version` (None if unknown), `synthetic`, `text_model` (as `corpus.json` holds it, or `UNKNOWN`,
    or None without text) and `digests`: SHA-256 of the table's and the embeddings' files, of the wavs' identities, of
    the constants and of the code of the log-mels; None for what `--modality` leaves out
    """
    folder = options.data_path
    written = read_corpus_file(folder)
    files = {"table": folder / f"df_{options.SorL}.csv"}
    if "text" in options.modality:
        files["embeddings"] = folder / f"embedding_{options.text_dim}.npy"
    digests = dict.fromkeys(WORDS) | {name: digest_file(path) for name, path in files.items() if path.is_file()}
    if "audio" in options.modality:
        wavs, _ = find_wavs(folder, options.audio_path)
        digests["wavs"] = identity_digest(wavs, ids)
        constants = constants_of(options.sr) | {"dtype": options.feature_dtype}
        digests["features"] = hashlib.sha256(json.dumps(constants, sort_keys=True).encode()).hexdigest()
        digests["feature_code"] = CODE_DIGEST
    embeddings = describe_embeddings(folder)
    known = {name: entry["sha256"] for name, entry in embeddings.items()} | (written["files"] if written else {})
    changed = [path.name for name, path in files.items() if written and known.get(path.name) != digests[name]]
    if changed:
        warnings.warn(
            f"{folder}: {' and '.join(changed)} changed since preprocessing.py wrote {CORPUS_FILE}: what they were "
            "made from is unknown",
            stacklevel=2,
        )
    text_model = None
    if "embeddings" in files:
        name = files["embeddings"].name
        text_model = embeddings[name]["text_model"] if name in embeddings and name not in changed else UNKNOWN
    return {
        "corpus": written["corpus"] if written else corpus_of(ids[0]).name,
        "version": written["version"] if written else None,
        "synthetic": written["synthetic"] if written else is_synthetic(folder),
        "text_model": text_model,
        "digests": digests,
    }


def describe_corpus(data: Mapping[str, Any]) -> str:
    """A run's corpus in words."""
    synthetic = ", SYNTHETIC" if data["synthetic"] else ""
    return f"{data['corpus']} ({data['version'] or UNKNOWN}{synthetic})"


def describe_text_model(text_model: Mapping[str, Any] | str | None) -> str:
    """A run's text model in words."""
    if text_model is None:
        return "none"
    if isinstance(text_model, str):
        return text_model
    revision = f", revision {str(text_model['revision'])[:12]}" if text_model.get("revision") else ""
    random = ", RANDOM weights" if text_model.get("random") else ""
    return f"{text_model.get('name')}{revision}{random}, fingerprint {str(text_model.get('fingerprint'))[:12]}"


# A run that goes on, and one that an experiment finds


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, how the `data` of a configuration differ from those of now, but for the code of the log-mels."""
    before, after = stored["digests"], now["digests"]
    found = []
    for name, words in WORDS.items():
        if name not in before or before[name] == after[name]:
            continue
        if name == "embeddings" and stored["text_model"] != now["text_model"]:
            models = map(describe_text_model, (stored["text_model"], now["text_model"]))
            words += " (text model {}; now {})".format(*models)
        found.append(words)
    return found


def stored_data(folder: Path) -> dict[str, Any] | None:
    """The `data` of an experiment folder's configuration; None in one of an earlier version.

    Raises
    ------
    InputError : the configuration is damaged
    """
    path = folder / "configuration.json"
    data = read_json(path).get("data")
    if data is None:
        return None
    is_whole = isinstance(data, dict) and {*KIND, "text_model", "digests"} <= data.keys()
    if not is_whole or not isinstance(data["digests"], dict) or not isinstance(data["text_model"], dict | str | None):
        raise InputError(f"{path}: data: {data!r}, not as main.py writes it; restore the file")
    return data


def refuse_other_data(folder: Path, now: Mapping[str, Any]) -> None:
    """Raise `InputError` where the run in `folder` began with other data; warn of other code of the log-mels."""
    stored = stored_data(folder)
    if stored is None:
        return
    if found := differences(stored, now):
        raise InputError(
            f"{folder}: began with other data, {'; '.join(found)}: a run goes on with the data that it began with; "
            "bring them back, or train anew without --resume"
        )
    if stored["digests"].get("feature_code") != now["digests"].get("feature_code"):
        warnings.warn(f"{folder}: began with another version of the log-mels' code; they may differ", stacklevel=2)


# A test


def warn_of_test(run: TrainedRun, options: argparse.Namespace, now: Mapping[str, Any]) -> list[str]:
    """Warn of what a test's figures do not show, and return it, one sentence each.

    That is sessions of training, other data than the training's kind, and a run that has not finished.

    Parameters
    ----------
    options : of the test
    now : the `data` of the test
    """
    found, stored = [], stored_data(run.folder)
    is_same_corpus = stored is None or stored["corpus"] == now["corpus"]
    if is_same_corpus and (seen := sorted(set(run.train_sessions) & set(options.test_split))):
        found.append(f"the model was trained on sessions {seen}, which are tested here")
    role = run.configuration.get("SorL", options.SorL)
    if role != options.SorL:
        found.append(f"the model was trained on {role} rows, and is tested on {options.SorL} rows")
    if stored is not None:
        pairs = [(stored[name], now[name]) for name in KIND]
        if any(a != b for a, b in pairs if a is not None and b is not None):
            found.append(f"the model was trained on {describe_corpus(stored)}, and is tested on {describe_corpus(now)}")
        if is_other_text_model(stored, now):
            models = map(describe_text_model, (stored["text_model"], now["text_model"]))
            found.append("the model was trained with the text model {}, and is tested with {}".format(*models))
    found += unfinished(run, options)
    for sentence in found:
        warnings.warn(sentence, stacklevel=2)
    return found


def is_other_text_model(stored: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether sentence embeddings are not known to be of one text model."""
    models = stored["text_model"], now["text_model"]
    if None in models or stored["digests"].get("embeddings") == now["digests"]["embeddings"]:
        return False
    if UNKNOWN in models:
        return True
    return models[0].get("fingerprint") != models[1].get("fingerprint")


def unfinished(run: TrainedRun, options: argparse.Namespace) -> list[str]:
    """That a run of this program has not finished, and of which epoch its weights are."""
    done = max(run.epoch or 0, count_epochs(run.folder) or 0)
    if not done or done >= options.epochs or (run.folder / "result.json").exists():
        return []
    which = f", the best of {done}" if options.select == "best" else ""
    if run.epoch is None:  # an earlier version's, which wrote its history by itself
        which = ", or of the best one before" if options.select == "best" else ", or of one before if it was killed"
    return [f"the run has not finished: its weights are of epoch {run.epoch or done} of {options.epochs}{which}"]
