"""Annotation tables: raters' votes read by column position, and the rows of annotation.csv made of them."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from constants import N_RATERS
from corpora.files import path_within
from corpora.labels import normalise_emotions, normalise_rating, normalise_vote
from corpora.problems import MISSING_LIMIT, OTHER_SPELLING, Problem
from utils import MAX_TABLE_BYTES, InputError, decode, read_bounded

if TYPE_CHECKING:
    import pandas as pd

    from corpora.base import Corpus, SegmentId

HEADER_ROWS = 2  # of every table that ETRI publishes
RATINGS = ("Emotion", "Valence", "Arousal")
COLUMNS = [  # of annotation.csv and df_<role>.csv
    "start",
    "end",
    "Segment ID",
    *RATINGS,
    *(f"{name}.{rater}" for rater in range(1, N_RATERS + 1) for name in RATINGS),
    "speaker",
    "text",
    "role",
    "Session",
    "script",
    "sequence",
    "dialogue",
]


@dataclass(frozen=True)
class TableLayout:
    """Positions of columns in an annotation table, counted from 0; the names of raters vary, so names are not used.

    `total` is the first of three columns: emotion, valence and arousal of all raters together. Those of the ten raters
    follow, three columns each.
    """

    start: int
    end: int
    segment: int
    total: int

    @property
    def n_columns(self) -> int:
        """Columns that a row has at least."""
        return self.total + len(RATINGS) * (1 + N_RATERS)


class TableRow(NamedTuple):
    """A row of an annotation table as its file has it."""

    file: str  # within the corpus folder
    number: int  # counted from 1 with the header rows
    segment: str  # without surrounding spaces, not checked
    cells: list[str]


class RatingColumn(NamedTuple):
    """What a column of ratings holds."""

    rater: int  # from 1 to 10; 0 is the total of all
    name: str  # of `RATINGS`

    @classmethod
    def at(cls, position: int) -> RatingColumn:
        """The column at this place among those of a row's ratings."""
        rater, number = divmod(position, len(RATINGS))
        return cls(rater, RATINGS[number])


def find_tables(data_path: Path, corpus: Corpus, problems: list[Problem]) -> list[tuple[Path, re.Match[str]]]:
    """A corpus's annotation tables by the order of their names, each with the match of `corpus.table`.

    CSV files of other names are added to `problems`.

    Raises
    ------
    InputError : two files are the same table, since names are read in any case
    """
    found: dict[str, tuple[Path, re.Match[str]]] = {}
    for path in sorted((data_path / "annotation").iterdir()):
        match = corpus.table.fullmatch(path.name)
        if match is None:
            if path.suffix.lower() == ".csv":
                what = f"table whose name is not such as {corpus.example_table}"
                problems.append(Problem(path_within(data_path, path), "", "", what, "", "not read"))
            continue
        other, _ = found.setdefault(path.name.lower(), (path, match))
        if other != path:
            raise InputError(f"{path}: {other.name} is there as well; take one of them away")
    return list(found.values())


def read_rows(path: Path, layout: TableLayout, corpus: Corpus) -> list[TableRow]:
    """The rows of an annotation table that are not blank, in the table's order, without its header rows.

    Raises
    ------
    InputError : it cannot be read as a CSV table, has no header rows, a row has too few columns, or more than 5% of a
        column of ratings (and more than one) are no numbers from 1 to 5, blank ones aside
    """
    lines = _read_csv(path)
    if any(corpus.parse_id(cell.strip()) for cells in lines[:HEADER_ROWS] for cell in cells):
        raise InputError(
            f"{path}: its first two rows hold an utterance; expected two header rows, as ETRI's tables have"
        )
    file = f"{path.parent.name}/{path.name}"
    rows = []
    for number, cells in enumerate(lines[HEADER_ROWS:], start=HEADER_ROWS + 1):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < layout.n_columns:
            raise InputError(
                f"{path}, row {number}: {len(cells)} columns, expected {layout.n_columns}, separated by commas; "
                "is it whole?"
            )
        rows.append(TableRow(file, number, cells[layout.segment].strip(), cells))
    for column in range(layout.total, layout.n_columns):
        _refuse_ruined_column(path, rows, column, RatingColumn.at(column - layout.total))
    return rows


