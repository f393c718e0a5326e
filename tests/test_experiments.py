"""experiments.py: the plans of its tables and grids, running them once, and what has finished."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from run_folders import make_run

import experiments
from corpora.corpus import KEMDY19, KEMDY20
from sweeps.jobs import command_of, device_slots, run_once
from sweeps.plan import TABLES, Table, tables_of
from training.options import parse_args
from utils import lock_folder, read_json

TINY = ("--hidden_size", "4", "--num_layers", "1", "--batch_size", "8", "--report_to", "none")
TEXT = (*TINY, "--modality", "text", "--gpu_id", "cpu")
GRID = ("--test_split", "1-2", "--SorL", "speaker", "--grid")


def planned(*argv: str) -> pd.DataFrame:
    return experiments.plan(*experiments.parse(argv))[0]


# Plans


@pytest.mark.parametrize(
    ("argv", "n_runs", "n_distinct"),  # lam .66 and lstm are a fold of 3.2
    [
        ("", 52, 42),
        ("3.2 3.6 backbone", 22, 18),
        ("beyond", 240, 240),
        ("data_size", 24, 24),
        ("3.3 --SorL listener --seeds 3", 6, 6),
    ],
)
def test_tables_that_share_a_run_need_it_once(argv, n_runs, n_distinct):
    entries = planned("run", *argv.split())
    assert (len(entries), entries["run_id"].nunique()) == (n_runs, n_distinct)


def test_the_runs_of_data_size_are_trained_on_ever_more_sessions_and_validated_on_the_others():
    for corpus, sizes in ((KEMDY19, [4, 8, 12, 16]), (KEMDY20, [8, 16, 24, 32])):
        table = tables_of(corpus)["data_size"]
        splits = [{*row["train_split"]} for row in table.rows.values()]
        assert [len(split) for split in splits] == sizes
        assert {*table.baselines.values()} == {f"{sizes[0]} sessions"}  # which is there whatever --valid_split is
        assert all(before < split for before, split in itertools.pairwise(splits))
        assert splits[-1] | {*table.folds[0]} == {*sum(corpus.folds, ())}
        assert not splits[2] & {*corpus.next_fold[table.folds[0]]}


def test_a_grid_has_a_run_for_every_combination():
    grid = ["--grid", "lam=0.5,0.6", "no_concat=no,yes", "--test_split", "1-4", "17,18"]
    with pytest.warns(UserWarning, match="--beta .* --loss cbloss"):
        entries = planned("run", *grid, "--SorL", "listener", "--seeds", "2", "--beta", "0.9")
    found = {(o.lam, o.no_concat, tuple(o.test_split), o.seed) for o in entries["options"]}
    assert found == {*itertools.product((0.5, 0.6), (False, True), ((1, 2, 3, 4), (17, 18)), (0, 1))}
    assert entries["run_id"].nunique() == 16
    assert {(o.SorL, o.beta, o.epochs) for o in entries["options"]} == {("listener", 0.9, 100)}
    assert entries["row"][0] == "lam=0.5 no_concat=no"


def test_tables_have_the_settings_of_the_paper():
    for argv in (["3.6"], ["--grid", "lam=0.5,0.66"]):
        found = {(o.epochs, *o.test_split, o.optim, o.batch_size) for o in planned("run", *argv)["options"]}
        assert found == {(100, 13, 14, 15, 16, "adam", 64)}
    best = planned("run", "3.7", "--compile", "--epochs", "3")["options"]
    assert {(o.SorL, o.loss, o.lam, o.beta, o.compile, o.epochs) for o in best} == {
        ("speaker", "normal", 0.75, 0.99, True, 3),
        ("listener", "cbloss", 0.9, 0.9, True, 3),
    }


def test_main_is_given_the_options_of_the_plan_and_each_fold_is_validated_on_the_next_one():
    argv = ["--sr", "4000", "--audio_path", "my wavs", "--valid_split", "next", "--select", "loss"]
    folds = {}
    for run in planned("run", "--lr", "0.1", "3.2", "3.3", "3.7", *argv).itertuples():
        options, parsed = run.options, vars(parse_args(command_of(run, Path("exp"))[3:]))
        assert parsed["audio_path"] == Path("my wavs").absolute()
        for name in parsed.keys() - {"given", "data_path", "audio_path", "save_path"}:
            assert parsed[name] == getattr(options, name), name
        folds[tuple(options.test_split)] = tuple(options.valid_split)
    assert (folds[1, 2, 3, 4], folds[17, 18, 19, 20]) == ((5, 6, 7, 8), (1, 2, 3, 4))


WRONG = ["run 3.9", "run KEMDy20", "run 3.6 --lam 0.5", "run 3.2 --resume auto", "run 3.2 --monitor f1"]
WRONG += ["run data_size --train_split 1-4", "run --grid lam=0.5 lam=0.6", "run --grid lam=2", "run --grid seed=1,2"]
WRONG += ["run --grid lam=0.5 --test_split 1-3 --valid_split next", "run 3.2 --epohcs 3"]
WRONG += ["compare 3.3:default 3.3:nonsense", "compare 3.3:default", "runs --save_path no", "report --save_path no"]


@pytest.mark.parametrize("line", WRONG)
def test_bad_input_is_one_line(line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = experiments.main(line.split())
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not [*tmp_path.iterdir()]


# What has finished


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """Runs of table 3.3's rows for the speaker with two seeds, without a corpus."""
    exp = tmp_path / "exp"
    for seed, (number, options) in itertools.product((0, 1), enumerate(({}, {"bidirectional": True}))):
        name = f"run{number}_20261125-12000{seed}"
        make_run(exp / name, 1.5 + number, test_split=[13, 14, 15, 16], seed=seed, lr=0.01, **options)
    return exp


