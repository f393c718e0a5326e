"""Fixtures that several test files share: sample corpora, their preprocessed copies, and a trained run of each kind.

The corpora and runs are made once and shared by all processes of a test session: copy what a test changes.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # as many test processes as cores: a core each, also for what they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "data"))

import filelock
import numpy as np
import pytest
from browser import browser  # noqa: F401
from make_sample import make_sample
from raw_corpus import run as preprocess
from speech_encoders import make_encoder

import main
from features.encoders import save_encoder_embeddings
from features.speech_encoder import load_speech_encoder

# Options of the trained runs: tiny, on the CPU, a second or two each
SMALL = ("--hidden_size", "16", "--num_layers", "1", "--batch_size", "8", "--sr", "4000", "--gpu_id", "cpu")
KINDS = {
    "text": ("--modality", "text", "--test_split", "1-2", "--valid_split", "3", "--epochs", "2", "--select", "loss"),
    "audio": ("--backbone", "gru", "--precision", "bf16", "--test_split", "1-2", "--epochs", "1"),
    "speech": ("--audio", "encoder", "--speakers", "--affect_loss", "ccc", "--test_split", "1-2", "--epochs", "1"),
    "kemdy20": ("--modality", "text", "--epochs", "1"),
}


def pytest_configure() -> None:
    """Heed SIGINT as in a terminal: a shell starts background commands, and so their children, with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def only_run(save_path: Path) -> Path:
    """The one run folder in a save path."""
    (folder,) = (path.parent for path in save_path.glob("*/configuration.json"))
    return folder


# Corpora


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`made(name, make)`: a folder of the test session, which the first process that asks for it fills by `make`."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with filelock.FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process whose test failed
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def sample(made) -> Path:
    """A raw sample corpus of six sessions; read only."""
    return made("sample", lambda folder: make_sample(folder, seed=0, sessions=6, utterances=5))


@pytest.fixture(scope="session")
def sample20(made) -> Path:
    """A raw sample corpus in KEMDy20's layout: ten sessions, two of them outside the first fold; read only."""
    return made("sample20", lambda folder: make_sample(folder, "kemdy20", sessions=10, utterances=3))


def preprocessed_copy(sample: Path, folder: Path) -> None:
    """Copy a raw sample corpus and preprocess the copy."""
    shutil.copytree(sample, folder)
    with contextlib.redirect_stderr(io.StringIO()):  # progress
        assert preprocess(folder) == 0


@pytest.fixture(scope="session")
def preprocessed(sample: Path, made) -> Path:
    """A copy of `sample` with the files of preprocessing beside it; read only."""
    return made("preprocessed", lambda folder: preprocessed_copy(sample, folder))


@pytest.fixture(scope="session")
def preprocessed20(sample20: Path, made) -> Path:
    """A copy of `sample20` with the files of preprocessing beside it; read only."""
    return made("preprocessed20", lambda folder: preprocessed_copy(sample20, folder))


@pytest.fixture(scope="session")
def spoken(preprocessed: Path, made) -> Path:
    """A copy of `preprocessed` without one of its wavs, and with speech embeddings of a tiny HuBERT; read only."""

    def make(folder: Path) -> None:
        shutil.copytree(preprocessed, folder)
        sorted(folder.rglob("*.wav"))[3].unlink()
        encoder = load_speech_encoder(str(make_encoder(folder / "encoders", "hubert-group")))
        save_encoder_embeddings(folder, None, encoder)

    return made("spoken", make)


@pytest.fixture
def corpus(sample: Path, tmp_path: Path) -> Path:
    """A raw corpus that a test may change."""
    return shutil.copytree(sample, tmp_path / "corpus")


# Trained runs


def argv_of(kind: str, corpus: Path, save_path: Path, *more: str) -> list[str]:
    """The command line of main.py that trains a tiny run of a kind."""
    return ["--data_path", str(corpus), "--save_path", str(save_path), *SMALL, *KINDS[kind], *more]


def train(kind: str, corpus: Path, save_path: Path, *more: str) -> Path:
    """Train a tiny run of a kind; its folder."""
    assert main.main(argv_of(kind, corpus, save_path, *more)) == 0
    return only_run(save_path)


def retest(folder: Path, *options: str) -> Path:
    """The new folder of a test of a run."""
    before = {*folder.glob("test_*")}
    assert main.main(["--test_only", str(folder), "--gpu_id", "cpu", *options]) == 0
    (found,) = {*folder.glob("test_*")} - before
    return found


@pytest.fixture(scope="session")
def text_run(preprocessed: Path, made) -> Path:
    """The folder of an LSTM run on text with validation, two epochs, the better one tested; read only."""
    return only_run(made("text_run", lambda folder: train("text", preprocessed, folder)))


@pytest.fixture(scope="session")
def audio_run(preprocessed: Path, made) -> Path:
    """The folder of a GRU run on log-mels and text in bfloat16; read only."""
    return only_run(made("audio_run", lambda folder: train("audio", preprocessed, folder)))


@pytest.fixture(scope="session")
def speech_run(spoken: Path, made) -> Path:
    """The folder of a run on speech embeddings and text with speaker embeddings and the CCC loss; read only."""
    return only_run(made("speech_run", lambda folder: train("speech", spoken, folder)))


@pytest.fixture(scope="session")
def kemdy20_run(preprocessed20: Path, made) -> Path:
    """The folder of a run on the text of KEMDy20; read only."""
    return only_run(made("kemdy20_run", lambda folder: train("kemdy20", preprocessed20, folder)))


@pytest.fixture
def reference() -> Callable[[str], dict]:
    """Read a file of tests/reference: arrays of an .npz, content of a .json."""

    def read(name: str) -> dict:
        path = Path(__file__).parent / "reference" / name
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return read
