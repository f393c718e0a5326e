"""Page: the report of experiments: index.html, a single file with all tables and plots, and the files of the tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib
import pandas as pd
from tqdm import tqdm

from corpora.sessions import parse_sessions
from metric import HEADINGS
from reports.compare import Windows
from reports.dialogues import write_page
from reports.groups import MIN_DIALOGUES, MIN_WINDOWS
from reports.plots import PLOT_STYLE, plot_spread, save_figure, svg_url
from reports.published import unlike_published
from reports.runs import read_windows
from reports.tables import LEGEND, make_table, short_table, write_table
from utils import InputError


def write_report(folder: Path, entries: pd.DataFrame, settings: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Write the files of every table, and `index.html` with all tables, into `folder`; returns short tables.

    `entries` are of `sweeps.plan.find_planned`; `error` is why a run has not finished. A run whose files are damaged is
    listed as missing. `settings` are the options that all runs share; the files of a table list those that differ from
    `defaults`.
    """
    entries, windows = read_finished(entries)
    runs, sections = entries[entries["folder"].notna()], []
    corpora = describe_corpora(runs)
    changed = ", ".join(f"--{name} {value}" for name, value in settings.items() if value != defaults.get(name, value))
    for _, own in tqdm(entries.groupby("table", sort=False), "report", unit="table", delay=2, leave=False):
        section = make_table(own, windows)
        missing, finished = own[own["folder"].isna()], own[own["folder"].notna()]
        links = [quote(Path(os.path.relpath(run, folder)).as_posix()) for run in finished["folder"]]
        section["notes"] += [f"Options of all runs that differ from main.py's defaults: {changed}."] * bool(changed)
        section["missing"] = [*(missing["label"] + ": " + missing["error"])]
        section["links"] = dict(zip(finished["label"], links, strict=True))
        section["plots"] = plot_sizes(section, finished, folder)
        write_table(folder, section, corpora)
        sections.append(section)
    machines = pd.DataFrame([*runs.drop_duplicates("folder")["environment"]]).items()
    parts = {
        "sections": sections,
        "corpora": corpora,
        "legend": LEGEND,
        "machines": {name: "; ".join(values.dropna().astype(str).unique()) for name, values in machines},
        "n_finished": runs["run_id"].nunique(),
        "n_wanted": entries["run_id"].nunique(),
        "min_windows": MIN_WINDOWS,
        "min_dialogues": MIN_DIALOGUES,
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
    damaged = entries["folder"].map(errors).astype(object)
    entries = entries.assign(error=damaged.fillna(entries["error"]), folder=entries["folder"].where(damaged.isna()))
    unlike = [unlike_published(entry) for _, entry in entries.iterrows()]
    return entries.assign(unlike=unlike), windows


def describe_corpora(runs: pd.DataFrame) -> str:
    """The corpora of finished runs; a corpus that changed between runs is listed once for each of its tables."""
    texts = []
    for run in runs.drop_duplicates(["data_path", "data_table"]).itertuples():
        kind = "synthetic " if run.data_synthetic == "yes" else ""
        n = f"{int(run.data_utterances):,} utterances"
        texts.append(f"{kind}{run.data_corpus} in {run.data_path}, {n} ({run.data_table[:19]})")
    return "; ".join(texts)


def plot_sizes(section: dict, runs: pd.DataFrame, folder: Path) -> dict[str, str]:
    """The figures of runs with `--train_split` over the number of training sessions: URLs of plots by their titles.

    There is one for each role; it is also saved as a PDF in `folder`.
    """
    if "train_split" not in runs or runs["train_split"].isna().all():
        return {}
    shown = [name for name in (section["figures"][0], "ccc_arousal", "ccc_valence") if runs[name].notna().any()]
    by_size, urls = runs.set_index(runs["data_train_sessions"].map(lambda text: len(parse_sessions(text)))), {}
    with matplotlib.rc_context(PLOT_STYLE):
        for role, own in by_size.groupby("role", sort=False):
            figure = plot_spread({HEADINGS[name]: own[name] for name in shown}, "training sessions")
            save_figure(figure, folder / f"{section['name']}-{role}.pdf")
            urls[f"By training sessions, {role}: mean, lowest and highest run"] = svg_url(figure)
    return urls
