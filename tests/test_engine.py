"""The engine: training step, optimizers, evaluation, devices, the CNN for CPUs, weights, the choice of an epoch."""

import copy
import subprocess
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from windows import make_utterances

import training.cpu_cnn
from dataset import Features, WindowDataset
from loss import make_loss
from model import MATE, ConvBlock
from training import devices, engine
from training.checkpoint import best_epoch, epoch_of_weights, is_over, load_weights, save_tensors
from training.cpu_cnn import ChunkedCNN, mean_and_variance
from training.options import make_options
from utils import InputError

CPU = torch.device("cpu")
LOSS = make_loss("normal", 0.66, 0.9, np.ones(7, dtype=int))


def small_model() -> MATE:
    torch.manual_seed(0)
    return MATE(hidden_size=4, num_layers=1, modality="text")


def dataset(n: int) -> WindowDataset:
    """Windows of one dialogue with random sentence embeddings and labels."""
    table = make_utterances((1,), 1, n).head(n)
    text = torch.randn(n, 768, generator=torch.Generator().manual_seed(0))
    return WindowDataset(table, Features(None, text, None), np.arange(n), 8, soft_targets=True)


def test_a_training_step_is_a_step_of_gradient_descent():
    model, plain, windows = small_model().train(), small_model().train(), dataset(64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for indices in (range(32), range(32, 64)):
        batch = windows.batch(indices)
        loss = engine.train_step(model, batch, LOSS, optimizer)
        value = LOSS(plain(None, batch.text, log=True), batch.target)
        for p, gradient in zip(plain.parameters(), torch.autograd.grad(value, plain.parameters()), strict=True):
            p.data -= 0.05 * gradient
        assert loss.item() == pytest.approx(value.item(), rel=1e-5)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("adagrad", torch.optim.Adagrad, {"lr_decay": 0.1}),
        ("sgd", torch.optim.SGD, {"momentum": 0.0}),
    ],
)
def test_optimizers_are_those_of_their_names_with_their_options(name, kind, own):
    options = make_options(optim=name, lr=1e-2, lr_decay=0.1, weight_decay=1e-3)
    optimizer = engine.make_optimizer(options, torch.nn.Linear(9, 4))
    assert type(optimizer) is kind
    assert optimizer.defaults.items() >= ({"lr": 1e-2, "weight_decay": 1e-3, "fused": True} | own).items()


@pytest.mark.parametrize(("capability", "expected"), [((8, 0), torch.bfloat16), ((7, 5), torch.float32)])
def test_auto_takes_bfloat16_on_gpus_that_have_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert engine.training_dtype("auto", torch.device("cuda:0")) is expected


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    engine.check_batch_size(8, 9)
    for size in (7, 2):  # no multiple of 2, and too small for batch norm
        with pytest.raises(InputError, match=f"--batch_size {size}"):
            engine.check_batch_size(size, 9)


