"""Page: the report of experiments: index.html, a single file with all tables and plots, and the files of the tables."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from tqdm import tqdm

from constants import EMOTIONS
from corpora.sessions import parse_sessions
from metric import HEADINGS, confusion_matrix
from reports import plots
from reports.compare import Windows
from reports.dialogues import write_page
from reports.published import unlike_published
from reports.runs import read_windows
from reports.tables import LEGEND, make_table, short_table, write_table
from utils import InputError, count


def write_report(folder: Path, entries: pd.DataFrame, settings: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Write the files of every table, and `index.html` with all of them, into `folder`; returns the tables in short.

    `entries` are of `sweeps.plan.find_planned`; `error` says why a run has not finished. One whose files are damaged is
    listed as missing. `settings` are the options that all runs share; the files of a table name those that are not as
    in `defaults`.
    """
    entries, windows = read_finished(entries)
    runs, sections = entries[entries["folder"].notna()], []
    corpora = describe_corpora(runs)
    changed = ", ".join(f"--{name} {value}" for name, value in settings.items() if value != defaults.get(name, value))
    for _, own in tqdm(entries.groupby("table", sort=False), "report", unit="table", delay=2, leave=False):
        section = make_table(own, windows)
        missing, finished = own[own["folder"].isna()], own[own["folder"].notna()]
        links = [quote(Path(os.path.relpath(run, folder)).as_posix()) for run in finished["folder"]]
        section["notes"] += [f"Settings of all runs that are not main.py's defaults: {changed}."] * bool(changed)
        section["missing"] = [*(missing["label"] + ": " + missing["error"])]
        section["links"] = dict(zip(finished["label"], links, strict=True))
        write_table(folder, section, corpora)
        sections.append(section | show_section(section, finished, windows, folder))
    machines = pd.DataFrame([*runs.drop_duplicates("folder")["environment"]]).items()
    parts = {
        "sections": sections,
        "corpora": corpora,
        "legend": LEGEND,
        "machines": {name: "; ".join(values.dropna().astype(str).unique()) for name, values in machines},
        "n_finished": runs["run_id"].nunique(),
        "n_wanted": entries["run_id"].nunique(),
    }
    write_page(folder / "index.html", "page.html", "sort.js", parts)
    return "\n\n".join(f"{section['title']}\n{short_table(section['numbers'][''])}" for section in sections)


def read_finished(entries: pd.DataFrame) -> tuple[pd.DataFrame, Windows]:
    """The entries, and by folder the windows of each finished run.

    Entries of damaged runs lose their folder; `unlike` of all is then that of `unlike_published`.
    """
    windows, errors = {}, {}
    for folder in entries["folder"].dropna().unique():
        try:
            windows[folder] = read_windows(folder)
        except InputError as error:
            errors[folder] = str(error)
    texts = [errors.get(folder, error) for folder, error in zip(entries["folder"], entries["error"], strict=True)]
    entries = entries.assign(error=texts, folder=entries["folder"].where(~entries["folder"].isin([*errors])))
    unlike = [unlike_published(entry) for _, entry in entries.iterrows()]
    return entries.assign(unlike=unlike), windows


def describe_corpora(runs: pd.DataFrame) -> str:
    """The corpora of finished runs; one that changed between them is there once for each of its tables."""
    texts = []
    for run in runs.drop_duplicates(["data_path", "data_table"]).itertuples():
        kind = "synthetic " if run.data_synthetic == "yes" else ""
        n = f"{int(run.data_utterances):,} utterances"
        texts.append(f"{kind}{run.data_corpus} in {run.data_path}, {n} ({run.data_table})")
    return "; ".join(texts)


# A table on the page


def show_section(section: dict, runs: pd.DataFrame, windows: Windows, folder: Path) -> dict[str, Any]:
    """The confusions and plots of a table's finished `runs` for page.html; plots are also saved as PDFs in `folder`."""
    shown = {"plots": {}, "confusions": {}}
    with matplotlib.rc_context(plots.PLOT_STYLE):
        for role, figure in plot_sizes(section, runs).items():
            title = f"By training sessions, {role}: mean, least and greatest of the runs"
            shown["plots"][title] = plots.svg_url(figure)
            plots.save_figure(figure, folder / f"{section['name']}-{role}.pdf")
    for (role, row), folders in runs.groupby(["role", "row"], sort=False)["folder"]:
        rows = pd.concat([windows[folder] for folder in folders])
        counts = pd.DataFrame(confusion_matrix(rows), index=EMOTIONS, columns=EMOTIONS)
        title = f"{role}, {row}: {len(rows):,} windows of {count(len(folders), 'run')}"
        shown["confusions"][title] = heat_map(counts, counts.div(counts.sum(axis=1).clip(lower=1), axis=0))
    return shown


def plot_sizes(section: dict, runs: pd.DataFrame) -> dict[str, Figure]:
    """By role, the figures of runs with `--train_split` over the number of training sessions."""
    if "train_split" not in runs or runs["train_split"].isna().all():
        return {}
    shown = [name for name in (section["figures"][0], "ccc_arousal", "ccc_valence") if runs[name].notna().any()]
    by_size = runs.set_index(runs["data_train_sessions"].map(lambda text: len(parse_sessions(text))))
    return {
        role: plots.plot_spread({HEADINGS[name]: own[name] for name in shown}, "training sessions")
        for role, own in by_size.groupby("role", sort=False)
    }


def heat_map(values: pd.DataFrame, shades: pd.DataFrame) -> Styler:
    """A table of numbers, each on the darker blue the larger its shade is."""
    styler = Styler(values, precision=3, na_rep="-", uuid=f"{zlib.crc32(values.to_csv().encode())}", cell_ids=False)
    styler = styler.format_index(escape="html").format_index(escape="html", axis="columns")
    styler = styler.background_gradient("Blues", axis=None, gmap=shades)
    return styler.highlight_null(props="background: none; color: inherit")
