"""The engine: training step, optimizers, evaluation, precision, memory, the CNN for CPUs, weights and history."""

import copy
import gc
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

import training.cpu_cnn
from constants import EMOTIONS
from dataset import Batch, Features, WindowDataset
from loss import make_loss
from model import MATE, ConvBlock
from training.checkpoint import best_epoch, epoch_of_weights, is_over, load_weights, save_tensors
from training.cpu_cnn import ChunkedCNN, Normalised, mean_and_variance
from training.devices import environment, glibc, pick_device
from training.engine import (
    NonFinite,
    check_batch_size,
    check_weights,
    evaluate,
    make_optimizer,
    make_scheduler,
    mean_loss,
    train_step,
    trains_in_bfloat16,
)
from training.options import make_options
from utils import InputError

CPU = torch.device("cpu")
LOSS = make_loss("normal", 0.66, 0.9, np.ones(7, dtype=int))


def batches(n: int = 2, size: int = 3, seed: int = 0) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g)

    return [
        Batch(None, draw(size, 8, 768), draw(size, 7).softmax(1), draw(size, 1).tanh() + 3, draw(size, 1).tanh() + 3)
        for _ in range(n)
    ]


def small_model() -> MATE:
    torch.manual_seed(0)
    return MATE(hidden_size=4, num_layers=1, modality="text")


def dataset(n: int = 7, **settings) -> WindowDataset:
    """Windows of one dialogue with random sentence embeddings and labels."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(7), n).astype(np.float32)
    columns = {f"share_{name}": shares[:, i] for i, name in enumerate(EMOTIONS)}
    emotion = [EMOTIONS[i] for i in shares.argmax(1)]
    affect = {name: rng.uniform(1, 5, n).astype(np.float32) for name in ("arousal", "valence")}
    ids = [f"Sess01_script01_F{i:03d}" for i in range(n)]
    table = pd.DataFrame({"id": ids, "dialogue": "a", "speaker": "F", "emotion": emotion} | affect | columns)
    text = torch.randn(n, 768, generator=torch.Generator().manual_seed(0))
    return WindowDataset(table, Features(None, text, None), np.arange(n), 8, **settings)


def test_a_training_step_is_a_step_of_gradient_descent():
    model, plain = small_model(), small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for batch in batches(2, 32):
        loss = train_step(model.train(), batch, LOSS, optimizer)
        value = LOSS(plain.train()(None, batch.text, log=True), batch[2:])
        for p, gradient in zip(plain.parameters(), torch.autograd.grad(value, plain.parameters()), strict=True):
            p.data -= 0.05 * gradient
        assert loss.item() == pytest.approx(value.item(), rel=1e-5)
        assert not loss.requires_grad
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("adagrad", torch.optim.Adagrad, {"lr_decay": 0.1}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_optimizers_are_those_of_their_names_and_step_as_plain_ones_do(name, kind, own):
    fused, plain = (torch.nn.Linear(9, 4) for _ in range(2))
    plain.load_state_dict(fused.state_dict())
    ours = make_optimizer(name, fused, 1e-2, 0.1, 1e-2, 0.9)
    theirs = kind(plain.parameters(), lr=1e-2, weight_decay=1e-2, **own, foreach=False, fused=False)
    assert type(ours) is kind
    assert ours.defaults["fused"]
    for _ in range(3):
        for p, same in zip(fused.parameters(), plain.parameters(), strict=True):
            p.grad = same.grad = torch.randn_like(p)
        ours.step()
        theirs.step()
    for p, expected in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_used_in_convolutions_where_told_and_only_there():
    seen, after = [], []
    model = MATE(hidden_size=4, num_layers=1)
    sound = batches(1)[0]._replace(audio=torch.randn(3, 8, 229, 313))
    model.audio_embedding.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    model.lstm.register_forward_hook(lambda _, __, output: after.append(output[0].dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for bfloat16 in (False, True):
        assert train_step(model.train(), sound, LOSS, optimizer, bfloat16).dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]
    assert after == [torch.float32] * 2
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_auto_takes_bfloat16_where_the_processor_has_it(monkeypatch):
    for capabilities, expected in (({"avx512_bf16": True}, True), ({"avx512_f": True, "avx512_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert trains_in_bfloat16("auto", CPU) is expected
    for capability, expected in (((8, 0), True), ((7, 5), False), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert trains_in_bfloat16("auto", torch.device("cuda:0")) is expected
    assert not trains_in_bfloat16("auto", torch.device("mps"))
    assert trains_in_bfloat16("bf16", CPU)
    assert not trains_in_bfloat16("fp32", CPU)


@pytest.mark.parametrize(("epochs", "drops"), [(6, [2, 3]), (100, [33, 50]), (2, [1]), (1, [])])
def test_learning_rate_drops_after_a_third_and_after_half(epochs, drops):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, epochs, 0.5)
    for epoch in range(epochs):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 ** sum(drop <= epoch for drop in drops))
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("affect", ["mse", "ccc"])
def test_evaluation_gives_predictions_in_order_and_the_loss_of_all_windows_whatever_the_batches(affect):
    model, windows = small_model().eval(), dataset(soft_targets=True)
    loss_function = make_loss("normal", 0.66, 0.9, np.ones(7, dtype=int), affect=affect)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = windows.batch(range(7))
    with torch.no_grad():
        expected = model(None, whole.text, log=True)
    for size in (1, 3, 64):
        arrays, loss = evaluate(model, windows, size, CPU, loss_function)
        assert loss == pytest.approx(loss_function(expected, whole.target).item(), rel=1e-5)
        assert arrays.keys() == {"emotion_pred", "arousal_pred", "valence_pred"}
        np.testing.assert_allclose(arrays["emotion_pred"], expected[0].exp(), rtol=1e-4)
        np.testing.assert_allclose(arrays["arousal_pred"], expected[1][:, 0], rtol=1e-4)
        np.testing.assert_allclose(arrays["valence_pred"], expected[2][:, 0], rtol=1e-4)
    assert np.isnan(evaluate(model, windows, 3, CPU)[1])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_is_not_finite_is_noticed():
    model, order = small_model(), [torch.tensor([0, 1]), torch.tensor([2, 3])]
    check_weights(model)
    with torch.no_grad():
        model.mlp_emotion[-1].bias[3] = float("nan")
    with pytest.raises(NonFinite):
        check_weights(model)
    with pytest.raises(NonFinite):
        evaluate(model, dataset(), 3, CPU)
    ids = np.array(["a", "b", "c", "d"])
    assert mean_loss([torch.tensor(1.0), torch.tensor(2.0)], order, ids) == 1.5
    with pytest.raises(NonFinite, match=r"step 2 .*c, d"):
        mean_loss([torch.tensor(1.0), torch.tensor(torch.inf)], order, ids)


@pytest.mark.parametrize(
    ("batch_size", "windows", "processes", "fits"),
    [(1, 9, 1, False), (2, 9, 1, True), (10, 9, 1, False), (7, 9, 2, False), (4, 9, 4, False), (4, 9, 2, True)],
)
def test_each_process_needs_two_windows_of_a_whole_batch(monkeypatch, batch_size, windows, processes, fits):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    if fits:
        check_batch_size(batch_size, windows)
    else:
        with pytest.raises(InputError, match=f"--batch_size {batch_size}"):
            check_batch_size(batch_size, windows)


@pytest.mark.skipif(glibc() is None, reason="memory is kept in glibc alone")
def test_freed_memory_is_kept_until_an_evaluation():
    script = """
