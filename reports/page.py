"""Page: the report of experiments: index.html, a single file with all tables and plots, and the files of the tables."""

from __future__ import annotations

import itertools
import os
import re
import zlib
from collections.abc import Sequence
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
from reports.published import PUBLISHED_CORPUS, other_encoder, published_beside, whole_corpus
from reports.runs import read_validation, read_windows
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
    corpora, warning = describe_corpora(runs)
    changed = ", ".join(f"--{name} {value}" for name, value in settings.items() if value != defaults.get(name, value))
    for name, own in tqdm(entries.groupby("table", sort=False), "report", unit="table", delay=2, leave=False):
        section = make_table(own, windows, published_beside(name, runs))
        missing, finished = own[own["folder"].isna()], own[own["folder"].notna()]
        links = [quote(Path(os.path.relpath(run, folder)).as_posix()) for run in finished["folder"]]
        section["notes"] += [f"Settings of all runs that are not main.py's defaults: {changed}."] * bool(changed)
        section["missing"] = [*(missing["label"] + ": " + missing["error"])]
        section["links"] = dict(zip(finished["label"], links, strict=True))
        write_table(folder, section, corpora, warning)
        sections.append(section | show_section(section, own, windows, folder))
    machines = pd.DataFrame([*runs.drop_duplicates("folder")["environment"]]).items()
    parts = {
        "sections": sections,
        "corpora": corpora,
        "warning": warning,
        "legend": LEGEND,
        "machines": {name: "; ".join(values.dropna().astype(str).unique()) for name, values in machines},
        "settings": {name: value for name, value in settings.items() if value not in (None, False)},
        "n_finished": runs["run_id"].nunique(),
        "n_wanted": entries["run_id"].nunique(),
        "published_corpus": PUBLISHED_CORPUS,
    }
    write_page(folder / "index.html", "page.html", "sort.js", parts)
    return "\n\n".join(f"{section['title']}\n{short_table(section['numbers'][''])}" for section in sections)


def read_finished(entries: pd.DataFrame) -> tuple[pd.DataFrame, Windows]:
    """The entries, and by folder the windows of each finished run.

    Entries of damaged runs lose their folder. All get a `label`, and the `whole_corpus` that a run was made from.
    """
    windows, errors = {}, {}
    for folder in entries["folder"].dropna().unique():
        try:
            windows[folder] = read_windows(folder)
        except InputError as error:
            errors[folder] = str(error)
    texts = [errors.get(folder, error) for folder, error in zip(entries["folder"], entries["error"], strict=True)]
    entries = entries.assign(error=texts, folder=entries["folder"].where(~entries["folder"].isin([*errors])))
    known = [whole_corpus(row) if row["folder"] in windows else None for _, row in entries.iterrows()]
    unlike = [row["unlike"] or other_encoder(row) for _, row in entries.iterrows()]
    labels = [f"{e.role}, {e.row}, sessions {e.test}, seed {e.seed}" for e in entries.itertuples()]
    return entries.assign(whole_corpus=known, label=labels, unlike=unlike), windows


def describe_corpora(runs: pd.DataFrame) -> tuple[str, str]:
    """The corpora of finished runs, and a warning if they are not the published one or changed between runs."""
    each = runs.drop_duplicates(["data_path", "data_utterances", "SorL"]).itertuples()
    each = (
        f"{run.data_corpus} in {run.data_path}, {int(run.data_utterances):,} utterances ({run.SorL})" for run in each
    )
    corpora = "; ".join(each)
    warning = ""
    if runs["whole_corpus"].isna().any():
        warning = f"Not {PUBLISHED_CORPUS}: made from {corpora}. Do not compare these figures with published ones. "
    if runs.groupby("SorL")["data_table"].nunique().gt(1).any():
        warning += "The corpus changed between the runs: their figures cannot be compared."
    return corpora, warning.strip()


# A table on the page


