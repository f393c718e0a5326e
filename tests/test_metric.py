import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from metric import (
    batch_figures,
    ccc,
    confusion_matrix,
    fleiss_kappa,
    matched_macro,
    overall_figures,
    published_figures,
    validation_figures,
)

BATCH = 64


@pytest.fixture
def windows(reference):
    return reference("metric.npz")


def test_batch_figures_equal_the_published_ones(windows, reference):
    expected = reference("metric.json")["batches"]
    assert len(expected) == 3
    for k, suffix in ((1, ""), (2, "@2")):
        figures = batch_figures(windows["emotion_pred"], windows["emotion"], k, BATCH)
        for row, batch in zip(figures, expected, strict=True):
            assert row == pytest.approx([batch[name + suffix] for name in ("Precision", "Recall", "F1")], rel=1e-6)


def test_published_figures_are_printed_as_published(windows, reference):
    figures = published_figures(windows["emotion_pred"], windows["emotion"], BATCH)
    assert {name: value for name, value in figures.items() if isinstance(value, str)} == reference("metric.json")[
        "result"
    ]


def test_confusion_equals_the_published_one(windows, reference):
    confusion = confusion_matrix(windows["emotion_pred"], windows["emotion"])
    np.testing.assert_array_equal(confusion.T, reference("metric.json")["confusion"])
    assert matched_macro(confusion) == pytest.approx(reference("metric.json")["matched_macro"], rel=1e-6)


def test_confusion_counts_a_wrong_label_against_the_first_unmatched_true_one():
    emotion = np.zeros((1, 7), dtype=np.float32)
    emotion[0, [1, 2, 4]] = 1
    probabilities = np.array([[0, 0.3, 0.05, 0.4, 0.03, 0.2, 0.02]])  # likeliest: 3 (wrong), 1 (right), 5 (wrong)
    expected = np.zeros((7, 7))
    expected[1, 3] = expected[1, 1] = expected[2, 5] = 1  # rows: true
    np.testing.assert_array_equal(confusion_matrix(probabilities, emotion), expected)


def test_ccc_equals_the_published_one(windows, reference):
    assert ccc(windows["arousal_pred"], windows["arousal"]) == pytest.approx(reference("metric.json")["ccc"], abs=1e-12)


def test_ccc_of_a_constant_is_zero_and_of_itself_one():
    target = np.linspace(1, 5, 9)
    assert ccc(np.full(9, 3.3, dtype=np.float32), target) == 0
    assert ccc(target, np.full(9, 3.0)) == 0
    assert ccc(np.full(9, 3.0), np.full(9, 3.0)) == 0
    assert ccc(target, target) == pytest.approx(1)
    assert ccc(6 - target, target) == pytest.approx(-1)


@pytest.fixture
def overall(windows):
    valence = np.linspace(1, 5, len(windows["arousal"]))
    return overall_figures(windows | {"valence": valence, "valence_pred": valence + 0.5}, 5, BATCH)


def test_overall_figures_are_over_windows_with_one_label(windows, overall):
    single = windows["emotion"].sum(axis=1) == 1
    true, predicted = windows["emotion"][single].argmax(1), windows["emotion_pred"][single].argmax(1)
    assert (overall["n"], overall["n_single_label"]) == (150, 90)
    assert overall["accuracy"] == pytest.approx((true == predicted).mean(), abs=1e-4)
    assert overall["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, predicted), abs=1e-4)
    assert overall["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"), abs=1e-4)
    assert overall["weighted_f1"] == pytest.approx(f1_score(true, predicted, average="weighted"), abs=1e-4)
    assert overall["classes"]["happy"]["support"] == (true == 6).sum()
    assert overall["valence_mae"] == pytest.approx(0.5)


def test_majority_f1_is_the_published_f1_of_always_answering_it(windows, overall):
    hits = windows["emotion"][:, 5]
    by_batch = []
    for batch in (slice(0, 64), slice(64, 128), slice(128, 150)):
        p, r = hits[batch].mean(), (hits[batch] / windows["emotion"][batch].sum(1)).mean()
        by_batch.append(2 * p * r / (p + r + 1e-3))
    assert overall["majority_f1"] == pytest.approx(np.mean(by_batch), abs=1e-4)
    assert overall["majority_label"] == "neutral"


def test_majority_figures_are_those_of_a_constant_answer(windows, overall):
    single = windows["emotion"].sum(axis=1) == 1
    true = windows["emotion"][single].argmax(1)
    assert overall["majority"]["accuracy"] == pytest.approx((true == 5).mean(), abs=1e-4)
    assert overall["majority"]["balanced_accuracy"] == pytest.approx(1 / len(np.unique(true)), abs=1e-4)
    assert overall["majority"]["macro_f1"] == pytest.approx(f1_score(true, np.full(90, 5), average="macro"), abs=1e-4)


def test_overall_figures_of_ties_alone_leave_out_the_single_label_ones(windows):
    tied = windows["emotion"].sum(axis=1) > 1
    affect = dict.fromkeys(("arousal", "arousal_pred", "valence", "valence_pred"), np.linspace(1, 5, tied.sum()))
    emotion = {name: windows[name][tied] for name in ("emotion", "emotion_pred")}
    figures = overall_figures(emotion | affect, 5, BATCH)
    assert figures["n_single_label"] == 0
    assert "accuracy" not in figures


def test_figures_of_a_validation_are_those_of_a_test(windows, overall):
    valence = np.linspace(1, 5, len(windows["arousal"]))
    figures = validation_figures(windows | {"valence": valence, "valence_pred": valence + 0.5}, BATCH)
    published = published_figures(windows["emotion_pred"], windows["emotion"], BATCH)
    assert figures["f1"] == pytest.approx(published["f1"], abs=5e-5)
    for name in ("accuracy", "macro_f1"):
        assert figures[name] == pytest.approx(overall[name], abs=5e-5)
    assert figures["ccc_arousal"] == ccc(windows["arousal_pred"], windows["arousal"])
    assert figures["ccc_valence"] == ccc(valence + 0.5, valence)
    assert {type(value) for value in figures.values()} == {float}


def test_a_validation_of_ties_alone_has_no_figures_of_single_labels(windows):
    tied = windows["emotion"].sum(axis=1) > 1
    of_ties = {name: windows[name][tied] for name in ("emotion", "emotion_pred", "arousal", "arousal_pred")}
    of_ties |= {"valence": of_ties["arousal"], "valence_pred": of_ties["arousal_pred"]}
    assert validation_figures(of_ties, BATCH).keys() == {"f1", "ccc_arousal", "ccc_valence"}


def test_fleiss_kappa_of_a_worked_example():
    # 14 raters put 10 subjects into 5 categories: a worked example that gives .210
    votes = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
    )
    assert fleiss_kappa(votes / 14, n_raters=14) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_at_its_ends():
    assert fleiss_kappa(np.eye(7)) == pytest.approx(1)  # all agree on every utterance
    assert np.isnan(fleiss_kappa(np.eye(7)[[2, 2]]))  # nobody ever votes for anything else
