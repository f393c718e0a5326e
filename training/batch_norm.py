"""Batch norm: recompute its statistics over training windows, and compare running with batch statistics.

MATE's heads are Linear, ReLU, batch norm. The running variance of a unit that is rarely active decays to almost 0 with
a momentum of .1. When the unit is active in a test, its output is multiplied by up to 1e-5^-.5 = 316.
"""

from __future__ import annotations

import argparse
import copy
import math
import warnings
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dataset import WindowDataset, prefetch, shuffled_batches
from loss import make_loss
from model import MATE
from training.engine import mean_loss, predict
from utils import InputError

WINDOWS = 2048  # at most as many training windows for `compute_statistics`
COMPARED = 16  # training batches on which the two losses are compared
LIMIT = 1.1  # of their ratio: at most 1.00 with good statistics, over 1.1 in 77 of 82 tests that lost .05 of F1


def batches_of(windows: WindowDataset, options: argparse.Namespace, epoch: int) -> list[Tensor]:
    """Batches of window numbers as drawn in training, equal for equal seed and epoch; also sets the crops."""
    windows.set_epoch(epoch)
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)  # separate from that of training
    weights = windows.weights if options.sampler == "weighted" else None
    return shuffled_batches(len(windows), options.batch_size, generator, weights)


@torch.no_grad()
def compute_statistics(
    model: MATE, windows: WindowDataset, options: argparse.Namespace, epoch: int, accelerator: Accelerator
) -> None:
    """Set the statistics of all batch norms to their means over batches of up to `WINDOWS` training windows.

    The model is in training mode, which changes only batch norm: MATE has no dropout. Several processes share the
    batches. Raises `InputError` without a full batch.
    """
    n, rank = accelerator.num_processes, accelerator.process_index
    batches = batches_of(windows, options, epoch)[: math.ceil(WINDOWS / options.batch_size)]
    if not batches:
        raise InputError(f"--bn_statistics train: {options.data_path} has too few windows; give the training corpus")
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    model.train()
    for batch in prefetch(windows, [indices[rank::n] for indices in batches], next(model.parameters()).device):
        predict(model, batch, windows.audio_dtype == torch.bfloat16)
    for norm in norms:
        norm.momentum = 0.1  # as in training
    if n > 1:
        running = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        torch._foreach_copy_(running, accelerator.reduce(running, "mean"))


@torch.no_grad()
def compare_statistics(model: MATE, windows: WindowDataset, options: argparse.Namespace) -> dict[str, Any]:
    """The mean losses of training batches with running and with batch statistics: entries of result.json.

    Warns if the first is more than `LIMIT` times the second. Without a full batch, as in a test on another corpus,
    there are no losses. Raises `NonFinite`.
    """
    batches = batches_of(windows, options, 0)[:COMPARED]
    if not batches:
        return {"batch_norm": None, "warnings": []}
    device, counts = next(model.parameters()).device, windows.class_counts
    bfloat16, affect = windows.audio_dtype == torch.bfloat16, options.affect_loss if windows.has_affect else "none"
    loss_function = make_loss(options.loss, options.lam, options.beta, counts, device, affect)
    running, own = (
        mean_loss([loss_function(predict(m, b, bfloat16), b.target) for b in prefetch(windows, batches, device)])
        for m in (model.eval(), copy.deepcopy(model).train())
    )
    found = {"statistics": options.bn_statistics, "windows": len(batches) * options.batch_size}
    found |= {"loss": round(running, 4), "loss_of_batches": round(own, 4)}
    sentences = []
    if running > LIMIT * own:
        losses = f"training loss is {running:.3f} with running statistics, but {own:.3f} with batch statistics"
        sentences.append(f"batch norm: {losses}; test again with --test_only RUN --bn_statistics train")
        warnings.warn(sentences[0], stacklevel=2)
    return {"batch_norm": found, "warnings": sentences}
