"""Finished runs for tests of the comparison: pairs of folders that were tested on the same windows."""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_runs import entry, finished_run
from tqdm import tqdm

from constants import EMOTIONS
from corpora.kemdy19 import FOLDS
from metric import ccc
from reports.pairs import AFFECT, Fold, Pair, read_fold
from reports.runs import Entry

NAMES = ("default", "bidirectional")


def make_ids(sessions: tuple[int, ...], dialogues: int, windows: int) -> list[str]:
    """Ids of `windows` utterances in each of `dialogues` dialogues per session, in the corpus's order."""
    return [
        f"Sess{session:02}_impro{number:02}_{'FM'[place % 2]}{place:03}"
        for session in sessions
        for number in range(dialogues)
        for place in range(windows)
    ]


def make_arrays(ids: list[str], labels: int, skill: float, seed: int) -> dict[str, np.ndarray]:
    """Arrays as `engine.evaluate` returns them; `labels` seeds the truth, `seed` the predictions of this `skill`."""
    rng, n = np.random.default_rng(labels), len(ids)
    emotion = np.eye(7, dtype=np.float32)[rng.integers(0, 7, n)]
    emotion[rng.random(n) < 0.2, 5] = 1
    targets = rng.integers(10, 51, (2, n)) / 10
    rng = np.random.default_rng([labels, seed])
    dialogue = np.unique([segment.rpartition("_")[0] for segment in ids], return_inverse=True)[1]
    skills = skill + rng.normal(size=dialogue.max() + 1)[dialogue]  # dialogues differ in how hard they are
    scores = np.exp(rng.normal(size=(n, 7)) + skills[:, None] * emotion)
    arrays = {"emotion": emotion, "emotion_pred": (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)}
    for name, target in zip(AFFECT, targets, strict=True):
        arrays |= {name: target, f"{name}_pred": np.clip(target + (rng.normal(size=n) + 0.3) / skill, 1, 5)}
    return arrays


def make_pair(parent: Path, role: str, sessions: tuple[int, ...], seed: int) -> Pair:
    """B better than A, on some 100 windows of 16 or 20 dialogues."""
    ids = make_ids(sessions, 4 + (sessions == FOLDS[1]), 6)
    folders = []
    for number, skill in enumerate((1.5, 2.0)):
        arrays = make_arrays(ids, sessions[0], skill, 10 * seed + number)
        folders.append(finished_run(parent / f"{role}-{sessions[0]}-{seed}-{number}", role, sessions, ids, arrays))
    return Pair(role, sessions, seed, *folders)


def read_folds(pairs: list[Pair]) -> list[Fold]:
    """The folds of these pairs, in order."""
    with tqdm(disable=True) as bar:
        return [read_fold([p for p in pairs if p.fold == fold], bar) for fold in dict.fromkeys(p.fold for p in pairs)]


def recompute_main_figures(windows: pd.DataFrame) -> np.ndarray:
    """`MAIN_FIGURES` of rows of a predictions.csv, window by window; shape = (6,)."""
    best = windows[[f"p_{name}" for name in EMOTIONS]].idxmax(axis=1).str[2:]
    labels = [row.split(";") for row in windows["emotion"]]
    precision = np.mean([answer in true for answer, true in zip(best, labels, strict=True)])
    recall = np.mean([(answer in true) / len(true) for answer, true in zip(best, labels, strict=True)])
    f1 = 2 * precision * recall / (precision + recall + 1e-3)
    single = np.array([len(true) == 1 for true in labels])
    true, answers = np.array([true[0] for true in labels])[single], best.to_numpy()[single]
    of_label = {  # F1, which is 2 hits / (labelled + answered), and how many are labelled so
        name: (2 * ((true == name) & (answers == name)).sum() / ((true == name).sum() + (answers == name).sum()), n)
        for name in {*true, *answers}
        for n in [(true == name).sum()]
    }
    f1s, n = np.array([*of_label.values()]).T
    by_label = [(f1s * n).sum() / n.sum(), f1s.mean(), (true == answers).mean()]
    return np.array([*by_label, *(ccc(windows[f"{name}_pred"], windows[name]) for name in AFFECT), f1])


def predictions(folder: Path) -> pd.DataFrame:
    """The rows of a run's predictions.csv."""
    return pd.read_csv(folder / "predictions.csv")


def make_beyond(parent: Path, folds: Sequence[tuple[int, ...]], seeds: int, rows: Mapping[str, float]) -> list[Entry]:
    """The entries of a table whose rows are compared with its first one, from the skill of each row's runs."""
    entries = []
    for (number, (row, skill)), fold, seed in itertools.product(enumerate(rows.items()), folds, range(seeds)):
        ids = make_ids(fold, 4, 6)
        arrays = make_arrays(ids, fold[0], skill, 10 * seed + number)
        folder = finished_run(parent / f"{number}-{fold[0]}-{seed}", "speaker", fold, ids, arrays)
        entries.append(entry("beyond", row, ("speaker", fold, seed), folder)._replace(baseline="MATE"))
    return entries


# Fixtures


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> list[Pair]:
    """Two folds and two seeds of the speaker, one fold of the listener; read only."""
    parent = tmp_path_factory.mktemp("runs")
    speaker = [make_pair(parent, "speaker", fold, seed) for fold in FOLDS[:2] for seed in (0, 1)]
    return [*speaker, make_pair(parent, "listener", FOLDS[0], 0)]


@pytest.fixture
def damaged(pairs, tmp_path) -> Pair:
    """A pair whose B may be damaged."""
    return pairs[0]._replace(b=shutil.copytree(pairs[0].b, tmp_path / "b"))
