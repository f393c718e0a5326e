import json

import numpy as np
import pandas as pd
import pytest
from compared_runs import make_arrays, make_ids
from sklearn.metrics import confusion_matrix

from constants import EMOTIONS
from corpora.kemdy19 import KEMDy19
from corpora.kemdy20 import KEMDy20
from metric import batch_figures, ccc
from reports import result as result_module
from reports.result import (
    Context,
    compare_with_majority,
    compute_result,
    describe_result,
    describe_verdict,
    predictions_table,
    write_result,
)

IDS = make_ids((1, 2, 3), 10, 5)  # 150 windows of 30 dialogues


@pytest.fixture
def arrays(reference):
    arrays = reference("metric.npz")
    return {
        **arrays,
        "valence": arrays["arousal"][::-1].copy(),
        "valence_pred": np.full(len(arrays["arousal"]), 3.0),
    }


def test_result_holds_the_published_figures_and_the_whole_set_ones(arrays, reference):
    result = compute_result(arrays, majority=5, batch_size=64)
    expected = reference("metric.json")
    assert {name: result[name] for name in expected["result"]} == expected["result"]
    assert [*result][: len(expected["result"])] == [*expected["result"]]
    assert result["ccc_arousal"] == pytest.approx(expected["ccc"], abs=1e-4)
    assert result["ccc_valence"] == 0
    assert result["overall"]["majority_label"] == "neutral"
    assert result["overall"]["arousal_mae"] == pytest.approx(
        np.abs(arrays["arousal"] - arrays["arousal_pred"]).mean(), abs=1e-4
    )


def test_result_has_the_published_figures_as_numbers_too(arrays):
    result = compute_result(arrays, majority=5, batch_size=64)
    for k, at, suffix in ((1, "", ""), (2, "@2", "_at_2")):
        by_batch = batch_figures(arrays["emotion_pred"], arrays["emotion"], k, 64)
        for name, mean, sd in zip(("Precision", "Recall", "F1"), by_batch.mean(0), by_batch.std(0), strict=True):
            key = f"{name.lower()}{suffix}"
            assert (result[key], result[f"{key}_sd"]) == (pytest.approx(mean, abs=5e-5), pytest.approx(sd, abs=5e-5))
            assert f"{mean:.3f}+-{sd:.3f}" == result[f"{name}{at}"]


def test_predictions_have_one_row_per_window(arrays):
    table = predictions_table(IDS, arrays)
    assert table["segment_id"].tolist() == IDS
    tied = int(np.flatnonzero(arrays["emotion"].sum(axis=1) == 2)[0])
    assert table["emotion"][tied].count(";") == 1
    np.testing.assert_array_equal(table["p_happy"], arrays["emotion_pred"][:, 6])
    assert ccc(table["arousal_pred"], table["arousal"]) == ccc(arrays["arousal_pred"], arrays["arousal"])


def test_predictions_end_in_who_said_what_and_the_predicted_label(arrays):
    table = predictions_table(IDS, arrays, [f"말 {i}" for i in range(150)])
    columns = [*table]
    assert columns[13:] == ["session", "dialogue", "speaker", "predicted", "text"]
    row = table.iloc[51]
    assert (row["session"], row["dialogue"], row["speaker"], row["text"]) == (2, "Sess02_impro00", "M", "말 51")
    assert table["predicted"].tolist() == [EMOTIONS[i] for i in arrays["emotion_pred"].argmax(1)]
    assert set(predictions_table(IDS, arrays)["text"]) == {""}  # a table without transcripts


def test_description_puts_the_baseline_beside_the_figures(arrays, tmp_path):
    result = write_result(
        tmp_path,
        IDS,
        arrays,
        5,
        64,
        Context(epoch=7, epochs=100, chosen="best by ccc", warnings=["Of another encoder."]),
    )
    text = describe_result(result, tmp_path, "listener", [1, 2], [KEMDy19()])
    overall = result["overall"]
    assert "listener, KEMDy19, sessions 1, 2: 150 windows of 30 dialogues, 90 of them" in text
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"):
        words = name.replace("_", " ").replace("f1", "F1")
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {words} ")]
        numbers = line.removeprefix(f"  {words} ").split()
        assert [numbers[0], numbers[-1]] == [f"{overall[name]:.3f}", f"{overall['majority'][name]:.3f}"]
        if name != "balanced_accuracy":
            bounds = [f"{bound:.3f}".removeprefix("0") for bound in result["intervals"][name]]
            assert numbers[1:-1] == [bounds[0], "to", bounds[1]]
    assert f"{overall['majority_f1']:.3f}" in text
    assert text.splitlines()[-2:] == [describe_verdict(result), f"experiment folder: {tmp_path}"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "result.json",
        "predictions.csv",
        "confusion.txt",
        "confusion.png",
    }
    stored = json.loads((tmp_path / "result.json").read_text())
    assert (stored["epoch"], stored["epochs"], stored["warnings"]) == (7, 100, ["Of another encoder."])
    assert "weights of epoch 7 of 100, best by ccc\n" in text


