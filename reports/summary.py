"""Summary: a table's rows: means over seeds and folds, their spreads and intervals, and the published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from corpora.registry import dialogue_of
from corpora.sessions import format_sessions
from metric import MAIN_FIGURES, WHOLE_FIGURES
from reports.intervals import mean_intervals, sums_of_runs
from reports.published import KNOWN, find_published
from reports.runs import Entry, Run, group, values_of

PART_COLUMNS = ["n", "n_single_label", "dialogues", *WHOLE_FIGURES, "lookup"]


class FoldOfRow(NamedTuple):
    """What has finished of a row on one test split.

    runs : by seed
    sums : `intervals.sums_of_runs`
    published : figures of this row, NaN where there are none
    """

    test_split: tuple[int, ...]
    wanted: int
    runs: dict[int, Run]
    sums: np.ndarray | None
    published: pd.Series

    @property
    def values(self) -> pd.DataFrame:
        """`values_of` its runs."""
        return values_of([*self.runs.values()])


def summarise(entries: Sequence[Entry], runs: Mapping[Path, Run], published: pd.DataFrame) -> pd.DataFrame:
    """A table's rows: one per role, configuration and test split, and the mean of several test splits.

    Parameters
    ----------
    entries : of one table
    runs : those that have finished, by folder
    published : of `read_published`

    Returns
    -------
    DataFrame with `role`, `row`, `test`, `folds`, `runs`, `wanted`, tested `windows`, of them `single_label`, and their
    `dialogues`, `majority_f1`, and of each of `KNOWN`: its mean over seeds (of several folds: mean of the folds'
    means), `_sd` the sample standard deviation over runs, `_sd_seeds` that over seeds (of several folds: of the folds'
    means of each seed that has them all), `_sd_folds` that of the folds' means, `_published`, `_published_sd` (over
    folds), and `_diff`, ours less the published one if no fold is missing. Of each of `MAIN_FIGURES` `_low` and
    `_high`: the 95% interval over dialogues, of F1 that over all windows at once. What is not known is NaN.
    """
    rows = []
    for (table, role, label), of_row in group(entries, "table", "role", "row").items():
        folds = [make_fold(of_fold, runs) for of_fold in group(of_row, "test_split").values()]
        named = {"role": role, "row": label}
        rows += [named | summarise_fold(fold) for fold in folds]
        if len(folds) > 1:
            sessions = {session for fold in folds for session in fold.test_split}
            rows.append(named | summarise_folds(folds, find_published(published, table, label, role, sessions)))
    return pd.DataFrame(rows)


def make_fold(entries: Sequence[Entry], runs: Mapping[Path, Run]) -> FoldOfRow:
    """The fold of entries that differ in their seeds."""
    found = {entry.seed: runs[entry.folder] for entry in entries if entry.folder in runs}
    return FoldOfRow(
        test_split=entries[0].test_split,
        wanted=len(entries),
        runs=found,
        sums=sums_of_runs([*found.values()]),
        published=pd.Series(entries[0].published or {}, index=KNOWN, dtype=float),
    )


def summarise_fold(fold: FoldOfRow) -> dict[str, Any]:
    """The columns of one test split."""
    ours = fold.values
    counts = {"test": format_sessions(fold.test_split), "folds": 1, "runs": len(ours), "wanted": fold.wanted}
    spreads = {"sd": ours.std(), "sd_seeds": ours.std(), "published": fold.published}
    spreads["diff"] = ours.mean() - fold.published
    return counts | count_windows([fold]) | row_figures(ours.mean(), spreads) | interval_columns([fold])


def summarise_folds(folds: Sequence[FoldOfRow], published_mean: dict[str, float] | None) -> dict[str, Any]:
    """The columns of a mean over test splits; `published_mean` of the row if only its mean was published."""
    done = [fold for fold in folds if fold.runs]
    all_runs = values_of([run for fold in done for run in fold.runs.values()])
    means = pd.DataFrame([fold.values.mean() for fold in done], columns=all_runs.columns, dtype=float)
    complete = len(done) == len(folds)
    n_folds = f"{len(folds)}" if complete else f"{len(done)} of {len(folds)}"
    counts = {
        "test": f"mean of {n_folds} folds",
        "folds": len(done),
        "runs": len(all_runs),
        "wanted": sum(fold.wanted for fold in folds),
    }
    theirs = pd.DataFrame([fold.published for fold in folds])
    mean = pd.Series(published_mean, index=KNOWN, dtype=float) if published_mean else theirs.mean(skipna=False)
    spreads = {
        "sd": all_runs.std(),
        "sd_seeds": means_of_seeds(done).std(),
        "sd_folds": means.std(),
        "published": mean,
        "published_sd": theirs.std(skipna=False),
        "diff": means.mean() - mean if complete else mean * np.nan,
    }
    return counts | count_windows(done) | row_figures(means.mean(), spreads) | interval_columns(done)


def means_of_seeds(folds: Sequence[FoldOfRow]) -> pd.DataFrame:
    """For each seed that has a run in all folds, the mean over folds: one row a seed, columns of `values_of`."""
    seeds = set.intersection(*({*fold.runs} for fold in folds)) if folds else set()
    rows = [values_of([fold.runs[seed] for fold in folds]).mean() for seed in sorted(seeds)]
    return pd.DataFrame(rows, columns=values_of([]).columns, dtype=float)


def count_windows(folds: Sequence[FoldOfRow]) -> dict[str, float]:
    """Tested windows, those with one label, and dialogues, of all folds together; all seeds have the same ones."""
    firsts = [next(iter(fold.runs.values())) for fold in folds if fold.runs]
    if not firsts:
        return dict.fromkeys(("windows", "single_label", "dialogues"), np.nan)
    ids = [segment for run in firsts for segment in run.ids]
    return {
        "windows": len(ids),
        "single_label": sum(int((run.arrays["emotion"].sum(axis=1) == 1).sum()) for run in firsts),
        "dialogues": len({*map(dialogue_of, ids)}) if all(run.has_dialogues for run in firsts) else np.nan,
    }


def row_figures(mean: pd.Series, others: Mapping[str, pd.Series]) -> dict[str, float]:
    """The columns of one row of `summarise` that hold figures; `others` by what stands behind a figure's name."""
    columns = {}
    for name in KNOWN:
        columns[name] = mean[name]
        for suffix in ("sd", "sd_seeds", "sd_folds", "published", "published_sd", "diff"):
            columns[f"{name}_{suffix}"] = others[suffix].get(name, np.nan) if suffix in others else np.nan
    return columns | {"majority_f1": mean["majority_f1"]}


