"""Two configurations on the same test windows: differences, their bootstrap intervals, and McNemar's test."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

import metric
from constants import AFFECT_RANGE, EMOTIONS
from corpora.kemdy19 import SEGMENT_ID
from metric import HEADINGS, MAIN_FIGURES
from reports.tables import group, read_run, spell, spell_difference, spell_value
from utils import InputError, one_line

AFFECT = ("arousal", "valence")
SUMS = ("n", "precision", "recall", *(f"{name}_{s}" for name in AFFECT for s in ("p", "t", "pp", "tt", "pt")))
CENTRE = sum(AFFECT_RANGE) / 2  # taken off arousal and valence, so that their squares cancel less
CONSTANT = 1e-12  # variance that rounding alone makes; one window of a million off by 1e-2 makes a hundred times that
CONFIDENCE = 0.95


class Pair(NamedTuple):
    """Finished experiment folders of both configurations, on one test split and seed."""

    role: str
    fold: tuple[int, ...]  # test sessions
    seed: int | str  # of both, or in words
    a: Path
    b: Path


class Fold(NamedTuple):
    """What the comparison takes from the pairs of one test split, which share their windows.

    sums : `SUMS` of every dialogue, seed and configuration, float64, shape = (D, S, 2, 13)
    only : windows whose emotion A alone has right, and B alone, by seed, int64, shape = (S, 2)
    """

    sessions: tuple[int, ...]
    seeds: list[int | str]
    sums: np.ndarray
    only: np.ndarray


class Comparison(NamedTuple):
    """A role's numbers.

    figures : a row a test split and seed, and under several the mean over folds: windows, dialogues, and of each of
        `MAIN_FIGURES` `_a`, `_b` and `_diff`, B - A
    intervals : a row each of `MAIN_FIGURES`: difference, low, high, method
    mcnemar : a row a test split and seed, and under several folds their sum for each seed: only_a, only_b, p
    """

    figures: pd.DataFrame
    intervals: pd.DataFrame
    mcnemar: pd.DataFrame


# What the runs left


def read_windows(folder: Path, role: str, fold: Sequence[int]) -> pd.DataFrame:
    """The tested windows of an experiment folder, a row a window, by segment id in its order.

    Columns: true emotions (multi-hot, `EMOTIONS`), arousal and valence, their `_pred`, and `right`, whether the
    likeliest emotion is among the true ones.

    Raises
    ------
    InputError : the folder is damaged, or of another role or test split
    """
    run = read_run(folder)
    found = run.configuration["SorL"], sorted(run.configuration["test_split"])
    if found != (role, sorted(fold)):
        raise InputError(
            f"{folder / 'configuration.json'}: a run of the {found[0]}, tested on sessions {spell(found[1])}; expected "
            f"the {role} and sessions {spell(fold)}; compare runs of one role and test split"
        )
    path, seen = folder / "predictions.csv", set()
    for segment in run.ids:
        if SEGMENT_ID.fullmatch(segment) is None or segment in seen:
            what = "occurs twice" if segment in seen else "expected an id such as Sess01_script01_F001"
            raise InputError(f"{path}: segment id {segment!r}: {what}; test the run again")
        seen.add(segment)
    true, likeliest = run.arrays["emotion"], metric.ranked(run.arrays["emotion_pred"])[:, :1]
    windows = pd.DataFrame(true, columns=EMOTIONS, index=run.ids)
    windows["right"] = np.take_along_axis(true, likeliest, axis=1)[:, 0].astype(bool)
    windows = windows.assign(**{name: values for name, values in run.arrays.items() if not name.startswith("emotion")})
    return windows.sort_index()


def check_same(first: pd.DataFrame, other: pd.DataFrame, paths: tuple[Path, Path]) -> None:
    """Raise `InputError` unless two frames of `read_windows` have the same windows, labels and targets."""
    advice = "a paired comparison needs the same windows: test both runs on the same corpus"
    if not first.index.equals(other.index):
        odd = first.index.symmetric_difference(other.index)[0]
        lacks, has = paths if odd in other.index else paths[::-1]
        raise InputError(f"{lacks}: has no window {odd}, which {has} has; {advice}")
    differs = (first[[*EMOTIONS, *AFFECT]] != other[[*EMOTIONS, *AFFECT]]).any(axis=1).to_numpy()
    if differs.any():
        at = differs.argmax()
        told = [
            f"{';'.join(name for name in EMOTIONS if row[name])}, arousal {row['arousal']:g}, valence "
            f"{row['valence']:g} in {path}"
            for row, path in zip((first.iloc[at], other.iloc[at]), paths, strict=True)
        ]
        raise InputError(f"{first.index[at]} is {' and '.join(told)}; {advice}")


def dialogue_sums(windows: pd.DataFrame) -> np.ndarray:
    """Sums over a dialogue's windows from which `figures` computes, dialogues in the order of their ids.

    `n` windows, their `precision` and `recall` at 1, and of arousal and valence, less `CENTRE`, prediction p and
    target t, their squares and their product.

    Returns
    -------
    float64, shape = (D, 13), columns `SUMS`
    """
    right = windows["right"].astype(float)
    columns = {"n": 1.0, "precision": right, "recall": right / windows[[*EMOTIONS]].sum(axis=1)}
    for name in AFFECT:
        p, t = windows[f"{name}_pred"] - CENTRE, windows[name] - CENTRE
        columns |= {f"{name}_p": p, f"{name}_t": t, f"{name}_pp": p * p, f"{name}_tt": t * t, f"{name}_pt": p * t}
    dialogue = [segment.rpartition("_")[0] for segment in windows.index]
    return pd.DataFrame(columns, index=windows.index)[[*SUMS]].groupby(dialogue).sum().to_numpy()


def read_fold(pairs: Sequence[Pair], bar: tqdm) -> Fold:
    """Read the pairs of one role and test split.

    Raises
    ------
    InputError : a folder is damaged, of another role or test split, or they differ in windows, labels or targets
    """
    first, seeds = None, []
    for pair in pairs:
        both = []
        for folder in (pair.a, pair.b):
            windows, path = read_windows(folder, pair.role, pair.fold), folder / "predictions.csv"
            first = first or (windows, path)
            check_same(first[0], windows, (first[1], path))
            both.append(windows)
            bar.update()
        right = [windows["right"].to_numpy() for windows in both]
        only = [(right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()]
        seeds.append((np.stack([dialogue_sums(windows) for windows in both], axis=1), only))
    sums = np.stack([sums for sums, _ in seeds], axis=1)
    return Fold(pairs[0].fold, [pair.seed for pair in pairs], sums, np.array([only for _, only in seeds]))


# Figures, and the interval of their difference


def figures(sums: np.ndarray) -> np.ndarray:
    """`MAIN_FIGURES` of windows from their sums.

    F1 is the published one, of precision@1 and recall@1, over all windows at once. CCC is Lin's (1989) with
    population variances, 0 where prediction or target is constant, as in metric.py.

    Parameters
    ----------
    sums : columns `SUMS`, shape = (..., 13)

    Returns
    -------
    float64, shape = (..., 3)
    """
    means = dict(zip(SUMS, np.moveaxis(sums / sums[..., :1], -1, 0), strict=True))
    found = [metric.f1(means["precision"], means["recall"])]
    for name in AFFECT:
        p, t, pp, tt, pt = (means[f"{name}_{s}"] for s in ("p", "t", "pp", "tt", "pt"))
        var_p, var_t = pp - p * p, tt - t * t
        varies = (var_p > CONSTANT) & (var_t > CONSTANT)
        spread = np.where(varies, var_p + var_t + (p - t) ** 2, 1)
        found.append(np.where(varies, 2 * (pt - p * t) / spread, 0))
    return np.stack(found, axis=-1)


def difference(sums: np.ndarray) -> np.ndarray:
    """B - A of each of `MAIN_FIGURES`, mean over seeds: sums of shape (..., S, 2, 13), result of shape (..., 3)."""
    of_a, of_b = np.moveaxis(figures(sums), -2, 0)
    return (of_b - of_a).mean(axis=-2)


def occurrences(drawn: np.ndarray, n: int) -> np.ndarray:
    """How often each of `n` dialogues is among those drawn: shape (..., K) to (..., n)."""
    rows = drawn.reshape(-1, drawn.shape[-1]).astype(np.int64)
    places = rows + n * np.arange(len(rows))[:, None]
    return np.bincount(places.ravel(), minlength=n * len(rows)).reshape(*drawn.shape[:-1], n).astype(np.float64)


def bootstrap_intervals(folds: Sequence[np.ndarray], n_resamples: int, seed: int) -> pd.DataFrame:
    """95% bootstrap interval of the mean over folds of `difference`, dialogues resampled within each fold.

    BCa (Efron 1987), with scipy's acceleration for several samples. A and B and all seeds of a fold have the same
    dialogues in a resample. Where BCa is not defined, it is the percentile interval; with a fold of a single dialogue
    there is none.

    Parameters
    ----------
    folds : sums of each fold, shape = (D, S, 2, 13)

    Returns
    -------
    `difference`, `low`, `high` and `method`, a row each of `MAIN_FIGURES`
    """
    from scipy.stats import bootstrap

    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        by_fold = [
            difference(np.tensordot(occurrences(of_fold, len(sums)), sums, axes=1))
            for of_fold, sums in zip(drawn, folds, strict=True)
        ]
        return np.moveaxis(np.mean(by_fold, axis=0), -1, 0).round(12)  # the rest is of the order of the additions

    dialogues = [np.arange(len(sums)) for sums in folds]
    found = pd.DataFrame({"difference": statistic(*dialogues)}, index=[*MAIN_FIGURES])
    if min(map(len, dialogues)) == 1:
        return found.assign(low=np.nan, high=np.nan, method="not defined: a fold has a single dialogue")
    options = {"statistic": statistic, "vectorized": True, "axis": -1, "confidence_level": CONFIDENCE}
    options["rng"] = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # BCa is nan where all resamples agree; below it is not
        bca = bootstrap(dialogues, n_resamples=n_resamples, method="BCa", **options)
    percentile = bootstrap(dialogues, n_resamples=0, method="percentile", bootstrap_result=bca, **options)
    same = np.ptp(bca.bootstrap_distribution, axis=-1) == 0
    defined = np.isfinite(bca.confidence_interval).all(axis=0) & ~same
    found["low"], found["high"] = np.where(defined, bca.confidence_interval, percentile.confidence_interval)
    found["method"] = np.select([same, defined], ["the same in all resamples", "BCa"], "percentile")
    return found


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of the exact test (McNemar 1947, by the binomial): windows that A, and B, alone has right."""
    from scipy.stats import binomtest

    return float(binomtest(int(only_a), int(only_a + only_b)).pvalue) if only_a + only_b else 1.0


