"""Compare: figures and intervals of two rows or runs, and what is refused."""

import shutil

import numpy as np
import pandas as pd
import pytest
from run_folders import figures_of, make_rows, make_run, write_run

from metric import HEADINGS, MAIN_FIGURES, bootstrap, dialogue_sums
from reports.compare import compare, compare_with_baseline, compute_comparison, format_intervals
from reports.result import format_difference
from reports.runs import read_windows
from utils import InputError

FOLDS = {"1-4": [1, 2, 3, 4], "5-8": [5, 6, 7, 8]}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> pd.DataFrame:
    """B is better than A: two folds and two seeds of the speaker, one fold of the listener; read only."""
    parent, rows = tmp_path_factory.mktemp("runs"), []
    wanted = [("speaker", test, seed) for test in FOLDS for seed in (0, 1)]
    for role, test, seed in [*wanted, ("listener", "1-4", 0)]:
        a, b = (
            make_run(parent / f"{role}{test}-{seed}{skill}", skill, SorL=role, test_split=FOLDS[test], seed=seed)
            for skill in (1.5, 2.0)
        )
        rows.append({"role": role, "test": test, "seed": seed, "a": a, "b": b})
    return pd.DataFrame(rows)


def windows_of(pairs: pd.DataFrame) -> dict:
    return {folder: read_windows(folder) for folder in {*pairs["a"], *pairs["b"]}}


def test_figures_are_those_of_the_predictions_and_their_means_over_folds_of_seeds(pairs):
    windows = windows_of(pairs)
    figures, intervals = compute_comparison(pairs[:3], windows, 99)  # two seeds, and one
    mean = figures.iloc[3]
    assert figures["test"][:3].tolist() == ["1-4", "1-4", "5-8"]
    assert mean[["windows", "dialogues"]].tolist() == [192, 32]
    for (_, row), pair in zip(figures.iterrows(), pairs[:3].itertuples(), strict=False):
        a, b = figures_of(windows[pair.a]), figures_of(windows[pair.b])
        for what, expected in (("a", a), ("b", b), ("diff", b - a)):
            found = row[[f"{name}_{what}" for name in MAIN_FIGURES]].tolist()
            np.testing.assert_allclose(found, expected, atol=1e-9)
    for name in MAIN_FIGURES:
        values = figures[f"{name}_diff"]
        assert mean[f"{name}_diff"] == pytest.approx((values[:2].mean() + values[2]) / 2)
        assert intervals.loc[name, "value"] == pytest.approx(mean[f"{name}_diff"])
    sums = [np.stack([dialogue_sums(windows[folder]) for folder in (p.a, p.b)], axis=1) for p in pairs[:3].itertuples()]
    expected = bootstrap([np.stack(sums[:2], axis=1), sums[2][:, None]], 99)
    pd.testing.assert_frame_equal(intervals[expected.columns], expected)


def test_the_spread_over_seeds_is_that_of_the_mean_over_folds(pairs):
    windows = windows_of(pairs[:4])
    differences = [figures_of(windows[pair.b]) - figures_of(windows[pair.a]) for pair in pairs[:4].itertuples()]
    by_seed = np.reshape(differences, (2, 2, 6)).mean(axis=0)  # from fold, seed, figure
    _, found = compute_comparison(pairs[:4], windows, 99)
    np.testing.assert_allclose(found["sd"], np.std(by_seed, axis=0, ddof=1), atol=1e-9)
    assert found["within"].tolist() == (found["value"].abs() <= found["sd"]).tolist()


# What cannot be compared


