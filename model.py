"""MATE: a CNN over the log-mels of a window's utterances, an LSTM or GRU over utterances, emotion and affect heads.

Layer sizes and parameter names are the published program's, so that its weights load here and ours load there.
"""

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from constants import AFFECT_RANGE, BACKBONES, MODALITIES, N_EMOTIONS, N_MELS, SAMPLE_RATE, TEXT_DIM, n_frames

CHUNK_BYTES = 16 << 20  # glibc takes tensors over 32 MB from the system, page by page, and gives them back after use


class Normalised:
    """Batch norm of `x` with given statistics, and ReLU: computed for the forward step and again for the backward one.

    To keep the values for so long would take a quarter of the memory of a training step.
    """

    def __init__(self, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
        self.arguments, self.eps = (x, mean, variance, weight, bias), eps
        self.value: Tensor | None = None

    def compute(self) -> Tensor:
        return F.relu_(F.batch_norm(*self.arguments, eps=self.eps))

    def again(self) -> Tensor:
        """The values for the backward step, which wants them twice."""
        if self.value is None:
            self.value = self.compute()
        return self.value


class Chunk(NamedTuple):
    """The activations of a few windows of a batch, and what they are computed again by, if they are not an input."""

    values: Tensor
    normalised: Normalised | None = None


class _NormPool(torch.autograd.Function):
    """Batch norm over the values of all chunks of a batch, then max pooling and ReLU of each, on a CPU.

    As torch's own layers, with less memory, which is what costs time on a CPU: values are pooled first (the largest of
    them is the largest normalised one, or, where the weight is negative, the smallest), so that normalised ones exist
    for the pooled alone, and those and the places of the maxima are found again in the backward step.
    """

    @staticmethod
    def forward(
        ctx, weight: Tensor, bias: Tensor, eps: float, pool: int, normalised: list[Normalised], *chunks: Tensor
    ) -> tuple[Tensor, ...]:
        """The mean and the biased variance of each channel, and the chunks' outputs, added to `normalised`."""
        parts = [mean_and_variance(x) for x in chunks]
        share = torch.tensor([len(x) for x in chunks], dtype=torch.float64)[:, None] / sum(map(len, chunks))
        means, variances = (torch.stack(values) for values in zip(*parts, strict=True))
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean) ** 2)).sum(0).to(weight.dtype)
        mean = mean.to(weight.dtype)
        pooled = [largest(x, pool, weight)[0] for x in chunks] if pool > 1 else chunks
        normalised += [Normalised(p.detach(), mean, variance, weight.detach(), bias.detach(), eps) for p in pooled]
        ctx.save_for_backward(weight, bias, mean, variance, *chunks, *pooled)
        ctx.eps, ctx.pool, ctx.normalised = eps, pool, normalised
        ctx.mark_non_differentiable(mean, variance)
        return mean, variance, *(one.compute() for one in normalised)

    @staticmethod
    def backward(ctx, _mean: None, _variance: None, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """For a gradient g of the normalised values x' = (x - mean) / std, weight / std (g - mean(g) - x' mean(g x')).

        g is 0 but for maxima, so the two means are had from the pooled values. g takes the place of the output, which
        the next convolution is done with, and the gradient of an input that of the input, so that a graph can be gone
        back through once.
        """
        weight, _bias, mean, variance, *saved = ctx.saved_tensors  # with torch's check that none has changed
        chunks, pooled = saved[: len(grads)], saved[len(grads) :]
        gradients = []  # g
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)  # sums of g x' and of g
        for grad, p, normalised in zip(grads, pooled, ctx.normalised, strict=True):
            output = normalised.again()
            g = torch.ops.aten.threshold_backward.grad_input(grad, output, 0, grad_input=output)
            _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                g, p, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
            gradients.append(g)
            grad_weight += of_weight
            grad_bias += of_bias
        ctx.normalised.clear()
        n = sum(x.numel() for x in chunks) // len(weight)
        scale = -weight * torch.rsqrt(variance + ctx.eps) / n
        zero = torch.zeros_like(mean)
        for x, grad in zip(chunks, gradients, strict=True):
            normalise_(grad, zero, variance, weight, zero, ctx.eps)  # weight / std g
            if ctx.pool > 1:
                size = [ctx.pool, ctx.pool]
                _, places = largest(x, ctx.pool, weight)
                grad = torch.ops.aten.max_pool2d_with_indices_backward(
                    grad, x, size, size, [0, 0], [1, 1], False, places
                )
            # In the place of x, which nothing else reads: 0.6 GB less at batch 64 in bfloat16
            normalise_(x, mean, variance, scale * grad_weight, scale * grad_bias, ctx.eps)
            x.add_(grad)
        return grad_weight, grad_bias, None, None, None, *chunks


