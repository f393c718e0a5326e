"""Experiment folders: how a run is found, loaded again, and gone on with."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from constants import MAX_LAYERS, MAX_TEXT_DIM, SAMPLE_RATE
from corpora.base import Corpus
from corpora.registry import CORPORA, named, preprocessed_corpora
from corpora.sessions import (
    Session,
    carried,
    default_fold,
    describe_sessions,
    listed,
    of_corpora,
    parse_sessions,
    settle,
)
from features.speech import SpeechEmbeddings
from model import MATE
from training.configuration import as_json, data_records, earlier_values, identity, names_of, read_options
from training.engine import build_model
from training.options import CALL, CORPUS, TEST, TRAINING, parse_args
from training.run import CHECKPOINT
from training.state import load_weights
from utils import InputError, find_run, lock_folder, read_json

REPORTED = {"epochs", "select", "monitor"}  # options of the training that the report of a test speaks of


class TrainedRun(NamedTuple):
    """An experiment folder with its trained model.

    model : with the trained weights, on the CPU
    options : every option of main.py; `test_split` are the sessions that it held out
    train_sessions : those that it was trained on
    corpora : that it was trained on; one that is tested elsewhere has those of the test (see `on_its_corpora`)
    configuration : the folder's own
    speech_encoder : name, layers, dimension and fingerprint of its speech encoder, if it hears through one
    epoch : that the weights are of, None where their file does not say it
    """

    folder: Path
    model: MATE
    options: argparse.Namespace
    train_sessions: list[Session]
    corpora: list[Corpus]
    configuration: dict[str, Any]
    speech_encoder: dict[str, Any] | None = None
    epoch: int | None = None


def load_run(folder: Path, chosen: Mapping[str, Any] | None = None) -> TrainedRun:
    """Load an experiment folder, of this program or of the published one.

    Parameters
    ----------
    chosen : options by name that are to differ from the folder's configuration, such as `test_split`, or that it lacks

    Raises
    ------
    InputError : the configuration or the weights cannot be used, or a chosen option contradicts the trained model
    """
    path = folder / "configuration.json"
    stored, chosen = read_json(path), chosen or {}
    if "versions" not in stored:  # the published program's: its --sr had no effect, and it always had four layers
        stored |= {"sr": SAMPLE_RATE, "num_layers": 4}
    encoder = read_encoder(path, stored)
    trained = read_options(path, stored, unchecked=names_of(TRAINING) - REPORTED)
    free = names_of(CALL, CORPUS, TEST)
    for name, value in chosen.items():
        if name not in free and name in trained and trained[name] != value:
            raise InputError(f"--{name} {value}: the model in {folder} was trained with {trained[name]}")
    options = argparse.Namespace(**vars(parse_args([])[0]) | earlier_values(stored) | trained | chosen)
    corpora = read_corpora(path, stored)
    train_sessions = read_train_sessions(path, stored, trained, corpora)
    model = build_model(options, trains=False, speech_shape=encoder and shape_of(encoder))
    epoch = load_weights(model, folder / "model.pth")
    return TrainedRun(folder, model, options, train_sessions, corpora, stored, encoder, epoch)


def read_corpora(path: Path, stored: Mapping[str, Any]) -> list[Corpus]:
    """The corpora that a run was made from; one of an earlier version was made from the first that is known."""
    names = [record.get("corpus", CORPORA[0].name) for record in data_records(stored) or [{}]]
    if unknown := [name for name in names if named(name) is None]:
        raise InputError(f"{path}: its corpus is {unknown[0]!r}, which this program does not know")
    return [named(name) for name in names]


def speech_facts(speech: SpeechEmbeddings | None) -> dict[str, Any]:
    """What a configuration holds of the speech encoder."""
    return {} if speech is None else {"speech_encoder": speech.encoder}


def read_encoder(path: Path, stored: dict[str, Any]) -> dict[str, Any] | None:
    """The speech encoder of a run; `stored` names it from then on as if the user had, also where the corpus held one.

    Raises
    ------
    InputError : the run hears through an encoder, and its configuration does not say through which
    """
    if stored.get("audio", "cnn") != "encoder" or "audio" not in stored.get("modality", "audio_text"):
        return None
    encoder = stored.get("speech_encoder")
    try:
        within = 0 < encoder["layers"] <= MAX_LAYERS + 1 and 0 < encoder["dimension"] <= MAX_TEXT_DIM
        whole = isinstance(encoder["layers"], int) and isinstance(encoder["dimension"], int)
        if not (within and whole and isinstance(encoder["name"], str) and isinstance(encoder["fingerprint"], str)):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: speech_encoder is {encoder!r}, expected its name, layers, dimension and fingerprint; take the "
            "configuration that the model was trained with"
        ) from error
    stored["audio_model"] = encoder["name"]
    return encoder


def shape_of(encoder: Mapping[str, Any]) -> tuple[int, int]:
    """Layers and dimension of a speech encoder's embeddings."""
    return encoder["layers"], encoder["dimension"]


