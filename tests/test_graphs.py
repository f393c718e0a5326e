"""The training step as a CUDA graph: the static step on a CPU, and the recording on a GPU that computes nothing."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_runs import SMALL, STEPS, content, only_run, run

import main as program
from dataset import Batch
from loss import make_loss
from model import MATE
from training.engine import make_optimizer, train_step
from training.graphs import WARM_UP, StaticStep, why_not

ON_GPU = [option for option in SMALL if option not in ("--gpu_id", "cpu")]


def run_on_gpu(corpus, exp, *more: str) -> int:
    return program.main(["--data_path", str(corpus), "--save_path", str(exp), *ON_GPU, "--cuda_graph", *more])


@pytest.mark.parametrize(("optimizer", "loss"), [("adam", "normal"), ("sgd", "cbloss")])
def test_steps_on_a_batch_that_stays_in_its_place_are_those_on_batches_as_they_come(optimizer, loss):
    loss_function = make_loss(loss, 0.66, 0.9, np.arange(1, 8))
    trained = []
    for is_static in (False, True):
        torch.manual_seed(0)
        model = MATE(hidden_size=4, num_layers=1, ws=3, sr=4000, speakers=True).train()
        steps = make_optimizer(optimizer, model, 1e-2, 0.0, 0.0)

        def plain(batch: Batch, model=model, steps=steps) -> torch.Tensor:
            return train_step(model, batch, loss_function, steps)

        step = StaticStep(plain) if is_static else plain
        losses, places = [], set()
        for number in range(3):
            g = torch.Generator().manual_seed(number)
            audio = torch.randn(4, 3, 229, 79, generator=g).to(memory_format=torch.channels_last)
            labels = torch.rand(4, 7, generator=g).softmax(1), *(1 + 4 * torch.rand(2, 4, 1, generator=g))
            batch = Batch(audio, torch.randn(4, 3, 768, generator=g), *labels, torch.randint(0, 3, (4, 3), generator=g))
            losses.append(step(batch))
            if is_static:
                places |= {(t.data_ptr(), t.stride()) for t in step.batch}
                assert step.batch.audio is not batch.audio
        trained.append((losses, model.state_dict()))
    assert len(places) == len(batch)
    (losses, expected), (static_losses, state) = trained
    assert static_losses == losses
    assert losses[0] != losses[1]
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


def test_on_a_cpu_a_run_says_so_and_trains_as_without_it(preprocessed, finished, tmp_path, capsys):
    assert run(preprocessed, tmp_path, "--cuda_graph") == 0
    said = "warning: --cuda_graph: the device is cpu, and only CUDA GPUs have graphs; training goes on step by step, "
    assert f"{said}with the same numbers\n" in capsys.readouterr().err
    assert content(only_run(tmp_path)) == content(finished)


def test_why_a_step_cannot_be_recorded():
    cuda, model = torch.device("cuda:1"), torch.nn.Linear(2, 1)
    adam, adagrad = (make_optimizer(name, model, 0.1, 0.0, 0.0) for name in ("adam", "adagrad"))
    assert why_not(cuda, 1, adam) is None
    assert why_not(cuda, 1, make_optimizer("sgd", model, 0.1, 0.0, 0.0)) is None
    assert why_not(torch.device("mps"), 1, adam).startswith("the device is mps")
    assert why_not(cuda, 2, adam).startswith("2 processes")
    assert why_not(cuda, 1, adagrad) == "Adagrad counts its steps on the CPU"


# On a GPU that computes nothing


@pytest.mark.parametrize(
    "more",
    [
        ("--modality", "audio_text", "--gpu_id", "1"),
        ("--optim", "adamw", "--loss", "cbloss", "--backbone", "gru", "--affect_loss", "ccc"),
        ("--optim", "sgd", "--speakers", "--valid_split", "3", "--batch_size", "6"),
    ],
    ids=" ".join,
)
def test_a_step_is_recorded_once_for_each_learning_rate_and_waits_for_nothing(gpu, preprocessed, tmp_path, more):
    assert run_on_gpu(preprocessed, tmp_path, *more) == 0
    assert gpu.graphs == {
        "recorded": 2,
        "replayed": 3 * STEPS - WARM_UP,
    }  # the rate drops after the first of three epochs
    assert {key: n for key, n in gpu.waits.items() if key[0] == "step" and n} == {}
    assert (only_run(tmp_path) / "result.json").exists()


def test_a_step_that_cannot_be_recorded_is_done_step_by_step(gpu, preprocessed, tmp_path, monkeypatch, capsys):
    @contextlib.contextmanager
    def fail(*_: object, **__: object) -> Iterator[None]:
        yield
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nSearch for it")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    assert run_on_gpu(preprocessed, tmp_path) == 0
    assert (only_run(tmp_path) / "result.json").exists()
    assert gpu.graphs == {}
    reason = "CUDA error: operation not permitted when stream is capturing"
    said = [line for line in capsys.readouterr().err.splitlines() if "--cuda_graph" in line]
    assert said == [
        f"warning: --cuda_graph: the step cannot be recorded ({reason}); training goes on step by step, with the same "
        "numbers"
    ]


def test_adagrad_is_not_recorded(gpu, preprocessed, tmp_path, capsys):
    assert run_on_gpu(preprocessed, tmp_path, "--optim", "adagrad") == 0
    assert gpu.graphs == {}
    assert "warning: --cuda_graph: Adagrad counts its steps on the CPU" in capsys.readouterr().err
