"""State: the weights of a run, and the checkpoint that lets it go on as if it had never stopped."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from training.configuration import identity, names_of, outcome_options
from training.options import MODEL, TEST, TRAINING
from utils import InputError, atomic_write, check_archive

# Weights


def save_tensors(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors in plain containers, whole or not at all."""
    with atomic_write(path, "wb") as file:
        torch.save(content, file)


def with_epoch(state: OrderedDict[str, Tensor], epoch: int) -> OrderedDict[str, Tensor]:
    """A model's state dict that says of which epoch its weights are, in torch's own metadata of it.

    Weights and epoch are then one file, which is written whole or not at all. Other programs, and the published one,
    load it as any state dict.
    """
    noted = copy.copy(state)
    noted._metadata = OrderedDict(getattr(state, "_metadata", {}), training={"epoch": epoch})
    return noted


def epoch_of(state: Mapping[str, Tensor]) -> int | None:
    """The epoch that a state dict says its weights are of; None where it does not say it."""
    try:
        epoch = state._metadata["training"]["epoch"]
    except (AttributeError, KeyError, TypeError):
        return None
    return epoch if type(epoch) is int and epoch > 0 else None


def load_weights(model: torch.nn.Module, path: Path) -> int | None:
    """Load the state dict in `path`, or in the safetensors file of earlier versions beside it, into `model`.

    Nothing that the files may hold is executed.

    Returns
    -------
    int or None : the epoch of the weights, None where the file does not say it, as those of earlier versions

    Raises
    ------
    InputError : there is no file, it is not a state dict, does not fit the model or holds values that are not numbers,
        or the two files differ
    """
    safe = path.with_suffix(".safetensors")
    files = [file for file in (safe, path) if file.exists()]
    if not files:
        raise InputError(f"{path}: not found; training writes it with its first checkpoint after an epoch")
    state, *others = [read_state_dict(file) for file in files]
    expected = model.state_dict()
    for name in expected.keys() | state.keys():
        found, wanted = (list(d[name].shape) if name in d else "none" for d in (state, expected))
        if found != wanted:
            raise InputError(
                f"{files[0]}: {name} has shape {found}, the configuration's model has {wanted}; "
                f"is configuration.json beside it the one it was trained with?"
            )
        if not is_plain(state[name], expected[name]):
            raise InputError(
                f"{files[0]}: {name} holds {state[name].dtype} values that are not finite or not dense, expected "
                f"finite {expected[name].dtype}; train anew with a smaller --lr, or copy the file again"
            )
    for other in others:
        if other.keys() != state.keys() or not all(torch.equal(other[name], state[name]) for name in state):
            raise InputError(f"{safe}: holds other weights than {path.name} beside it; take away the one that is wrong")
    model.load_state_dict(state)
    return epoch_of(state)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a `.pth` or `.safetensors` file; `InputError` if it holds anything else."""
    try:
        state = load_safetensors(path.read_bytes()) if path.suffix == ".safetensors" else read_tensors(path)
    except Exception as error:  # damaged bytes make the readers raise almost anything
        raise InputError(f"{path}: not a file of weights alone ({first_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: holds no state dict (names and tensors), expected what torch.save(state_dict) wrote")
    return state


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote: tensors on the CPU and plain containers, executing nothing else the file may hold.

    Raises what zipfile and torch raise for a file that is damaged or holds anything else. torch itself does not
    compare a file's content with its checksums.
    """
    if zipfile.is_zipfile(path):
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not fit its content")
    return torch.load(path, map_location="cpu", weights_only=True)


def is_plain(tensor: Tensor, like: Tensor) -> bool:
    """Whether a tensor from a file holds finite numbers of the same kind as `like`, not sparse, quantized or absent."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    kinds = {(t.is_floating_point(), t.is_complex(), t.dtype == torch.bool) for t in (tensor, like)}
    return len(kinds) == 1 and bool(tensor.isfinite().all())


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# Checkpoints

FORMAT = 2  # 1, of earlier versions, holds a digest of the run's options in place of the options
FORMAT_1_OPTIONS = {  # those that there were
    *("SorL", "test_split", "valid_split", "ws", "sr", "text_dim", "feature_dtype", "backbone", "hidden_size"),
    *("num_layers", "bidirectional", "modality", "no_concat", "embed_d", "epochs", "batch_size", "optim", "lr"),
    *("lr_gamma", "lr_decay", "weight_decay", "loss", "lam", "beta", "select", "seed", "precision", "compile"),
}


class Trainee(NamedTuple):
    """What a training step changes."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler


@dataclass
class Progress:
    """How far a run has come.

    epoch : of the next step, counted from 1
    step : steps of that epoch that are done
    losses : of these steps, float32, shape = (step,)
    order : state of the generator that shuffles, as it was at the start of that epoch
    history : one row of figures per finished epoch
    saved : epoch whose weights `model.pth` holds, 0 for none
    """

    epoch: int
    step: int
    losses: Tensor
    order: Tensor
    history: list[dict[str, float]] = field(default_factory=list)
    saved: int = 0

    def check(self, epochs: int, n_steps: int) -> None:
        """Raise `ValueError` where this cannot be the progress of a run of `epochs` of `n_steps`."""
        if [type(number) for number in (self.epoch, self.step, self.saved)] != [int, int, int]:
            raise ValueError("an epoch or step that is no number")
        within = 1 <= self.epoch <= epochs and 0 <= self.step <= n_steps
        if not within and (self.epoch, self.step) != (epochs + 1, 0):
            raise ValueError(f"epoch {self.epoch} and step {self.step}, in a run of {epochs} epochs of {n_steps} steps")
        if self.losses.shape != (self.step,):
            raise ValueError(f"epoch {self.epoch}, step {self.step} and {len(self.losses)} losses")
        if not 0 <= self.saved < self.epoch or len(self.history) != self.epoch - 1:
            finished = len(self.history)
            raise ValueError(f"epoch {self.epoch}, weights of {self.saved} and {finished} finished ones")
        torch.Generator().set_state(self.order)


