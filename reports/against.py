"""Against: what each row of a table differs from the row that all are compared with, as `compare` computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from metric import HEADINGS, WHOLE_FIGURES
from reports.comparison import compute_comparison, within_seeds
from reports.formats import format_difference, format_spread
from reports.pairs import Pair, make_fold, windows_table
from reports.runs import Entry, Run, group
from utils import InputError, count, one_line

RESAMPLES = 1_999
MEANING = (
    "Difference of each row from {baseline}, on the folds and seeds that both have: 95% interval over dialogues, which "
    "are resampled within each fold, and standard deviation over seeds of the mean over folds. Within: the difference "
    "is no larger than that deviation, so that it may be one of the seeds alone. Bold: the interval does not hold 0, "
    "and the difference is not within the spread over seeds."
)


class Cell(NamedTuple):
    """A difference in words: itself, its interval, its spread over seeds, and whether neither holds 0.

    The spread says `within` where it is no smaller than the difference.
    """

    difference: str
    interval: str
    seeds: str
    differs: bool


class Row(NamedTuple):
    """The differences of a role's row: of what it was computed, and a cell for each of `WHOLE_FIGURES`."""

    role: str
    row: str
    counts: str
    cells: list[Cell]


class Against(NamedTuple):
    """The differences of a table's rows from its `baseline`.

    headings : of `WHOLE_FIGURES`
    meaning : of the numbers, in words
    notes : which differences could not be computed, and why
    numbers : one row for each role, row and figure, for the CSV file
    """

    baseline: str
    headings: list[str]
    rows: list[Row]
    meaning: str
    notes: list[str]
    numbers: pd.DataFrame


def compare_with_baseline(entries: Sequence[Entry], runs: Mapping[Path, Run]) -> Against | None:
    """The differences, on the folds and seeds that both rows have; None of a table without a baseline.

    Parameters
    ----------
    entries : of one table
    runs : those that have finished, by folder
    """
    baseline = entries[0].baseline
    if baseline is None:
        return None
    found = {entry.folder: runs[entry.folder] for entry in entries if entry.folder in runs}
    windows = {
        folder: windows_table(run.ids, run.arrays).sort_index() for folder, run in found.items() if run.has_dialogues
    }
    rows, notes, numbers = [], [], []
    for (role,), of_role in group(entries, "role").items():
        base = {(entry.test_split, entry.seed): entry.folder for entry in of_role if entry.row == baseline}
        for (label,), of_row in group([entry for entry in of_role if entry.row != baseline], "row").items():
            pairs = [
                Pair(role, entry.test_split, entry.seed, base[entry.test_split, entry.seed], entry.folder)
                for entry in of_row
                if base.get((entry.test_split, entry.seed)) in windows and entry.folder in windows
            ]
            if not pairs:
                notes.append(f"{role}, {label}: no fold and seed of it and of {baseline} has finished.")
                continue
            try:
                folds = [make_fold(of_fold, windows) for of_fold in group(pairs, "fold").values()]
            except InputError as error:
                notes.append(f"{role}, {label}: {one_line(error)}.")
                continue
            compared = compute_comparison(folds, RESAMPLES, seed=0)
            found, mean = compared.intervals.loc[[*WHOLE_FIGURES]], compared.figures.iloc[-1]
            n_seeds = max(len(fold.seeds) for fold in folds)
            counts = f"{count(len(folds), 'fold')}, {count(n_seeds, 'seed')}, {count(mean['dialogues'], 'dialogue')}"
            rows.append(Row(role, label, counts, [make_cell(row) for _, row in found.iterrows()]))
            numbers.append(found.rename_axis("figure").reset_index().assign(role=role, row=label))
    headings = [HEADINGS[name] for name in WHOLE_FIGURES]
    table = pd.concat(numbers) if numbers else pd.DataFrame()
    return Against(baseline, headings, rows, MEANING.format(baseline=baseline), notes, table)


def make_cell(of_figure: pd.Series) -> Cell:
    """The cell of one row of `Comparison.intervals`."""
    low, high = of_figure["low"], of_figure["high"]
    interval = "" if np.isnan(low) else f"{format_difference(low)} to {format_difference(high)}"
    within = within_seeds(of_figure)
    seeds = f"{format_spread(of_figure['sd'])} seeds" if of_figure["seeds"] > 1 else "one seed"
    return Cell(
        difference=format_difference(of_figure["difference"]),
        interval=interval,
        seeds=f"{seeds}, within" if within else seeds,
        differs=bool(interval) and not within and not low <= 0 <= high,
    )
