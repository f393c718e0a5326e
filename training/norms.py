"""Norms: batch norm over the whole batch, also where several processes have a part of it each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

# What a layer shares with those of other processes: each has an equal part of the batch


def n_processes() -> int:
    """How many processes train together."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if together else 1


def over_processes(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the whole batch from those of this process's part, float64, shape = (C,)."""
    if (n := n_processes()) == 1:
        return mean, variance
    moments = torch.stack([mean, variance + mean**2])
    torch.distributed.all_reduce(moments)
    mean, of_squares = moments / n
    return mean, of_squares - mean**2  # in float64 little is lost


def sum_over_processes(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the processes' tensors, both of one shape."""
    if n_processes() == 1:
        return first, second
    both = torch.stack([first, second])
    torch.distributed.all_reduce(both)
    return both[0], both[1]


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, float64, shape = (B, C, ...) -> (C,), accurate to float32.

    On a CPU, torch 2.11's own batch norm sums a channels-last tensor value by value in float32: over the 1.1 million
    values per channel of 16 windows its output is off by 6e-4, with these by 6e-7.
    """
    # The result has the type of the running statistics, which are not changed
    unused = torch.zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    mean, variance = torch.ops.aten.batch_norm_update_stats(x, unused, unused, 0.0)
    return mean.double(), variance.double()


def update_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor, n: int) -> None:
    """Move the statistics that tests use towards those of a batch, of which this process has `n` values per channel."""
    n *= n_processes()
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (n / (n - 1)), norm.momentum)
        norm.num_batches_tracked += 1


class WholeBatchNorm(_BatchNorm):
    """Batch norm of any shape, (B, C, ...), whose statistics in training are those of all processes' parts.

    A step has an all-reduce forward and one backward, and waits for no GPU; torch's `SyncBatchNorm` gives the same
    numbers, waits three times a layer, and is for GPUs alone.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values, mean, variance = Normalise.apply(x, self.weight, self.bias, self.eps)
        update_statistics(self, mean, variance, x.numel() // len(mean))
        return values


def synchronise(model: nn.Module) -> nn.Module:
    """The model with each of its batch norms replaced by a `WholeBatchNorm` of the same weights."""
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm):
            norm = WholeBatchNorm(child.num_features, child.eps, child.momentum).to(child.weight)
            norm.load_state_dict(child.state_dict())
            setattr(model, name, norm)
        else:
            synchronise(child)
    return model


class Normalise(torch.autograd.Function):
    """Batch norm with the statistics of the whole batch; gives them as well."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised values, and mean and biased variance of each channel."""
        mean, variance = (value.to(weight.dtype) for value in over_processes(*mean_and_variance(x)))
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx, g: Tensor, _mean: None, _variance: None) -> tuple[Tensor | None, ...]:
        """For x' = (x - mean) / std, weight / std (g - mean(g) - x' mean(g x')), whose means are over the whole batch.

        The gradients of weight and bias are those of this process's part: others' are added with all gradients.
        """
        x, weight, mean, variance = ctx.saved_tensors
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            g, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        of_weight, of_bias = sum_over_processes(grad_weight, grad_bias)
        n, zero = x.numel() // len(weight) * n_processes(), torch.zeros_like(mean)
        scale = -weight * torch.rsqrt(variance + ctx.eps) / n
        grad = F.batch_norm(g, zero, variance, weight, zero, eps=ctx.eps)
        grad += F.batch_norm(x, mean, variance, scale * of_weight, scale * of_bias, eps=ctx.eps)
        return grad, grad_weight, grad_bias, None
