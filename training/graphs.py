"""Graphs: a whole training step, recorded once as a CUDA graph and then launched as one piece."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dataset import Batch
from loss import Loss
from training import engine
from training.state import first_line

if TYPE_CHECKING:
    from training.run import Run

WARM_UP = 3  # plain steps before a recording: in them cuDNN picks its kernels and the optimizer makes its state

Step = Callable[[Batch], Tensor]  # a step of gradient descent on a batch; gives its loss


def make_step(run: Run, loss_function: Loss, bfloat16: bool) -> Step:
    """The training step of a run, which `--cuda_graph` has recorded; where that cannot be, a warning says why."""

    def step(batch: Batch) -> Tensor:
        return engine.train_step(run.trained, batch, loss_function, run.optimizer, bfloat16)

    if not run.options.cuda_graph:
        return step
    if reason := why_not(run.device, run.processes.size, run.optimizer):
        warn(reason)
        return step
    return GraphedStep(step, run.optimizer, run.device)


def why_not(device: torch.device, n_processes: int = 1, optimizer: torch.optim.Optimizer | None = None) -> str | None:
    """Why a training step cannot be recorded, as far as that is known before; None where it can."""
    if device.type != "cuda":
        return f"the device is {device}, and only CUDA GPUs have graphs"
    if n_processes > 1:
        return f"{n_processes} processes exchange numbers in a step"
    if isinstance(optimizer, torch.optim.Adagrad):
        return "Adagrad counts its steps on the CPU"
    return None


def warn(reason: str) -> None:
    """Say that the run goes on without a graph."""
    warnings.warn(f"--cuda_graph: {reason}; training goes on step by step, with the same numbers", stacklevel=3)


class StaticStep:
    """A training step on a batch that stays where it is in memory: each one is copied into it.

    All batches have the shapes of the first one.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.batch: Batch | None = None

    def load(self, batch: Batch) -> None:
        """Copy a batch to where the step finds it."""
        if self.batch is None:
            self.batch = Batch(*(None if t is None else t.clone() for t in batch))
        for own, given in zip(self.batch, batch, strict=True):
            if own is not None:
                own.copy_(given)

    def __call__(self, batch: Batch) -> Tensor:
        """A step on these windows; returns their loss."""
        self.load(batch)
        return self.step(self.batch)


class GraphedStep(StaticStep):
    """A training step that is recorded as a CUDA graph after a few plain ones, and replayed from then on.

    A graph launches the kernels of the plain step with the same arguments: the same numbers. It holds the addresses of
    its tensors and the learning rate, so another learning rate has the step recorded again. Nothing in the step may
    wait for the GPU. Where a recording fails, a warning says why, and all further steps are plain.

    The steps before a recording are on a stream of their own, as torch asks for: what autograd makes on the stream that
    everything else is on cannot be recorded on another.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        super().__init__(step)
        self.optimizer, self.device = optimizer, device
        self.stream = torch.cuda.Stream(device)
        self.plain_steps = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.loss: Tensor | None = None  # of the last replay
        self.rates: list[float] | None = None  # learning rates that the graph holds
        self.failed = False
        for group in optimizer.param_groups:
            if "capturable" in group:  # Adam and AdamW ask for it; their fused kernels compute the same with it
                group["capturable"] = True

    def __call__(self, batch: Batch) -> Tensor:
        self.load(batch)
        if self.failed:
            return self.step(self.batch)
        if self.plain_steps < WARM_UP:
            self.plain_steps += 1
            return self.warm_up()
        rates = [group["lr"] for group in self.optimizer.param_groups]
        if rates != self.rates:
            try:
                self.record()
            except RuntimeError as error:
                self.failed, self.graph = True, None
                warn(f"the step cannot be recorded ({first_line(error)})")
                self.optimizer.zero_grad(set_to_none=True)
                return self.step(self.batch)
            self.rates = rates
        self.graph.replay()
        return self.loss.clone()  # the next replay writes over it

    def warm_up(self) -> Tensor:
        """A plain step on the stream of the recording."""
        main = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            loss = self.step(self.batch)
        main.wait_stream(self.stream)
        return loss

    def record(self) -> None:
        """Record the step, which is not done by that.

        The thread that makes the next batch may use the GPU meanwhile; torch forbids that unless it is told.
        """
        self.graph = self.loss = None  # an earlier one gives its memory back first
        self.optimizer.zero_grad(set_to_none=True)  # the gradients get their places in the graph's memory
        graph, main = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        recording = torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local")
        with torch.cuda.stream(main), recording:  # the former restores the stream where the latter fails
            self.loss = self.step(self.batch)
        self.graph = graph
