"""Predictions: predictions.csv, with a row for each window, identified by the window's last utterance.

Actors play the same scripts in several sessions, so many test sentences also occur in training. Of a test, the column
`seen` marks these sentences, and `lookup` has the label of the same sentence in training.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from constants import EMOTIONS
from corpora.transcripts import clean_transcript
from corpora.utterances import SHARES
from metric import AFFECT, PREDICTION_COLUMNS, PROBABILITIES, multi_hot, with_prediction
from utils import FORMULA, InputError

PREDICTED = ("pred_arousal", "pred_valence", *PROBABILITIES)
TEXT_COLUMNS = ("segment_id", "corpus", "dialogue", "speaker", "text", "true_emotion", "pred_emotion", "lookup")
ESCAPED = FORMULA.pattern.replace("^", "^'")  # the apostrophe of `write_csv`
MIN_LETTERS = 5  # of a sentence; shorter ones, such as yes, occur in most dialogues


def predictions_table(
    table: pd.DataFrame,
    targets: Sequence[int],
    arrays: Mapping[str, np.ndarray],
    train_rows: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The rows of predictions.csv: the labels and the predictions of each window's last utterance.

    `targets` are the positions of N utterances in `table`, of `read_utterances`; `arrays` come from `engine.to_arrays`.
    With `train_rows`, the utterances of the training sessions, the columns `scripted`, `seen` and `lookup` follow. The
    raters' shares (`SHARES`), if known, are last.
    """
    chosen = table.iloc[targets].reset_index(drop=True)
    names = {"id": "segment_id"} | {name: f"true_{name}" for name in ("emotion", *AFFECT)}
    rows = chosen.rename(columns=names).reindex(columns=[*PREDICTION_COLUMNS])
    rows["pred_emotion"] = np.array(EMOTIONS, dtype=object)[arrays["emotion_pred"].argmax(axis=1)]
    rows[["pred_arousal", "pred_valence"]] = np.column_stack([arrays[f"{name}_pred"] for name in AFFECT])
    rows[[*PROBABILITIES]] = np.asarray(arrays["emotion_pred"], dtype=np.float32)
    if train_rows is not None:
        rows["scripted"] = chosen["scripted"]
        rows = rows.join(look_up(rows["text"], train_rows, majority_label(train_rows, rows)))
    return rows.join(chosen[[*SHARES]]) if {*SHARES} <= {*chosen} else rows


def read_predictions(path: Path) -> pd.DataFrame:
    """The rows of a predictions.csv; raises `InputError` if it is missing or damaged."""
    types = dict.fromkeys(TEXT_COLUMNS, str) | dict.fromkeys(PREDICTED, float)
    try:
        rows = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table of predictions ({error}); test the run again") from error
    if lacking := [name for name in PREDICTION_COLUMNS if name not in rows]:
        raise InputError(f"{path}: no column {lacking[0]!r}; it may be of an earlier version; test the run again")
    sound = rows[[*PREDICTED, "segment_id"]].notna().all(axis=1) & rows["pred_emotion"].isin(EMOTIONS)
    sound &= rows["true_emotion"].isna() | multi_hot(rows["true_emotion"].fillna("")).any(axis=1)
    if not sound.all():
        raise InputError(f"{path}: row {sound.argmin() + 2} lacks an id, a label or a number; test the run again")
    texts = rows.columns.intersection(TEXT_COLUMNS)
    rows[texts] = rows[texts].apply(lambda column: column.str.replace(ESCAPED, "", regex=True))
    return rows.assign(text=rows["text"].fillna(""))


def majority_label(train_rows: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The most frequent majority label of the training sessions, or of the tested rows if there are none."""
    labels = train_rows["emotion"] if len(train_rows) else rows["true_emotion"]
    return EMOTIONS[multi_hot(labels).sum(axis=0).argmax()]


def baselines(rows: pd.DataFrame, majority: str) -> dict[str, pd.DataFrame]:
    """The rows with the predictions of the baselines: `majority`, and `lookup` if there are transcripts."""
    answers = {"majority": majority} | ({"lookup": rows["lookup"]} if rows["lookup"].notna().any() else {})
    return {name: with_prediction(rows, labels) for name, labels in answers.items()}


def normalise(transcript: str) -> str:
    """The letters and digits of a transcript, without markup, to compare sentences."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFC", clean_transcript(transcript)))).lower()


def look_up(texts: pd.Series, train_rows: pd.DataFrame, majority: str) -> pd.DataFrame:
    """Whether each transcript's sentence occurs in `train_rows` (`seen`), and its label there (`lookup`).

    `seen` is None for sentences of fewer than five letters. `lookup` is the most frequent training label of the
    sentence (in a tie `majority` or else the first), or `majority`. Both are None without transcripts.
    """
    if not train_rows["text"].any() or not texts.any():
        return pd.DataFrame({"seen": None, "lookup": None}, index=texts.index, dtype=object)
    trained, sentences = (column.map(normalise) for column in (train_rows["text"], texts))
    counts = pd.DataFrame(multi_hot(train_rows["emotion"]), columns=EMOTIONS).groupby(trained.to_numpy()).sum()
    counts[majority] += 0.5
    lookup = counts.idxmax(axis=1)[counts.index.str.len() >= MIN_LETTERS]
    seen = sentences.isin(lookup.index).astype(object).where(sentences.str.len() >= MIN_LETTERS, None)
    return pd.DataFrame({"seen": seen, "lookup": sentences.map(lookup).fillna(majority)})
