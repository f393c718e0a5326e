"""When the weights and checkpoints of a run are written, and what they hold meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from small_runs import STEPS, content, only_run, options, run, signals_at
from torch.optim.optimizer import register_optimizer_step_post_hook

import main as program
from training import saving, state
from training.saving import CHECKPOINT, WEIGHTS, Saving
from training.selection import read_history
from training.state import load_weights
from utils import InputError


def test_what_is_written_is_what_it_was_when_it_was_given(tmp_path, monkeypatch):
    """The run goes on, and changes its weights, while they are being written."""
    begin = threading.Event()
    write = state.save_tensors
    monkeypatch.setattr(saving, "save_tensors", lambda *given: begin.wait(30) and write(*given))
    model = torch.nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    history = [{"epoch": 1, "train_loss": 0.5}]
    saver = Saving(tmp_path, 1.0)
    saver.keep_epoch(history, model)
    saver.write({"model": model.state_dict(), "progress": {"history": history}})
    with torch.no_grad():
        model.weight.zero_()
    history.append({"epoch": 2, "train_loss": 0.4})
    begin.set()
    saver.wait()
    for name in (WEIGHTS, CHECKPOINT):
        written = torch.load(tmp_path / name, weights_only=True)
        assert torch.equal(written.get("model", written)["weight"], kept["weight"])
        assert written.get("model", written)["weight"].stride() == kept["weight"].stride()
    assert written["progress"]["history"] == history[:1] == read_history(tmp_path)
    assert (tmp_path / "train_loss.log").read_text() == "epoch 1 loss 0.500000\n"


def test_the_weights_to_test_are_kept_until_they_are_written_and_say_their_epoch(tmp_path):
    model, saver = torch.nn.Linear(2, 1), Saving(tmp_path, 1.0)
    history = [{"epoch": epoch, "train_loss": 1.0} for epoch in (1, 2, 3)]
    expected = model.weight.detach().clone()
    saver.keep_epoch(history[:1], model)
    with torch.no_grad():
        model.weight.zero_()
    saver.keep_epoch(history[:2], None)  # no better
    (tmp_path / "loss_curve.png").touch()  # of a run that was stopped
    saver.write_epoch()
    saver.wait()
    assert not (tmp_path / "loss_curve.png").exists()
    saver.keep_epoch(history, None)
    saver.write_epoch()
    saver.wait()
    loaded = torch.nn.Linear(2, 1)
    assert load_weights(loaded, tmp_path / WEIGHTS) == 1
    assert torch.equal(loaded.weight, expected)
    assert read_history(tmp_path) == history


def test_a_checkpoint_is_due_after_its_minutes_unless_one_is_being_written(tmp_path, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    saver, every_epoch = Saving(tmp_path, 0.5), Saving(tmp_path, 0)
    assert not saver.is_due()
    now += 29
    assert not saver.is_due(after_epoch=True)
    now += 1
    assert saver.is_due()
    begin = threading.Event()
    monkeypatch.setattr(saving, "save_tensors", lambda *_: begin.wait(30))
    saver.write({})
    now += 31
    assert not saver.is_due()
    begin.set()
    saver.pending[0].result()
    assert saver.is_due()
    assert not every_epoch.is_due()
    assert every_epoch.is_due(after_epoch=True)


def test_a_write_that_fails_is_reported_once_and_no_thread_is_left(tmp_path):
    before = {*threading.enumerate()}
    saver = Saving(tmp_path / "nowhere", 1.0)
    saver.write({})
    with pytest.raises(InputError, match="nowhere: cannot be written to"):
        saver.wait()
    saver.wait()
    with saver.at_work():
        pass
    assert {*threading.enumerate()} <= before


def test_a_run_writes_by_time_and_stopped_it_has_the_weights_of_its_last_epoch(preprocessed, tmp_path):
    for minutes in ("0", "1"):
        with signals_at(2 * STEPS + 1, signal.SIGTERM):
            assert run(preprocessed, tmp_path / minutes, "--save_minutes", minutes) == 128 + signal.SIGTERM
    folders = [only_run(tmp_path / minutes) for minutes in ("0", "1")]
    of_epoch_2 = [(folder / WEIGHTS).read_bytes() for folder in folders]
    assert of_epoch_2[0] == of_epoch_2[1]
    test = ("--data_path", str(preprocessed), "--save_path", str(tmp_path), "--gpu_id", "cpu")
    assert program.main([*test, "--test_only", str(folders[1])]) == 0
    for folder in folders:
        assert program.main(["--resume", str(folder)]) == 0
    assert content(folders[0]) == content(folders[1])


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory. Tried to allocate 1 GiB."), KeyError("a bug")])
def test_a_run_that_fails_leaves_the_weights_of_its_last_epoch(preprocessed, finished, tmp_path, error, capsys):
    done = 0

    def fail(*_: object) -> None:
        nonlocal done
        done += 1
        if done == 3 * STEPS:
            raise error

    hook = register_optimizer_step_post_hook(fail)
    try:
        if isinstance(error, KeyError):
            with pytest.raises(KeyError):
                run(preprocessed, tmp_path)
        else:
            assert run(preprocessed, tmp_path) == 2
            assert "keeps the weights of epoch 2; try" in capsys.readouterr().err
    finally:
        hook.remove()
    assert (only_run(tmp_path) / WEIGHTS).exists()


KILLED = """
import os, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
import main
from training.saving import Saving
Saving.is_due = lambda self, after_epoch=False: True  # as if each step took a minute
done = 0
def count(*_):
    global done
    done += 1
    if done == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
