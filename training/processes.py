"""Processes: one run in several, which `torchrun` or `accelerate launch` starts, and what they share.

Without a launcher there is one process, nothing is imported, and everything here does nothing.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from training.devices import has_cuda, pick_device
from utils import InputError, Interrupted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from loss import Loss

T = TypeVar("T")
Stop = TypeVar("Stop", InputError, Interrupted)


@dataclass(frozen=True)
class Processes:
    """The processes of a run; each holds one of these.

    rank : number of this process; process 0 alone writes and prints
    size : how many there are
    device : of this process; None without a launcher: then `--gpu_id` decides
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    @property
    def first(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def gather(self, items: list[T]) -> list[T]:
        """The items of all processes, process 0 first, in every process."""
        if self.size == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        """A block that every process enters; an error in one stops all of them at its end, and is reported once."""
        if self.size == 1:
            yield
            return
        caught = None
        try:
            yield
        except Exception as error:
            caught = error
        own = caught if caught is None or isinstance(caught, InputError) else InputError(f"process {self.rank} failed")
        errors = [error for error in self.gather([own]) if error is not None]
        if caught is not own:
            raise caught  # with its traceback
        if errors:
            raise self.reported_by_first(errors[0]) from caught

    def reported_by_first(self, error: Stop) -> Stop:
        """An error that every process raises, marked so that only process 0 reports it."""
        error.reported = not self.first
        return error

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in process 0, which alone calls it."""
        value = None
        with self.all_or_none():
            if self.first:
                value = make()
        return self.gather([value])[0]

    def highest(self, number: int) -> int:
        """The highest of the processes' numbers; no GPU is waited for."""
        if self.size == 1:
            return number
        import torch
        from accelerate.utils import reduce

        return int(reduce(torch.tensor(number), "max"))  # on the CPU, and thus through gloo

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of the processes' tensors."""
        if self.size == 1:
            return tensor
        from accelerate.utils import reduce

        return reduce(tensor, "mean")

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with those of process 0."""
        if self.size > 1:
            from accelerate.utils import broadcast

            broadcast(list(tensors))

    def share(self, n: int) -> range | None:
        """The numbers below `n` that this process tests, a contiguous part of them, maybe none; None means all."""
        if self.size == 1:
            return None
        return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def synchronise_statistics(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model with statistics of batch norm over the whole batch."""
        if self.size == 1:
            return model
        from training.norms import synchronise

        return synchronise(model)

    def of_whole_batch(self, loss: Loss) -> Loss:
        """The loss of the windows of all processes, for a loss that is no mean over windows, such as 1 - CCC.

        Its gradient in each process is that of its own windows, times the number of processes: `average_gradients`
        divides the sum by it.
        """
        if self.size == 1:
            return loss
        import torch
        from accelerate.utils import gather

        def everyone(own: Tensor) -> Tensor:
            parts = list(gather(own.detach().contiguous()).chunk(self.size))
            parts[self.rank] = own
            return torch.cat(parts)

        def whole(prediction: tuple[Tensor, ...], target: tuple[Tensor, ...]) -> Tensor:
            value = loss(tuple(map(everyone, prediction)), tuple(map(everyone, target)))
            return self.size * value - (self.size - 1) * value.detach()

        return whole

    def average_gradients(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model as it is trained: its weights become those of process 0, its gradients the processes' means.

        Each process sees its part of a batch, all parts equally large, so these are the gradients of the whole batch.
        """
        if self.size == 1:
            return model
        import torch

        devices = [self.device] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, devices, broadcast_buffers=False)


ALONE = Processes()


def launched() -> tuple[int, int]:
    """Rank of this process and number of processes, from the environment that a launcher sets."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    return (int(os.environ.get("RANK", 0)) if size > 1 else 0), size


@contextlib.contextmanager
def join(gpu_id: str | None) -> Iterator[Processes]:
    """Meet the other processes of this run, if there are any, and part from them after the block.

    Parameters
    ----------
    gpu_id : of `--gpu_id`; `cpu` or None, which gives each process a GPU of its own where there are any

    Raises
    ------
    InputError : it is a number, this machine has fewer GPUs than processes, or accelerate was asked for MPI
    """
    rank, size = launched()
    if size == 1:
        if os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ:  # several were asked for
            raise InputError(
                "accelerate launch --cpu starts several processes through MPI alone, which this program does not use; "
                "give it --multi_gpu in place of --cpu, and main.py --gpu_id cpu"
            )
        yield ALONE
        return
    import torch
    from accelerate import PartialState

    use_cpu = gpu_id == "cpu" or os.environ.get("ACCELERATE_USE_CPU") == "True" or not has_cuda()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
        # What lies on a CPU goes through gloo, also beside GPUs
        state = PartialState(cpu=use_cpu, backend="gloo" if use_cpu else "cpu:gloo,cuda:nccl")
    try:
        with Processes(rank, size).all_or_none():
            if gpu_id not in (None, "cpu"):
                raise InputError(f"--gpu_id {gpu_id}: {size} processes take a GPU each; leave it out, or give cpu")
            local, n_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", size)), torch.cuda.device_count()
            if not use_cpu and local > n_gpus:
                raise InputError(
                    f"this machine has {n_gpus} GPUs for {local} processes; start as many as there are, or give "
                    "--gpu_id cpu"
                )
        yield Processes(rank, size, pick_device("cpu" if use_cpu else str(state.local_process_index)))
    finally:
        state.destroy_process_group()
