"""Compare: two rows or runs on the same test windows: their differences, with intervals over seeds and dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

import metric
from metric import HEADINGS, MAIN_FIGURES, WHOLE_FIGURES
from reports.result import format_difference, format_interval
from reports.runs import TRUTH, read_windows
from utils import InputError, count

Windows = Mapping[Path, pd.DataFrame]  # `runs.read_windows` of run folders


def compute_comparison(pairs: pd.DataFrame, windows: Windows) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare runs of A and B: `pairs` has `test`, `seed`, and the folders `a` and `b`, a row per test split and seed.

    A seed that a test split lacks is left out. The first table returned has `MAIN_FIGURES` by `test`, `seed` and `run`,
    "a" or "b", and of several their mean over folds of that over seeds. The second one has for each of these figures
    `metric.seed_interval` of the mean B - A (of one seed or a test split of a single dialogue `metric.bootstrap`) and
    the numbers of `seeds` and `dialogues`. Raises `InputError` where the runs of a test split differ in windows or
    labels, or no seed is in all test splits.
    """
    of_seed = pairs.groupby("seed")["test"].transform("nunique")
    pairs = pairs[of_seed == pairs["test"].nunique()].sort_values("seed", kind="stable")
    if pairs.empty:
        raise InputError("no seed has finished runs of both on all test sessions")
    folds, figures = [], {}
    for test, of_fold in pairs.groupby("test", sort=False):
        folders = of_fold[["a", "b"]].to_numpy()
        for folder in folders.flat:
            check_same_windows(folders[0, 0], folder, windows)
        sums = np.stack([metric.dialogue_sums(windows[folder]) for folder in folders.flat], axis=1)
        folds.append(sums.reshape(len(sums), *folders.shape, -1))  # (D, S, 2, 36)
        found = metric.main_figures(folds[-1].sum(axis=0))
        for seed, pair in zip(of_fold["seed"], found, strict=True):
            figures[test, str(seed)] = pd.DataFrame(pair, ["a", "b"], [*MAIN_FIGURES])
    figures = pd.concat(figures, names=["test", "seed", "run"])
    seeds = folds[0].shape[1]
    if seeds > 1 and min(map(len, folds)) > 1:
        intervals = metric.seed_interval(folds)
    else:
        intervals = metric.bootstrap(folds).assign(shown=False, sd=np.nan, needed=np.nan)
    if len(figures) > 2:
        mean = figures.groupby(["test", "run"]).mean().groupby("run").mean()
        figures = pd.concat([figures, pd.concat({("mean", ""): mean}, names=["test", "seed"])])
    return figures, intervals.assign(seeds=seeds, dialogues=sum(map(len, folds)))


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
    "Differences are means over the folds and seeds that both have; a seed that a fold lacks is left out. In square "
    "brackets: the 95% t interval over seeds and dialogues of these sessions, not over speakers. Bold: it excludes 0, "
    "as one in twenty does by chance where nothing differs; any other difference is not shown. Of one seed, the "
    "interval is over dialogues alone, and nothing is shown: take --seeds 3 at least."
)
LEGEND = f"""\
Weighted F1, macro F1 and accuracy are over the test windows with one majority label, CCC and F1 over all windows of a \
fold at once. Seeds needed: so many would show a difference of the size found if it and its spreads stayed as they are.

{DIFFERENCES}
"""


def compare(pairs: pd.DataFrame, names: tuple[str, str]) -> str:
    """The comparison of A and B, whose names are `names`, as Markdown; `pairs` of `compute_comparison` have a `role`.

    Raises `InputError` where a folder is damaged, or the runs of a test split differ in windows or labels.
    """
    windows = {folder: read_windows(folder) for folder in {*pairs["a"], *pairs["b"]}}
    blocks = []
    for role, of_role in pairs.groupby("role", sort=False):
        figures, intervals = compute_comparison(of_role, windows)
        blocks.append(f"# {role}: A = {names[0]}, B = {names[1]}")
        a, b = (figures.xs(run, level="run") for run in ("a", "b"))
        shown = a.map("{:.3f}, ".format) + b.map("{:.3f} (".format) + (b - a).map(format_difference) + ")"
        shown = shown.rename(columns={name: f"{HEADINGS[name]}: A, B (B - A)" for name in MAIN_FIGURES})
        differences = pd.DataFrame({"figure": intervals.index.map(HEADINGS), "mean B - A": format_intervals(intervals)})
        needed = intervals["needed"].map("{:.0f}".format).replace({"nan": "-", "inf": f"over {metric.MAX_SEEDS}"})
        differences = differences.replace("\n", " ", regex=True).assign(**{"seeds needed": [*needed]})
        first, second = shown.iloc[:, :3], shown.iloc[:, 3:]  # six side by side are too wide for a terminal
        tables = [first.reset_index(), second.reset_index(), differences]
        blocks += [table.astype(str).to_markdown(index=False, disable_numparse=True) for table in tables]
        blocks.append(conclude(intervals))
    return "\n\n".join([*blocks, LEGEND])


def conclude(intervals: pd.DataFrame) -> str:
    """Which differences the `intervals` of `compute_comparison` show, and which they do not."""
    shown, seeds, dialogues = intervals["shown"], *intervals[["seeds", "dialogues"]].iloc[0]
    named = [", ".join(intervals.index[which].map(HEADINGS)) or "none" for which in (shown, ~shown)]
    over = f"Shown by {count(seeds, 'seed')} and {count(dialogues, 'dialogue')}: {named[0]}; not shown: {named[1]}."
    return over + " Chance of the seed is not in these intervals: take --seeds 3 at least." * (seeds == 1)


def format_intervals(intervals: pd.DataFrame) -> list[str]:
    """The value and below it the interval of each of the `intervals` of `compute_comparison`; **...** is bold."""
    texts = []
    for _, row in intervals.iterrows():
        value, interval = format_difference(row["value"]), format_interval(row["low"], row["high"])
        value = f"**{value}**" if row["shown"] else value
        texts.append(f"{value}\n[{interval}]" if interval else value)
    return texts


def compare_with_baseline(entries: pd.DataFrame, windows: Windows) -> tuple[pd.DataFrame, list[str]]:
    """The differences of a table's rows, each from its row `baseline`, if any, on the folds and seeds that both have.

    They are `role`, `row`, `from` (the baseline), `folds`, `figure` (of `WHOLE_FIGURES`) and the columns of the
    `intervals` of `compute_comparison`; the second value says why a row that has runs is not compared.
    """
    tables, notes = [pd.DataFrame()], []
    runs = entries[["role", "row", "baseline", "test", "seed", "folder"]].dropna(subset="folder")
    of_baselines = runs.drop(columns="baseline").rename(columns={"row": "baseline", "folder": "a"})
    pairs = runs.rename(columns={"folder": "b"}).merge(of_baselines, on=["role", "baseline", "test", "seed"])
    pairs = pairs[pairs["row"] != pairs["baseline"]]
    for (role, row, baseline), own in pairs.groupby(["role", "row", "baseline"], sort=False):
        try:
            _, intervals = compute_comparison(own, windows)
        except InputError as error:
            notes.append(f"{role}, {row}: {error}.")
            continue
        place = {"role": role, "row": row, "from": baseline, "folds": own["test"].nunique()}
        tables.append(intervals.loc[[*WHOLE_FIGURES]].rename_axis("figure").reset_index().assign(**place))
    return pd.concat(tables, ignore_index=True), notes
