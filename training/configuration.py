"""Configuration: a run's options as `configuration.json` holds them, and which runs are the same."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from training.arguments import switch
from training.options import CALL, CORPUS, MODEL, TEST, TRAINING, get_args_parser
from utils import InputError, encoder_name


@cache
def options() -> Mapping[str, argparse.Action]:
    """The options of main.py by name; each has a `scope`."""
    return {action.dest: action for action in get_args_parser()._actions if hasattr(action, "scope")}


@cache
def defaults() -> Mapping[str, Any]:
    """The default of every option, as JSON holds it."""
    return as_json(get_args_parser().parse_args([]))


def names_of(*scopes: str) -> set[str]:
    """Names of the options of these scopes."""
    return {name for name, option in options().items() if option.scope in scopes}


def as_json(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments as `configuration.json` holds them; a single `--data_path` is no list."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    if isinstance(values["data_path"], list):
        paths = [str(path) for path in values["data_path"]]
        values["data_path"] = paths[0] if len(paths) == 1 else paths
    return values


def outcome_options(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide a run's outcome; those that the configuration lacks have the value of its time."""
    complete = {**defaults(), **earlier_values(configuration), **configuration}
    return {name: complete[name] for name in sorted(names_of(CORPUS, MODEL, TRAINING, TEST))}


def earlier_values(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration meant by the options that it lacks, where that is not their default.

    One that was written before an option existed otherwise means its default.
    """
    is_sgd = configuration.get("optim") == "sgd" and "momentum" not in configuration
    return {"momentum": 0.9} if is_sgd and "seed" in configuration else {}  # the published program's has no seed


def identity(configuration: Mapping[str, Any]) -> str:
    """A digest of what decides a run's outcome: two configurations of one identity are the same run.

    A corpus is the same however its path is spelt, and so is a speech encoder, which has no meaning to a run that hears
    through none.

    Parameters
    ----------
    configuration : options by name, as `configuration.json` or `as_json` has them; anything else in it is ignored
    """
    decisive = outcome_options(configuration)
    for name in names_of(CORPUS):
        paths = decisive[name] if isinstance(decisive[name], list) else [decisive[name]]
        resolved = [str(Path(path).resolve()) if isinstance(path, str) else path for path in paths]
        decisive[name] = resolved[0] if len(resolved) == 1 else resolved
    if decisive["audio"] != "encoder" or "audio" not in decisive["modality"]:
        decisive["audio_model"] = None
    elif decisive["audio_model"] is not None:  # earlier runs hold the path of its folder
        known, typed = configuration.get("speech_encoder"), decisive["audio_model"]
        decisive["audio_model"] = known.get("name") if isinstance(known, dict) else encoder_name(typed)
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def identities(configuration: Mapping[str, Any]) -> set[str]:
    """The identities that a stored run answers to: its own, and where it took the only speech encoder that was there,
    that of a run which names it, as one must once there are several.
    """
    known = configuration.get("speech_encoder")
    named = {"audio_model": known.get("name")} if isinstance(known, dict) else {}
    return {identity(configuration), identity({**configuration, **named})}


def data_records(configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a configuration says of its data, a record a corpus; none where it does not say."""
    data = configuration.get("data")
    return [record for record in (data if isinstance(data, list) else [data]) if isinstance(record, dict)]


def read_options(path: Path, stored: Mapping[str, Any], unchecked: Collection[str] = ()) -> dict[str, Any]:
    """The options in a configuration, except those of the call; those `unchecked` as they stand there.

    Parameters
    ----------
    path : of the configuration, for error messages
    stored : its content

    Raises
    ------
    InputError : the option does not take the value
    """
    values = {}
    for name, option in options().items():
        if name not in stored or option.scope == CALL:
            continue
        value = stored[name]
        if name not in unchecked and not (value is None and option.default is None):
            try:
                value = parse_stored(option, value)
            except argparse.ArgumentTypeError as error:
                raise InputError(f"{path}: {name}: {error}") from error
            if option.choices and value not in option.choices:
                raise InputError(f"{path}: {name}: {value!r}, expected one of {', '.join(option.choices)}")
        values[name] = value
    return values


def parse_stored(option: argparse.Action, value: Any) -> Any:
    """A value of a configuration as the command line gives it; raises `ArgumentTypeError` as the option's type does."""
    kind = switch if isinstance(option.default, bool) else option.type or str
    if option.nargs != "+":
        return kind(str(value))
    if value == []:
        raise argparse.ArgumentTypeError("an empty list, expected at least one value")
    return [kind(str(one)) for one in (value if isinstance(value, list) else [value])]
