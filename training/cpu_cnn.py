"""MATE's CNN for CPUs: the numbers of model.py's layers, in two thirds of the time and less memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import ConvBlock

CHUNK_BYTES = 16 << 20  # glibc takes tensors over 32 MB from the system, page by page, and gives them back after use


class ChunkedCNN(nn.Sequential):
    """MATE's `ConvBlock`s over the log-mels of windows, shape = (B, ws, 229, frames).

    They process a few windows at a time, a chunk, so that the allocator can reuse the memory of every tensor. The
    statistics of batch norm are still those of the whole batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)
        chunks = x.split(self.windows_at_once(x))
        if not self.training:
            return torch.cat([super(ChunkedCNN, self).forward(chunk) for chunk in chunks])
        chunks, normalised = [*chunks], [None] * len(chunks)
        for block in self:
            chunks, normalised = train_block(block, chunks, normalised)
        return torch.cat(chunks)

    def windows_at_once(self, x: Tensor) -> int:
        """How many windows' largest tensor takes at most `CHUNK_BYTES`, and at least one."""
        largest = x[0, 0].numel() * max(block.conv.out_channels for block in self)
        half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        return max(1, CHUNK_BYTES // (largest * (2 if half else x.element_size())))


# A block's training step


@dataclass
class Normalised:
    """Batch norm of `x` with given statistics, and ReLU: computed in the forward pass and again in the backward pass.

    Keeping the values in between would take a quarter of the memory of a training step.
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

    def recompute(self) -> Tensor:
        """The values for the backward pass, which needs them twice."""
        if self.value is None:
            self.value = self.compute()
        return self.value


def train_block(
    block: ConvBlock, chunks: list[Tensor], recomputed: list[Normalised | None]
) -> tuple[list[Tensor], list[Normalised]]:
    """The output of `block` in training and what recomputes it, both in chunks of the batch; empties `chunks`.

    `recomputed` is what recomputes `chunks`, None for the CNN's input.
    """
    convolved = [convolve(block.conv, chunks.pop(0), one) for one in recomputed]  # each is freed as soon as it is used
    norm, normalised = block.bn, []
    mean, variance, *outputs = NormPool.apply(norm.weight, norm.bias, norm.eps, block.pool, normalised, *convolved)
    n = sum(x.numel() for x in convolved) // len(mean)
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (n / (n - 1)), norm.momentum)
        norm.num_batches_tracked += 1
    return outputs, normalised


def convolve(conv: nn.Conv2d, x: Tensor, normalised: Normalised | None) -> Tensor:
    """The convolution of `x`, which autograd does not keep if it can be recomputed."""
    if normalised is None:
        return conv(x)
    address = x.data_ptr()

    def pack(tensor: Tensor) -> Tensor | Normalised:
        return normalised if tensor.data_ptr() == address else tensor

    def unpack(kept: Tensor | Normalised) -> Tensor:
        return kept.recompute() if isinstance(kept, Normalised) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return conv(x)


class NormPool(torch.autograd.Function):
    """Batch norm over the values of all chunks, then max pooling and ReLU of each chunk.

    It computes what torch's layers compute with less memory, and thus on a CPU in less time. The values are pooled
    first: the largest value is also the largest normalised one (the smallest, where the weight is negative). So only
    the pooled values are normalised; they and the indices of the maxima are recomputed in the backward pass.
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
        mean, variance = mean.to(weight.dtype), variance.to(weight.dtype)
        pooled = [max_pool_before_norm(x, pool, weight)[0] for x in chunks] if pool > 1 else chunks
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
            output = normalised.recompute()
            g = torch.ops.aten.threshold_backward.grad_input(grad, output, 0, grad_input=output)
            _, weight_part, bias_part = torch.ops.aten.native_batch_norm_backward(
                g, p, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
            gradients.append(g)
            grad_weight += weight_part
            grad_bias += bias_part
        ctx.normalised.clear()
        n = sum(x.numel() for x in chunks) // len(weight)
        scale = -weight * torch.rsqrt(variance + ctx.eps) / n
        zero = torch.zeros_like(mean)
        for x, grad in zip(chunks, gradients, strict=True):
            normalise_(grad, zero, variance, weight, zero, ctx.eps)  # weight / std g
            if ctx.pool > 1:
                size = [ctx.pool, ctx.pool]
                _, indices = max_pool_before_norm(x, ctx.pool, weight)
                grad = torch.ops.aten.max_pool2d_with_indices_backward(
                    grad, x, size, size, [0, 0], [1, 1], False, indices
                )
            # Written over x, which nothing else reads: 0.6 GB less at batch 64 in bfloat16
            normalise_(x, mean, variance, scale * grad_weight, scale * grad_bias, ctx.eps)
            x.add_(grad)
        return grad_weight, grad_bias, None, None, None, *chunks


def normalise_(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """Batch norm with these statistics, written over `x`."""
    unused = torch.empty(0)
    torch.ops.aten.native_batch_norm.out(
        x, weight, bias, mean, variance, False, 0.0, eps, out=x, save_mean=unused, save_invstd=unused
    )


def max_pool_before_norm(x: Tensor, pool: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The values of `x` that are the largest of `pool` x `pool` once normalised, and their indices as torch counts."""
    if (weight >= 0).all():
        return F.max_pool2d_with_indices(x, pool)
    sign = torch.where(weight < 0, -1, 1).to(x.dtype)[:, None, None]
    values, indices = F.max_pool2d_with_indices(x * sign, pool)
    return values * sign, indices


# Statistics of batch norm


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, float64, shape = (B, C, ...) -> (C,), accurate to float32.

    On a CPU, torch 2.11's own batch norm sums a channels-last tensor value by value in float32: over the 1.1 million
    values per channel of 16 windows its output is off by 6e-4, with these by 6e-7.
    """
    # The result has the type of the running statistics, which are not changed
    unused = torch.zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    mean, variance = torch.ops.aten.batch_norm_update_stats(x, unused, unused, 0.0)
    return mean.double(), variance.double()
