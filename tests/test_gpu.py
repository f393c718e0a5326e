"""Whole runs on a GPU that computes nothing: no devices are mixed, and no step waits. See fake_gpu.py."""

import signal
from pathlib import Path

import pytest
import torch
from fake_gpu import UNNOTICED_BYTES, FakeGpu
from small_runs import only_run, signals_at

import main as program
from dataset import Batch
from training import engine
from training.run import CHECKPOINT

# 40 windows to train on: 3 steps an epoch
ONE_STEP = ("--modality", "text", "--batch_size", "40")
SMALL = ("--test_split", "1-2", "--epochs", "1", "--batch_size", "13", "--num_layers", "1", "--hidden_size", "8")


def run(corpus: Path, exp: Path, *more: str) -> int:
    return program.main(["--data_path", str(corpus), "--save_path", str(exp), *SMALL, *more])


def assert_waits_for_nothing(gpu: FakeGpu) -> None:
    assert {key: n for key, n in gpu.waits.items() if key[0] in ("step", "batch") and n} == {}
    assert [n for part in ("step", "batch", "log") for n in gpu.unpinned[part] if n > UNNOTICED_BYTES] == []


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--backbone gru --precision fp32 --gpu_id 1",
        "--modality audio --ws 1 --optim sgd",
        "--modality text --loss cbloss --valid_split 3 --save_every 2 --epochs 2",
        "--modality text --bidirectional --optim adamw --no_concat",
        "--modality text --optim adagrad --select best --valid_split 3",
        "--precision bf16 --valid_split 3 --feature_dtype float32",
        "--ws 3 --no_cache --num_workers 1",
    ],
)
def test_a_run_mixes_no_devices_and_its_steps_wait_for_nothing(gpu, preprocessed, tmp_path, options):
    assert run(preprocessed, tmp_path, *options.split()) == 0
    assert_waits_for_nothing(gpu)
    assert (only_run(tmp_path) / "result.json").exists()
    # Products are in TF32 where bfloat16 is chosen: by default in training
    training, testing = "--precision fp32" not in options, "--precision bf16" in options
    assert gpu.products == {("step", training), ("", testing)}
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.benchmark


def test_frames_that_do_not_fit_are_copied_batch_by_batch_from_pinned_memory(gpu, preprocessed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 20, 80 << 30))
    assert run(preprocessed, tmp_path, "--batch_size", "20") == 0
    assert_waits_for_nothing(gpu)


def test_a_card_without_bfloat16_trains_in_float32(gpu, preprocessed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75"])
    assert run(preprocessed, tmp_path, "--batch_size", "20") == 0
    assert_waits_for_nothing(gpu)


def test_an_epoch_waits_for_the_gpu_only_to_show_its_loss_and_to_check_its_weights(gpu, preprocessed, tmp_path):
    waits = []
    for epochs in ("1", "2"):
        gpu.waits.clear()
        assert run(preprocessed, tmp_path / epochs, *ONE_STEP, "--epochs", epochs) == 0
        waits.append(sum(n for (_, why), n in gpu.waits.items() if why == "item"))
    # Of an epoch: the mean of its losses, twice, and whether its weights are finite; it is not saved
    assert waits[1] - waits[0] == 3


def test_a_trained_model_is_tested_on_a_gpu(gpu, preprocessed, tmp_path):
    assert run(preprocessed, tmp_path, "--modality", "text", "--gpu_id", "cpu") == 0
    name = only_run(tmp_path).name
    test = ["--data_path", str(preprocessed), "--save_path", str(tmp_path), "--test_only", name]
    assert program.main([*test, "--gpu_id", "1"]) == 0
    assert program.main([*test, "--precision", "bf16"]) == 0


@pytest.mark.parametrize(
    ("optimizer", "begins"),
    [
        ("adam", "cpu"),
        ("adam --cuda_graph", "gpu"),
        ("adamw", "cpu"),
        ("adagrad", "cpu"),
        ("adagrad", "gpu"),
        ("sgd", "gpu"),
    ],
)
def test_a_run_goes_on_on_another_device(gpu, preprocessed, tmp_path, optimizer, begins):
    devices = {"cpu": ("--gpu_id", "cpu"), "gpu": ()}
    (goes_on,) = devices.keys() - {begins}
    text = ("--modality", "text", "--optim", *optimizer.split())
    with signals_at(2, signal.SIGTERM):
        assert run(preprocessed, tmp_path, *text, *devices[begins]) == 128 + signal.SIGTERM
    folder = only_run(tmp_path)
    assert (folder / CHECKPOINT).exists()
    assert program.main(["--resume", str(folder), *devices[goes_on]]) == 0
    assert (folder / "result.json").exists()


# What it notices


@pytest.mark.parametrize("name", ["text", "arousal", "emotion"])
def test_a_tensor_left_on_the_cpu_is_noticed(gpu, preprocessed, tmp_path, monkeypatch, name):
    move = Batch.to

    def forgetful(batch: Batch, device: torch.device) -> Batch:
        return move(batch, device)._replace(**{name: torch.zeros(getattr(batch, name).shape)})

    monkeypatch.setattr(Batch, "to", forgetful)
    with pytest.raises((RuntimeError, AssertionError), match=r"device|cpu"):
        run(preprocessed, tmp_path, "--modality", "text")


def test_a_wait_in_a_step_is_noticed(gpu, preprocessed, tmp_path, monkeypatch):
    step = engine.train_step

    def impatient(*args: object) -> torch.Tensor:
        loss = step(*args)
        loss.item()
        return loss

    monkeypatch.setattr(engine, "train_step", gpu.during("step", impatient))
    assert run(preprocessed, tmp_path, *ONE_STEP) == 0
    with pytest.raises(AssertionError, match="'item'"):
        assert_waits_for_nothing(gpu)


def test_a_large_copy_from_unpinned_memory_is_noticed(gpu, preprocessed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: t)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 10, 80 << 30))
    assert run(preprocessed, tmp_path, *ONE_STEP) == 0
    with pytest.raises(AssertionError):
        assert_waits_for_nothing(gpu)
