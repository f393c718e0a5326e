"""Runs: what a prediction needs of a trained run, from an experiment folder or from a folder in the hub's layout."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model import MATE
from prediction.hub import CONFIG, download, read_exported, recorded_text_model
from training.folders import load_run
from training.provenance import unfinished
from utils import InputError, read_json


class LoadedRun(NamedTuple):
    """A trained run.

    name : as the user gave it
    options : of main.py
    text_model : what is recorded of the encoder of its sentence embeddings (name, fingerprint, ...), or None
    speech_encoder : what is recorded of its speech encoder (name, fingerprint, layers, dimension), if it has one
    """

    name: str
    model: MATE
    options: argparse.Namespace
    text_model: Mapping[str, Any] | None
    speech_encoder: Mapping[str, Any] | None

    @property
    def reads_audio(self) -> bool:
        return self.model.uses_audio

    @property
    def reads_speech(self) -> bool:
        """Whether it reads sound as embeddings of a speech encoder, not as log-mels."""
        return self.speech_encoder is not None

    @property
    def reads_text(self) -> bool:
        return self.model.uses_text


def open_run(run: str | Path) -> LoadedRun:
    """Load an experiment folder (of the published program too), a folder of export.py, or a model of the hub.

    Warns of a run that has not finished.

    Raises
    ------
    InputError : it is none of these, or cannot be used
    """
    folder, name = Path(run), str(run)
    if (folder / "configuration.json").is_file():
        trained = load_run(folder)
        text_model = recorded_text_model(read_json(folder / "configuration.json"))
        warn_of(name, unfinished(trained, trained.options))
        return LoadedRun(name, trained.model, trained.options, text_model, trained.speech_encoder)
    if folder.is_dir() and not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: has neither configuration.json nor {CONFIG}; expected an experiment folder")
    model, options, about = read_exported(folder if folder.is_dir() else download(name))
    warn_of(name, [about["unfinished"]] if about.get("unfinished") else [])
    return LoadedRun(name, model, options, recorded_text_model({"data": about}), about.get("speech_encoder"))


def warn_of(name: str, sentences: Sequence[str]) -> None:
    """Warn of what is to be known of a run before its predictions are."""
    for sentence in sentences:
        warnings.warn(f"{name}: {sentence}", stacklevel=3)