register_optimizer_step_post_hook(count)
sys.exit(main.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("step", [STEPS + 2, 2 * STEPS + 3])
def test_a_run_killed_while_its_thread_saves_goes_on_exactly(preprocessed, finished, tmp_path, step):
    argv = ["-c", KILLED, str(step), *options(preprocessed, tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, *argv], env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder: Path = only_run(tmp_path)
    progress = torch.load(folder / CHECKPOINT, weights_only=True)["progress"]
    done = (progress["epoch"] - 1) * STEPS + progress["step"]
    assert step - 2 <= done < step  # the thread may have had the last one still to write
    assert program.main(["--resume", str(folder)]) == 0
    assert content(folder) == content(finished)


# What lies in the folder of a run that was killed

KILLED_WRITING = """
import os, pathlib, signal, sys
replace, written, kill_at = pathlib.Path.replace, 0, int(sys.argv[1])
def count(self, target):
    global written
    written += pathlib.Path(target).name in ("model.pth", "history.csv", "train_loss.log", "checkpoint.pt")
    if written == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = count
import main
sys.exit(main.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def weights_of_epochs(preprocessed, tmp_path_factory) -> dict[int, dict[str, torch.Tensor]]:
    """The weights after each epoch of the small run."""
    weights, write = {}, saving.save_tensors

    def note(content: dict, path: Path) -> None:
        if path.name == WEIGHTS:
            weights[len(weights) + 1] = content
        write(content, path)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(saving, "save_tensors", note)
        assert run(preprocessed, tmp_path_factory.mktemp("epochs"), "--save_minutes", "0") == 0
    assert weights.keys() == {1, 2, 3}
    return weights


@pytest.fixture(
    params=[(5, 2, 1), (7, 2, 2), (8, 2, 2)],  # of each epoch model.pth, history.csv, train_loss.log, checkpoint.pt
    ids=["weights alone", "not the checkpoint", "all"],
)
def killed(request, preprocessed, tmp_path) -> tuple[Path, int, int]:
    """The folder of a run killed behind so many files, the epoch of its weights and the rows of its history."""
    written, epoch, rows = request.param
    argv = [str(written + 1), *options(preprocessed, tmp_path, "--save_minutes", "0")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED_WRITING, *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return only_run(tmp_path), epoch, rows


def test_a_killed_run_holds_one_epoch_and_its_test_says_which(killed, finished, weights_of_epochs, capsys):
    folder, epoch, rows = killed
    state = torch.load(folder / WEIGHTS, weights_only=True)
    assert all(torch.equal(state[name], expected) for name, expected in weights_of_epochs[epoch].items())
    whole = read_history(finished)
    assert read_history(folder) == whole[:rows]
    if rows == epoch:
        assert len((folder / "train_loss.log").read_text().splitlines()) == rows
    assert not (folder / "loss_curve.png").exists()

    assert program.main(["--test_only", str(folder), "--gpu_id", "cpu"]) == 0
    sentence = f"the run has not finished: its weights are of epoch {epoch} of 3"
    assert f"warning: {sentence}" in capsys.readouterr().err
    result = json.loads(next(folder.glob("test_*/result.json")).read_text())
    assert result["epoch"] == epoch
    assert sentence in result["warnings"]

    assert program.main(["--resume", str(folder)]) == 0
    assert content(folder) == content(finished)
