"""Inputs: the utterances of a dialogue, from a recording with segments, a folder of wavs, or a pre-processed corpus."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import soundfile

from constants import SAMPLE_RATE
from corpora.corpus import corpus_of_id
from corpora.utterances import read_utterances
from corpora.wavs import find_wavs, read_wav, resample
from features.embeddings import load_embeddings
from prediction.segments import fit_to_recording, name_speakers, read_segments
from utils import InputError, decode

SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".w64", ".au", ".opus")


@dataclass(frozen=True)
class Utterance:
    """An utterance of a dialogue. An input that the model reads and that is None is replaced by zeros.

    wave : path of a sound file of the utterance alone, or float samples in [-1, 1] at 16 kHz, shape = (samples,)
    text : its transcript, with the corpus's markup or without
    speaker : any name; a run with --speakers compares the names within a dialogue
    start, end : s; with `recording` they say which part of it is the utterance, otherwise they are for the output alone
    recording : path of a recording of the whole dialogue, in place of `wave`
    embedding : of the text, float32, shape = (text_dim,), in place of `text`
    id : its name in predictions.csv
    """

    wave: Path | str | np.ndarray | None = None
    text: str | None = None
    speaker: str = ""
    start: float | None = None
    end: float | None = None
    recording: Path | str | None = None
    embedding: np.ndarray | None = None
    id: str = ""

    def read(self, sr: int) -> np.ndarray:
        """Its samples as mono float32 at `sr` Hz, shape = (samples,); raises `InputError` where there are none."""
        if self.recording is not None:
            return read_part(Path(self.recording), self.start, self.end, sr)
        if isinstance(self.wave, np.ndarray):
            return librosa.resample(self.wave, orig_sr=SAMPLE_RATE, target_sr=sr)  # which refuses what is no sound
        if self.wave is None:
            raise InputError(f"utterance {self.id} has no audio; give its wav, or a recording with segments")
        return read_wav(Path(self.wave), sr)


def read_part(path: Path, start: float, end: float, sr: int) -> np.ndarray:
    """The samples from `start` to `end` (s) of a recording, as `read_wav` gives them of a wav of that part."""
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            first = file.seek(round(start * rate))
            wave = file.read(round(end * rate) - first, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise InputError(f"{path}: not readable from {start:.2f} to {end:.2f} s ({error})") from error
    if len(wave) == 0 or not np.isfinite(wave).all():
        raise InputError(f"{path}: no sound, or no numbers, from {start:.2f} to {end:.2f} s; is the file whole?")
    return resample(wave, rate, sr)


def recording_length(recording: Path) -> float:
    """The length of a recording (s); raises `InputError` where it cannot be read."""
    try:
        return soundfile.info(recording).duration
    except soundfile.SoundFileError as error:
        raise InputError(f"{recording}: not readable as sound ({error}); expected WAV, FLAC, OGG or MP3") from error


def from_segments(segments_path: Path, recording: Path | None = None) -> list[Utterance]:
    """The segments of a transcript in the order of time; without a recording for a model that reads text alone."""
    duration = recording_length(recording) if recording else math.inf
    segments = read_segments(segments_path, duration)
    segments = fit_to_recording(segments, duration, f"{segments_path} of {recording}" if recording else segments_path)
    stem = (recording or segments_path).stem
    return [
        Utterance(None, s.text or None, s.speaker, s.start, s.end, recording, id=f"{stem}_{s.Index + 1:04}")
        for s in segments.itertuples()
    ]


def from_folder(folder: Path) -> list[Utterance]:
    """The sound files of a folder in the order of their names (2 before 10); a `.txt` beside each is its text.

    Texts such as `[Kim]: word` name the speaker. Of several formats of one name the last is read, such as the wav.
    """
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SOUNDS}
    if not files:
        raise InputError(f"{folder}: holds no .wav; expected a folder of utterances, with a .txt beside each")
    if all(map(corpus_of_id, files)):
        warnings.warn(f"{folder}: ids of a corpus are not in the order of time; use --dialogue", stacklevel=2)
    names = sorted(files, key=lambda name: re.sub(r"\d+", lambda number: number[0].zfill(20), name))
    transcripts = [files[name].with_suffix(".txt") for name in names]
    texts = [decode(path.read_bytes(), path) if path.is_file() else None for path in transcripts]
    said = name_speakers([None] * len(texts), texts)
    utterances, end = [], 0.0
    for name, text, (speaker, words) in zip(names, texts, said, strict=True):
        start = end
        with contextlib.suppress(soundfile.SoundFileError):  # which the predictor reports
            end += soundfile.info(files[name]).duration
        utterances.append(Utterance(files[name], None if text is None else words, speaker, start, end, id=name))
    return utterances


def from_corpus(
    dialogue: str, data_path: Path, role: str, text_dim: int | None, audio_path: Path | None = None
) -> tuple[pd.DataFrame, list[Utterance]]:
    """The rows of a dialogue in a pre-processed corpus, in the order of the table of `role`, and their utterances.

    These have the sentence embeddings of length `text_dim` that pre-processing made; for None the texts.
    """
    table = read_utterances(data_path, role)
    rows = table[table["dialogue"] == dialogue].reset_index(drop=True)
    if rows.empty:
        first, last = table["dialogue"].iloc[[0, -1]]
        raise InputError(f"--dialogue {dialogue}: not in {data_path}, whose dialogues are {first} to {last}")
    wavs = find_wavs(data_path, audio_path)
    vectors = load_embeddings(data_path / f"embedding_{text_dim}.npy", text_dim) if text_dim else {}
    utterances = []
    for row in rows.itertuples():
        text = None if text_dim else row.text or None
        embedding = vectors.get(f"{row.id}.txt")
        utterances.append(Utterance(wavs.get(row.id), text, row.speaker, embedding=embedding, id=row.id))
    return rows, utterances
