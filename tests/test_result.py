import numpy as np
import pytest

from corpora.kemdy19 import KEMDy19
from corpora.kemdy20 import KEMDy20
from metric import ccc
from reports.result import compute_result, describe_result, predictions_table, write_result


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
    assert result["ccc_arousal"] == pytest.approx(expected["ccc"], abs=1e-4)
    assert result["ccc_valence"] == 0
    assert result["overall"]["majority_label"] == "neutral"
    assert result["overall"]["arousal_mae"] == pytest.approx(
        np.abs(arrays["arousal"] - arrays["arousal_pred"]).mean(), abs=1e-4
    )


def test_predictions_have_one_row_per_window(arrays):
    ids = [f"id{i}" for i in range(150)]
    table = predictions_table(ids, arrays)
    assert table["segment_id"].tolist() == ids
    tied = int(np.flatnonzero(arrays["emotion"].sum(axis=1) == 2)[0])
    assert table["emotion"][tied].count(";") == 1
    np.testing.assert_array_equal(table["p_happy"], arrays["emotion_pred"][:, 6])
    assert ccc(table["arousal_pred"], table["arousal"]) == ccc(arrays["arousal_pred"], arrays["arousal"])


def test_description_puts_the_baseline_beside_the_figures(arrays, tmp_path):
    result = write_result(tmp_path, [str(i) for i in range(150)], arrays, 5, 64)
    text = describe_result(result, tmp_path, "listener", [1, 2], KEMDy19())
    overall = result["overall"]
    assert "listener, KEMDy19, sessions 1, 2: 150 windows, 90 of them" in text
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {name.replace('_', ' ')} ")]
        assert line.split()[-2:] == [f"{overall[name]:.3f}", f"{overall['majority'][name]:.3f}"]
    assert f"{overall['majority_f1']:.3f}" in text
    assert text.endswith(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        "result.json",
        "predictions.csv",
        "confusion.txt",
        "confusion.png",
    }


def test_macro_f1_comes_first_for_a_corpus_of_mostly_one_emotion(arrays, tmp_path):
    result = compute_result(arrays, majority=5, batch_size=64)
    lines = describe_result(result, tmp_path, "speaker", [1, 2], KEMDy20()).splitlines()
    assert lines[1].startswith("speaker, KEMDy20, sessions 1, 2: ")
    assert lines[3].startswith("whole set")
    assert lines[4].split() == ["macro", "f1", f"{result['overall']['macro_f1']:.3f}", lines[4].split()[-1]]
    assert sum("macro f1" in line for line in lines) == 1
    assert any("CCC" in line for line in lines)
