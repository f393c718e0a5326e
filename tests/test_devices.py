"""Devices: which one is picked, what is said of those that cannot be used, and how copies reach them."""

import re

import pytest
import torch

import benchmark
import main as program
from dataset import Batch
from model import ConvBlock
from training import devices
from training.engine import make_optimizer, to_device
from training.measure import matrix_peak, peak_memory, wait_for
from utils import InputError, describe_failure

CUDA = torch.device("cuda:1")


@pytest.fixture
def card(monkeypatch):
    """A machine with two GPUs of compute capability 9.0, as far as torch.cuda says."""
    answers = {
        "is_available": True,
        "device_count": 2,
        "get_device_capability": (9, 0),
        "get_device_name": "Some GPU",
        "get_arch_list": ["sm_75", "sm_80", "sm_90", "sm_120", "compute_120"],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    return monkeypatch


def no_gpu(monkeypatch, reason: str) -> None:
    def fail() -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)


def test_a_gpu_is_taken_by_its_number(card):
    assert devices.pick_device(None) == torch.device("cuda:0")
    assert devices.pick_device("1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="--gpu_id 2: this machine has 2 CUDA devices"):
        devices.pick_device("2")


def test_apples_gpu_is_taken_only_when_asked_for(monkeypatch):
    no_gpu(monkeypatch, "Found no NVIDIA driver on your system.")
    for there in (False, True):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=there: there)
        assert devices.pick_device(None) == torch.device("cpu")
        if there:
            assert devices.pick_device("mps") == torch.device("mps")
        else:
            with pytest.raises(InputError, match="--gpu_id mps: torch finds no Apple GPU here"):
                devices.pick_device("mps")


@pytest.mark.parametrize("gpu_id", [None, "0"])
def test_a_driver_too_old_is_one_line_with_what_to_install(monkeypatch, gpu_id):
    no_gpu(monkeypatch, "The NVIDIA driver on your system is too old (found version 11040). Please update")
    with pytest.raises(InputError, match="the NVIDIA driver is too old for the installed torch") as raised:
        devices.pick_device(gpu_id)
    installed = torch.__version__.partition("+")[0]
    assert f"torch=={installed}" in str(raised.value)
    assert str(raised.value).endswith(f"--index-url {devices.OLDER_CUDA}), or give --gpu_id cpu")
    assert devices.pick_device("cpu") == torch.device("cpu")


def test_torchs_own_warning_of_an_old_driver_is_not_shown_as_well(monkeypatch, recwarn):
    def warn() -> bool:
        torch.cuda.warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    assert not devices.has_cuda()
    assert not recwarn


def test_a_card_too_old_is_one_line_with_what_to_install(card):
    card.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    with pytest.raises(InputError, match=r"cuda:0 \(Some GPU, sm_70\): the installed torch has code for sm_75, sm_80"):
        devices.pick_device(None)


@pytest.mark.parametrize(
    ("capability", "architecture", "runs"),
    [
        *(((8, 6), "sm_80", True), ((8, 0), "sm_86", False), ((9, 0), "sm_80", False), ((9, 0), "sm_90a", True)),
        *(((12, 1), "compute_120", True), ((9, 0), "compute_120", False), ((10, 3), "sm_100", True)),
    ],
)
def test_code_runs_on_its_major_version_and_intermediate_code_on_later_ones(capability, architecture, runs):
    assert devices.runs_on(capability, architecture) is runs


def test_the_device_is_named_at_the_start(preprocessed, tmp_path, capsys):
    argv = ["--data_path", str(preprocessed), "--save_path", str(tmp_path), "--gpu_id", "cpu", "--batch_size", "1000"]
    assert program.main([*argv, "--modality", "text", "--test_split", "1-2"]) == 2
    assert re.search(r"^device: +cpu \(.+, \d+ threads\), trains in", capsys.readouterr().out, re.MULTILINE)


