"""Compare: the differences of two rows or runs on the same test windows, with intervals over seeds and dialogues."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

import metric
from metric import HEADINGS, MAIN_FIGURES, WHOLE_FIGURES
from reports.result import format_cell, format_difference, format_interval
from reports.runs import TRUTH, read_windows
from utils import InputError, count

Windows = Mapping[Path, pd.DataFrame]  # `runs.read_windows` of run folders


def compute_comparison(pairs: pd.DataFrame, windows: Windows) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare runs of A and B: `pairs` has `test`, `seed`, and the folders `a` and `b`, a row per test split and seed.

    Seeds that a test split lacks are left out. The first table returned has `MAIN_FIGURES` by `test`, `seed` and `run`
    ("a" or "b"), and last their mean. The second has for each figure `metric.seed_interval` of the mean B - A (with one
    seed, or a test split of one dialogue, `metric.bootstrap`) and the numbers of `seeds` and `dialogues`. Raises
    `InputError` if the runs of a test split differ in windows or labels, or no seed is in all test splits.
    """
    of_seed = pairs.groupby("seed")["test"].transform("nunique")
    pairs = pairs[of_seed == pairs["test"].nunique()].sort_values("seed", kind="stable")
    if pairs.empty:
        raise InputError("no seed has finished runs of both A and B on all test sessions")
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
    mean = figures.groupby(["test", "run"]).mean().groupby("run").mean()
    figures = pd.concat([figures, pd.concat({("mean", ""): mean}, names=["test", "seed"])])
    return figures, intervals.assign(seeds=seeds, dialogues=sum(map(len, folds)))


def check_same_windows(first: Path, other: Path, windows: Windows) -> None:
    """Raise `InputError` unless the runs in two folders have the same windows and labels."""
    a, b = (windows[folder][TRUTH].fillna(0) for folder in (first, other))  # a corpus may lack arousal and valence
    a, b = a.align(b, axis=0)  # NaN where one lacks a window
    differs = (a != b).any(axis=1)
    if differs.any():
        at = differs.idxmax()
        texts = ["missing" if row.isna().any() else ", ".join(map(str, row)) for row in (b.loc[at], a.loc[at])]
        where = f"{other / 'predictions.csv'}: window {at}"
        raise InputError(f"{where} is {texts[0]}, but {texts[1]} in {first}; test both runs on the same corpus")


DIFFERENCES = (
    "Differences are means over the folds and seeds that both sides have. Their 95% t interval is over seeds and "
    "dialogues of these sessions, not over speakers. Bold: the interval excludes 0; this happens in one of twenty "
    "comparisons without a true difference. With one seed, the interval is over dialogues only, and nothing is bold."
)
LEGEND = (
    "Weighted F1, macro F1 and accuracy use the test windows with one majority label, CCC and F1 all windows. Seeds "
    f"needed: the number of seeds at which a difference of this size would be bold. {DIFFERENCES}"
)


def compare(pairs: pd.DataFrame, names: tuple[str, str]) -> str:
    """The comparison of A and B, called `names`, as Markdown; `pairs` of `compute_comparison` also have a `role`.

    Raises `InputError` if a folder is damaged, or the runs of a test split differ in windows or labels.
    """
    windows = {folder: read_windows(folder) for folder in {*pairs["a"], *pairs["b"]}}
    blocks, settings = [f"- A: {names[0]}\n- B: {names[1]}"], {"index": False, "disable_numparse": True}
    for role, of_role in pairs.groupby("role", sort=False):
        figures, intervals = compute_comparison(of_role, windows)
        a, b = (figures.xs(run, level="run").rename(columns=HEADINGS) for run in ("a", "b"))
        means = pd.DataFrame({"metric": a.columns, "A": [*a.iloc[-1]], "B": [*b.iloc[-1]]}).map(format_cell)
        parts = pd.Series(format_intervals(intervals)).str.partition("\n")
        means["B - A"], means["95% interval"] = parts[0], parts[2]
        needed = intervals["needed"].map("{:.0f}".format).replace({"nan": "-", "inf": f"over {metric.MAX_SEEDS}"})
        blocks += [f"## {role}", means.assign(**{"seeds needed": [*needed]}).to_markdown(**settings)]
        if len(figures) > 4:
            by_seed = (b - a)[:-1].map(format_difference).reset_index()
            blocks += ["B - A by test sessions and seed:", by_seed.to_markdown(**settings)]
        blocks.append(conclude(intervals))
    return "\n\n".join([*blocks, textwrap.fill(LEGEND, 100)])


def conclude(intervals: pd.DataFrame) -> str:
    """Which differences of the `intervals` of `compute_comparison` are significant."""
    shown, seeds, dialogues = intervals["shown"], *intervals[["seeds", "dialogues"]].iloc[0]
    over = f"{count(seeds, 'seed')}, {count(dialogues, 'dialogue')}"
    if seeds == 1:
        return f"{over}: to test for significance, use --seeds 3 or more."
    return f"{over}. Significant differences: {', '.join(intervals.index[shown].map(HEADINGS)) or 'none'}."


def format_intervals(intervals: pd.DataFrame) -> list[str]:
    """Each value of the `intervals` of `compute_comparison`, with its interval on a second line; **...** is bold."""
    texts = []
    for _, row in intervals.iterrows():
        value, interval = format_difference(row["value"]), format_interval(row["low"], row["high"])
        value = f"**{value}**" if row["shown"] else value
        texts.append(f"{value}\n{interval}" if interval else value)
    return texts


def compare_with_baseline(entries: pd.DataFrame, windows: Windows) -> tuple[pd.DataFrame, list[str]]:
    """The differences of a table's rows from their row `baseline`, on the folds and seeds that both have.

    The first value has `role`, `row`, `from` (the baseline), `folds`, `figure` (of `WHOLE_FIGURES`) and the columns of
    the `intervals` of `compute_comparison`. The second says why rows that have runs are not compared.
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
