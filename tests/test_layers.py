import copy
import gc

import pytest
import torch

import training.layers
from model import ConvBlock
from training.layers import ChunkedCNN, Normalised
from training.norms import mean_and_variance


def plain_cnn(blocks: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The published order of layers, each on the whole batch."""
    for block in blocks:
        x = block.bn(block.conv(x)).relu()
        if block.pool > 1:
            x = torch.nn.functional.max_pool2d(x, block.pool)
    return x


def train_step(cnn: torch.nn.Module, run, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics of a step in training, float64."""
    x = x.clone().requires_grad_()
    output = run(x)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    found = {"output": output, "input": x.grad} | {name: p.grad for name, p in cnn.named_parameters()}
    found |= {name: b for name, b in cnn.named_buffers() if "running" in name}
    return {name: tensor.detach().double() for name, tensor in found.items()}


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20, 1 << 40], ids=["single", "few", "whole"])
def test_cnn_in_chunks_trains_as_torch_does_on_the_whole_batch(chunk_bytes, monkeypatch):
    monkeypatch.setattr(training.layers, "CHUNK_BYTES", chunk_bytes)
    torch.manual_seed(0)
    chunked = ChunkedCNN(ConvBlock(2, 6, 3, 1), ConvBlock(6, 5, 3, 2), ConvBlock(5, 3, 2, 3)).to(
        memory_format=torch.channels_last
    )
    with torch.no_grad():
        for block in chunked:
            block.bn.weight[::2] *= -0.7  # the largest value is the smallest once it is normalised
            block.bn.bias.uniform_(-0.5, 0.5)
    plain, rough = copy.deepcopy(chunked).double(), copy.deepcopy(chunked)
    x = torch.randn(5, 2, 40, 51).to(memory_format=torch.channels_last)
    for _ in range(2):  # gradients and running statistics add up
        ours = train_step(chunked, chunked, x)
        exact = train_step(plain, lambda x: plain_cnn(plain, x), x.double())
    for name, expected in exact.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=2e-5 * expected.abs().max().item(), msg=name)
    assert all(block.bn.num_batches_tracked == 2 for block in chunked)
    torch.testing.assert_close(chunked.eval()(x).double(), plain_cnn(plain.eval(), x.double()), rtol=1e-4, atol=1e-5)
    plain = copy.deepcopy(rough).double()
    exact = train_step(plain, lambda x: plain_cnn(plain, x), x.double())
    with torch.autocast("cpu", torch.bfloat16):  # coarse, but with the same statistics
        step = train_step(rough, rough, x)
    for name, value in step.items():
        if value.numel() > 50:
            assert torch.cosine_similarity(value.flatten(), exact[name].flatten(), dim=0) > 0.95, name
        if "running" in name:
            torch.testing.assert_close(value, plain_statistics(rough, x)[name], rtol=0.02, atol=0.005)


@pytest.mark.parametrize(("bfloat16", "size"), [(False, 4), (True, 2)], ids=["float32", "bfloat16"])
def test_normalised_values_are_not_kept(bfloat16, size, monkeypatch):
    monkeypatch.setattr(training.layers, "CHUNK_BYTES", 1)
    cnn = ChunkedCNN(ConvBlock(2, 16, 3, 1), ConvBlock(16, 8, 3, 2)).to(memory_format=torch.channels_last)
    x = torch.randn(6, 2, 64, 64).to(memory_format=torch.channels_last)
    cpu = [torch.profiler.ProfilerActivity.CPU]
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profiler, autocast:
        y = cnn(x)
    kept = sum(event.self_cpu_memory_usage for event in profiler.key_averages())
    inputs = x.numel() if bfloat16 else 0  # as they are cast
    convolved = 6 * (16 * 62**2 + 8 * 60**2)
    pooled = 6 * 8 * 30**2
    # The first block's normalised values would be 60% more
    assert kept == pytest.approx(size * (inputs + convolved + pooled + y.numel()), rel=0.05)
    y.sum().backward()  # a training step holds on to its loss, and so to the graph, until the next one's
    assert not any(type(thing) is Normalised for thing in gc.get_objects())


def plain_statistics(cnn: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    fresh = copy.deepcopy(cnn).double()
    for block in fresh:
        block.bn.reset_running_stats()
    plain_cnn(fresh.train(), x.double())
    return dict(fresh.named_buffers())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-4)])
def test_statistics_are_as_accurate_as_float32_allows(dtype, tolerance):
    torch.manual_seed(0)
    x = torch.randn(1, 4, 227, 311) * 3 + torch.tensor([0.0, 1, -5, 10])[:, None, None]
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    mean, variance = mean_and_variance(x)
    exact = x.double().var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(variance, exact, rtol=tolerance, atol=0)
    error = (mean - x.double().mean(dim=(0, 2, 3))) / exact.sqrt()
    assert error.abs().max() < tolerance
