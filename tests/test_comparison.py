import math
import re

import numpy as np
import pandas as pd
import pytest
from compared_runs import NAMES, make_arrays, make_ids, predictions, read_folds, recompute_main_figures
from finished_runs import finished_run

from constants import EMOTIONS
from corpora.kemdy19 import FOLDS
from metric import HEADINGS, MAIN_FIGURES
from reports.comparison import (
    Comparison,
    bootstrap_intervals,
    compare,
    compute_comparison,
    describe_seeds,
    mcnemar,
)
from reports.pairs import SUMS, Pair, dialogue_sums
from utils import InputError


def numbers(pairs: list[Pair], n_resamples: int = 199) -> Comparison:
    """The numbers of the pairs of one role."""
    return compute_comparison(read_folds(pairs), n_resamples, 0)


# Figures


def test_figures_of_a_fold_and_seed_are_those_of_its_predictions(pairs):
    found = numbers(pairs[:4]).figures
    assert found["test"].tolist() == ["1-4", "1-4", "5-8", "5-8", "mean of 2 folds and 2 seeds"]
    assert found["seed"].tolist() == ["0", "1", "0", "1", ""]
    assert found["windows"].tolist() == [96, 96, 120, 120, 216]
    assert found["dialogues"].tolist() == [16, 16, 20, 20, 36]
    for (_, row), pair in zip(found.iloc[:4].iterrows(), pairs, strict=False):
        a, b = recompute_main_figures(predictions(pair.a)), recompute_main_figures(predictions(pair.b))
        for number, name in enumerate(MAIN_FIGURES):
            shown = [row[f"{name}_{what}"] for what in ("a", "b", "diff")]
            np.testing.assert_allclose(shown, [a[number], b[number], b[number] - a[number]], atol=1e-9)


def test_mean_is_over_folds_and_within_them_over_seeds(pairs):
    found = numbers(pairs[:3])  # two seeds, and one
    by_test, mean = found.figures.iloc[:3], found.figures.iloc[3]
    for name in MAIN_FIGURES:
        for what in ("a", "b", "diff"):
            values = by_test[f"{name}_{what}"]
            assert mean[f"{name}_{what}"] == pytest.approx((values[:2].mean() + values[2]) / 2)
        assert found.intervals.loc[name, "difference"] == pytest.approx(mean[f"{name}_diff"])


def test_windows_are_matched_by_id(pairs, damaged):
    path = damaged.b / "predictions.csv"
    predictions(damaged.b).sample(frac=1, random_state=0).to_csv(path, index=False)
    for found, expected in zip(numbers([damaged]), numbers(pairs[:1]), strict=True):
        pd.testing.assert_frame_equal(found, expected, rtol=1e-9)


def test_ccc_of_constant_predictions_is_zero(damaged):
    path = damaged.b / "predictions.csv"
    predictions(damaged.b).assign(arousal_pred=3.3).to_csv(path, index=False)
    found = numbers([damaged])
    assert found.figures["ccc_arousal_b"].tolist() == [0]
    assert np.isfinite(found.intervals[["low", "high"]]).all(axis=None)


# Intervals


def test_interval_is_that_of_a_plain_loop_over_dialogues(pairs):
    rng, replicates = np.random.default_rng(5), []
    folds = [[pair for pair in pairs[:4] if pair.fold == fold] for fold in FOLDS[:2]]
    tables = [[[predictions(p.a), predictions(p.b)] for p in fold] for fold in folds]
    for _ in range(300):
        by_fold = []
        for seeds in tables:
            dialogue = seeds[0][0]["segment_id"].str[:-5]
            rows = [np.flatnonzero(dialogue == name) for name in dialogue.unique()]
            drawn = np.concatenate([rows[number] for number in rng.integers(0, len(rows), len(rows))])
            by_fold.append(
                np.mean(
                    [recompute_main_figures(b.iloc[drawn]) - recompute_main_figures(a.iloc[drawn]) for a, b in seeds],
                    axis=0,
                )
            )
        replicates.append(np.mean(by_fold, axis=0))
    expected = np.quantile(replicates, [0.025, 0.975], axis=0)
    found = numbers(pairs[:4], 1999).intervals
    assert found["method"].tolist() == ["BCa"] * 6
    assert (np.abs(found[["low", "high"]].to_numpy().T - expected) < 0.15 * np.ptp(expected, axis=0)).all()