def normalise_(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """Batch norm with these statistics, in the place of `x`."""
    unused = torch.empty(0)
    torch.ops.aten.native_batch_norm.out(
        x, weight, bias, mean, variance, False, 0.0, eps, out=x, save_mean=unused, save_invstd=unused
    )


def largest(x: Tensor, pool: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The values of `x` that are the largest of `pool` x `pool` once normalised, and their places as torch counts."""
    if (weight >= 0).all():
        return F.max_pool2d_with_indices(x, pool)
    sign = torch.where(weight < 0, -1, 1).to(x.dtype)[:, None, None]
    values, places = F.max_pool2d_with_indices(x * sign, pool)
    return values * sign, places


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, float64, shape = (B, C, H, W) -> (C,), accurate to float32.

    On a CPU torch 2.11's own batch norm sums a channels-last tensor value by value in float32: over the 1.1 million
    values a channel of 16 windows its output is off by 6e-4, against 6e-7 with these.
    """
    # The type of the running statistics that it is given, and does not change, is that of its answer
    unused = torch.zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    mean, variance = torch.ops.aten.batch_norm_update_stats(x, unused, unused, 0.0)
    return mean.double(), variance.double()


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

    def train_chunks(self, chunks: list[Chunk]) -> list[Chunk]:
        """What `forward` gives in training for the batch that `chunks` are, in chunks; empties `chunks`."""
        convolved = []
        while chunks:  # each is given back as soon as it is used
            convolved.append(self.convolve(*chunks.pop(0)))
        normalised: list[Normalised] = []
        norm = self.bn.weight, self.bn.bias, self.bn.eps
        mean, variance, *outputs = _NormPool.apply(*norm, self.pool, normalised, *convolved)
        with torch.no_grad():
            n = sum(x.numel() for x in convolved) // len(mean)
            self.bn.running_mean.lerp_(mean, self.bn.momentum)
            self.bn.running_var.lerp_(variance * (n / (n - 1)), self.bn.momentum)
            self.bn.num_batches_tracked += 1
        return [Chunk(*both) for both in zip(outputs, normalised, strict=True)]

    def convolve(self, x: Tensor, normalised: Normalised | None) -> Tensor:
        """The convolution of `x`, which is not kept for the backward step if it can be computed again."""
        if normalised is None:
            return self.conv(x)
        address = x.data_ptr()

        def keep(tensor: Tensor) -> Tensor | Normalised:
            return normalised if tensor.data_ptr() == address else tensor

        def take(kept: Tensor | Normalised) -> Tensor:
            return kept.again() if isinstance(kept, Normalised) else kept

        with torch.autograd.graph.saved_tensors_hooks(keep, take):
            return self.conv(x)

    def output_size(self, size: int) -> int:
        """Length of an axis of `size` after this block."""
        return (size - self.conv.kernel_size[0] + 1) // self.pool


class CNN(nn.Sequential):
    """`ConvBlock`s over the log-mels of windows, shape = (B, ws, 229, frames).

    On a CPU a few windows at a time, so that no tensor is larger than what the allocator keeps for the next one; the
    statistics of batch norm are those of the whole batch all the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        chunks = x.split(self.windows_at_once(x))
        if not self.training:
            return torch.cat([super(CNN, self).forward(chunk) for chunk in chunks])
        chunks = [Chunk(chunk) for chunk in chunks]
        for block in self:
            chunks = block.train_chunks(chunks)
        return torch.cat([chunk.values for chunk in chunks])

    def windows_at_once(self, x: Tensor) -> int:
        """How many windows' largest tensor takes at most `CHUNK_BYTES`, and at least one."""
        largest = x[0, 0].numel() * max(block.conv.out_channels for block in self)
        half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        return max(1, CHUNK_BYTES // (largest * (2 if half else x.element_size())))


class LinearBlock(nn.Module):
    """Linear layer, ReLU, batch norm."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(in_features, out_features), nn.ReLU(), nn.BatchNorm1d(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def mlp(sizes: tuple[int, ...], out_features: int | None = None) -> nn.Sequential:
    """`LinearBlock`s from size to size, and a plain linear layer to `out_features` if that is given."""
    layers = [LinearBlock(a, b) for a, b in pairwise(sizes)]
    if out_features is not None:
        layers.append(nn.Linear(sizes[-1], out_features))
    return nn.Sequential(*layers)


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, in float32 if autocast made it bfloat16: too coarse for probabilities and ratings."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    """Have torch compute with its own kernels instead of oneDNN's.

    A signal that is handled while oneDNN's LSTM computes damages the memory (torch 2.11, seen on a CPU with AMX): a run
    that is told to stop could save wrong weights. Its own LSTM takes as long.
    """
    previous = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = previous


class MATE(nn.Module):
    """Emotion, arousal and valence of the last of `ws` utterances, from their log-mels and sentence embeddings.

    Parameters
    ----------
    backbone : "lstm" or "gru"; its parameters are named after it (`lstm.weight_ih_l0`, ...)
    hidden_size, num_layers, bidirectional : of the backbone
    text_dim : size of a sentence embedding
    ws : utterances in a window
    sr : sampling rate in Hz of the audio behind the log-mels; it sets their number of frames
    concat : feed the emotion probabilities to the arousal and valence regressors
    modality : "audio_text", "audio" or "text"; what is left out has no parameters either

    Raises
    ------
    ValueError : an unknown backbone or modality, or audio of so low a rate that the convolutions leave no frame
    """

    def __init__(
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
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone {backbone!r}: expected one of {', '.join(BACKBONES)}")
        if modality not in MODALITIES:
            raise ValueError(f"modality {modality!r}: expected one of {', '.join(MODALITIES)}")
        self.backbone, self.concat, self.uses_audio, self.uses_text = (
            backbone,
            concat,
            "audio" in modality,
            "text" in modality,
        )
        utterance_dim = text_dim if self.uses_text else 0
        if self.uses_audio:
            # One input and one output channel an utterance: (B, ws, 229, 313) -> (B, ws, 24, 34) at 16 kHz.
            self.audio_embedding = CNN(
                ConvBlock(ws, 32, kernel=3, pool=1),
                ConvBlock(32, 48, kernel=3, pool=2),
                ConvBlock(48, 32, kernel=5, pool=2),
                ConvBlock(32, ws, kernel=7, pool=2),
            )
            mels, frames = N_MELS, n_frames(sr)
            for block in self.audio_embedding:
                mels, frames = block.output_size(mels), block.output_size(frames)
            if frames < 1:
                raise ValueError(f"sr {sr}: 10 s give {n_frames(sr)} frames, too few for the convolutions")
            utterance_dim += mels * frames
        rnn = getattr(nn, backbone.upper())(
            utterance_dim, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional
        )
        self.add_module(backbone, rnn)
        context_dim = ws * hidden_size * (2 if bidirectional else 1)
        affect_dim = 512 + (N_EMOTIONS if concat else 0)
        self.mlp_emotion = mlp((context_dim, 2048, 512, 256, 64), N_EMOTIONS)
        self.mlp_av = mlp((context_dim, 2048, 1024, 512))
        self.mlp_arousal = mlp((affect_dim, 128, 32), 1)
        self.mlp_valence = mlp((affect_dim, 128, 32), 1)

    def forward(self, audio: Tensor | None, text: Tensor | None, log: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions for the last utterance of each window.

        Parameters
        ----------
        audio : float tensor, shape = (B, ws, 229, frames) or (B, ws, 1, 229, frames); ignored by a text-only model
        text : float tensor, shape = (B, ws, text_dim) or (B, ws, 1, text_dim); ignored by an audio-only model
        log : give log-probabilities (always finite), as the losses want them

        Returns
        -------
        emotion : shape = (B, 7), (log-)probabilities in the order of `constants.EMOTIONS`
        arousal, valence : shape = (B, 1), within 1 to 5
        """
        utterances = []
        if self.uses_audio:
            audio = audio.reshape(audio.shape[0], audio.shape[1], *audio.shape[-2:])
            utterances.append(at_least_float32(self.audio_embedding(audio).flatten(2)))
        if self.uses_text:
            utterances.append(text.reshape(text.shape[0], text.shape[1], text.shape[-1]))
        # bfloat16 is for the convolutions, nine tenths of the work; the rest stays float32 at little cost
        with torch.autocast(utterances[0].device.type, enabled=False):
            with without_onednn():
                context, _ = getattr(self, self.backbone)(torch.cat(utterances, dim=2))
            context = context.flatten(1)
            log_emotion = torch.log_softmax(self.mlp_emotion(context), dim=1)
            affect = self.mlp_av(context)
            if self.concat:
                affect = torch.cat([affect, log_emotion.exp()], dim=1)
            low, high = AFFECT_RANGE
            arousal = (high - low) * torch.sigmoid(self.mlp_arousal(affect)) + low
            valence = (high - low) * torch.sigmoid(self.mlp_valence(affect)) + low
        return (log_emotion if log else log_emotion.exp()), arousal, valence
