"""The engine: optimizer, training step, and the predictions of a set of windows."""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor, optim
from torch.distributed.nn.functional import all_gather
from tqdm import tqdm

from dataset import Batch, Features, WindowDataset, load_features, prefetch
from loss import Loss, Outputs
from model import MATE
from training.cpu_cnn import ChunkedCNN
from training.devices import n_processes, on_main_process, return_freed_memory
from utils import InputError

EVALUATION_BATCH = 64  # windows, at most
PREDICTIONS = ("emotion_pred", "arousal_pred", "valence_pred")


class NonFinite(ArithmeticError):
    """A loss, weight or prediction is infinite or not a number."""


def mean_loss(losses: Sequence[Tensor]) -> float:
    """The mean loss of an epoch's steps so far; raises `NonFinite`."""
    mean = torch.stack([*losses]).mean().item()
    if not math.isfinite(mean):
        raise NonFinite("the loss is not finite")
    return mean


def check_weights(model: torch.nn.Module) -> None:
    """Raise `NonFinite` if a weight is not finite."""
    if not torch.stack([weight.isfinite().all() for weight in model.parameters()]).all():
        raise NonFinite("the weights are not finite at the end of the epoch")


def check_batch_size(batch_size: int, n_windows: int) -> None:
    """Raise `InputError` if the part of a process is too small for batch norm, or a batch exceeds the training set."""
    n = n_processes()
    if batch_size % n or batch_size < 2 * n or batch_size > n_windows:
        multiple = f", and a multiple of {n}, the number of processes" * (n > 1)
        raise InputError(f"--batch_size {batch_size}: expected {2 * n} to {n_windows} (all training windows){multiple}")


def to_device(model: MATE, device: torch.device) -> MATE:
    """The model on `device`, its CNN in the form that is fastest there: channels-last takes 0.7 of the time."""
    if hasattr(model, "audio_embedding"):
        if device.type == "cpu":
            model.audio_embedding = ChunkedCNN(*model.audio_embedding)
        model.audio_embedding.to(memory_format=torch.channels_last)
    return model.to(device)


