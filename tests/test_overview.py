import itertools
import json
from pathlib import Path

import pytest

import experiments
from sweeps.jobs import error_file
from training.configuration import as_json, identity
from training.options import parse_args
from utils import lock_folder, read_json, write_json


def make_folder(exp: Path, name: str, *argv: str, epochs_done: int = 0, figures: tuple = ()) -> Path:
    """An experiment folder with what the overview reads."""
    folder = exp / name
    folder.mkdir(parents=True)
    write_json(folder / "configuration.json", as_json(parse_args(argv)[0]) | {"versions": {}})
    (folder / "history.csv").write_text("epoch,train_loss\n" + "1,2\n" * epochs_done)
    if figures:
        result = dict(zip(("F1", "ccc_arousal", "ccc_valence"), (f"{figures[0]}+-0.05", *figures[1:]), strict=True))
        write_json(folder / "result.json", result | {"overall": {"n": 90, "weighted_f1": 0.75, "accuracy": 0.875}})
    return folder


def read_table(exp: Path, capsys: pytest.CaptureFixture) -> tuple[dict[str, dict[str, str]], str]:
    """The cells of every line by folder and heading, and what stands below the table."""
    assert experiments.main(["runs", "--save_path", str(exp)]) == 0
    table, _, below = capsys.readouterr().out.partition("\n\n")
    heading, rule, *lines = table.splitlines()
    starts = [0, *(at + 1 for at, mark in enumerate(rule) if mark == " " and rule[at + 1] == "-"), None]
    rows = [[line[a:b].strip() for a, b in itertools.pairwise(starts)] for line in (heading, *lines)]
    cells = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    return {row["folder"]: row for row in cells}, below


def test_every_experiment_folder_has_a_line(tmp_path, capsys):
    common = ("--data_path", "data/sample")
    done = (*common, "--epochs", "3", "--seed", "2", "--lam", "0.5", "--bidirectional")
    make_folder(tmp_path, "b_20260102-030405", *done, epochs_done=3, figures=(0.7125, 0.5, 0.625))
    make_folder(tmp_path, "a_20260302-030405", *common, "--test_split", "5-8", epochs_done=12)
    failed = make_folder(tmp_path, "c_20260202-030405", *common, "--SorL", "listener")
    (tmp_path / "jobs").mkdir()
    error_file(tmp_path, identity(read_json(failed / "configuration.json"))).write_text("error: no memory")
    running = make_folder(tmp_path, "d_20260402-030405", *common, "--lr", "0.1", epochs_done=1)
    theirs = make_folder(tmp_path, "e_20260502-030405", *common)
    stored = read_json(theirs / "configuration.json")
    del stored["versions"]
    write_json(theirs / "configuration.json", stored)
    (theirs / "model.pth").touch()
    (tmp_path / "report").mkdir()  # no experiment folder

    with lock_folder(running, "training"):
        lines, below = read_table(tmp_path, capsys)
    assert [name[0] for name in lines] == ["b", "c", "a", "d", "e"]  # by date
    assert lines["b_20260102-030405"] == {
        "date": "2026-01-02 03:04",
        "role": "speaker",
        "test": "1-4",
        "seed": "2",
        "not default": "bidirectional lam=0.5",
        "epochs": "3",
        **{
            "windows": "90",
            "wF1": "0.750",
            "mF1": "",
            "acc": "0.875",
            "CCC A": "0.500",
            "CCC V": "0.625",
            "F1": "0.713",
        },
        "folder": "b_20260102-030405",
        "state": "finished",
    }
    assert {name[0]: line["state"] for name, line in lines.items()} == {
        "b": "finished",
        "c": "failed at epoch 0 of 50: error: no memory",
        "a": "unfinished at epoch 12 of 50",
        "d": "running, at epoch 1 of 50",
        "e": "of the published program",
    }
    assert (lines["a_20260302-030405"]["epochs"], lines["a_20260302-030405"]["test"]) == ("12/50", "5-8")
    assert lines["d_20260402-030405"]["not default"] == "lr=0.1"
    assert "not default in all of them: data_path=data/sample" in below
    assert "5 experiment folders" in below
    assert read_table(tmp_path, capsys)[0]["d_20260402-030405"]["state"] == "unfinished at epoch 1 of 50"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("configuration.json", "{", "configuration.json: not readable as JSON"),
        ("configuration.json", "[]", "configuration.json: holds a list"),
        ("configuration.json", '{"epochs": "many", "versions": {}}', "'many'"),
        ("configuration.json", '{"test_split": 3, "versions": {}}', "not iterable"),
        ("configuration.json", None, "configuration.json: not found"),
        ("result.json", "", "result.json: not readable as JSON"),
        ("result.json", '{"F1": "good"}', "result.json: not a result"),
    ],
)
def test_a_damaged_folder_says_why_in_its_line(name, content, reason, tmp_path, capsys):
    make_folder(tmp_path, "good", epochs_done=1, figures=(0.5, 0.5, 0.5))
    bad = make_folder(tmp_path, "bad", epochs_done=1, figures=(0.5, 0.5, 0.5))
    (bad / name).unlink()
    if content is not None:
        (bad / name).write_text(content)
    lines, _ = read_table(tmp_path, capsys)
    assert lines["good"]["state"] == "finished"
    assert lines["bad"]["state"].startswith("damaged: ")
    assert reason in lines["bad"]["state"]


def test_a_save_path_without_runs(tmp_path, capsys):
    assert experiments.main(["runs", "--save_path", str(tmp_path)]) == 0
    assert "no experiment folder yet" in capsys.readouterr().out
    assert experiments.main(["runs", "--save_path", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'no'}: no such folder")


def test_the_overview_changes_nothing(tmp_path, capsys):
    folder = make_folder(tmp_path, "stopped", epochs_done=1)
    (folder / "checkpoint.pt").write_bytes(b"x")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    read_table(tmp_path, capsys)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert json.loads(before["configuration.json"])["epochs"] == 50
