"""Comparison: two configurations on the same test windows, their differences, bootstrap intervals, McNemar's test."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from tqdm import tqdm

from corpora.sessions import format_sessions
from metric import HEADINGS, MAIN_FIGURES
from reports.formats import format_difference, format_spread, format_value
from reports.intervals import CONFIDENCE, figures, occurrences, resample
from reports.pairs import COUNTS, Fold, Pair, read_fold
from reports.runs import group
from utils import InputError, one_line


class Comparison(NamedTuple):
    """The numbers of one role.

    figures : one row per test split and seed, and if there are several the mean over folds: windows, those with a
        single label, dialogues, and of each of `MAIN_FIGURES` `_a`, `_b` and `_diff`, B - A
    intervals : one row for each of `MAIN_FIGURES`: difference, low, high, method, and `spread_over_seeds`
    mcnemar : one row per test split and seed, and if there are several folds their sum for each seed: only_a, only_b, p
    """

    figures: pd.DataFrame
    intervals: pd.DataFrame
    mcnemar: pd.DataFrame


# The difference, and its interval


def difference(sums: np.ndarray) -> np.ndarray:
    """B - A of each of `MAIN_FIGURES`, mean over seeds: from sums of shape (..., S, 2, 62), shape = (..., 6)."""
    of_a, of_b = np.moveaxis(figures(sums), -2, 0)
    return (of_b - of_a).mean(axis=-2)


def mean_difference(*drawn: np.ndarray, folds: Sequence[np.ndarray], axis: int = -1) -> np.ndarray:
    """The mean over folds of `difference` in resamples, as scipy's bootstrap calls its statistic.

    Parameters
    ----------
    drawn : for each fold the numbers of the dialogues in each resample, shape = (..., K)
    folds : sums of each fold, shape = (D, S, 2, 62)
    axis : of the dialogues in `drawn`, the last one

    Returns
    -------
    float64, shape = (6, ...)
    """
    by_fold = [
        difference(np.tensordot(occurrences(numbers, len(sums)), sums, axes=1))
        for numbers, sums in zip(drawn, folds, strict=True)
    ]
    return np.moveaxis(np.mean(by_fold, axis=0), -1, 0).round(12)  # later digits depend on the order of the additions


def bootstrap_intervals(folds: Sequence[np.ndarray], n_resamples: int, seed: int) -> pd.DataFrame:
    """95% bootstrap interval of the mean over folds of `difference`, dialogues resampled within each fold.

    The method is BCa (Efron 1987), with scipy's acceleration for several samples. A, B and all seeds of a fold have
    the same dialogues in a resample. If BCa is not defined, it is the percentile interval; if a fold has a single
    dialogue, there is none.

    Parameters
    ----------
    folds : sums of each fold, shape = (D, S, 2, 62)
    n_resamples : at least 1
    seed : of the resamples

    Returns
    -------
    `difference`, `low`, `high` and `method`, one row for each of `MAIN_FIGURES`
    """
    statistic = partial(mean_difference, folds=folds)
    found = pd.DataFrame({"difference": statistic(*(np.arange(len(sums)) for sums in folds))}, index=[*MAIN_FIGURES])
    return found.join(resample(statistic, [len(sums) for sums in folds], n_resamples, seed))


def spread_over_seeds(folds: Sequence[Fold]) -> pd.DataFrame:
    """How much B - A, mean over folds, differs between seeds, of those that all folds have.

    Returns
    -------
    `seeds`, how many, and `sd`, the sample standard deviation, NaN of one; one row for each of `MAIN_FIGURES`
    """
    common = [seed for seed in folds[0].seeds if all(seed in fold.seeds for fold in folds)]
    by_seed = [
        np.mean([difference(fold.sums[:, [fold.seeds.index(seed)]].sum(axis=0)) for fold in folds], axis=0)
        for seed in common
    ]
    sd = np.std(by_seed, axis=0, ddof=1) if len(common) > 1 else np.nan
    return pd.DataFrame({"seeds": len(common), "sd": sd}, index=[*MAIN_FIGURES])


def within_seeds(of_figure: pd.Series) -> bool:
    """Whether a row of `Comparison.intervals` has a difference of at most its standard deviation over seeds."""
    return bool(abs(of_figure["difference"]) <= of_figure["sd"])


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test (1947): numbers of windows that only A, and that only B, has right."""
    return float(binomtest(int(only_a), int(only_a + only_b)).pvalue) if only_a + only_b else 1.0


