"""Compare: two rows or runs on the same test windows: differences, and their intervals over dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

import metric
from metric import HEADINGS, MAIN_FIGURES, WHOLE_FIGURES
from reports.result import format_difference, format_interval
from reports.runs import TRUTH, read_windows
from utils import InputError

Windows = Mapping[Path, pd.DataFrame]  # `runs.read_windows` of run folders
COUNTS = ["windows", "single_label", "dialogues"]
FIGURE_COLUMNS = [f"{name}_{what}" for what in ("a", "b", "diff") for name in MAIN_FIGURES]


def compute_comparison(
    pairs: pd.DataFrame, windows: Windows, n_resamples: int = metric.RESAMPLES, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare runs of A and B: `pairs` has `test`, `seed`, and the folders `a` and `b`, a row per test split and seed.

    Returns
    -------
    figures : a row per test split and seed, and of several the mean over folds: `COUNTS`, and of each of `MAIN_FIGURES`
        `_a`, `_b` and `_diff`, B - A
    intervals : `metric.bootstrap` of the mean B - A, a row for each of `MAIN_FIGURES`; the number of `seeds` that all
        folds have, the `sd` over these, and whether the value is `within` it

    Raises `InputError` where the runs of a test split differ in windows or labels.
    """
    folds, rows = [], []
    for test, of_fold in pairs.groupby("test", sort=False):
        sums = []
        for pair in of_fold.itertuples():
            check_same_windows(of_fold["a"].iloc[0], pair.a, windows)
            check_same_windows(of_fold["a"].iloc[0], pair.b, windows)
            both = [windows[pair.a], windows[pair.b]]
            sums.append(np.stack([metric.dialogue_sums(table) for table in both], axis=1))  # (D, 2, 64)
            total = sums[-1].sum(axis=0)
            counts, (a, b) = metric.figures_of_sums(total[0]), metric.main_figures(total)
            sizes = int(counts["n"]), int(counts["n_single_label"]), len(sums[-1])
            rows.append([test, str(pair.seed), *sizes, *a, *b, *(b - a)])
        folds.append(np.stack(sums, axis=1))
    figures = pd.DataFrame(rows, columns=["test", "seed", *COUNTS, *FIGURE_COLUMNS])
    by_fold, by_seed = figures.groupby("test", sort=False), figures.groupby("seed", sort=False)
    of_seed = by_seed[FIGURE_COLUMNS].mean()[by_seed.size() == len(folds)]
    intervals = metric.bootstrap(folds, n_resamples, seed).assign(seeds=len(of_seed))
    intervals["sd"] = of_seed[[f"{name}_diff" for name in MAIN_FIGURES]].std().to_numpy()
    intervals["within"] = intervals["value"].abs() <= intervals["sd"]
    if len(rows) > 1:
        mean = dict(by_fold[COUNTS].first().sum()) | dict(by_fold[FIGURE_COLUMNS].mean().mean())
        figures.loc[len(figures)] = {"test": "mean", "seed": ""} | mean
    return figures, intervals


def check_same_windows(first: Path, other: Path, windows: Windows) -> None:
    """Raise `InputError` unless the runs in two folders have the same windows and labels."""
    a, b = (windows[folder][TRUTH].fillna(0) for folder in (first, other))  # of a corpus without arousal and valence
    a, b = a.align(b, axis=0)  # NaN where one lacks a window
    differs = (a != b).any(axis=1)
    if differs.any():
        at = differs.idxmax()
        texts = ["missing" if row.isna().any() else ", ".join(map(str, row)) for row in (b.loc[at], a.loc[at])]
        where = f"{other / 'predictions.csv'}: window {at}"
        raise InputError(f"{where} is {texts[0]}, and {texts[1]} in {first}; test both on one corpus")


DIFFERENCES = (
    "Differences are means over the folds, in each fold over the seeds, that both have. In square brackets: the 95% "
    "interval over dialogues, which are resampled whole, the same for both and for all seeds, because windows of one "
    "dialogue overlap. It shows how the difference varies with the dialogues of these sessions, not with other "
    "speakers or seeds. ±: standard deviation over seeds of the mean over folds, not known of one (take --seeds 3). "
    "Within: no larger than that, perhaps due to the seeds alone; bold: beyond it, and the interval does not include 0."
)
LEGEND = f"""\
Weighted F1, macro F1 and accuracy are over the test windows with one majority label, CCC and F1 over all windows of a \
fold at once.

{DIFFERENCES}
"""