def test_report_finds_the_runs_of_the_options_that_are_given(exp):
    own = ["--save_path", str(exp), "--lr", "0.01", "--seeds", "2"]
    assert experiments.main(["report", *own]) == 0
    assert pd.read_csv(exp / "report" / "3.3.csv")["runs"].tolist() == [2, 2, 0, 0]
    assert not (exp / "report" / "3.5.csv").exists()  # of a table without a finished run
    assert planned("report", "3.3", "--save_path", str(exp), "--lr", "0.1")["folder"].isna().all()


def test_rows_and_folders_are_compared(exp, capsys):
    own = ["--save_path", str(exp), "--lr", "0.01", "--seeds", "2"]
    for rows in (
        ["3.3:default", "3.3:bidirectional"],
        ["3.3:default", "run1_20261125-120000"],
        ["run0_20261125-120000", str(exp / "run1_20261125-120001")],  # two seeds
    ):
        assert experiments.main(["compare", *rows, *own]) == 0
        assert capsys.readouterr().out.startswith(f"- A: {rows[0]}\n- B: {rows[1]}\n")


def test_runs_lists_every_folder_with_its_state_and_the_options_that_vary(exp, capsys):
    unfinished, running, _, finished = (exp / f"run{row}_20261125-12000{seed}" for row in (0, 1) for seed in (0, 1))
    for folder in (unfinished, running):
        (folder / "result.json").unlink()
    (exp / "jobs").mkdir()
    run_id = read_json(unfinished / "configuration.json")["run_id"]
    (exp / "jobs" / f"{run_id}.log").write_text("epoch 1\repoch 2\nerror: out of luck\n")
    with lock_folder(running, "training"):
        assert experiments.main(["runs", "--save_path", str(exp)]) == 0
    row = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert len(row) == 6  # four folders, headings and a rule
    assert row[unfinished.name][-5:] == ["unfinished:", "error:", "out", "of", "luck"]
    assert {"2/100", "running"} <= {*row[running.name]}
    assert row[finished.name][-1] == "finished"
    assert {*row["folder"]} & {"bidirectional", "seed", "backbone", "lam"} == {"bidirectional", "seed"}


# Running


def test_a_run_that_has_finished_or_is_trained_is_not_begun(exp, capsys):
    folder = exp / "run0_20261125-120000"
    run_id = read_json(folder / "configuration.json")["run_id"]
    (exp / "jobs").mkdir()
    assert run_once(exp, run_id, ["--no_such_option"]) == 0  # main.py does not see the option
    (folder / "result.json").unlink()
    with lock_folder(folder, "training"):
        assert run_once(exp, run_id, ["--no_such_option"]) == 0
    with pytest.raises(SystemExit):
        run_once(exp, run_id, ["--no_such_option"])


