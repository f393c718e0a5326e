import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.utils.data import DataLoader

from dataset import Batch, collate
from loss import make_loss
from model import MATE
from training.devices import glibc
from training.engine import NonFinite, evaluate, has_bfloat16, make_optimizer, make_scheduler, prefetch, train_step

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
    ("name", "kind", "expected"),
    [
        ("adam", torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.3}),
        ("adamw", torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.3}),
        ("adagrad", torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.3}),
        ("sgd", torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.4}),
    ],
)
def test_optimizers_are_those_of_their_names(name, kind, expected):
    model = small_model()
    optimizer = make_optimizer(name, model, 0.1, 0.2, 0.3, 0.4)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert {key: group[key] for key in expected} == expected
    assert len(group["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "sgd"])
def test_fused_optimizers_step_as_plain_ones_do(name):
    fused, plain = small_model(), small_model()
    ours = make_optimizer(name, fused, 1e-2, 0.1, 1e-2, 0.9)
    (group,) = ours.param_groups
    assert group["fused"]
    options = {key: value for key, value in group.items() if key in ("lr", "lr_decay", "weight_decay", "momentum")}
    theirs = type(ours)(plain.parameters(), **options, foreach=False, fused=False)
    for _ in range(3):
        for p, same in zip(fused.parameters(), plain.parameters(), strict=True):
            p.grad = same.grad = torch.randn_like(p)
        ours.step()
        theirs.step()
    for p, expected in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_used_where_told_and_only_there():
    seen, after = [], []
    model = MATE(hidden_size=4, num_layers=1)
    sound = [batch._replace(audio=torch.randn(3, 8, 229, 313)) for batch in batches(1)]
    model.audio_embedding.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    model.lstm.register_forward_hook(lambda _, __, output: after.append(output[0].dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for bfloat16 in (False, True):
        train_step(model.train(), sound[0], LOSS, optimizer, bfloat16)
        arrays, _ = evaluate(model, sound, bfloat16=bfloat16)
        assert arrays["emotion_pred"].dtype == np.float32
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert after == [torch.float32] * 4
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_auto_takes_bfloat16_where_the_processor_has_it(monkeypatch):
    for capabilities, expected in (({"avx512_bf16": True}, True), ({"avx512_f": True, "avx512_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert has_bfloat16(torch.device("cpu")) is expected
    for capability, expected in (((8, 0), True), ((7, 5), False), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert has_bfloat16(torch.device("cuda:0")) is expected
    assert not has_bfloat16(torch.device("mps"))


def test_the_next_batch_is_made_while_one_is_worked_on_and_none_beyond():
    made = [threading.Event() for _ in range(5)]

    class Windows(torch.utils.data.Dataset):
        def __getitems__(self, indices):
            made[indices[0]].set()
            return Batch(*(torch.tensor(indices) for _ in range(5)))

        def __len__(self):
            return len(made)

    given = []
    for number, batch in enumerate(prefetch(DataLoader(Windows(), 1, collate_fn=collate), torch.device("cpu"))):
        given += batch.text.tolist()
        if number + 1 < len(made):
            assert made[number + 1].wait(timeout=30)
        assert not any(event.is_set() for event in made[number + 2 :])
    assert given == [0, 1, 2, 3, 4]


def test_an_error_in_making_a_batch_reaches_the_caller():
    class Broken(torch.utils.data.Dataset):
        def __getitems__(self, indices):
            raise ZeroDivisionError

        def __len__(self):
            return 3

    with pytest.raises(ZeroDivisionError):
        next(prefetch(DataLoader(Broken(), 1, collate_fn=collate), torch.device("cpu")))


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="lion"):
        make_optimizer("lion", small_model(), 0.1, 0, 0)


@pytest.mark.parametrize(("epochs", "drops"), [(6, [2, 3]), (100, [33, 50]), (2, [1]), (1, [])])
def test_learning_rate_drops_after_a_third_and_after_half(epochs, drops):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, epochs, 0.5)
    for epoch in range(epochs):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 ** sum(drop <= epoch for drop in drops))
        optimizer.step()
        scheduler.step()


def test_evaluation_gives_predictions_in_order_and_the_mean_loss_over_windows():
    model = small_model()
    given = [*batches(1, 3, seed=1), *batches(1, 1, seed=2)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arrays, loss = evaluate(model, given, LOSS)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    row, total = 0, 0.0
    with torch.no_grad():
        for batch in given:
            prediction = model.eval()(None, batch.text, log=True)
            total += LOSS(prediction, batch[2:]).item() * len(batch.emotion)
            rows = slice(row, row := row + len(batch.emotion))
            for name, tensor in (
                ("emotion_pred", prediction[0].exp()),
                ("emotion", batch.emotion),
                ("arousal_pred", prediction[1][:, 0]),
                ("arousal", batch.arousal[:, 0]),
                ("valence_pred", prediction[2][:, 0]),
                ("valence", batch.valence[:, 0]),
            ):
                np.testing.assert_allclose(arrays[name][rows], tensor, rtol=1e-5)
    assert row == len(arrays["emotion"]) == 4
    assert loss == pytest.approx(total / 4, rel=1e-5)


def test_windows_without_labels_are_predicted_alone():
    (batch,) = batches(1)
    model = small_model()
    arrays, loss = evaluate(model, [batch._replace(emotion=None, arousal=None, valence=None)])
    expected, _ = evaluate(model, [batch])
    assert arrays.keys() == {"emotion_pred", "arousal_pred", "valence_pred"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    assert np.isnan(loss)


def test_predictions_that_are_not_finite_stop_an_evaluation():
    model = small_model()
    with torch.no_grad():
        model.mlp_emotion[-1].bias[3] = float("nan")
    with pytest.raises(NonFinite, match="not numbers"):
        evaluate(model, batches())


@pytest.mark.skipif(glibc() is None, reason="memory is kept in glibc alone")
def test_freed_memory_is_kept_until_an_evaluation():
    script = """
import torch
from dataset import Batch
from training.engine import evaluate
from model import MATE
from training.devices import keep_freed_memory

def resident():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

keep_freed_memory()
model = MATE(hidden_size=4, num_layers=1, modality="text")
text, rating = torch.randn(2, 8, 768), torch.full((2, 1), 3.0)
batches = [Batch(None, text, torch.eye(7)[:2], rating, rating)]
evaluate(model, batches)
sizes = [resident()]
tensors = [torch.ones(1 << 20) for _ in range(50)]
del tensors
sizes.append(resident())
evaluate(model, batches)
sizes.append(resident())
print(*sizes)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    before, kept, given_back = map(float, done.stdout.split())
    assert kept > before + 190  # MiB
    assert given_back < before + 10


def to_tf32(t: torch.Tensor) -> torch.Tensor:
    """Rounded to TF32's 11 significant bits."""
    return ((t.contiguous().view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


def test_tf32_in_the_lstm_and_the_linear_layers_moves_a_prediction_little():
    """What a GPU does in training in bfloat16, here by rounding the factors."""
    model, (batch,) = small_model().eval(), batches(1, 16)
    for p in model.parameters():
        p.data.mul_(1.5)  # fresh weights give about the same probabilities to any input
    exact = model(None, batch.text)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.LSTM):
            module.register_forward_pre_hook(lambda _, inputs: (to_tf32(inputs[0]), *inputs[1:]))
    for p in model.parameters():
        if p.dim() == 2:
            p.data = to_tf32(p.data)
    for rounded, expected, of_range in zip(model(None, batch.text), exact, (1, 4, 4), strict=True):
        assert 0 < (rounded - expected).abs().max() < 1e-3 * of_range
