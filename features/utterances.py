"""Utterances: those of one role in one corpus or several, with the model's inputs for them."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corpora.annotation import Annotation
from corpora.missing import report_missing
from corpora.registry import by_corpus, corpus_of, parse_id
from corpora.sessions import Session
from corpora.wavs import find_wavs
from features.embeddings import load_embeddings
from features.log_mel import LogMels, compute_frames, open_store, silence
from features.speech import SpeechEmbeddings, open_frames
from features.standardised import fits
from features.store import Frames, frames_in_memory, join_frames
from utils import InputError


@dataclass(frozen=True)
class Utterances:
    """N utterances and the model's inputs for them; a modality that is left out is None.

    log_mels : of N utterances
    text : float32 sentence embeddings, shape = (N, text_dim)
    missing : segment ids without wav, without text
    speaker : who says each utterance, any values that tell apart the speakers of a dialogue, shape = (N,); None where
        the model is not told
    speech : embeddings of a speech encoder, in place of log-mels
    """

    annotation: Annotation
    log_mels: LogMels | None
    text: Tensor | None
    missing: dict[str, list[str]] = field(default_factory=dict)
    speaker: np.ndarray | None = None
    speech: SpeechEmbeddings | None = None

    def in_sessions(self, sessions: list[Session]) -> np.ndarray:
        """Numbers of the utterances in these sessions, int64."""
        return np.flatnonzero(np.isin(self.annotation.session, sessions))

    def to(self, device: torch.device) -> Utterances:
        """The same on a GPU if it fits into a quarter of the memory that is free there, else as it is."""
        audio = self.speech if self.log_mels is None else self.log_mels
        inputs = [t for t in (None if audio is None else audio.frames, self.text) if t is not None]
        if device.type != "cuda" or not fits(sum(t.nbytes for t in inputs), device):
            return self
        return replace(
            self,
            log_mels=None if self.log_mels is None else self.log_mels.to(device),
            text=None if self.text is None else self.text.to(device),
            speech=None if self.speech is None else self.speech.to(device),
        )


def load_utterances(options: argparse.Namespace, annotation: Annotation, quiet: bool = False) -> Utterances:
    """The inputs of `--modality` for the utterances of the corpora in `--data_path`, each from its corpus's folder.

    `quiet` hides the progress bar, except in the one process that computes log-mels for a store.
    """
    parts = list(zip(options.data_path, by_corpus(annotation.ids).values(), strict=True))
    missing: dict[str, list[str]] = {}
    text = log_mels = speech = None
    if "text" in options.modality:
        text = torch.cat([load_text(path, options.text_dim, ids, missing) for path, ids in parts])
    if "audio" in options.modality and options.audio == "encoder":
        loaded: list[tuple[dict[str, Any], Frames]] = []
        for path, ids in parts:  # of all corpora one encoder: the first one's, unless one is named
            name = options.audio_model or (loaded[0][0]["name"] if loaded else None)
            loaded.append(load_speech(path, options.audio_path, name, ids, missing))
        refuse_other_encoders(options.data_path, [encoder for encoder, _ in loaded])
        speech = SpeechEmbeddings(loaded[0][0], join_frames([frames for _, frames in loaded]))
    elif "audio" in options.modality:
        frames = [load_log_mels(options, path, ids, missing, quiet) for path, ids in parts]
        log_mels = LogMels(join_frames(frames), options.sr)
    speaker = np.array([parse_id(segment).speaker for segment in annotation.ids]) if options.speakers else None
    return Utterances(annotation, log_mels, text, missing, speaker, speech)


def load_text(data_path: Path, text_dim: int, ids: list[str], missing: dict[str, list[str]]) -> Tensor:
    """Sentence embeddings of a corpus, float32, shape = (N, text_dim); zeros without text (see `missing`)."""
    path = data_path / f"embedding_{text_dim}.npy"
    vectors = load_embeddings(path, text_dim)
    keys = [f"{segment}.txt" for segment in ids]
    missing.setdefault("text", []).extend(report_missing(ids, [key not in vectors for key in keys], "text", str(path)))
    zeros = np.zeros(text_dim, dtype=np.float32)
    return torch.from_numpy(np.stack([vectors.get(key, zeros) for key in keys]))


def load_log_mels(
    options: argparse.Namespace, data_path: Path, ids: list[str], missing: dict[str, list[str]], quiet: bool
) -> Frames:
    """Log-mels from a corpus's feature store, or computed for this run; ids without wav go into `missing`."""
    wavs, folder = find_wavs(data_path, options.audio_path)
    wavs = corpus_of(ids[0]).own(wavs)  # a store keeps those of its corpus
    absent = [segment not in wavs for segment in ids]
    report_missing(ids, absent, "wav", folder, warn=False)  # before the minute that log-mels may take
    dtype = getattr(torch, options.feature_dtype)
    if options.no_cache:
        waves = [wavs.get(segment) for segment in ids]
        frames = frames_in_memory(silence(dtype), compute_frames(waves, options.sr, dtype, quiet))
    else:
        frames = open_store(data_path / "features", wavs, ids, options.sr, dtype, quiet=False)
    absent = [gone or number in frames.faults for number, gone in enumerate(absent)]
    first_fault = next(iter(frames.faults.values()), "")
    missing.setdefault("wav", []).extend(report_missing(ids, absent, "wav", folder, first_fault))
    return frames


def load_speech(
    data_path: Path, audio_path: Path | None, name: str | None, ids: list[str], missing: dict[str, list[str]]
) -> tuple[dict[str, Any], Frames]:
    """The encoder `name`, or the only one, and its rows in a corpus's store; ids without wav go into `missing`."""
    wavs, folder = find_wavs(data_path, audio_path)
    encoder, frames = open_frames(data_path / "features", wavs, ids, name)
    absent = [segment not in wavs or number in frames.faults for number, segment in enumerate(ids)]
    found = report_missing(ids, absent, "wav", folder, next(iter(frames.faults.values()), ""))
    missing.setdefault("wav", []).extend(found)
    return encoder, frames


def refuse_other_encoders(data_paths: Sequence[Path], encoders: Sequence[dict[str, Any]]) -> None:
    """Raise `InputError` where the corpora's speech embeddings are of several encoders."""
    for path, encoder in zip(data_paths, encoders, strict=True):
        if encoder != encoders[0]:
            raise InputError(
                f"{path}: its speech embeddings are of {encoder}, those of {data_paths[0]} of {encoders[0]}; one model "
                f"needs those of one encoder: compute them with preprocessing.py --data_path {path} --audio_model "
                f"{encoders[0]['name']}, and name it with --audio_model"
            )


def commonest_label(utterances: Utterances, train_sessions: list[Session], test_sessions: list[Session]) -> int:
    """The commonest majority label of the training sessions; of the tested ones where the corpus has no training."""
    trained = utterances.in_sessions(train_sessions)
    if not len(trained):
        warnings.warn("the corpus has no training session: the majority is that of the tested windows", stacklevel=2)
        trained = utterances.in_sessions(test_sessions)
    return int(utterances.annotation.majority[trained].sum(axis=0).argmax())
