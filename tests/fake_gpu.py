"""A GPU for tests on a machine without one: tensors on the CPU are real, those on CUDA have a shape and no values.

Whole runs of main.py go through it. It fails for an operation that mixes devices, and counts what a run on a GPU would
wait for. It does not see what kernels compute, streams, several processes and `--compile`.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
UNNOTICED_BYTES = 64 << 10  # a copy of so much from unpinned memory does not wait for the GPU


def gru_cell(_input: Tensor, _hidden: Tensor, hidden: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), hidden.new_empty(len(hidden), 5 * hidden.shape[1])


def gru_cell_backward(gradient: Tensor, *_: object) -> tuple[Tensor, ...]:
    gates = gradient.new_empty(len(gradient), 3 * gradient.shape[1])
    bias = gradient.new_empty(3 * gradient.shape[1])
    return gates, gates, gradient, bias, bias


# What torch has no fake of
NO_FAKE = {
    aten._thnn_fused_gru_cell.default: gru_cell,
    aten._thnn_fused_gru_cell_backward.default: gru_cell_backward,
    aten._fused_sgd_.default: lambda *_, **__: None,
}


class FakeGpu(TorchDispatchMode):
    """Runs operations on CUDA tensors without values.

    Attributes
    ----------
    waits : how often each part of a run waits for the GPU, by (part, why); see `part`
    unpinned : bytes of each copy from unpinned memory, by part
    products : for each part whether float32 products are in TF32
    graphs : how often a CUDA graph was "recorded" and "replayed"; a replay computes nothing, as everything here
    part : what the run does now: "step", "batch", or "" for everything else
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits: Counter[tuple[str, str]] = Counter()
        self.unpinned: defaultdict[str, list[int]] = defaultdict(list)
        self.products: set[tuple[str, bool]] = set()
        self.graphs: Counter[str] = Counter()
        self.part = ""

    def during(self, part: str, function: Callable) -> Callable:
        """The function, while which the run is in this part."""

        def called(*args: object, **kwargs: object) -> object:
            before, self.part = self.part, part
            try:
                return function(*args, **kwargs)
            finally:
                self.part = before

        return called

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to = torch.device(kwargs.get("device") or "meta").type
        if to != "cuda" and not any(isinstance(t, FakeTensor) for t in tree_leaves((args, kwargs))):
            return op(*args, **kwargs)
        if op.namespace == "aten" and torch.is_inference_mode_enabled() and op._can_decompose():
            with self:
                return op.decompose(*args, **kwargs)
        if (instead := self.result_of_a_wait(op, args, kwargs, to)) is not None:
            return instead
        if op in (aten.mm.default, aten.addmm.default):
            self.products.add((self.part, torch.backends.cuda.matmul.allow_tf32))
        goes_up = op is aten._to_copy.default and to == "cuda" and not isinstance(args[0], FakeTensor)
        if goes_up and not getattr(args[0], "pinned", False):
            self.unpinned[self.part].append(args[0].nbytes)
        if op is aten.index.Tensor:
            assert args[0].device.type == "cuda", "a tensor on the CPU is indexed with one on the GPU"
            self.waits[self.part, "mask"] += any(i is not None and i.dtype == torch.bool for i in args[1])
        args, kwargs = tree_map(self.as_fake, (args, kwargs))
        with self.fake:
            return NO_FAKE.get(op, op)(*args, **kwargs)

    def result_of_a_wait(self, op, args: tuple, kwargs: dict, to: str) -> object | None:
        """Made-up values of an operation that waits for the GPU, None for other operations."""
        if op is aten._local_scalar_dense.default:
            self.waits[self.part, "item"] += 1
            return torch.ones((), dtype=args[0].dtype).item()
        if op is aten._to_copy.default and to == "cpu":
            self.waits[self.part, "copy"] += 1
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return None

    def as_fake(self, t: object) -> object:
        with self.fake:
            plain = isinstance(t, Tensor) and not isinstance(t, FakeTensor)
            return torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=t.device) if plain else t


class FakeStream:
    def __init__(self, *_: object) -> None: ...
    def wait_stream(self, other: "FakeStream") -> None: ...


