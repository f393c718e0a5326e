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
from corpora.registry import by_corpus, corpus_of
from corpora.sessions import corpus_name, listed
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


def describe_data(options: argparse.Namespace, ids: Sequence[str]) -> list[dict[str, Any]]:
    """What a run is made from: a record for each corpus in `--data_path` (see `describe_folder`); no wav is read.

    Parameters
    ----------
    options : of main.py
    ids : segment ids of the role's tables

    Raises
    ------
    InputError : the corpora's sentence embeddings are of several text models
    """
    parts = zip(options.data_path, by_corpus(ids).values(), strict=True)
    records = [describe_folder(options, folder, own) for folder, own in parts]
    check_one_text_model(options.data_path, records)
    return records


def as_stored(records: Sequence[dict[str, Any]]) -> Any:
    """Records of `describe_data` as `configuration.json` holds them under `data`: a single one is no list."""
    return records[0] if len(records) == 1 else [*records]


def check_one_text_model(data_paths: Sequence[Path], records: Sequence[Mapping[str, Any]]) -> None:
    """Refuse corpora whose sentence embeddings are of several text models; warn where that is not known."""
    first = records[0]["text_model"]
    for path, record in zip(data_paths[1:], records[1:], strict=True):
        models = first, record["text_model"]
        if UNKNOWN in models:
            warnings.warn(
                f"{data_paths[0]} and {path}: whether their sentence embeddings are of one text model is not known; "
                "one model needs those of one",
                stacklevel=2,
            )
        elif None not in models and models[0]["fingerprint"] != models[1]["fingerprint"]:
            raise InputError(
                f"{path}: its sentence embeddings are of {describe_text_model(models[1])}, those of {data_paths[0]} of "
                f"{describe_text_model(models[0])}; one model needs those of one text model: run preprocessing.py "
                f"--data_path {path} --text_model {models[0]['name']} --overwrite"
            )


def describe_folder(options: argparse.Namespace, folder: Path, ids: Sequence[str]) -> dict[str, Any]:
    """What a run takes from one corpus.

    Parameters
    ----------
    folder : of the corpus
    ids : its segment ids

    Returns
    -------
    dict of `corpus`, `version` (None if unknown), `synthetic`, `text_model` (as `corpus.json` holds it, or `UNKNOWN`,
    or None without text) and `digests`: SHA-256 of the table's and the embeddings' files, of the wavs' identities, of
    the constants and of the code of the log-mels; None for what `--modality` leaves out
    """
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


def differences(stored: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """In words, how the `data` of a configuration differ from those of now, but for the code of the log-mels."""
    corpora = [[record["corpus"] for record in records] for records in (stored, now)]
    if corpora[0] != corpora[1] and [len(names) for names in corpora] != [1, 1]:
        return ["the corpora ({}; now {})".format(*map(" and ".join, corpora))]
    found = []
    for before, after in zip(stored, now, strict=True):
        whose = f" of {before['corpus']}" if len(stored) > 1 else ""
        found += [f"{words}{whose}" for words in record_differences(before, after)]
    return found


def record_differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`differences` of one corpus."""
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


def stored_data(folder: Path) -> list[dict[str, Any]] | None:
    """The records of `data` in an experiment folder's configuration, one a corpus; None in one of an earlier version.

    Raises
    ------
    InputError : the configuration is damaged
    """
    path = folder / "configuration.json"
    data = read_json(path).get("data")
    if data is None:
        return None
    records = data if isinstance(data, list) else [data]
    if not records or not all(map(is_record, records)):
        raise InputError(f"{path}: data: {data!r}, not as main.py writes it; restore the file")
    return records


def is_record(value: Any) -> bool:
    """Whether a JSON value is one of `describe_folder`."""
    is_whole = isinstance(value, dict) and {*KIND, "text_model", "digests"} <= value.keys()
    return is_whole and isinstance(value["digests"], dict) and isinstance(value["text_model"], dict | str | None)


def refuse_other_data(folder: Path, now: Sequence[Mapping[str, Any]]) -> None:
    """Raise `InputError` where the run in `folder` began with other data; warn of other code of the log-mels."""
    stored = stored_data(folder)
    if stored is None:
        return
    if found := differences(stored, now):
        raise InputError(
            f"{folder}: began with other data, {'; '.join(found)}: a run goes on with the data that it began with; "
            "bring them back, or train anew without --resume"
        )
    codes = [{record["digests"].get("feature_code") for record in records} for records in (stored, now)]
    if codes[0] != codes[1]:
        warnings.warn(f"{folder}: began with another version of the log-mels' code; they may differ", stacklevel=2)


# A test


def warn_of_test(run: TrainedRun, options: argparse.Namespace, now: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warn of what a test's figures do not show, and return it, one sentence each.

    That is sessions of training, other data than the training's kind, and a run that has not finished.

    Parameters
    ----------
    run : as `folders.on_its_corpora` gives it
    options : of the test
    now : the records of `data` of the test
    """
    found, stored = [], stored_data(run.folder)
    names = {corpus_name(session) for session in options.test_split}
    now = [record for record in now if names == {""} or record["corpus"] in names]
    if seen := {*run.train_sessions} & {*options.test_split}:
        found.append(f"the model was trained on sessions {listed(seen)}, which are tested here")
    role = run.configuration.get("SorL", options.SorL)
    if role != options.SorL:
        found.append(f"the model was trained on {role} rows, and is tested on {options.SorL} rows")
    if stored is not None:
        if not all(any(is_of_one_kind(record, other) for other in stored) for record in now):
            trained, tested = (" and ".join(map(describe_corpus, records)) for records in (stored, now))
            found.append(f"the model was trained on {trained}, and is tested on {tested}")
        own = {record["corpus"]: record for record in stored}
        pairs = [(own.get(record["corpus"], stored[0]), record) for record in now]
        for before, record in [pair for pair in pairs if is_other_text_model(*pair)][:1]:
            models = map(describe_text_model, (before["text_model"], record["text_model"]))
            found.append("the model was trained with the text model {}, and is tested with {}".format(*models))
    found += unfinished(run, options)
    for sentence in found:
        warnings.warn(sentence, stacklevel=2)
    return found


def is_of_one_kind(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records of `data` are of one corpus and version, as far as that is known."""
    return all(record[name] == other[name] or None in (record[name], other[name]) for name in KIND)


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
