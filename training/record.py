"""Record: what a run was made with, whether two runs are the same, and how a run folder is found and loaded.

`configuration.json` in a run folder is the record: the options, the data and the environment. The run's id is a hash of
what decides its result: options, and the content of the files it was made from. Paths and times are no part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from constants import SAMPLE_RATE
from corpora.corpus import KEMDY19, MERGED_OFFSET, corpus_by_name, corpus_of
from corpora.corpus_json import CORPUS_FILE, is_synthetic, read_corpus_json
from corpora.sessions import format_sessions, parse_sessions, training_sessions
from corpora.wavs import audio_digest, find_wavs, hash_wavs
from features.speech import encoder_name, find_encoder, speech_digest
from model import MATE
from training.checkpoint import epoch_of_weights, load_weights
from training.options import defaults, make_options, names_of
from utils import InputError, digest_file, lock_folder, new_folder, read_json, timestamp, write_json

FILE = "configuration.json"
UNKNOWN = "unknown"
# What decides a run's result besides its options: the content of files, and the sessions
DECISIVE = ("table", "embeddings", "audio", "speech_embeddings", "train_sessions")


@dataclass(frozen=True)
class Record:
    """What a run was made with; `data` (see `data_record`) is empty for a run of the published program."""

    options: dict[str, Any]  # main.py's, as JSON holds them, without those of the call
    data: dict[str, str]
    environment: dict[str, Any]  # versions and device

    @property
    def run_id(self) -> str:
        return run_id(self.options, self.data)

    def namespace(self) -> argparse.Namespace:
        """The options, with defaults for missing ones; raises `InputError` where one is invalid."""
        return make_options(**{name: value for name, value in self.options.items() if value is not None})

    def write(self, folder: Path) -> None:
        """Write `configuration.json`."""
        write_json(folder / FILE, {"run_id": self.run_id} | asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record of a run folder; raises `InputError` where it is missing, damaged or of an earlier version."""
        path = folder / FILE
        content = read_json(path)
        if "options" in content:
            parts = [content.get(name) for name in ("options", "data", "environment")]
            if not all(isinstance(part, dict) for part in parts):
                raise InputError(f"{path}: lacks options, data or environment; restore the file")
            return cls(*parts)
        if "versions" in content:
            raise InputError(f"{path}: written by an earlier version of this program; train it again")
        # The published program's: its --sr had no effect, and the recurrent network always had four layers
        known = names_of("data", "test", "model", "training")
        published = {name: value for name, value in content.items() if name in known}
        return cls({"test_split": [1, 2, 3, 4]} | published | {"sr": SAMPLE_RATE, "num_layers": 4}, {}, {})


def make_record(options: argparse.Namespace, data: dict[str, str], environment: dict[str, Any]) -> Record:
    """The record of a new run or test, whose `configuration.json` can be read from any folder."""
    names = names_of("data", "test", "model", "training")
    values = {name: value for name, value in vars(options).items() if name in names}
    for name in names_of("data"):
        values[name] = str(values[name].resolve()) if values[name] else None
    values["audio_model"] = data.get("speech_encoder")
    return Record(values, data, environment)


def run_id(options: argparse.Namespace | Mapping[str, Any], data: Mapping[str, str]) -> str:
    """A hash of what decides a run's result, 16 hexadecimal digits: two runs of one id have the same result.

    An option that is missing has its default. The speech encoder counts by its embeddings, whatever it is called.
    """
    values = vars(options) if isinstance(options, argparse.Namespace) else options
    names = names_of("test", "model", "training") - ({"audio_model"} if data else set())
    decisive = {name: values[name] for name in names if name in values and values[name] != defaults()[name]}
    decisive |= {name: data[name] for name in DECISIVE if name in data}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


# The data of a run


def resolve_sessions(options: argparse.Namespace) -> argparse.Namespace:
    """The options with the sessions that are tested without `--test_split`: the first fold of the corpus."""
    test_split = options.test_split or [*corpus_of(options.data_path).test_fold]
    return argparse.Namespace(**vars(options) | {"test_split": test_split})