def _refuse_ruined_column(path: Path, rows: list[TableRow], column: int, rating: RatingColumn) -> None:
    """Raise `InputError` where a column of ratings holds something else: a spreadsheet makes dates of 3.5."""
    if rating.name == "Emotion":
        return
    filled = [row for row in rows if row.cells[column].strip()]
    bad = [row for row in filled if not _is_rating(row.cells[column])]
    if len(bad) > max(1, MISSING_LIMIT * len(rows)):
        what, cell = f"{rating.name.lower()} of {_whose([rating.rater])}", bad[0].cells[column]
        raise InputError(
            f"{path}, row {bad[0].number}: {what} is {cell!r}, expected a number from 1 to 5; so it is in {len(bad)} "
            f"of {len(rows)} rows: did a spreadsheet make dates of numbers? Take the table as it was distributed"
        )


def _read_csv(path: Path) -> list[list[str]]:
    try:
        text = decode(read_bounded(path, MAX_TABLE_BYTES), path)
        # Some programs end lines with a carriage return alone, which the csv module takes for no line end
        return list(csv.reader(io.StringIO(text if "\n" in text else text.replace("\r", "\n"))))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise InputError(
            f"{path}: not readable as a CSV table ({error}); is a quote left open, or a carriage return in a row?"
        ) from error


def annotate(
    row: TableRow, layout: TableLayout, segment_id: SegmentId, role: str, problems: list[Problem]
) -> dict[str, str | int]:
    """A table's row as annotation.csv has it, but for its text; also `file`, `row` and `usable` (see `Corpus`).

    Labels are in one spelling, a cell that cannot be used is blank. Both are added to `problems`.
    """
    start, end = row.cells[layout.start], row.cells[layout.end]
    ratings, faults = _read_ratings(row.cells[layout.total : layout.n_columns], role)
    if start.strip() and not _is_number(start):
        faults.append(("start that is no number", repr(start), "its place in the table orders it"))
    problems += [Problem(row.file, row.number, row.segment, *fault) for fault in faults]
    return {
        "start": start.strip(),
        "end": end.strip(),
        "Segment ID": row.segment,
        **ratings,
        "speaker": segment_id.speaker,
        "role": role,
        "Session": segment_id.session,
        "script": segment_id.script,
        "sequence": segment_id.sequence,
        "dialogue": segment_id.dialogue,
        "file": row.file,
        "row": row.number,
    }


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _read_ratings(cells: list[str], role: str) -> tuple[dict[str, str | bool], list[tuple[str, str, str]]]:
    """The total and the votes of a row by column of annotation.csv, with `usable`; and faults (what, found, done).

    Cells of a row with the same fault are one of them, which names whose they are.
    """
    ratings: dict[str, str | bool] = {"usable": True}
    cells_by_fault: dict[tuple[str, str], dict[str, list[int]]] = {}  # by what and done: raters, by what stands there
    for position, cell in enumerate(cells):
        rating, fault, value = RatingColumn.at(position), None, ""
        try:
            value = _normalise(rating.name, cell, is_total=rating.rater == 0)
        except ValueError:
            if rating.rater == 0:
                ratings["usable"] = False
                fault = _unusable_total(rating.name, role)
            else:
                fault = _unusable_vote(rating.name, cell)
        else:
            if rating.name == "Emotion" and value != cell:
                fault = OTHER_SPELLING, "read as the label that is meant"
        if fault:
            cells_by_fault.setdefault(fault, {}).setdefault(cell, []).append(rating.rater)
        ratings[f"{rating.name}.{rating.rater}" if rating.rater else rating.name] = value
    faults = [
        (what, "; ".join(f"{cell!r} of {_whose(raters)}" for cell, raters in found.items()), done)
        for (what, done), found in cells_by_fault.items()
    ]
    if not any(ratings[f"Emotion.{rater}"] for rater in range(1, N_RATERS + 1)):
        ratings["usable"] = False
        faults.append(("row without a usable vote", "", _left_out(role)))
    return ratings, faults


