"""The engine: the model that the options describe, a training step, and the predictions of a set of windows."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from constants import OPTIMIZERS
from loss import Loss
from model import MATE
from training.devices import give_back_freed_memory, memory_size, tensor_cores
from training.layers import ChunkedCNN
from training.processes import ALONE, Processes
from utils import InputError

if TYPE_CHECKING:
    from dataset import Batch

EVALUATION_BATCH = 64  # windows at most; see `evaluation_batch`


class NonFinite(ArithmeticError):
    """A loss, a weight or a prediction is infinite or not a number; `batch` is its number in the epoch, or None."""

    def __init__(self, message: str, batch: int | None = None) -> None:
        super().__init__(message)
        self.batch = batch


# The model and what trains it


def build_model(options: argparse.Namespace, trains: bool = True, speech_shape: tuple[int, int] | None = None) -> MATE:
    """The MATE that the options describe, its convolutions channels-last: 0.7 of the time of contiguous ones.

    `speech_shape` is the number of layers and the dimension of the speech embeddings, with `--audio encoder`.

    Raises
    ------
    InputError : it takes more than this machine's memory; to train it takes three times the memory of its weights
    """
    mate = partial(
        MATE,
        backbone=options.backbone,
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        bidirectional=options.bidirectional,
        text_dim=options.text_dim,
        ws=options.ws,
        sr=options.sr,
        concat=not options.no_concat,
        modality=options.modality,
        audio=options.audio,
        speech_shape=speech_shape,
        speakers=options.speakers,
    )
    with torch.device("meta"):  # takes no memory: a system may grant more than it has and kill the program later
        n_bytes = sum(weight.nbytes for weight in mate().parameters())
    if trains and not torch.cuda.is_available():
        n_bytes *= 3  # with gradients, and what the optimizer keeps
    if n_bytes > (memory := memory_size()):
        raise InputError(
            f"--hidden_size {options.hidden_size}, --num_layers {options.num_layers}, --ws {options.ws}, --text_dim "
            f"{options.text_dim}: the model takes {n_bytes / 1e9:.0f} GB, this machine has {memory / 1e9:.0f} GB; give "
            "smaller ones"
        )
    model = mate()
    if model.uses_audio and model.audio == "cnn":
        model.audio_embedding = ChunkedCNN(*model.audio_embedding).to(memory_format=torch.channels_last)
    return model


def count_parameters(options: argparse.Namespace) -> int | None:
    """Parameters of the MATE that the options describe; raises as `build_model` does.

    None with a speech encoder: they depend on its embeddings, which are not read yet.
    """
    if options.audio == "encoder" and "audio" in options.modality:
        return None
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_model(options).parameters())


def with_compiled_cnn(model: MATE) -> MATE:
    """A model of the same weights whose CNN is compiled; an LSTM is not compiled anyway, and would cut the graph."""
    compiled = copy.copy(model)
    compiled._modules = {**model._modules}
    compiled.audio_embedding = torch.compile(model.audio_embedding, dynamic=False)
    return compiled


def to_device(model: MATE, device: torch.device) -> MATE:
    """The model on `device`, its weights contiguous on an Apple GPU (see `Batch.to`)."""
    return model.to(device, memory_format=torch.contiguous_format if device.type == "mps" else torch.preserve_format)


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def trains_in_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether convolutions train in bfloat16 on `device`, by `--precision`."""
    return precision == "bf16" or (precision == "auto" and has_bfloat16(device))


def make_optimizer(
    name: str, model: torch.nn.Module, lr: float, lr_decay: float, weight_decay: float, momentum: float = 0.0
) -> torch.optim.Optimizer:
    """The optimizer of `--optim`, all parameters in one kernel where torch has it.

    `lr_decay` is Adagrad's own, `momentum` that of SGD.
    """
    parameters = list(model.parameters())
    device = parameters[0].device.type
    fused = device in ("cpu", "cuda")
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
    if name == "adagrad":
        fused = device == "cpu"
        return torch.optim.Adagrad(parameters, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, fused=fused)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
    raise ValueError(f"optimizer {name!r}: expected one of {', '.join(OPTIMIZERS)}")


