import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from compared_runs import make_beyond, predictions, recompute_main_figures

from corpora.kemdy19 import FOLDS
from metric import WHOLE_FIGURES
from reports.against import compare_with_baseline, make_cell
from reports.runs import Entry, read_run
from reports.tables import write_report

ROWS = {"MATE": 1.5, "speakers": 1.5, "encoder": 2.5}


@pytest.fixture(scope="module")
def beyond(tmp_path_factory):
    """Entries of a table that compares its rows with MATE: two folds, three seeds, one role; read only."""
    entries = make_beyond(tmp_path_factory.mktemp("beyond"), FOLDS[:2], 3, ROWS)
    return entries, {entry.folder: read_run(entry.folder) for entry in entries}


def differences_by_seed(entries, row: str) -> np.ndarray:
    """Of each seed, the mean over folds of the row's figures less MATE's; shape = (seeds, 6)."""
    figures = {
        (entry.row, entry.test_split, entry.seed): recompute_main_figures(predictions(entry.folder))
        for entry in entries
        if entry.role == "speaker" and entry.row in ("MATE", row)
    }
    return np.array(
        [np.mean([figures[row, f, seed] - figures["MATE", f, seed] for f in FOLDS[:2]], axis=0) for seed in range(3)]
    )


def test_rows_are_compared_with_the_baseline_over_folds_and_seeds(beyond):
    entries, runs = beyond
    found = compare_with_baseline(entries, runs)
    assert [(row.role, row.row) for row in found.rows] == [("speaker", "speakers"), ("speaker", "encoder")]
    assert {row.counts for row in found.rows} == {"2 folds, 3 seeds, 32 dialogues"}
    for row in ("speakers", "encoder"):
        numbers = found.numbers[found.numbers["row"] == row].set_index("figure")
        by_seed = differences_by_seed(entries, row)
        for place, name in enumerate(WHOLE_FIGURES):
            of_figure = numbers.loc[name]
            assert of_figure["difference"] == pytest.approx(by_seed[:, place].mean(), abs=1e-9)
            assert of_figure["sd"] == pytest.approx(by_seed[:, place].std(ddof=1), abs=1e-9)
            assert of_figure["low"] < of_figure["difference"] < of_figure["high"]
    better = dict(zip(WHOLE_FIGURES, found.rows[1].cells, strict=True))["weighted_f1"]
    assert better.differs
    assert "within" not in better.seeds


def test_a_difference_within_the_seeds_spread_says_so():
    cell = {"difference": 0.01, "low": 0.005, "high": 0.02, "sd": 0.012, "seeds": 3}
    assert make_cell(pd.Series(cell)) == ("+.010", "+.005 to +.020", "± .012 seeds, within", False)
    assert make_cell(pd.Series(cell | {"sd": 0.009})) == ("+.010", "+.005 to +.020", "± .009 seeds", True)
    assert make_cell(pd.Series(cell | {"low": -0.001})).differs is False
    assert make_cell(pd.Series(cell | {"sd": np.nan, "seeds": 1})).seeds == "one seed"


def test_only_folds_and_seeds_that_both_have_are_compared(beyond):
    entries, runs = beyond
    some = [entry for entry in entries if entry.row != "encoder" or entry.seed == 1]
    found = compare_with_baseline(some, runs)
    assert found.rows[1].counts == "2 folds, 1 seed, 32 dialogues"
    assert {cell.seeds for cell in found.rows[1].cells} == {"one seed"}
    none = [entry._replace(folder=None) if entry.row == "encoder" else entry for entry in entries]
    found = compare_with_baseline(none, runs)
    assert found.notes == ["speaker, encoder: no fold and seed of it and of MATE has finished."]
    assert compare_with_baseline([entry._replace(baseline=None) for entry in entries], runs) is None


def test_rows_of_other_windows_are_named_and_not_compared(beyond):
    entries, runs = beyond
    folder = next(entry.folder for entry in entries if entry.row == "encoder")
    run = runs[folder]
    fewer = run._replace(ids=run.ids[1:], arrays={name: array[1:] for name, array in run.arrays.items()})
    found = compare_with_baseline(entries, runs | {folder: fewer})
    assert [row.row for row in found.rows] == ["speakers"]
    (note,) = found.notes
    assert note.startswith("speaker, encoder: ")
    assert "has no window" in note


