"""Hearing: a dialogue through a speech encoder, a part at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from tqdm import tqdm

from features.speech import DTYPE, SpeechEmbeddings, describe_encoder, embed_batch, make_batches
from features.speech_encoder import SpeechEncoder
from features.store import Rows, frames_in_memory
from prediction.utterance import Utterance

AT_ONCE = 64  # utterances, as in preprocessing


class Hearing(AbstractContextManager):
    """The speech embeddings of a dialogue, in half precision as a corpus's are.

    Only those of one part and the waves of a batch are in memory. What two parts share is computed once.

    Parameters
    ----------
    utterances : of the dialogue
    quiet : without a progress bar
    """

    def __init__(self, encoder: SpeechEncoder, utterances: Sequence[Utterance], quiet: bool) -> None:
        self.encoder, self.utterances = encoder, utterances
        self.rows: dict[int, Rows | None] = {}
        self.bar = tqdm(total=len(utterances), desc="speech embeddings", unit="utterance", disable=quiet)

    def part(self, first: int, end: int) -> SpeechEmbeddings:
        """Embeddings of the utterances from `first` up to `end`; parts are asked for in their order."""
        self.rows = {number: rows for number, rows in self.rows.items() if number >= first}
        todo = {n: self.utterances[n].seconds for n in range(first, end) if n not in self.rows}
        for batch in make_batches(todo, AT_ONCE):
            sounding = {n: self.utterances[n] for n in batch if self.utterances[n].wave is not None}
            pieces = {n: utterance.pieces(self.encoder) for n, utterance in sounding.items()}
            self.rows |= dict.fromkeys(batch) | embed_batch(self.encoder, pieces)
            self.bar.update(len(batch))
        padding = torch.zeros(1, self.encoder.dimension, dtype=DTYPE)
        frames = frames_in_memory(padding, [self.rows[number] for number in range(first, end)])
        return SpeechEmbeddings(describe_encoder(self.encoder), frames)

    def __exit__(self, *_: object) -> None:
        self.bar.close()
