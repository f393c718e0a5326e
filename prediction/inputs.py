"""Inputs: the utterances of a dialogue, from a recording with segments, a folder of wavs, or a preprocessed corpus."""

from __future__ import annotations

import contextlib
import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from constants import SAMPLE_RATE
from corpora.corpus import corpus_of_id
from corpora.utterances import read_utterances
from corpora.wavs import find_wavs, inspect_sound, read_part, read_wav, resample, samples_fault, stem
from prediction.segments import fit_to_recording, name_speakers, read_segments
from utils import InputError, count, decode

SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".w64", ".au", ".opus")
SOUNDS += (".m4a", ".aac", ".mp4", ".webm", ".amr", ".3gp", ".mov", ".mkv", ".caf", ".wma")


@dataclass(frozen=True)
class Utterance:
    """An utterance of a dialogue. A missing input (None) of the model is replaced by zeros.

    wave : path of an audio file of this utterance, or float samples in [-1, 1] at 16 kHz, shape = (samples,)
    text : its transcript, with or without the corpus's markup
    speaker : any name; a run with --speakers compares the names within a dialogue
    start, end : s; with `recording`, the part of the recording; otherwise only written to the output
    recording : path of a recording of the whole dialogue, instead of `wave`
    channel : channel of the recording with this speaker, from 0; None for the mean of all channels
    embedding : text embedding, float32, shape = (text_dim,), instead of `text`
    id : its name in predictions.csv
    """

    wave: Path | str | np.ndarray | None = None
    text: str | None = None
    speaker: str = ""
    start: float | None = None
    end: float | None = None
    recording: Path | str | None = None
    channel: int | None = None
    embedding: np.ndarray | None = None
    id: str = ""

    def __post_init__(self) -> None:
        """Raise `InputError` if a field has another type, such as a list of samples."""
        path, kinds = str | os.PathLike, {"text": str, "speaker": str, "embedding": np.ndarray}
        for name, kind in {"wave": path | np.ndarray, "recording": path, **kinds}.items():
            value, expected = getattr(self, name), f"{self.__annotations__[name]}; arrays: floats, shape (n,)"
            is_vector = not isinstance(value, np.ndarray) or (value.ndim == 1 and value.dtype.kind == "f")
            if value is not None and not (isinstance(value, kind) and is_vector):
                raise InputError(f"utterance {self.id}: {name} {value!r:.60}, expected {expected}")
        if self.recording is not None and not (None not in (self.start, self.end) and 0 <= self.start < self.end):
            raise InputError(f"utterance {self.id}: recording {self.recording} from {self.start} to {self.end} s")

    def read(self, sr: int) -> np.ndarray:
        """The samples as mono float32 at `sr` Hz, shape = (samples,); `InputError` if there is no usable audio."""
        if self.recording is not None:
            return read_part(Path(self.recording), self.start, self.end, sr, self.channel)
        if isinstance(self.wave, np.ndarray):
            if fault := samples_fault(self.wave, SAMPLE_RATE):
                raise InputError(f"utterance {self.id}: {fault}")
            return resample(self.wave.astype(np.float32)[:, None], SAMPLE_RATE, sr)
        if self.wave is None:
            raise InputError(f"utterance {self.id} has no audio; set wave, or recording, start and end")
        return read_wav(Path(self.wave), sr)


def recording_length(recording: Path, speakers: bool = False) -> float:
    """The length of a recording (s) according to its header; warns if less can be read, or its channels differ.

    Segments in an unreadable part keep their texts. With `speakers`, channels are expected to differ.
    """
    seconds, announced, _, differ = inspect_sound(recording)
    if seconds < announced:
        warnings.warn(f"{recording}: {seconds:.2f} of {announced:.2f} s can be read; is it complete?", stacklevel=2)
    if differ and not speakers:
        warn_of_channels([recording], "; for one speaker per channel, use --transcribe --channels speakers")
    return announced


