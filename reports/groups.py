"""Groups: the figures of a test by session, speaker, duration and so on.

Each entry of `GROUPS` gives every row of predictions.csv a label; rows with the same label are a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

import metric
from corpora.utterances import SHARES
from reports.predictions import baselines

MIN_WINDOWS, MIN_DIALOGUES = 20, 3  # windows with one majority label and dialogues that a group needs for figures
FULL_WINDOW = 8  # utterances


def numbered_session(rows: pd.DataFrame) -> pd.Series:
    return "session " + rows["session"].astype(str).str.zfill(2)


def known_sentence(rows: pd.DataFrame) -> pd.Series:
    """Whether the sentence occurs in training; NaN without transcripts."""
    labels = rows["seen"].map({True: "in training", False: "not in training"})
    return labels.fillna("under five letters").where(rows["lookup"].notna())


def sex_in_id(rows: pd.DataFrame) -> pd.Series:
    """Female or male, from the ids of ETRI's corpora; NaN in other corpora."""
    letters = rows["segment_id"].str.extract(r"^Sess\d\d_\w{5,6}\d\d_(?:User\d{3})?([FM])_?\d{3}$")[0]
    return letters.map({"F": "female", "M": "male"})


def duration(rows: pd.DataFrame) -> pd.Series:
    seconds, labels = rows["end"] - rows["start"], ["under 2 s", "2 to 5 s", "5 s and over"]
    return pd.cut(seconds, [-np.inf, 2, 5, np.inf], right=False, labels=labels)


def position(rows: pd.DataFrame) -> pd.Series:
    """Whether the window is full; before the eighth utterance of a dialogue, it begins with padding."""
    is_full = rows.groupby("dialogue").cumcount() >= FULL_WINDOW - 1
    return is_full.map({True: "later", False: "first seven utterances"})


def agreement(rows: pd.DataFrame) -> pd.Series:
    shares, labels = rows[SHARES].max(axis=1), ["up to 50%", "50 to 70%", "over 70%"]
    return pd.cut(shares, [0, 0.5, 0.7, 1], labels=labels)


GROUPS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "dialogue type": lambda rows: rows["scripted"].map({True: "scripted", False: "improvised"}),
    "sentence": known_sentence,
    "session": numbered_session,
    "speaker's sex": sex_in_id,
    "speaker": lambda rows: numbered_session(rows) + ", " + rows["speaker"],
    "duration": duration,
    "position": position,
    "rater agreement": agreement,
}


def figures_by_group(rows: pd.DataFrame, majority: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The figures of each group, by the names of `GROUPS` and the group's label, as in result.json.

    Every group has `n`, `n_single_label` and `dialogues`. A group that is large enough also has `metric.WHOLE_FIGURES`,
    their `intervals`, and the figures of the baselines `majority` and `lookup`. Names with a single group are left out.
    """
    tables = baselines(rows, majority)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, label_of in GROUPS.items():
        labels = label_of(rows)
        if labels.nunique() > 1:
            groups = rows.groupby(labels, observed=True).groups
            found[name] = {str(label): figures_of_group(rows.loc[at], tables, at) for label, at in groups.items()}
    return found


def figures_of_group(rows: pd.DataFrame, answers: Mapping[str, pd.DataFrame], at: pd.Index) -> dict[str, Any]:
    sums, own = metric.dialogue_sums(rows), metric.figures(rows)
    counts = {"n": own["n"], "n_single_label": own["n_single_label"], "dialogues": len(sums)}
    if own["n_single_label"] < MIN_WINDOWS or len(sums) < MIN_DIALOGUES:
        return counts
    bounds = metric.bootstrap([sums[:, None]])[["low", "high"]]
    intervals = {name: metric.bounds_of(bounds.loc[name]) for name in metric.WHOLE_FIGURES}
    answered = {name: metric.figures(table.loc[at]) for name, table in answers.items()}
    compared = {name: metric.rounded(found, metric.SINGLE_LABEL_FIGURES) for name, found in answered.items()}
    return counts | metric.rounded(own, metric.WHOLE_FIGURES) | {"intervals": intervals} | compared
