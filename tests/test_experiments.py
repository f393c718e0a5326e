import itertools
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

import experiments
from constants import EMOTIONS
from metric import batch_figures
from training.options import parse_args
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
        (["run", "--seed", "3"], "--seed is set by the tables"),
        (["report", "--seeds", "0"], "from 1 to 1000"),
        (["run", "--test_split", "1-4"], "--test_split is for --grid"),
        (["run", "--grid", "lambda=0.5"], "expected NAME=VALUE,... with one of backbone"),
        (["run", "--grid", "seed=1,2"], "expected NAME=VALUE"),
        (["run", "--grid", "lam=0.5,"], "expected values such as lam=A,B"),
        (["run", "--grid", "lam=0.5,2"], "--lam: '2': expected float from 0 to 1"),
        (["run", "--grid", "no_concat=maybe"], "'maybe': expected True or False"),
        (["run", "--grid", "lam=0.5", "lam=0.6"], "an option is given twice"),
        (["run", "--grid", "lam=0.5", "--lam", "0.6"], "--lam is set by the tables"),
        (["compare", "3.3:default"], "arguments are required: TABLE:ROW"),
        ([], "required: COMMAND"),
    ],
)
def test_impossible_experiments_are_refused_with_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        experiments.main(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_grid_has_a_run_for_every_combination():
    grid = ["--grid", "lam=0.5,0.6", "no_concat=no,yes", "--test_split", "1-4", "17,18"]
    plan = experiments.make_plan(["run", *grid, "--SorL", "listener", "--seeds", "2", "--beta", "0.9"])
    assert list(plan.tables) == ["grid"]
    runs = [(p, parse_args(list(p.argv))[0]) for p in plan.runs]
    assert {(args.lam, args.no_concat, tuple(args.test_split), args.seed) for _, args in runs} == {
        *itertools.product((0.5, 0.6), (False, True), ((1, 2, 3, 4), (17, 18)), (0, 1))
    }
    assert len({p.run for p in plan.runs}) == len(runs) == 16
    assert all((args.SorL, args.beta, args.epochs) == ("listener", 0.9, 100) for _, args in runs)
    for planned, args in runs:
        assert planned.row == f"lam={args.lam} no_concat={args.no_concat}"
        assert list(planned.fold) == args.test_split
    assert plan.settings["beta"] == 0.9
    assert not {"lam", "no_concat", "SorL", "seed"} & set(plan.settings)


def test_a_report_without_options_is_of_all_runs_with_the_last_ones_options(tmp_path):
    def plan(*argv: str, save_path: Path = tmp_path) -> experiments.Plan:
        return experiments.make_plan([*argv, "--save_path", str(save_path)])

    def recalled(*argv: str, save_path: Path = tmp_path) -> list[experiments.Planned]:
        return experiments.with_remembered(plan(*argv, save_path=save_path)).runs

    def runs(*argv: str) -> list[experiments.Planned]:
        return [planned._replace(argv=()) for planned in plan(*argv).runs]

    lines = [
        ["run", "3.2", "--SorL", "speaker", "--epochs", "2"],
        ["run", "3.3", "--epochs", "9"],
        ["run", "3.2", "--epochs", "2", "--gpu_id", "cpu"],  # the first one's runs again, and the listener's
        ["run", "--grid", "lam=0.5", "--SorL", "listener", "--epochs", "2"],
        ["run", "--grid", "lam=0.6", "--SorL", "listener", "--epochs", "2", "--jobs", "2"],
    ]
    for line in lines:
        experiments.remember(tmp_path, [*line, "--save_path", str(tmp_path)])
    of_grids = [*runs(*lines[3]), *runs(*lines[4])]
    assert len(runs(*lines[2])) == 10
    assert sorted(recalled("report")) == sorted([*runs(*lines[2]), *of_grids])
    assert recalled("compare", "grid:lam=0.5", "grid:lam=0.6") == recalled("report")
    assert recalled("report", "grid") == of_grids
    assert recalled("report", "grid", "--SorL", "speaker") == []
    assert recalled("report", "3.2", "--SorL", "listener") == runs(*lines[2], "--SorL", "listener")
    assert recalled("report", "3.3") == []  # with other options
    assert recalled("report", "3.3", "--epochs", "9") == plan("report", "3.3", "--epochs", "9").runs
    experiments.remember(tmp_path, [*lines[1], "--save_path", str(tmp_path)])
    assert recalled("report") == runs(*lines[1])
    assert [line[1] for line in experiments.recall(tmp_path)] == ["3.2", "3.2", "--grid", "--grid", "3.3"]  # not twice

    moved = tmp_path.rename(tmp_path.with_name("moved"))
    found = experiments.with_remembered(plan("report", save_path=moved))
    assert (found.of_main.save_path, found.args.command, found.settings["epochs"]) == (moved, "report", 9)
    assert len(found.runs) == 4


@pytest.mark.parametrize(
    "content", ['{"runs": [3]}', '{"runs": [["run", 3]]}', '{"runs": [[]]}', '{"runs": [["--help"]]}']
)
def test_a_spoilt_list_of_runs_is_named(content, tmp_path, capsys):
    (tmp_path / "experiments.json").write_text(content)
    assert experiments.main(["report", "--save_path", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {tmp_path / 'experiments.json'}: ")
    assert captured.err.endswith("take it away\n")
    assert not (tmp_path / "report").exists()


def test_a_reader_that_has_enough_is_no_error():
    command = [sys.executable, str(ROOT / "experiments.py"), "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_the_default_stands_beside_its_published_figures_in_every_table(tmp_path):
    assert (
        experiments.main(["report", "3.3", "3.5", "backbone", "--SorL", "speaker", "--save_path", str(tmp_path)]) == 0
    )
    published = [
        pd.read_csv(tmp_path / "report" / f"{name}.csv")["F1_published"] for name in ("3.3", "3.5", "backbone")
    ]
    assert published[0].to_list() == [0.733, 0.740]
    assert published[1].to_list() == [0.700, 0.607, 0.705, 0.656]
    assert published[2].fillna(-1).to_list() == [0.733, -1]


def test_without_a_corpus_nothing_is_run(tmp_path, capsys):
    argv = ["run", "3.2", "--data_path", str(tmp_path / "corpus"), "--save_path", str(tmp_path / "exp")]
    assert experiments.main(argv) == 2
    assert "no such folder; pass --data_path" in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()


def test_runs_are_made_once_and_one_that_fails_stops_no_other(preprocessed, tmp_path, monkeypatch, capsys):
    corpus, exp = tmp_path / "corpus", tmp_path / "exp"
    shutil.copytree(preprocessed, corpus)
    # The corpus has sessions 1 to 6: the first fold's run fails, the second's does not
    table = experiments.TABLES["3.2"]._replace(folds=((5, 6, 7, 8), (1, 2, 3, 4)))
    shared = experiments.Table("Shares the second", {"same": {"lam": 0.66}}, ((1, 2, 3, 4),))
    monkeypatch.setattr(experiments, "TABLES", {"3.2": table, "shared": shared})
    argv = ["3.2", "shared", "--SorL", "speaker", "--data_path", str(corpus), "--save_path", str(exp), *QUICK]
    assert experiments.main(["run", *argv]) == 1
    (result,) = exp.glob("*/result.json")
    changed = result.stat().st_mtime_ns

    predictions = pd.read_csv(result.parent / "predictions.csv")
    true = np.array([[name in labels.split(";") for name in EMOTIONS] for labels in predictions["emotion"]])
    f1 = batch_figures(predictions[[f"p_{name}" for name in EMOTIONS]].to_numpy(), true, 1, 4)[:, 2].mean()
    row = pd.read_csv(exp / "report" / "3.2.csv").set_index("test").loc["1-4"]
    assert row["F1"] == pytest.approx(f1, abs=6e-4)
    assert row["F1_published"] == 0.674
    assert pd.read_csv(exp / "report" / "shared.csv")["F1"].to_list() == [row["F1"]]
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

    # It is compared with itself, as a row and as a folder; the other row has not finished
    capsys.readouterr()
    assert experiments.main(["compare", "3.2:default", str(result.parent), "--save_path", str(exp)]) == 0
    said = capsys.readouterr().out
    assert f"| 1-4    | 0      | {len(predictions)} " in said
    assert "(+.000)" in said
    assert experiments.main(["compare", "3.2:default", "3.2:best", "--save_path", str(exp)]) == 2
    assert "table 3.2 has the rows default" in capsys.readouterr().err
    assert experiments.main(["compare", "3.2:default", "grid:lam=0.5", "--save_path", str(exp)]) == 2
    assert "table grid was not run there" in capsys.readouterr().err
    assert experiments.main(["compare", "3.2:default", "nowhere", "--save_path", str(exp)]) == 2
    assert "no such experiment folder" in capsys.readouterr().err
    result.unlink()
    assert experiments.main(["compare", "3.2:default", "3.2:default", "--save_path", str(exp)]) == 2
    assert "have no finished runs of the same role" in capsys.readouterr().err
