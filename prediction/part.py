"""Part: some utterances of a dialogue, with the features that trained runs read of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from corpora.annotation import Annotation
from dataset import Utterances, WindowDataset
from features.log_mel import LogMels
from features.speech import SpeechEmbeddings
from prediction.runs import LoadedRun
from prediction.utterance import Utterance


class Part:
    """Some utterances of a dialogue that follow one another, with the features that the runs read of them.

    Parameters
    ----------
    first : number in the dialogue of the first of `utterances`
    targets : how many of the last ones are predicted; those before them are for their windows
    text : sentence embeddings, shape = (len(utterances), text_dim)
    speech : embeddings of a speech encoder

    Attributes
    ----------
    faults : why a wav cannot be used, by the utterance's number in the dialogue
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        first: int,
        targets: int,
        text: torch.Tensor | None,
        speech: SpeechEmbeddings | None,
    ) -> None:
        self.utterances, self.first, self.targets, self.text, self.speech = utterances, first, targets, text, speech
        self.log_mels: dict[tuple[int, str], LogMels] = {}  # those of several runs are mostly the same
        self.faults: dict[int, str] = {}
        if speech is not None:
            self.note(speech.faults)

    def note(self, faults: Mapping[int, str]) -> None:
        """Add faults by the number in this part."""
        self.faults |= {self.first + number: fault for number, fault in faults.items()}

    def log_mels_of(self, options: argparse.Namespace) -> LogMels:
        """Log-mels as a run was trained with."""
        kind = options.sr, options.feature_dtype
        if kind not in self.log_mels:
            waves = [utterance.sound(options.sr) for utterance in self.utterances]
            self.log_mels[kind] = LogMels.from_waves(waves, options.sr, getattr(torch, options.feature_dtype))
            self.note(self.log_mels[kind].faults)
        return self.log_mels[kind]

    def windows(self, run: LoadedRun, device: torch.device) -> WindowDataset:
        """The windows of the targets, with the inputs of a run."""
        numbers = np.zeros(len(self.utterances), dtype=np.int64)
        ids = [str(self.first + number) for number in range(len(numbers))]
        inputs = Utterances(
            Annotation(ids, numbers, numbers),
            self.log_mels_of(run.options) if run.reads_audio and not run.reads_speech else None,
            self.text if run.reads_text else None,
            speaker=np.array([u.speaker for u in self.utterances]) if run.options.speakers else None,
            speech=self.speech if run.reads_speech else None,
        )
        return WindowDataset(inputs.to(device), np.arange(len(numbers))[-self.targets :], run.options.ws)
