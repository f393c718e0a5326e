"""Pairs: the test windows of two configurations' runs, checked to be the same, and their sums by dialogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from constants import AFFECT_RANGE, EMOTIONS
from corpora.registry import EXAMPLE_ID, dialogue_of, parse_id
from corpora.sessions import format_sessions, plain
from metric import ranked
from reports.runs import AFFECT_COLUMNS, read_run
from utils import InputError

AFFECT = ("arousal", "valence")
COUNTS = tuple(f"{true} as {predicted}" for true in EMOTIONS for predicted in EMOTIONS)
SUMS = ("n", "precision", "recall", *(f"{name}_{s}" for name in AFFECT for s in ("p", "t", "pp", "tt", "pt")), *COUNTS)
CENTRE = sum(AFFECT_RANGE) / 2  # subtracted from arousal and valence: sums of smaller squares lose fewer digits


class Pair(NamedTuple):
    """Finished experiment folders of both configurations, on one test split and seed."""

    role: str
    fold: tuple[int, ...]  # test sessions
    seed: int | str  # of both, or in words
    a: Path
    b: Path


class Fold(NamedTuple):
    """What the comparison takes from the pairs of one test split, which have the same windows: D dialogues, S seeds.

    sums : `SUMS` of every dialogue, seed and configuration, float64, shape = (D, S, 2, 62)
    only : windows whose emotion only A has right, and only B, by seed, int64, shape = (S, 2)
    """

    sessions: tuple[int, ...]
    seeds: list[int | str]
    sums: np.ndarray
    only: np.ndarray


def read_windows(folder: Path, role: str, fold: Sequence[int]) -> pd.DataFrame:
    """The tested windows of an experiment folder, one row per window, sorted by their segment ids, which index them.

    Columns: true emotions (multi-hot, `EMOTIONS`), arousal and valence, their `_pred`, the label index of the likeliest
    emotion, `predicted`, and whether it is among the true ones, `right`.

    Raises
    ------
    InputError : the folder is damaged, or of another role or test split
    """
    run = read_run(folder)
    found = run.configuration["SorL"], sorted(plain(run.configuration["test_split"]))
    if found != (role, sorted(fold)):
        raise InputError(
            f"{folder / 'configuration.json'}: a run of the {found[0]}, tested on sessions "
            f"{format_sessions(found[1])}; expected the {role} and sessions {format_sessions(fold)}; compare runs of "
            "one role and test split"
        )
    check_ids(run.ids, folder / "predictions.csv")
    return windows_table(run.ids, run.arrays).sort_index()


def windows_table(ids: Sequence[str], arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The columns of `read_windows`, of N segment ids and arrays as `engine.evaluate` returns them, in their order."""
    true, likeliest = arrays["emotion"], ranked(arrays["emotion_pred"])[:, :1]
    windows = pd.DataFrame(true, columns=EMOTIONS, index=[*ids])
    windows["predicted"] = likeliest[:, 0]
    windows["right"] = np.take_along_axis(true, likeliest, axis=1)[:, 0].astype(bool)
    for name in AFFECT_COLUMNS:
        windows[name] = arrays[name]
    return windows


def check_ids(ids: Sequence[str], path: Path) -> None:
    """Raise `InputError` unless the ids in the file `path` are segment ids and none occurs twice."""
    seen = set()
    for segment in ids:
        if segment in seen:
            raise InputError(f"{path}: segment id {segment!r}: occurs twice; test the run again")
        if parse_id(segment) is None:
            raise InputError(f"{path}: segment id {segment!r}: expected an id such as {EXAMPLE_ID}; test the run again")
        seen.add(segment)


def check_same(first: pd.DataFrame, other: pd.DataFrame, paths: tuple[Path, Path]) -> None:
    """Raise `InputError` unless two frames of `read_windows`, from these paths, have the same windows and targets."""
    advice = "a paired comparison needs the same windows: test both runs on the same corpus"
    if not first.index.equals(other.index):
        odd = first.index.symmetric_difference(other.index)[0]
        lacks, has = paths if odd in other.index else paths[::-1]
        raise InputError(f"{lacks}: has no window {odd}, which {has} has; {advice}")
    differs = (first[[*EMOTIONS, *AFFECT]] != other[[*EMOTIONS, *AFFECT]]).any(axis=1).to_numpy()
    if differs.any():
        at = differs.argmax()
        found = [
            f"{';'.join(name for name in EMOTIONS if row[name])}, arousal {row['arousal']:g}, valence "
            f"{row['valence']:g} in {path}"
            for row, path in zip((first.iloc[at], other.iloc[at]), paths, strict=True)
        ]
        raise InputError(f"{first.index[at]} is {' and '.join(found)}; {advice}")


def dialogue_sums(windows: pd.DataFrame) -> np.ndarray:
    """Sums over the windows of each dialogue, from which `comparison.figures` computes, sorted by corpus and dialogue.

    They are over 1 (`n`), precision and recall at 1, and of arousal and valence, less `CENTRE`, over prediction p and
    target t, their squares and their product; `COUNTS` are of the windows with one true label, by it and the likeliest.

    Parameters
    ----------
    windows : of `read_windows`

    Returns
    -------
    float64, shape = (D, 62), columns `SUMS`
    """
    right, true = windows["right"].astype(float), windows[[*EMOTIONS]].to_numpy()
    columns = {"n": 1.0, "precision": right, "recall": right / true.sum(axis=1)}
    for name in AFFECT:
        p, t = windows[f"{name}_pred"] - CENTRE, windows[name] - CENTRE
        columns |= {f"{name}_p": p, f"{name}_t": t, f"{name}_pp": p * p, f"{name}_tt": t * t, f"{name}_pt": p * t}
    single = np.flatnonzero(true.sum(axis=1) == 1)
    counts = np.zeros((len(windows), len(COUNTS)))
    counts[single, true[single].argmax(axis=1) * len(EMOTIONS) + windows["predicted"].to_numpy()[single]] = 1
    sums = pd.DataFrame(columns, index=windows.index).join(pd.DataFrame(counts, index=windows.index, columns=COUNTS))
    dialogue = [dialogue_of(segment) for segment in windows.index]
    return sums[[*SUMS]].groupby(dialogue).sum().to_numpy()


def make_fold(pairs: Sequence[Pair], windows: Mapping[Path, pd.DataFrame]) -> Fold:
    """The fold of the pairs of one role and test split, from `read_windows` of their folders.

    Raises
    ------
    InputError : they differ in windows, labels or targets
    """
    first = windows[pairs[0].a]
    sums, only = [], []
    for pair in pairs:
        both = [windows[pair.a], windows[pair.b]]
        for folder in (pair.a, pair.b):
            check_same(first, windows[folder], (pairs[0].a / "predictions.csv", folder / "predictions.csv"))
        sums.append(np.stack([dialogue_sums(table) for table in both], axis=1))
        a, b = (table["right"].to_numpy() for table in both)
        only.append([(a & ~b).sum(), (b & ~a).sum()])
    return Fold(pairs[0].fold, [pair.seed for pair in pairs], np.stack(sums, axis=1), np.array(only))


def read_fold(pairs: Sequence[Pair], bar: tqdm) -> Fold:
    """Read the pairs of one role and test split; `bar` counts the folders.

    Raises
    ------
    InputError : a folder is damaged, of another role or test split, or they differ in windows, labels or targets
    """
    windows = {}
    for pair in pairs:
        for folder in (pair.a, pair.b):
            windows[folder] = read_windows(folder, pair.role, pair.fold)
            bar.update()
    return make_fold(pairs, windows)
