"""Runs on KEMDy20, and of one corpus's model on the other corpus."""

import shutil
from pathlib import Path

import pytest
from conftest import argv_of

import main
from reports.predictions import read_predictions
from training.record import Record

FIRST_FOLD = [*range(1, 9)]


@pytest.fixture
def folder(kemdy20_run: Path, tmp_path: Path) -> Path:
    """A copy of the run on KEMDy20, to test again."""
    return shutil.copytree(kemdy20_run, tmp_path / kemdy20_run.name)


def test_the_first_fold_is_tested_and_recorded(kemdy20_run):
    record = Record.read(kemdy20_run)
    assert (record.data["corpus"], record.data["train_sessions"]) == ("KEMDy20", "9-10")
    assert record.options["test_split"] == FIRST_FOLD
    assert read_predictions(kemdy20_run / "predictions.csv")["session"].unique().tolist() == FIRST_FOLD


def test_a_run_is_tested_again_and_gives_the_same(folder, kemdy20_run):
    assert main.main(["--test_only", str(folder), "--gpu_id", "cpu"]) == 0
    (tested,) = folder.glob("test_*")
    assert (tested / "predictions.csv").read_bytes() == (kemdy20_run / "predictions.csv").read_bytes()


def test_a_model_is_tested_on_another_corpus_with_a_warning(folder, preprocessed, capsys):
    argv = ["--test_only", str(folder), "--data_path", str(preprocessed), "--gpu_id", "cpu", "--test_split", "5,6"]
    assert main.main(argv) == 0
    (tested,) = folder.glob("test_*")
    assert set(read_predictions(tested / "predictions.csv")["corpus"]) == {"KEMDy19"}
    assert Record.read(tested).options["test_split"] == [5, 6]
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert any("KEMDy20" in line and "KEMDy19" in line for line in warnings)


@pytest.mark.parametrize("more", [["--SorL", "listener"], ["--test_split", "9-16"]])
def test_roles_and_sessions_that_kemdy20_lacks_are_refused(preprocessed20, tmp_path, capsys, more):
    assert main.main(argv_of("kemdy20", preprocessed20, tmp_path / "exp", *more)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "exp").exists()
