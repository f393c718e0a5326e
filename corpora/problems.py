"""Problems: the faults of a raw corpus, and what was done about them, as a DataFrame that becomes problems.csv.

Columns: file (path within the corpus folder), row (of a table, counted from 1 with its header rows, "" elsewhere), id
(segment id, "" for none), what (the kind of fault, in the same words for all faults of the kind), found (what stands
in the file) and done (what was done about it).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

PROBLEM_COLUMNS = ["file", "row", "id", "what", "found", "done"]
OTHER_SPELLING = "label in another spelling"  # which the corpus itself has: nothing is lost by it
COUNTS_AS_ZEROS = "counts as zeros in training, which stops where more than 5% do"


def row_problems(rows: pd.DataFrame, what: str | Sequence, found: str | Sequence, done: str | Sequence) -> pd.DataFrame:
    """A problem for each of these rows of `tables.read_tables`, with the same index."""
    columns = {"file": rows["file"], "row": rows["row"], "id": rows["Segment ID"]}
    return pd.DataFrame({**columns, "what": what, "found": found, "done": done}, index=rows.index, dtype=object)


def file_problems(data_path: Path, problems: Sequence[tuple[Path, str, str, str, str]]) -> pd.DataFrame:
    """Problems of files, given as (path, id, what, found, done)."""
    within = [path.relative_to(data_path) if path.is_relative_to(data_path) else path for path, *_ in problems]
    rows = [(str(path), "", *others) for path, (_, *others) in zip(within, problems, strict=True)]
    return pd.DataFrame(rows, columns=PROBLEM_COLUMNS, dtype=object)


def problem_text(problem: pd.Series) -> str:
    """Where a problem is and what was found, for messages."""
    row = f", row {problem['row']}" if problem["row"] != "" else ""
    segment = f" ({problem['id']})" if problem["id"] and problem["id"] not in problem["file"] else ""
    found = f": {problem['found']}" if problem["found"] else ""
    return f"{problem['file']}{row}{segment}{found}"


def warn_of_problems(problems: pd.DataFrame) -> None:
    """Warn once of each kind of fault: how often it was found, the first one, and what was done."""
    for (what, done), of_kind in problems.groupby(["what", "done"], sort=False):
        others = f" and {len(of_kind) - 1} more" if len(of_kind) > 1 else ""
        warnings.warn(f"{what}: {problem_text(of_kind.iloc[0])}{others}; {done}", stacklevel=2)
