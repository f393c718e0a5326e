"""Runs that are interrupted, killed or out of disk, and resumed: the same bytes as undisturbed on a CPU."""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT, argv_of, only_run, retest

import main
from reports.runs import read_folders
from training import record
from training.checkpoint import CHECKPOINT
from utils import InputError, lock_folder

# What a run leaves that depends neither on the time nor on the folder
FILES = ("model.pth", "history.csv", "train_loss.log", "loss_curve.png", "result.json", "predictions.csv")
MORE = ("--epochs", "4", "--hidden_size", "4")

# main.py with a checkpoint after every epoch; it prints when its imports are done, and sends SIGNAL to itself
PROGRAM = """
import os, sys, main
main.SAVE_SECONDS = 0
train = main.train
main.train = lambda options: train(
    options, lambda epoch, _: epoch == 2 and os.kill(os.getpid(), int(os.environ.get("SIGNAL", 0)))
)
print("started", flush=True)
sys.exit(main.main(sys.argv[1:]))
"""


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def undisturbed(preprocessed, tmp_path_factory) -> tuple[Path, float]:
    """The folder of a run that nothing disturbed, and its seconds; read only."""
    save_path, began = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    assert main.main(argv_of("text", preprocessed, save_path, *MORE)) == 0
    return only_run(save_path), time.monotonic() - began


