"""Tables: the runs of experiments beside the published figures, as CSV, Markdown, LaTeX and a page."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tqdm import tqdm

from constants import ROLES
from corpora.registry import corpus_of
from corpora.sessions import format_sessions
from metric import BATCH_FIGURES, WHOLE_FIGURES
from reports.against import compare_with_baseline
from reports.formats import Summary, format_latex, format_markdown, page_rows
from reports.heat import heat_maps
from reports.page import DrawnTable, Page, Section, draw_table, heading_groups, plotted, write_page
from reports.published import describe_peers, protocols_of, read_published
from reports.runs import (
    Entry,
    Run,
    describe_corpora,
    describe_machines,
    finished,
    group,
    may_show_published,
    read_run,
    whole_corpus,
)
from reports.summary import summarise, summarise_parts
from utils import InputError, atomic_write, one_line

# Of a corpus that is mostly of one emotion, where macro F1 alone says something
IMBALANCED_FIGURES = ("macro_f1", *(name for name in WHOLE_FIGURES if name != "macro_f1"))


def shown_figures(entries: Sequence[Entry], runs: dict[Path, Run]) -> tuple[str, ...]:
    """The figures to show of a table: those over the whole test set first, then those that the paper counts by batch.

    Of an imbalanced corpus macro F1 is first, and those by batch are left out.
    """
    corpora = [corpus_of(segment) for run in finished(entries, runs) for segment in run.ids[:1]]
    is_imbalanced = any(corpus and corpus.imbalanced for corpus in corpora)
    return IMBALANCED_FIGURES if is_imbalanced else (*WHOLE_FIGURES, *BATCH_FIGURES)


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
            figures = shown_figures(wanted, runs)
            notes = describe_peers(theirs, name, [e.row for e in wanted], protocols_of(wanted, runs))
            against = compare_with_baseline(wanted, runs)
            parts = summarise_parts(wanted, runs)
            write_table(folder, Summary(name, title, table, figures, notes, missing, warning, against, parts))
            plots, details = draw_table(wanted, runs, DrawnTable(table, parts, plotted(figures), plot_numbers), bar)
            section = Section(
                title=title,
                groups=heading_groups(table, figures),
                rows=page_rows(table, figures, link_runs(wanted, runs, folder)),
                against=against,
                notes=notes,
                missing=missing,
                heats=heat_maps(wanted, runs, plotted(figures)),
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
    """Write a table as CSV, Markdown and LaTeX.

    `<table>_parts.csv` holds the figures by kind of dialogue and sentence, `<table>_differences.csv` those against the
    table's baseline, if it has one.
    """
    numbers = {summary.name: summary.table}
    if not summary.parts.empty:
        numbers[f"{summary.name}_parts"] = summary.parts
    if summary.against is not None:
        numbers[f"{summary.name}_differences"] = summary.against.numbers
    for name, table in numbers.items():
        with atomic_write(folder / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format="%.6g")
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
