"""Batch norm: its statistics computed anew over training windows, and running ones compared with those of batches.

MATE's heads are Linear, ReLU, batch norm. The running variance of a unit that hardly ever fires decays to almost 0, as
momentum .1 forgets the windows in which it did; where it fires in a test, it is multiplied by up to 1e-5^-.5 = 316.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
import warnings
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import update_bn

from dataset import Batch, WindowDataset, prefetch
from loss import make_loss
from model import MATE
from training.devices import n_processes
from training.engine import draw_batches, mean_loss, predict
from utils import InputError, count

COMPARED = 16  # training batches on which the two losses are compared
LIMIT = 1.1  # of their ratio: 1.00 at most where statistics fit, and above it in 77 of 82 tests that lost .05 of F1


class OfBatch(torch.nn.Module):
    """MATE as a function of a `Batch`, as `update_bn` calls it; in the precision of training."""

    def __init__(self, model: MATE, windows: WindowDataset) -> None:
        super().__init__()
        self.model, self.bfloat16 = model, windows.audio_dtype == torch.bfloat16

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        return predict(self.model, batch, self.bfloat16)


def batches_of(windows: WindowDataset, options: argparse.Namespace, epoch: int) -> list[Tensor]:
    """Numbers of the windows of batches as training draws them, the same for a seed and epoch; sets its crops."""
    windows.set_epoch(epoch)
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)  # training's own is not touched
    return draw_batches(windows, options.batch_size, options.sampler, generator)


def compute_statistics(
    model: MATE, windows: WindowDataset, options: argparse.Namespace, epoch: int, accelerator: Accelerator
) -> None:
    """Set the statistics of all batch norms to their means over batches of up to `--bn_windows` training windows.

    Several processes share the batches as they do in training. Nothing but batch norm depends on the mode of training,
    in which the passes are made: MATE has no dropout. Raises `InputError` where there is no whole batch.
    """
    n, rank = accelerator.num_processes, accelerator.process_index
    batches = batches_of(windows, options, epoch)[: math.ceil(options.bn_windows / options.batch_size)]
    if not batches:
        raise InputError(
            f"--bn_statistics train: {options.data_path} has {count(len(windows), 'window')} of the sessions that the "
            f"run was trained on, of {options.batch_size} that a batch needs; give the corpus of the training"
        )
    parts = prefetch(windows, [indices[rank::n] for indices in batches], next(model.parameters()).device)
    update_bn(([batch] for batch in parts), OfBatch(model, windows))
    if n > 1:
        running = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        torch._foreach_copy_(running, accelerator.reduce(running, "mean"))


@torch.no_grad()
def announcement(model: MATE, windows: WindowDataset, options: argparse.Namespace) -> list[str]:
    """The line about the passes of `compute_statistics` and their time, measured on the second of two batches."""
    batches = batches_of(windows, options, 0)[: math.ceil(options.bn_windows / options.batch_size)]
    of_batch = OfBatch(copy.deepcopy(model), windows).train()
    for indices in batches[:2]:
        began = time.monotonic()
        batch = windows.batch(indices[:: n_processes()]).to(next(model.parameters()).device)
        of_batch(batch)[0].sum().item()  # waits for a GPU
    seconds, n = math.ceil(len(batches) * (time.monotonic() - began)), len(batches) * options.batch_size
    line = f"{'batch norm:':<12}statistics of {n:,} training windows, computed before each validation and the test, "
    return [f"{line}each time in about {seconds} s"]


@torch.no_grad()
def compare_statistics(model: MATE, windows: WindowDataset, options: argparse.Namespace) -> dict[str, Any]:
    """The mean losses of training batches with running statistics and with the batches' own: facts of a test.

    Warns where the first is more than `LIMIT` times the second. Without a whole batch, as in a test on another corpus,
    there are no losses. Raises `NonFinite`.
    """
    batches = batches_of(windows, options, 0)[:COMPARED]
    if not batches:
        return {"batch_norm": None, "warnings": []}
    device, counts = next(model.parameters()).device, windows.class_counts
    affect = options.affect_loss if windows.has_affect else "none"
    loss_function = make_loss(options.loss, options.lam, options.beta, counts, device, affect)
    running, own = (
        mean_loss([loss_function(of_batch(batch), batch.target) for batch in prefetch(windows, batches, device)])
        for of_batch in (OfBatch(model, windows).eval(), OfBatch(copy.deepcopy(model), windows).train())
    )
    found = {"statistics": options.bn_statistics, "windows": len(batches) * options.batch_size}
    found |= {"loss": round(running, 4), "loss_of_batches": round(own, 4)}
    if running <= LIMIT * own:
        return {"batch_norm": found, "warnings": []}
    sentence = (
        f"batch norm: the loss of {found['windows']:,} training windows is {running:.3f} with running statistics, and "
        f"{own:.3f} with each batch's own: they do not fit the weights, and every figure of this test suffers; "
        "--bn_statistics train computes them anew, also in a test of a run that exists (--test_only)"
    )
    warnings.warn(sentence, stacklevel=2)
    return {"batch_norm": found, "warnings": [sentence]}