def _whose(raters: list[int]) -> str:
    """Whose ratings they are, in words; 0 is the total."""
    numbers = [str(rater) for rater in raters if rater]
    named = [f"rater{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"] if numbers else []
    return " and ".join([*(["the total"] if 0 in raters else []), *named])


def _is_rating(cell: str) -> bool:
    try:
        normalise_rating(cell)
    except ValueError:
        return False
    return True


def _normalise(name: str, cell: str, is_total: bool) -> str:
    if name != "Emotion":
        return normalise_rating(cell)
    return normalise_emotions(cell) if is_total else normalise_vote(cell)


def _left_out(role: str) -> str:
    return f"row left out of df_{role}.csv"


def _unusable_total(name: str, role: str) -> tuple[str, str]:
    """What and done of a total that cannot be used."""
    expected = "none of the seven" if name == "Emotion" else "no number from 1 to 5"
    return f"total {name.lower()} that is {expected}", _left_out(role)


def _unusable_vote(name: str, cell: str) -> tuple[str, str]:
    """What and done of a rater's cell that cannot be used."""
    done = "left out of the soft label" if name == "Emotion" else "left blank"
    if not cell.strip():
        what = f"rater's {name.lower()} that is blank"
    elif name == "Emotion":
        what = "vote that is none of the seven emotions"
    else:
        what = f"rater's {name.lower()} that is no number from 1 to 5"
    return what, done


def in_time_order(tables: Sequence[Sequence[dict[str, str | int]]]) -> pd.DataFrame:
    """The rows of all tables with `start` and `end` as seconds, sorted by time within a dialogue.

    Each table holds its utterances in time order. So a blank start is taken from another row of the utterance (KEMDy19
    has two tables a session), or from the utterance before, after which the row's position puts it.

    Parameters
    ----------
    tables : rows as `annotate` gives them, at least one
    """
    import pandas as pd

    numbered = [pd.DataFrame(rows).assign(table=i, position=range(len(rows))) for i, rows in enumerate(tables) if rows]
    rows = pd.concat(numbered, ignore_index=True)
    rows["start"] = pd.to_numeric(rows["start"], errors="coerce")
    rows["end"] = pd.to_numeric(rows["end"], errors="coerce")
    rows["dialogue_number"] = pd.factorize(rows["dialogue"])[0]
    rows["time"] = rows.groupby("Segment ID")["start"].transform("first")
    rows["time"] = rows.groupby(["table", "dialogue"])["time"].ffill()
    order = ["dialogue_number", "time", "position"]
    ordered = rows.sort_values(order, kind="stable", na_position="first")
    return ordered.drop(columns=["table", *order]).reset_index(drop=True)


def rows_of_role(annotation: pd.DataFrame, role: str, problems: list[Problem]) -> pd.DataFrame:
    """The usable rows of `role` of what `Corpus.read_annotation` returned, each id once: the rows of df_<role>.csv.

    An id that occurs several times is kept once if its ratings agree and left out altogether if they do not; either is
    added to `problems`.
    """
    rows = annotation[(annotation["role"] == role) & annotation["usable"]]
    distinct = rows.drop_duplicates([column for column in COLUMNS if column not in ("start", "end", "text")])
    is_conflicting = distinct["Segment ID"].duplicated(keep=False)
    conflicting_ids = set(distinct["Segment ID"][is_conflicting])
    for segment, repeated in rows[rows["Segment ID"].duplicated(keep=False)].groupby("Segment ID", sort=False):
        agreement, done = ("different", "all left out") if segment in conflicting_ids else ("equal", "one kept")
        what = f"{role} rows of one id with {agreement} ratings"
        first, found = repeated.iloc[0], f"{len(repeated)} rows"
        problems.append(Problem(first["file"], int(first["row"]), segment, what, found, done))
    return distinct[~is_conflicting]
