"""Layers: what makes MATE's CNN fast on a CPU. The numbers are those of model.py's own layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import ConvBlock
from training.norms import mean_and_variance, n_processes, over_processes, sum_over_processes, update_statistics

CHUNK_BYTES = 16 << 20  # glibc takes tensors over 32 MB from the system, page by page, and gives them back after use


class ChunkedCNN(nn.Sequential):
    """MATE's `ConvBlock`s over the log-mels of windows, shape = (B, ws, 229, frames).

    On a CPU they work on a few windows at a time, a chunk, so that no tensor is larger than what the allocator keeps
    for the next one. The statistics of batch norm are still those of the whole batch. Elsewhere this is `Sequential`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        chunks = x.split(self.windows_at_once(x))
        if not self.training:
            return torch.cat([super(ChunkedCNN, self).forward(chunk) for chunk in chunks])
        chunks = [Chunk(chunk) for chunk in chunks]
        for block in self:
            chunks = train_block(block, chunks)
        return torch.cat([chunk.values for chunk in chunks])

    def windows_at_once(self, x: Tensor) -> int:
        """How many windows' largest tensor takes at most `CHUNK_BYTES`, and at least one."""
        largest = x[0, 0].numel() * max(block.conv.out_channels for block in self)
        half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        return max(1, CHUNK_BYTES // (largest * (2 if half else x.element_size())))


# A block's training step


@dataclass
class Normalised:
    """Batch norm of `x` with given statistics, and ReLU: computed for the forward pass and again for the backward pass.

    To keep the values in between would take a quarter of the memory of a training step.
    """

    x: Tensor
    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    value: Tensor | None = None

    def compute(self) -> Tensor:
        return F.relu_(F.batch_norm(self.x, self.mean, self.variance, self.weight, self.bias, eps=self.eps))

    def again(self) -> Tensor:
        """The values for the backward pass, which needs them twice."""
        if self.value is None:
            self.value = self.compute()
        return self.value


class Chunk(NamedTuple):
    """The activations of a few windows of a batch; `normalised` computes them again, None where they are an input."""

    values: Tensor
    normalised: Normalised | None = None


def train_block(block: ConvBlock, chunks: list[Chunk]) -> list[Chunk]:
    """The output of `block` in training for the batch that `chunks` make up, in chunks; empties `chunks`."""
    convolved = []
    while chunks:  # each is freed as soon as it is used
        convolved.append(convolve(block.conv, *chunks.pop(0)))
    norm = block.bn
    normalised: list[Normalised] = []
    mean, variance, *outputs = NormPool.apply(norm.weight, norm.bias, norm.eps, block.pool, normalised, *convolved)
    update_statistics(norm, mean, variance, sum(x.numel() for x in convolved) // len(mean))
    return [Chunk(*both) for both in zip(outputs, normalised, strict=True)]


def convolve(conv: nn.Conv2d, x: Tensor, normalised: Normalised | None) -> Tensor:
    """The convolution of `x`, which autograd does not keep if it can be computed again."""
    if normalised is None:
        return conv(x)
    address = x.data_ptr()

    def pack(tensor: Tensor) -> Tensor | Normalised:
        return normalised if tensor.data_ptr() == address else tensor

    def unpack(kept: Tensor | Normalised) -> Tensor:
        return kept.again() if isinstance(kept, Normalised) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return conv(x)


class NormPool(torch.autograd.Function):
    """Batch norm over the values of all chunks of the whole batch, then max pooling and ReLU of each chunk, on a CPU.

    It computes what torch's layers compute, with less memory, and on a CPU memory costs time. The values are pooled
    first: the largest value is also the largest normalised one (the smallest, where the weight is negative). So only
    the pooled values are normalised; they and the places of the maxima are found again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx, weight: Tensor, bias: Tensor, eps: float, pool: int, normalised: list[Normalised], *chunks: Tensor
    ) -> tuple[Tensor, ...]:
        """Mean and biased variance of each channel, and the outputs of the chunks, which `normalised` collects."""
        parts = [mean_and_variance(x) for x in chunks]
        share = torch.tensor([len(x) for x in chunks], dtype=torch.float64)[:, None] / sum(map(len, chunks))
        means, variances = (torch.stack(values) for values in zip(*parts, strict=True))
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean) ** 2)).sum(0)
        mean, variance = (value.to(weight.dtype) for value in over_processes(mean, variance))
        pooled = [largest(x, pool, weight)[0] for x in chunks] if pool > 1 else chunks
        normalised += [Normalised(p.detach(), mean, variance, weight.detach(), bias.detach(), eps) for p in pooled]
        ctx.save_for_backward(weight, bias, mean, variance, *chunks, *pooled)
        ctx.eps, ctx.pool, ctx.normalised = eps, pool, normalised
        ctx.mark_non_differentiable(mean, variance)
        return mean, variance, *(one.compute() for one in normalised)

    @staticmethod
    def backward(ctx, _mean: None, _variance: None, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """For a gradient g of the normalised values x' = (x - mean) / std, weight / std (g - mean(g) - x' mean(g x')).

        g is 0 except at the maxima, so the pooled values give the two means. g is written over the output, which the
        next convolution no longer needs, and the gradient of an input over the input: a graph can be gone back through
        only once.
        """
        weight, _bias, mean, variance, *saved = ctx.saved_tensors  # torch checks that none has changed
        chunks, pooled = saved[: len(grads)], saved[len(grads) :]
        gradients = []  # g
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)  # sums of g x' and of g
        for grad, p, normalised in zip(grads, pooled, ctx.normalised, strict=True):
            output = normalised.again()
            g = torch.ops.aten.threshold_backward.grad_input(grad, output, 0, grad_input=output)
            _, weight_part, bias_part = torch.ops.aten.native_batch_norm_backward(
                g, p, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
            gradients.append(g)
            grad_weight += weight_part
            grad_bias += bias_part
        ctx.normalised.clear()
        of_weight, of_bias = sum_over_processes(grad_weight, grad_bias)
        n = sum(x.numel() for x in chunks) // len(weight) * n_processes()
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
            # Written over x, which nothing else reads: 0.6 GB less at batch 64 in bfloat16
            normalise_(x, mean, variance, scale * of_weight, scale * of_bias, ctx.eps)
            x.add_(grad)
        return grad_weight, grad_bias, None, None, None, *chunks


def normalise_(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """Batch norm with these statistics, written over `x`."""
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