def check_encoder(run: TrainedRun, speech: SpeechEmbeddings | None) -> None:
    """Raise `InputError` where the corpus's embeddings are of another encoder than the run was trained with."""
    if speech is not None and speech.encoder != run.speech_encoder:
        raise InputError(
            f"{run.folder}: trained with {run.speech_encoder}, the corpus holds embeddings of {speech.encoder}; "
            "compute them with the encoder of that name and fingerprint"
        )


def read_train_sessions(
    path: Path, stored: Mapping[str, Any], trained: Mapping[str, Any], corpora: Sequence[Corpus]
) -> list[Session]:
    """The sessions that a run was trained on: as its configuration says, or all that it did not hold out."""
    test_split, valid_split = trained.get("test_split") or [], trained.get("valid_split") or []
    if "train_split" not in stored:
        test_split = test_split or parse_args([])[0].test_split
        return [s for s in corpora[0].sessions if s not in {*test_split, *valid_split}]
    try:
        train_split = parse_sessions(str(stored["train_split"]))
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{path}: train_split: {error}") from error
    splits = [{*train_split}, {*test_split}, {*valid_split}]
    if shared := [s for s in set.union(*splits) if sum(s in split for split in splits) > 1]:
        raise InputError(
            f"{path}: sessions {listed(shared)} are in two of train_split, test_split and valid_split, which main.py "
            "never writes; take the configuration that the model was trained with"
        )
    return train_split


def settle_sessions(options: argparse.Namespace, given: Collection[str]) -> argparse.Namespace:
    """The options with sessions as a run of the corpora in `--data_path` names them.

    Without `--test_split` they are those that the first corpus tests by default.

    Raises
    ------
    InputError : a folder is not pre-processed, or see `sessions.settle`
    """
    corpora = preprocessed_corpora(options.data_path)
    splits = {"test_split": default_fold(corpora)}
    for name in ("test_split", "valid_split"):
        if name in given:
            splits[name] = settle(getattr(options, name), corpora, f"--{name}")
    return argparse.Namespace(**vars(options) | splits)


def on_its_corpora(run: TrainedRun, given: Collection[str]) -> TrainedRun:
    """The run as it is tested on the corpora in `--data_path`, which may be others than its own.

    Its sessions are those that lie there. Without `--test_split` those that it held out are tested; where it held out
    none there, those that are tested by default.
    """
    here = preprocessed_corpora(run.options.data_path)
    train_sessions = of_corpora(carried(run.train_sessions, run.corpora), here)
    options = settle_sessions(run.options, given)
    held_out = of_corpora(carried(run.options.test_split, run.corpora), here)
    if "test_split" not in given and held_out:
        options.test_split = held_out
    return run._replace(options=options, train_sessions=train_sessions, corpora=here)


