"""Problems: the errors found in a raw corpus and how each was handled, as a DataFrame that becomes problems.csv.

Columns: file (path within the corpus folder), row (of a table, counted from 1 with its header rows, otherwise ""), id
(segment id, or ""), what (kind of problem, always in the same words), found (the content of the file) and done (how
the problem was handled).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

PROBLEM_COLUMNS = ["file", "row", "id", "what", "found", "done"]
OTHER_SPELLING = "nonstandard label spelling"  # also in the published corpora; the label is still clear
COUNTS_AS_ZEROS = "replaced by zeros in training, which stops if more than 5% are missing"


def row_problems(rows: pd.DataFrame, what: str | Sequence, found: str | Sequence, done: str | Sequence) -> pd.DataFrame:
    """One problem for each of these rows of `tables.read_tables`, with the same index."""
    columns = {"file": rows["file"], "row": rows["row"], "id": rows["Segment ID"]}
    return pd.DataFrame({**columns, "what": what, "found": found, "done": done}, index=rows.index, dtype=object)


def file_problems(data_path: Path, problems: Sequence[tuple[Path, str, str, str, str]]) -> pd.DataFrame:
    """Problems of files, given as (path, id, what, found, done)."""
    within = [path.relative_to(data_path) if path.is_relative_to(data_path) else path for path, *_ in problems]
    rows = [(str(path), "", *others) for path, (_, *others) in zip(within, problems, strict=True)]
    return pd.DataFrame(rows, columns=PROBLEM_COLUMNS, dtype=object)


def problem_text(problem: pd.Series) -> str:
    """The place of a problem and what was found there, for messages."""
    row = f", row {problem['row']}" if problem["row"] != "" else ""
    segment = f" ({problem['id']})" if problem["id"] and problem["id"] not in problem["file"] else ""
    found = f": {problem['found']}" if problem["found"] else ""
    return f"{problem['file']}{row}{segment}{found}"


def warn_of_problems(problems: pd.DataFrame) -> None:
    """Warn once of each kind of problem: how often it was found, the first one, and how it was handled."""
    for (what, done), of_kind in problems.groupby(["what", "done"], sort=False):
        times = f" ({len(of_kind)} times), first" if len(of_kind) > 1 else ""
        warnings.warn(f"{what}{times}: {problem_text(of_kind.iloc[0])}; {done}", stacklevel=2)
