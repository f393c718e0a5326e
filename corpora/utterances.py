"""Utterances: the utterances and labels of a role as a DataFrame, read from df_speaker.csv or df_listener.csv."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from constants import AFFECT_RANGE, EMOTIONS, ROLES
from corpora.corpus import corpus_of, parts_of_ids
from corpora.corpus_json import check_raw_tables, read_corpus_json
from corpora.tables import RATING_COLUMNS, VOTE_COUNTS, VOTES, count_votes, read_emotions
from utils import InputError, decode

LABEL_COLUMNS = ("Segment ID", "Emotion", "Arousal", "Valence")
PARTS = ("Session", "dialogue", "speaker", "script", "sequence")  # parts of the id, written by preprocessing.py
SHARES = [f"share_{emotion}" for emotion in EMOTIONS]


def read_utterances(data_path: Path, role: str) -> pd.DataFrame:
    """The utterances of a role, "speaker" or "listener", in a preprocessed folder, in the order of its table.

    Columns: id, corpus, session (int64), dialogue (unique in the folder), speaker, sequence (int64), scripted (True,
    False or None), start, end (seconds, NaN if unknown), text ("" if none), emotion (majority labels, joined by `;`),
    arousal, valence (float32, 1 to 5; NaN if a manifest has none), share_disgust to share_happy (float32, sum 1), and
    for each of the ten raters, if the table has them, Emotion.1 (NaN if blank), Arousal.1 and Valence.1 (float32).
    The index is a RangeIndex.

    Raises `InputError` if the folder, file or role is missing, or a row has an invalid id, label or rating.
    """
    if not data_path.is_dir():
        sample = "for the sample, run python data/make_sample.py"
        raise InputError(f"{data_path}: no such folder; set --data_path ({sample}), see docs/data.md")
    corpus = corpus_of(data_path)
    path = data_path / f"df_{role}.csv"
    if role not in corpus.roles:
        raise InputError(f"--SorL {role}: {corpus.name} in {data_path} only has the role {' and '.join(corpus.roles)}")
    written = read_corpus_json(data_path)
    is_published = written is None
    check_raw_tables(data_path, written)
    votes = VOTE_COUNTS if corpus.is_own else VOTES
    cells = read_cells(path, (*LABEL_COLUMNS, *votes, *(() if is_published else PARTS)))
    ids = cells["Segment ID"]
    _check(path, ids, ids.duplicated(), "duplicate id")
    if "role" in cells:
        is_other = cells["role"].isin(ROLES) & (cells["role"] != role)
        _check(path, ids, is_other, f"expected the role {role}; the table may be of another role", cells["role"])
    if is_published:  # these columns may be missing or different
        parts = parts_of_ids(ids, corpus)
        _check(path, ids, parts["Session"].isna(), f"expected an id such as {corpus.example_id}")
        cells[parts.columns] = parts
    for column in ("Session", "sequence"):
        is_number = cells[column].str.fullmatch("[0-9]{1,6}")
        _check(path, ids, ~is_number, f"expected an integer as {column}", cells[column])
    table = pd.DataFrame({"id": ids, "corpus": corpus.name, "session": cells["Session"].astype("int64")})
    table = table.join(cells[["dialogue", "speaker"]]).assign(sequence=cells["sequence"].astype("int64"))
    _warn_of_order(path, table)
    table["scripted"] = cells["script"].str.startswith("script").astype(object) if corpus.improvised else None
    table[["start", "end"]] = cells.reindex(columns=["start", "end"]).apply(pd.to_numeric, errors="coerce")
    table["text"] = cells.get("text", "")
    return table.join(_read_labels(path, cells)).reset_index(drop=True)


def read_cells(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """The cells of a table as text, without empty rows (the index counts them); `columns` are required."""
    try:
        text = io.StringIO(decode(path.read_bytes(), path))
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas would drop surplus cells
            table = pd.read_csv(text, dtype=str, keep_default_na=False, index_col=False)
    except FileNotFoundError as error:
        todo = f"; run preprocessing.py --data_path {path.parent} first" if path.name.startswith("df_") else ""
        raise InputError(f"{path}: not found{todo}") from error
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path}: not a readable CSV table ({error})") from error
    if absent := [column for column in columns if column not in table.columns]:
        found = f"no column {absent[0]!r}, the first columns are {', '.join(map(repr, table.columns[:3]))}"
        raise InputError(f"{path}: {found}; expected {', '.join(columns[:3])}, ...")
    table = table[(table != "").any(axis=1)].fillna("")
    if table.empty:
        raise InputError(f"{path}: the table has no rows")
    return table


def _check(path: Path, ids: pd.Series, bad: pd.Series, what: str, found: pd.Series | None = None) -> None:
    """Raise `InputError` if `bad` is true in any row, with the first such row and what is `found` there."""
    if bad.any():
        row = bad.idxmax()
        what = what if found is None else f"{found[row]!r}, {what}"
        raise InputError(f"{path}, row {row + 2}, segment id {ids[row]!r}: {what}")


def _warn_of_order(path: Path, table: pd.DataFrame) -> None:
    """Warn if a speaker's utterances are not in order of their number, since windows follow the row order."""
    backwards = table["id"][table.groupby(["dialogue", "speaker"], sort=False)["sequence"].diff() < 0]
    if len(backwards):
        what = f"{len(backwards)} utterances come after later ones of their dialogue, first: {backwards.iloc[0]}"
        todo = "windows follow the row order, so sort the rows by time"
        warnings.warn(f"{path}: {what}; {todo}", stacklevel=3)


def _read_labels(path: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """Columns emotion, arousal, valence and the shares of the raters' votes."""
    ids, known = cells["Segment ID"], f"expected one of {', '.join(EMOTIONS)}"
    labels = pd.DataFrame({"emotion": read_emotions(cells["Emotion"])})
    _check(path, ids, labels["emotion"].isna(), f"{known}, or several joined by ';'", cells["Emotion"])
    for column in ("Arousal", "Valence"):
        ratings, no_cell = pd.to_numeric(cells[column], errors="coerce"), "wav" in cells and (cells[column] == "").all()
        is_bad = ~ratings.between(*AFFECT_RANGE) & (not no_cell)  # a manifest may have none
        _check(path, ids, is_bad, f"expected {column.lower()} from 1 to 5", cells[column])
        labels[column.lower()] = ratings.astype("float32")
    if VOTE_COUNTS[0] in cells:
        counts = cells[VOTE_COUNTS].apply(pd.to_numeric, errors="coerce")
    else:
        votes = cells[VOTES].apply(read_emotions)
        for column in VOTES:
            is_bad = ~votes[column].isin(EMOTIONS) & (cells[column].str.strip() != "")
            _check(path, ids, is_bad, f"{known} as {column}", cells[column])
        counts, labels = count_votes(votes), labels.join(votes)
    counts = counts.to_numpy(np.float32)
    is_unrated = pd.Series(~(counts.sum(axis=1) > 0), ids.index)
    _check(path, ids, is_unrated, f"no emotion vote in {VOTES[0]} to {VOTES[-1]}")
    labels[SHARES] = counts / counts.sum(axis=1, keepdims=True)
    of_each = [name for name in RATING_COLUMNS if name.startswith(("Arousal.", "Valence.")) and name in cells]
    ratings = cells[of_each].apply(pd.to_numeric, errors="coerce").astype("float32")
    return labels.join(ratings)


def shares(table: pd.DataFrame) -> np.ndarray:
    """Shares of the raters' votes in a table of `read_utterances`, float32, shape = (N, 7)."""
    return table[SHARES].to_numpy(np.float32)