def test_runs_at_once_share_the_gpus_and_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    slots = device_slots(3, None)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["4", "7", "4"]
    assert {slot["OMP_NUM_THREADS"] for slot in slots} == {str(max(1, len(os.sched_getaffinity(0)) // 3))}
    assert device_slots(1, "0")[0]["CUDA_VISIBLE_DEVICES"] == "4,7"


def test_runs_are_made_once_and_one_that_fails_stops_no_other(preprocessed, tmp_path, monkeypatch):
    corpus, exp = shutil.copytree(preprocessed, tmp_path / "corpus"), tmp_path / "exp"
    # The corpus has sessions 1 to 6: the first fold's runs are not begun. Of the second fold's one diverges
    rows, folds = {"high": {"modality": "text", "lr": 1e30}, "text": {"modality": "text"}}, ((5, 6, 7, 8), (1, 2, 3, 4))
    monkeypatch.setitem(TABLES, "3.2", Table("Two folds", rows, folds))
    monkeypatch.setitem(TABLES, "shared", Table("Shares a run", {"same": rows["text"]}, folds[1:]))
    tables, places = ["3.2", "shared"], ["--data_path", str(corpus), "--save_path", str(exp), "--SorL", "speaker"]
    argv = [*tables, *places, *TINY, "--gpu_id", "cpu", "--epochs", "1"]
    assert experiments.main(["run", *argv]) == 1
    table = pd.read_csv(exp / "report" / "3.2.csv")
    assert table["runs"].tolist() == [0, 0, 0, 0, 1, 1]
    assert table["F1_published"].isna().all()  # the corpus is not KEMDy19
    text = (exp / "report" / "index.html").read_text("utf-8")
    assert "speaker, text, sessions 5-8, seed 0: " in text
    assert "speaker, high, sessions 1-4, seed 0: error: " in text
    assert pd.read_csv(exp / "report" / "shared.csv")["F1"].tolist() == table["F1"].tolist()[4:5]

    assert experiments.main(["run", *argv[1:]]) == 0  # table "shared" alone: nothing is left to run
    assert len([*exp.glob("*/result.json")]) == 1
    shutil.move(corpus, tmp_path / "moved")  # another path is the same run
    argv = ["moved" if part == str(corpus) else part for part in argv]
    monkeypatch.chdir(tmp_path)
    assert planned("run", *argv)["folder"].notna().tolist() == [False, False, False, True, True]

    table = tmp_path / "moved" / "df_speaker.csv"  # other data are another run
    table.write_text(table.read_text("utf-8").replace("happy", "sad"), "utf-8")
    with pytest.warns(UserWarning, match=r"df_speaker\.csv"):
        assert planned("run", *argv)["folder"].isna().all()


def start(exp: Path, argv: list[str], n_runs: int) -> subprocess.Popen:
    """Start a call of experiments.py, and wait until it has made `n_runs` run folders in `exp`."""
    command = [sys.executable, str(ROOT / "experiments.py"), *argv]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and len([*exp.glob("*/configuration.json")]) < n_runs:
        time.sleep(0.1)
    return running


def test_calls_at_once_as_tasks_of_a_cluster_and_one_after_a_killed_one_make_no_run_twice(preprocessed, tmp_path):
    exp = tmp_path / "exp"
    argv = ["run", *GRID, "lam=0.5,0.6", *TEXT, "--epochs", "5", "--data_path", str(preprocessed)]
    argv += ["--save_path", str(exp)]
    killed, other = start(exp, argv, 0), start(exp, argv, 1)
    killed.kill()
    killed.communicate()
    other.communicate(timeout=120)
    assert other.returncode in (0, 1)
    deadline = time.monotonic() + 60
    while experiments.main(argv) and time.monotonic() < deadline:  # the run of the killed call may be at work
        time.sleep(1)
    assert len([*exp.glob("*/result.json")]) == len([*exp.glob("*/configuration.json")]) == 2


def test_sigterm_ends_the_runs(preprocessed, tmp_path):
    exp = tmp_path / "exp"
    argv = ["run", *GRID, "lam=0.5,0.6", *TEXT, "--epochs", "5000", "--data_path", str(preprocessed)]
    argv += ["--save_path", str(exp), "--jobs", "2"]
    running = start(exp, argv, 2)
    running.send_signal(signal.SIGTERM)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert error.strip().splitlines()[-1].startswith("terminated: ")
    assert not [*exp.glob("*/result.json")]
    for path in exp.glob("*/configuration.json"):
        with lock_folder(path.parent, "testing"):  # no process works on it
            pass