def data_record(
    options: argparse.Namespace, table: pd.DataFrame, train_sessions: list[int] | None = None
) -> dict[str, str]:
    """What a run is made from, without computing a feature; warns of files that have changed since pre-processing.

    `train_sessions` are those of the model that is tested; without it those that `test_split` and `valid_split` leave.

    Returns
    -------
    dict of `corpus`, `version`, `synthetic` (yes or no), `utterances` (number), `table`, `train_sessions`; with text
    `embeddings`, `text_model`, `text_revision`, `text_fingerprint`, `text_random` (yes or no); with the CNN `audio`;
    with a speech encoder `speech_embeddings`, `speech_encoder`, `speech_fingerprint`, `speech_layers` and
    `speech_dimension`. `table`, `embeddings`, `audio` and `speech_embeddings` are a name and a SHA-256.
    """
    folder, ids = options.data_path, table["id"].tolist()
    written = read_corpus_json(folder) or {"version": UNKNOWN, "synthetic": is_synthetic(folder), "files": {}}
    data = {"corpus": corpus_of(folder).name, "version": written["version"], "utterances": str(len(table))}
    data["synthetic"] = "yes" if written["synthetic"] else "no"
    files = {"table": folder / f"df_{options.SorL}.csv", "embeddings": folder / f"embedding_{options.text_dim}.npy"}
    for name, path in files.items():
        if (name == "table" or "text" in options.modality) and path.is_file():
            data[name] = f"{path.name} {digest_file(path)}"
            if written["files"].get(path.name, data[name]) not in data[name]:
                warnings.warn(f"{path}: changed since preprocessing.py wrote {CORPUS_FILE}", stacklevel=2)
    if "embeddings" in data:
        data["text_model"] = UNKNOWN
        model = written.get("text_models", {}).get(files["embeddings"].name)
        if model and model["sha256"] in data["embeddings"]:
            fields = {"model": model["name"], "random": "yes" if model["random"] else "no"}
            fields |= {name: model[name] for name in ("revision", "fingerprint") if model[name]}
            data |= {f"text_{name}": value for name, value in fields.items()}
    if "audio" in options.modality and options.audio == "encoder":
        encoder = find_encoder(folder, options.audio_model)
        data |= {f"speech_{name}": str(encoder[name]) for name in ("fingerprint", "layers", "dimension")}
        data["speech_encoder"] = encoder["name"]
        data["speech_embeddings"] = f"speech embeddings {speech_digest(folder, encoder['name'], ids)}"
    elif "audio" in options.modality:
        hashes = hash_wavs(folder, find_wavs(folder, options.audio_path), ids)
        data["audio"] = f"wavs {audio_digest(hashes, ids)}"
    if train_sessions is None:
        train_sessions = training_sessions(table["session"], options.test_split, options.valid_split)
    return data | {"train_sessions": format_sessions(train_sessions)}


def differences(stored: Mapping[str, str], now: Mapping[str, str], names: Iterable[str] = DECISIVE) -> list[str]:
    """How the `data` of a record differ from other data in what decides a result: a phrase each, which names the file.

    What `stored` lacks (the published program's record is empty) is not compared.
    """
    found = []
    for name in [name for name in names if name in stored and stored[name] != now.get(name)]:
        file = stored[name].rpartition(" ")[0] or f"training sessions ({stored[name]}; now {now.get(name)})"
        encoders = [encoder_summary(data, name) for data in (stored, now)] if "embeddings" in name else [""] * 2
        found.append(file if encoders[0] == encoders[1] else "{} ({}; now {})".format(file, *encoders))
    return found


