"""Finished runs for tests of the reports: folders without weights, the entries of tables, and a report of them."""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from constants import EMOTIONS
from corpora.kemdy19 import FOLDS
from metric import FIGURES
from reports.published import find_published, read_published
from reports.result import write_result
from reports.runs import Entry
from reports.tables import write_report

BATCH = 16
SCRIPT = "<script>alert(1)</script>|"


def finished_run(
    folder: Path, role: str, split: Sequence[int], ids: list[str], arrays: dict, batch_size: int = 16, **configured
) -> Path:
    """The experiment folder of a run that was tested on `split`, without weights; `arrays` are `engine.evaluate`'s."""
    folder.mkdir(parents=True)
    write_result(folder, ids, arrays, 5, batch_size)
    (folder / "history.csv").write_text("epoch,train_loss\n1,1.5\n")
    configuration = {
        "data_path": "data/sample",
        "SorL": role,
        "test_split": split,
        "valid_split": None,
        "train_split": [session for session in range(1, 21) if session not in split],
        "windows": {"train": 461, "valid": 0, "test": len(ids)},
    }
    (folder / "configuration.json").write_text(json.dumps(configuration | configured))
    return folder


def make_run(folder: Path, role: str, split: tuple[int, ...], seed: int, total: int = 10_279, **configured) -> Path:
    """The experiment folder of a finished run, with random predictions of 90 windows.

    `total` are the utterances of its corpus: as many as KEMDy19 has, of which it is made then.
    """
    rng = np.random.default_rng([seed, *split, len(role)])
    n = 90
    emotion = np.eye(7, dtype=np.float32)[rng.integers(0, 6, n)]  # never happy
    emotion[rng.random(n) < 0.2, 5] = 1
    scores = np.exp(rng.normal(size=(n, 7)) + 1.5 * emotion)
    arousal, valence = rng.integers(10, 51, (2, n)) / 10
    arrays = {
        "emotion_pred": (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32),
        "emotion": emotion,
        "arousal": arousal,
        "arousal_pred": np.clip(arousal + rng.normal(size=n), 1, 5),
        "valence": valence,
        "valence_pred": np.clip(6 - valence + rng.normal(size=n), 1, 5),
    }
    ids = [f"Sess{split[0]:02}_script{1 + place % 6:02}_F{place:03}" for place in range(n)]
    facts = {
        "data_path": "data/KEMDy19" if total > 10_000 else "data/sample",
        "windows": {"train": total - n, "valid": 0, "test": n},
        "versions": {"python": "3.11.7", "torch": "2.11.0"},
        "commit": "0123456789abcdef",
        "device": "cpu (x86_64, 2 threads)",
    }
    finished_run(folder, role, split, ids, arrays, BATCH, **facts | configured)
    history = {"epoch": [1, 2, 3], "lr": 1e-3, "train_loss": [1.5, 1.2, 1.1 - seed / 10]}
    history |= {"valid_loss": [1.6, 1.5, 1.4]} if seed else {}
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    return folder


def entry(
    table: str, row: str, key: tuple[str, tuple[int, ...], int], folder: Path | None = None, error: str | None = None
) -> Entry:
    """An entry of a table, with the figures that were published for it; `key` is its role, test split and seed."""
    role, split, seed = key
    published = find_published(read_published(), table, row, role, split)
    return Entry(table, f"Title {table}", row, role, split, seed, f"{row} {key}", folder, error, published)


def write_and_read(folder: Path, entries: list[Entry]) -> tuple[pd.DataFrame, str, str]:
    """Write the report of one table's entries; its CSV, its Markdown and the page."""
    folder.mkdir(exist_ok=True)
    write_report(folder, entries, {})
    (name,) = {e.table for e in entries}
    table = pd.read_csv(folder / f"{name}.csv")
    return table, (folder / f"{name}.md").read_text("utf-8"), (folder / "index.html").read_text("utf-8")


