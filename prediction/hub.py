"""Hub: a trained MATE in the layout of the Hugging Face hub, with a model card."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard, PyTorchModelHubMixin

import model
from corpora.sessions import format_sessions
from reports.runs import read_result
from training.configuration import data_records, names_of, options, read_options
from training.engine import build_model
from training.folders import TrainedRun, read_encoder, shape_of
from training.options import MODEL, TEST, parse_args
from training.provenance import unfinished
from training.state import first_line, load_weights
from utils import InputError, read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


class MATE(
    model.MATE,
    PyTorchModelHubMixin,
    library_name="mate-kemdy19",
    language=["ko"],
    pipeline_tag="audio-classification",
    license="other",
    license_name="etri-corpus",
    tags=["emotion-recognition", "speech-emotion-recognition", "multimodal"],
):
    """`model.MATE` with `from_pretrained`, `save_pretrained` and `push_to_hub`.

    Parameters
    ----------
    about : what config.json says of the training, see `describe_run`; the model card is written from it
    architecture : keywords of `model.MATE`; config.json holds those that are given
    """

    def __init__(self, about: dict | None = None, **architecture: Any) -> None:
        super().__init__(**architecture)
        self.about = about or {}

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The card, from `about` alone: a model that was loaded and is pushed has the same."""
        template = Path(__file__).with_name("model_card.md").read_text("utf-8")
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
        text = environment.from_string(template).render(about=self.about, modality=self.about["options"]["modality"])
        return ModelCard(f"---\n{self._hub_mixin_info.model_card_data.to_yaml()}\n---\n\n{text}")


def architecture(trained: TrainedRun) -> dict[str, Any]:
    """The keywords of `MATE` that a run's options mean, and the shape of its speech embeddings."""
    names = ("backbone", "hidden_size", "num_layers", "bidirectional", "text_dim", "ws", "sr", "modality", "speakers")
    chosen, encoder = trained.options, trained.speech_encoder
    others = {"concat": not chosen.no_concat, "audio": chosen.audio}
    return {name: getattr(chosen, name) for name in names} | others | {"speech_shape": encoder and shape_of(encoder)}


def portable_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """The options of a model and of its test, without paths, as config.json holds them."""
    return {name: value for name, value in vars(chosen).items() if name in names_of(MODEL, TEST) - {"audio_model"}}


def read_exported(folder: Path) -> tuple[model.MATE, argparse.Namespace, Mapping[str, Any]]:
    """Model, options and `about` of a folder in the hub's layout that export.py wrote.

    Raises
    ------
    InputError : its config.json or its weights are not as export.py writes them
    """
    path = folder / CONFIG
    about = read_json(path).get("about")
    stored = about.get("options") if isinstance(about, dict) else None
    if not isinstance(stored, dict) or not options().keys() & stored.keys():
        raise InputError(f"{path}: not of a model that export.py wrote; expected its options under about")
    encoder = read_encoder(path, stored | {"speech_encoder": about.get("speech_encoder")})
    chosen = argparse.Namespace(**vars(parse_args([])[0]) | read_options(path, stored))
    built = build_model(chosen, trains=False, speech_shape=encoder and shape_of(encoder))
    load_weights(built, folder / "model.pth")  # which takes the safetensors file beside it
    return built, chosen, about


def download(name: str) -> Path:
    """The folder of a model of the hub, which is loaded into the hub's cache; raises `InputError`."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"{name}: no such experiment folder, and not a name on the hub such as user/model")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    print(f"{name}: no such folder; looking for it on the Hugging Face hub", file=sys.stderr)
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = first_line(error)
        raise InputError(f"{name}: no such experiment folder, and the hub did not give it ({reason})") from error


# What is said of a run


def describe_run(folder: Path, trained: TrainedRun) -> dict[str, Any]:
    """What config.json and the model card say of an experiment folder: no path of this machine is in it."""
    stored = read_json(folder / "configuration.json")
    records = data_records(stored)
    named = [" ".join(str(data[name]) for name in ("corpus", "version") if data.get(name)) for data in records]
    chosen = trained.options
    text_model = recorded_text_model(stored)
    if text_model and Path(text_model["name"]).is_absolute():
        text_model = text_model | {"name": Path(text_model["name"]).name}
    return {
        "role": chosen.SorL,
        "options": portable_options(chosen),
        "corpus": " and ".join(filter(None, named)) or "not recorded",
        "synthetic": any(data.get("synthetic") for data in records),
        "train_sessions": format_sessions(trained.train_sessions),
        "test_sessions": format_sessions(chosen.test_split),
        "text_model": text_model,
        "speech_encoder": trained.speech_encoder,
        "commit": str(stored.get("commit", "not recorded")),
        "figures": read_figures(folder / "result.json"),
        "unfinished": next(iter(unfinished(trained, chosen)), None),
    }


def read_figures(path: Path) -> dict[str, Any] | None:
    """The figures of a test, each beside that of always answering with the commonest label; None without a test."""
    if not path.is_file():
        return None
    read_result(path)  # raises where it is none
    result = read_json(path)
    overall = result["overall"]
    rows = [[name, result[name], ""] for name in ("Precision", "Recall")]
    rows.append(["F1", result["F1"], f"{overall['majority_f1']:.3f}"])
    rows += [[f"CCC {name}", f"{result[f'ccc_{name}']:.3f}", "0.000"] for name in ("arousal", "valence")]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"):
        if name in overall:
            baseline = overall.get("majority", {}).get(name)
            rows.append([name.replace("_", " "), f"{overall[name]:.3f}", "" if baseline is None else f"{baseline:.3f}"])
    return {"windows": overall["n"], "majority_label": overall["majority_label"], "rows": rows}


def recorded_text_model(configuration: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a configuration says of the text model: name and fingerprint at least; None where it does not say."""
    found = next((data.get("text_model") for data in data_records(configuration)), None)  # of several one, the same
    if isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("name", "fingerprint")):
        return found
    return None