def encoder_summary(data: Mapping[str, str], embeddings: str) -> str:
    """The encoder of a run's `embeddings` (of its text) or `speech_embeddings` in words."""
    kind, name = ("text", "text_model") if embeddings == "embeddings" else ("speech", "speech_encoder")
    random = ", RANDOM weights" if data.get(f"{kind}_random") == "yes" else ""
    fingerprint = f", fingerprint {data[f'{kind}_fingerprint'][:12]}" if f"{kind}_fingerprint" in data else ""
    return f"{data.get(name, 'none')}{random}{fingerprint}"


def corpus_summary(data: Mapping[str, str]) -> str:
    """Name and version of a run's corpus, and whether it is the synthetic sample."""
    return f"{data['corpus']} (version {data['version']}{', SYNTHETIC' if data['synthetic'] == 'yes' else ''})"


# Run folders


def new_run_folder(options: argparse.Namespace) -> Path:
    """Make a folder in `--save_path` for a run, named after its main options and the time."""
    kind = f"{options.backbone}_{options.SorL}_{options.optim}_{options.ws}"
    fold = f"test{format_sessions(options.test_split)}_seed{options.seed}"
    return new_folder(options.save_path, f"{kind}_{fold}_{timestamp()}")


def find_run(save_path: Path, name: str) -> Path:
    """The run folder `name`: a folder in `save_path`, or a path."""
    for folder in (save_path / name, Path(name)):
        if (folder / FILE).is_file():
            return folder
    raise InputError(f"{name}: no run folder, which holds {FILE}, neither in {save_path} nor as a path")


