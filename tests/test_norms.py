"""Batch norm in two processes, each with half of a batch, against torch's of the whole batch in one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn

from model import ConvBlock
from training.layers import ChunkedCNN
from training.norms import WholeBatchNorm, synchronise

# Two processes through gloo: process `rank` has windows rank, rank + 2, ...
WORKER = """
import sys, torch, test_norms
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
found = {}
for name in test_norms.CASES:
    model, x, g = test_norms.case(name)
    found[name] = test_norms.step(test_norms.synchronise(model), x[rank::2], g[rank::2])
torch.save(found, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()  # a thread of it that is left at the exit aborts the process
"""
CASES = ("linear", "convolutional", "whole CNN", "negative weights", "bfloat16", "far from zero")
TOLERANCE = {"bfloat16": 2e-2}


def case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, its input of eight windows, and a gradient of its output."""
    torch.manual_seed(CASES.index(name))
    if name == "linear":
        model, x = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.BatchNorm1d(6)), torch.randn(8, 5)
    elif name in ("whole CNN", "negative weights"):
        model = ChunkedCNN(ConvBlock(2, 4, 3, 1), ConvBlock(4, 3, 3, 2)).to(memory_format=torch.channels_last)
        x = torch.randn(8, 2, 12, 14)
    else:
        model, x = nn.Sequential(nn.BatchNorm2d(3)), torch.randn(8, 3, 4, 5).mul(2).add(1)
        x = x.to(memory_format=torch.channels_last) + (100 if name == "far from zero" else 0)
        x = x.bfloat16() if name == "bfloat16" else x
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(norm.weight, 1 if name != "negative weights" else -1)
            nn.init.normal_(norm.bias)
    with torch.no_grad():
        g = torch.randn_like(model.eval()(x))
    return model.train(), x, g


def step(model: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Output, gradients, and kept statistics."""
    x = x.clone().requires_grad_(True)
    output = model(x.clone())
    output.backward(g)
    found = {"output": output.detach(), "input": x.grad}
    found |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return found | dict(model.named_buffers())


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes found."""
    folder: Path = tmp_path_factory.mktemp("norms")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "data")])}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(folder)], env=environment) for rank in range(2)
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_halves_of_a_batch_are_normalised_as_the_whole(halves, name):
    model, x, g = case(name)
    expected = step(model, x, g)
    first, second = (half[name] for half in halves)
    assert expected.keys() == first.keys()
    for key, value in expected.items():
        if key in ("output", "input"):
            ours = torch.stack([first[key], second[key]], 1).flatten(0, 1)
        elif key.startswith("gradient"):  # of the loss that sums over the windows
            ours = first[key] + second[key]
        else:
            assert torch.equal(first[key], second[key])
            ours = first[key]
        tolerance = TOLERANCE.get(name, 1e-5) * max(1.0, value.abs().max().item())
        torch.testing.assert_close(ours, value, rtol=0, atol=tolerance, msg=lambda said, key=key: f"{key}: {said}")


def test_in_one_process_it_is_batch_norm_and_its_weights_have_the_same_names():
    model, x, g = case("linear")
    expected, names = step(model, x, g), list(model.state_dict())
    again, *_ = case("linear")
    ours = synchronise(again)
    assert isinstance(ours[2], WholeBatchNorm)
    assert list(ours.state_dict()) == names
    for key, value in step(ours, x, g).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.eval()(x), again.eval()(x))


def test_a_step_has_an_all_reduce_a_layer_and_direction(monkeypatch):
    model, x, g = case("convolutional")
    reduced = []
    monkeypatch.setattr("training.norms.n_processes", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t: reduced.append(tuple(t.shape)))
    step(synchronise(model), x, g)
    assert reduced == [(2, 3), (2, 3)]
