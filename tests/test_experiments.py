import shutil

import numpy as np
import pandas as pd
import pytest

import experiments
from constants import EMOTIONS
from metric import batch_figures
from utils import read_json

QUICK = ("--hidden_size", "4", "--num_layers", "1", "--epochs", "1", "--batch_size", "4", "--gpu_id", "cpu")


def test_tables_that_share_a_run_ask_for_it_once(capsys):
    assert experiments.main(["list", "3.2", "3.6", "backbone", "--SorL", "speaker", "--epochs", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("; ")[2] for line in lines[:-1]] == ["5 runs", "4 runs", "2 runs"]
    assert lines[-1].startswith("9 runs in all")  # lam .66 and lstm are a fold of 3.2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "3.9"], "no table '3.9'"),
        (["run", "--lam", "0.5"], "--lam is set by the tables"),
        (["report", "--seeds", "0"], "from 1 to 1000"),
    ],
)
def test_impossible_experiments_are_refused_with_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        experiments.main(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_runs_are_made_once_and_one_that_fails_stops_no_other(preprocessed, tmp_path, monkeypatch, capsys):
    corpus, exp = tmp_path / "corpus", tmp_path / "exp"
    shutil.copytree(preprocessed, corpus)
    # The corpus has sessions 1 to 6: the first fold's run fails, the second's does not
    table = experiments.TABLES["3.2"]._replace(folds=((5, 6, 7, 8), (1, 2, 3, 4)))
    monkeypatch.setattr(experiments, "TABLES", {"3.2": table})
    argv = ["3.2", "--SorL", "speaker", "--data_path", str(corpus), "--save_path", str(exp), *QUICK]
    assert experiments.main(["run", *argv]) == 1
    (result,) = exp.glob("*/result.json")
    changed = result.stat().st_mtime_ns

    predictions = pd.read_csv(result.parent / "predictions.csv")
    true = np.array([[name in labels.split(";") for name in EMOTIONS] for labels in predictions["emotion"]])
    f1 = batch_figures(predictions[[f"p_{name}" for name in EMOTIONS]].to_numpy(), true, 1, 4)[:, 2].mean()
    row = pd.read_csv(exp / "report" / "3.2.csv").set_index("test").loc["1-4"]
    assert row["F1"] == pytest.approx(f1, abs=6e-4)
    assert row["F1_published"] == 0.674
    text = (exp / "report" / "3.2.md").read_text("utf-8")
    assert "Not KEMDy19" in text
    assert "the corpus has no utterance of sessions" in text

    # A finished run stays, one whose result is gone goes on; a report without options is that of the last run's
    assert experiments.main(["run", *argv]) == 1
    assert "2 runs, 1 finished already" in capsys.readouterr().out
    assert result.stat().st_mtime_ns == changed
    result.unlink()
    assert experiments.main(["run", *argv]) == 1
    assert len([*exp.glob("*/configuration.json")]) == 1
    assert result.stat().st_mtime_ns != changed
    assert read_json(result)["overall"]["n"] == len(predictions)
    written = (exp / "report" / "3.2.md").read_bytes()
    shutil.rmtree(exp / "report")
    assert experiments.main(["report", "--save_path", str(exp)]) == 0
    assert (exp / "report" / "3.2.md").read_bytes() == written