import training
import torch
from training.devices import return_freed_memory, set_up_process

def resident():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

set_up_process()
sizes = [resident()]
tensors = [torch.ones(1 << 20) for _ in range(50)]
del tensors
sizes.append(resident())
return_freed_memory()
sizes.append(resident())
print(*sizes)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    before, kept, given_back = map(float, done.stdout.split())
    assert kept > before + 190  # MiB
    assert given_back < before + 10


def test_a_device_that_is_not_there_is_refused():
    assert pick_device("cpu") == CPU
    assert environment(CPU).keys() >= {"python", "torch", "commit", "device", "processes"}
    if not torch.cuda.is_available():
        assert pick_device(None) == CPU
    for gpu_id in ("99", *(() if torch.backends.mps.is_available() else ("mps",))):
        with pytest.raises(InputError, match=f"--gpu_id {gpu_id}"):
            pick_device(gpu_id)


# The CNN for CPUs


def plain_cnn(blocks: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The published order of layers, each on the whole batch."""
    for block in blocks:
        x = block.bn(block.conv(x)).relu()
        if block.pool > 1:
            x = torch.nn.functional.max_pool2d(x, block.pool)
    return x


def cnn_step(cnn: torch.nn.Module, run, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics of a step in training, float64."""
    x = x.clone().requires_grad_()
    output = run(x)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    found = {"output": output, "input": x.grad} | {name: p.grad for name, p in cnn.named_parameters()}
    found |= {name: b for name, b in cnn.named_buffers() if "running" in name}
    return {name: tensor.detach().double() for name, tensor in found.items()}


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20, 1 << 40], ids=["single", "few", "whole"])
def test_cnn_in_chunks_trains_as_torch_does_on_the_whole_batch(chunk_bytes, monkeypatch):
    monkeypatch.setattr(training.cpu_cnn, "CHUNK_BYTES", chunk_bytes)
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
        ours = cnn_step(chunked, chunked, x)
        exact = cnn_step(plain, lambda x: plain_cnn(plain, x), x.double())
    for name, expected in exact.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=2e-5 * expected.abs().max().item(), msg=name)
    assert all(block.bn.num_batches_tracked == 2 for block in chunked)
    torch.testing.assert_close(chunked.eval()(x).double(), plain_cnn(plain.eval(), x.double()), rtol=1e-4, atol=1e-5)
    plain = copy.deepcopy(rough).double()
    exact = cnn_step(plain, lambda x: plain_cnn(plain, x), x.double())
    with torch.autocast("cpu", torch.bfloat16):  # coarse, but with the same statistics
        step = cnn_step(rough, rough, x)
    for name, value in step.items():
        if value.numel() > 50:
            assert torch.cosine_similarity(value.flatten(), exact[name].flatten(), dim=0) > 0.95, name
        if "running" in name:
            torch.testing.assert_close(value, plain_statistics(rough, x)[name], rtol=0.02, atol=0.005)