def wrap_for_training(model: MATE, accelerator: Accelerator, compile_cnn: bool) -> torch.nn.Module:
    """A module for training that shares its parameters with `model`, which is used for evaluation.

    With `compile_cnn` its CNN is compiled (not for evaluation, whose batches have other sizes). Several processes
    average the gradients, on GPUs also the statistics of batch norm.
    """
    trained = model
    if compile_cnn and hasattr(model, "audio_embedding"):
        trained = copy.copy(model)
        trained._modules = {**model._modules}
        trained.audio_embedding = torch.compile(model.audio_embedding, dynamic=False)
    if accelerator.num_processes == 1:
        return trained
    if accelerator.device.type == "cuda":
        trained = torch.nn.SyncBatchNorm.convert_sync_batchnorm(trained)
    return accelerator.prepare(trained)


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the convolutions in training on `device`, for `--precision`."""
    if precision == "auto" and device.type == "cuda":
        is_fast = torch.cuda.get_device_capability(device) >= (8, 0)
    elif precision == "auto" and device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        is_fast = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    else:
        is_fast = precision == "bf16"
    return torch.bfloat16 if is_fast else torch.float32


def make_optimizer(options: argparse.Namespace, model: torch.nn.Module) -> optim.Optimizer:
    """The optimizer of `--optim`, fused if torch supports it."""
    kinds = {"adam": optim.Adam, "adamw": optim.AdamW, "adagrad": optim.Adagrad, "sgd": optim.SGD}
    settings = {"lr_decay": options.lr_decay} if options.optim == "adagrad" else {}
    fused_on = ("cpu",) if options.optim == "adagrad" else ("cpu", "cuda")
    common = {"weight_decay": options.weight_decay, "fused": next(model.parameters()).device.type in fused_on}
    return kinds[options.optim](model.parameters(), options.lr, **common, **settings)


def make_scheduler(optimizer: optim.Optimizer, epochs: int, gamma: float) -> optim.lr_scheduler.LRScheduler:
    """Multiply the learning rate by `gamma` after epochs/3 and again after epochs/2, as published."""
    milestones = [epoch for epoch in (epochs // 3, epochs // 2) if epoch > 0]
    return optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma)


@contextlib.contextmanager
def tensor_cores(enabled: bool) -> Iterator[None]:
    """A block in which CUDA GPUs multiply float32 matrices in TF32, and cuDNN chooses its algorithms by speed.

    TF32 rounds factors to 11 significant bits, bfloat16 to 8. Without `enabled` the block has neither.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = enabled
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def train_step(
    model: torch.nn.Module, batch: Batch, loss_function: Loss, optimizer: optim.Optimizer, bfloat16: bool = False
) -> Tensor:
    """One step of gradient descent on a batch; return its loss, a scalar, without waiting for the device.

    `bfloat16` computes convolutions in bfloat16, and on a CUDA GPU other layers in TF32. The rest is float32.
    """
    with tensor_cores(bfloat16):
        loss = loss_function(predict(model, batch, bfloat16), batch.target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return loss.detach()


def predict(model: torch.nn.Module, batch: Batch, bfloat16: bool = False) -> Outputs:
    """Predict a batch, with log-probabilities; `bfloat16` is as in `train_step`."""
    device = next(model.parameters()).device.type
    with tensor_cores(bfloat16), torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        return model(batch.audio, batch.text, log=True, speakers=batch.speakers)


def over_processes(loss_function: Loss) -> Loss:
    """The loss over the windows of all processes, for a loss that is not a mean over windows, such as 1 - CCC."""

    def everywhere(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(all_gather(tensor.contiguous())) for tensor in tensors)

    return lambda prediction, target: loss_function(everywhere(prediction), everywhere(target))


@torch.inference_mode()
def predict_all(
    model: torch.nn.Module, windows: WindowDataset, batch_size: int, bfloat16: bool = False, progress: str = ""
) -> Outputs:
    """Predict all windows, in their order, in evaluation mode; `progress` is the title of a bar.

    Returns log-probabilities of the emotions, shape = (N, 7), arousal and valence, shape = (N, 1), float32, on its
    device.
    """
    model.eval()
    return_freed_memory()  # one or two GB of training, on a CPU
    device, batches = next(model.parameters()).device, torch.arange(len(windows)).split(batch_size)
    bar = tqdm(prefetch(windows, batches, device), progress, len(batches), disable=None if progress else True)
    outputs = [predict(model, batch, bfloat16) for batch in bar]
    return tuple(torch.cat(parts).float() for parts in zip(*outputs, strict=True))


def load_all_features(options: argparse.Namespace, table: pd.DataFrame, accelerator: Accelerator) -> Features:
    """The features of all utterances; with several processes, one of them computes those that are not stored yet."""
    if accelerator.num_processes > 1:
        on_main_process(accelerator, lambda: load_features(options, table).missing)
    return load_features(options, table)


def predict_windows(
    options: argparse.Namespace, model: MATE, windows: WindowDataset, accelerator: Accelerator, progress: str = ""
) -> Outputs:
    """`predict_all` with the batch size and precision of a run, by the first of its processes, whose buffers count."""
    size = min(EVALUATION_BATCH, max(1, 2 * options.batch_size // accelerator.num_processes))  # training fits half

    def compute() -> list[Tensor]:
        return [part.cpu() for part in predict_all(model, windows, size, options.precision == "bf16", progress)]

    device = next(model.parameters()).device
    return tuple(part.to(device) for part in on_main_process(accelerator, compute))


def choose_temperature(log_probabilities: Tensor, shares: Tensor) -> float:
    """The temperature with the least cross-entropy between raters' shares and probabilities; both shape = (N, 7).

    Guo et al. 2017, On calibration of modern neural networks, section 4.2, with soft labels.
    """
    log_p, target = (tensor.cpu().double().numpy() for tensor in (log_probabilities, shares))

    def cross_entropy(log_temperature: float) -> float:
        return -(target * log_softmax(log_p / math.exp(log_temperature), axis=1)).sum(axis=1).mean()

    return math.exp(minimize_scalar(cross_entropy, bounds=(-4, 4), method="bounded").x)


def to_arrays(prediction: Outputs, temperature: float = 1.0) -> dict[str, np.ndarray]:
    """The predictions of `predict_all` by the names in `PREDICTIONS`; the emotion's are softmax(log p / temperature).

    They are float32: probabilities, shape = (N, 7), arousal and valence, shape = (N,). Raises `NonFinite` where a value
    is infinite or not a number.
    """
    emotion, arousal, valence = prediction
    probabilities = emotion.exp() if temperature == 1 else (emotion / temperature).softmax(dim=1)
    columns = probabilities, arousal[:, 0], valence[:, 0]
    arrays = {name: column.cpu().numpy() for name, column in zip(PREDICTIONS, columns, strict=True)}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise NonFinite("the model predicts values that are not finite")
    return arrays