def recompute_figures(folder: Path) -> dict[str, float]:
    """The figures of a run from its predictions alone, window by window."""
    windows = pd.read_csv(folder / "predictions.csv")
    batches, majority = [], []
    for start in range(0, len(windows), BATCH):
        batch = windows.iloc[start : start + BATCH]
        labels = [row.split(";") for row in batch["emotion"]]
        best = batch[[f"p_{name}" for name in EMOTIONS]].idxmax(axis=1).str[2:]
        for answers, sums in ((best, batches), (["neutral"] * len(batch), majority)):
            hits = [answer in true for answer, true in zip(answers, labels, strict=True)]
            precision = np.mean(hits)
            recall = np.mean([hit / len(true) for hit, true in zip(hits, labels, strict=True)])
            sums.append([precision, recall, 2 * precision * recall / (precision + recall + 1e-3)])
    figures = dict(zip(FIGURES, np.mean(batches, axis=0), strict=False))
    for name in ("arousal", "valence"):
        true, predicted = windows[name], windows[f"{name}_pred"]
        covariance = np.cov(true, predicted, ddof=0)
        distance = (true.mean() - predicted.mean()) ** 2
        figures[f"ccc_{name}"] = 2 * covariance[0, 1] / (np.trace(covariance) + distance)
    return figures | {"majority_f1": np.mean(majority, axis=0)[2]}


# Fixtures


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory) -> dict[tuple, Path]:
    """Folders of runs by role, test split and seed; read only."""
    parent = tmp_path_factory.mktemp("runs")
    wanted = list(itertools.product(["speaker"], FOLDS[:2], [0, 1]))
    wanted += [("speaker", FOLDS[3], 0), ("listener", FOLDS[3], 0)]
    return {key: make_run(parent / str(number), *key) for number, key in enumerate(wanted)}


@pytest.fixture
def run_folder(finished_runs, tmp_path) -> Path:
    """A run's folder to damage."""
    return shutil.copytree(finished_runs["speaker", FOLDS[3], 0], tmp_path / "run")


@pytest.fixture(scope="session")
def entries(finished_runs) -> list[Entry]:
    """Two folds with two seeds, a table that lacks runs, and hostile names."""
    folds = [entry("3.2", "default", key, folder) for key, folder in finished_runs.items()][:4]
    speaker, listener = (finished_runs[role, FOLDS[3], 0] for role in ("speaker", "listener"))
    return [
        *folds,
        entry("3.6", "lam .66", ("listener", FOLDS[3], 0), listener),
        entry("3.6", "lam .66", ("speaker", FOLDS[3], 0), speaker),
        entry("3.6", "lam .5", ("speaker", FOLDS[3], 0), None, f"error: {SCRIPT}"),
        entry("3.6", "lam .75", ("speaker", FOLDS[3], 0), finished_runs["speaker", FOLDS[0], 0]),
        entry("grid", f"$x$ <img src=x onerror=alert(1)>{SCRIPT}", ("speaker", FOLDS[3], 0), speaker),
    ]


@pytest.fixture(scope="session")
def grid(tmp_path_factory) -> list[Entry]:
    """A grid of two options that vary and one that does not, two seeds of each but for one row that lacks its runs."""
    parent, entries = tmp_path_factory.mktemp("grid"), []
    for number, (lam, backbone, seed) in enumerate(itertools.product(("0.5", "0.6", "0.7"), ("lstm", "gru"), (0, 1))):
        options = {"lam": lam, "backbone": backbone, "no_concat": "no"}
        row, key = " ".join(f"{name}={value}" for name, value in options.items()), ("speaker", FOLDS[3], seed)
        lacks = (lam, backbone) == ("0.6", "gru")
        folder = None if lacks else make_run(parent / f"run {number}", "speaker", FOLDS[3], number)
        entries.append(entry("grid", row, key, folder)._replace(options=options))
    return entries


@pytest.fixture(scope="session")
def report(entries, tmp_path_factory) -> Path:
    """The report of `entries`; read only."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, entries, {"data_path": f"data/{SCRIPT}", "epochs": 3, "gpu_id": None, "compile": False})
    return folder
