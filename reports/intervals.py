"""Intervals: the main figures of test windows from sums by dialogue, and their bootstrap intervals over dialogues."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from metric import MAIN_FIGURES, f1
from reports.pairs import AFFECT, SUMS, dialogue_sums, windows_table
from reports.runs import Run

# A variance up to this is rounding; one window in a million that is off by 1e-2 makes a hundred times as much
CONSTANT = 1e-12
CONFIDENCE = 0.95


def figures(sums: np.ndarray) -> np.ndarray:
    """`MAIN_FIGURES` of windows from their sums.

    F1 is the published one, of precision@1 and recall@1, over all windows at once. CCC is Lin's (1989) with
    population variances, 0 if prediction or target is constant, as in metric.py.

    Parameters
    ----------
    sums : columns `SUMS`, shape = (..., 13)

    Returns
    -------
    float64, shape = (..., 3)
    """
    means = dict(zip(SUMS, np.moveaxis(sums / sums[..., :1], -1, 0), strict=True))
    found = [f1(means["precision"], means["recall"])]
    for name in AFFECT:
        p, t, pp, tt, pt = (means[f"{name}_{s}"] for s in ("p", "t", "pp", "tt", "pt"))
        var_p, var_t = pp - p * p, tt - t * t
        varies = (var_p > CONSTANT) & (var_t > CONSTANT)
        spread = np.where(varies, var_p + var_t + (p - t) ** 2, 1)
        found.append(np.where(varies, 2 * (pt - p * t) / spread, 0))
    return np.stack(found, axis=-1)


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
        fold, shape = (..., K); it returns shape = (3, ...)
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
    percentile = bootstrap(dialogues, statistic, n_resamples=0, method="percentile", bootstrap_result=bca, **settings)
    same = np.ptp(bca.bootstrap_distribution, axis=-1) == 0
    defined = np.isfinite(bca.confidence_interval).all(axis=0) & ~same
    found["low"], found["high"] = np.where(defined, bca.confidence_interval, percentile.confidence_interval)
    found["method"] = np.select([same, defined], ["the same in all resamples", "BCa"], "percentile")
    return found


# Of the runs on one test split


def fold_intervals(runs: Sequence[Run], n_resamples: int = 1999, seed: int = 0) -> pd.DataFrame | None:
    """Intervals of the mean over these runs, which tested the same windows, of each of `MAIN_FIGURES`; see `resample`.

    They are of the figures over all windows at once, also F1. None if the runs have not the same windows, or a single
    dialogue.
    """
    if not all(run.has_dialogues for run in runs) or len({frozenset(run.ids) for run in runs}) != 1:
        return None
    by_dialogue = np.stack([dialogue_sums(windows_table(run.ids, run.arrays)) for run in runs], axis=1)  # (D, S, 13)
    if len(by_dialogue) == 1:
        return None

    def statistic(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        resampled = np.tensordot(occurrences(drawn, len(by_dialogue)), by_dialogue, axes=1)
        return np.moveaxis(figures(resampled).mean(axis=-2), -1, 0).round(12)

    return resample(statistic, [len(by_dialogue)], n_resamples, seed)