def from_segments(segments_path: Path, recording: Path | None = None, speakers: bool = False) -> list[Utterance]:
    """The segments of a transcript in time order; without a recording, for a model that only uses text.

    With `speakers`, the audio of a segment of the speaker "channel 1" is the first channel.
    """
    duration = recording_length(recording, speakers) if recording else math.inf
    segments = read_segments(segments_path, duration)
    segments = fit_to_recording(segments, duration, f"{segments_path} of {recording}" if recording else segments_path)
    name = (recording or segments_path).stem
    utterances = []
    for s in segments.itertuples():
        number = re.fullmatch(r"channel ([1-9]\d?)", s.speaker) if speakers else None
        channel, identifier = int(number[1]) - 1 if number else None, f"{name}_{s.Index + 1:04}"
        place = (s.start, s.end, recording, channel)
        utterances.append(Utterance(None, s.text or None, s.speaker, *place, id=identifier))
    return utterances


def from_folder(folder: Path) -> list[Utterance]:
    """The audio files of a folder in the order of their names (2 before 10), with the text of each in a `.txt`.

    A text such as `[Kim]: word` names the speaker. Of several formats of one name, the first in `SOUNDS` is used.
    Files whose names begin with a dot are skipped; other files that are not used are named in a warning.
    """
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    sounds = [path for path in entries if path.suffix.lower() in SOUNDS and not path.is_dir()]
    sounds.sort(key=lambda path: SOUNDS.index(path.suffix.lower()), reverse=True)
    files = {stem(path): path for path in sounds}
    texts = {stem(path): path for path in entries if path.suffix.lower() == ".txt" and stem(path) in files}
    if left := [path.name for path in entries if path not in {*files.values(), *texts.values()}]:
        what = f"{count(len(left), 'file')} ignored: {', '.join(left[:5])}"
        warnings.warn(f"{folder}: {what}; expected one audio file per utterance and its .txt", stacklevel=2)
    if not files:
        raise InputError(f"{folder}: no audio file ({', '.join(SOUNDS)}); expected one per utterance")
    if all(map(corpus_of_id, files)):
        warnings.warn(f"{folder}: files named by corpus ids are not in time order; use --dialogue", stacklevel=2)
    names = sorted(files, key=lambda name: re.sub(r"\d+", lambda number: number[0].zfill(20), name))
    texts = [decode(texts[name].read_bytes(), texts[name]) if name in texts else None for name in names]
    named = name_speakers([None] * len(texts), texts)
    utterances, differing, end = [], [], 0.0
    for name, text, (speaker, words) in zip(names, texts, named, strict=True):
        start, path = end, files[name]
        with contextlib.suppress(InputError):  # reported by the predictor
            seconds, _, _, differ = inspect_sound(path)
            end += seconds
            differing += [path] * differ
        utterances.append(Utterance(path, None if text is None else words, speaker, start, end, id=name))
    if differing:
        warn_of_channels(differing)
    return utterances


def warn_of_channels(paths: Sequence[Path], advice: str = "") -> None:
    """Warn of audio files whose channels differ."""
    what = "with differing channels, whose mean is used; first:"
    warnings.warn(f"{count(len(paths), 'file')} {what} {paths[0]}{advice}", stacklevel=3)


def from_corpus(
    dialogue: str, data_path: Path, role: str, audio_path: Path | None = None
) -> tuple[pd.DataFrame, list[Utterance]]:
    """The rows of a dialogue in the table of `role` of a preprocessed corpus, and their utterances."""
    table = read_utterances(data_path, role)
    rows = table[table["dialogue"] == dialogue].reset_index(drop=True)
    if rows.empty:
        first, last = table["dialogue"].iloc[[0, -1]]
        raise InputError(f"--dialogue {dialogue}: not in {data_path}, which has the dialogues {first} to {last}")
    wavs = find_wavs(data_path, audio_path)
    return rows, [Utterance(wavs.get(row.id), row.text or None, row.speaker, id=row.id) for row in rows.itertuples()]