# Tables


def compare_folds(folds: Sequence[Fold], n_resamples: int, seed: int) -> Comparison:
    """The numbers of one role."""
    rows, tests = [], []
    for fold in folds:
        test = spell(fold.sessions)
        for number, of_seed in enumerate(fold.seeds):
            sums = fold.sums[:, number]
            counts = {"test": test, "seed": str(of_seed), "windows": int(sums[:, 0, 0].sum()), "dialogues": len(sums)}
            rows.append(counts | figure_columns(*figures(sums.sum(axis=0))))
            tests.append(counts | {"only_a": fold.only[number, 0], "only_b": fold.only[number, 1]})
    if len(rows) > 1:
        of_folds = [figures(fold.sums.sum(axis=0)).mean(axis=0) for fold in folds]
        seeds = len({of_seed for fold in folds for of_seed in fold.seeds})
        of = [f"{n} {what}" for n, what in ((len(folds), "folds"), (seeds, "seeds")) if n > 1]
        counts = {"test": f"mean of {' and '.join(of)}", "seed": ""}
        counts |= {"windows": sum(int(fold.sums[:, 0, 0, 0].sum()) for fold in folds)}
        counts |= {"dialogues": sum(len(fold.sums) for fold in folds)}
        rows.append(counts | figure_columns(*np.mean(of_folds, axis=0)))
    by_test = pd.DataFrame(tests).drop(columns="dialogues")
    if len(folds) > 1:
        summed = by_test.groupby("seed", sort=False, as_index=False)[["windows", "only_a", "only_b"]].sum()
        n_folds = by_test.groupby("seed", sort=False).size()
        summed["test"] = [f"{n} fold{'s' * (n > 1)}" for n in n_folds]
        by_test = pd.concat([by_test, summed], ignore_index=True)
    by_test["p"] = [mcnemar(a, b) for a, b in zip(by_test["only_a"], by_test["only_b"], strict=True)]
    intervals = bootstrap_intervals([fold.sums for fold in folds], n_resamples, seed)
    return Comparison(pd.DataFrame(rows), intervals, by_test)