def test_repeatable_algorithms_do_not_fill_new_memory(card):
    try:
        devices.seed_everything(0)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "words",
    [
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA out of memory. Tried to allocate 1.09 GiB.",
    ],
)
def test_lack_of_memory_is_known_in_the_words_of_every_library(words):
    status, line = describe_failure(RuntimeError(words))
    assert (status, line) == (2, f"error: not enough memory ({words}); try a smaller model or --batch_size")


# How tensors get to a GPU


class Copy:
    """A tensor on the CPU that notes how it is copied."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.done: list[object] = []

    def contiguous(self) -> "Copy":
        self.done.append("contiguous")
        return self

    def pin_memory(self) -> "Copy":
        self.done.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> "Copy":
        self.done += [device.type, *(["waits for nothing"] if non_blocking else [])]
        return self


def test_copies_to_cuda_are_pinned_and_those_to_apples_gpu_are_waited_for():
    for name, expected in (
        ("cuda", ["pinned", "cuda", "waits for nothing"]),
        ("mps", ["contiguous", "mps"]),
        ("cpu", ["cpu"]),
    ):
        Batch(copy := Copy(), None, None, None, None).to(torch.device(name))
        assert copy.done == expected


def test_convolutions_are_contiguous_on_apples_gpu_and_channels_last_elsewhere(monkeypatch):
    block = ConvBlock(8, 32, 3, 1).to(memory_format=torch.channels_last)
    to_device(block, torch.device("cpu"))
    assert not block.conv.weight.is_contiguous()
    move, asked = torch.nn.Module.to, []

    def to(module: torch.nn.Module, device: torch.device, memory_format: torch.memory_format) -> torch.nn.Module:
        asked.append(device.type)
        return move(module, memory_format=memory_format)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    to_device(block, torch.device("mps"))
    assert asked == ["mps"]
    assert block.conv.weight.is_contiguous()


@pytest.mark.parametrize("begun_fused", [True, False])
def test_adagrad_goes_on_on_a_device_that_steps_in_another_way(begun_fused):
    """torch has a fused Adagrad on CPUs alone."""
    from training.state import keep_kernels

    model = torch.nn.Linear(2, 1)
    begun, goes_on = (make_optimizer("adagrad", model, 0.1, 0.0, 0.0) for _ in range(2))
    begun.param_groups[0]["fused"], goes_on.param_groups[0]["fused"] = begun_fused, not begun_fused
    state = begun.state_dict()
    keep_kernels(state, goes_on)
    goes_on.load_state_dict(state)
    assert goes_on.param_groups[0]["fused"] is not begun_fused


# What benchmark.py measures on a GPU


def test_a_measurement_waits_for_its_own_gpu_and_reads_its_memory(card):
    waited = []
    card.setattr(torch.cuda, "synchronize", waited.append)
    card.setattr(torch.cuda, "max_memory_allocated", {CUDA: 3e9}.get)
    wait_for(CUDA)
    wait_for(torch.device("cpu"))
    assert waited == [CUDA]
    assert peak_memory(CUDA) == 3
    assert 0 < peak_memory(torch.device("cpu")) != 3


def test_the_peak_of_a_gpu_is_that_of_large_products(card):
    sizes = []
    card.setattr(torch.cuda, "synchronize", lambda _: None)
    card.setattr(torch, "randn", lambda *size, **_: sizes.append(size) or torch.ones(1, 1))
    matrix_peak(CUDA, torch.float32)
    assert sizes == [(8192, 8192)]


def test_the_benchmark_has_the_settings_of_a_run(card, tmp_path):
    benchmark.make_corpus(tmp_path / "corpus", 4)
    args = benchmark.get_args_parser().parse_args(["--gpu_id", "cpu"])
    try:
        torch.backends.cudnn.deterministic = False
        benchmark.Ours(benchmark.read_corpus(tmp_path / "corpus", tmp_path / "features"), args)
        assert torch.backends.cudnn.deterministic
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
