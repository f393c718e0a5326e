"""How much of a GPU training uses: the work of a step, and the time it takes."""

import time

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from constants import n_frames
from model import MATE
from training.utilisation import Utilisation, dense_peak, step_flop


@pytest.mark.parametrize(
    ("settings", "sr"),
    [
        ({}, 16_000),
        ({"backbone": "gru", "ws": 3, "bidirectional": True, "concat": False, "modality": "audio"}, 8_000),
        ({"num_layers": 2, "hidden_size": 64, "modality": "text", "ws": 5}, 16_000),
        ({"audio": "encoder", "speech_shape": (13, 768)}, 16_000),
    ],
)
def test_the_work_of_a_step_is_what_torch_counts(settings, sr):
    with FakeTensorMode():
        model = MATE(sr=sr, **settings)
        ws = settings.get("ws", 8)
        with FlopCounterMode(display=False) as counter:
            shape = settings.get("speech_shape", (229, n_frames(sr)))
            prediction = model(torch.zeros(2, ws, *shape), torch.zeros(2, ws, 768), log=True)
            sum(p.sum() for p in prediction).backward()
    assert step_flop(model, sr) == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        *(("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("NVIDIA L40S", 362)),
        *(("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L4", 121), ("NVIDIA GeForce RTX 4090", 165), ("Tesla T4", None)),
    ],
)
def test_a_card_is_known_by_its_name(name, peak):
    assert dense_peak(name) == peak


def test_seconds_between_two_looks_at_the_gpu_count_and_no_others(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    shown = [Utilisation(1e12, torch.device("cuda:0"), 2, bfloat16) for bfloat16 in (True, False)]
    for utilisation in shown:
        now = 100.0
        utilisation.look(49)
        assert utilisation.steps == 0
        now = 100.25
        utilisation.look(99)
        now = 500.0  # a validation
        utilisation.pause()
        utilisation.look(49)
        now = 500.25
        utilisation.look(99)
        assert utilisation.tflops == pytest.approx(200)
    assert shown[0].describe() == "200 (10%)"
    assert shown[0].as_json() == {"tflops": 200.0, "share_of_peak": 0.1011}
    assert shown[1].describe() == "200"
