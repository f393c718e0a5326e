"""Formats: the rows of a table in words, as Markdown, as LaTeX, and as the page shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metric import HEADINGS
from utils import one_line

OURS = "Ours: mean ± standard deviation over seeds; in a mean of folds, over folds and seeds."
THEIRS = (
    "In brackets: the published figure (a mean with its standard deviation over folds), and ours minus the published "
    "one."
)
LEGEND = (
    "The best of the rows of a role and test split is marked. Precision, recall and "
    "F1 are computed as in the published program: at 1, for each batch, then averaged over batches. Majority F1 is the "
    "F1 of always answering with the commonest training label."
)


class Summary(NamedTuple):
    """A table of `tables.summarise`, and what is written with it.

    name : of its files
    figures : those to show
    notes : what others published, in words
    missing : the runs that are not in it, in words
    warning : about the corpora of the runs, or ''
    """

    name: str
    title: str
    table: pd.DataFrame
    figures: Sequence[str]
    notes: Sequence[str]
    missing: Sequence[str]
    warning: str


def legend(published: bool) -> str:
    """What the numbers of a table mean, with `published` figures beside ours or without."""
    return " ".join([OURS, *([THEIRS] if published else []), LEGEND])


# Numbers


def format_value(value: float, sd: float = np.nan) -> str:
    """`0.674`, `0.674 ± .012`, or `-` for NaN."""
    if np.isnan(value):
        return "-"
    return f"{value:.3f}" + ("" if np.isnan(sd) else f" ± {sd:.3f}".replace(" 0.", " ."))


def format_difference(value: float) -> str:
    """`+.012`, or `-` for NaN."""
    return "-" if np.isnan(value) else f"{round(value, 3) + 0.0:+.3f}".replace("0.", ".", 1)


def format_cells(row: pd.Series, name: str) -> tuple[str, str, str]:
    """Ours, the published one and the difference of a figure, of one row of `summarise`."""
    ours = format_value(row[name], row[f"{name}_sd"])
    theirs = format_value(row[f"{name}_published"], row[f"{name}_published_sd"])
    return ours, theirs, format_difference(row[f"{name}_diff"])


def format_count(row: pd.Series) -> str:
    """The number of runs, and of how many if some are missing, of one row of `summarise`."""
    return f"{row['runs']}" if row["runs"] == row["wanted"] else f"{row['runs']} of {row['wanted']}"


def best_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Where a table of `tables.summarise` has the best value, as written, of the rows of its role and test split.

    Returns
    -------
    bool, one column for each of `metric.HEADINGS`; False throughout where there is no other row to compare with
    """
    figures = table[[*HEADINGS]].round(3)
    by_group = figures.groupby([table["role"], table["test"]])
    return figures.eq(by_group.transform("max")) & by_group.transform("count").gt(1)


# Markdown and LaTeX


def text_columns(table: pd.DataFrame, figures: Sequence[str], escape: Callable[[str], str], bold: str) -> pd.DataFrame:
    """A table of `tables.summarise` as text.

    Parameters
    ----------
    figures : those to show
    escape : makes text of the format
    bold : the format's way to write the best value in place of `{}`
    """
    columns = table[["role", "row", "test"]].map(escape)
    columns["runs"] = [format_count(row) for _, row in table.iterrows()]
    best = best_rows(table)
    for name in figures:
        cells = []
        for at, row in table.iterrows():
            ours, theirs, diff = map(escape, format_cells(row, name))
            ours = bold.format(ours) if best.loc[at, name] else ours
            cells.append(ours if theirs == "-" else f"{ours} ({theirs}{'' if diff == '-' else ', ' + diff})")
        columns[HEADINGS[name]] = cells
    columns["majority F1"] = table["majority_f1"].map(format_value)
    return columns


def format_markdown(summary: Summary) -> str:
    """A table as Markdown, under the warning about its corpus and above notes and the runs that are missing."""
    lines = [f"> **{escape_markdown(summary.warning)}**", ""] if summary.warning else []
    columns = text_columns(summary.table, summary.figures, escape_markdown, "**{}**")
    text = columns.to_markdown(index=False, disable_numparse=True)
    published = has_published(summary.table, summary.figures)
    lines += [f"# {escape_markdown(summary.title)}", "", text, "", legend(published)]
    lines += [line for note in summary.notes for line in ("", escape_markdown(note))]
    if summary.missing:
        lines += ["", "Runs missing from this table:", "", *(f"- {escape_markdown(line)}" for line in summary.missing)]
    return "\n".join(lines) + "\n"


def format_latex(summary: Summary) -> str:
    """A table as LaTeX, for the packages booktabs and, being wide, graphicx; its label is `tab:<name>`.

    The caption begins with the warning about its corpus and ends with the notes.
    """
    columns = text_columns(summary.table, summary.figures, escape_latex, r"\textbf{{{}}}")
    columns.columns = [escape_latex(heading) for heading in columns.columns]
    meaning = legend(has_published(summary.table, summary.figures))
    sentences = [summary.warning, f"{summary.title}.", meaning, *summary.notes]
    caption = escape_latex(" ".join(filter(None, sentences)))
    text = columns.to_latex(index=False, escape=False, column_format="lll" + "r" * (len(columns.columns) - 3))
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{summary.name}}}",
            "\\resizebox{\\linewidth}{!}{%",
            text.rstrip() + "}",
            "\\end{table}",
            "",
        ]
    )


def has_published(table: pd.DataFrame, figures: Sequence[str]) -> bool:
    """Whether a table of `summarise` has a published one of these figures."""
    return bool(table[[f"{name}_published" for name in figures]].notna().any(axis=None))


def escape_markdown(text: str) -> str:
    """Text that Markdown, and HTML in it, takes literally."""
    return re.sub(r"([\\`*<>|\[\]#])", r"\\\1", one_line(text))


LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"},
        **{"±": r"$\pm$", "[": "{[}", "]": "{]}"},
    }
)


def escape_latex(text: str) -> str:
    """Text that LaTeX takes literally; a minus before a number becomes one of mathematics."""
    return re.sub(r"^-(?=[.\d])", "$-$", one_line(text).translate(LATEX))


# The page


def page_rows(
    table: pd.DataFrame, figures: Sequence[str], links: Mapping[tuple, Sequence[tuple[str, str]]]
) -> list[dict[str, Any]]:
    """The rows of a table of `summarise` by the names that page.html uses.

    Parameters
    ----------
    figures : those to show
    links : name and address of each run's folder, by role, row and test split in words
    """
    best = best_rows(table)
    return [
        {
            "role": row["role"],
            "row": row["row"],
            "test": row["test"],
            "count": format_count(row),
            "links": links.get((row["role"], row["row"], row["test"]), ()),
            "cells": [
                {
                    "texts": format_cells(row, name),
                    "values": [row[name], row[f"{name}_published"], row[f"{name}_diff"]],
                    "best": best.loc[at, name],
                }
                for name in figures
            ],
            "majority_f1": (format_value(row["majority_f1"]), row["majority_f1"]),
        }
        for at, row in table.iterrows()
    ]
