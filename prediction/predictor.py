"""Predictor: emotion, arousal and valence of a dialogue, from one run or the mean of several runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from constants import EMOTIONS
from corpora.corpus_json import read_corpus_json
from corpora.transcripts import clean_transcripts
from dataset import Features, WindowDataset
from features.embeddings import MAX_VALUE, is_embedding
from features.encoders import load_text
from features.log_mel import LogMels, log_mel, on_all_cores
from prediction.inputs import Utterance
from prediction.runs import load_encoder, open_run, warn_of_other_encoder
from training.devices import pick_device, return_freed_memory, set_switches
from training.engine import PREDICTIONS, NonFinite, predict_all, to_arrays, to_device
from training.record import TrainedRun
from utils import InputError, count

BATCH = 8  # windows; larger batches need more memory and are no faster on a CPU


class Prediction(NamedTuple):
    """Predictions for N utterances, float32: means over the runs, and standard deviations (0 for one run)."""

    emotion: np.ndarray  # probabilities in the order of `constants.EMOTIONS`, shape = (N, 7)
    arousal: np.ndarray  # 1 to 5, shape = (N,)
    valence: np.ndarray
    emotion_sd: np.ndarray
    arousal_sd: np.ndarray
    valence_sd: np.ndarray

    @property
    def labels(self) -> list[str]:
        """The most probable emotion of each utterance."""
        return [EMOTIONS[label] for label in self.emotion.argmax(axis=1)]


class Predictor:
    """Trained runs that predict dialogues.

    Parameters
    ----------
    runs : run folders, folders of export.py, or names on the Hugging Face Hub; their predictions are averaged
    text_model : Hub name or folder of the text encoder; by default the one that the runs were trained with
    audio_model : Hub name or folder of the speech encoder, for runs with --audio encoder
    gpu_id : a GPU's number or "cpu"; None for the best device
    quiet : no progress bars

    Sets torch's global flags as in a test (float32 without TF32, deterministic algorithms).

    Attributes: `role`, "speaker" or "listener", whose emotion is predicted; `text_dim`, None if no run uses text.
    Raises `InputError` if a run cannot be loaded, or the runs differ in role, text_model or text_dim.
    """

    def __init__(
        self,
        *runs: str | Path,
        text_model: str | None = None,
        audio_model: str | None = None,
        gpu_id: str | None = None,
        quiet: bool = True,
    ) -> None:
        set_switches()
        self.device, self.quiet, self.given = pick_device(gpu_id), quiet, {"text": text_model, "speech": audio_model}
        self.runs = {str(run): open_run(str(run)) for run in runs}
        self.readers = {
            "text": {name: run for name, run in self.runs.items() if run.model.uses_text},
            "speech": {name: run for name, run in self.runs.items() if audio_kind(run) == "speech"},
        }
        self.role = common_value("SorL", self.runs)
        self.text_model = common_value("text_model", self.readers["text"])
        self.text_dim = common_value("text_dim", self.readers["text"])
        self.encoders: dict[str, Any] = {}
        for run in self.runs.values():
            to_device(run.model, self.device)

    def dialogue(self, utterances: Sequence[Utterance]) -> Prediction:
        """Predict each utterance of a dialogue in time order, from this utterance and the previous ones.

        Raises `InputError` if no utterance is usable, an encoder cannot be loaded, or a run predicts NaN.
        """
        table = pd.DataFrame({"dialogue": "", "speaker": [utterance.speaker for utterance in utterances]})
        if any(run.options.speakers for run in self.runs.values()):
            table["speaker"] = nearest_speakers(utterances)
        text = self.embed_texts(utterances) if self.readers["text"] else None
        audio, found = {None: None}, []
        for name, run in self.runs.items():
            options, kind = run.options, audio_kind(run)
            if kind not in audio:
                audio[kind] = self.compute_audio(kind, utterances)
            log_mels, speech = (None, audio[kind]) if kind == "speech" else (audio[kind], None)
            features = Features(log_mels, text if run.model.uses_text else None, speech).to(self.device)
            dataset = WindowDataset(table, features, range(len(table)), options.ws, speakers=options.speakers)
            settings = {"bfloat16": options.precision == "bf16", "progress": None if self.quiet else "predicting"}
            try:
                found.append(to_arrays(predict_all(run.model, dataset, BATCH, **settings), run.temperature))
            except NonFinite as error:
                raise InputError(f"{name}: {error}; its weights cannot be used") from error
        del audio, features, dataset  # 50 MB an hour
        return_freed_memory()
        arrays = [np.stack([arrays[name] for arrays in found]) for name in PREDICTIONS]
        return Prediction(*(a.mean(axis=0) for a in arrays), *(a.std(axis=0) for a in arrays))

    def embed_texts(self, utterances: Sequence[Utterance]) -> Tensor:
        """Text embeddings, float32, shape = (N, text_dim); zeros for an utterance without text and embedding."""
        is_missing = [utterance.text is None and utterance.embedding is None for utterance in utterances]
        check_missing("a transcript", [f"utterance {row + 1}" for row in np.flatnonzero(is_missing)], len(utterances))
        vectors = np.zeros((len(utterances), self.text_dim), np.float32)
        for row, given in enumerate(utterance.embedding for utterance in utterances):
            if given is not None and not is_embedding(given, self.text_dim):
                expected = f"expected {self.text_dim} finite values up to {MAX_VALUE:.0e}"
                raise InputError(f"utterance {row + 1}: embedding of {given.size} values, {expected}")
            vectors[row] = 0 if given is None else given
        texts = {row: utterance.text for row, utterance in enumerate(utterances) if utterance.text is not None}
        if texts:
            cleaned = clean_transcripts([*texts.values()])
            vectors[[*texts]] = self.encoder("text").embed(cleaned, progress=not self.quiet)
        return torch.from_numpy(vectors)

    def compute_audio(self, kind: str | int, utterances: Sequence[Utterance]) -> LogMels | Tensor:
        """The audio features of runs of a kind (see `audio_kind`); zeros for an utterance without usable audio."""
        encoder = self.encoder("speech") if kind == "speech" else None

        def compute(utterance: Utterance) -> Tensor | InputError:
            try:
                wave = utterance.read(encoder.rate if encoder else kind)
            except InputError as error:
                return error
            return encoder.embed(wave).half() if encoder else log_mel(wave, kind)  # float16, as they are stored

        computed = map(compute, utterances) if encoder else on_all_cores(compute, utterances)
        found = list(tqdm(computed, "audio features", len(utterances), unit="utterance", disable=self.quiet))
        check_missing("usable audio", [str(error) for error in found if isinstance(error, InputError)], len(found))
        replacement = torch.zeros(encoder.shape) if encoder else None
        found = [replacement if isinstance(features, InputError) else features for features in found]
        return torch.stack(found).float() if encoder else LogMels(found, kind)

    def encoder(self, kind: str) -> Any:
        """The "text" or "speech" encoder, loaded when it is first needed."""
        if kind not in self.encoders:
            self.encoders[kind] = load_encoder(kind, self.readers[kind], self.given[kind], self.device)
        return self.encoders[kind]

    def stored_texts(self, data_path: Path, table: pd.DataFrame) -> list[np.ndarray | None]:
        """The text embeddings of these utterances in a preprocessed folder, None if missing.

        Warns if they are from another text encoder than the one a run was trained with.
        """
        file = f"embedding_{self.text_dim}.npy"
        model = (read_corpus_json(data_path) or {"text_models": {}})["text_models"].get(file)
        if self.text_model is None and model:
            name = f"{model['name']} in {data_path}"
            warn_of_other_encoder("text", self.readers["text"], name, model["fingerprint"])
        embeddings, is_missing = load_text(data_path, self.text_model, self.text_dim, table)
        return [None if missing else row.numpy() for row, missing in zip(embeddings, is_missing, strict=True)]


def audio_kind(run: TrainedRun) -> str | int | None:
    """The audio input of a run: "speech" (embeddings), the sampling rate of its log-mels (Hz), or None."""
    if not run.model.uses_audio:
        return None
    return "speech" if run.model.audio == "encoder" else run.options.sr


def common_value(name: str, runs: Mapping[str, TrainedRun]) -> Any:
    """The value of an option in all runs, None without runs; `InputError` if the runs differ."""
    values = {
        run: trained.model.text_dim if name == "text_dim" else getattr(trained.options, name)
        for run, trained in runs.items()
    }
    if len({*values.values()}) > 1:
        raise InputError(f"--{name} differs between the runs, so they cannot be averaged: {values}")
    return next(iter(values.values()), None)


def nearest_speakers(utterances: Sequence[Utterance]) -> list[str]:
    """The speaker of each utterance, or of the nearest utterance (in time, else in order) if it has none."""
    speakers = np.array([utterance.speaker for utterance in utterances], dtype=object)
    named, unnamed = np.flatnonzero(speakers != ""), np.flatnonzero(speakers == "")
    if len(unnamed) and not len(named):
        sources = "use WhisperX's --diarize, a column speaker, or '[Kim]: ' before the text"
        raise InputError(f"no utterance has a speaker, which a run with --speakers needs; {sources}")
    if len(unnamed):
        found = f"{len(unnamed)} of {count(len(speakers), 'utterance')} without a speaker"
        warnings.warn(f"{found} (the nearest one is used); first: utterance {unnamed[0] + 1}", stacklevel=3)
        start, end = (np.array([getattr(u, name) for u in utterances], float) for name in ("start", "end"))
        if np.isnan(start + end).any():
            start = end = np.arange(len(utterances))
        apart = np.maximum(start[named] - end[unnamed, None], start[unnamed, None] - end[named])
        speakers[unnamed] = speakers[named[apart.argmin(axis=1)]]
    return speakers.tolist()


def check_missing(what: str, missing: Sequence[str], n: int) -> None:
    """Warn of utterances without `what`; raise `InputError` if it is missing for all `n` utterances."""
    first = f"; first: {missing[0]}" if missing else ""
    if len(missing) == n:
        raise InputError(f"no utterance has {what}, which the model needs{first}")
    if missing:
        found = f"{len(missing)} of {count(n, 'utterance')} without {what}"
        warnings.warn(f"{found} (zeros are used){first}", stacklevel=4)
