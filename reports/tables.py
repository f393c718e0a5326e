"""Tables: the runs of experiments beside the published figures, as CSV, Markdown and a page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from constants import ROLES
from corpora.registry import corpus_of
from corpora.sessions import format_sessions
from metric import BATCH_FIGURES, FIGURES, HEADINGS, OVERALL_FIGURES
from reports.page import Page, Section, draw_table, write_page
from reports.runs import (
    Entry,
    Run,
    describe_corpora,
    describe_machines,
    finished,
    group,
    read_run,
    values_of,
)
from utils import InputError, atomic_write, one_line

PUBLISHED_FILE = Path(__file__).parent.parent / "data/published.csv"
LEGEND = (
    "Ours: mean ± standard deviation over seeds; in a mean of folds, over folds and seeds. In brackets: the published "
    "figure (a mean with its standard deviation over folds), and ours minus the published one. Precision, recall and "
    "F1 are computed as in the published program: at 1, for each batch, then averaged over batches. Majority F1 is the "
    "F1 of always answering with the commonest training label."
)

KNOWN = (*FIGURES, *OVERALL_FIGURES)  # what is published, and what the CSV files hold
# Of a corpus that is mostly of one emotion, where macro F1 alone says something
IMBALANCED_FIGURES = (*OVERALL_FIGURES, "ccc_arousal", "ccc_valence")


# Published figures


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


# A table's rows


def summarise(entries: Sequence[Entry], runs: dict[Path, Run], published: pd.DataFrame) -> pd.DataFrame:
    """A table's rows: one per role, configuration and test split, and the mean of several test splits.

    Parameters
    ----------
    entries : of one table
    runs : those that have finished, by folder
    published : of `read_published`

    Returns
    -------
    DataFrame with `role`, `row`, `test`, `folds`, `runs`, `wanted`, `majority_f1`, and of each of `KNOWN`: its
    mean over seeds (of several folds: mean of the folds' means), `_sd` the sample standard deviation over seeds (of
    several folds: over all runs), `_published`, `_published_sd` (over folds), and `_diff`, ours less the published one
    if no fold is missing. What is not known is NaN.
    """
    rows = []
    for (table, role, label), of_row in group(entries, "table", "role", "row").items():
        folds = [of_fold for _, of_fold in group(of_row, "test_split").items()]
        named = {"role": role, "row": label}
        rows += [named | summarise_fold(of_fold, runs) for of_fold in folds]
        if len(folds) > 1:
            sessions = {session for of_fold in folds for session in of_fold[0].test_split}
            published_mean = find_published(published, table, label, role, sessions)
            rows.append(named | summarise_folds(folds, runs, published_mean))
    return pd.DataFrame(rows)


def summarise_fold(entries: Sequence[Entry], runs: dict[Path, Run]) -> dict[str, Any]:
    """The columns of one test split, whose entries differ in their seeds."""
    ours = values_of(finished(entries, runs))
    counts = {"test": format_sessions(entries[0].test_split), "folds": 1, "runs": len(ours), "wanted": len(entries)}
    return counts | row_figures(ours.mean(), ours.std(), published_values(entries))


def summarise_folds(
    folds: Sequence[Sequence[Entry]], runs: dict[Path, Run], published_mean: dict[str, float] | None
) -> dict[str, Any]:
    """The columns of a mean over test splits; `published_mean` of the row if only its mean was published."""
    all_runs = values_of([run for of_fold in folds for run in finished(of_fold, runs)])
    by_fold = [values_of(finished(of_fold, runs)) for of_fold in folds]
    finished_folds = [values for values in by_fold if len(values)]
    means = pd.DataFrame([values.mean() for values in finished_folds], columns=all_runs.columns, dtype=float)
    complete = len(finished_folds) == len(folds)
    n_folds = f"{len(folds)}" if complete else f"{len(finished_folds)} of {len(folds)}"
    counts = {
        "test": f"mean of {n_folds} folds",
        "folds": len(finished_folds),
        "runs": len(all_runs),
        "wanted": sum(len(of_fold) for of_fold in folds),
    }
    theirs = pd.DataFrame([published_values(of_fold) for of_fold in folds])
    mean = pd.Series(published_mean, dtype=float) if published_mean else theirs.mean(skipna=False)
    figures = row_figures(means.mean(), all_runs.std(), mean, theirs.std(skipna=False), complete)
    return counts | figures


def published_values(entries: Sequence[Entry]) -> pd.Series:
    """The published figures of entries that differ in their seeds; NaN where there are none."""
    return pd.Series(entries[0].published or {}, index=KNOWN, dtype=float)


def row_figures(
    mean: pd.Series,
    sd: pd.Series,
    published: pd.Series,
    published_sd: pd.Series | None = None,
    comparable: bool = True,
) -> dict[str, float]:
    """The columns of one row of `summarise` that hold figures."""
    columns = {}
    for name in KNOWN:
        columns[name], columns[f"{name}_sd"] = mean[name], sd[name]
        columns[f"{name}_published"] = published.get(name, np.nan)
        columns[f"{name}_published_sd"] = np.nan if published_sd is None else published_sd[name]
        columns[f"{name}_diff"] = mean[name] - columns[f"{name}_published"] if comparable else np.nan
    return columns | {"majority_f1": mean["majority_f1"]}


# In words


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


def format_markdown(
    title: str, table: pd.DataFrame, figures: Sequence[str], notes: Sequence[str], missing: Sequence[str], warning: str
) -> str:
    """A table of `summarise` as Markdown, under the warning about its corpus and above notes and missing runs."""
    columns = table[["role", "row", "test"]].map(escape_markdown)
    columns["runs"] = [format_count(row) for _, row in table.iterrows()]
    for name in figures:
        cells = [format_cells(row, name) for _, row in table.iterrows()]
        columns[HEADINGS[name]] = [
            ours if theirs == "-" else f"{ours} ({theirs}{'' if diff == '-' else ', ' + diff})"
            for ours, theirs, diff in cells
        ]
    columns["majority F1"] = table["majority_f1"].map(format_value)
    lines = [f"> **{escape_markdown(warning)}**", ""] if warning else []
    lines += [f"# {escape_markdown(title)}", "", columns.to_markdown(index=False, disable_numparse=True), "", LEGEND]
    lines += [line for note in notes for line in ("", escape_markdown(note))]
    if missing:
        lines += ["", "Runs missing from this table:", "", *(f"- {escape_markdown(line)}" for line in missing)]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown, and HTML in it, takes literally."""
    return re.sub(r"([\\`*<>|\[\]#])", r"\\\1", one_line(text))