def interval_columns(folds: Sequence[FoldOfRow]) -> dict[str, float]:
    """`_low` and `_high` of each of `MAIN_FIGURES`, of the mean over these folds."""
    sums = [fold.sums for fold in folds]
    if not sums or any(of_fold is None for of_fold in sums):
        return {f"{name}_{bound}": np.nan for name in MAIN_FIGURES for bound in ("low", "high")}
    found = mean_intervals(sums)
    return {f"{name}_{bound}": found.loc[name, bound] for name in MAIN_FIGURES for bound in ("low", "high")}


# By kind of dialogue and sentence


def summarise_parts(entries: Sequence[Entry], runs: Mapping[Path, Run]) -> pd.DataFrame:
    """The figures of each part of the tests, of each role and row: scripted dialogues, sentences in training, ...

    Parameters
    ----------
    entries : of one table
    runs : those that have finished, by folder; earlier ones, whose results do not know the parts, are left out

    Returns
    -------
    DataFrame with `role`, `row`, `part`, its `windows`, `single_label` and `dialogues` in all folds together, and each
    of `WHOLE_FIGURES` and `lookup`: mean over folds of the mean over seeds, NaN where there are no windows
    """
    rows = []
    for (role, label), of_row in group(entries, "role", "row").items():
        found = [
            {"part": part, "fold": entry.test_split} | numbers
            for entry in of_row
            for part, numbers in getattr(runs.get(entry.folder), "parts", {}).items()
        ]
        if not found:
            continue
        by_fold = pd.DataFrame(found).groupby(["part", "fold"], sort=False).mean().reindex(columns=PART_COLUMNS)
        for part, of_part in by_fold.groupby("part", sort=False):
            counts = of_part[["n", "n_single_label", "dialogues"]].sum()
            figures = of_part[[*WHOLE_FIGURES, "lookup"]].mean().to_dict()
            names = {"windows": "n", "single_label": "n_single_label", "dialogues": "dialogues"}
            counted = {column: int(counts[name]) for column, name in names.items()}
            rows.append({"role": role, "row": label, "part": part} | counted | figures)
    return pd.DataFrame(rows)
