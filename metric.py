"""Figures of a test: the published ones by batch, the confusion matrix, CCC, and those over the whole test set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from constants import EMOTIONS, N_EMOTIONS, N_RATERS

EPS = 1e-3  # in the published denominators
BATCH_FIGURES = ("Precision", "Recall", "F1")  # published: computed by batch, then averaged over batches
FIGURES = (*BATCH_FIGURES, "ccc_arousal", "ccc_valence")  # of a run, by their names in result.json
SINGLE_LABEL_FIGURES = ("weighted_f1", "macro_f1", "accuracy")  # over all test windows with one majority label
WHOLE_FIGURES = (*SINGLE_LABEL_FIGURES, "ccc_arousal", "ccc_valence")  # over the whole test set at once
MAIN_FIGURES = (*WHOLE_FIGURES, "F1")  # those that are compared, F1 over the whole test set at once
HEADINGS = dict(zip(FIGURES, (*BATCH_FIGURES, "CCC arousal", "CCC valence"), strict=True))
HEADINGS |= dict(zip(SINGLE_LABEL_FIGURES, ("weighted F1", "macro F1", "accuracy"), strict=True))


def f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean with 1e-3 in the denominator, as published; arrays of one shape, or numbers."""
    return 2 * precision * recall / (precision + recall + EPS)


def ranked(emotion_pred: np.ndarray) -> np.ndarray:
    """Labels of each window from the likeliest to the least likely; labels of equal probability in label order.

    Parameters
    ----------
    emotion_pred : probabilities, shape = (N, 7)

    Returns
    -------
    int64, shape = (N, 7)
    """
    return np.argsort(-emotion_pred, axis=1, kind="stable")


def batch_figures(emotion_pred: np.ndarray, emotion: np.ndarray, k: int, batch_size: int) -> np.ndarray:
    """Precision@k, recall@k and their F1 of every batch.

    Parameters
    ----------
    emotion_pred : probabilities, shape = (N, 7)
    emotion : true labels, multi-hot, at least one per window, shape = (N, 7)
    k : how many of the likeliest labels are the prediction
    batch_size : windows in a batch; a shorter last batch weighs as much as the others

    Returns
    -------
    float64, shape = (ceil(N / batch_size), 3)
    """
    hits = np.take_along_axis(emotion, ranked(emotion_pred)[:, :k], axis=1).sum(axis=1, dtype=np.float64)
    starts = np.arange(0, len(hits), batch_size)
    sizes = np.diff(np.append(starts, len(hits)))
    precision = np.add.reduceat(hits / k, starts) / sizes
    recall = np.add.reduceat(hits / emotion.sum(axis=1), starts) / sizes
    return np.stack([precision, recall, f1(precision, recall)], axis=1)


def published_figures(emotion_pred: np.ndarray, emotion: np.ndarray, batch_size: int) -> dict[str, str | float]:
    """Mean and population standard deviation over batches, @1 and @2: as published, `0.748+-0.050`, and as numbers.

    Parameters as in `batch_figures`. The strings have the published keys and order: `Precision`, `Recall`, `F1`,
    `Precision@2`, `Recall@2` and `F1@2`. The numbers, to four decimals, are `precision`, `precision_sd`, ...,
    `precision_at_2`, `precision_at_2_sd`, ...
    """
    strings, numbers = {}, {}
    for k in (1, 2):
        by_batch = batch_figures(emotion_pred, emotion, k, batch_size)
        for name, mean, std in zip(BATCH_FIGURES, by_batch.mean(axis=0), by_batch.std(axis=0), strict=True):
            strings[name if k == 1 else f"{name}@{k}"] = f"{mean:.3f}+-{std:.3f}"
            key = name.lower() if k == 1 else f"{name.lower()}_at_{k}"
            numbers |= {key: round(float(mean), 4), f"{key}_sd": round(float(std), 4)}
    return strings | numbers


