"""Fixtures that several test files share: a small sample corpus and its preprocessed copy."""

import ctypes
import json
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # as many test processes as cores: a core each, also for what they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

# Fixtures of the reports' tests, and of those that resume runs
from browser import browser  # noqa: F401
from compared_runs import damaged, pairs  # noqa: F401
from fake_gpu import gpu  # noqa: F401
from finished_runs import entries, finished_runs, grid, report, run_folder  # noqa: F401
from small_runs import finished, spoken, stopped  # noqa: F401

ROOT = Path(__file__).parent.parent
REFERENCE = Path(__file__).parent / "reference"
sys.path.insert(0, str(ROOT / "data"))


def pytest_configure() -> None:
    """Heed SIGINT as in a terminal: a shell starts background commands, and so their children, with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def heed_permissions() -> None:
    """Give up root's right to read and write where the permissions forbid it."""
    if os.getuid() == 0:
        drop_capability, capabilities = 24, (1, 2)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        for capability in capabilities:
            assert ctypes.CDLL(None).prctl(drop_capability, capability, 0, 0, 0) == 0


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw sample corpus of six sessions; read only."""
    from make_sample import make_sample

    out = tmp_path_factory.mktemp("sample") / "corpus"
    make_sample(out, seed=0, sessions=6, utterances=5)
    return out


def preprocessed_copy(sample: Path, corpus: Path) -> Path:
    """A copy of a raw sample corpus, pre-processed."""
    from preprocessing import get_args_parser, preprocess

    shutil.copytree(sample, corpus)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the faults that the sample has on purpose
        options = ["--data_path", str(corpus), "--text_model", str(corpus / "kobert"), "--gpu_id", "cpu"]
        preprocess(get_args_parser().parse_args(options))
    return corpus


@pytest.fixture(scope="session")
def preprocessed(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `sample` with the files of preprocessing beside it; read only."""
    return preprocessed_copy(sample, tmp_path_factory.mktemp("preprocessed") / "corpus")


@pytest.fixture(scope="session")
def sample20(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw sample corpus in KEMDy20's layout: ten sessions, two of them outside the first fold; read only."""
    from sample_kemdy20 import make_sample_kemdy20

    out = tmp_path_factory.mktemp("sample20") / "corpus"
    make_sample_kemdy20(out, sessions=10, utterances=3)
    return out


@pytest.fixture(scope="session")
def preprocessed20(sample20: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `sample20` with the files of preprocessing beside it; read only."""
    return preprocessed_copy(sample20, tmp_path_factory.mktemp("preprocessed20") / "corpus")


@pytest.fixture
def corpus(sample: Path, tmp_path: Path) -> Path:
    """A raw corpus that may be spoilt."""
    shutil.copytree(sample, tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def reference():
    """Read a file of tests/reference: arrays of an .npz, content of a .json."""

    def read(name: str) -> dict:
        path = REFERENCE / name
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return read