def show_section(section: dict, entries: pd.DataFrame, windows: Windows, folder: Path) -> dict[str, Any]:
    """What page.html shows of a table beside what `make_table` returns; plots are also saved as PDFs in `folder`."""
    runs = entries[entries["folder"].notna()]
    figures = (section["figures"][0], "ccc_arousal", "ccc_valence", "F1")
    figures = [name for name in figures if entries[name].notna().any() or name[:3] != "ccc"]
    table = section["numbers"][""]
    shown = {"maps": heat_maps(table, figures), "plots": {}, "confusions": {}}
    with matplotlib.rc_context(plots.PLOT_STYLE):
        drawn = {
            f"{HEADINGS[name]} of every run": plots.plot_figures(name, table, runs) for name in figures if len(runs)
        }
        for title, figure in (drawn | draw_spreads(runs, figures)).items():
            shown["plots"][title] = plots.svg_url(figure)
            name = re.sub(r"[^\w.]+", "-", f"{section['name']} {title}")[:100]
            plots.save_figure(figure, folder / f"{name}.pdf")
    for (role, row), folders in runs.groupby(["role", "row"], sort=False)["folder"]:
        rows = pd.concat([windows[folder] for folder in folders])
        counts = pd.DataFrame(confusion_matrix(rows), index=EMOTIONS, columns=EMOTIONS)
        title = f"{role}, {row}: {len(rows):,} windows of {count(len(folders), 'run')}"
        shown["confusions"][title] = heat_map(counts, counts.div(counts.sum(axis=1).clip(lower=1), axis=0))
    return shown


def draw_spreads(runs: pd.DataFrame, figures: Sequence[str]) -> dict[str, Figure]:
    """Each row's validation by epoch; of rows with `--train_split` the figures by the number of training sessions."""
    drawn = {}
    for (role, row), folders in runs.groupby(["role", "row"], sort=False)["folder"]:
        histories = [history for history in map(read_validation, folders) if len(history)]
        if histories:
            values = pd.concat(histories).rename(columns={"valid_loss": "validation loss", "valid_f1": "validation F1"})
            title = f"Validation, {role}, {row}: mean, least and greatest of {count(len(histories), 'run')}"
            drawn[title] = plots.plot_spread(dict(values.items()), "epoch")
    if "train_split" in runs and runs["train_split"].notna().any():
        sizes = runs["data_train_sessions"].map(lambda text: len(parse_sessions(text)))
        for role, own in runs.set_index(sizes).groupby("role", sort=False):
            panels = {HEADINGS[name]: own[name] for name in figures}
            title = f"By training sessions, {role}: mean, least and greatest of the runs"
            drawn[title] = plots.plot_spread(panels, "training sessions")
    return drawn


def heat_map(values: pd.DataFrame, shades: pd.DataFrame) -> Styler:
    """A table of numbers, each on the darker blue the larger its shade is."""
    styler = Styler(values, precision=3, na_rep="-", uuid=f"{zlib.crc32(values.to_csv().encode())}", cell_ids=False)
    styler = styler.format_index(escape="html").format_index(escape="html", axis="columns")
    styler = styler.background_gradient("Blues", axis=None, gmap=shades)
    return styler.highlight_null(props="background: none; color: inherit")


def heat_maps(table: pd.DataFrame, figures: Sequence[str]) -> dict[str, Styler]:
    """A map, by its title, of each role and figure of a grid in which two options vary; means over folds and seeds."""
    rows, maps = table.drop_duplicates(["role", "row"], keep="last"), {}  # the last one is the mean of the folds
    grid = pd.DataFrame([dict(re.findall(r"(\S+?)=(\S*)", row)) for row in rows["row"]], rows.index)  # lam=0.5 ...
    varying = [name for name in grid if grid[name].nunique() > 1]
    if len(varying) != 2:
        return maps
    down, across = varying
    for (role, own), name in itertools.product(rows.join(grid[varying]).groupby("role", sort=False), figures):
        means = own.pivot(index=down, columns=across, values=name).rename_axis(index=None, columns=None)
        means = means.reindex(index=own[down].unique(), columns=own[across].unique())
        if means.notna().any(axis=None):
            title = f"{HEADINGS[name]}, {role}: {down} (down), {across} (across)"
            maps[title] = heat_map(means, means).highlight_max(axis=None, props="font-weight: bold; outline: 2px solid")
    return maps