def make_scheduler(optimizer: torch.optim.Optimizer, epochs: int, gamma: float) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate times `gamma` after epochs/3 and again after epochs/2, as published."""
    milestones = [epoch for epoch in (epochs // 3, epochs // 2) if epoch > 0]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma)


# Batches in, numbers out


def prefetch(loader: DataLoader, device: torch.device) -> Iterator[Batch]:
    """The batches of `loader` on `device`; a second thread makes the next one while the caller works on this one."""
    iterator = iter(loader)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:

        def make() -> Batch | None:
            batch = next(iterator, None)
            return None if batch is None else batch.to(device)

        pending = thread.submit(make)
        while (batch := pending.result()) is not None:
            pending = thread.submit(make)
            yield batch


def train_step(
    model: torch.nn.Module,
    batch: Batch,
    loss_function: Loss,
    optimizer: torch.optim.Optimizer,
    bfloat16: bool = False,
) -> Tensor:
    """One step of gradient descent on a batch; returns its loss without waiting for the device.

    `bfloat16` lets the model compute in it where autocast deems it safe; parameters, statistics of batch norm and the
    loss stay float32. On a CUDA GPU the LSTM and the linear layers then multiply in TF32.
    """
    device = batch.emotion.device
    with tensor_cores(bfloat16 and device.type == "cuda"):
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            prediction = model(batch.audio, batch.text, log=True, speakers=batch.speakers)
        loss = loss_function(prediction, batch.target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return loss.detach()


def evaluation_batch(batch_size: int, n_processes: int = 1) -> int:
    """Windows to evaluate at once: training fits half as many, which take more memory there.

    `batch_size` is that of a training step, of which each of several processes takes a part.
    """
    return min(EVALUATION_BATCH, 2 * max(1, batch_size // n_processes))


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module,
    batches: Iterable[Batch],
    loss_function: Loss | None = None,
    bfloat16: bool = False,
    processes: Processes = ALONE,
) -> tuple[dict[str, np.ndarray], float]:
    """Predictions of the windows in `batches`, and their mean loss (NaN without a `loss_function`).

    With several processes each has its own batches, and all get the predictions of all.

    Returns
    -------
    dict of `emotion_pred` (probabilities, shape = (N, 7)), `arousal_pred` and `valence_pred` (shape = (N,)), and, if
    the windows have labels, `emotion` (shape = (N, 7)), `arousal` and `valence` (shape = (N,)); float32
    float : mean loss over windows

    Raises
    ------
    NonFinite : a prediction is not finite
    """
    model.eval()
    give_back_freed_memory()  # a GB or two of training's, on a CPU
    device = next(model.parameters()).device
    outputs: list[tuple[Tensor, ...]] = []
    total = torch.zeros((), device=device)
    for batch in batches:
        fast = tensor_cores(bfloat16 and device.type == "cuda")
        with fast, torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            emotion, *affect = model(batch.audio, batch.text, log=True, speakers=batch.speakers)
        if loss_function is not None:
            total += loss_function((emotion, *affect), batch.target) * len(emotion)
        outputs.append((emotion.exp(), *affect, *(label for label in batch.target if label is not None)))
    own = [torch.cat(parts).float().cpu().numpy() for parts in zip(*outputs, strict=True)]
    gathered, totals = processes.gather([own] if own else []), processes.gather([total.item()])
    names = ("emotion_pred", "arousal_pred", "valence_pred", "emotion", "arousal", "valence")
    columns = [np.concatenate(parts) for parts in zip(*gathered, strict=True)]
    arrays = dict(zip(names, columns, strict=False))  # three of them without labels
    for name in arrays.keys() - {"emotion", "emotion_pred"}:
        arrays[name] = arrays[name][:, 0]
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise NonFinite("the model predicts values that are not numbers")
    mean_loss = sum(totals) / len(arrays["emotion_pred"]) if loss_function is not None else float("nan")
    return arrays, mean_loss
