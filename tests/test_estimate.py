import argparse
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

import experiments
from sweeps import estimate
from sweeps.command_line import parse_plan
from sweeps.estimate import Machine, estimate_disk, estimate_time, format_bytes, format_duration, measure
from sweeps.jobs import Found
from training.configuration import as_json
from training.engine import build_model
from training.options import parse_args
from training.state import save_tensors
from utils import write_json

CPU = Machine("cpu (x86_64)", 1, 2)
SIZES = {"speaker": Counter({13: 50, 1: 1000})}  # 1,000 windows to train on


def parse(*argv: str) -> argparse.Namespace:
    """A run of 100 epochs on SIZES."""
    return parse_args(["--epochs", "100", "--test_split", "13-16", *argv])[0]


def finished(exp: Path, name: str, seconds: float, *argv: str, device: str = "cpu (x86_64, 2 threads)") -> Found:
    """A finished run's folder, whose files are so many seconds apart."""
    folder = exp / name
    folder.mkdir()
    stored = as_json(parse(*argv)) | {"versions": {}, "device": device, "windows": {"train": 1000}}
    write_json(folder / "configuration.json", stored)
    write_json(folder / "result.json", {})
    os.utime(folder / "configuration.json", (1e9, 1e9))
    os.utime(folder / "result.json", (1e9 + seconds, 1e9 + seconds))
    return Found(folder, True, 100)


def say(measured: list, machine: Machine = CPU, *argv: str) -> str:
    return estimate_time([parse(*argv)], SIZES, measured, machine)


def test_time_is_that_of_finished_runs_like_these(tmp_path):
    runs = [
        finished(tmp_path, "same", 3600),
        finished(tmp_path, "gru", 7200, "--backbone", "gru"),
        finished(tmp_path, "text", 60, "--modality", "text"),
        finished(tmp_path, "gpu", 30, device="cuda:0 (H100, 16 threads)"),
    ]
    measured = measure(runs)
    assert say(measured) == "about 1 h here (as finished runs took)"
    assert say(measured, CPU, "--backbone", "gru") == "about 2 h here (as finished runs took)"
    assert say(measured, CPU, "--modality", "text") == "about 1 min here (as finished runs took)"
    assert say(measured, CPU, "--epochs", "1000") == "about 10 h here (as finished runs took)"
    assert say(measured, CPU._replace(threads=1)) == "about 2 h here (as finished runs took)"
    assert say(measured, CPU._replace(places=2)) == "about 30 min here (as finished runs took)"
    assert say(measured, Machine("cuda (H100)", 1, 1)) == "about 38 s here (as finished runs took)"
    assert "rough guess" in say(measured, CPU, "--modality", "audio")
    assert "rough guess" in say(measured, Machine("cuda (A100)", 1, 1))


def test_runs_that_were_stopped_or_copied_say_nothing_about_time(tmp_path):
    resumed, copied, broken = (finished(tmp_path, name, s) for name, s in (("a", 900), ("b", 0), ("c", 900)))
    for number in range(2):
        (resumed.folder / f"events.out.tfevents.{number}").touch()
    (broken.folder / "configuration.json").write_text("{}")
    unfinished = finished(tmp_path, "d", 900)._replace(finished=False)
    assert measure([resumed, copied, broken, unfinished]) == []


def test_without_finished_runs_the_rule_is_stated_and_a_cluster_has_none():
    assert say([]) == "about 1 h here (a rough guess until runs like these have finished)"  # 100 x 1,000 x .074 / 2 s
    assert say([], CPU, "--ws", "4").startswith("about 31 min")
    assert say([], Machine(None, 8, 1)) == "time not known before a run like these has finished"


def test_disk_is_that_of_the_weights_and_of_checkpoints_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "SMALL_FILES", 0)
    monkeypatch.setattr(estimate, "BYTES_OF_WINDOW", 0)
    options, _ = parse_args(["--hidden_size", "64"])
    save_tensors(build_model(options).state_dict(), tmp_path / "model.pth")
    size = (tmp_path / "model.pth").stat().st_size
    assert estimate_disk([options] * 5, SIZES, at_once=1) == pytest.approx((5 + 6) * size, rel=0.01)
    assert estimate_disk([options] * 5, SIZES, at_once=2) == pytest.approx((5 + 12) * size, rel=0.01)
    assert estimate_disk([parse_args(["--hidden_size", "64", "--optim", "sgd"])[0]], SIZES, 1) == pytest.approx(
        (1 + 4) * size, rel=0.01
    )


def test_runs_that_hear_through_an_encoder_are_estimated_by_their_own_kind(tmp_path):
    heard = ("--audio", "encoder")
    measured = measure([finished(tmp_path, "cnn", 3600)])
    assert "rough guess" in say(measured, CPU, *heard)
    assert say([], CPU, *heard).startswith("about 3 min")  # a twentieth of the CNN's
    measured = measure([finished(tmp_path, "encoder", 120, *heard)])
    assert say(measured, CPU, *heard) == "about 2 min here (as finished runs took)"
    options, _ = parse_args([*heard, "--hidden_size", "64"])
    small, large = (estimate_disk([options], SIZES, 1, speech_shape=(13, n)) for n in (64, 768))
    assert large - small == (1 + 2 * 3) * 4 * 256 * (768 - 64)  # the projection, in the weights and two checkpoints


def test_too_little_disk_is_warned_of(tmp_path, monkeypatch):
    plan = parse_plan(["run", "3.3", "--SorL", "speaker", "--save_path", str(tmp_path)])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.warns(UserWarning, match=r"the runs take 2\.0 GB, 1 MB are free"):
        said = experiments.describe_cost(plan.runs, tmp_path, SIZES, CPU)
    assert said.startswith("about 2 h here")


def test_durations_and_sizes_in_words():
    seconds = {0.2: "1 s", 59: "59 s", 90: "2 min", 3600: "1 h", 90_000: "25 h", 400_000: "5 days"}
    assert {value: format_duration(value) for value in seconds} == seconds
    assert [format_bytes(n) for n in (3e6, 5.13e9, 42.3e9)] == ["3 MB", "5.1 GB", "42 GB"]
