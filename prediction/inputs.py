"""Inputs: the utterances of a dialogue, from a recording with segments, a folder of wavs, or a pre-processed corpus."""

from __future__ import annotations

import re
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile

from corpora.annotation import load_annotation, read_table
from corpora.registry import parse_id
from corpora.transcripts import MAX_TRANSCRIPT_BYTES
from corpora.wavs import find_wavs
from features.embeddings import load_embeddings
from prediction.recording import Clip, Recording
from prediction.segments import order_segments, plain, read_segments, split_name
from prediction.utterance import Utterance
from utils import InputError, decode, read_bounded

SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".w64", ".au", ".opus")


def from_recording(path: Path, segments_path: Path) -> list[Utterance]:
    """The segments of one recording, by their start; see `order_segments` for odd ones."""
    segments = read_segments(segments_path)
    recording = Recording(path)
    return [
        Utterance(Clip(recording, s.start, s.end), s.text, speaker=s.speaker, start=s.start, end=s.end)
        for s in order_segments(segments, recording.duration, str(segments_path))
    ]


def from_segments_alone(segments_path: Path) -> list[Utterance]:
    """The segments of a transcript without its recording, for a model that reads text alone."""
    segments = order_segments(read_segments(segments_path), float("inf"), str(segments_path))
    return [Utterance(None, s.text, speaker=s.speaker, start=s.start, end=s.end) for s in segments]


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts `2.wav` before `10.wav`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def from_folder(folder: Path) -> list[Utterance]:
    """The sound files of a folder in the order of their names (2 before 10); a `.txt` beside each is its text.

    A text such as `[Kim]: word` names the speaker.

    Raises
    ------
    InputError : the folder holds no sound, two of one name, or a transcript that is no text
    """
    files = sorted((p for p in folder.iterdir() if p.suffix.lower() in SOUNDS), key=lambda p: natural_order(p.stem))
    if not files:
        raise InputError(f"{folder}: holds no .wav; expected a folder of utterances, with a .txt beside each")
    if twice := [a.name for a, b in pairwise(files) if a.stem == b.stem]:
        raise InputError(f"{folder}: {twice[0]} is there in two formats; take one of them away")
    if all(parse_id(path.stem) for path in files):
        warnings.warn(
            f"{folder}: these names are segment ids of a corpus, whose order is not that of time, which the model "
            "depends on; for a dialogue of a pre-processed corpus give --dialogue and --data_path",
            stacklevel=2,
        )
    utterances, start = [], 0.0
    for path in files:
        seconds = duration_of(path)
        text = read_text(path.with_suffix(".txt"))
        speaker, text = split_name(text) if text else ("", text)
        if found := parse_id(path.stem):
            speaker = found.speaker
        utterances.append(Utterance(path, text, speaker=speaker, start=start, end=start + seconds, id=path.stem))
        start += seconds
    return utterances


def duration_of(path: Path) -> float:
    """Seconds of a sound file; 0 where it is not readable, which the predictor reports."""
    try:
        return soundfile.info(path).duration
    except (OSError, soundfile.SoundFileError):
        return 0.0


def read_text(path: Path) -> str | None:
    """The text of an utterance on one line; None where there is no file."""
    if not path.is_file():
        return None
    return plain(decode(read_bounded(path, MAX_TRANSCRIPT_BYTES), path))


def from_corpus(
    dialogue: str,
    data_path: Path,
    role: str,
    *,
    text_dim: int | None = None,
    audio: bool = True,
    audio_path: Path | None = None,
) -> list[Utterance]:
    """A dialogue of a pre-processed corpus, in the order of its table.

    Parameters
    ----------
    dialogue : such as `Sess01_script01`
    role : whose table, "speaker" or "listener"
    text_dim : take the embeddings of this length that pre-processing made; None for texts alone
    audio : whether the wavs are needed

    Raises
    ------
    InputError : the corpus cannot be read or has no such dialogue
    """
    annotation = load_annotation(data_path, role)
    rows = [number for number, segment in enumerate(annotation.ids) if parse_id(segment).dialogue == dialogue]
    if not rows:
        names = list(dict.fromkeys(parse_id(segment).dialogue for segment in annotation.ids))
        raise InputError(
            f"--dialogue {dialogue}: {data_path} has none of this name; it has {len(names)}, from {names[0]} to "
            f"{names[-1]}"
        )
    table = read_table(data_path / f"df_{role}.csv").iloc[rows]
    wavs = find_wavs(data_path, audio_path)[0] if audio else {}
    vectors = load_embeddings(data_path / f"embedding_{text_dim}.npy", text_dim) if text_dim else {}
    utterances = []
    for row in table.to_dict("records"):
        segment = row["Segment ID"]
        start, end = (seconds(row.get(name)) for name in ("start", "end"))
        vector: np.ndarray | None = vectors.get(f"{segment}.txt")
        text = None if text_dim and vector is None else row.get("text")
        speaker = parse_id(segment).speaker
        utterances.append(Utterance(wavs.get(segment), text, vector, speaker=speaker, start=start, end=end, id=segment))
    return utterances


def seconds(cell: str | None) -> float | None:
    """A time of an annotation table; None for a blank one."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
