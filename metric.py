"""Figures of emotion, arousal and valence from rows of predictions.csv: by batch as published, and over all windows.

Figures over all windows are computed from sums over windows: a bootstrap adds the sums of the drawn dialogues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, stdtrit

from constants import AFFECT_RANGE, EMOTIONS, N_EMOTIONS

AFFECT = ("arousal", "valence")
PROBABILITIES = tuple(f"p_{name}" for name in EMOTIONS)
PREDICTION_COLUMNS = ("segment_id", "corpus", "session", "dialogue", "speaker", "start", "end", "text")
PREDICTION_COLUMNS += tuple(f"{side}_{name}" for side in ("true", "pred") for name in ("emotion", *AFFECT))
PREDICTION_COLUMNS += PROBABILITIES  # of predictions.csv, a row per window

BATCH_FIGURES = ("Precision", "Recall", "F1")  # published: computed by batch, then averaged over batches
FIGURES = (*BATCH_FIGURES, "ccc_arousal", "ccc_valence")  # of a run, by their names in result.json
SINGLE_LABEL_FIGURES = ("weighted_f1", "macro_f1", "accuracy")  # over the windows with one majority label
WHOLE_FIGURES = (*SINGLE_LABEL_FIGURES, "ccc_arousal", "ccc_valence")  # over all windows at once
MAIN_FIGURES = (*WHOLE_FIGURES, "F1")  # those that have an interval, F1 over all windows at once
HEADINGS = {name: name for name in BATCH_FIGURES} | {"ccc_arousal": "CCC arousal", "ccc_valence": "CCC valence"}
HEADINGS |= {"weighted_f1": "weighted F1", "macro_f1": "macro F1", "accuracy": "accuracy (WA)"}

EPS = 1e-3  # in the published denominators
CENTRE = sum(AFFECT_RANGE) / 2  # subtracted from arousal and valence: sums of smaller squares lose fewer digits
CONSTANT = 1e-12  # smaller variances are rounding: one in a million windows that is off by 1e-2 gives 100 times as much
CONFIDENCE = 0.95
RESAMPLES = 1_999  # more of them change the bounds by some thousandths
MAX_SEEDS = 100  # largest number of seeds that a comparison suggests


def multi_hot(labels: pd.Series) -> np.ndarray:
    """Majority labels (`happy;surprise` for a tie) as bool, shape = (N, 7)."""
    codes, names = pd.factorize(labels)
    of_name = np.array([[emotion in name.split(";") for emotion in EMOTIONS] for name in names], dtype=bool)
    return of_name.reshape(-1, N_EMOTIONS)[codes]


def ranked(probabilities: np.ndarray | pd.DataFrame) -> np.ndarray:
    """Labels by decreasing probability, equal ones in label order; int64, shape = (N, 7)."""
    return np.argsort(-np.asarray(probabilities), axis=1, kind="stable")


def with_prediction(rows: pd.DataFrame, emotion: str | pd.Series) -> pd.DataFrame:
    """A copy of `rows` that predicts `emotion` (one for all rows, or one for each) with probability 1."""
    rows = rows.assign(pred_emotion=emotion)
    return rows.assign(**{f"p_{name}": (rows["pred_emotion"] == name).astype(float) for name in EMOTIONS})


def window_values(rows: pd.DataFrame) -> np.ndarray:
    """The values of each window whose sums `figures_of_sums` uses; float64, shape = (N, 36).

    They are 1; whether the predicted emotion is a true one, also divided by the number of true ones; for arousal and
    valence, minus `CENTRE`, the prediction p, the target t, p², t², pt and |p - t|; and for windows with one true
    label, indicators of each emotion: label and predicted, label, predicted.
    """
    true, predicted = multi_hot(rows["true_emotion"]), multi_hot(rows["pred_emotion"])
    n_true, right = true.sum(axis=1), (true & predicted).any(axis=1)
    values = [np.ones(len(rows)), right, right / np.maximum(n_true, 1)]
    for name in AFFECT:
        # float32, as the model has it: a table that was written and read gives the same figures
        p, t = (rows[f"{side}_{name}"].to_numpy(np.float32).astype(np.float64) - CENTRE for side in ("pred", "true"))
        values += [p, t, p * p, t * t, p * t, np.abs(p - t)]
    single = (n_true == 1)[:, None]
    return np.column_stack([*values, true & predicted & single, true & single, predicted & single])


def figures_of_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The figures of windows from the sums of their `window_values`, shape = (..., 36); each has shape (...).

    Accuracy, balanced accuracy, macro and weighted F1 are over windows with one majority label (NaN without any): macro
    F1 averages over emotions that occur as label or prediction, balanced accuracy over those that occur as label. `F1`
    is the published F1 of precision@1 and recall@1. CCC (Lin 1989) uses population variances; it is 0 for constants.
    """
    hits, true, predicted = np.split(sums[..., -3 * N_EMOTIONS :], 3, axis=-1)
    f1_by_class, n_single = 2 * hits / np.maximum(true + predicted, 1), true.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # without a window, or if all are equal
        means = np.moveaxis(sums / sums[..., :1], -1, 0)
        found = {
            "n": sums[..., 0],
            "n_single_label": n_single,
            "accuracy": hits.sum(axis=-1) / n_single,
            "balanced_accuracy": (hits / np.maximum(true, 1)).sum(axis=-1) / (true > 0).sum(axis=-1),
            "macro_f1": f1_by_class.sum(axis=-1) / (true + predicted > 0).sum(axis=-1),
            "weighted_f1": (f1_by_class * true).sum(axis=-1) / n_single,
            "F1": f1(means[1], means[2]),
        }
        for name, (p, t, pp, tt, pt, error) in zip(AFFECT, (means[3:9], means[9:15]), strict=True):
            var_p, var_t = pp - p * p, tt - t * t
            concordance = 2 * (pt - p * t) / (var_p + var_t + (p - t) ** 2)
            varies = (var_p > CONSTANT) & (var_t > CONSTANT)
            concordance = np.where(varies | np.isnan(tt), concordance, 0.0)  # NaN of a corpus without ratings
            found |= {f"ccc_{name}": concordance, f"{name}_mae": error}
    return found


