"""MATE: a CNN over the log-mels of a window's utterances, an LSTM or GRU over the utterances, and two heads.

Layer sizes and parameter names are those of the published program, so that both programs can load the same weights.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from constants import AFFECT_RANGE, N_EMOTIONS, N_MELS, PADDING, SAMPLE_RATE, TEXT_DIM, n_frames

SPEECH_DIM = 256  # size of an utterance's projected speech embedding
SPEAKER_DIM = 16  # size of the speaker embedding


class ConvBlock(nn.Module):
    """2-D convolution (no padding, no bias), batch norm, max pooling by `pool` (1: none), ReLU.

    The published order, ReLU before pooling, gives the same numbers and is slower.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, pool: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu_(F.max_pool2d(x, self.pool) if self.pool > 1 else x)

    def output_size(self, size: int) -> int:
        """Length of an axis of `size` after this block."""
        return (size - self.conv.kernel_size[0] + 1) // self.pool


def mlp(sizes: tuple[int, ...], out_features: int | None = None) -> nn.Sequential:
    """Linear layers with ReLU and batch norm from size to size, then a linear layer if `out_features` is given."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        fc = nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.BatchNorm1d(b))
        layers.append(nn.Sequential(OrderedDict(fc=fc)))  # the published name
    if out_features is not None:
        layers.append(nn.Linear(sizes[-1], out_features))
    return nn.Sequential(*layers)


class SpeechBranch(nn.Module):
    """Embeddings of a speech encoder's layers: standardised, mixed with softmax weights, projected.

    Zeros, which stand for a missing utterance, stay zeros.
    """

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        self.projection = nn.Linear(dim, SPEECH_DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape = (B, ws, layers, dim) -> (B, ws, SPEECH_DIM)."""
        x = F.layer_norm(x, x.shape[-1:])  # the layers' scales differ by orders of magnitude
        return self.projection(torch.einsum("l,bwld->bwd", self.layer_weights.softmax(0), x))