def test_own_figures_are_not_headed_published(arrays, tmp_path):
    text = describe_result(write_result(tmp_path, IDS, arrays, 5, 64), tmp_path, "speaker", [1], [KEMDy19()])
    assert "published" not in text
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith(("as the", "whole"))] == [
        "whole test set",
        "as the paper counts (per batch)",
    ]


def test_confusion_has_true_labels_in_rows_but_for_the_published_file(arrays, tmp_path, monkeypatch):
    single = arrays["emotion"].sum(axis=1) == 1
    arrays = {name: array[single] for name, array in arrays.items()}
    ids = [segment for segment, kept in zip(IDS, single, strict=True) if kept]
    drawn = []
    plot = result_module.plot_confusion
    monkeypatch.setattr(result_module, "plot_confusion", lambda *given: drawn.append(plot(*given)) or drawn[-1])
    write_result(tmp_path, ids, arrays, 5, 64)
    expected = confusion_matrix(arrays["emotion"].argmax(1), arrays["emotion_pred"].argmax(1), labels=range(7))
    assert not np.array_equal(expected, expected.T)
    (axes, _) = drawn[0].axes
    assert [int(text.get_text()) for text in axes.texts] == expected.ravel().tolist()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    np.testing.assert_allclose(axes.images[0].get_array(), expected / np.maximum(expected.sum(1, keepdims=True), 1))
    head, _, *rows = (tmp_path / "confusion.txt").read_text().splitlines()
    assert head.startswith("rows: predicted, columns: true, as published")
    np.testing.assert_array_equal([[int(cell) for cell in row.split()[1:]] for row in rows[:7]], expected.T)


# The verdict


@pytest.fixture
def tested() -> dict[str, np.ndarray]:
    return make_arrays(IDS, 1, 2.0, 0)


def verdict(arrays: dict[str, np.ndarray], ids: list[str] = IDS, majority: int = 5) -> tuple[dict, str]:
    found = compare_with_majority(ids, arrays, majority)
    return found, describe_verdict({"against_majority": found, "overall": {"majority_label": EMOTIONS[majority]}})


def test_a_model_is_better_where_the_interval_over_dialogues_is_above_zero(tested):
    found, sentence = verdict(tested)
    assert 0 < found["low"] < found["f1_difference"] < found["high"]
    assert found["dialogues"] == 30
    assert sentence.startswith("verdict: better than always answering neutral: its F1 over the whole test set differs")
    assert "95% interval +." in sentence
    assert sentence.endswith("over 30 dialogues).")


def test_the_difference_is_that_of_f1_over_all_windows(tested):
    always = np.tile(np.eye(7)[5], (150, 1))
    model, baseline = (
        batch_figures(answers, tested["emotion"], 1, 150)[0, 2] for answers in (tested["emotion_pred"], always)
    )
    assert verdict(tested)[0]["f1_difference"] == pytest.approx(model - baseline, abs=1e-4)


def test_a_model_that_differs_by_chance_is_no_better(tested):
    """Some windows more are right than always answering neutral gets, but all of them in one dialogue of thirty."""
    emotion_pred = np.tile(np.eye(7)[5], (150, 1))
    emotion_pred[:5] = tested["emotion"][:5]
    found, sentence = verdict(tested | {"emotion_pred": emotion_pred})
    assert found["f1_difference"] > 0 >= found["low"]
    assert sentence.startswith("verdict: no better than always answering neutral, as far as this test can tell")


def test_the_majority_itself_is_no_better_and_a_worse_model_is_called_worse(tested):
    found, sentence = verdict(tested | {"emotion_pred": np.tile(np.eye(7)[5], (150, 1))})
    assert (found["f1_difference"], found["low"], found["high"]) == (0, 0, 0)
    assert sentence.startswith("verdict: no better than always answering neutral")
    _, sentence = verdict(tested | {"emotion_pred": 1 - tested["emotion"]})
    assert sentence.startswith("verdict: worse than always answering neutral")


def test_a_single_dialogue_decides_nothing(tested):
    found, sentence = verdict({name: array[:5] for name, array in tested.items()}, IDS[:5])
    assert (found["low"], found["high"], found["dialogues"]) == (None, None, 1)
    assert sentence.startswith("verdict: 1 dialogue cannot tell the model from always answering neutral")


def test_predictions_of_a_test_are_read_by_pandas_as_they_were(arrays, tmp_path):
    write_result(tmp_path, IDS, arrays, 5, 64, Context([f'"{i}", 예\n' for i in range(150)]))
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert len(table) == 150
    assert table["text"][3] == '"3", 예\n'


def test_macro_f1_comes_first_for_a_corpus_of_mostly_one_emotion(arrays, tmp_path):
    result = write_result(tmp_path, IDS, arrays, 5, 64)
    lines = describe_result(result, tmp_path, "speaker", [1, 2], [KEMDy20()]).splitlines()
    assert lines[1].startswith("speaker, KEMDy20, sessions 1, 2: ")
    assert lines[3].startswith("whole test set")
    assert lines[4].split()[:3] == ["macro", "F1", f"{result['overall']['macro_f1']:.3f}"]
    assert sum(line.startswith("  macro F1") for line in lines) == 1
    assert any("CCC" in line for line in lines)