def test_the_differences_stand_in_every_file_of_the_report(beyond, tmp_path):
    entries, runs = beyond
    write_report(tmp_path, entries, {})
    found = compare_with_baseline(entries, runs)
    cell = found.rows[1].cells[0]
    table = pd.read_csv(tmp_path / "beyond_differences.csv")
    assert len(table) == 2 * len(WHOLE_FIGURES)
    text, page, latex = ((tmp_path / name).read_text("utf-8") for name in ("beyond.md", "index.html", "beyond.tex"))
    assert "## Against MATE" in text
    assert f"**{cell.difference}** \\[{cell.interval}\\] {cell.seeds}" in text
    assert f"{cell.difference}<small>{cell.interval}</small><small>{cell.seeds}</small>" in page
    assert "\\label{tab:beyond-against}" in latex
    assert f"\\textbf{{{cell.difference}}}" in latex


def test_figures_by_dialogue_and_sentence_are_means_over_folds_and_seeds(beyond, tmp_path):
    entries, _ = beyond
    write_report(tmp_path, entries, {})
    table = pd.read_csv(tmp_path / "beyond_parts.csv").set_index(["row", "part"])
    assert {part for _, part in table.index} == {"whole", "scripted", "improvised"}  # its runs have no transcripts
    of_row = [entry for entry in entries if entry.row == "encoder"]
    stored = [json.loads((entry.folder / "result.json").read_text())["parts"]["improvised"] for entry in of_row]
    found = table.loc["encoder", "improvised"]
    for name in WHOLE_FIGURES:
        assert found[name] == pytest.approx(np.mean([part[name] for part in stored]), abs=1e-5)
    assert found["windows"] == sum(part["n"] for part in stored) / 3  # three seeds
    assert found["single_label"] == sum(part["n_single_label"] for part in stored) / 3
    assert found["dialogues"] == 32
    assert table.loc[("encoder", "scripted"), "windows"] == 0
    page = (tmp_path / "index.html").read_text("utf-8")
    counts = f"{found['windows']:.0f} ({found['single_label']:.0f})"
    assert f'<tr><th scope="row">improvised dialogues</th><td>{counts}</td>' in page


@pytest.fixture
def earlier(beyond, tmp_path) -> Entry:
    """A run of an earlier version, whose result knows no parts."""
    folder = shutil.copytree(beyond[0][0].folder, tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    for name in ("parts", "intervals", "chosen"):
        del result[name]
    (folder / "result.json").write_text(json.dumps(result))
    return beyond[0][0]._replace(folder=folder)


def test_runs_that_know_no_parts_are_reported_without(earlier, tmp_path):
    (tmp_path / "report").mkdir()
    write_report(tmp_path / "report", [earlier], {})
    assert pd.read_csv(tmp_path / "report" / "beyond.csv")["weighted_f1_low"].notna().all()
    assert not (tmp_path / "report" / "beyond_parts.csv").exists()
    assert "By dialogue and sentence" not in (tmp_path / "report" / "index.html").read_text("utf-8")


def test_a_later_test_of_such_a_run_gives_its_parts_if_it_repeats_the_runs_own(beyond, earlier, tmp_path):
    entries, runs = beyond
    whole = entries[0].folder
    other_fold = next(entry.folder for entry in entries if entry.test_split == FOLDS[1])
    shutil.copytree(whole, earlier.folder / "test_20261125-120000")
    batches = Path(shutil.copytree(whole, earlier.folder / "test_20261125-123000")) / "configuration.json"
    batches.write_text(json.dumps(json.loads(batches.read_text()) | {"batch_size": 1}))
    other = Path(shutil.copytree(whole, earlier.folder / "test_20261125-124500")) / "predictions.csv"
    pd.read_csv(other).assign(p_neutral=0.5).to_csv(other, index=False)
    shutil.copytree(other_fold, earlier.folder / "test_20261125-130000")
    (earlier.folder / "test_20261125-140000").mkdir()  # one that was killed
    assert read_run(earlier.folder).parts == runs[whole].parts != {}
    shutil.rmtree(earlier.folder / "test_20261125-120000")
    assert read_run(earlier.folder).parts == {}
