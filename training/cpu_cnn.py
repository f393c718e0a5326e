"""MATE's CNN for CPUs: the same results as the layers of model.py in two thirds of the time and less memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import ConvBlock

CHUNK_BYTES = 16 << 20  # glibc allocates tensors over 32 MB from the system, page by page, and frees them after use


class ChunkedCNN(nn.Sequential):
    """MATE's `ConvBlock`s over the log-mels of windows, shape = (B, ws, 229, frames).

    They process chunks of a few windows, so that the allocator can reuse memory. Batch norm still uses the statistics
    of the full batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)
        largest = x[0, 0].numel() * max(block.conv.out_channels for block in self)  # values of a window
        half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        chunks = x.split(max(1, CHUNK_BYTES // (largest * (2 if half else x.element_size()))))
        if not self.training:
            return torch.cat([super(ChunkedCNN, self).forward(chunk) for chunk in chunks])
        for block in self:
            chunks = train_block(block, chunks)
        return torch.cat(chunks)


def train_block(block: ConvBlock, chunks: Sequence[Tensor]) -> list[Tensor]:
    """The output of `block` in training, both in chunks of the batch."""
    convolved, norm = [block.conv(x) for x in chunks], block.bn
    mean, variance, *outputs = NormPool.apply(norm.weight, norm.bias, norm.eps, block.pool, *convolved)
    n = sum(x.numel() for x in convolved) // len(mean)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance * (n / (n - 1)), momentum)
    return outputs


class NormPool(torch.autograd.Function):
    """Batch norm over the values of all chunks, then max pooling and ReLU of each chunk.

    The results equal those of torch's layers, with less memory and, on a CPU, in less time. Pooling comes first, so
    only pooled values are normalised: the largest value is also the largest normalised value (the smallest, for a
    negative weight). The backward pass pools again, which needs less memory than storing the result.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, bias: Tensor, eps: float, pool: int, *chunks: Tensor) -> tuple[Tensor, ...]:
        """Mean and biased variance of each channel, and the outputs of the chunks."""
        parts = [mean_and_variance(x) for x in chunks]
        share = torch.tensor([len(x) for x in chunks], dtype=torch.float64)[:, None] / sum(map(len, chunks))
        means, variances = (torch.stack(values) for values in zip(*parts, strict=True))
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean) ** 2)).sum(0)
        mean, variance = mean.to(weight.dtype), variance.to(weight.dtype)
        pooled = [max_pool_before_norm(x, pool, weight)[0] for x in chunks] if pool > 1 else chunks
        outputs = [F.relu_(F.batch_norm(p, mean, variance, weight, bias, eps=eps)) for p in pooled]
        ctx.save_for_backward(weight, mean, variance, *chunks, *outputs)
        ctx.eps, ctx.pool = eps, pool
        ctx.mark_non_differentiable(mean, variance)
        return mean, variance, *outputs

    @staticmethod
    def backward(ctx, _mean: None, _variance: None, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """For a gradient g of the normalised values x' = (x - mean) / std, weight / std (g - mean(g) - x' mean(g x')).

        g is 0 except at the maxima, so the pooled values give the two means. g overwrites the output, which the next
        convolution no longer needs, and gradients overwrite inputs: backward works only once.
        """
        weight, mean, variance, *saved = ctx.saved_tensors  # torch checks that none has changed
        chunks, outputs = saved[: len(grads)], saved[len(grads) :]
        gradients = []  # g
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)  # sums of g x' and of g
        for x, grad, output in zip(chunks, grads, outputs, strict=True):
            pooled = max_pool_before_norm(x, ctx.pool, weight)[0] if ctx.pool > 1 else x
            g = torch.ops.aten.threshold_backward.grad_input(grad, output, 0, grad_input=output)
            _, weight_part, bias_part = torch.ops.aten.native_batch_norm_backward(
                g, pooled, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
            gradients.append(g)
            grad_weight += weight_part
            grad_bias += bias_part
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
        return grad_weight, grad_bias, None, None, *chunks


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


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, float64, shape = (B, C, ...) -> (C,), accurate to float32.

    On a CPU, torch 2.11's own batch norm sums a channels-last tensor value by value in float32: over the 1.1 million
    values per channel of 16 windows its output is off by 6e-4, with these by 6e-7.
    """
    # The result has the type of the running statistics, which are not changed
    unused = torch.zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    mean, variance = torch.ops.aten.batch_norm_update_stats(x, unused, unused, 0.0)
    return mean.double(), variance.double()
