"""Published: the figures in data/published.csv, and beside which of our runs they may stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from corpora.registry import corpus_of
from corpora.sessions import format_sessions
from metric import BATCH_FIGURES, FIGURES, HEADINGS, SINGLE_LABEL_FIGURES
from reports.runs import Entry, Run, finished, group

PUBLISHED_FILE = Path(__file__).parent.parent / "data/published.csv"

KNOWN = (*FIGURES, *SINGLE_LABEL_FIGURES)  # what is published, and what the CSV files hold
ANY = "any "  # begins the protocol of what holds whatever is trained on
HELD_OUT = ("test sessions held out", "each fold of four sessions held out in turn")  # as the paper's, and all ours
FOLDS_WITH_VALIDATION = "five folds of sessions, each with validation sessions of its own; speakers; single labels"


def read_published() -> pd.DataFrame:
    """The rows of data/published.csv; a figure that was not published is NaN, a blank role, split or note ''."""
    names = {name.lower(): name for name in BATCH_FIGURES}
    table = pd.read_csv(PUBLISHED_FILE, dtype=dict.fromkeys(("table", "row", "role", "test_split"), str))
    return table.rename(columns=names).fillna(dict.fromkeys(("role", "test_split", "note", "protocol"), ""))


def find_published(
    published: pd.DataFrame, table: str, row: str, role: str, test_split: Iterable[int]
) -> dict[str, float] | None:
    """The figures of one row of `read_published`, without those that are NaN; None if there is no such row."""
    wanted = {"table": table, "row": row, "role": role, "test_split": format_sessions(test_split)}
    found = published[(published[list(wanted)] == list(wanted.values())).all(axis=1)]
    return None if found.empty else {name: float(value) for name, value in found.iloc[0][[*KNOWN]].dropna().items()}


def protocols_of(entries: Sequence[Entry], runs: Mapping[Path, Run]) -> tuple[str, ...]:
    """The protocols of published.csv that a table's runs have.

    That of peers who validate apart is ours where a row has run on all folds of its corpus, with `--valid_split`.
    """
    for of_row in group([entry for entry in entries if entry.role == "speaker"], "row").values():
        found, splits = finished(of_row, runs), group(of_row, "test_split")
        corpora = {corpus_of(run.ids[0]) for run in found}
        if len(found) == len(of_row) and len(corpora) == 1 and None not in corpora:
            whole = {split for (split,) in splits} == {*corpora.pop().folds}
            if whole and all(run.configuration.get("valid_split") for run in found):
                return (*HELD_OUT, FOLDS_WITH_VALIDATION)
    return HELD_OUT


def describe_peers(published: pd.DataFrame, table: str, rows: Sequence[str], protocols: Sequence[str]) -> list[str]:
    """One line for every published row of a table that is none of its configurations.

    Its figures stand there where its protocol is one of `protocols`, which ours have.
    """
    lines = []
    for _, row in published[(published["table"] == table) & ~published["row"].isin(rows)].iterrows():
        if row["protocol"] in protocols or row["protocol"].startswith(ANY):
            figures = ", ".join(f"{HEADINGS[name]} {row[name]:.3f}" for name in KNOWN if not np.isnan(row[name]))
            lines.append(f"{row['row']}: {figures}; {row['protocol']}.")
        else:
            lines.append(
                f"{row['row']}: of another protocol than these runs ({row['protocol']}), so that its figures, in "
                "data/published.csv, do not stand here."
            )
    return lines
