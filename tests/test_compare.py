"""Compare: figures and intervals of two rows or runs, the null simulation, and what is refused."""

import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from null_simulation import simulate
from run_folders import figures_of, make_rows, make_run, write_run

from metric import HEADINGS, bootstrap, dialogue_sums
from reports.compare import compare, compare_with_baseline, compute_comparison, conclude, format_intervals
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
    figures, _ = compute_comparison(pairs[:4], windows)
    assert len(figures) == 10
    for run in ("a", "b"):
        expected = [figures_of(windows[folder]) for folder in pairs[run][:4]]
        for pair, values in zip(pairs[:4].itertuples(), expected, strict=True):
            np.testing.assert_allclose(figures.loc[pair.test, str(pair.seed), run], values, atol=1e-9)
        np.testing.assert_allclose(figures.loc["mean", "", run], np.mean(expected, axis=0), atol=1e-9)


def test_intervals_join_that_of_t_over_seeds_with_that_over_what_dialogues_add_in_all_seeds(pairs):
    windows = windows_of(pairs[:4])

    def differences(pair, without=None) -> np.ndarray:
        a, b = (windows[folder][windows[folder]["dialogue"] != without] for folder in (pair.a, pair.b))
        return (figures_of(b) - figures_of(a)) / 2  # of two folds

    of_dialogues, of_fold = 0, []
    for _, (first, second) in ((test, own.itertuples()) for test, own in pairs[:4].groupby("test")):
        names = windows[first.a]["dialogue"].unique()
        left_out = [[differences(pair, name) for name in names] for pair in (first, second)]
        one, other = (15 / 16 * (np.mean(of_pair, axis=0) - of_pair) for of_pair in left_out)
        of_dialogues = of_dialogues + (one * other).sum(axis=0)
        of_fold.append([differences(first), differences(second)])
    by_seed = np.sum(of_fold, axis=0)
    _, found = compute_comparison(pairs[:4], windows)
    np.testing.assert_allclose(found["value"], by_seed.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found["sd"], by_seed.std(axis=0, ddof=1), atol=1e-9)
    assert {*np.sign(of_dialogues)} == {-1, 1}
    of_dialogues = of_dialogues.clip(0)
    for (_, row), of_seeds, shared in zip(found.iterrows(), by_seed.var(axis=0, ddof=1), of_dialogues, strict=True):
        intervals = []
        for n in range(2, 101):
            parts = ((n - 1, of_seeds / n), (32 - 2, shared))
            width = sum(scipy.stats.t.ppf(0.975, freedom) ** 2 * variance for freedom, variance in parts) ** 0.5
            intervals.append((row["value"] - width, row["value"] + width))
        assert row[["low", "high"]].tolist() == pytest.approx(intervals[0])
        enough = [n for n, (low, high) in enumerate(intervals, 2) if low > 0 or high < 0]
        assert row["needed"] == min(enough, default=np.inf)
        assert row["shown"] == (row["needed"] == 2)


def test_runs_that_predict_the_same_differ_by_nothing(pairs):
    _, found = compute_comparison(pairs[:4].assign(b=pairs["a"]), windows_of(pairs[:4]))
    assert (found[["value", "low", "high"]] == 0).all(axis=None)
    assert not found["shown"].any()


def test_of_one_seed_the_interval_is_over_dialogues_alone_and_shows_nothing(pairs):
    windows, own = windows_of(pairs), pairs[pairs["seed"] == 0][:2]
    _, found = compute_comparison(own, windows)
    sums = [np.stack([dialogue_sums(windows[folder]) for folder in (p.a, p.b)], axis=1) for p in own.itertuples()]
    expected = bootstrap([of_fold[:, None] for of_fold in sums])
    pd.testing.assert_frame_equal(found[expected.columns], expected)
    assert (found["low"] > 0).any()
    assert not found["shown"].any()


def test_a_seed_that_a_fold_lacks_is_left_out(pairs):
    windows = windows_of(pairs)
    for found, expected in zip(
        compute_comparison(pairs[:3], windows), compute_comparison(pairs[:3:2], windows), strict=True
    ):
        pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(InputError):
        compute_comparison(pairs.loc[[0, 3]], windows)


def test_where_nothing_differs_an_interval_in_twenty_excludes_0():
    """Over dialogues alone, one in three to eight does: runs of one setting differ by their seeds."""
    found = simulate(3, 100)
    assert found["both"].between(0.01, 0.13).all()
    assert (found["dialogues"] > 0.15).all()


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
        compare(pairs[:1].assign(b=[damaged]), ("A", "B"))