def main_figures(sums: np.ndarray) -> np.ndarray:
    """`MAIN_FIGURES` of `figures_of_sums`, shape = (..., 6)."""
    found = figures_of_sums(sums)
    return np.stack([found[name] for name in MAIN_FIGURES], axis=-1)


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """All figures of labelled rows, as defined in `figures_of_sums`; NaN if undefined."""
    found = figures_of_sums(window_values(rows).sum(axis=0))
    return {name: int(value) if name.startswith("n") else float(value) for name, value in found.items()}


def class_figures(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each emotion that occurs, over the rows with one majority label."""
    hits, support, n = np.split(window_values(rows).sum(axis=0)[-3 * N_EMOTIONS :], 3)
    by_class = {"precision": hits / n.clip(1), "recall": hits / support.clip(1)}
    by_class |= {"f1-score": 2 * hits / (support + n).clip(1), "support": support}
    return pd.DataFrame(by_class, EMOTIONS)[support + n > 0].to_dict("index")


def f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean with 1e-3 in the denominator, as published; arrays of one shape, or numbers."""
    return 2 * precision * recall / (precision + recall + EPS)


def batch_figures(rows: pd.DataFrame, k: int, batch_size: int) -> np.ndarray:
    """Precision@k, recall@k and their F1 of each `batch_size` rows; float64, shape = (ceil(N / batch_size), 3)."""
    true, order = multi_hot(rows["true_emotion"]), ranked(rows[[*PROBABILITIES]])
    hits = np.take_along_axis(true, order[:, :k], axis=1).sum(axis=1, dtype=np.float64)
    starts = np.arange(0, len(hits), batch_size)
    sizes = np.diff(np.append(starts, len(hits)))
    precision = np.add.reduceat(hits / k, starts) / sizes
    recall = np.add.reduceat(hits / true.sum(axis=1), starts) / sizes
    return np.stack([precision, recall, f1(precision, recall)], axis=1)


def published_figures(rows: pd.DataFrame, batch_size: int) -> dict[str, str | float]:
    """Mean and SD over batches, @1 and @2: `Precision@2` is `0.748+-0.050`, `precision_at_2` and `..._sd` numbers."""
    strings, numbers = {}, {}
    for k, suffix in ((1, ""), (2, "@2")):
        by_batch = batch_figures(rows, k, batch_size)
        for name, mean, std in zip(BATCH_FIGURES, by_batch.mean(axis=0), by_batch.std(axis=0), strict=True):
            strings[name + suffix] = f"{mean:.3f}+-{std:.3f}"
            key = f"{name}{suffix}".lower().replace("@", "_at_")
            numbers |= {key: round(float(mean), 4), f"{key}_sd": round(float(std), 4)}
    return strings | numbers


def validation_figures(rows: pd.DataFrame, batch_size: int) -> dict[str, float]:
    """`f1` by batch as published, `accuracy`, `macro_f1`, `ccc_arousal` and `ccc_valence`, as far as defined."""
    found = {"f1": float(batch_figures(rows, 1, batch_size)[:, 2].mean())} | figures(rows)
    names = ("f1", "accuracy", "macro_f1", "ccc_arousal", "ccc_valence")
    return {name: found[name] for name in names if not np.isnan(found[name])}


def confusion_matrix(rows: pd.DataFrame) -> np.ndarray:
    """The published confusion counts; rows are true and columns predicted labels; int64, shape = (7, 7).

    A window with k true labels adds its k most probable labels, in order: a true label on the diagonal (it is then
    matched), another label against the first unmatched true label.
    """
    order, unmatched = ranked(rows[[*PROBABILITIES]]), multi_hot(rows["true_emotion"])
    n_true = unmatched.sum(axis=1)
    confusion = np.zeros((N_EMOTIONS, N_EMOTIONS), dtype=np.int64)
    for rank in range(N_EMOTIONS):
        with_label = np.flatnonzero(n_true > rank)
        predicted = order[with_label, rank]
        correct = unmatched[with_label, predicted]
        counted_as = np.where(correct, predicted, unmatched[with_label].argmax(axis=1))
        np.add.at(confusion, (counted_as, predicted), 1)
        unmatched[with_label[correct], predicted[correct]] = False
    return confusion


def matched_macro(confusion: np.ndarray) -> dict[str, float]:
    """Macro precision and recall of a `confusion_matrix`, and their F1, as published."""
    precision, recall = ((np.diag(confusion) / (confusion.sum(axis=axis) + EPS)).mean() for axis in (0, 1))
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1(precision, recall))}