def figure_columns(of_a: np.ndarray, of_b: np.ndarray) -> dict[str, float]:
    """`_a`, `_b` and `_diff` of each of `MAIN_FIGURES`, from those of A and of B, both shape = (3,)."""
    columns = {}
    for name, a, b in zip(MAIN_FIGURES, of_a, of_b, strict=True):
        columns |= {f"{name}_a": a, f"{name}_b": b, f"{name}_diff": b - a}
    return columns


LEGEND = (
    "F1 is that of the published precision and recall at 1, over all test windows of a fold at once; the report's is "
    "by batch, averaged over batches, which is not defined on resampled dialogues. The mean is over folds, and within "
    "a fold over seeds.",
    "The intervals resample whole dialogues within each fold, since windows of one dialogue overlap; A and B, and all "
    "seeds of a fold, have the same dialogues in a resample. They tell of other dialogues of these sessions, not of "
    "other speakers or other seeds.",
    "McNemar's exact test counts windows whose emotion one of the two alone has right (its likeliest label is among "
    "the true ones). It takes windows for independent; they overlap, so its p is too small. Go by the interval.",
)


def spell_comparison(role: str, names: tuple[str, str], comparison: Comparison, n_resamples: int) -> str:
    """A role's numbers as Markdown."""
    by_fold = comparison.figures[["test", "seed", "windows", "dialogues"]].astype(str)
    for name in MAIN_FIGURES:
        by_fold[f"{HEADINGS[name]}: A, B (B - A)"] = [
            f"{spell_value(a)}, {spell_value(b)} ({spell_difference(diff)})"
            for a, b, diff in comparison.figures[[f"{name}_a", f"{name}_b", f"{name}_diff"]].to_numpy()
        ]
    intervals = pd.DataFrame(
        {
            "figure": [HEADINGS[name] for name in comparison.intervals.index],
            "mean B - A": comparison.intervals["difference"].map(spell_difference),
            "from": comparison.intervals["low"].map(spell_difference),
            "to": comparison.intervals["high"].map(spell_difference),
            "method": comparison.intervals["method"],
        }
    )
    tests = comparison.mcnemar.assign(p=comparison.mcnemar["p"].map("{:.2g}".format))
    tests = tests.rename(columns={"only_a": "only A right", "only_b": "only B right"}).astype(str)
    a, b = map(one_line, names)
    return "\n\n".join(
        [
            f"# {role}: A = {a}, B = {b}",
            by_fold.to_markdown(index=False, disable_numparse=True),
            f"{CONFIDENCE:.0%} interval of the mean difference, {n_resamples:,} resamples of dialogues:",
            intervals.to_markdown(index=False, disable_numparse=True),
            "McNemar's exact test of the emotion:",
            tests.to_markdown(index=False, disable_numparse=True),
        ]
    )


def compare(pairs: Sequence[Pair], names: tuple[str, str], n_resamples: int = 9999, seed: int = 0) -> str:
    """Compare configuration A with B on the same test windows, and spell it as Markdown, roles apart.

    Parameters
    ----------
    names : of A and of B
    n_resamples : bootstrap resamples
    seed : of the resamples

    Raises
    ------
    InputError : there is no pair, a folder is damaged, of another role or test split, or the folders of a test split
        differ in windows, labels or targets
    """
    if not pairs:
        raise InputError(f"no finished runs of both {names[0]} and {names[1]}; run them on the same folds and seeds")
    parts = []
    with tqdm(total=2 * len(pairs), desc="reading", unit="run", delay=2, leave=False) as bar:
        for (role,), of_role in group(pairs, "role").items():
            folds = [read_fold(of_fold, bar) for of_fold in group(of_role, "fold").values()]
            comparison = compare_folds(folds, n_resamples, seed)
            parts.append(spell_comparison(role, names, comparison, n_resamples))
    return "\n\n".join([*parts, *LEGEND]) + "\n"