def test_seeds_of_a_fold_share_their_windows(pairs, tmp_path):
    other = write_run(tmp_path / "other", make_rows(FOLDS["1-4"], 2, 9, windows=5), test_split=FOLDS["1-4"])
    with pytest.raises(InputError):
        compare(pairs[:2].assign(a=[pairs["a"][0], other], b=[pairs["b"][0], other]), ("A", "B"))


# As text


def test_the_text_has_the_numbers_of_each_role(pairs):
    speaker, listener = compare(pairs, ("default", "other")).split("## listener")
    for part, of_role in ((speaker, pairs[:4]), (listener, pairs[4:])):
        figures, intervals = compute_comparison(of_role, windows_of(of_role))
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
        a, b = (figures.xs(run, level="run") for run in ("a", "b"))
        for test, seed in [*a.index[:-1]] if len(of_role) > 1 else []:
            assert [test, seed, *map(format_difference, (b - a).loc[test, seed])] in lines
        for text, (name, row) in zip(format_intervals(intervals), intervals.iterrows(), strict=True):
            needed = {np.inf: "over 100"}.get(row["needed"], f"{row['needed']:.0f}".replace("nan", "-"))
            means = [f"{run.loc['mean', ''][name]:.3f}" for run in (a, b)]
            assert [HEADINGS[name], *means, *text.split("\n"), needed] in lines


def test_the_conclusion_names_what_is_significant(pairs):
    _, intervals = compute_comparison(pairs[:4], windows_of(pairs[:4]))
    intervals["shown"] = [True, False, True, False, False, False]
    text = conclude(intervals)
    assert all(part in text for part in ("2 seeds", "32 dialogues", HEADINGS["weighted_f1"], HEADINGS["accuracy"]))
    assert not [name for name in ("macro_f1", "ccc_arousal", "ccc_valence") if HEADINGS[name] in text]
    assert "--seeds" not in text
    assert "--seeds" in conclude(intervals.assign(seeds=1))


# Against a baseline


def test_rows_are_compared_with_the_baseline_on_what_both_have(pairs):
    mate, encoder = (pairs[:4].assign(row=row, folder=pairs[run]) for row, run in (("MATE", "a"), ("encoder", "b")))
    rows = [mate.assign(baseline=None), encoder.assign(baseline="MATE")]
    rows.append(rows[1][:1].assign(row="ccc", folder=None))
    entries, windows = pd.concat(rows, ignore_index=True), windows_of(pairs[:4])
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


def test_each_row_is_compared_with_its_own_baseline(pairs):
    """The rows are A, B and again A; the last one's baseline is B, that of A none."""

    def differences(baselines: dict[str, str]) -> pd.DataFrame:
        """The mean differences; shape = (rows with a baseline, 5)."""
        runs = [
            pairs[:4].assign(row=row, folder=pairs[run], baseline=baselines.get(row))
            for row, run in {"A": "a", "B": "b", "C": "a"}.items()
        ]
        found, notes = compare_with_baseline(pd.concat(runs, ignore_index=True), windows_of(pairs[:4]))
        assert notes == []
        return found if not baselines else found.pivot(index=["row", "from"], columns="figure", values="value")

    assert differences({}).empty
    of_all, of_each = differences(dict.fromkeys("ABC", "A")), differences({"B": "A", "C": "B"})
    assert ([*of_all.index], [*of_each.index]) == ([("B", "A"), ("C", "A")], [("B", "A"), ("C", "B")])
    assert (of_all.loc[("C", "A")] == 0).all()
    np.testing.assert_allclose(of_each.loc[("C", "B")], -of_each.loc[("B", "A")])
    assert (of_each.loc[("B", "A")] != 0).all()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "+.010\n[-.005, .020]"),
        ({"low": 0.005, "shown": True}, "**+.010**\n[.005, .020]"),
        ({"low": 0.005}, "+.010\n[.005, .020]"),  # one seed
        ({"low": np.nan, "high": np.nan}, "+.010"),
    ],
)
def test_a_difference_is_marked_where_it_is_shown(changes, text):
    row = {"value": 0.01, "low": -0.005, "high": 0.02, "shown": False} | changes
    assert format_intervals(pd.DataFrame([row])) == [text]
