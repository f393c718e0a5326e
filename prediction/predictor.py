"""Predictor: the emotions of a dialogue, by one trained run or by several together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from constants import EMOTIONS
from corpora.provenance import describe_embeddings
from corpora.transcripts import clean_transcript
from dataset import ordered_loader
from features.embeddings import fingerprint_of
from features.speech_encoder import SpeechEncoder, load_speech_encoder
from features.text import embed_sentences, load_text_model
from prediction.encoders import Wanted
from prediction.hearing import Hearing
from prediction.part import Part
from prediction.runs import LoadedRun, open_run
from prediction.utterance import Utterance
from training.devices import pick_device
from training.engine import NonFinite, evaluate, evaluation_batch
from training.folders import shape_of
from utils import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from features.text import Tokenizer

AT_ONCE = 64  # utterances whose log-mels are in memory: 20 MB in float32


class Prediction(NamedTuple):
    """What is predicted for N utterances, float32: the means over runs, and their standard deviations (population).

    emotion : probabilities in the order of `constants.EMOTIONS`, shape = (N, 7)    emotion_sd : shape = (N, 7)
    arousal, valence : 1 to 5, shape = (N,)                 arousal_sd, valence_sd : shape = (N,); zeros for one run
    """

    emotion: np.ndarray
    arousal: np.ndarray
    valence: np.ndarray
    emotion_sd: np.ndarray
    arousal_sd: np.ndarray
    valence_sd: np.ndarray

    @property
    def labels(self) -> list[str]:
        """The likeliest emotion of each utterance."""
        return [EMOTIONS[label] for label in self.emotion.argmax(axis=1)]


class Predictor:
    """Trained runs that predict dialogues.

    Parameters
    ----------
    runs : experiment folders, folders of export.py, or names on the hub; their predictions are averaged
    text_model : hub name or folder of the sentence encoder; by default the one that the runs were trained with
    audio_model : the same of the speech encoder, of runs with --audio encoder
    gpu_id : a GPU's number or "cpu"; None for the best there is
    quiet : without progress bars

    Attributes
    ----------
    role : whose emotion is predicted, "speaker" or "listener"
    text_dim : length of the sentence embeddings that the runs read; None where they read no text

    Raises
    ------
    InputError : a run cannot be used, or they predict different roles
    """

    def __init__(
        self,
        *runs: str | Path,
        text_model: str | None = None,
        audio_model: str | None = None,
        gpu_id: str | None = None,
        quiet: bool = True,
    ) -> None:
        if not runs:
            raise InputError("no run is given; name an experiment folder")
        self.runs = [open_run(run) for run in runs]
        self.device, self.quiet, self.text_model, self.audio_model = pick_device(gpu_id), quiet, text_model, audio_model
        self.role = self.common("SorL", self.runs)
        for run in self.runs:
            run.model.to(self.device).eval()
        readers = [run for run in self.runs if run.reads_text]
        self.text_dim = self.common("text_dim", readers) if readers else None
        self.wanted_text = Wanted(
            "text model", "--text_model", "skt/kobert-base-v1", "text", {run.name: run.text_model for run in readers}
        )
        hearers = {run.name: run.speech_encoder for run in self.runs if run.reads_speech}
        self.wanted_speech = Wanted(
            "speech encoder", "--audio_model", "team-lucid/hubert-base-korean", "sound", hearers
        )
        self.text_encoder: tuple[Tokenizer, PreTrainedModel] | None = None  # loaded when it is needed
        self.speech_encoder: SpeechEncoder | None = None

    @property
    def reads_audio(self) -> bool:
        return any(run.reads_audio for run in self.runs)

    @staticmethod
    def common(option: str, runs: Sequence[LoadedRun]) -> object:
        """The one value that the runs have of an option; raises `InputError` where they differ."""
        values = [getattr(run.options, option) for run in runs]
        if len(set(values)) > 1:
            found = ", ".join(f"{run.name} {value}" for run, value in zip(runs, values, strict=True))
            raise InputError(
                f"--{option} differs between the runs ({found}), so that they have no mean; give them separately"
            )
        return values[0]

    def dialogue(self, utterances: Sequence[Utterance]) -> Prediction:
        """Predict each utterance of a dialogue from it and the ones before it, as in a test.

        Only `AT_ONCE` utterances are in memory at once, besides what the caller holds.

        Parameters
        ----------
        utterances : of one dialogue, in the order of time

        Raises
        ------
        InputError : there is none, nothing of it can be read, an encoder cannot be had, or what is predicted is not a
            number
        """
        if not utterances:
            raise InputError("a dialogue without an utterance; give at least one")
        if self.reads_audio:
            self.check_given([utterance.wave is None for utterance in utterances], "sound")
        if any(run.options.speakers for run in self.runs):
            self.check_speakers(utterances)
        encoder = self.load_speech_encoder() if self.wanted_speech.records else None
        text = self.embed(utterances) if self.text_dim is not None else None
        outputs: list[list[list[np.ndarray]]] = [[] for _ in self.runs]
        faults: dict[int, str] = {}
        total = len(self.runs) * len(utterances)
        bar = tqdm(total=total, desc="predicting", unit="utterance", disable=self.quiet)
        with bar, Hearing(encoder, utterances, self.quiet) if encoder else nullcontext() as hearing:
            for start in range(0, len(utterances), AT_ONCE):
                first, end = max(0, start - self.context), min(start + AT_ONCE, len(utterances))
                speech = hearing.part(first, end) if hearing else None
                own_text = None if text is None else text[first:end]
                part = Part(utterances[first:end], first, end - start, own_text, speech)
                for run, parts in zip(self.runs, outputs, strict=True):
                    parts.append(self.predict(run, part))
                    bar.update(end - start)
                faults |= part.faults
        self.report_faults(faults, sum(utterance.wave is not None for utterance in utterances))
        of_runs = [[np.concatenate(column) for column in zip(*parts, strict=True)] for parts in outputs]
        columns = [np.stack(column) for column in zip(*of_runs, strict=True)]  # each (runs, N, ...)
        return Prediction(*(c.mean(axis=0) for c in columns), *(c.std(axis=0) for c in columns))

    @property
    def context(self) -> int:
        """How many utterances before one its windows reach."""
        return max(run.options.ws for run in self.runs) - 1

    def predict(self, run: LoadedRun, part: Part) -> list[np.ndarray]:
        """Probabilities, arousal and valence of the targets of a part."""
        loader = ordered_loader(part.windows(run, self.device), evaluation_batch(run.options.batch_size))
        batches = (batch.to(self.device) for batch in loader)
        try:
            arrays, _ = evaluate(run.model, batches, bfloat16=run.options.precision == "bf16")
        except NonFinite as error:
            raise InputError(f"{run.name}: {error}: its weights are of no use") from error
        return [arrays[name] for name in ("emotion_pred", "arousal_pred", "valence_pred")]

    # What is given, and what is not

    @staticmethod
    def check_given(missing: Sequence[bool], what: str) -> None:
        """Warn of utterances without sound or text; raise `InputError` where none has any."""
        if all(missing):
            raise InputError(f"no utterance has {what}, which the model reads; give it, or a run that does without")
        if any(missing):
            warnings.warn(
                f"{sum(missing)} of {len(missing)} utterances have no {what} and count as zeros", stacklevel=3
            )

    @staticmethod
    def check_speakers(utterances: Sequence[Utterance]) -> None:
        """Raise `InputError` where it is not said of an utterance who speaks."""
        lacking = [number for number, utterance in enumerate(utterances, start=1) if not utterance.speaker]
        if lacking:
            raise InputError(
                f"{len(lacking)} of {len(utterances)} utterances have no speaker, the first is number {lacking[0]}: a "
                "run with --speakers must be told who speaks; name the speaker of each segment (WhisperX's "
                "--diarize, a column speaker, '[Kim]: ' before its text), or take a run without --speakers"
            )

    @staticmethod
    def report_faults(faults: Mapping[int, str], total: int) -> None:
        """Warn of wavs that cannot be used; raise `InputError` where that is all of them."""
        if not faults:
            return
        first_fault = next(iter(faults.values()))
        if len(faults) == total:
            raise InputError(first_fault)
        warnings.warn(f"{len(faults)} wavs cannot be used and count as silent; first {first_fault}", stacklevel=3)

    # Encoders

    def check_embeddings(self, data_path: Path) -> None:
        """Warn where a corpus's sentence embeddings are of another text model than a run was trained with."""
        entry = describe_embeddings(data_path).get(f"embedding_{self.text_dim}.npy")
        if entry is not None:
            model = entry["text_model"]
            self.wanted_text.warn_of_another(f"of {data_path} ({model.get('name')})", model.get("fingerprint"))

    def load_speech_encoder(self) -> SpeechEncoder:
        """The speech encoder, on the device; warns where it is another than a run was trained with."""
        if self.speech_encoder is not None:
            return self.speech_encoder
        wanted = self.wanted_speech
        name, _ = wanted.find(self.audio_model)
        try:
            encoder = load_speech_encoder(name)
        except InputError as error:
            raise wanted.not_found(error, self.audio_model) from error
        for run, record in wanted.records.items():
            if shape_of(record) != (encoder.layers, encoder.dimension):
                raise InputError(
                    f"speech encoder {name}: {encoder.layers} layers of {encoder.dimension} values, {run} was trained "
                    f"with {record['name']}, {record['layers']} layers of {record['dimension']}; give that one"
                )
        wanted.warn_of_another(name, encoder.fingerprint)
        encoder.model.to(self.device)
        self.speech_encoder = encoder
        return encoder

    def embed(self, utterances: Sequence[Utterance]) -> torch.Tensor:
        """Sentence embeddings, float32, shape = (N, text_dim); zeros where there is neither embedding nor text."""
        self.check_given([u.text is None and u.embedding is None for u in utterances], "text")
        vectors = torch.zeros(len(utterances), self.text_dim)
        todo = []
        for number, utterance in enumerate(utterances):
            if utterance.embedding is not None:
                vectors[number] = torch.from_numpy(utterance.embedding)
            elif utterance.text is not None:
                todo.append(number)
        if todo:
            tokenizer, model = self.load_text_encoder()
            texts = [clean_transcript(utterances[number].text) for number in todo]
            vectors[todo] = torch.from_numpy(embed_sentences(texts, tokenizer, model, quiet=self.quiet))
        return vectors

    def load_text_encoder(self) -> tuple[Tokenizer, PreTrainedModel]:
        """The text encoder, on the device; warns where it is another than a run was trained with."""
        if self.text_encoder is not None:
            return self.text_encoder
        wanted = self.wanted_text
        name, revision = wanted.find(self.text_model)
        try:
            tokenizer, model = load_text_model(name, self.text_dim, revision)
        except InputError as error:
            raise wanted.not_found(error, self.text_model) from error
        wanted.warn_of_another(name, fingerprint_of(tokenizer, model))
        if any(record and record.get("random") for record in wanted.records.values()):
            warnings.warn(
                "the runs were trained with a random text encoder: what they predict means nothing", stacklevel=3
            )
        self.text_encoder = tokenizer, model.to(self.device)
        return self.text_encoder