def trained_on(run: TrainedRun) -> dict[str, Any]:
    """What the configuration of a test on other corpora holds of the run's own; it says so."""
    print(f"trained on {describe_sessions(run.train_sessions, run.corpora)}")
    names = " and ".join(corpus.name for corpus in run.corpora)
    return {"trained_on": {"corpus": names, "sessions": run.train_sessions}}


# A run that goes on


def find_unfinished(options: argparse.Namespace) -> Path | None:
    """The newest folder in `--save_path` of the run with these options that has no result and is not trained in.

    A run that was killed after it wrote its result but before its end counts too: it has both a result and a
    checkpoint.
    """
    folders = [path.parent for path in options.save_path.glob("*/configuration.json")]
    wanted = identity(as_json(options))
    for folder in sorted(folders, key=lambda folder: (folder / "configuration.json").stat().st_mtime, reverse=True):
        if (folder / "result.json").exists() and not (folder / CHECKPOINT).exists():
            continue
        with contextlib.suppress(InputError):
            stored = read_json(folder / "configuration.json")
            if "versions" in stored and identity(stored) == wanted:
                with lock_folder(folder, "training"):  # a match alone: the owner of another may be about to lock it
                    return folder
    return None


def options_to_resume(options: argparse.Namespace, given: Collection[str]) -> tuple[argparse.Namespace, Path | None]:
    """Options of a run that goes on, and its folder; None where `--resume auto` finds none to go on with.

    Raises
    ------
    InputError : there is no such folder, or an option that the user gave contradicts its configuration
    """
    if options.resume == "auto":
        folder = find_unfinished(options)
        found = "no unfinished run of this configuration, a new one begins" if folder is None else f"resuming {folder}"
        print(f"{options.save_path}: {found}")
        return options, folder
    folder = find_run(options.save_path, options.resume)
    path = folder / "configuration.json"
    stored = read_json(path)
    if "versions" not in stored:
        raise InputError(f"{path}: of the published program, whose runs cannot go on; train anew, or test it")
    read_encoder(path, stored)
    began = vars(parse_args([])[0]) | earlier_values(stored) | read_options(path, stored)
    free, call = names_of(CALL, CORPUS), names_of(CALL)
    corpora = read_corpora(path, stored)
    splits = {"test_split", "valid_split"} & {*given}
    settled = {name: settle(getattr(options, name), corpora, f"--{name}") for name in splits}
    options = argparse.Namespace(**vars(options) | settled)
    for name in given:
        if name not in free and getattr(options, name) != began[name]:
            raise InputError(f"--{name} {getattr(options, name)}: the run in {folder} has {began[name]}; leave it out")
    kept = {name: value for name, value in vars(options).items() if name in call or (name in free and name in given)}
    return argparse.Namespace(**began | kept), folder


def has_finished(folder: Path) -> bool:
    """Whether the run in a folder, which is locked, has finished; says so, and clears what a killed one left."""
    if not (folder / "result.json").exists():
        return False
    (folder / CHECKPOINT).unlink(missing_ok=True)  # of a run that was killed after its last line
    print(f"{folder}: finished already, its report is in {folder / 'result.json'}")
    return True


def compare_circumstances(folder: Path, facts: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Warn of another version or device than the run in `folder` began with.

    Raises
    ------
    InputError : the corpus is another than the run began with
    """
    path = folder / "configuration.json"
    stored = read_json(path)
    for name, value in facts.items():
        if stored.get(name) != value:
            raise InputError(
                f"{path}: {name} is {stored.get(name)}, the corpus now gives {value}; a run goes on with the corpus it "
                "began with, or is trained anew"
            )
    changed = [
        f"{name} {stored.get(name)} is {value} now" for name, value in environment.items() if stored.get(name) != value
    ]
    if changed:
        warnings.warn(f"{folder}: {'; '.join(changed)}: the result may differ from an undisturbed run's", stacklevel=2)