@pytest.mark.parametrize(("epochs", "drops"), [(6, [2, 3]), (100, [33, 50]), (1, [])])
def test_learning_rate_drops_after_a_third_and_after_half(epochs, drops):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = engine.make_scheduler(optimizer, epochs, 0.5)
    for epoch in range(epochs):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 ** sum(drop <= epoch for drop in drops))
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("affect", ["mse", "ccc"])
def test_evaluation_gives_predictions_in_order_and_the_loss_of_all_windows_whatever_the_batches(affect):
    model, windows = small_model().eval(), dataset(7)
    loss_function = make_loss("normal", 0.66, 0.9, np.ones(7, dtype=int), affect=affect)
    before, whole = copy.deepcopy(model.state_dict()), windows.batch(range(7))
    with torch.no_grad():
        log_emotion, arousal, valence = model(None, whole.text, log=True)
    for size in (1, 3, 64):
        prediction = engine.predict_all(model, windows, size)
        arrays, loss = engine.to_arrays(prediction), loss_function(prediction, windows.labels).item()
        assert loss == pytest.approx(loss_function((log_emotion, arousal, valence), whole.target).item(), rel=1e-5)
        np.testing.assert_allclose(arrays["emotion_pred"], log_emotion.exp(), rtol=1e-4)
        np.testing.assert_allclose(arrays["arousal_pred"], arousal[:, 0], rtol=1e-4)
        np.testing.assert_allclose(arrays["valence_pred"], valence[:, 0], rtol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_prediction_that_is_not_finite_is_noticed():
    model = small_model()
    with torch.no_grad():
        model.mlp_emotion[-1].bias[3] = float("nan")
    with pytest.raises(engine.NonFinite):
        engine.to_arrays(engine.predict_all(model, dataset(7), 3))


# Devices


@pytest.fixture
def switches() -> Iterator[list[bool]]:
    """Torch's switches as NVIDIA's images and a user may have set them."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = True
    cudnn.deterministic = False
    yield lambda: [cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, not cudnn.deterministic]
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
    torch.use_deterministic_algorithms(False)


def test_training_and_tests_compute_in_float32_and_repeatably(switches, monkeypatch):
    class Accelerated(devices.Accelerator):  # accelerate launch --dynamo_backend turns TF32 on
        def __init__(self, **settings) -> None:
            super().__init__(**settings)
            torch.backends.cuda.matmul.allow_tf32 = True

    monkeypatch.setattr(devices, "Accelerator", Accelerated)
    with devices.joined_processes(make_options(gpu_id="cpu", report_to="none")):
        assert switches() == [False] * 4
        assert not torch.are_deterministic_algorithms_enabled()  # a CPU's are
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices.set_switches()
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_tf32_is_used_where_it_is_asked_for_alone(switches, enabled):
    with engine.tensor_cores(enabled):
        assert switches()[:3] == [enabled] * 3
    assert switches() == [True] * 4


def test_the_commit_is_that_of_the_program_or_unknown(tmp_path, monkeypatch):
    def commit(folder) -> str:
        git = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@b.c"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
        return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()

    program = tmp_path / "program"
    program.mkdir()
    monkeypatch.setattr(devices, "ROOT", program)
    commit(tmp_path)
    assert devices.environment(CPU)["commit"] == "unknown"
    (program / ".git").mkdir()  # damaged
    assert devices.environment(CPU)["commit"] == "unknown"
    own = commit(program)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert devices.environment(CPU)["commit"] == own


# The CNN for CPUs


def cnn_step(cnn: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics of a step in training, float64."""
    x = x.clone().requires_grad_()
    output = cnn(x)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    found = {"output": output, "input": x.grad} | {name: p.grad for name, p in cnn.named_parameters()}
    found |= {name: b for name, b in cnn.named_buffers() if "running" in name}
    return {name: tensor.detach().double() for name, tensor in found.items()}


@pytest.mark.parametrize(
    ("chunk_bytes", "momentum"), [(1, 0.1), (1 << 20, None), (1 << 40, 0.1)], ids=["single", "few", "whole"]
)
def test_cnn_in_chunks_trains_as_torch_does_on_the_whole_batch(chunk_bytes, momentum, monkeypatch):
    monkeypatch.setattr(training.cpu_cnn, "CHUNK_BYTES", chunk_bytes)
    torch.manual_seed(0)
    chunked = ChunkedCNN(ConvBlock(2, 6, 3, 1), ConvBlock(6, 5, 3, 2), ConvBlock(5, 3, 2, 3)).to(
        memory_format=torch.channels_last
    )
    with torch.no_grad():
        for block in chunked:
            block.bn.weight[::2] *= -0.7  # the largest value is the smallest once it is normalised
            block.bn.bias.uniform_(-0.5, 0.5)
            block.bn.momentum = momentum
    plain, rough = torch.nn.Sequential(*copy.deepcopy(chunked)).double(), copy.deepcopy(chunked)
    x = torch.randn(5, 2, 40, 51).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = cnn_step(rough, x)
    for step in (1, 2):  # gradients and running statistics add up
        ours = cnn_step(chunked, x)
        exact = cnn_step(plain, x.double())
        for name, expected in exact.items():
            tolerance = {"rtol": 1e-4, "atol": 2e-5 * expected.abs().max().item()}
            torch.testing.assert_close(ours[name], expected, **tolerance, msg=name)
            if step == 1 and expected.numel() > 50:
                assert torch.cosine_similarity(coarse[name].flatten(), expected.flatten(), dim=0) > 0.95, name
            if step == 1 and "running" in name:
                torch.testing.assert_close(coarse[name], expected, rtol=0.02, atol=0.005)
    torch.testing.assert_close(chunked.eval()(x).double(), plain.eval()(x.double()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_as_accurate_as_float32_allows(dtype):
    torch.manual_seed(0)
    x = torch.randn(1, 4, 227, 311) * 3 + torch.tensor([0.0, 1, -5, 10])[:, None, None]
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    mean, variance = mean_and_variance(x)
    exact = x.double().var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(variance, exact, rtol=1e-4, atol=0)
    assert ((mean - x.double().mean(dim=(0, 2, 3))) / exact.sqrt()).abs().max() < 1e-4


# Weights and history


GOOD = {"weight": torch.ones(10, 10), "bias": torch.ones(10)}
BAD = {
    "damaged": lambda content: content[: len(content) // 2] + b"!" + content[len(content) // 2 + 1 :],
    "cut short": lambda content: content[:1000],
    "empty": lambda _: b"",
    "no dict": [1, 2],
    "no tensors": {"weight": 3, "bias": 3},
    "other shapes": GOOD | {"bias": torch.ones(2)},
    "not finite": GOOD | {"bias": torch.ones(10) * torch.nan},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_weights_that_cannot_be_used_are_refused(tmp_path, bad):
    path, model = tmp_path / "model.pth", torch.nn.Linear(10, 10)
    save_tensors(GOOD, path)
    load_weights(model, path)
    assert torch.equal(model.weight, GOOD["weight"])
    if callable(bad):
        path.write_bytes(bad(path.read_bytes()))
    else:
        torch.save(bad, path)
    with pytest.raises(InputError, match=r"model\.pth"):
        load_weights(model, path)


COLUMNS = ("epoch", "valid_loss", "valid_f1", "valid_macro_f1", "valid_ccc_arousal", "valid_ccc_valence")
ROWS = [(1, 1.3, 0.7, 0.1, 0.2, 0.2), (2, 1.1, 0.6, 0.3, 0.6, -0.4), (3, 1.2, 0.5, 0.4, 0.1, 0.5)]
HISTORY = [dict(zip(COLUMNS, row, strict=True)) for row in [*ROWS, (4, 1.1, 0.7, 0.2, 0.3, 0.1)]]


BEST = [("last", 2, 4), ("loss", 2, 4), ("f1", 1, 3), ("macro_f1", 3, 5), ("ccc", 3, 5)]


@pytest.mark.parametrize(("select", "best", "over"), BEST)
def test_the_best_epoch_is_the_first_of_the_best_figure_and_patience_counts_from_it(tmp_path, select, best, over):
    assert best_epoch(HISTORY, select) == best
    options = make_options(epochs=5, patience=2, select=select, valid_split=[3])
    assert [n for n in range(5) if is_over(HISTORY[:n], options)] == [*range(over, 5)]
    assert is_over(HISTORY, make_options(epochs=4))
    pd.DataFrame(HISTORY).to_csv(tmp_path / "history.csv", index=False)
    assert epoch_of_weights(tmp_path, select) == (4 if select == "last" else best)
