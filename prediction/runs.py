"""Runs: load trained runs for prediction, and the text and speech encoders they were trained with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from corpora.sessions import parse_sessions
from features.encoders import OPTIONS
from features.speech_encoder import SpeechEncoder, load_speech_encoder
from features.text import TextEncoder, load_text_encoder, may_be_on_hub
from model import MATE
from training.checkpoint import load_weights
from training.record import Record, TrainedRun, caveats, load_run, newest_run, unfinished
from utils import InputError, expand_home, first_line, read_json

EXPORTED, WEIGHTS = "config.json", "model.safetensors"  # files written by export.py


def open_run(name: str) -> TrainedRun:
    """Load a run folder (also of the original code), a folder of export.py, or a model of the Hugging Face Hub.

    Warns if the run is unfinished, and of its `caveats`; raises `InputError` if nothing can be loaded.
    """
    folder = newest_run(Path(expand_home(name)))
    if not folder.is_dir():
        if "/" not in name or not may_be_on_hub(name):
            raise InputError(f"{name}: no such folder; expected a run folder, or user/name on the Hugging Face Hub")
        try:
            folder = Path(snapshot_download(name, allow_patterns=[EXPORTED, WEIGHTS]))
        except (OSError, ValueError) as error:  # ValueError: not a valid Hub name
            raise InputError(f"{name}: no such folder, and not on the Hub ({first_line(error)})") from error
    elif folder != Path(expand_home(name)):
        name = str(folder)  # `latest` is another run later
    if (folder / EXPORTED).is_file():
        content = read_json(folder / EXPORTED)
        if not {"options", "data", "card"} <= content.keys():
            raise InputError(f"{folder / EXPORTED}: not written by export.py; expected options, data and card")
        record, warning = Record(content["options"], content["data"], {}), content["card"]["unfinished"]
        options = record.namespace()
        train_sessions = parse_sessions(content["card"]["train_sessions"])
        model, temperature = MATE.from_options(options, record.data), content["card"].get("temperature", 1.0)
        run = TrainedRun(folder, model, options, record, train_sessions, temperature=temperature)
        load_weights(run.model, folder / WEIGHTS)
    else:
        run = load_run(folder)
        warning = unfinished(run)
    for sentence in filter(None, [*caveats(run.record.data), warning]):
        warnings.warn(f"{name}: {sentence}", stacklevel=3)
    return run


def load_encoder(
    kind: str, runs: Mapping[str, TrainedRun], given: str | None, device: torch.device
) -> TextEncoder | SpeechEncoder:
    """The "text" or "speech" encoder: `given` by the user, otherwise the one recorded in the runs.

    Warns if it is not the encoder that the runs were trained with. Raises `InputError` if it is neither given nor
    recorded as the same for all runs, cannot be loaded, or does not fit the runs.
    """
    option, records = OPTIONS[kind], [run.record.data for run in runs.values()]
    recorded = {data.get(f"{kind}_fingerprint") for data in records}
    if given is None and (len(recorded) > 1 or None in recorded):
        raise InputError(f"{', '.join(runs)}: no {kind} encoder is recorded for all runs; pass it with {option}")
    name = given or records[0][f"{kind}_model"]
    try:
        if kind == "text":
            encoder = load_text_encoder(name, device, None if given else records[0].get("text_revision"))
        else:
            encoder = load_speech_encoder(name, device)
    except InputError as error:
        raise InputError(f"{error}; pass the {kind} encoder of the runs, or its folder, with {option}") from error
    models = [run.model for run in runs.values()]
    expected = {(model.text_dim,) if kind == "text" else tuple(model.speech_shape) for model in models}
    if {encoder.shape} != expected:
        raise InputError(f"{kind} encoder {name}: embedding shape is {encoder.shape}, the runs expect {expected}")
    warn_of_other_encoder(kind, runs, name, encoder.description["fingerprint"])
    return encoder


def warn_of_other_encoder(kind: str, runs: Mapping[str, TrainedRun], name: str, fingerprint: str) -> None:
    """Warn if an encoder is not the one recorded in a run."""
    for run, trained in runs.items():
        data = trained.record.data
        if data.get(f"{kind}_fingerprint", fingerprint) != fingerprint:
            other = f"another {kind} encoder ({data[f'{kind}_model']}) than {name}"
            warnings.warn(f"{run}: trained with {other}; expect worse predictions", stacklevel=4)
