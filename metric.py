"""Figures of a test: the published per-batch ones, confusion, CCC, and the whole-set ones."""

import numpy as np

from constants import EMOTIONS, N_EMOTIONS, N_RATERS

EPS = 1e-3  # in the published denominators
FIGURES = ("Precision", "Recall", "F1")


def f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean with 1e-3 in the denominator, as published."""
    return 2 * precision * recall / (precision + recall + EPS)


def ranked(emotion_pred: np.ndarray) -> np.ndarray:
    """Labels of each window from the likeliest to the least likely, shape = (N, 7); equal ones in label order."""
    return np.argsort(-emotion_pred, axis=1, kind="stable")


def batch_figures(emotion_pred: np.ndarray, emotion: np.ndarray, k: int, batch_size: int) -> np.ndarray:
    """Precision@k, recall@k and their F1 of every batch.

    Parameters
    ----------
    emotion_pred : probabilities, shape = (N, 7)
    emotion : true labels, multi-hot, at least one a window, shape = (N, 7)
    k : how many of the likeliest labels are taken as the prediction
    batch_size : windows in a batch; a shorter last batch counts as one

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


def published_figures(emotion_pred: np.ndarray, emotion: np.ndarray, batch_size: int) -> dict[str, str]:
    """Mean and (population) standard deviation over batches as `0.748+-0.050`, @1 and @2, in published order."""
    figures = {}
    for k in (1, 2):
        by_batch = batch_figures(emotion_pred, emotion, k, batch_size)
        for name, mean, std in zip(FIGURES, by_batch.mean(axis=0), by_batch.std(axis=0), strict=True):
            figures[name if k == 1 else f"{name}@{k}"] = f"{mean:.3f}+-{std:.3f}"
    return figures


def confusion_matrix(emotion_pred: np.ndarray, emotion: np.ndarray) -> np.ndarray:
    """The published confusion matrix: rows are predicted labels, columns true ones.

    A window with k true labels adds its k likeliest labels, from the likeliest on: one that is true is booked on the
    diagonal and its label is matched; one that is not is booked against the first true label still unmatched.

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
        booked = np.where(correct, predicted, unmatched[rows].argmax(axis=1))
        np.add.at(confusion, (predicted, booked), 1)
        unmatched[rows[correct], predicted[correct]] = False
    return confusion


def matched_macro(confusion: np.ndarray) -> dict[str, float]:
    """Macro precision and recall of a `confusion_matrix`, and the F1 of the two, as published."""
    matched = np.diag(confusion)
    precision = (matched / (confusion.sum(axis=1) + EPS)).mean()
    recall = (matched / (confusion.sum(axis=0) + EPS)).mean()
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1(precision, recall))}


def ccc(prediction: np.ndarray, target: np.ndarray) -> float:
    """Concordance correlation coefficient (Lin 1989), population variances; 0 where one of the two is constant."""
    prediction, target = np.asarray(prediction, dtype=np.float64).ravel(), np.asarray(target, np.float64).ravel()
    if np.ptp(prediction) == 0 or np.ptp(target) == 0:
        return 0.0
    covariance = ((prediction - prediction.mean()) * (target - target.mean())).mean()
    distance = (prediction.mean() - target.mean()) ** 2
    return float(2 * covariance / (prediction.var() + target.var() + distance))


def fleiss_kappa(shares: np.ndarray, n_raters: int = N_RATERS) -> float:
    """Agreement of the raters beyond chance (Fleiss 1971, equation 7): 1 where all agree, 0 at chance.

    Parameters
    ----------
    shares : share of an utterance's votes by emotion, rows sum to 1, shape = (N, 7)
    n_raters : votes an utterance

    Returns
    -------
    float : nan where all votes are for one emotion, so that chance agrees as well
    """
    shares = np.asarray(shares, dtype=np.float64)
    agreement = ((n_raters * (shares**2).sum(axis=1) - 1) / (n_raters - 1)).mean()  # of two raters of one utterance
    chance = (shares.mean(axis=0) ** 2).sum()
    return float((agreement - chance) / (1 - chance)) if chance < 1 else float("nan")


def single_label_figures(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro and weighted F1 of label indices, both shape = (N,).

    The macro average runs over the emotions that occur as a label or as a prediction; balanced accuracy over labels.
    """
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    figures = {
        "accuracy": accuracy_score(true, predicted),
        # as balanced_accuracy_score, without its warning about a label that is predicted and never true
        "balanced_accuracy": recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0),
        "macro_f1": f1_score(true, predicted, average="macro", zero_division=0),
        "weighted_f1": f1_score(true, predicted, average="weighted", zero_division=0),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def overall_figures(
    emotion_pred: np.ndarray,
    emotion: np.ndarray,
    arousal_pred: np.ndarray,
    arousal: np.ndarray,
    valence_pred: np.ndarray,
    valence: np.ndarray,
    majority: int,
    batch_size: int,
) -> dict:
    """Figures over the whole test set at once.

    Emotion figures are over the windows with one majority label. `majority_f1` is the published F1 (per batch, all
    windows) of always answering `majority`, the commonest training label, and `majority` its other figures.
    """
    from sklearn.metrics import classification_report

    single = emotion.sum(axis=1) == 1
    always_majority = np.tile(np.eye(N_EMOTIONS)[majority], (len(emotion), 1))
    figures = {
        "n": len(emotion),
        "n_single_label": int(single.sum()),
        "majority_label": EMOTIONS[majority],
        "majority_f1": round(float(batch_figures(always_majority, emotion, 1, batch_size)[:, 2].mean()), 4),
        "arousal_mae": round(float(np.abs(arousal_pred - arousal).mean()), 4),
        "valence_mae": round(float(np.abs(valence_pred - valence).mean()), 4),
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