def decisive_options(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a configuration that decide a run's outcome, except where its corpus lies: it may move."""
    return {name: configuration[name] for name in names_of(MODEL, TRAINING, TEST) if name in configuration}


def is_of_run(content: Mapping[str, Any], configuration: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's content is of the run with this configuration."""
    if content["format"] == 1:  # a digest of all options, of which the configuration may lack some
        held = {name: configuration[name] for name in FORMAT_1_OPTIONS if name in configuration}
        complete = outcome_options(configuration) | held
        return content["run"] in (digest(held), digest({name: complete[name] for name in FORMAT_1_OPTIONS}))
    return identity(content["run"]) == identity(decisive_options(configuration))


def digest(options: Mapping[str, Any]) -> str:
    """SHA-256 of the options, as checkpoints of format 1 hold it."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def make_checkpoint(configuration: Mapping[str, Any], trainee: Trainee, progress: Progress) -> dict[str, Any]:
    """Everything that decides how the run of this configuration goes on; its tensors are still those of the run."""
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "format": FORMAT,
        "run": decisive_options(configuration),
        "model": trainee.model.state_dict(),
        "optimizer": trainee.optimizer.state_dict(),
        "scheduler": trainee.scheduler.state_dict(),
        "progress": {**vars(progress), "losses": progress.losses.cpu()},
        "random": {
            "python": random.getstate(),
            "numpy": (torch.from_numpy(keys.astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
    }


def snapshot(content: Any, device: str | None = None) -> Any:
    """A copy of nested dicts and lists, with their tensors on `device`, or where they are."""
    if isinstance(content, Tensor):
        return content.detach().to(device or content.device, copy=True)
    if isinstance(content, dict):
        copied = copy.copy(content)  # a state dict has attributes, too
        for name, value in content.items():  # `update` of a scheduler's `Counter` would add
            copied[name] = snapshot(value, device)
        return copied
    return [snapshot(value, device) for value in content] if isinstance(content, list) else content


def load_checkpoint(
    path: Path, configuration: Mapping[str, Any], trainee: Trainee, epochs: int, n_steps: int
) -> Progress:
    """Restore everything that `make_checkpoint` gave in a run of `epochs` of `n_steps`, executing nothing else.

    Raises
    ------
    InputError : the file is damaged, no checkpoint of this program, or one of another run
    """
    remedy = "take it away to train from the beginning"
    try:
        content = read_tensors(path)
        found, is_ours = content["format"], content["format"] in (1, FORMAT) and is_of_run(content, configuration)
    except Exception as error:  # damaged bytes make torch's readers raise almost anything
        raise InputError(f"{path}: not readable as a checkpoint ({first_line(error)}); {remedy}") from error
    if found not in (1, FORMAT):
        raise InputError(f"{path}: a checkpoint of format {found!r}, this program writes {FORMAT}; {remedy}")
    if not is_ours:
        raise InputError(f"{path}: the checkpoint of a run with another configuration or corpus; {remedy}")
    try:
        content["progress"].pop("best", None)  # of earlier versions; it stands in the history as well
        progress = Progress(**content["progress"])
        progress.check(epochs, n_steps)
        check_values(content)
        check_optimizer(content["optimizer"], trainee.model)
        keep_kernels(content["optimizer"], trainee.optimizer)
        trainee.model.load_state_dict(content["model"])
        trainee.optimizer.load_state_dict(content["optimizer"])
        trainee.scheduler.load_state_dict(content["scheduler"])
        restore_random_state(content["random"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path}: not a checkpoint of this run ({first_line(error)}); {remedy}") from error
    return progress


def check_values(content: Mapping[str, Any]) -> None:
    """Raise `ValueError` where weights, the optimizer's state or the history hold values that are not finite."""
    for part in ("model", "optimizer"):
        for name, value in leaves(content[part]):
            if isinstance(value, Tensor) and not is_plain(value, value):
                raise ValueError(f"{part}: {name} is not finite or not dense")
    if not all(math.isfinite(value) for _, value in leaves(content["progress"]["history"])):
        raise ValueError("a history of values that are not numbers")
    if not content["progress"]["losses"].isfinite().all():
        raise ValueError("losses that are not numbers")


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts and lists, with its place."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def check_optimizer(state_dict: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Raise `ValueError` where a tensor of the optimizer has not the shape of its weight: torch does not check it."""
    for number, weight in enumerate(model.parameters()):
        for name, kept in state_dict["state"].get(number, {}).items():
            if kept is not None and (kept.shape not in (weight.shape, ()) or not kept.is_floating_point()):
                raise ValueError(f"the optimizer's {name} has shape {list(kept.shape)}, not {list(weight.shape)}")


def keep_kernels(state_dict: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Have a loaded state compute a step as the optimizer does, which depends on the device and not on the run."""
    for loaded, own in zip(state_dict["param_groups"], optimizer.param_groups, strict=False):
        loaded |= {name: own[name] for name in ("fused", "foreach", "capturable") if name in own}


def restore_random_state(states: Mapping[str, Any]) -> None:
    """Put the random generators of Python, NumPy and torch back to where they were."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
