"""Utterances: one DataFrame of the utterances and labels of a role, read from df_speaker.csv or df_listener.csv."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from constants import AFFECT_RANGE, EMOTIONS, ROLES
from corpora.corpus import corpus_of, parts_of_ids
from corpora.corpus_json import read_corpus_json
from corpora.tables import RATING_COLUMNS, VOTE_COUNTS, VOTES, count_votes, read_emotions
from utils import InputError, decode

LABEL_COLUMNS = ("Segment ID", "Emotion", "Arousal", "Valence")
PARTS = ("Session", "dialogue", "speaker", "script", "sequence")  # of ids; preprocessing.py writes them
SHARES = [f"share_{emotion}" for emotion in EMOTIONS]


def read_utterances(data_path: Path, role: str) -> pd.DataFrame:
    """The utterances of a role, "speaker" or "listener", in a pre-processed folder, in the order of its table.

    Columns: id, corpus, session (int64), dialogue (unique in the folder), speaker, sequence (int64), scripted (True,
    False or None), start, end (seconds, NaN if unknown), text ("" if none), emotion (majority labels, joined by `;`),
    arousal, valence (float32, 1 to 5; NaN of a manifest without), share_disgust to share_happy (float32, sum 1), and
    of each rater, as far as the table has them, Emotion.1 (NaN if blank), Arousal.1 and Valence.1 (float32) to those of
    the tenth. A RangeIndex.

    Raises `InputError` where folder, file or role is missing, or a row holds what cannot be an id, a label or a rating.
    """
    if not data_path.is_dir():
        sample = "python data/make_sample.py makes data/sample"
        raise InputError(f"{data_path}: no such folder; pass --data_path ({sample}), or see data/README.md")
    corpus = corpus_of(data_path)
    path = data_path / f"df_{role}.csv"
    if role not in corpus.roles:
        raise InputError(f"--SorL {role}: {data_path} holds {corpus.name}, which has {' and '.join(corpus.roles)} rows")
    is_published = read_corpus_json(data_path) is None
    votes = VOTE_COUNTS if corpus.is_own else VOTES
    cells = read_cells(path, (*LABEL_COLUMNS, *votes, *(() if is_published else PARTS)))
    ids = cells["Segment ID"]
    _refuse(path, ids, ids.duplicated(), "occurs twice")
    if "role" in cells:
        is_other = cells["role"].isin(ROLES) & (cells["role"] != role)
        _refuse(path, ids, is_other, f"expected the role {role}: is it another role's table?", cells["role"])
    if is_published:  # it may lack these columns, or hold others of their names
        parts = parts_of_ids(ids, corpus)
        _refuse(path, ids, parts["Session"].isna(), f"expected one such as {corpus.example_id}")
        cells[parts.columns] = parts
    for column in ("Session", "sequence"):
        is_number = cells[column].str.fullmatch("[0-9]{1,6}")
        _refuse(path, ids, ~is_number, f"expected a whole number as {column}", cells[column])
    table = pd.DataFrame({"id": ids, "corpus": corpus.name, "session": cells["Session"].astype("int64")})
    table = table.join(cells[["dialogue", "speaker"]]).assign(sequence=cells["sequence"].astype("int64"))
    _warn_of_order(path, table)
    table["scripted"] = cells["script"].str.startswith("script").astype(object) if corpus.improvised else None
    table[["start", "end"]] = cells.reindex(columns=["start", "end"]).apply(pd.to_numeric, errors="coerce")
    table["text"] = cells.get("text", "")
    return table.join(_read_labels(path, cells)).reset_index(drop=True)


def read_cells(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """The cells of a table as text, without its empty rows, which the index counts; it must have all `columns`."""
    try:
        text = io.StringIO(decode(path.read_bytes(), path))
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas would leave out surplus cells
            table = pd.read_csv(text, dtype=str, keep_default_na=False, index_col=False)
    except FileNotFoundError as error:
        todo = f"; run preprocessing.py --data_path {path.parent} first" if path.name.startswith("df_") else ""
        raise InputError(f"{path}: not found{todo}") from error
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path}: not readable as a CSV table ({error})") from error
    if absent := [column for column in columns if column not in table.columns]:
        found = f"no column {absent[0]!r}, the first are {', '.join(map(repr, table.columns[:3]))}"
        raise InputError(f"{path}: {found}; expected {', '.join(columns[:3])}, ...")
    table = table[(table != "").any(axis=1)].fillna("")
    if table.empty:
        raise InputError(f"{path}: has no rows")
    return table


def _refuse(path: Path, ids: pd.Series, bad: pd.Series, what: str, found: pd.Series | None = None) -> None:
    """Raise `InputError` that names the first row in which `bad` is true, and what is `found` there."""
    if bad.any():
        row = bad.idxmax()
        what = what if found is None else f"{found[row]!r}, {what}"
        raise InputError(f"{path}, row {row + 2}, segment id {ids[row]!r}: {what}")


def _warn_of_order(path: Path, table: pd.DataFrame) -> None:
    """Warn where an utterance comes after later ones of its speaker, since windows follow the order of the rows."""
    backwards = table["id"][table.groupby(["dialogue", "speaker"], sort=False)["sequence"].diff() < 0]
    if len(backwards):
        what = f"{len(backwards)} utterances such as {backwards.iloc[0]} come after later ones of their dialogue"
        todo = "windows follow the order of the file, so it should be the order of time"
        warnings.warn(f"{path}: {what}; {todo}", stacklevel=3)


def _read_labels(path: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """emotion, arousal, valence and the shares of the raters' votes."""
    ids, known = cells["Segment ID"], f"expected one of {', '.join(EMOTIONS)}"
    labels = pd.DataFrame({"emotion": read_emotions(cells["Emotion"])})
    _refuse(path, ids, labels["emotion"].isna(), f"{known}, or several joined by ';'", cells["Emotion"])
    for column in ("Arousal", "Valence"):
        ratings, lacks = pd.to_numeric(cells[column], errors="coerce"), "wav" in cells and (cells[column] == "").all()
        is_bad = ~ratings.between(*AFFECT_RANGE) & (not lacks)  # a manifest may have none
        _refuse(path, ids, is_bad, f"expected {column.lower()} from 1 to 5", cells[column])
        labels[column.lower()] = ratings.astype("float32")
    if VOTE_COUNTS[0] in cells:
        counts = cells[VOTE_COUNTS].apply(pd.to_numeric, errors="coerce")
    else:
        votes = cells[VOTES].apply(read_emotions)
        for column in VOTES:
            is_bad = ~votes[column].isin(EMOTIONS) & (cells[column].str.strip() != "")
            _refuse(path, ids, is_bad, f"{known} as {column}", cells[column])
        counts, labels = count_votes(votes), labels.join(votes)
    counts = counts.to_numpy(np.float32)
    is_unrated = pd.Series(~(counts.sum(axis=1) > 0), ids.index)
    _refuse(path, ids, is_unrated, f"no rater's emotion in {VOTES[0]} to {VOTES[-1]}")
    labels[SHARES] = counts / counts.sum(axis=1, keepdims=True)
    of_each = [name for name in RATING_COLUMNS if name.startswith(("Arousal.", "Valence.")) and name in cells]
    ratings = cells[of_each].apply(pd.to_numeric, errors="coerce").astype("float32")
    return labels.join(ratings)


def shares(table: pd.DataFrame) -> np.ndarray:
    """Shares of the raters' votes of rows of `read_utterances`, float32, shape = (N, 7)."""
    return table[SHARES].to_numpy(np.float32)
