"""Data: which of the runs that a plan finds were made from other data than its corpus now holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.plan import PlannedRun
from training.options import parse_args
from utils import InputError, read_json

# Options of main.py that its data depend on
DECISIVE = ("data_path", "audio_path", "SorL", "modality", "text_dim", "sr", "feature_dtype")


def other_data(runs: Iterable[PlannedRun], folders: Mapping[str, Path]) -> dict[str, str]:
    """By the runs' ids, in one line, what each was made from that the corpus no longer holds.

    Runs of earlier versions, which do not know what they were made from, are left out; so are all of them where there
    is no corpus to compare with.

    Parameters
    ----------
    folders : the experiment folders that there are, by `run_id`
    """
    described: dict[tuple, list[dict[str, Any]] | None] = {}
    found = {}
    for planned in runs:
        folder = folders.get(planned.run_id)
        stored = {} if folder is None or planned.run_id in found else read_json(folder / "configuration.json")
        if "data" not in stored:
            continue
        options, _ = parse_args(planned.argv)
        key = tuple(str(getattr(options, name)) for name in DECISIVE)
        if key not in described:
            described[key] = describe_now(options)
        now = described[key]
        if now and (words := differences_in_words(folder, now) or other_encoder(folder, stored, options)):
            found[planned.run_id] = (
                f"{folder}: made from other data than {format_paths(options.data_path)} now holds: {words}; "
                "bring them back, move the folder elsewhere, or give another --save_path"
            )
    return found


def format_paths(data_paths: Sequence[Path]) -> str:
    """The corpora's folders in words."""
    return " and ".join(map(str, data_paths))


def speech_shape_of(runs: Iterable[PlannedRun]) -> tuple[int, int] | None:
    """Layers and dimension of the speech embeddings that runs need; None if no run hears through an encoder.

    Raises
    ------
    InputError : a corpus holds none, or not those of `--audio_model`, or of several encoders
    """
    shape = None
    for planned in runs:
        options, _ = parse_args(planned.argv)
        if shape is None and options.audio == "encoder" and "audio" in options.modality:
            from features.speech import find_encoder
            from features.utterances import refuse_other_encoders

            try:
                found = [find_encoder(path / "features", options.audio_model)[1] for path in options.data_path]
                refuse_other_encoders(options.data_path, found)
            except InputError as error:
                raise InputError(f"{planned.table} {planned.row}: {error}") from error
            shape = found[0]["layers"], found[0]["dimension"]
    return shape


def other_encoder(folder: Path, stored: Mapping[str, Any], options: argparse.Namespace) -> str:
    """That a corpus holds the embeddings of another speech encoder than a run heard through, in words, or ''.

    Parameters
    ----------
    folder, stored : of the run, and its configuration
    """
    if "speech_encoder" not in stored:  # it hears through none, or was killed before it began
        return ""
    from features.speech import stored_encoders
    from training.folders import read_encoder

    encoder = read_encoder(folder / "configuration.json", {**stored})
    for path in options.data_path if encoder else ():
        held = stored_encoders(path / "features").values()
        if held and encoder["fingerprint"] not in {other["fingerprint"] for other in held}:
            return f"the speech encoder ({encoder_in_words(encoder)}; now {', '.join(map(encoder_in_words, held))})"
    return ""


def encoder_in_words(encoder: Mapping[str, Any]) -> str:
    """A speech encoder in words."""
    return f"{encoder['name']}, fingerprint {encoder['fingerprint'][:12]}"


def describe_now(options: argparse.Namespace) -> list[dict[str, Any]] | None:
    """What a run with these options would be made from; None where the corpus cannot be read."""
    from corpora.annotation import load_annotations
    from training.provenance import describe_data

    try:
        return describe_data(options, load_annotations(options.data_path, options.SorL).ids)
    except InputError:
        return None


def differences_in_words(folder: Path, now: Sequence[Mapping[str, Any]]) -> str:
    """What differs, or ''."""
    from training.provenance import differences, stored_data

    return "; ".join(differences(stored_data(folder), now))
