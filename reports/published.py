"""Published: the figures in data/published.csv, and which runs may be compared with them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from corpora.corpus import KEMDY19
from corpora.sessions import format_sessions, parse_sessions
from metric import BATCH_FIGURES, FIGURES, HEADINGS, SINGLE_LABEL_FIGURES

PUBLISHED_FILE = Path(__file__).parent.parent / "data/published.csv"
SIZE_TOLERANCE = 0.05  # copies of a corpus may differ by this share of their utterances
KNOWN = (*FIGURES, *SINGLE_LABEL_FIGURES)  # columns of the file
KEY = ["table", "row", "role", "test"]


def read_published() -> pd.DataFrame:
    """The rows of data/published.csv; missing figures are NaN, an empty role, test split, note or protocol is ''."""
    names = {name.lower(): name for name in BATCH_FIGURES} | {"test_split": "test"}
    table = pd.read_csv(PUBLISHED_FILE, dtype=dict.fromkeys(("table", "row", "role", "test_split"), str))
    return table.rename(columns=names).fillna(dict.fromkeys(("role", "test", "note", "protocol"), ""))


def find_published(published: pd.DataFrame, entries: pd.DataFrame) -> pd.Series:
    """The published figures (`KNOWN`) of a table's row, for the folds of its `entries`; NaN if not published.

    Without a published figure over all folds, it is the mean of the folds' figures. Default rows are in table 3.2.
    """
    first, tests = entries.iloc[0], [*entries["test"].unique()]
    table, row = ("3.2", "default") if first["is_default"] else (first["table"], first["row"])
    sessions = format_sessions(session for test in tests for session in parse_sessions(test))
    keys = [(table, row, first["role"], test) for test in (*tests, sessions)]
    found = published.set_index(KEY)[[*KNOWN]].reindex(keys)
    of_folds, of_all = found.iloc[:-1], found.iloc[-1]
    return of_folds.mean(skipna=False) if of_all.isna().all() else of_all


def describe_others(published: pd.DataFrame, entries: pd.DataFrame) -> list[str]:
    """Lines below a table: the published figures that are not a row of it, with their protocol."""
    lines = []
    of_table = published[published["table"] == entries["table"].iloc[0]]
    for _, row in of_table[~of_table["row"].isin(entries["row"])].iterrows():
        figures = ", ".join(f"{HEADINGS[name]} {row[name]:.3f}" for name in KNOWN if row[name] == row[name])
        lines.append(f"{row['row']}: {figures}. Compare only under the same protocol: {row['protocol']}.")
    return lines


def unlike_published(entry: pd.Series) -> str:
    """Why a planned or finished run cannot be compared with the published figures; '' if it can."""
    if entry["unlike"] or pd.isna(entry["folder"]):
        return entry["unlike"]
    kind, corpus = "synthetic " if entry["data_synthetic"] == "yes" else "", entry["data_corpus"]
    if f"{kind}{corpus}" != KEMDY19.name:
        return f"the corpus is {kind}{corpus}, but {KEMDY19.name} in the paper"
    n, expected = int(entry["data_utterances"]), KEMDY19.utterances[entry["role"]]
    if abs(n - expected) > SIZE_TOLERANCE * expected:
        return f"the corpus has {n:,} utterances, but {expected:,} in the paper"
    encoder, is_random = str(entry.get("data_text_model", "unknown")), entry.get("data_text_random") == "yes"
    if is_random or (encoder not in ("unknown", "nan") and "kobert" not in Path(encoder).name.lower()):
        return f"the text encoder is {encoder}, but KoBERT in the paper"
    return ""
