"""read_runs: one row per finished run folder, and the state of those that are damaged or unfinished."""

import pytest
from run_folders import make_run

from metric import FIGURES
from reports.runs import read_folders, read_runs
from utils import read_json


def test_a_row_holds_the_options_data_and_figures_of_a_run(tmp_path):
    folder = make_run(tmp_path / "exp" / "run_20261125-123000", test_split=[1, 2, 3, 4], lam=0.5, seed=3)
    (tmp_path / "exp" / "report").mkdir()
    (row,) = (row for _, row in read_runs(tmp_path / "exp").iterrows())
    result = read_json(folder / "result.json")
    assert row["run_id"] == read_json(folder / "configuration.json")["run_id"]
    assert (row["folder"], row["date"], row["test"], row["seed"]) == (folder, "2026-11-25 12:30:00", "1-4", 3)
    assert (row["lam"], row["backbone"], row["data_corpus"], row["epochs_done"]) == (0.5, "lstm", "KEMDy19", 2)
    assert [row[name] for name in FIGURES[:3]] == [float(result[name].partition("+-")[0]) for name in FIGURES[:3]]
    assert row["weighted_f1"] == result["overall"]["weighted_f1"]
    assert row["F1_happy"] == result["overall"]["classes"]["happy"]["f1-score"]
    assert read_runs(tmp_path / "nowhere").empty


@pytest.mark.parametrize(
    ("name", "content", "state"),
    [
        ("configuration.json", None, "damaged: configuration.json"),
        ("configuration.json", "", "damaged: configuration.json"),
        ("configuration.json", "[]", "damaged: configuration.json"),
        ("configuration.json", '{"options": {"test_split": "x", "SorL": "speaker", "epochs": 3}}', "damaged"),
        ("configuration.json", '{"options": {"test_split": "1", "SorL": "nobody", "epochs": 3}}', "damaged"),
        ("result.json", None, "unfinished"),
        ("result.json", "", "damaged: result.json"),
        ("result.json", '{"F1": "good"}', "damaged: result.json"),
        ("result.json", '{"Precision": 7, "Recall": 1, "F1": 1, "ccc_arousal": 0, "ccc_valence": 0}', "damaged"),
    ],
)
def test_a_damaged_folder_has_a_state_and_no_other_is_lost(name, content, state, tmp_path):
    damaged, other = (make_run(tmp_path / run, test_split=[1, 2, 3, 4], seed=1) for run in ("damaged", "other"))
    (damaged / name).unlink()
    if content is not None:
        (damaged / name).write_text(content)
    states = read_folders(tmp_path).set_index("folder")["state"]
    assert states[damaged].startswith(state)
    assert states[other] == "finished"
    assert read_runs(tmp_path)["folder"].tolist() == [other]
