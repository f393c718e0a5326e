"""Formats: the rows of a table in words, as Markdown, as LaTeX, and as the page shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from metric import HEADINGS, WHOLE_FIGURES
from utils import one_line

if TYPE_CHECKING:
    from reports.against import Against

OURS = (
    "Ours: mean ± standard deviation over seeds; in a mean of folds, ± that of the folds' mean over seeds, and ± that "
    "of the folds. Windows: tested ones, in brackets those with one majority label, which weighted F1, macro F1 and "
    "accuracy are over."
)
THEIRS = (
    "In brackets: the published figure (a mean with its standard deviation over folds), and ours minus the published "
    "one."
)
INTERVALS = (
    "In square brackets: 95% interval over dialogues, which are resampled within each fold; figures by batch have none."
)
LEGEND = (
    "The best of the rows of a role and test split is marked. Precision, recall and F1 are as the paper counts: at 1, "
    "for each batch, then averaged over batches. Majority F1 is the F1 of always answering with the commonest training "
    "label, counted likewise."
)


class Summary(NamedTuple):
    """A table of `tables.summarise`, and what is written with it.

    name : of its files
    figures : those to show
    notes : what others published, in words
    missing : the runs that are not in it, in words
    warning : about the corpora of the runs, or ''
    against : its rows' differences from one of them, None of a table without such a row
    parts : of `summary.summarise_parts`
    """

    name: str
    title: str
    table: pd.DataFrame
    figures: Sequence[str]
    notes: Sequence[str]
    missing: Sequence[str]
    warning: str
    against: Against | None
    parts: pd.DataFrame


def legend(published: bool) -> str:
    """What the numbers of a table mean, with `published` figures beside ours or without."""
    return " ".join([OURS, INTERVALS, *([THEIRS] if published else []), LEGEND])


# Numbers


def format_value(value: float, sd: float = np.nan) -> str:
    """`0.674`, `0.674 ± .012`, or `-` for NaN."""
    if np.isnan(value):
        return "-"
    return f"{value:.3f}" + ("" if np.isnan(sd) else f" ± {sd:.3f}".replace(" 0.", " ."))


def format_difference(value: float) -> str:
    """`+.012`, or `-` for NaN."""
    return "-" if np.isnan(value) else f"{round(value, 3) + 0.0:+.3f}".replace("0.", ".", 1)


def format_spread(sd: float) -> str:
    """`± .012`, or `-` for NaN."""
    return "-" if np.isnan(sd) else f"± {sd:.3f}".replace(" 0.", " .")


def format_interval(low: float, high: float) -> str:
    """`.601 to .660`, or '' for NaN."""
    return "" if np.isnan(low) or np.isnan(high) else f"{low:.3f} to {high:.3f}".replace("0.", ".")


class CellTexts(NamedTuple):
    """A figure of a row in words: mean, spreads, interval over dialogues, the published one, and the difference."""

    ours: str
    spread: str
    interval: str
    published: str
    difference: str


def format_cells(row: pd.Series, name: str) -> CellTexts:
    """A figure of one row of `summarise`."""
    seeds, folds = row[f"{name}_sd_seeds"], row[f"{name}_sd_folds"]
    spread = "" if np.isnan(seeds) else format_spread(seeds)
    if row["test"].startswith("mean"):
        spreads = [(seeds, "seeds"), (folds, "folds")]
        spread = ", ".join(f"{format_spread(sd)} {what}" for sd, what in spreads if not np.isnan(sd))
    has_interval = name in WHOLE_FIGURES and row["runs"] > 0
    return CellTexts(
        ours=format_value(row[name]),
        spread=spread,
        interval=format_interval(row[f"{name}_low"], row[f"{name}_high"]) if has_interval else "",
        published=format_value(row[f"{name}_published"], row[f"{name}_published_sd"]),
        difference=format_difference(row[f"{name}_diff"]),
    )


def format_windows(row: pd.Series) -> str:
    """`2,055 (1,842)`: tested windows of one row of `summarise`, and those with a single label."""
    return "-" if np.isnan(row["windows"]) else f"{row['windows']:,.0f} ({row['single_label']:,.0f})"


def format_dialogues(row: pd.Series) -> str:
    """The number of dialogues of one row of `summarise`."""
    return "-" if np.isnan(row["dialogues"]) else f"{row['dialogues']:,.0f}"


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
    for name, format_it in {"runs": format_count, "windows": format_windows, "dialogues": format_dialogues}.items():
        columns[name] = [format_it(row) for _, row in table.iterrows()]
    best = best_rows(table)
    for name in figures:
        cells = []
        for at, row in table.iterrows():
            texts = format_cells(row, name)
            mean, theirs, diff = map(escape, (texts.ours, texts.published, texts.difference))
            parts = [bold.format(mean) if best.loc[at, name] else mean, escape(texts.spread)]
            parts.append(escape(f"[{texts.interval}]") if texts.interval else "")
            parts.append("" if theirs == "-" else f"({theirs}{'' if diff == '-' else ', ' + diff})")
            cells.append(" ".join(filter(None, parts)))
        columns[HEADINGS[name]] = cells
    columns["majority F1"] = table["majority_f1"].map(format_value)
    return columns


def difference_columns(against: Against, escape: Callable[[str], str], bold: str) -> pd.DataFrame:
    """The rows of `against.compare_with_baseline` as text; the rest as in `text_columns`."""
    rows = []
    for row in against.rows:
        cells = []
        for cell in row.cells:
            difference = escape(cell.difference)
            parts = [bold.format(difference) if cell.differs else difference]
            parts += [escape(f"[{cell.interval}]") if cell.interval else "", escape(cell.seeds)]
            cells.append(" ".join(filter(None, parts)))
        rows.append([escape(row.role), escape(row.row), escape(row.counts), *cells])
    return pd.DataFrame(rows, columns=["role", "row", "of", *against.headings])


def format_markdown(summary: Summary) -> str:
    """A table as Markdown, under the warning about its corpus and above notes and the runs that are missing."""
    lines = [f"> **{escape_markdown(summary.warning)}**", ""] if summary.warning else []
    columns = text_columns(summary.table, summary.figures, escape_markdown, "**{}**")
    text = columns.to_markdown(index=False, disable_numparse=True)
    published = has_published(summary.table, summary.figures)
    lines += [f"# {escape_markdown(summary.title)}", "", text, "", legend(published)]
    if (against := summary.against) and against.rows:
        differences = difference_columns(against, escape_markdown, "**{}**")
        text = differences.to_markdown(index=False, disable_numparse=True)
        lines += ["", f"## Against {escape_markdown(against.baseline)}", "", text, "", against.meaning]
    notes = [*(against.notes if against else ()), *summary.notes]
    lines += [line for note in notes for line in ("", escape_markdown(note))]
    if summary.missing:
        lines += ["", "Runs missing from this table:", "", *(f"- {escape_markdown(line)}" for line in summary.missing)]
    return "\n".join(lines) + "\n"


def format_latex(summary: Summary) -> str:
    """A table as LaTeX, for the packages booktabs and, being wide, graphicx; its label is `tab:<name>`.

    The caption begins with the warning about its corpus and ends with the notes.
    """
    meaning = legend(has_published(summary.table, summary.figures))
    columns = text_columns(summary.table, summary.figures, escape_latex, r"\textbf{{{}}}")
    sentences = [summary.warning, f"{summary.title}.", meaning, *summary.notes]
    text = "% needs \\usepackage{booktabs,graphicx}\n" + latex_table(columns, sentences, summary.name)
    if (against := summary.against) and against.rows:
        columns = difference_columns(against, escape_latex, r"\textbf{{{}}}")
        sentences = [summary.warning, f"{summary.title}.", against.meaning, *against.notes]
        text += "\n" + latex_table(columns, sentences, f"{summary.name}-against")
    return text


def latex_table(columns: pd.DataFrame, sentences: Sequence[str], label: str) -> str:
    """Columns of LaTeX under a caption of these sentences; the first three are words."""
    columns.columns = [escape_latex(heading) for heading in columns.columns]
    text = columns.to_latex(index=False, escape=False, column_format="lll" + "r" * (len(columns.columns) - 3))
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{escape_latex(' '.join(filter(None, sentences)))}}}",
            f"\\label{{tab:{label}}}",
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
    beside = {name for name in figures if has_published(table, [name])}
    return [
        {
            "role": row["role"],
            "row": row["row"],
            "test": row["test"],
            "windows": (format_windows(row), row["windows"]),
            "dialogues": format_dialogues(row),
            "count": format_count(row),
            "links": links.get((row["role"], row["row"], row["test"]), ()),
            "cells": [
                {
                    "texts": format_cells(row, name),
                    "values": [row[name], row[f"{name}_published"], row[f"{name}_diff"]],
                    "published": name in beside,
                    "best": best.loc[at, name],
                }
                for name in figures
            ],
            "majority_f1": (format_value(row["majority_f1"]), row["majority_f1"]),
        }
        for at, row in table.iterrows()
    ]
