"""Figures: the published ones against values of the published program, the others against scikit-learn, intervals."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics as sk
from windows import ccc, make_rows

from constants import EMOTIONS
from metric import (
    AFFECT,
    PROBABILITIES,
    batch_figures,
    bootstrap,
    class_figures,
    confusion_matrix,
    dialogue_sums,
    figures,
    main_figures,
    matched_macro,
    published_figures,
    validation_figures,
    window_values,
    with_prediction,
)

BATCH = 64


def rows_of(emotion_pred, emotion, **affect):
    """Rows of predictions.csv from arrays: probabilities and multi-hot labels, shape = (N, 7), `true_` and `pred_`."""
    rows = pd.DataFrame(emotion_pred, columns=PROBABILITIES)
    rows["true_emotion"] = [";".join(np.array(EMOTIONS)[labels]) for labels in emotion.astype(bool)]
    rows["pred_emotion"] = np.array(EMOTIONS)[emotion_pred.argmax(axis=1)]
    unknown = {f"{side}_{name}": np.float32(3) for side in ("true", "pred") for name in AFFECT}
    return rows.assign(**unknown | affect)


@pytest.fixture
def windows(reference):
    arrays = reference("metric.npz")
    affect = {"true_arousal": arrays["arousal"], "pred_arousal": arrays["arousal_pred"]}
    return rows_of(arrays["emotion_pred"], arrays["emotion"], **affect)


def test_figures_by_batch_are_the_published_ones(windows, reference):
    expected = reference("metric.json")
    for k, suffix in ((1, ""), (2, "@2")):
        for row, batch in zip(batch_figures(windows, k, BATCH), expected["batches"], strict=True):
            assert row == pytest.approx([batch[name + suffix] for name in ("Precision", "Recall", "F1")], rel=1e-6)
    found = published_figures(windows, BATCH)
    assert {name: value for name, value in found.items() if isinstance(value, str)} == expected["result"]
    for name in expected["result"]:
        mean, sd = (found[name.lower().replace("@2", "_at_2") + end] for end in ("", "_sd"))
        assert [mean, sd] == pytest.approx([float(number) for number in found[name].split("+-")], abs=5.6e-4)


def test_confusion_is_the_published_one(windows, reference):
    confusion = confusion_matrix(windows)
    np.testing.assert_array_equal(confusion.T, reference("metric.json")["confusion"])
    assert matched_macro(confusion) == pytest.approx(reference("metric.json")["matched_macro"], rel=1e-6)


def test_confusion_counts_a_wrong_label_against_the_first_unmatched_true_one():
    emotion = np.zeros((1, 7))
    emotion[0, [1, 2, 4]] = 1
    probabilities = np.array([[0, 0.3, 0.05, 0.4, 0.03, 0.2, 0.02]])  # likeliest: 3 (wrong), 1 (right), 5 (wrong)
    expected = np.zeros((7, 7))
    expected[1, 3] = expected[1, 1] = expected[2, 5] = 1  # rows: true
    np.testing.assert_array_equal(confusion_matrix(rows_of(probabilities, emotion)), expected)


def test_ccc_is_the_published_one_and_zero_of_a_constant(windows, reference):
    expected = reference("metric.json")["ccc"]
    assert ccc(windows["pred_arousal"], windows["true_arousal"]) == pytest.approx(expected, abs=1e-12)
    assert figures(windows)["ccc_arousal"] == pytest.approx(expected, abs=1e-7)  # float32
    target, rows = np.linspace(1, 5, 9), make_rows()[:9]
    pairs = ((np.full(9, 3.3), target, 0), (target, np.full(9, 3.0), 0), (target, target, 1), (6 - target, target, -1))
    for prediction, truth, value in pairs:
        found = figures(rows.assign(pred_valence=prediction, true_valence=truth))["ccc_valence"]
        assert found == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("change", ["none", "one emotion is never true", "one is never predicted", "constant valence"])
def test_figures_are_those_of_scikit_learn(change):
    rows = make_rows(skill=0.8)
    if change == "one emotion is never true":
        rows = rows[~rows["true_emotion"].str.contains("sad")]
    elif change == "one is never predicted":
        rows = with_prediction(rows, rows["pred_emotion"].replace("angry", "happy"))
    elif change == "constant valence":
        rows = rows.assign(pred_valence=2.71)
    single = rows[rows["true_emotion"].isin(EMOTIONS)]
    true, predicted = single["true_emotion"], single["pred_emotion"]
    labels = [name for name in EMOTIONS if name in {*true, *predicted}]
    expected = {
        "n": len(rows),
        "n_single_label": len(single),
        "accuracy": sk.accuracy_score(true, predicted),
        "balanced_accuracy": sk.recall_score(true, predicted, labels=true.unique(), average="macro", zero_division=0),
        "macro_f1": sk.f1_score(true, predicted, average="macro", zero_division=0),
        "weighted_f1": sk.f1_score(true, predicted, average="weighted", zero_division=0),
        "F1": batch_figures(rows, 1, len(rows))[0, 2],
    }
    for name in AFFECT:
        expected[f"ccc_{name}"] = ccc(rows[f"pred_{name}"], rows[f"true_{name}"])
        expected[f"{name}_mae"] = sk.mean_absolute_error(rows[f"true_{name}"], rows[f"pred_{name}"])
    found = figures(rows)
    assert found == pytest.approx(expected, abs=1e-6)
    assert isinstance(found["n"], int)
    report = sk.classification_report(true, predicted, labels=labels, output_dict=True, zero_division=0)
    by_class = class_figures(rows)
    assert [*by_class] == labels
    assert all(numbers == pytest.approx(report[name]) for name, numbers in by_class.items())


def test_without_a_window_of_one_label_the_figures_of_labels_are_left_out():
    rows = make_rows().assign(true_emotion="sad;happy")
    found = figures(rows)
    assert found["n_single_label"] == 0
    undefined = {name for name, value in found.items() if np.isnan(value)}
    assert undefined == {"accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"}
    assert validation_figures(rows, BATCH).keys() == {"f1", "ccc_arousal", "ccc_valence"}
    assert [*validation_figures(make_rows(), BATCH)] == ["f1", "accuracy", "macro_f1", "ccc_arousal", "ccc_valence"]


@pytest.mark.parametrize("is_difference", [False, True])
def test_intervals_are_those_of_scipy_of_dialogues_drawn_again_window_by_window(is_difference):
    """Of the mean over two folds of the mean over two runs, or of the difference of two configurations."""
    runs = [{"seed": seed, "skill": skill} for seed in (0, 1) for skill in (1.0, 2.0)]
    folds = [[make_rows(sessions=sessions, dialogues=3, **run) for run in runs] for sessions in ((1, 2), (3, 4))]
    dialogues = [pd.factorize(tables[0]["dialogue"], sort=True) for tables in folds]

    def statistic(*drawn, axis=-1):
        total = 0
        for of_fold, tables, (of_each, names) in zip(drawn, folds, dialogues, strict=True):
            times = (of_fold[..., None] == np.arange(len(names))).sum(axis=-2)[..., of_each].astype(float)
            a0, b0, a1, b1 = (main_figures(times @ window_values(rows)) for rows in tables)
            total = total + (b0 + b1 - a0 - a1 if is_difference else a0 + a1) / 4
        return np.moveaxis(total, -1, 0).round(12)  # accuracies of resamples that are the same

    settings = {"n_resamples": 999, "vectorized": True, "axis": -1, "rng": np.random.default_rng(5)}
    numbers = [np.arange(len(names)) for _, names in dialogues]
    expected = scipy.stats.bootstrap(numbers, statistic, method="BCa", **settings).confidence_interval
    sums = [np.stack([dialogue_sums(rows) for rows in tables], axis=1) for tables in folds]
    pairs = [of_fold.reshape(len(of_fold), 2, 2, -1) for of_fold in sums]
    found = bootstrap(pairs if is_difference else [of_fold[:, :, 0] for of_fold in pairs], 999, seed=5)
    np.testing.assert_allclose(found["value"], statistic(*numbers), atol=1e-9)
    np.testing.assert_allclose(found[["low", "high"]].T, expected, atol=1e-9)


def test_a_single_dialogue_has_no_interval_and_equal_runs_one_of_no_width():
    sums = dialogue_sums(make_rows())[:, None]
    assert bootstrap([sums[:1]])[["low", "high"]].isna().all(axis=None)
    same = bootstrap([np.stack([sums, sums], axis=2)])
    assert (same[["value", "low", "high"]] == 0).all(axis=None)