@pytest.mark.parametrize(("bfloat16", "size"), [(False, 4), (True, 2)], ids=["float32", "bfloat16"])
def test_normalised_values_are_not_kept(bfloat16, size, monkeypatch):
    monkeypatch.setattr(training.cpu_cnn, "CHUNK_BYTES", 1)
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


# Weights and history


def test_weights_come_back_and_those_that_cannot_be_used_are_refused(tmp_path):
    model, other = torch.nn.Linear(100, 100), torch.nn.Linear(100, 100)
    path = tmp_path / "model.pth"
    save_tensors(model.state_dict(), path)
    load_weights(other, path)
    assert torch.equal(model.weight, other.weight)
    with pytest.raises(InputError, match=r"model\.pth: weight"):
        load_weights(torch.nn.Linear(4, 2, bias=False), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (content, content[:1000], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.pth"):
            load_weights(other, path)
    save_tensors({name: tensor * torch.nan for name, tensor in model.state_dict().items()}, path)
    with pytest.raises(InputError, match=r"model\.pth: (weight|bias)"):
        load_weights(other, path)
    for bad in ([1, 2], {"weight": 3}):
        torch.save(bad, path)
        with pytest.raises(InputError, match=r"model\.pth"):
            load_weights(other, path)
    path.unlink()
    with pytest.raises(InputError, match=r"model\.pth: not found"):
        load_weights(other, path)


class Attack:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_weights_that_run_code_are_refused_and_do_not_run_it(tmp_path):
    torch.save({"weight": Attack(str(tmp_path / "marker"))}, tmp_path / "model.pth")
    with pytest.raises(InputError, match=r"model\.pth"):
        load_weights(torch.nn.Linear(2, 1), tmp_path / "model.pth")
    assert not (tmp_path / "marker").exists()


HISTORY = [
    {
        "epoch": epoch,
        "valid_loss": loss,
        "valid_f1": f1,
        "valid_macro_f1": macro,
        "valid_ccc_arousal": a,
        "valid_ccc_valence": v,
    }
    for epoch, (loss, f1, macro, a, v) in enumerate(
        [(1.3, 0.7, 0.1, 0.2, 0.2), (1.1, 0.6, 0.3, 0.6, -0.4), (1.2, 0.5, 0.4, 0.1, 0.5), (1.1, 0.7, 0.2, 0.3, 0.1)], 1
    )
]


@pytest.mark.parametrize(("monitor", "best", "over"), [("loss", 2, 4), ("f1", 1, 3), ("macro_f1", 3, 5), ("ccc", 3, 5)])
def test_the_best_epoch_is_the_first_of_the_best_figure_and_patience_counts_from_it(tmp_path, monitor, best, over):
    assert best_epoch(HISTORY, monitor) == best
    options = make_options(epochs=5, patience=2, monitor=monitor, valid_split=[3])
    ended = [n for n in range(5) if is_over(HISTORY[:n], options)]
    assert ended == [n for n in range(over, 5)]
    assert is_over(HISTORY, make_options(epochs=4))
    pd.DataFrame(HISTORY).to_csv(tmp_path / "history.csv", index=False)
    assert epoch_of_weights(tmp_path, "best", monitor) == best
    assert epoch_of_weights(tmp_path, "last", monitor) == 4
    (tmp_path / "history.csv").write_text("epoch\nnone\n")
    assert epoch_of_weights(tmp_path, "last", monitor) is None