def find_unfinished(save_path: Path, run_id: str) -> Path | None:
    """The newest folder in `save_path` of the run with this id that has no result and in which no process trains."""
    paths = sorted(save_path.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in [path.parent for path in paths if not (path.parent / "result.json").exists()]:
        with contextlib.suppress(InputError):
            if Record.read(folder).run_id == run_id:
                with lock_folder(folder, "training"):
                    return folder
    return None


def options_to_resume(folder: Path, options: argparse.Namespace) -> argparse.Namespace:
    """The options of the run in `folder`; those of the call, and the paths that the user gave, are of `options`.

    Raises `InputError` where another option that the user gave contradicts them, or the run cannot be resumed.
    """
    record = Record.read(folder)
    if not record.data:
        raise InputError(f"{folder / FILE}: of the published program, whose runs cannot be resumed; train anew")
    return _stored_options(folder, record, options, "data")


def _stored_options(folder: Path, record: Record, options: argparse.Namespace, *free: str) -> argparse.Namespace:
    """The options of a record, with those of the call from `options`, and of the groups `free` the given ones."""
    try:
        stored = vars(record.namespace())
    except InputError as error:
        raise InputError(f"{folder / FILE}: {error}") from error
    called, of_call = vars(options), names_of("run")
    for name in sorted(options.given - names_of(*free) - of_call):
        value = encoder_name(called[name]) if name == "audio_model" and called[name] else called[name]
        if value != stored[name]:
            raise InputError(f"--{name} {value}: the run in {folder} has {stored[name]}; leave the option out")
    replaced = of_call | (names_of(*free) & options.given)
    return argparse.Namespace(**stored | {name: called[name] for name in {*replaced, "given"}})


def check_resumed(folder: Path, record: Record, now: Record) -> None:
    """Raise `InputError` where the run in `folder` began with other data; warn of another environment."""
    if found := differences(record.data, now.data):
        raise InputError(
            f"{folder}: began with other data; changed: {', '.join(found)}. Restore what has changed, or train anew "
            "without --resume"
        )
    before, after = record.environment, now.environment
    changed = [f"{key} {before.get(key)} is {value} now" for key, value in after.items() if before.get(key) != value]
    if changed:
        warnings.warn(f"{folder}: {'; '.join(changed)}: the result may differ", stacklevel=2)


# Trained runs


@dataclass(frozen=True)
class TrainedRun:
    """A run folder with its trained model, which is on the CPU."""

    folder: Path
    model: MATE
    options: argparse.Namespace  # all of main.py; `test_split` are the sessions that the run held out
    record: Record
    train_sessions: list[int]
    epoch: int | None = None  # of the weights; None without a history, as in the published program's folders


def load_run(folder: Path) -> TrainedRun:
    """Load a run folder, of this program or of the published one; `InputError` where it cannot be used."""
    record = Record.read(folder)
    options = _stored_options(folder, record, make_options())
    if "train_sessions" in record.data:
        train_sessions = parse_sessions(record.data["train_sessions"])
    else:
        train_sessions = [session for session in KEMDY19.sessions if session not in options.test_split]
    model = MATE.from_options(options, record.data)
    load_weights(model, folder / "model.pth")
    epoch = epoch_of_weights(folder, options.select, options.monitor)
    return TrainedRun(folder, model, options, record, train_sessions, epoch)


def options_to_test(run: TrainedRun, options: argparse.Namespace) -> tuple[argparse.Namespace, list[int]]:
    """The options of a test of `run`, and its training sessions as the tested corpus numbers them.

    The user may give other paths and other options of the group `test`; any other that differs is an `InputError`.
    Without `--test_split` the sessions that the run held out are tested, or the first fold of a corpus without them.
    """
    tested = _stored_options(run.folder, run.record, options, "data", "test")
    corpora = run.record.data.get("corpus", KEMDY19.name), corpus_of(tested.data_path).name
    if "test_split" not in options.given:
        tested.test_split = _renumber(run.options.test_split, *corpora)
    return resolve_sessions(tested), _renumber(run.train_sessions, *corpora)


def _renumber(sessions: list[int], corpus: str, other: str) -> list[int]:
    """The sessions of a corpus that another one has too, by its numbers: a merged corpus has those of its parts."""
    if corpus == other or (corpus_by_name(corpus) is None and corpus_by_name(other) is None):
        return sessions  # a corpus of the user's is called after its folder, which may have been renamed
    parts, others = dict(enumerate(corpus.split("+"))), other.split("+")
    pairs = [(parts.get(session // MERGED_OFFSET), session % MERGED_OFFSET) for session in sessions]
    return [others.index(part) * MERGED_OFFSET + session for part, session in pairs if part in others]


def warnings_of_test(
    run: TrainedRun, options: argparse.Namespace, data: Mapping[str, str], train_sessions: list[int]
) -> list[str]:
    """How a test (its `data_record`, and what `options_to_test` gives) differs from one of the run on its own data.

    Raises `InputError` where the speech embeddings are of another encoder than the run was trained with.
    """
    found, stored, role = [], run.record.data, run.options.SorL
    if stored.get("speech_fingerprint") != data.get("speech_fingerprint"):
        (change,) = differences(stored, data, ["speech_embeddings"])
        raise InputError(f"{run.folder}: {change}: a test needs those of the encoder that it was trained with")
    if seen := {*train_sessions} & {*options.test_split}:
        found.append(f"the model was trained on sessions {format_sessions(seen)}, which are tested here")
    if role != options.SorL:
        found.append(f"the model was trained on {role} rows, and is tested on {options.SorL} rows")
    names = ["embeddings", "audio", "speech_embeddings", *(["table"] if role == options.SorL else [])]
    if stored and corpus_summary(stored) != corpus_summary(data):
        found.append(f"the model was trained on {corpus_summary(stored)}, and is tested on {corpus_summary(data)}")
        same_model = stored.get("text_fingerprint", UNKNOWN) == data.get("text_fingerprint")
        names = [] if same_model else ["embeddings"]
    if changed := differences(stored, data, names):
        found.append(f"the data have changed since the training: {', '.join(changed)}")
    return [*found, *filter(None, [unfinished(run)])]


def unfinished(run: TrainedRun) -> str | None:
    """That a run of this program has not finished, and of which epoch its weights are; None of a finished one."""
    if run.epoch is None or (run.folder / "result.json").exists():
        return None
    return f"the run has not finished: its weights are of epoch {run.epoch} of {run.options.epochs}"
