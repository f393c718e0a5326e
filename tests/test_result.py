"""What a test writes and prints: predictions.csv, result.json, the confusion and the report in a terminal."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from windows import make_arrays, make_rows, make_utterances

from constants import EMOTIONS
from corpora.utterances import SHARES
from metric import (
    PREDICTION_COLUMNS,
    PROBABILITIES,
    WHOLE_FIGURES,
    batch_figures,
    bootstrap,
    confusion_matrix,
    dialogue_sums,
    figures,
    published_figures,
    with_prediction,
)
from reports.groups import figures_by_group
from reports.plots import plot_confusion, plot_loss_curve
from reports.predictions import look_up, predictions_table, read_predictions
from reports.result import format_interval, judge, result_of_test, result_text, verdict_text
from reports.run_files import write_other_texts, write_run_page, write_test
from utils import InputError, read_json, write_csv

TRAINING = make_utterances((9,))


def make_options(data_path, **changed):
    """Options of a run that write_test and result_text use."""
    settings = {"SorL": "listener", "data_path": data_path, "audio_path": None, "test_split": [1, 2, 3]}
    settings |= {"batch_size": 32, "epochs": 100, "select": "last"}
    return SimpleNamespace(**settings | changed)


@pytest.fixture
def corpus(tmp_path):
    """A folder with the ids of KEMDy19 and an empty wav."""
    (tmp_path / "corpus/wav").mkdir(parents=True)
    (tmp_path / "corpus/wav/empty.wav").touch()
    TRAINING.rename(columns={"id": "Segment ID"}).to_csv(tmp_path / "corpus" / "df_speaker.csv", index=False)
    return tmp_path / "corpus"


@pytest.fixture
def rows():
    return make_rows(sessions=(1, 2, 3))


FORMULAS = ["=1+1", "+82 10", "-5", "@here", "\t=1", "'=1", "''-", "'quoted'", "a=b"]


def test_predictions_hold_no_formula_but_their_numbers_and_are_read_as_they_were(rows, tmp_path):
    path, n = tmp_path / "predictions.csv", len(FORMULAS)
    rows = rows.assign(start=-1.5)
    rows.loc[: n - 1, "text"], rows.loc[0, "speaker"] = FORMULAS, "=A1"
    write_csv(path, rows)
    content = path.read_bytes()
    assert content.startswith("\ufeffsegment_id,".encode())
    written = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert written["text"][:n].tolist() == [f"'{text}" for text in FORMULAS[:-2]] + FORMULAS[-2:]
    assert (written["speaker"][0], {*written["start"]}) == ("'=A1", {"-1.5"})
    for bom in (b"", "\ufeff".encode()):
        path.write_bytes(bom + content.removeprefix("\ufeff".encode()))
        found = read_predictions(path)
        assert found["text"].tolist() == rows["text"].tolist()
        assert (found["segment_id"][0], found["speaker"][0]) == (rows["segment_id"][0], "=A1")


def test_predictions_are_read_with_the_figures_of_those_that_were_written(tmp_path):
    table = make_utterances((1, 2, 3))
    table.loc[[3, 4], "text"] = ['"3", 예\n', "NA"]
    table["end"] = table["start"] + np.tile([1.9, 2, 5], len(table))[: len(table)]
    table.loc[5, ["start", "end"]] = np.nan
    rows = predictions_table(table, range(len(table)), make_arrays(table), TRAINING)
    expected = figures_by_group(rows, "neutral")
    assert {"duration", "rater agreement"} <= {*expected}
    write_csv(tmp_path / "predictions.csv", rows)
    for found in (pd.read_csv(tmp_path / "predictions.csv"), read_predictions(tmp_path / "predictions.csv")):
        assert [*found] == [*PREDICTION_COLUMNS, "scripted", "seen", "lookup", *SHARES]
        assert figures_by_group(found, "neutral") == expected
        np.testing.assert_array_equal(found[[*PROBABILITIES]].astype(np.float32), rows[[*PROBABILITIES]])
    assert found["text"].tolist() == table["text"].tolist()
    assert found["segment_id"].tolist() == table["id"].tolist()
    assert (found["pred_emotion"] == found[[*PROBABILITIES]].idxmax(axis=1).str[2:]).all()
    assert found.loc[found["text"] == "응", "seen"].isna().all()


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [("p_sad", "much", "much"), ("pred_valence", "", "row 6"), ("true_emotion", "joy", "row 6"), (None, "", "p_sad")],
)
def test_damaged_predictions_are_one_line_that_names_the_row(tmp_path, rows, column, value, found):
    path = tmp_path / "predictions.csv"
    with pytest.raises(InputError, match=r"predictions\.csv: "):
        read_predictions(path)
    write_csv(path, rows)
    table = pd.read_csv(path, dtype=str)
    table.loc[4, column or "p_sad"] = value
    table[[name for name in table if column or name != "p_sad"]].to_csv(path, index=False)
    with pytest.raises(InputError, match=r"predictions\.csv: .*" + found):
        read_predictions(path)


def test_a_sentence_is_looked_up_in_training_by_its_letters():
    trained = {
        "b/ 나는 (안+안) 간다. n/": ["angry", "sad", "sad;happy"],
        "다른 말을 했다": ["angry", "neutral"],  # of labels that tie the majority
        "또 다른 말이다": ["happy;disgust"],  # and else the first
        "응 그래": ["fear"],  # fewer than five letters
        "QR코드 \u1100\u1173": ["sad"],  # letters composed or not
    }
    pairs = [(text, label) for text, labels in trained.items() for label in labels]
    train_rows = pd.DataFrame(pairs, columns=["text", "emotion"])
    texts = pd.Series(
        ["나는 안안간다", "다른 말을, 했다!", "또 다른 말이다", "응 그래", "", "처음 듣는 말", "qr 코드그"]
    )
    found = look_up(texts, train_rows, "neutral")
    assert found["seen"].tolist() == [True, True, True, None, None, False, True]
    assert found["lookup"].tolist() == ["sad", "neutral", "disgust", "neutral", "neutral", "neutral", "sad"]
    assert look_up(texts, train_rows.assign(text=""), "neutral").isna().all(axis=None)


def written(folder, rows, options, table=None, **facts):
    """The content of `result.json` of a test of `rows` whose files are written into `folder`."""
    table = make_utterances((1, 2, 3)) if table is None else table
    result = result_of_test(rows, options, table, TRAINING)
    result |= {"epoch": None, "encoders": [], "warnings": [], "batch_norm": None} | facts
    write_test(folder, rows, options, result)
    return result


def test_a_test_writes_its_files_and_its_report(rows, corpus, tmp_path):
    options = make_options(corpus, select="ccc", valid_split=[4, 5])
    shutil.rmtree(corpus / "wav")
    told = {"epoch": 7, "missing": {"audio": ["Sess01_script01_F000"]}, "warnings": ["Of another encoder."]}
    with pytest.warns(UserWarning, match="dialogues.html"):
        result = written(tmp_path, rows, options, **told)
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    plots = {f"{name}.{suffix}" for name in ("confusion", "reliability") for suffix in ("png", "pdf")}
    pages = {"dialogues.html", "result.html"}
    assert files == {"result.json", "predictions.csv", "confusion.txt"} | plots | pages
    assert read_json(tmp_path / "result.json") == result
    for page in pages:
        assert "Of another encoder." in (tmp_path / page).read_text("utf-8")
    page = (tmp_path / "result.html").read_text("utf-8")
    assert not [text for text in rows["text"] if text and text in page]  # it can be shared
    published = published_figures(rows, 32)
    assert [*result][: len(published)] == [*published]
    assert result.items() >= (published | told | {"epochs": 100}).items()
    overall, found, always = result["overall"], figures(rows), with_prediction(rows, "neutral")
    expected = {"accuracy": found["accuracy"], "majority_f1": batch_figures(always, 1, 32)[:, 2].mean()}
    assert {name: overall[name] for name in expected} == pytest.approx(expected, abs=6e-5)
    assert overall["majority_label"] == "neutral"
    text = result_text(result, tmp_path, options)
    for part in ("listener", "KEMDy19", "1-3", "96 windows", "12 dialogues", "epoch 7 of 100", "ccc", "4-5", "neutral"):
        assert part in text
    for name in WHOLE_FIGURES:
        low, high = result["intervals"][name]
        assert low < overall.get(name, result.get(name)) < high
        assert format_interval(low, high) in text
    (line,) = [line for line in text.splitlines() if line.startswith("sentence: in training")]
    group = result["groups"]["sentence"]["in training"]
    shown = (group["macro_f1"], group["lookup"]["macro_f1"], group["ccc_arousal"], group["ccc_valence"])
    assert line.split()[-6:] == [f"{group['n']}", f"{group['dialogues']}", *map("{:.3f}".format, shown)]


@pytest.mark.parametrize("corpus", ["KEMDy19", "KEMDy20"])
def test_a_report_has_at_most_25_lines_and_names_its_files(corpus, tmp_path):
    table, options = make_utterances((1, 2, 3), corpus=corpus), make_options(tmp_path)
    rows = predictions_table(table, range(len(table)), make_arrays(table), TRAINING)
    result = result_of_test(rows, options, table, TRAINING, temperature=1.3) | {"epoch": 7, "temperature": 1.3}
    for other_texts in ({}, write_other_texts(tmp_path, rows, rows.assign(pred_emotion="sad"))):
        text = result_text(result | other_texts, tmp_path, options)
        assert ("difference" in text.partition("raters")[0]) == bool(other_texts)
        assert "1.300" in text
        assert (text.index("\nmacro F1") < text.index("\nweighted F1")) == (corpus == "KEMDy20")
        lines = text.splitlines()
        assert len(lines) <= 25
        assert [line.split()[-1] for line in lines[-2:]] == [str(tmp_path / "result.html"), str(tmp_path)]


def test_the_page_of_a_run_fits_a_phone_and_asks_for_nothing(rows, corpus, tmp_path, browser):
    written(tmp_path, rows, make_options(corpus), warnings=["<script>alert(1)</script>"])
    browser.open_on_phone(tmp_path / "result.html")
    assert browser.evaluate("(table => table.scrollWidth <= table.clientWidth)(document.querySelector('.scroll'))")


def test_the_page_marks_a_group_whose_interval_lies_below_the_whole_test_set(rows, corpus, tmp_path):
    result, options = written(tmp_path, rows, make_options(corpus)), make_options(corpus)
    counts, value = {"n": 30, "n_single_label": 30, "dialogues": 5}, result["overall"]["macro_f1"]
    bounds = {"below": [0.0, value - 0.01], "at": [0.0, value], "unknown": None}
    groups = {label: counts | {"macro_f1": 0.1, "intervals": {"macro_f1": pair}} for label, pair in bounds.items()}
    write_run_page(tmp_path, rows, options, result | {"groups": {"session": groups | {"small": counts}}})
    page = (tmp_path / "result.html").read_text("utf-8")
    lines = {label: re.search(f"<td>{label}</td>.*?</tr>", page, re.DOTALL)[0] for label in groups}
    assert {label: "▼" in line for label, line in lines.items()} == {label: label == "below" for label in lines}
    assert all("0.100" in line for line in lines.values())
    assert "<td>small</td>" not in page


def test_a_test_without_a_window_of_one_label_has_neither_accuracy_nor_its_interval(rows, corpus, tmp_path):
    rows = rows.assign(true_emotion="sad;happy")
    result = written(tmp_path, rows, make_options(corpus))
    assert not {"accuracy", "majority", "classes"} & {*result["overall"]}
    assert "verdict" not in result
    assert result["intervals"]["accuracy"] is None
    assert result["intervals"]["ccc_arousal"][0] < result["ccc_arousal"]
    assert "accuracy" not in result_text(result, tmp_path, make_options(corpus)).partition("dialogue type")[0]


def test_confusion_has_true_labels_in_rows_but_for_the_published_file(rows, corpus, tmp_path):
    written(tmp_path, rows, make_options(corpus))
    expected = confusion_matrix(rows)
    _, _, *lines = (tmp_path / "confusion.txt").read_text().splitlines()
    np.testing.assert_array_equal([[int(cell) for cell in line.split()[1:]] for line in lines[:7]], expected.T)
    axes, _ = plot_confusion(expected, EMOTIONS).axes
    assert [int(text.get_text()) for text in axes.texts] == expected.ravel().tolist()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    np.testing.assert_allclose(axes.images[0].get_array(), expected / np.maximum(expected.sum(1, keepdims=True), 1))


def test_a_model_is_better_where_the_interval_over_dialogues_is_above_zero(rows):
    truth = rows["true_emotion"].str.partition(";")[0]
    single = with_prediction(rows, truth)[rows["dialogue"] == rows["dialogue"][0]]
    for predicted, difference, word in (
        (with_prediction(rows, truth), 1, "better"),
        (with_prediction(rows, truth.where(rows.index < 8, "neutral")), 1, ""),  # right in one dialogue
        (with_prediction(rows, "neutral"), 0, ""),
        (with_prediction(rows, "disgust"), -1, "worse"),
        (single, 1, ""),
    ):
        found = judge(predicted.assign(lookup=None), "neutral")
        assert np.sign(found["majority"]["difference"]) == difference
        assert (found["majority"]["interval"] is None) == (predicted is single)
        assert "".join(re.findall("better|worse", verdict_text({"verdict": found}))) == word


def test_the_verdict_is_of_macro_f1_as_it_is_printed(rows, corpus, tmp_path):
    options, labelled = make_options(corpus), rows[rows["true_emotion"].isin(EMOTIONS)]
    result = written(tmp_path, rows, options)
    text = result_text(result, tmp_path, options)
    (printed,) = [line.split()[2:] for line in text.splitlines() if line.startswith("macro F1 ")]
    answers = (labelled["pred_emotion"], ["neutral"] * len(labelled), labelled["lookup"])
    by_sklearn = [f1_score(labelled["true_emotion"], answer, average="macro") for answer in answers]
    found = [float(value) for value in re.findall(r"[-+]?\d*\.\d{3}", text.partition("verdict: ")[2])]
    model, majority, lookup = (round(value, 3) for value in by_sklearn)
    assert [found[0], found[1], found[5]] == [model, majority, lookup] == [float(printed[i]) for i in (0, -2, -1)]
    assert [found[2], found[6]] == pytest.approx([model - majority, model - lookup], abs=1e-9)
    stored = result["verdict"]
    assert (stored["figure"], stored["model"]) == ("macro_f1", result["overall"]["macro_f1"])
    for name, at in (("majority", 3), ("lookup", 7)):
        assert stored[name]["value"] == result["overall"][name]["macro_f1"]
        assert found[at : at + 2] == pytest.approx(stored[name]["interval"], abs=5.1e-4)
        baseline = with_prediction(rows, "neutral" if name == "majority" else rows["lookup"])
        sums = [dialogue_sums(table) for table in (baseline, rows)]
        bounds = bootstrap([np.stack(sums, axis=1)[:, None]]).loc["macro_f1", ["low", "high"]]
        assert stored[name]["interval"] == pytest.approx(bounds.tolist(), abs=6e-5)


def test_the_loss_curve_has_the_losses_by_epoch():
    history = [{"epoch": 1, "train_loss": 2.0, "valid_loss": 2.5}, {"epoch": 2, "train_loss": 1.0, "valid_loss": 2.4}]
    training, validation = plot_loss_curve(history).axes[0].lines
    np.testing.assert_allclose([training.get_ydata(), validation.get_ydata()], [[2.0, 1.0], [2.5, 2.4]])