def start(argv: list[str], **settings) -> subprocess.Popen:
    """The program in a process of its own, in another folder, with its imports done."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | settings.pop("env", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *argv], cwd="/", env=environment, **pipes, **settings)
    assert process.stdout.readline() == "started\n"
    return process


def resume(save_path: Path, argv: list[str]) -> Path:
    """Resume the run in a save path, or begin it where it was killed before it had a folder; returns its folder."""
    assert main.main([*argv, "--resume", "auto"]) == 0
    return only_run(save_path)


KILLS = int(os.environ.get("KILLS", "3"))


@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_that_is_killed_at_any_moment_resumes_exactly(preprocessed, undisturbed, tmp_path, number):
    argv = argv_of("text", preprocessed, tmp_path, *MORE)
    process = start(argv)
    place = (number + random.Random(number).random()) / KILLS  # in each part of the run
    time.sleep(1.1 * place * undisturbed[1])
    process.kill()
    process.communicate()
    finished = [*tmp_path.glob("*/result.json")]
    folder = finished[0].parent if finished else resume(tmp_path, argv)
    assert content(folder) == content(undisturbed[0])
    assert main.main(["--resume", str(folder)]) == 0
    assert not (folder / CHECKPOINT).exists()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_at_once_with_a_line_that_resumes_it(preprocessed, undisturbed, tmp_path, number, status):
    process = start(argv_of("text", preprocessed, tmp_path, *MORE), env={"SIGNAL": str(int(number))})
    _, error = process.communicate(timeout=30)
    assert process.returncode == status
    assert "Traceback" not in error
    folder = only_run(tmp_path)
    *_, last = error.splitlines()
    assert last.endswith(f"python main.py --resume {folder}")
    assert (folder / CHECKPOINT).exists()
    assert main.main(last[last.index("--resume") :].split()) == 0
    assert content(folder) == content(undisturbed[0])


@pytest.mark.parametrize("limit", [1_000, 20_000_000], ids=["record", "checkpoint"])
def test_a_full_disk_is_one_line_and_the_run_resumes_exactly(preprocessed, undisturbed, tmp_path, limit):
    argv = argv_of("text", preprocessed, tmp_path, *MORE)
    process = start(argv, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith(f"error: {tmp_path}")
    assert content(resume(tmp_path, argv)) == content(undisturbed[0])


@pytest.fixture
def interrupted(preprocessed, tmp_path, monkeypatch) -> Path:
    """The folder of the same run, interrupted after its second epoch."""

    def interrupt(epoch: int, figures: dict[str, float]) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    options = main.parse_args(argv_of("text", preprocessed, tmp_path, *MORE))
    monkeypatch.setattr(main, "SAVE_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        main.train(options, interrupt)
    return only_run(tmp_path)


def test_a_run_resumes_from_its_last_checkpoint_wherever_it_lies(interrupted, undisturbed, capsys):
    assert len((interrupted / "history.csv").read_text().splitlines()) == 3
    assert main.main(["--resume", interrupted.name, "--save_path", str(interrupted.parent)]) == 0
    epochs = [line.split(":")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert epochs == ["epoch 3/4", "epoch 4/4"]
    assert content(interrupted) == content(undisturbed[0])
    before = {path.name: path.read_bytes() for path in interrupted.iterdir()}
    assert main.main(["--resume", str(interrupted)]) == 0
    assert {path.name: path.read_bytes() for path in interrupted.iterdir()} == before


def test_a_run_that_ends_before_its_test_is_tested_later(preprocessed, undisturbed, tmp_path, monkeypatch, capsys):
    argv = argv_of("text", preprocessed, tmp_path, *MORE)
    with monkeypatch.context() as context:
        context.setattr(main, "finish", Mock(side_effect=KeyboardInterrupt))
        assert main.main(argv) == 130
    folder = only_run(tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert not names & {"result.json", "predictions.csv", "confusion.txt"}
    assert read_folders(tmp_path)["state"].tolist() == ["not tested"]
    test = retest(folder)
    capsys.readouterr()
    assert resume(tmp_path, argv) == folder
    assert "epoch 4" not in capsys.readouterr().err  # trained already
    assert content(folder) == content(undisturbed[0])
    assert (test / "result.json").read_bytes() == (folder / "result.json").read_bytes()
    assert read_folders(tmp_path)["state"].tolist() == ["finished"]


def test_a_run_that_another_process_trains_is_not_begun_a_second_time(interrupted, preprocessed, capsys):
    argv, options = argv_of("text", preprocessed, interrupted.parent, *MORE), main.parse_args(["--resume", "auto"])
    with lock_folder(interrupted, "training"):
        assert main.main([*argv, "--resume", "auto"]) == 2
        assert str(interrupted) in capsys.readouterr().err.splitlines()[-1]
        options.save_path = interrupted.parent
        with pytest.raises(InputError, match=interrupted.name):  # one that began while this one read its features
            record.make_folder(options, record.Record.read(interrupted), contextlib.ExitStack())
    assert only_run(interrupted.parent) == interrupted


@pytest.mark.filterwarnings("ignore:(batch norm|trained (on a synthetic|with a text encoder)):UserWarning")
def test_a_corpus_that_is_taken_away_in_training_costs_the_sound_of_the_page_alone(preprocessed20, tmp_path, capsys):
    corpus, away = shutil.copytree(preprocessed20, tmp_path / "corpus"), tmp_path / "away"
    options = main.parse_args(argv_of("kemdy20", corpus, tmp_path / "exp"))
    with pytest.warns(UserWarning, match=r"dialogues\.html"):
        folder = main.train(options, lambda epoch, figures: corpus.rename(away))
    assert "KEMDy20" in capsys.readouterr().out.rpartition("windows of")[0].splitlines()[-1]
    assert (folder / "result.json").exists()
    assert not (folder / CHECKPOINT).exists()
    assert ".wav" not in (folder / "dialogues.html").read_text("utf-8")


def test_another_number_of_threads_is_warned_of(interrupted, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert main.main(["--resume", str(interrupted)]) == 0
    finally:
        torch.set_num_threads(threads)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "the result may differ" in line]
    assert f" {threads} threads" in warning
    assert f" {threads + 1} threads" in warning


def replace(path: Path, **parts: object) -> None:
    torch.save(torch.load(path, weights_only=True) | parts, path)


DAMAGE = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "another run": lambda path: replace(path, run_id="0" * 16),
    "another model": lambda path: replace(path, model={"weight": torch.ones(1)}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_checkpoint_that_is_not_the_runs_is_refused_and_nothing_changes(interrupted, capsys, damage):
    damage(interrupted / CHECKPOINT)
    before = {path.name: path.read_bytes() for path in interrupted.iterdir() if "tfevents" not in path.name}
    assert main.main(["--resume", str(interrupted)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert str(interrupted / CHECKPOINT) in error.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in interrupted.iterdir() if "tfevents" not in path.name} == before
