"""Record: the options and data of a run, whether two runs are equal, and finding and loading a run folder.

A record is `configuration.json` in the run folder. The run's id is a hash of what decides its result: the options and
the content of the input files, without paths and times.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from constants import SAMPLE_RATE
from corpora.corpus import KEMDY19, corpus_of
from corpora.sessions import format_sessions, parse_sessions
from features.encoders import encoder_name
from model import MATE
from training.checkpoint import epoch_of_weights, load_weights
from training.data_record import DECISIVE, UNKNOWN, corpus_summary, differences, encoders_text
from training.learnt import PARTS, add_learnt, check_learnt, merge_learnt
from training.options import defaults, make_options, names_of
from utils import InputError, digest_file, lock_folder, new_folder, read_json, write_json

FILE = "configuration.json"
TRAINED = "loss_curve.png"  # in a run folder when its training has finished
ENCODERS = {"text_model": "text", "audio_model": "speech"}  # options that name an encoder, and its kind in `data`
STORED = ("data", "test", "model", "training")  # scopes of options in a record


@dataclass(frozen=True)
class Record:
    """Options, data and environment of a run; `data` (see `data_record`) is empty for the published program's runs."""

    options: dict[str, Any]  # of main.py as in JSON, without the scope `run`
    data: dict[str, Any]
    environment: dict[str, Any]  # versions and device

    @property
    def run_id(self) -> str:
        return run_id(self.options, self.data)

    def namespace(self) -> argparse.Namespace:
        """The options, with defaults for missing ones; raises `InputError` if one is invalid."""
        return make_options(**{name: value for name, value in self.options.items() if value is not None})

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, {"run_id": self.run_id} | asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record of a run folder; raises `InputError` if it is missing, damaged, edited or of an old version."""
        path, content = folder / FILE, read_json(folder / FILE)
        if "versions" in content or {"momentum", "monitor"} & {*content.get("options", {})}:
            raise InputError(f"{path}: written by an earlier version of this program; train the model again")
        if "options" in content:
            parts = [content.get(name) for name in ("options", "data", "environment")]
            if not all(isinstance(part, dict) for part in parts) or (parts[1] and "train_sessions" not in parts[1]):
                raise InputError(f"{path}: lacks options, data, train_sessions or environment; restore the file")
            record = cls(*parts)
            if content.get("run_id", record.run_id) != record.run_id:
                raise InputError(f"{path}: edited, run_id does not match its options and data; restore the file")
            return record
        # Of the published program: its --sr had no effect, and its recurrent network always had four layers
        published = {name: value for name, value in content.items() if name in names_of(*STORED)}
        return cls({"test_split": [1, 2, 3, 4]} | published | {"sr": SAMPLE_RATE, "num_layers": 4}, {}, {})


def make_record(options: argparse.Namespace, data: dict[str, Any], environment: dict[str, Any]) -> Record:
    """The record of a new run or test, with absolute paths. Raises `InputError` as `check_learnt` does."""
    check_learnt(data, options.test_split)
    values = {name: value for name, value in vars(options).items() if name in names_of(*STORED)}
    for name in names_of("data"):
        values[name] = str(values[name].resolve()) if values[name] else None
    values["audio_model"] = data.get("speech_model")
    values["text_model"] = encoder_name(values["text_model"]) if values["text_model"] else None
    values["init"] = str(find_run(options.save_path, values["init"]).resolve()) if values["init"] else None
    return Record(values, data, environment)


def run_id(options: argparse.Namespace | Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """A hash of what decides a run's result; a missing option counts as its default.

    With `data`, embeddings stand for an encoder, weights for `--init`, and training sessions for `--train_split`.
    """
    names = names_of("test", "model", "training") - ({*ENCODERS, "init", "train_split"} if data else set())
    values = vars(options) if isinstance(options, argparse.Namespace) else options
    decisive = {name: values[name] for name in names if values.get(name, defaults()[name]) != defaults()[name]}
    decisive |= {name: data[name] for name in DECISIVE if name in data}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def resolve_sessions(options: argparse.Namespace) -> argparse.Namespace:
    """The options with a `test_split`: without `--test_split`, the first fold of the corpus."""
    test_split = options.test_split or [*corpus_of(options.data_path).folds[0]]
    return argparse.Namespace(**vars(options) | {"test_split": test_split})


def make_folder(options: argparse.Namespace, now: Record, stack: contextlib.ExitStack) -> Path:
    """Make the folder of a new run in `--save_path` with its record, locked until `stack` closes.

    It is named after the run's main options and the time.
    """
    if options.resume == "auto":
        find_unfinished(options.save_path, now.run_id)  # raises if it started while the features were computed
    fold = f"test{format_sessions(options.test_split)}_seed{options.seed}"
    name = f"{options.backbone}_{options.SorL}_{options.optim}_{options.ws}_{fold}"
    folder = new_folder(options.save_path, name)
    stack.callback(lambda: any(folder.iterdir()) or folder.rmdir())  # the disk was full
    stack.enter_context(lock_folder(folder, "training"))
    now.write(folder)
    print(f"{'folder:':<12}{folder}", flush=True)
    return folder


def newest_run(folder: Path) -> Path:
    """`folder`; if its name is `latest` and it does not exist, the newest run folder in its parent folder."""
    if folder.name != "latest" or folder.exists():
        return folder
    records = folder.parent.glob(f"*/{FILE}")
    return max(records, key=lambda path: path.stat().st_mtime, default=folder / FILE).parent


def find_run(save_path: Path, name: str) -> Path:
    """The run folder `name`: a folder in `save_path`, or a path; see `newest_run`."""
    for folder in (newest_run(save_path / name), newest_run(Path(name))):
        if (folder / FILE).is_file():
            return folder
    raise InputError(f"{name}: not a run folder (a folder with {FILE}), neither in {save_path} nor as a path")


def find_unfinished(save_path: Path, run_id: str) -> Path | None:
    """The newest folder in `save_path` of the run with this id and without a result.

    Raises `InputError` if another process trains this run.
    """
    paths = sorted(save_path.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    found = []
    for folder in [path.parent for path in paths if not (path.parent / "result.json").exists()]:
        with contextlib.suppress(InputError):  # damaged
            if Record.read(folder).run_id == run_id:
                found.append(folder)
    for folder in found:
        with lock_folder(folder, "training"):
            pass
    return found[0] if found else None


def options_to_resume(folder: Path, options: argparse.Namespace) -> argparse.Namespace:
    """The options of the run in `folder`, with the scope `run` and the given paths of `options`."""
    record = Record.read(folder)
    if not record.data:
        raise InputError(f"{folder / FILE}: runs of the published program cannot be resumed; start a new run")
    return _stored_options(folder, record, options, "data")


def _stored_options(folder: Path, record: Record, options: argparse.Namespace, *free: str) -> argparse.Namespace:
    """The options of a record, with the scope `run`, and those of the scopes `free` that are given, of `options`."""
    try:
        stored = vars(record.namespace())
    except InputError as error:
        raise InputError(f"{folder / FILE}: {error}") from error
    called, replaced = vars(options), names_of("run") | (names_of(*free) & options.given)
    for name in sorted(options.given - replaced):
        value, of_run = called[name], stored[name]
        if name in ENCODERS and value:  # its folder may have moved
            of_run = of_run or record.data.get(f"{ENCODERS[name]}_model", UNKNOWN)
            if of_run == UNKNOWN or Path(encoder_name(value)).name == Path(of_run).name:
                continue
        if value != of_run:
            raise InputError(f"--{name} {value}: the run in {folder} has {of_run}; remove the option")
    return argparse.Namespace(**stored | {name: called[name] for name in {*replaced, "given"}})


def lock_resumed(
    folder: Path | None, options: argparse.Namespace, now: Record, stack: contextlib.ExitStack
) -> Path | None:
    """The folder of the run to resume, locked until `stack` closes; None for a new run.

    Raises `InputError` if the data have changed since the run started; warns of another environment.
    """
    if options.resume == "auto":
        folder = find_unfinished(options.save_path, now.run_id)
        found = f"resuming {folder}" if folder else "no unfinished run with these options and data; starting a new run"
        print(f"{options.save_path}: {found}")
    if folder is None:
        return None
    stack.enter_context(lock_folder(folder, "training"))
    began = Record.read(folder)
    if found := differences(began.data, now.data):
        raise InputError(f"{folder}: data have changed: {', '.join(found)}; restore them, or start a new run")
    pairs = ((name, began.environment.get(name), value) for name, value in now.environment.items())
    if changed := [f"{name} was {before}, now {value}" for name, before, value in pairs if before != value]:
        warnings.warn(f"{folder}: {'; '.join(changed)}; the result may differ", stacklevel=2)
    return folder


@dataclass(frozen=True)
class TrainedRun:
    """A run folder with its trained model, which is on the CPU."""

    folder: Path
    model: MATE
    options: argparse.Namespace  # of main.py; `test_split` are the held-out sessions
    record: Record
    train_sessions: list[int]
    epoch: int | None = None  # of the weights; None without history.csv, as in published folders
    temperature: float = 1.0  # of `engine.to_arrays`

    def is_of(self, data_path: Path) -> bool:
        """Whether the run was trained on the corpus in this folder, so that their session numbers are the same."""
        return self.record.data.get("corpus", KEMDY19.name) == corpus_of(data_path).name


def load_init(options: argparse.Namespace) -> tuple[TrainedRun | None, dict[str, Any]]:
    """The run of `--init` (None without it), and its name, weights and sessions for the data of a record."""
    if not options.init:
        return None, {}
    run = load_run(find_run(options.save_path, options.init))
    sessions = [*run.train_sessions, *(run.options.valid_split or [])]
    learnt = merge_learnt(*(run.record.data.get(f"{part}_learnt") for part in PARTS))
    facts = {"init": run.folder.name, "init_learnt": add_learnt(learnt, run.record.data, sessions)}
    facts["init_encoders"] = encoders_text(run.record.data) or [f"encoders {UNKNOWN}"]  # of the published program
    return run, facts | {"init_weights": f"initial weights {digest_file(run.folder / 'model.pth')}"}


def load_run(folder: Path) -> TrainedRun:
    """Load a run folder, also of the published program; raises `InputError` if it cannot be used."""
    record = Record.read(folder)
    options = _stored_options(folder, record, make_options())
    published = [session for session in sum(KEMDY19.folds, ()) if session not in options.test_split]
    train_sessions = parse_sessions(record.data["train_sessions"]) if record.data else published
    model = MATE.from_options(options, record.data)
    load_weights(model, folder / "model.pth")
    epoch = epoch_of_weights(folder, options.select)
    tested = options.temperature and (folder / "result.json").exists()
    temperature = read_json(folder / "result.json").get("temperature", 1.0) if tested else 1.0
    return TrainedRun(folder, model, options, record, train_sessions, epoch, temperature)


def options_to_test(run: TrainedRun, options: argparse.Namespace) -> tuple[argparse.Namespace, list[int]]:
    """The options of a test of `run` on its held-out sessions, or the first fold, and its training sessions there."""
    tested = _stored_options(run.folder, run.record, options, "data", "test")
    if tested.bn_statistics == "running" != run.options.bn_statistics:
        raise InputError(f"--bn_statistics running: {run.folder} has statistics of training windows; remove the option")
    if "test_split" not in options.given:
        tested.test_split = run.options.test_split if run.is_of(tested.data_path) else None
    return resolve_sessions(tested), run.train_sessions if run.is_of(tested.data_path) else []


def warnings_of_test(
    run: TrainedRun, options: argparse.Namespace, data: Mapping[str, Any], train_sessions: list[int]
) -> list[str]:
    """Warnings of how a test differs from a test of the run on its own data.

    Raises `InputError` if the speech encoder is another, or as `check_learnt` does.
    """
    check_learnt(run.record.data | data, options.test_split)
    found, stored, role = [], run.record.data, run.options.SorL
    if stored.get("speech_fingerprint") != data.get("speech_fingerprint"):
        (change,) = differences(stored, data, ["speech_embeddings"])
        raise InputError(f"{run.folder}: {change}; a test needs the embeddings of the encoder used in training")
    if seen := {*train_sessions} & {*options.test_split}:
        found.append(f"the model was trained on sessions {format_sessions(seen)}, which are tested here")
    if role != options.SorL:
        found.append(f"the model was trained on {role} labels and is tested on {options.SorL} labels")
    names = ["text_embeddings", "audio", "speech_embeddings", *(["table"] if role == options.SorL else [])]
    if stored and corpus_summary(stored) != corpus_summary(data):
        found.append(f"the model was trained on {corpus_summary(stored)} and is tested on {corpus_summary(data)}")
        same_model = stored.get("text_fingerprint", UNKNOWN) == data.get("text_fingerprint")
        names = [] if same_model else ["text_embeddings"]
    if changed := differences(stored, data, names):
        found.append(f"the data have changed since training: {', '.join(changed)}")
    return [*found, *filter(None, [unfinished(run)]), *caveats(stored)]


def caveats(data: Mapping[str, Any]) -> list[str]:
    """Reasons why the predictions of a model trained on the `data` of a record are meaningless."""
    reasons = {
        "synthetic": "trained on a synthetic corpus (synthetic speech, simulated raters): predictions are meaningless",
        "text_random": "trained with a text encoder with random weights: predictions are meaningless",
    }
    return [reason for name, reason in reasons.items() if data.get(name) == "yes"]


def unfinished(run: TrainedRun) -> str | None:
    """A warning if a run has not finished training, or has no --temperature yet; None for a published run."""
    if run.epoch and not (run.folder / "result.json").exists():
        if not (run.folder / TRAINED).exists():
            return f"the run has not finished: its weights are from epoch {run.epoch} of {run.options.epochs}"
        if run.options.temperature:
            return "the run has no temperature yet; main.py --resume chooses it before the test"
    return None