class MATE(nn.Module):
    """Emotion, arousal and valence of the last of `ws` utterances, from their log-mels and sentence embeddings.

    The keywords are the options of main.py; `concat` is the opposite of `--no_concat`, `speech_shape` is (layers,
    dimension) of a speech encoder's embeddings. Backbone parameters are named after the backbone
    (`lstm.weight_ih_l0`, ...). An unused modality has no parameters. `sr` sets the number of frames of a log-mel.
    """

    @staticmethod
    def architecture(options: argparse.Namespace | Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of this class for the options of a run and the `data` of its record (shapes of embeddings)."""
        options = vars(options) if isinstance(options, argparse.Namespace) else options
        same = ("backbone", "hidden_size", "num_layers", "bidirectional", "ws", "sr", "modality", "audio", "speakers")
        keywords = {name: options[name] for name in same} | {"concat": not options["no_concat"]}
        (keywords["text_dim"],) = data.get("text_shape", [options["text_dim"]])
        keywords["speech_shape"] = data.get("speech_shape")
        return keywords

    @classmethod
    def from_options(cls, options: argparse.Namespace | Mapping[str, Any], data: Mapping[str, Any]) -> MATE:
        """The model of a run (see `architecture`), with random weights from torch's global generator."""
        return cls(**cls.architecture(options, data))

    def __init__(  # noqa: PLR0913 (one keyword per option)
        self,
        backbone: str = "lstm",
        hidden_size: int = 512,
        num_layers: int = 4,
        bidirectional: bool = False,
        text_dim: int = TEXT_DIM,
        ws: int = 8,
        sr: int = SAMPLE_RATE,
        concat: bool = True,
        modality: str = "audio_text",
        audio: str = "cnn",
        speech_shape: Sequence[int] | None = None,
        speakers: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.concat, self.audio, self.ws = backbone, concat, audio, ws
        self.text_dim, self.speech_shape = text_dim, speech_shape
        self.uses_audio, self.uses_text = "audio" in modality, "text" in modality
        utterance_dim = text_dim if self.uses_text else 0
        if self.uses_audio and audio == "encoder":
            self.speech_branch = SpeechBranch(*speech_shape)
            utterance_dim += SPEECH_DIM
        elif self.uses_audio:
            # One input and one output channel per utterance: (B, ws, 229, 313) -> (B, ws, 24, 34) at 16 kHz
            self.audio_embedding = nn.Sequential(
                ConvBlock(ws, 32, kernel=3, pool=1),
                ConvBlock(32, 48, kernel=3, pool=2),
                ConvBlock(48, 32, kernel=5, pool=2),
                ConvBlock(32, ws, kernel=7, pool=2),
            )
            mels, frames = N_MELS, n_frames(sr)
            for block in self.audio_embedding:
                mels, frames = block.output_size(mels), block.output_size(frames)
            utterance_dim += mels * frames
        self.uses_speakers = speakers
        if speakers:
            self.speaker_embedding = nn.Embedding(3, SPEAKER_DIM, padding_idx=PADDING)
            utterance_dim += SPEAKER_DIM
        recurrent = {"lstm": nn.LSTM, "gru": nn.GRU}[backbone]
        rnn = recurrent(utterance_dim, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional)
        self.add_module(backbone, rnn)
        context_dim = ws * hidden_size * (2 if bidirectional else 1)
        affect_dim = 512 + (N_EMOTIONS if concat else 0)
        self.mlp_emotion = mlp((context_dim, 2048, 512, 256, 64), N_EMOTIONS)
        self.mlp_av = mlp((context_dim, 2048, 1024, 512))
        self.mlp_arousal = mlp((affect_dim, 128, 32), 1)
        self.mlp_valence = mlp((affect_dim, 128, 32), 1)

    def forward(
        self, audio: Tensor | None, text: Tensor | None, log: bool = False, speakers: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions for the last utterance of each window.

        Parameters
        ----------
        audio : float tensor, shape = (B, ws, 229, frames) or (B, ws, 1, 229, frames), with an encoder (B, ws, layers,
            dim); ignored by a text-only model
        text : float tensor, shape = (B, ws, text_dim) or (B, ws, 1, text_dim); ignored by an audio-only model
        log : return log-probabilities (always finite), for the losses
        speakers : int64, shape = (B, ws): PADDING, SAME_SPEAKER or OTHER_SPEAKER; ignored by a model without speakers

        Returns
        -------
        emotion : shape = (B, 7), (log-)probabilities in the order of `constants.EMOTIONS`
        arousal, valence : shape = (B, 1), from 1 to 5
        """
        utterances = []
        if self.uses_audio:
            audio = audio.reshape(audio.shape[0], audio.shape[1], *audio.shape[-2:])
            branch = self.speech_branch if self.audio == "encoder" else self.audio_embedding
            embedding = branch(audio).flatten(2)
            utterances.append(embedding.to(torch.promote_types(embedding.dtype, torch.float32)))
        if self.uses_text:
            utterances.append(text.reshape(text.shape[0], text.shape[1], text.shape[-1]))
        if self.uses_speakers:
            utterances.append(self.speaker_embedding(speakers))
        # bfloat16 is used for convolutions (90% of the work); it is too coarse for probabilities and ratings
        with torch.autocast(utterances[0].device.type, enabled=False):
            context = self.recur(torch.cat(utterances, dim=2)).flatten(1)
            log_emotion = torch.log_softmax(self.mlp_emotion(context), dim=1)
            affect = self.mlp_av(context)
            if self.concat:
                affect = torch.cat([affect, log_emotion.exp()], dim=1)
            low, high = AFFECT_RANGE
            arousal = (high - low) * torch.sigmoid(self.mlp_arousal(affect)) + low
            valence = (high - low) * torch.sigmoid(self.mlp_valence(affect)) + low
        return (log_emotion if log else log_emotion.exp()), arousal, valence

    def recur(self, utterances: Tensor) -> Tensor:
        """The outputs of the LSTM or GRU, shape = (B, ws, utterance_dim) -> (B, ws, hidden_size).

        On a CPU the sequence is packed, so that torch does not use oneDNN: a signal during oneDNN's LSTM corrupts
        memory (torch 2.11, seen on CPUs with AVX-512). The speed is the same.
        """
        rnn, (n, ws, _) = getattr(self, self.backbone), utterances.shape
        if utterances.device.type != "cpu":
            return rnn(utterances)[0]
        packed = PackedSequence(utterances.transpose(0, 1).flatten(0, 1), torch.full((ws,), n))
        return rnn(packed)[0].data.unflatten(0, (ws, n)).transpose(0, 1)
