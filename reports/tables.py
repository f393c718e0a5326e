"""Tables: the runs of experiments beside the published figures, as CSV, Markdown, LaTeX and a page."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from tqdm import tqdm

from constants import ROLES
from corpora.registry import corpus_of
from corpora.sessions import format_sessions
from metric import BATCH_FIGURES, FIGURES, HEADINGS, OVERALL_FIGURES
from reports.formats import Summary, format_latex, format_markdown, has_published, page_rows
from reports.heat import heat_maps
from reports.page import Page, Section, draw_table, write_page
from reports.runs import (
    Entry,
    Run,
    describe_corpora,
    describe_machines,
    finished,
    group,
    may_show_published,
    read_run,
    values_of,
    whole_corpus,
)
from utils import InputError, atomic_write, one_line

PUBLISHED_FILE = Path(__file__).parent.parent / "data/published.csv"

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


# What is shown of a table


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
    """Write `<table>.csv`, `.md` and `.tex` of every table, and `index.html` with all of them, into `folder`.

    A run whose files are damaged is listed as missing, with the reason. Published figures stand beside ours where all
    runs are of the whole corpus that they are of.

    Parameters
    ----------
    entries : the tables' runs, in the order to show them
    settings : options that all runs share, by name

    Raises
    ------
    InputError : `folder` cannot be written to
    """
    folders = dict.fromkeys(entry.folder for entry in entries if entry.folder is not None)
    n_steps = len(folders) + len(group(entries, "table")) + len(group(entries, "table", "role", "row"))
    with tqdm(total=n_steps, desc="report", unit="step", delay=2, leave=False) as bar:
        runs, errors = read_runs(folders, bar)
        corpora, warning = describe_corpora(runs.values())
        published, made_of = read_published(), {place: whole_corpus(run) for place, run in runs.items()}
        sections, plot_numbers = [], itertools.count(1)
        for (name,), wanted in group(entries, "table").items():
            wanted = sorted(wanted, key=lambda entry: ROLES.index(entry.role))
            of_table = {made_of[entry.folder] for entry in wanted if entry.folder in runs}
            theirs = published
            if not may_show_published(name, of_table, made_of.values(), Path(settings.get("data_path", ""))):
                theirs, wanted = published.iloc[:0], [entry._replace(published=None) for entry in wanted]
            table = summarise(wanted, runs, theirs)
            table["corpus"] = warning or "; ".join(corpora)
            missing = describe_missing(wanted, runs, errors)
            title = f"Table {name}: {wanted[0].title}" if name[0].isdigit() else wanted[0].title
            figures, notes = shown_figures(wanted, runs), describe_peers(theirs, name, [e.row for e in wanted])
            write_table(folder, Summary(name, title, table, figures, notes, missing, warning))
            plots, details = draw_table(wanted, runs, plot_numbers, bar)
            section = Section(
                title=title,
                headings=[HEADINGS[figure] for figure in figures],
                rows=page_rows(table, figures, link_runs(wanted, runs, folder)),
                notes=notes,
                missing=missing,
                published=has_published(table, figures),
                heats=heat_maps(wanted, runs),
                plots=plots,
                details=details,
            )
            sections.append(section)
    page = Page(
        warning=warning,
        corpora=corpora,
        settings=settings,
        machines=describe_machines(runs.values()),
        n_wanted=len({entry.run_id for entry in entries}),
        n_finished=len({entry.run_id for entry in entries if entry.folder in runs}),
        sections=sections,
    )
    write_page(folder / "index.html", page)


def write_table(folder: Path, summary: Summary) -> None:
    """Write a table as CSV, Markdown and LaTeX."""
    with atomic_write(folder / f"{summary.name}.csv") as file:
        summary.table.to_csv(file, index=False, float_format="%.6g")
    with atomic_write(folder / f"{summary.name}.md") as file:
        file.write(format_markdown(summary))
    with atomic_write(folder / f"{summary.name}.tex") as file:
        file.write(format_latex(summary))


def link_runs(entries: Sequence[Entry], runs: dict[Path, Run], folder: Path) -> dict[tuple, list[tuple[str, str]]]:
    """Name and address, relative to `folder`, of each finished run's folder, by role, row and test split in words."""
    links: dict[tuple, list[tuple[str, str]]] = {}
    for entry in entries:
        if entry.folder in runs:
            address = (
                quote(Path(os.path.relpath(entry.folder, folder)).as_posix().encode(errors="surrogateescape")) + "/"
            )
            place = entry.role, entry.row, format_sessions(entry.test_split)
            links.setdefault(place, []).append((f"seed {entry.seed}", address))
    return links


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
