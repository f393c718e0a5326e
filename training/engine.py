"""One epoch of training, and the predictions of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from constants import OPTIMIZERS
from loss import Loss
from training.processes import ALONE, Processes
from utils import give_back_freed_memory

if TYPE_CHECKING:
    from dataset import Batch

CHECK_EVERY = 50  # steps between looks at the loss of a GPU, each of which waits for it
EVALUATION_BATCH = 64  # windows at most; see `evaluation_batch`


def evaluation_batch(batch_size: int, n_processes: int = 1) -> int:
    """Windows to evaluate at once: what fits in training, where they are half as many, fits here, and so no more.

    `batch_size` is that of a training step, of which each of several processes takes a part.
    """
    return min(EVALUATION_BATCH, 2 * max(1, batch_size // n_processes))


class NonFinite(ArithmeticError):
    """A loss or a prediction is infinite or not a number; `batch` is the number of its batch in the epoch, or None."""

    def __init__(self, message: str, batch: int | None = None) -> None:
        super().__init__(message)
        self.batch = batch


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def make_optimizer(
    name: str, model: torch.nn.Module, lr: float, lr_decay: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer of `--optim`, all parameters in one kernel where torch has it; `lr_decay` is Adagrad's own."""
    parameters = list(model.parameters())
    device = parameters[0].device.type
    options = {"lr": lr, "weight_decay": weight_decay, "fused": device in ("cpu", "cuda")}
    if name == "adam":
        return torch.optim.Adam(parameters, **options)
    if name == "adamw":
        return torch.optim.AdamW(parameters, **options)
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, lr_decay=lr_decay, **options | {"fused": device == "cpu"})
    if name == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, **options)
    raise ValueError(f"optimizer {name!r}: expected one of {', '.join(OPTIMIZERS)}")


def make_scheduler(optimizer: torch.optim.Optimizer, epochs: int, gamma: float) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate times `gamma` after epochs/3 and again after epochs/2, as published."""
    milestones = [epoch for epoch in (epochs // 3, epochs // 2) if epoch > 0]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma)


def ahead(batches: DataLoader, device: torch.device) -> Iterator[Batch]:
    """The batches, on `device`; each is made by a thread of its own while the one before it is worked on."""
    iterator = iter(batches)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:

        def make() -> Batch | None:
            batch = next(iterator, None)
            return None if batch is None else batch.to(device)

        pending = thread.submit(make)
        while (batch := pending.result()) is not None:
            pending = thread.submit(make)
            yield batch


def train_one_epoch(
    model: torch.nn.Module,
    batches: DataLoader,
    loss_function: Loss,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    first_step: int = 1,
    on_step: Callable[[float | None], None] = lambda loss: None,
    losses: Tensor | None = None,
    bfloat16: bool = False,
    processes: Processes = ALONE,
) -> float:
    """Train on every batch once and return the epoch's mean loss; with several processes a loss is the mean of theirs.

    `on_step` is called after each step, now and then with the mean loss so far: reading it waits for the device.
    `losses` is filled with the losses of the epoch's steps; where it is longer than `batches`, the first ones are those
    of steps that were done before, and counted in the mean. `bfloat16` lets the model compute in it where autocast
    deems it safe; parameters, statistics of batch norm and losses stay float32.

    Raises
    ------
    NonFinite : the loss, or in the end a weight, is not finite; the message names the step, counted from `first_step`
    """
    model.train()
    if losses is None:
        losses = torch.zeros(len(batches), device=device)
    n_batches = len(losses)
    for index, batch in enumerate(ahead(batches, device), start=n_batches - len(batches)):
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            prediction = model(batch.audio, batch.text, log=True)
        loss = loss_function(prediction, (batch.emotion, batch.arousal, batch.valence))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[index] = processes.mean(loss.detach())
        mean = None
        if (index + 1) % CHECK_EVERY == 0 or index + 1 == n_batches or device.type == "cpu":
            mean = losses[: index + 1].mean().item()
            if not math.isfinite(mean):
                step = first_step + int((~losses.isfinite()).nonzero()[0])
                loss = losses[step - first_step].item()
                raise NonFinite(f"the loss is {loss} at step {step}", step - first_step)
        on_step(mean)
    if not torch.stack([p.isfinite().all() for p in model.parameters()]).all():
        raise NonFinite(f"the weights are not finite after step {first_step + n_batches - 1}")
    return losses.mean().item()


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module,
    batches: DataLoader,
    device: torch.device,
    loss_function: Loss | None = None,
    description: str | None = None,
    on_batch: Callable[[], None] = lambda: None,
    bfloat16: bool = False,
    processes: Processes = ALONE,
) -> tuple[dict[str, np.ndarray], float]:
    """Predictions of a data set, and its mean loss over windows (NaN without a `loss_function`).

    `description` names the progress bar; without it there is none. `on_batch` is called after each batch. Of several
    processes each has `batches` of its own, and gets the predictions of all, those of process 0 first.

    Returns
    -------
    dict of float32 arrays : `emotion_pred`, `emotion`, shape = (N, 7); `arousal_pred`, `arousal`, `valence_pred`,
    `valence`, shape = (N,)

    Raises
    ------
    NonFinite : a prediction is not finite
    """
    model.eval()
    give_back_freed_memory()  # training's: a GB or two on a CPU
    outputs: list[tuple[Tensor, ...]] = []
    total = torch.zeros((), device=device)
    bar = tqdm(ahead(batches, device), description, len(batches), unit="batch", disable=description is None)
    for batch in bar:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            prediction = model(batch.audio, batch.text, log=True)
        target = (batch.emotion, batch.arousal, batch.valence)
        if loss_function is not None:
            total += loss_function(prediction, target) * len(batch.emotion)
        outputs.append((prediction[0].exp(), *prediction[1:], *target))
        on_batch()
    names = ("emotion_pred", "arousal_pred", "valence_pred", "emotion", "arousal", "valence")
    ours = [torch.cat(parts).float().cpu().numpy() for parts in zip(*outputs, strict=True)]
    gathered, totals = processes.gather([ours] if ours else []), processes.gather([total.item()])
    arrays = {name: np.concatenate(parts) for name, parts in zip(names, zip(*gathered, strict=True), strict=True)}
    for name in ("arousal_pred", "valence_pred", "arousal", "valence"):
        arrays[name] = arrays[name][:, 0]
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise NonFinite("the model predicts values that are not numbers")
    mean_loss = sum(totals) / len(arrays["emotion"]) if loss_function is not None else math.nan
    return arrays, mean_loss
