"""Small runs of main.py that tests stop and resume: text alone, three epochs of five steps, a second or two each."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

import main as program

# What a run leaves that does not depend on the time or the call
RESULT = (
    "model.pth",
    "train_loss.log",
    "history.csv",
    "loss_curve.png",
    "result.json",
    "confusion.txt",
    "predictions.csv",
)
TEXT = ("--modality", "text", "--hidden_size", "8", "--num_layers", "1", "--batch_size", "8", "--test_split", "1-2")
SMALL = (*TEXT, "--gpu_id", "cpu", "--epochs", "3")  # 40 windows to train on: 5 steps an epoch
STEPS = 5


def options(corpus: Path, exp: Path, *more: str) -> list[str]:
    """The command line of a small run."""
    return ["--data_path", str(corpus), "--save_path", str(exp), *SMALL, *more]


def run(corpus: Path, exp: Path, *more: str) -> int:
    """Make a small run; its exit status."""
    return program.main(options(corpus, exp, *more))


def only_run(exp: Path) -> Path:
    """The one experiment folder in a save path."""
    (folder,) = (path for path in exp.iterdir() if path.is_dir())
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """The files of a finished run that an equal run has too."""
    return {name: (folder / name).read_bytes() for name in RESULT}


@contextlib.contextmanager
def signals_at(step: int, *numbers: int) -> Iterator[None]:
    """Send this process signals when the optimizer has done so many steps."""
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        if done == step:
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(0.05)  # any thread may get it; two that come before the main one looks count as one

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()


# Fixtures


@pytest.fixture(scope="session")
def finished(preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that nothing disturbed; read only."""
    exp = tmp_path_factory.mktemp("finished")
    assert run(preprocessed, exp) == 0
    return only_run(exp)


@pytest.fixture(scope="session")
def stopped(preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run, stopped in its second epoch; to be copied."""
    exp = tmp_path_factory.mktemp("stopped")
    with signals_at(STEPS + 2, signal.SIGTERM):
        assert run(preprocessed, exp) == 128 + signal.SIGTERM
    return only_run(exp)


SPOKEN = ("--hidden_size", "8", "--num_layers", "1", "--batch_size", "8", "--test_split", "1-2", "--sr", "4000")


@pytest.fixture(scope="session")
def spoken(preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with sound and text whose configuration says which text encoder it had; read only."""
    from features.embeddings import fingerprint_of
    from features.text import load_text_model

    exp = tmp_path_factory.mktemp("spoken")
    arguments = ["--data_path", str(preprocessed), "--save_path", str(exp), *SPOKEN, "--gpu_id", "cpu", "--epochs", "1"]
    assert program.main(arguments) == 0
    folder = only_run(exp)
    name = str(preprocessed / "kobert")
    text_model = {"name": name, "revision": None, "fingerprint": fingerprint_of(*load_text_model(name)), "random": True}
    configuration = json.loads((folder / "configuration.json").read_text("utf-8"))
    configuration["data"] = {"corpus": "KEMDy19", "version": "1", "synthetic": True, "text_model": text_model}
    (folder / "configuration.json").write_text(json.dumps(configuration), "utf-8")
    return folder