# Tables


def compute_comparison(folds: Sequence[Fold], n_resamples: int, seed: int) -> Comparison:
    """The numbers of one role; `n_resamples` and `seed` are the bootstrap's."""
    intervals = bootstrap_intervals([fold.sums for fold in folds], n_resamples, seed)
    return Comparison(figures_table(folds), intervals.join(spread_over_seeds(folds)), mcnemar_table(folds))


def figures_table(folds: Sequence[Fold]) -> pd.DataFrame:
    """The figures of each test split and seed, and below several rows the mean over folds."""
    rows = []
    for fold in folds:
        for number, seed in enumerate(fold.seeds):
            sums = fold.sums[:, number]
            counts = {
                "test": format_sessions(fold.sessions),
                "seed": str(seed),
                "windows": int(sums[:, 0, 0].sum()),
                "single_label": int(sums[:, 0, -len(COUNTS) :].sum()),
                "dialogues": len(sums),
            }
            rows.append(counts | figure_columns(*figures(sums.sum(axis=0))))
    if len(rows) > 1:
        by_fold = [figures(fold.sums.sum(axis=0)).mean(axis=0) for fold in folds]
        n_seeds = len({seed for fold in folds for seed in fold.seeds})
        parts = [f"{n} {noun}" for n, noun in ((len(folds), "folds"), (n_seeds, "seeds")) if n > 1]
        counts = {
            "test": f"mean of {' and '.join(parts)}",
            "seed": "",
            "windows": sum(int(fold.sums[:, 0, 0, 0].sum()) for fold in folds),
            "single_label": sum(int(fold.sums[:, 0, 0, -len(COUNTS) :].sum()) for fold in folds),
            "dialogues": sum(len(fold.sums) for fold in folds),
        }
        rows.append(counts | figure_columns(*np.mean(by_fold, axis=0)))
    return pd.DataFrame(rows)


def mcnemar_table(folds: Sequence[Fold]) -> pd.DataFrame:
    """McNemar's test of each test split and seed, and below several folds that of their sum for each seed."""
    table = pd.DataFrame(
        [
            {
                "test": format_sessions(fold.sessions),
                "seed": str(seed),
                "windows": int(fold.sums[:, number, 0, 0].sum()),
                "only_a": fold.only[number, 0],
                "only_b": fold.only[number, 1],
            }
            for fold in folds
            for number, seed in enumerate(fold.seeds)
        ]
    )
    if len(folds) > 1:
        by_seed = table.groupby("seed", sort=False)
        summed = by_seed[["windows", "only_a", "only_b"]].sum().reset_index()
        summed["test"] = [f"{n} fold{'s' * (n > 1)}" for n in by_seed.size()]
        table = pd.concat([table, summed], ignore_index=True)
    table["p"] = [mcnemar(a, b) for a, b in zip(table["only_a"], table["only_b"], strict=True)]
    return table


def figure_columns(of_a: np.ndarray, of_b: np.ndarray) -> dict[str, float]:
    """`_a`, `_b` and `_diff` of each of `MAIN_FIGURES`, from those of A and of B, both shape = (6,)."""
    columns = {}
    for name, a, b in zip(MAIN_FIGURES, of_a, of_b, strict=True):
        columns |= {f"{name}_a": a, f"{name}_b": b, f"{name}_diff": b - a}
    return columns


