"""Heat maps: the main figures of a grid of two options, each pair of values a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from metric import HEADINGS
from reports.formats import format_value
from reports.runs import Entry, Run, finished, group, values_of


class Cell(NamedTuple):
    """A cell: the figure in words, its place between the lowest (0) and the highest (1), and whether it is the best."""

    text: str
    share: float
    best: bool


class Heat(NamedTuple):
    """A figure of one role over two options.

    down, across : names of the options
    columns : values of `across`
    rows : a value of `down` and its cells
    """

    title: str
    down: str
    across: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


def heat_maps(entries: Sequence[Entry], runs: Mapping[Path, Run], figures: Sequence[str]) -> list[Heat]:
    """A map of each role and each of `figures`; none unless exactly two options vary between a grid's rows.

    The figures are means over seeds, and over folds of the folds' means.

    Parameters
    ----------
    entries : of one table
    runs : those that have finished, by folder
    """
    values: dict[str, list[str]] = {}
    for entry in entries:
        for name, value in entry.options.items():
            if value not in values.setdefault(name, []):
                values[name].append(value)
    varying = [name for name, found in values.items() if len(found) > 1]
    if len(varying) != 2 or any(entry.options.keys() != values.keys() for entry in entries):
        return []
    down, across = varying
    maps = []
    for (role,), of_role in group(entries, "role").items():
        means: dict[tuple[str, str], pd.Series] = {}
        for of_row in group(of_role, "row").values():
            if finished(of_row, runs):
                by_fold = [
                    values_of(finished(of_fold, runs)).mean() for of_fold in group(of_row, "test_split").values()
                ]
                options = of_row[0].options
                means[options[down], options[across]] = pd.concat(by_fold, axis=1).mean(axis=1)
        for name in figures if means else ():
            found = {place: mean[name] for place, mean in means.items()}
            rows = [(value, make_row(found, [(value, other) for other in values[across]])) for value in values[down]]
            maps.append(Heat(f"{HEADINGS[name]}, {role}", down, across, values[across], rows))
    return maps


def make_row(figures: Mapping[tuple[str, str], float], places: Sequence[tuple[str, str]]) -> list[Cell]:
    """The cells at these places of a map with these figures."""
    low, high = min(figures.values()), max(figures.values())
    cells = []
    for place in places:
        figure = figures.get(place, np.nan)
        share = (figure - low) / (high - low) if high > low and place in figures else 0.0
        best = high > low and round(figure, 3) == round(high, 3)
        cells.append(Cell(format_value(figure), share, best))
    return cells
