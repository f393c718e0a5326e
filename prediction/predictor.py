"""Predictor: the emotions of a dialogue, by one trained run or by several together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from constants import EMOTIONS, SAMPLE_RATE
from corpora.annotation import Annotation
from corpora.transcripts import clean_transcript
from corpora.wavs import to_mono
from dataset import Utterances, WindowDataset, ordered_loader
from features.embeddings import fingerprint_of
from features.log_mel import LogMels
from features.text import embed_sentences, load_text_model
from prediction.recording import Clip
from prediction.runs import LoadedRun, open_run
from training.devices import pick_device
from training.engine import NonFinite, evaluate, evaluation_batch
from utils import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from features.text import Tokenizer

AT_ONCE = 64  # utterances whose log-mels are in memory: 20 MB in float32


@dataclass(frozen=True)
class Utterance:
    """An utterance of a dialogue. What the model does not read may be None; what is None though it reads it is zeros.

    wave : path of a wav of any rate, samples (float32 in [-1, 1] at 16 kHz, shape = (samples,)), or part of a recording
    text : as it was transcribed, with the corpus's markup or without
    embedding : of the text, float32, shape = (text_dim,), if it is known
    speaker, start, end : for the table and the page alone; times in s
    id : segment id, where it has one
    """

    wave: Path | np.ndarray | Clip | None = None
    text: str | None = None
    embedding: np.ndarray | None = None
    speaker: str = ""
    start: float | None = None
    end: float | None = None
    id: str = ""

    def sound(self, sr: int) -> Path | np.ndarray | None:
        """What `LogMels` computes with at `sr` Hz."""
        if isinstance(self.wave, Clip):
            return self.wave.read(sr)
        if isinstance(self.wave, np.ndarray) and sr != SAMPLE_RATE:
            return to_mono(self.wave[:, None], SAMPLE_RATE, sr)
        return self.wave


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
    gpu_id : a GPU's number or "cpu"; None for the best there is
    quiet : without progress bars

    Attributes
    ----------
    role : whose emotion is predicted, "speaker" or "listener"

    Raises
    ------
    InputError : a run cannot be used, they predict different roles, or the text encoder cannot be had
    """

    def __init__(
        self, *runs: str | Path, text_model: str | None = None, gpu_id: str | None = None, quiet: bool = True
    ) -> None:
        if not runs:
            raise InputError("no run is given; name an experiment folder")
        self.runs = [open_run(run) for run in runs]
        self.device, self.quiet, self.text_model = pick_device(gpu_id), quiet, text_model
        self.role = self.common("SorL", [run.options.SorL for run in self.runs])
        for run in self.runs:
            run.model.to(self.device).eval()
        readers = [run for run in self.runs if run.reads_text]
        self.text_dim = self.common("text_dim", [run.options.text_dim for run in readers]) if readers else None
        self.encoder: tuple[Tokenizer, PreTrainedModel] | None = None  # loaded when it is needed

    @property
    def reads_text(self) -> bool:
        return self.text_dim is not None

    @property
    def reads_audio(self) -> bool:
        return any(run.reads_audio for run in self.runs)

    def common(self, option: str, values: list) -> object:
        """The one value that all runs have of an option; raises `InputError` where they differ."""
        if len(set(values)) > 1:
            found = ", ".join(f"{run.name} {value}" for run, value in zip(self.runs, values, strict=False))
            raise InputError(
                f"--{option} differs between the runs ({found}), so that they have no mean; give them apart"
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
        InputError : there is none, nothing of it can be read, or what is predicted is not a number
        """
        if not utterances:
            raise InputError("a dialogue without an utterance; give at least one")
        if self.reads_audio:
            self.check_given([utterance.wave is None for utterance in utterances], "sound")
        if any(run.options.speakers for run in self.runs) and not all(utterance.speaker for utterance in utterances):
            raise InputError("an utterance without a speaker, whom a run with --speakers is told of; give each one's")
        text = self.embed(utterances) if self.reads_text else None
        total = len(self.runs) * len(utterances)
        with tqdm(total=total, desc="predicting", unit="utterance", disable=self.quiet) as bar:
            outputs = [self.run_over(run, utterances, text, bar) for run in self.runs]
        columns = [np.stack(column) for column in zip(*outputs, strict=True)]  # each (runs, N, ...)
        return Prediction(*(c.mean(axis=0) for c in columns), *(c.std(axis=0) for c in columns))

    @staticmethod
    def check_given(missing: Sequence[bool], what: str) -> None:
        """Warn of utterances without sound or text; raise `InputError` where none has any."""
        if all(missing):
            raise InputError(f"no utterance has {what}, which the model reads; give it, or a run that does without")
        if any(missing):
            warnings.warn(
                f"{sum(missing)} of {len(missing)} utterances have no {what} and count as zeros", stacklevel=3
            )

    def run_over(
        self, run: LoadedRun, utterances: Sequence[Utterance], text: torch.Tensor | None, bar: tqdm
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities, arousal and valence of all utterances, some at a time, each with the ones before it."""
        options, parts, faults = run.options, [], {}
        for start in range(0, len(utterances), AT_ONCE):
            first, end = max(0, start - options.ws + 1), min(start + AT_ONCE, len(utterances))
            part = utterances[first:end]
            log_mels = None
            if run.reads_audio:
                waves = [utterance.sound(options.sr) for utterance in part]
                log_mels = LogMels.from_waves(waves, options.sr, getattr(torch, options.feature_dtype))
                faults |= {first + number: fault for number, fault in log_mels.faults.items()}
            numbers = np.zeros(len(part), dtype=np.int64)
            annotation = Annotation([str(number) for number in range(first, end)], numbers, numbers)
            speaker = np.array([utterance.speaker for utterance in part]) if options.speakers else None
            own_text = text[first:end] if run.reads_text else None
            inputs = Utterances(annotation, log_mels, own_text, speaker=speaker).to(self.device)
            windows = WindowDataset(inputs, np.arange(start - first, end - first), options.ws)
            loader = ordered_loader(windows, evaluation_batch(options.batch_size))
            batches = (batch.to(self.device) for batch in loader)
            try:
                arrays, _ = evaluate(run.model, batches, bfloat16=options.precision == "bf16")
            except NonFinite as error:
                raise InputError(f"{run.name}: {error}: its weights are of no use") from error
            parts.append([arrays[name] for name in ("emotion_pred", "arousal_pred", "valence_pred")])
            bar.update(end - start)
        if len(faults) == len(utterances):
            raise InputError(str(next(iter(faults.values()))))
        if faults:
            first_fault = next(iter(faults.values()))
            warnings.warn(f"{len(faults)} wavs cannot be used and count as silent; first {first_fault}", stacklevel=3)
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    # Text

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
            tokenizer, model = self.load_encoder()
            texts = [clean_transcript(utterances[number].text) for number in todo]
            vectors[todo] = torch.from_numpy(embed_sentences(texts, tokenizer, model, quiet=self.quiet))
        return vectors

    def load_encoder(self) -> tuple[Tokenizer, PreTrainedModel]:
        """The text encoder, on the device; warns where it is another than a run was trained with."""
        if self.encoder is not None:
            return self.encoder
        readers = [run for run in self.runs if run.reads_text]
        name = self.text_model
        if name is None:
            if lacking := [run.name for run in readers if run.text_model is None]:
                raise InputError(
                    f"{lacking[0]}: does not say which text encoder it was trained with; give it as --text_model, such "
                    "as skt/kobert-base-v1 or its folder"
                )
            name = self.common("text_model", [run.text_model["name"] for run in readers])
        try:
            tokenizer, model = load_text_model(name, self.text_dim)
        except InputError as error:
            where = (
                ""
                if self.text_model
                else "; the runs were trained with it: give the place where it is now as --text_model"
            )
            raise InputError(f"{error}{where}") from error
        fingerprint = fingerprint_of(tokenizer, model)
        others = [run for run in readers if run.text_model and run.text_model["fingerprint"] != fingerprint]
        if others:
            warnings.warn(
                f"text model {name} is not the one that {others[0].name} was trained with "
                f"({others[0].text_model['name']}): its vectors mean something else to the model, whose predictions "
                "from text are then worth little",
                stacklevel=3,
            )
        if any(run.text_model and run.text_model.get("random") for run in readers):
            warnings.warn(
                "the runs were trained with a random text encoder: what they predict means nothing", stacklevel=3
            )
        self.encoder = tokenizer, model.to(self.device)
        return self.encoder
