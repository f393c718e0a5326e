"""Utterance: what somebody says in a dialogue, as sound, as text or as both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from constants import SAMPLE_RATE
from corpora.wavs import MAX_WAV_SECONDS, to_mono
from features.speech import duration, read_pieces
from features.speech_encoder import Piece, SpeechEncoder
from prediction.recording import Clip
from utils import InputError


@dataclass(frozen=True)
class Utterance:
    """An utterance of a dialogue. What the model does not read may be None; what is None though it reads it is zeros.

    wave : path of a wav of any rate, samples (float in [-1, 1] at 16 kHz, shape = (samples,)), or part of a recording
    text : as it was transcribed, with the corpus's markup or without
    embedding : of the text, float32, shape = (text_dim,), if it is known
    speaker : any name; runs with --speakers need to tell apart the speakers of a dialogue
    start, end : s, for the table and the page alone
    id : segment id, where it has one

    Raises
    ------
    InputError : samples of several channels, or integers
    """

    wave: Path | str | np.ndarray | Clip | None = None
    text: str | None = None
    embedding: np.ndarray | None = None
    speaker: str = ""
    start: float | None = None
    end: float | None = None
    id: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.wave, str):
            object.__setattr__(self, "wave", Path(self.wave))
        if isinstance(self.wave, np.ndarray) and (self.wave.ndim != 1 or self.wave.dtype.kind != "f"):
            raise InputError(
                f"samples of shape {self.wave.shape} and type {self.wave.dtype}, expected one channel of floats from "
                "-1 to 1 at 16 kHz; or give the path of the wav"
            )

    @property
    def seconds(self) -> float:
        """Of its sound; 0 where there is none, or none that can be read."""
        if isinstance(self.wave, Clip):
            return self.wave.end - self.wave.start
        if isinstance(self.wave, np.ndarray):
            return len(self.wave) / SAMPLE_RATE
        return 0.0 if self.wave is None else duration(self.wave)

    def sound(self, sr: int) -> Path | np.ndarray | None:
        """What `LogMels` computes with at `sr` Hz: of a clip no more than it needs."""
        if isinstance(self.wave, Clip):
            return self.wave.read(sr)
        if isinstance(self.wave, np.ndarray) and sr != SAMPLE_RATE:
            return to_mono(self.wave[:, None], SAMPLE_RATE, sr)
        return self.wave

    def pieces(self, encoder: SpeechEncoder) -> list[Piece] | InputError:
        """What a speech encoder takes of its sound, however long that is; or why its wav cannot be used."""
        if isinstance(self.wave, Clip):
            return encoder.pieces(self.wave.read(encoder.rate, MAX_WAV_SECONDS))
        wave = self.sound(encoder.rate)
        return read_pieces(encoder, wave) if isinstance(wave, Path) else encoder.pieces(wave)