def page_rows(table: pd.DataFrame, figures: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table of `summarise` by the names that page.html uses."""
    return [
        {
            "role": row["role"],
            "row": row["row"],
            "test": row["test"],
            "count": format_count(row),
            "cells": [format_cells(row, name) for name in figures],
            "majority_f1": format_value(row["majority_f1"]),
        }
        for _, row in table.iterrows()
    ]


def shown_figures(entries: Sequence[Entry], runs: dict[Path, Run]) -> tuple[str, ...]:
    """The figures to show of a table: macro F1 first where its runs were tested on an imbalanced corpus."""
    corpora = [corpus_of(segment) for run in finished(entries, runs) for segment in run.ids[:1]]
    return IMBALANCED_FIGURES if any(corpus and corpus.imbalanced for corpus in corpora) else FIGURES


def describe_peers(published: pd.DataFrame, table: str, rows: Sequence[str]) -> list[str]:
    """One line for every published row of a table that is none of its configurations: figures and protocol."""
    lines = []
    for _, row in published[(published["table"] == table) & ~published["row"].isin(rows)].iterrows():
        figures = ", ".join(f"{HEADINGS[name]} {row[name]:.3f}" for name in KNOWN if not np.isnan(row[name]))
        lines.append(f"{row['row']}: {figures}; {row['protocol']}.")
    return lines


# The report


def write_report(folder: Path, entries: Sequence[Entry], settings: dict[str, Any]) -> None:
    """Write `<table>.csv`, `<table>.md` of every table, and `index.html` with all of them, into `folder`.

    A run whose files are damaged is listed as missing, with the reason.

    Parameters
    ----------
    entries : the tables' runs, in the order to show them
    settings : options that all runs share, by name

    Raises
    ------
    InputError : `folder` cannot be written to
    """
    tables = group(entries, "table")
    folders = dict.fromkeys(entry.folder for entry in entries if entry.folder is not None)
    n_steps = len(folders) + len(tables) + len(group(entries, "table", "role", "row"))
    with tqdm(total=n_steps, desc="report", unit="step", delay=2, leave=False) as bar:
        runs, errors = read_runs(folders, bar)
        corpora, warning = describe_corpora(runs.values())
        published, sections, plot_numbers = read_published(), [], itertools.count(1)
        for (name,), wanted in tables.items():
            wanted = sorted(wanted, key=lambda entry: ROLES.index(entry.role))
            table = summarise(wanted, runs, published)
            table["corpus"] = warning or "; ".join(corpora)
            missing = describe_missing(wanted, runs, errors)
            title = f"Table {name}: {wanted[0].title}" if name[0].isdigit() else wanted[0].title
            figures, notes = shown_figures(wanted, runs), describe_peers(published, name, [e.row for e in wanted])
            with atomic_write(folder / f"{name}.csv") as file:
                table.to_csv(file, index=False, float_format="%.6g")
            with atomic_write(folder / f"{name}.md") as file:
                file.write(format_markdown(title, table, figures, notes, missing, warning))
            has_published = any(entry.published for entry in wanted)
            plots, details = draw_table(wanted, runs, plot_numbers, bar)
            headings = [HEADINGS[figure] for figure in figures]
            rows = page_rows(table, figures)
            sections.append(Section(title, headings, rows, notes, missing, has_published, plots, details))
    page = Page(
        warning=warning,
        corpora=corpora,
        settings=settings,
        machines=describe_machines(runs.values()),
        n_entries=len(entries),
        n_missing=sum(entry.folder not in runs for entry in entries),
        n_runs=len(runs),
        sections=sections,
    )
    write_page(folder / "index.html", page)


def read_runs(folders: Iterable[Path], bar: tqdm) -> tuple[dict[Path, Run], dict[Path, str]]:
    """The runs in these folders, and for those that are damaged the reason, both by folder; `bar` counts them."""
    runs, errors = {}, {}
    for folder in folders:
        try:
            runs[folder] = read_run(folder)
        except InputError as error:
            errors[folder] = str(error)
        bar.update()
    return runs, errors


def describe_missing(entries: Sequence[Entry], runs: dict[Path, Run], errors: dict[Path, str]) -> list[str]:
    """One line for every entry that has no run: which it is, and why."""
    return [
        f"{entry.role}, {entry.row}, sessions {format_sessions(entry.test_split)}, seed {entry.seed}: "
        + one_line(errors.get(entry.folder) or entry.error or "not started")
        for entry in entries
        if entry.folder not in runs
    ]
