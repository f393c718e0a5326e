"""Transcription: segments of a recording without a transcript, with Whisper in a transformers pipeline.

A recording of any length is read in pieces of at most 30 s, which end at quiet places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tqdm import tqdm

from constants import SAMPLE_RATE
from corpora.wavs import inspect_sound, read_channels, resample
from features.text import loading
from utils import InputError, count, expand_home, first_line, read_json, write_json

WHISPER = "openai/whisper-small"
SEGMENTS = "segments.json"  # beside the predictions
CHANNELS = ("mean", "speakers")
PIECE, SEARCH, FRAME = 30, 10, 0.1  # s: maximum length of a piece, search range for its end, length of a frame
SILENCE = 1e-3  # standard deviation of a piece that is skipped: Whisper invents words in silence
BATCH = 8  # pieces
GREEDY = {"task": "transcribe", "no_speech_threshold": 0.6, "logprob_threshold": -1.0, "temperature": 0.0}  # Whisper's


class Recogniser:
    """A Whisper model from a folder or the Hub, for one language such as `ko`; loaded on first use."""

    def __init__(self, name: str, language: str = "ko", device: torch.device | str = "cpu") -> None:
        self.name, self.language, self.device = expand_home(name), language, torch.device(device)

    @cached_property
    def pipeline(self) -> transformers.Pipeline:
        """The transformers pipeline of the model; raises `InputError` if it cannot be loaded."""
        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        with loading(self.name, "speech recogniser", WHISPER):
            task, settings = "automatic-speech-recognition", {"dtype": dtype, "trust_remote_code": False}
            pipeline = transformers.pipeline(task, self.name, device=self.device, **settings)
            if pipeline.type != "seq2seq_whisper":
                raise ValueError(f"model type is {pipeline.model.config.model_type}, expected whisper")
        return pipeline

    def transcribe(self, path: Path, channel: int | None = None, progress: bool = False) -> list[dict[str, Any]]:
        """Segments (`start` and `end` in s, `text`) of one channel of a recording, or of the mean of all."""
        pieces, segments = self._pieces(path, channel), []
        with tqdm(total=round(inspect_sound(path)[0]), desc="transcribing", unit="s", disable=not progress) as bar:
            while batch := [*islice(pieces, BATCH)]:
                inputs = [{"raw": wave, "sampling_rate": SAMPLE_RATE} for _, wave in batch]
                options = {"batch_size": len(batch), "return_timestamps": True}
                try:
                    found = self.pipeline(inputs, generate_kwargs=GREEDY | {"language": self.language}, **options)
                except (ValueError, KeyError) as error:  # unknown language, or a model without timestamps
                    raise InputError(f"{self.name}, --language {self.language}: {first_line(error)}") from error
                for (start, wave), result in zip(batch, found, strict=True):
                    segments += _segments(result["chunks"], start, start + len(wave) / SAMPLE_RATE)
                bar.update(round(start + len(wave) / SAMPLE_RATE) - bar.n)
        return segments

    def _pieces(self, path: Path, channel: int | None) -> Iterator[tuple[float, np.ndarray]]:
        """Start (s) and samples of each piece that is not silent."""
        start, frame = 0.0, round(FRAME * SAMPLE_RATE)
        while len((read := read_channels(path, start, start + PIECE, channel))[0]):
            wave = resample(np.nan_to_num(read[0], posinf=0, neginf=0), read[1], SAMPLE_RATE)
            if len(wave) >= (PIECE - FRAME) * SAMPLE_RATE:
                loudness = wave[-SEARCH * SAMPLE_RATE :].reshape(-1, frame).std(axis=1)
                wave = wave[: len(wave) - frame * int(loudness[::-1].argmin()) - frame // 2]
            if wave.std() > SILENCE:
                yield start, wave
            start += len(wave) / SAMPLE_RATE


def _segments(chunks: Sequence[dict[str, Any]], start: float, end: float) -> Iterator[dict[str, Any]]:
    """Chunks of a piece from `start` to `end` (s) as segments, without chunks that are empty or after the end."""
    for chunk in chunks:
        text, (first, last) = " ".join(chunk["text"].split()), chunk["timestamp"]
        first = start + (first or 0.0)
        last = min(end, end if last is None else start + last)
        if text.strip("\ufffd .") and first < last:
            yield {"start": round(first, 3), "end": round(last, 3), "text": text}


def transcribe(
    recording: Path, path: Path, recogniser: Recogniser, channels: str = "mean", progress: bool = False
) -> Path:
    """Write the transcript of a recording to `path`, in Whisper's format, or reuse an existing one.

    With `channels` "speakers", each channel is transcribed separately. Raises `InputError` if no speech is found, or
    `path` has another transcript.
    """
    status, name, language = recording.stat(), recogniser.name, recogniser.language
    model = str(Path(name).resolve()) if Path(name).is_dir() else name
    about = {"model": model, "language": language, "channels": channels}
    about |= {"bytes": status.st_size, "changed": status.st_mtime_ns}
    for existing in (path, recording.with_name(f"{recording.resolve().stem}.predictions") / SEGMENTS):
        if existing.exists() and read_json(existing).get("transcribed") == about:
            print(f"{existing}: using this transcript of {name}")
            return existing
    if path.exists():
        other = "transcript of another recording, model, language or --channels"
        raise InputError(f"{path}: {other}; pass it as --segments, delete it, or choose another --out")
    seconds, _, n, _ = inspect_sound(recording)
    if channels == "speakers" and n == 1:
        raise InputError(f"{recording}: one channel; --channels speakers needs one channel per speaker")
    segments = []
    for channel in range(n) if channels == "speakers" else [None]:
        speaker = {} if channel is None else {"speaker": f"channel {channel + 1}"}
        segments += [segment | speaker for segment in recogniser.transcribe(recording, channel, progress)]
    if not segments:
        raise InputError(f"{recording}: {name} found no speech in {seconds:.1f} s of audio (--language {language})")
    segments.sort(key=lambda segment: (segment["start"], segment["end"]))
    content = {"text": " ".join(segment["text"] for segment in segments), "language": language, "transcribed": about}
    write_json(path, content | {"segments": [{"id": i} | segment for i, segment in enumerate(segments)]})
    print(f"{path}: {count(len(segments), 'segment')} by {name}; edit it if needed and pass it as --segments")
    return path