LEGEND = (
    "Weighted F1, macro F1 and accuracy are over the test windows with one majority label, CCC over all of them. F1 is "
    "computed from the published precision and recall at 1, over all test windows of a fold at once: the F1 of the "
    "report is an average over batches, which is not defined for resampled dialogues. The mean is over folds, and "
    "within a fold over seeds.",
    "The spread over seeds is the standard deviation, over seeds, of the mean over folds of B - A. A difference within "
    "it may be one of the seeds alone.",
    "The intervals resample whole dialogues within each fold, because windows of one dialogue overlap; A, B and all "
    "seeds of a fold have the same dialogues in a resample. They show how the difference would vary with other "
    "dialogues of these sessions, not with other speakers or other seeds.",
    "McNemar's exact test counts the windows whose emotion only A or only B gets right (its likeliest label is among "
    "the true ones). It assumes that windows are independent; they overlap, so its p is too small. Rely on the "
    "interval.",
)


def format_comparison(role: str, names: tuple[str, str], comparison: Comparison, n_resamples: int) -> str:
    """A role's numbers as Markdown."""
    by_fold = []
    for names_of_block in (MAIN_FIGURES[:3], MAIN_FIGURES[3:]):  # six beside each other are too wide for a terminal
        block = comparison.figures[["test", "seed", "windows", "single_label", "dialogues"]].astype(str)
        block = block.rename(columns={"single_label": "1 label"})
        for name in names_of_block:
            block[f"{HEADINGS[name]}: A, B (B - A)"] = [
                f"{format_value(a)}, {format_value(b)} ({format_difference(diff)})"
                for a, b, diff in comparison.figures[[f"{name}_a", f"{name}_b", f"{name}_diff"]].to_numpy()
            ]
        by_fold.append(block.to_markdown(index=False, disable_numparse=True))
    intervals = pd.DataFrame(
        {
            "figure": [HEADINGS[name] for name in comparison.intervals.index],
            "mean B - A": comparison.intervals["difference"].map(format_difference),
            "from": comparison.intervals["low"].map(format_difference),
            "to": comparison.intervals["high"].map(format_difference),
            "method": comparison.intervals["method"],
            "spread over seeds": comparison.intervals["sd"].map(format_spread),
            "within it": [format_within(row) for _, row in comparison.intervals.iterrows()],
        }
    )
    tests = comparison.mcnemar.assign(p=comparison.mcnemar["p"].map("{:.2g}".format))
    tests = tests.rename(columns={"only_a": "only A right", "only_b": "only B right"}).astype(str)
    a, b = map(one_line, names)
    return "\n\n".join(
        [
            f"# {role}: A = {a}, B = {b}",
            *by_fold,
            f"{CONFIDENCE:.0%} interval of the mean difference, {n_resamples:,} resamples of dialogues:",
            intervals.to_markdown(index=False, disable_numparse=True),
            describe_seeds(comparison.intervals),
            "McNemar's exact test of the emotion:",
            tests.to_markdown(index=False, disable_numparse=True),
        ]
    )


def format_within(of_figure: pd.Series) -> str:
    """Whether a difference is within the spread over seeds: `yes`, `no`, or `-` where that is not known."""
    return "-" if np.isnan(of_figure["sd"]) else "yes" if within_seeds(of_figure) else "no"


def describe_seeds(intervals: pd.DataFrame) -> str:
    """What the spread over seeds says of the differences, in a sentence; `intervals` of a `Comparison`."""
    n = intervals["seeds"].iloc[0]
    if n < 2:
        return (
            f"{'No' if n == 0 else 'One'} seed in all folds: how much other seeds would change the differences is not "
            "known; --seeds 3 shows it."
        )
    within = [HEADINGS[name] for name, row in intervals.iterrows() if within_seeds(row)]
    if not within:
        return f"No difference is within the spread over {n} seeds."
    return f"Within the spread over {n} seeds, so another seed could reverse the sign: {', '.join(within)}."


def compare(pairs: Sequence[Pair], names: tuple[str, str], n_resamples: int = 9999, seed: int = 0) -> str:
    """Compare configuration A with B on the same test windows, each role on its own, and return the text as Markdown.

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
            comparison = compute_comparison(folds, n_resamples, seed)
            parts.append(format_comparison(role, names, comparison, n_resamples))
    return "\n\n".join([*parts, *LEGEND]) + "\n"