def fake_graphs(mode: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams, and CUDA graphs whose recording runs the code that is recorded."""

    class FakeGraph:
        def replay(self) -> None:
            mode.graphs["replayed"] += 1

    @contextlib.contextmanager
    def record(graph: FakeGraph, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        mode.graphs["recorded"] += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)  # optimizers ask
            yield

    for name, value in (
        ("Stream", FakeStream),
        ("current_stream", FakeStream),
        ("stream", lambda _: contextlib.nullcontext()),
        ("CUDAGraph", FakeGraph),
        ("graph", record),
    ):
        monkeypatch.setattr(torch.cuda, name, value)


def pin(t: Tensor) -> Tensor:
    pinned = t.clone()
    pinned.pinned = True
    return pinned


class AtOnce:
    """In place of a `ThreadPoolExecutor`: a `FakeTensorMode` is for one thread."""

    def __init__(self, *_: object, **__: object) -> None: ...
    def __exit__(self, *_: object) -> None: ...

    def __enter__(self) -> "AtOnce":
        return self

    def submit(self, function: Callable, *args: object) -> Future:
        future = Future()
        future.set_result(function(*args))
        return future


def backward(loss: Tensor) -> None:
    """Autograd's way back, node by node: torch 2.11's engine asks CUDA for a device."""
    waiting, todo, seen = Counter(), [loss.grad_fn], {loss.grad_fn}
    while todo:
        nodes = [node for node, _ in todo.pop().next_functions if node is not None]
        waiting.update(nodes)
        todo += [node for node in dict.fromkeys(nodes) if node not in seen]
        seen.update(nodes)
    gradients: defaultdict = defaultdict(dict, {loss.grad_fn: {0: torch.ones_like(loss)}})
    ready = [loss.grad_fn]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            given = gradients.pop(node, {})
            if hasattr(node, "variable"):
                node.variable.grad = given[0]
                continue
            found = node(*map(given.get, range(len(node._input_metadata))))
            found = found if isinstance(found, tuple) else (found,)
            for (to, number), gradient in zip(node.next_functions, found, strict=True):
                if to is None:
                    continue
                if gradient is not None:
                    wanted = to._input_metadata[number]
                    assert gradient.device == wanted.device
                    gradient = gradient.sum_to_size(wanted.shape).to(wanted.dtype)
                    of_node = gradients[to]
                    of_node[number] = gradient + of_node[number] if number in of_node else gradient
                waiting[to] -= 1
                ready += [] if waiting[to] else [to]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """Two fake GPUs of 80 GB and compute capability 9.0."""
    from training import engine, run

    save = torch.save

    def on_the_cpu(t: object) -> object:
        return t.detach().cpu() if isinstance(t, Tensor) else t

    answers = {
        "is_available": True,
        "device_count": 2,
        "get_device_capability": (9, 0),
        "get_device_name": "fake GPU",
        "get_arch_list": ["sm_90"],
        "_lazy_init": None,
        "mem_get_info": (80 << 30, 80 << 30),
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "get_rng_state_all": [torch.zeros(16, dtype=torch.uint8)] * 2,
        "set_rng_state_all": None,
        "synchronize": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 3_000_000_000,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    mode = FakeGpu()
    for where, name, value in (
        (fake_tensor, "init_gpu_context", lambda _: None),
        (Tensor, "pin_memory", pin),
        (Tensor, "backward", backward),
        (torch, "save", lambda content, file: save(tree_map(on_the_cpu, content), file)),
        (engine, "ThreadPoolExecutor", AtOnce),
        (AtOnce, "submit", mode.during("batch", AtOnce.submit)),
        (engine, "train_step", mode.during("step", engine.train_step)),
        (run.Run, "log", mode.during("log", run.Run.log)),
    ):
        monkeypatch.setattr(where, name, value)
    fake_graphs(mode, monkeypatch)
    torch._C._ensureCUDADeviceGuardSet()
    with torch.backends.cudnn.flags(enabled=False), mode:  # cuDNN's LSTM asks the driver
        yield mode
    torch.use_deterministic_algorithms(False)