def confusion_matrix(emotion_pred: np.ndarray, emotion: np.ndarray) -> np.ndarray:
    """The published counts of confusion, laid out as scikit-learn does: rows are true labels, columns predicted ones.

    A window with k true labels adds its k likeliest labels, the likeliest first. A predicted label that is true counts
    on the diagonal, and that true label is matched. One that is not true counts against the first true label that is
    still unmatched.

    Parameters
    ----------
    emotion_pred : probabilities, shape = (N, 7)
    emotion : true labels, multi-hot, at least one per window, shape = (N, 7)

    Returns
    -------
    int64, shape = (7, 7)
    """
    order, n_true = ranked(emotion_pred), emotion.sum(axis=1)
    unmatched = emotion.astype(bool)
    confusion = np.zeros((N_EMOTIONS, N_EMOTIONS), dtype=np.int64)
    for rank in range(N_EMOTIONS):
        rows = np.flatnonzero(n_true > rank)
        predicted = order[rows, rank]
        correct = unmatched[rows, predicted]
        counted_as = np.where(correct, predicted, unmatched[rows].argmax(axis=1))
        np.add.at(confusion, (counted_as, predicted), 1)
        unmatched[rows[correct], predicted[correct]] = False
    return confusion


def matched_macro(confusion: np.ndarray) -> dict[str, float]:
    """Macro precision and recall of a `confusion_matrix`, and their F1, as published."""
    matched = np.diag(confusion)
    precision = (matched / (confusion.sum(axis=0) + EPS)).mean()
    recall = (matched / (confusion.sum(axis=1) + EPS)).mean()
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1(precision, recall))}


def ccc(prediction: np.ndarray, target: np.ndarray) -> float:
    """Concordance correlation coefficient (Lin 1989) with population variances; 0 if either array is constant.

    The arrays have the same number of elements, in any shape; they are computed with in float64.
    """
    prediction, target = np.asarray(prediction, dtype=np.float64).ravel(), np.asarray(target, np.float64).ravel()
    if np.ptp(prediction) == 0 or np.ptp(target) == 0:
        return 0.0
    covariance = ((prediction - prediction.mean()) * (target - target.mean())).mean()
    distance = (prediction.mean() - target.mean()) ** 2
    return float(2 * covariance / (prediction.var() + target.var() + distance))


def fleiss_kappa(shares: np.ndarray, n_raters: int = N_RATERS) -> float:
    """Agreement of the raters beyond chance (Fleiss 1971, equation 7): 1 if all agree, 0 at chance.

    Parameters
    ----------
    shares : each emotion's share of an utterance's votes, rows sum to 1, shape = (N, 7)
    n_raters : votes per utterance

    Returns
    -------
    float : nan if all votes are for one emotion, since raters who vote by chance would agree as well
    """
    shares = np.asarray(shares, dtype=np.float64)
    # probability that two raters of one utterance agree, mean over utterances
    agreement = ((n_raters * (shares**2).sum(axis=1) - 1) / (n_raters - 1)).mean()
    chance = (shares.mean(axis=0) ** 2).sum()
    return float((agreement - chance) / (1 - chance)) if chance < 1 else float("nan")


