"""Intervals: the main figures of test windows from sums by dialogue, and their bootstrap intervals over dialogues."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from constants import N_EMOTIONS
from metric import MAIN_FIGURES, f1, figures_of_counts
from reports.pairs import AFFECT, COUNTS, SUMS, dialogue_sums, windows_table
from reports.runs import Run

# A variance up to this is rounding; one window in a million that is off by 1e-2 makes a hundred times as much
CONSTANT = 1e-12
CONFIDENCE = 0.95


def figures(sums: np.ndarray) -> np.ndarray:
    """`MAIN_FIGURES` of windows from their sums.

    Weighted and macro F1 and accuracy are over the windows with one label, NaN without any. CCC is Lin's (1989) with
    population variances, 0 if prediction or target is constant, as in metric.py. F1 is the published one, of
    precision@1 and recall@1, over all windows at once.

    Parameters
    ----------
    sums : columns `SUMS`, shape = (..., 62)

    Returns
    -------
    float64, shape = (..., 6)
    """
    means = dict(zip(SUMS, np.moveaxis(sums / sums[..., :1], -1, 0), strict=True))
    counts = sums[..., -len(COUNTS) :].reshape(*sums.shape[:-1], N_EMOTIONS, N_EMOTIONS)
    found = [*np.moveaxis(figures_of_counts(counts), -1, 0)]
    for name in AFFECT:
        p, t, pp, tt, pt = (means[f"{name}_{s}"] for s in ("p", "t", "pp", "tt", "pt"))
        var_p, var_t = pp - p * p, tt - t * t
        varies = (var_p > CONSTANT) & (var_t > CONSTANT)
        spread = np.where(varies, var_p + var_t + (p - t) ** 2, 1)
        found.append(np.where(varies, 2 * (pt - p * t) / spread, 0))
    return np.stack([*found, f1(means["precision"], means["recall"])], axis=-1)


def occurrences(drawn: np.ndarray, n: int) -> np.ndarray:
    """How often each of `n` dialogues is among those drawn, as float64: from numbers of shape (..., K), (..., n)."""
    resamples = drawn.reshape(-1, drawn.shape[-1]).astype(np.int64)
    bins = resamples + n * np.arange(len(resamples))[:, None]  # n bins for each resample
    counts = np.bincount(bins.ravel(), minlength=n * len(resamples))
    return counts.reshape(*drawn.shape[:-1], n).astype(np.float64)


def resample(
    statistic: Callable[..., np.ndarray], n_dialogues: Sequence[int], n_resamples: int, seed: int
) -> pd.DataFrame:
    """95% bootstrap interval of each of `MAIN_FIGURES`, dialogues resampled within each fold.

    The method is BCa (Efron 1987), with scipy's acceleration for several samples; if that is not defined, it is the
    percentile interval; if a fold has a single dialogue, there is none.

    Parameters
    ----------
    statistic : as scipy's bootstrap calls it, with the numbers of the dialogues that were drawn, an array for each
        fold, shape = (..., K); it returns shape = (6, ...)
    n_dialogues : of each fold
    n_resamples : at least 1
    seed : of the resamples

    Returns
    -------
    `low`, `high` and `method`, one row for each of `MAIN_FIGURES`
    """
    found = pd.DataFrame(index=[*MAIN_FIGURES])
    if min(n_dialogues) == 1:
        return found.assign(low=np.nan, high=np.nan, method="not defined: a fold has a single dialogue")
    settings = {"vectorized": True, "axis": -1, "confidence_level": CONFIDENCE, "rng": np.random.default_rng(seed)}
    dialogues = [np.arange(n) for n in n_dialogues]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # BCa is nan if all resamples agree; this is handled below
        bca = bootstrap(dialogues, statistic, n_resamples=n_resamples, method="BCa", **settings)
        settings |= {"n_resamples": 0, "bootstrap_result": bca}
        percentile = bootstrap(dialogues, statistic, method="percentile", **settings)
    same = np.ptp(bca.bootstrap_distribution, axis=-1) == 0
    defined = np.isfinite(bca.confidence_interval).all(axis=0) & ~same
    found["low"], found["high"] = np.where(defined, bca.confidence_interval, percentile.confidence_interval)
    found["method"] = np.select([same, defined], ["the same in all resamples", "BCa"], "percentile")
    return found


# Of runs


def sums_of_runs(runs: Sequence[Run]) -> np.ndarray | None:
    """`SUMS` of each dialogue and run, shape = (D, S, 62); None unless all runs tested the same windows of a corpus."""
    if not runs or not all(run.has_dialogues for run in runs) or len({frozenset(run.ids) for run in runs}) != 1:
        return None
    return np.stack([dialogue_sums(windows_table(run.ids, run.arrays)) for run in runs], axis=1)


def mean_intervals(folds: Sequence[np.ndarray], n_resamples: int = 1999, seed: int = 0) -> pd.DataFrame:
    """`resample` of the mean over folds of the mean over runs of each of `MAIN_FIGURES`, from `sums_of_runs` of each.

    They are of the figures over all windows of a fold at once, also F1.
    """

    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        by_fold = [
            figures(np.tensordot(occurrences(numbers, len(sums)), sums, axes=1)).mean(axis=-2)
            for numbers, sums in zip(drawn, folds, strict=True)
        ]
        return np.moveaxis(np.mean(by_fold, axis=0), -1, 0).round(12)

    return resample(statistic, [len(sums) for sums in folds], n_resamples, seed)