def dialogue_sums(rows: pd.DataFrame) -> np.ndarray:
    """The sum of `window_values` over each dialogue, in the order of dialogues; float64, (D, 36); NaN if unrated."""
    groups = pd.DataFrame(window_values(rows)).groupby(rows["dialogue"].to_numpy(), dropna=False)
    return groups.sum(min_count=1).to_numpy()


def difference(sums: np.ndarray) -> np.ndarray:
    """`MAIN_FIGURES` of B less those of A, from the sums of both: of shape (..., 2, 36), shape = (..., 6)."""
    found = main_figures(sums)
    return found[..., 1, :] - found[..., 0, :]


def influences(folds: Sequence[np.ndarray], figures_of: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """The influence of each dialogue on the mean over folds of each run's figures (jackknife); shapes (D, S, 6)."""
    found = []
    for sums in folds:
        left_out = figures_of(sums.sum(axis=0) - sums).round(12)  # without each dialogue in turn
        found.append((len(sums) - 1) / len(sums) * (left_out.mean(axis=0) - left_out) / len(folds))
    return found


def bootstrap(folds: Sequence[np.ndarray], n_resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Mean over folds and runs of each of `MAIN_FIGURES`, or of its difference, with its 95% bootstrap interval.

    Whole dialogues are resampled within each fold, the same for all its runs, because windows of one dialogue overlap.
    The method is BCa (Efron and Tibshirani 1993, equations 14.9 and 15.36), else the percentile interval.

    `folds` are of each test split the `dialogue_sums` of S runs, shape = (D, S, 36), or of S pairs of runs A and B on
    the same windows, shape = (D, S, 2, 36), whose difference B - A is the figure. Returns columns `value`, `low`
    and `high` (NaN if a fold has only one dialogue), a row for each of `MAIN_FIGURES`.
    """
    figures_of = difference if folds[0].ndim == 4 else main_figures

    def mean_figures(times: Sequence[np.ndarray]) -> np.ndarray:
        """The figures with these counts of the dialogues: an array (..., D) for each fold -> shape (..., 6)."""
        drawn = (np.tensordot(of_each, sums, axes=1) for of_each, sums in zip(times, folds, strict=True))
        by_fold = [figures_of(sums).mean(axis=-2) for sums in drawn]
        return (sum(by_fold) / len(folds)).round(12)  # later digits depend on the order of addition

    rng = np.random.default_rng(seed)
    value = mean_figures([np.ones(len(sums)) for sums in folds])
    found = pd.DataFrame({"value": value}, index=[*MAIN_FIGURES])
    if min(map(len, folds)) == 1:
        return found.assign(low=np.nan, high=np.nan)
    drawn = [rng.integers(0, len(sums), (n_resamples, len(sums))) for sums in folds]
    resampled = mean_figures([np.apply_along_axis(np.bincount, 1, d, minlength=d.shape[1]) for d in drawn])
    of_dialogues = np.concatenate([of_fold.mean(axis=1) for of_fold in influences(folds, figures_of)])
    cubes, squares = (of_dialogues**3).sum(axis=0), (of_dialogues**2).sum(axis=0)
    tails = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # if all resamples or dialogues are equal
        bias = ndtri(((resampled < value).mean(axis=0) + (resampled <= value).mean(axis=0)) / 2)
        z, acceleration = bias + ndtri(tails), cubes / squares**1.5 / 6
        levels = ndtr(bias + z / (1 - acceleration * z))
    levels = np.where(np.isfinite(levels).all(axis=0), levels, tails)
    found[["low", "high"]] = [np.quantile(of_figure, at) for of_figure, at in zip(resampled.T, levels.T, strict=True)]
    return found


def rounded(found: Mapping[str, float], names: Sequence[str]) -> dict[str, float | None]:
    """These figures to four decimals as in `result.json`, None for NaN."""
    return {name: None if np.isnan(found[name]) else round(float(found[name]), 4) for name in names}


def bounds_of(interval: pd.Series) -> list[float] | None:
    """`low` and `high` of a row of `bootstrap` to four decimals as in result.json; None if undefined."""
    return None if interval.isna().any() else [round(float(interval[side]), 4) for side in ("low", "high")]


def seed_interval(folds: Sequence[np.ndarray]) -> pd.DataFrame:
    """Mean over folds and seeds of B - A of each of `MAIN_FIGURES`, with its 95% t interval over seeds and dialogues.

    The half width combines two t intervals (root of the sum of squares). The one over seeds covers all variation
    between runs. The one over dialogues covers effects of a dialogue that all seeds share: its variance is the product
    of two seeds' `influences`, summed over dialogues and averaged over pairs of seeds. `tests/null_simulation.py`
    estimates how often the interval excludes 0 without a difference.

    `folds` are pairs as in `bootstrap`, with the same two or more seeds in each fold, on two or more dialogues. Returns
    columns `value`, `low`, `high`, `shown` (0 is excluded), `sd` (over seeds), and `needed`: the number of seeds that
    would exclude 0 with this value and spread, infinite if more than `MAX_SEEDS`.
    """
    by_seed = sum(difference(sums.sum(axis=0)) for sums in folds).round(12) / len(folds)
    added, n = np.concatenate(influences(folds, difference)), len(by_seed)
    value, sd = by_seed.mean(axis=0), by_seed.std(axis=0, ddof=1)
    variance = ((added.sum(axis=1) ** 2 - (added**2).sum(axis=1)).sum(axis=0) / (n * (n - 1))).clip(0)
    over_dialogues = stdtrit(len(added) - len(folds), (1 + CONFIDENCE) / 2) * np.sqrt(variance)
    seeds = np.arange(2, max(n, MAX_SEEDS) + 1)[:, None]
    widths = np.hypot(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2) * sd / np.sqrt(seeds), over_dialogues)
    shown, width = widths < abs(value), widths[n - 2]
    needed = np.where(shown.any(axis=0), 2 + shown.argmax(axis=0), np.inf)
    found = {"value": value, "low": value - width, "high": value + width, "shown": shown[n - 2], "sd": sd}
    return pd.DataFrame(found | {"needed": needed}, index=[*MAIN_FIGURES])