def single_label_figures(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro and weighted F1, to four decimals.

    The macro average is over the emotions that occur as a label or as a prediction, balanced accuracy over those that
    occur as a label.

    Parameters
    ----------
    true, predicted : label indices, integers, shape = (N,)
    """
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    figures = {
        "accuracy": accuracy_score(true, predicted),
        # as balanced_accuracy_score, without its warning about a label that is predicted but never true
        "balanced_accuracy": recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0),
        "macro_f1": f1_score(true, predicted, average="macro", zero_division=0),
        "weighted_f1": f1_score(true, predicted, average="weighted", zero_division=0),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def figures_of_counts(counts: np.ndarray) -> np.ndarray:
    """`SINGLE_LABEL_FIGURES` from counts of true (rows) and predicted labels (columns), as `single_label_figures`.

    Parameters
    ----------
    counts : at least 0, shape = (..., 7, 7)

    Returns
    -------
    float64, shape = (..., 3), NaN where nothing is counted
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    by_class = 2 * hits / np.maximum(true + predicted, 1e-9)
    with np.errstate(invalid="ignore"):
        n = true.sum(axis=-1)
        weighted = (by_class * true).sum(axis=-1) / n
        macro = by_class.sum(axis=-1) / (true + predicted > 0).sum(axis=-1)
        return np.stack([weighted, macro, hits.sum(axis=-1) / n], axis=-1)


def overall_figures(arrays: Mapping[str, np.ndarray], majority: int, batch_size: int) -> dict:
    """Figures over the whole test set at once, and those of always answering with the commonest training label.

    Emotion figures are over the windows with one majority label. `majority_f1` is the published F1 (by batch, all
    windows) of always answering `majority`; `majority` holds the other figures of that answer.

    Parameters
    ----------
    arrays : of N windows, as `engine.evaluate` returns them: `emotion` and `emotion_pred`, shape = (N, 7), `arousal`,
        `arousal_pred`, `valence` and `valence_pred`, shape = (N,)
    majority : label index of the commonest training label
    batch_size : of the published F1
    """
    from sklearn.metrics import classification_report

    emotion, emotion_pred = arrays["emotion"], arrays["emotion_pred"]
    single = emotion.sum(axis=1) == 1
    always_majority = np.tile(np.eye(N_EMOTIONS)[majority], (len(emotion), 1))
    figures = {
        "n": len(emotion),
        "n_single_label": int(single.sum()),
        "majority_label": EMOTIONS[majority],
        "majority_f1": round(float(batch_figures(always_majority, emotion, 1, batch_size)[:, 2].mean()), 4),
        "arousal_mae": round(float(np.abs(arrays["arousal_pred"] - arrays["arousal"]).mean()), 4),
        "valence_mae": round(float(np.abs(arrays["valence_pred"] - arrays["valence"]).mean()), 4),
    }
    if single.any():
        true, predicted = emotion[single].argmax(axis=1), ranked(emotion_pred[single])[:, 0]
        figures |= single_label_figures(true, predicted)
        figures["majority"] = single_label_figures(true, np.full_like(true, majority))
        occurring = sorted(set(true) | set(predicted))
        figures["classes"] = classification_report(
            true,
            predicted,
            labels=occurring,
            target_names=[EMOTIONS[c] for c in occurring],
            output_dict=True,
            zero_division=0,
        )
    return figures


def validation_figures(arrays: Mapping[str, np.ndarray], batch_size: int) -> dict[str, float]:
    """Figures of a validation: `f1` by batch as published, `accuracy`, `macro_f1`, `ccc_arousal` and `ccc_valence`.

    Accuracy and macro F1 are over the windows with one majority label; where there are none they are left out.

    Parameters
    ----------
    arrays : as `overall_figures` takes them; `emotion` holds the majority labels, multi-hot
    batch_size : of the published F1
    """
    from sklearn.metrics import accuracy_score, f1_score

    emotion, emotion_pred = arrays["emotion"], arrays["emotion_pred"]
    figures = {"f1": batch_figures(emotion_pred, emotion, 1, batch_size)[:, 2].mean()}
    single = emotion.sum(axis=1) == 1
    if single.any():
        true, predicted = emotion[single].argmax(axis=1), ranked(emotion_pred[single])[:, 0]
        figures["accuracy"] = accuracy_score(true, predicted)
        figures["macro_f1"] = f1_score(true, predicted, average="macro", zero_division=0)
    figures |= {f"ccc_{name}": ccc(arrays[f"{name}_pred"], arrays[name]) for name in ("arousal", "valence")}
    return {name: float(value) for name, value in figures.items()}