def compare(pairs: pd.DataFrame, names: tuple[str, str], n_resamples: int = 9_999, seed: int = 0) -> str:
    """The comparison of A and B, whose names are `names`, as Markdown; `pairs` of `compute_comparison` have a `role`.

    Raises `InputError` where a folder is damaged, or the runs of a test split differ in windows or labels.
    """
    windows = {folder: read_windows(folder) for folder in {*pairs["a"], *pairs["b"]}}
    blocks = []
    for role, of_role in pairs.groupby("role", sort=False):
        figures, intervals = compute_comparison(of_role, windows, n_resamples, seed)
        blocks.append(f"# {role}: A = {names[0]}, B = {names[1]}")
        for some in (MAIN_FIGURES[:3], MAIN_FIGURES[3:]):  # six side by side are too wide for a terminal
            shown = figures[["test", "seed", *COUNTS]].rename(columns={"single_label": "1 label"})
            for name in some:
                a, b = (figures[f"{name}_{run}"].map("{:.3f}".format) for run in ("a", "b"))
                difference = figures[f"{name}_diff"].map(format_difference)
                shown[f"{HEADINGS[name]}: A, B (B - A)"] = a + ", " + b + " (" + difference + ")"
            blocks.append(to_markdown(shown))
        differences = pd.DataFrame({"figure": intervals.index.map(HEADINGS), "mean B - A": format_intervals(intervals)})
        blocks.append(f"Mean difference, with its 95% interval of {n_resamples:,} resamples of dialogues:")
        blocks.append(to_markdown(differences.replace("\n", " ", regex=True).assign(method=[*intervals["method"]])))
    return "\n\n".join([*blocks, LEGEND])


def to_markdown(table: pd.DataFrame) -> str:
    """A Markdown table of cells as text."""
    return table.astype(str).to_markdown(index=False, disable_numparse=True)


def format_intervals(intervals: pd.DataFrame) -> list[str]:
    """The value, interval and spread of each of the `intervals` of `compute_comparison`, on lines; **...** is bold."""
    texts = []
    for _, row in intervals.iterrows():
        value, interval = format_difference(row["value"]), format_interval(row["low"], row["high"])
        is_beyond = not row["within"] and (row["low"] > 0 or row["high"] < 0)
        lines = [f"**{value}**" if is_beyond else value, *([f"[{interval}]"] if interval else [])]
        lines += [] if np.isnan(row["sd"]) else [f"{format_spread(row['sd'])} seeds"]
        texts.append("\n".join([*lines, *["within"] * row["within"]]))
    return texts


def format_spread(sd: float) -> str:
    """`± .012`, or `-` for NaN."""
    return "-" if np.isnan(sd) else f"± {sd:.3f}".replace(" 0.", " .")


def compare_with_baseline(entries: pd.DataFrame, windows: Windows) -> tuple[pd.DataFrame, list[str]]:
    """The differences of a table's rows from its row `baseline`, on the folds and seeds that both have.

    They are `role`, `row`, `folds`, `dialogues`, `figure` (of `WHOLE_FIGURES`) and the columns of the `intervals` of
    `compute_comparison`; the second value says why a row that has runs is not compared.
    """
    tables, notes, baseline = [pd.DataFrame()], [], entries["baseline"].iloc[0]
    runs = entries[["role", "row", "test", "seed", "folder"]].dropna()
    of_baseline = runs[runs["row"] == baseline].drop(columns="row")
    pairs = runs[runs["row"] != baseline].merge(of_baseline, on=["role", "test", "seed"])
    pairs = pairs.rename(columns={"folder_x": "b", "folder_y": "a"})
    for (role, row), own in pairs.groupby(["role", "row"], sort=False):
        try:
            figures, intervals = compute_comparison(own, windows)
        except InputError as error:
            notes.append(f"{role}, {row}: {error}.")
            continue
        place = {"role": role, "row": row, "folds": own["test"].nunique(), "dialogues": figures["dialogues"].iloc[-1]}
        tables.append(intervals.loc[[*WHOLE_FIGURES]].rename_axis("figure").reset_index().assign(**place))
    return pd.concat(tables, ignore_index=True), notes
