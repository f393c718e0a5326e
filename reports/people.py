"""People: the figures of single raters on the tested utterances, and their agreement.

Each rater is compared with the majority label, or labels, and the mean ratings of the others, as the model is with
those of all raters. The figures of a model may be higher.
"""

from __future__ import annotations

from typing import Any

import krippendorff
import numpy as np
import pandas as pd

import metric
from constants import EMOTIONS, N_RATERS
from corpora.tables import count_votes, majority_labels

RATERS = range(1, N_RATERS + 1)


def figures_of_people(table: pd.DataFrame) -> dict[str, Any] | None:
    """The raters' figures on rows of `read_utterances`; None if these do not have single ratings.

    The `n_raters` are those who rated at least half of the `n` windows. For each of `metric.WHOLE_FIGURES` there are
    `mean`, `least` and `best` over raters, and `intervals` of the mean over dialogues. `alpha` is of `agreement`.
    `classes` (F1 of each emotion) and `confusion` (rows true, columns predicted) are over all ratings of windows for
    which the other raters have one majority label. Undefined figures are None.
    """
    columns = {f"{name}.{rater}" for name in ("Emotion", "Arousal", "Valence") for rater in RATERS}
    if not columns <= {*table}:
        return None
    answers = [rows for rater in RATERS if 2 * len(rows := answers_of(table, rater)) >= len(table)]
    if len(answers) < 2:
        return None
    dialogue = table.groupby("dialogue").ngroup()
    sums = []  # for each rater, by dialogue; zeros for a dialogue without ratings
    for rows in answers:
        own = pd.DataFrame(metric.window_values(rows), rows.index).groupby(dialogue).sum()
        sums.append(own.reindex(range(dialogue.max() + 1), fill_value=0))
    sums = np.stack(sums, axis=1)
    of_each = pd.DataFrame(metric.main_figures(sums.sum(axis=0)), columns=[*metric.MAIN_FIGURES])
    bounds = metric.bootstrap([sums])[["low", "high"]]
    together = pd.concat(answers)
    together = together[together["true_emotion"].isin(EMOTIONS)]
    classes = metric.class_figures(together)
    names = [*metric.WHOLE_FIGURES]
    return {
        "n_raters": len(answers),
        "n": len(table),
        "mean": metric.rounded(of_each.mean(), names),
        "least": metric.rounded(of_each.min(), names),
        "best": metric.rounded(of_each.max(), names),
        "intervals": {name: metric.bounds_of(bounds.loc[name]) for name in names},
        "alpha": {name.lower(): agreement(table, name) for name in ("Emotion", "Arousal", "Valence")},
        "classes": {name: round(found["f1-score"], 4) for name, found in classes.items()},
        "confusion": metric.confusion_matrix(together).tolist(),
    }


def answers_of(table: pd.DataFrame, rater: int) -> pd.DataFrame:
    """Rows as of predictions.csv, with a rater's ratings as predictions and those of the other raters as labels.

    Utterances that the rater, or everybody else, did not rate are left out.
    """
    others = table[[f"Emotion.{n}" for n in RATERS if n != rater]]
    rows = {"true_emotion": majority_labels(count_votes(others)), "pred_emotion": table[f"Emotion.{rater}"]}
    for name in metric.AFFECT:
        rows[f"pred_{name}"] = table[f"{name.title()}.{rater}"]
        rows[f"true_{name}"] = table[[f"{name.title()}.{n}" for n in RATERS if n != rater]].mean(axis=1)
    rows = pd.DataFrame(rows).replace({"true_emotion": ""}, np.nan).dropna()
    return metric.with_prediction(rows, rows["pred_emotion"])


def agreement(table: pd.DataFrame, name: str) -> float | None:
    """Krippendorff's alpha (2011) of the ratings `name`: 1 if all agree, 0 at chance; None if all ratings are equal."""
    columns = [table[f"{name}.{rater}"] for rater in RATERS]
    if name == "Emotion":
        columns = [column.map({emotion: code for code, emotion in enumerate(EMOTIONS)}) for column in columns]
    data = np.array(columns, dtype=np.float64)
    if np.nanmin(data) == np.nanmax(data):
        return None
    level = "nominal" if name == "Emotion" else "interval"
    return round(float(krippendorff.alpha(data, level_of_measurement=level)), 4)