def made_sums(ids: list[str], seed: int) -> np.ndarray:
    """Sums of windows that B has all right or all wrong within a block of 20, and A half right."""
    rng, n = np.random.default_rng(seed), len(ids)
    emotion = np.eye(7, dtype=int)[np.zeros(n, dtype=int)]
    both = []
    for right in (np.arange(n) % 2 == 0, np.repeat(rng.random(n // 20) < 0.5, 20)):
        windows = pd.DataFrame(emotion, columns=EMOTIONS, index=ids).assign(right=right, predicted=1 - right)
        arousal = rng.normal(3, 1, n)
        both.append(windows.assign(arousal=arousal, arousal_pred=arousal, valence=arousal, valence_pred=arousal))
    return np.stack([dialogue_sums(windows) for windows in both], axis=1)[:, None]


def test_interval_counts_dialogues_not_windows():
    by_dialogue = bootstrap_intervals([made_sums(make_ids((1, 2, 3, 4), 6, 20), 0)], 999, 0)
    by_window = bootstrap_intervals([made_sums(make_ids(tuple(range(1, 13)), 40, 1), 0)], 999, 0)
    assert by_dialogue.loc["F1", "difference"] == pytest.approx(by_window.loc["F1", "difference"])
    wide, narrow = (found.loc["F1", "high"] - found.loc["F1", "low"] for found in (by_dialogue, by_window))
    assert wide == pytest.approx(2 * 1.96 * 0.5 / 24**0.5, rel=0.25)  # of 24 answers, B's are right or wrong as one
    assert wide > 2.5 * narrow


def test_interval_covers_the_difference_in_most_samples():
    covered = []
    for seed in range(150):
        # on average over dialogues A and B are as often right
        found = bootstrap_intervals([made_sums(make_ids((1, 2, 3, 4), 8, 20), seed)], 299, seed).loc["F1"]
        covered.append(found["low"] <= 0 <= found["high"])
    assert 0.89 <= np.mean(covered) <= 0.99


def test_seeds_and_both_configurations_share_a_resample(pairs):
    for fold in read_folds(pairs[:4]):
        there_and_back = np.concatenate([fold.sums[:, :1], fold.sums[:, :1, ::-1]], axis=1)
        found = bootstrap_intervals([there_and_back], 199, 0)  # B - A of one seed is A - B of the other
        np.testing.assert_array_equal(found[["difference", "low", "high"]], 0)
        single = bootstrap_intervals([fold.sums[:, :1]], 199, 0)
        assert (single["high"] - single["low"] > 0.01).all()


def test_folds_are_resampled_apart(pairs):
    sums = read_folds(pairs[:2])[0].sums
    one, two = (bootstrap_intervals(folds, 1999, 0) for folds in ([sums], [sums, sums]))
    ratio = (two["high"] - two["low"]) / (one["high"] - one["low"])
    np.testing.assert_allclose(ratio, 2**-0.5, rtol=0.12)


def test_the_seed_makes_the_resamples(pairs):
    folds = [fold.sums for fold in read_folds(pairs[:4])]
    first, again, other = (bootstrap_intervals(folds, 199, seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert (first["low"] != other["low"]).all()


def test_a_configuration_against_itself(pairs):
    found = numbers([pair._replace(b=pair.a) for pair in pairs[:4]])
    np.testing.assert_array_equal(found.intervals[["difference", "low", "high"]], 0)
    assert found.intervals["method"].tolist() == ["the same in all resamples"] * 6
    np.testing.assert_array_equal(found.mcnemar[["only_a", "only_b"]], 0)
    assert found.mcnemar["p"].tolist() == [1] * 6
    assert " ".join(compare([pairs[0]._replace(b=pairs[0].a)], NAMES, 99).split()).count("| +.000 | +.000 |") == 6


def test_a_difference_beyond_all_resamples_has_the_percentile_interval():
    means = np.random.default_rng(0).normal(size=12) / 4  # of a dialogue's arousal, predicted as in truth
    sums = pd.DataFrame(0.0, index=range(12), columns=list(SUMS)).assign(n=1, arousal_tt=2)
    a = sums.assign(arousal_t=means - means.mean())  # always answers one arousal: its CCC is 0
    b = a.assign(arousal_p=a["arousal_t"], arousal_pp=2, arousal_pt=1)
    found = bootstrap_intervals([np.stack([a, b], axis=1)[:, None]], 199, 0).loc["ccc_arousal"]
    assert found["difference"] == pytest.approx(0.5)  # (1 - m**2) / (2 - m**2) of a resample's mean m
    assert 0.4 < found["low"] < found["high"] < 0.5
    assert found["method"] == "percentile"


def test_a_fold_with_one_dialogue_has_no_interval(tmp_path):
    ids = make_ids((1,), 1, 20)
    folders = [finished_run(tmp_path / str(n), "speaker", (1,), ids, make_arrays(ids, 1, 2, n)) for n in (0, 1)]
    found = numbers([Pair("speaker", (1,), 0, *folders)])
    assert np.isfinite(found.figures["F1_diff"]).all()
    assert found.intervals[["low", "high"]].isna().all(axis=None)
    text = compare([Pair("speaker", (1,), 0, *folders)], NAMES)
    assert text.count("not defined: a fold has a single dialogue") == 6


# The spread over seeds


def test_the_spread_over_seeds_is_that_of_the_mean_over_folds_of_each_seed(pairs):
    found = numbers(pairs[:4]).intervals
    by_seed = []
    for seed in (0, 1):
        of_seed = [pair for pair in pairs[:4] if pair.seed == seed]
        both = [[recompute_main_figures(predictions(folder)) for folder in (pair.a, pair.b)] for pair in of_seed]
        by_seed.append(np.mean([b - a for a, b in both], axis=0))
    assert found["seeds"].tolist() == [2] * 6
    np.testing.assert_allclose(found["sd"], np.std(by_seed, axis=0, ddof=1), atol=1e-9)
    assert numbers(pairs[:1]).intervals["sd"].isna().all()


def test_a_difference_within_the_spread_over_seeds_is_named(pairs):
    found = numbers(pairs[:4]).intervals.assign(difference=0.02, sd=[0.03, 0.01, 0.01, 0.02, 0.01, 0.01], seeds=2)
    assert describe_seeds(found) == (
        "Within the spread over 2 seeds, so another seed could reverse the sign: weighted F1, CCC arousal."
    )
    assert describe_seeds(found.assign(sd=0.01)) == "No difference is within the spread over 2 seeds."
    assert describe_seeds(found.assign(difference=-0.02, sd=0.01)) == "No difference is within the spread over 2 seeds."
    assert describe_seeds(found.assign(sd=np.nan, seeds=1)).startswith("One seed in all folds: ")


# McNemar's test


def binomial_p(a: int, b: int) -> float:
    """Twice the smaller tail of a fair coin, at most 1."""
    return min(1.0, 2 * sum(math.comb(a + b, k) for k in range(min(a, b) + 1)) / 2 ** (a + b))


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (3, 3), (2, 9), (9, 2), (0, 12), (40, 61)])
def test_mcnemar_is_the_binomial_sum(a, b):
    assert mcnemar(a, b) == pytest.approx(binomial_p(a, b), rel=1e-9)


def test_mcnemar_counts_windows_that_one_alone_has_right(pairs):
    found = numbers(pairs[:4]).mcnemar
    assert found["test"].tolist() == ["1-4", "1-4", "5-8", "5-8", "2 folds", "2 folds"]
    assert found["seed"].tolist() == ["0", "1", "0", "1", "0", "1"]
    counts = []
    for pair in pairs[:4]:
        right = []
        for folder in (pair.a, pair.b):
            windows = predictions(folder)
            best = windows[[f"p_{name}" for name in EMOTIONS]].idxmax(axis=1).str[2:]
            right.append([answer in true.split(";") for answer, true in zip(best, windows["emotion"], strict=True)])
        answers = list(zip(*right, strict=True))
        counts.append([answers.count((True, False)), answers.count((False, True))])
    counts += [np.add(counts[0], counts[2]).tolist(), np.add(counts[1], counts[3]).tolist()]
    assert found[["only_a", "only_b"]].values.tolist() == counts
    assert found["p"].tolist() == pytest.approx([binomial_p(*pair) for pair in counts])
    assert found["windows"].tolist() == [96, 96, 120, 120, 216, 216]


# What cannot be compared


def test_no_pair_is_refused():
    with pytest.raises(InputError, match="both default and bidirectional"):
        compare([], NAMES)


# The text


def test_text_has_the_numbers_of_each_role(pairs):
    text = compare(pairs, ("default", "two\ndirections"), 199, seed=7)
    speaker, listener = text.split("# listener: ")
    assert speaker.startswith("# speaker: A = default, B = two\\ndirections\n")
    for part, of_role in ((speaker, pairs[:4]), (listener, pairs[4:])):
        found = compute_comparison(read_folds(of_role), 199, 7)
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line[:1] == "|"]
        for _, row in found.figures.iterrows():
            first, second = (cells for cells in rows if cells[:2] == [row["test"], row["seed"]] and len(cells) == 8)
            counts = [str(row[name]) for name in ("windows", "single_label", "dialogues")]
            assert first[2:5] == second[2:5] == counts
            for name, cell in zip(MAIN_FIGURES, first[5:] + second[5:], strict=True):
                values = [row[f"{name}_{what}"] for what in ("a", "b", "diff")]
                assert [float(value) for value in re.findall(r"[-+.\d]+", cell)] == pytest.approx(values, abs=5.01e-4)
        for name, row in found.intervals.iterrows():
            (shown,) = [cells for cells in rows if cells[0] == HEADINGS[name]]
            values = row[["difference", "low", "high"]].tolist()
            assert [float(cell) for cell in shown[1:4]] == pytest.approx(values, abs=5.01e-4)
            assert shown[4] == row["method"]
            assert shown[5] == ("-" if np.isnan(row["sd"]) else f"± {row['sd']:.3f}".replace("0.", "."))
        for _, row in found.mcnemar.iterrows():
            counts = [row["test"], row["seed"], str(row["windows"]), str(row["only_a"]), str(row["only_b"])]
            assert [*counts, f"{row['p']:.2g}"] in rows
    assert "199 resamples of dialogues" in speaker
    assert text.count("its p is too small") == text.count("windows of one dialogue overlap") == 1