@pytest.mark.parametrize(
    ("row", "column", "cell", "named"),
    [
        (0, "segment_id", "Sess04_impro03_F999", "F999|F000"),
        (7, "true_emotion", "disgust;fear", "M001.*disgust;fear"),
        (8, "true_arousal", 4.95, "F002.*4.95"),
        (0, "segment_id", "Sess01_script00_M001", ""),  # twice
        (3, "true_arousal", np.nan, ""),
        (5, None, None, "missing"),
    ],
)
def test_windows_that_are_not_the_same_are_refused(pairs, tmp_path, row, column, cell, named):
    damaged = shutil.copytree(pairs["b"][0], tmp_path / "b")
    path = damaged / "predictions.csv"
    rows = pd.read_csv(path)
    if column:
        rows.loc[row, column] = cell
    rows.drop(index=[] if column else [row]).to_csv(path, index=False)
    with pytest.raises(InputError, match=rf"predictions\.csv.*({named})"):
        compare(pairs[:1].assign(b=[damaged]), ("A", "B"), 99)


def test_seeds_of_a_fold_share_their_windows(pairs, tmp_path):
    other = write_run(tmp_path / "other", make_rows(FOLDS["1-4"], 2, 9, windows=5), test_split=FOLDS["1-4"])
    with pytest.raises(InputError):
        compare(pairs[:2].assign(a=[pairs["a"][0], other], b=[pairs["b"][0], other]), ("A", "B"), 99)


# As text


def test_the_text_has_the_numbers_of_each_role(pairs):
    speaker, listener = compare(pairs, ("default", "other"), 199, seed=7).split("# listener: ")
    for part, of_role in ((speaker, pairs[:4]), (listener, pairs[4:])):
        figures, intervals = compute_comparison(of_role, windows_of(of_role), 199, 7)
        for a, b, difference in figures[["macro_f1_a", "macro_f1_b", "macro_f1_diff"]].to_numpy():
            assert f" {a:.3f}, {b:.3f} ({format_difference(difference)})" in part
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
        for text, (name, row) in zip(format_intervals(intervals), intervals.iterrows(), strict=True):
            assert [HEADINGS[name], text.replace("\n", " "), row["method"]] in lines


# Against a baseline


def test_rows_are_compared_with_the_baseline_on_what_both_have(pairs):
    rows = [pairs[:4].assign(row=row, folder=pairs[column]) for row, column in (("MATE", "a"), ("encoder", "b"))]
    rows.append(rows[0][:1].assign(row="ccc", folder=None))
    entries, windows = pd.concat(rows, ignore_index=True).assign(baseline="MATE"), windows_of(pairs[:4])
    table, notes = compare_with_baseline(entries, windows)
    _, expected = compute_comparison(pairs[:4], windows)
    assert (notes, set(table["row"])) == ([], {"encoder"})
    columns = ["value", "low", "high"]
    np.testing.assert_array_equal(table[columns], expected.loc[table["figure"], columns])
    some, _ = compare_with_baseline(entries[(entries["row"] != "encoder") | (entries["seed"] == 1)], windows)
    assert some[["folds", "seeds", "dialogues"]].drop_duplicates().values.tolist() == [[2, 1, 32]]
    folder = entries.loc[entries["row"] == "encoder", "folder"].iloc[0]  # with other windows
    table, notes = compare_with_baseline(entries, windows | {folder: windows[folder].iloc[1:]})
    assert table.empty
    assert [note.partition(":")[0] for note in notes] == ["speaker, encoder"]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "+.010\n[.005 to .020]\n± .012 seeds\nwithin"),
        ({"sd": 0.009, "within": False}, "**+.010**\n[.005 to .020]\n± .009 seeds"),
        ({"sd": 0.009, "within": False, "low": -0.001}, "+.010\n[-.001 to .020]\n± .009 seeds"),
        ({"sd": np.nan, "within": False, "low": np.nan, "high": np.nan}, "+.010"),
    ],
)
def test_a_difference_is_marked_beyond_its_interval_and_its_spread_alone(changes, shown):
    row = {"value": 0.01, "low": 0.005, "high": 0.02, "sd": 0.012, "within": True} | changes
    assert format_intervals(pd.DataFrame([row])) == [shown]
