"""Runs on KEMDy20, and of one corpus's model on the other corpus."""

import shutil
import signal

import numpy as np
import pandas as pd
import pytest
from small_runs import STEPS, content, only_run, run, signals_at

import main as program
import predict
from constants import EMOTIONS
from utils import read_json, write_json

TINY = ("--hidden_size", "4", "--num_layers", "1", "--batch_size", "8", "--epochs", "1", "--gpu_id", "cpu")
FIRST_FOLD = list(range(1, 9))


@pytest.fixture(scope="module")
def trained(preprocessed20, tmp_path_factory):
    """A run on KEMDy20 with audio and text; read only."""
    exp = tmp_path_factory.mktemp("kemdy20")
    imbalance = ("--sampler", "weighted", "--loss", "cbloss")
    assert program.main(["--data_path", str(preprocessed20), "--save_path", str(exp), *TINY, *imbalance]) == 0
    return only_run(exp)


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it, to test again."""
    return shutil.copytree(trained, tmp_path / trained.name)


def one_test(folder):
    (found,) = folder.glob("test_*")
    return found


def test_the_first_fold_is_tested_and_stored(trained):
    stored = read_json(trained / "configuration.json")
    assert (stored["data"]["corpus"], stored["test_split"], stored["train_split"]) == ("KEMDy20", FIRST_FOLD, [9, 10])
    assert (stored["sampler"], stored["loss"]) == ("weighted", "cbloss")
    assert stored["windows"] == {"train": 12, "valid": 0, "test": 48}
    predictions = pd.read_csv(trained / "predictions.csv")
    assert predictions["segment_id"].str[4:6].astype(int).unique().tolist() == FIRST_FOLD


def test_a_run_is_tested_again_and_gives_the_same(folder, trained, capsys):
    assert program.main(["--test_only", str(folder), "--gpu_id", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "speaker, KEMDy20, sessions 1, 2, 3, 4, 5, 6, 7, 8: 48 windows" in out
    assert "trained on" not in out
    assert (one_test(folder) / "predictions.csv").read_bytes() == (trained / "predictions.csv").read_bytes()
    assert read_json(one_test(folder) / "configuration.json")["train_split"] == [9, 10]


def test_a_dialogue_is_predicted_as_it_was_tested(trained, preprocessed20, tmp_path):
    expected = pd.read_csv(trained / "predictions.csv").query("dialogue == 'Sess02_script02'")
    arguments = [str(trained), "--dialogue", "Sess02_script02", "--data_path", str(preprocessed20), "--gpu_id", "cpu"]
    assert predict.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert found["id"].tolist() == expected["segment_id"].tolist()
    assert found["speaker"].tolist() == expected["speaker"].tolist()
    columns = [f"p_{name}" for name in EMOTIONS]
    np.testing.assert_allclose(found[columns], expected[columns], rtol=0, atol=1e-5)


def test_a_model_of_kemdy20_is_tested_on_kemdy19(folder, preprocessed, capsys):
    argv = ["--test_only", str(folder), "--data_path", str(preprocessed), "--gpu_id", "cpu"]
    assert program.main([*argv, "--test_split", "5,6"]) == 0
    captured = capsys.readouterr()
    assert "trained on KEMDy20, sessions 9-10" in captured.out
    assert "speaker, KEMDy19, sessions 5, 6: 20 windows" in captured.out
    assert "the model was trained on sessions" not in captured.err
    assert "the corpus has no training session" in captured.err
    stored = read_json(one_test(folder) / "configuration.json")
    assert stored["trained_on"] == {"corpus": "KEMDy20", "sessions": [9, 10]}
    assert (stored["data"]["corpus"], stored["test_split"], stored["train_split"]) == ("KEMDy19", [5, 6], [])


def test_a_model_of_kemdy19_is_tested_on_the_first_fold_of_kemdy20(finished, preprocessed20, tmp_path, capsys):
    """It was made by an earlier program, whose configuration names no corpus, and trained on sessions tested here."""
    folder = shutil.copytree(finished, tmp_path / finished.name)
    assert read_json(folder / "configuration.json")["train_split"] == [3, 4, 5, 6]
    stored = read_json(folder / "configuration.json")
    write_json(folder / "configuration.json", {name: value for name, value in stored.items() if name != "data"})
    assert program.main(["--test_only", str(folder), "--data_path", str(preprocessed20), "--gpu_id", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "trained on KEMDy19, sessions 3-6" in captured.out
    assert "speaker, KEMDy20, sessions 1, 2, 3, 4, 5, 6, 7, 8: 48 windows" in captured.out
    assert "the model was trained on sessions" not in captured.err


def test_resuming_finds_the_run_whose_test_sessions_are_the_corpus_s_own(trained, preprocessed20, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "exp" / trained.name)
    (folder / "result.json").unlink()  # as if it had been killed before its test
    argv = ["--data_path", str(preprocessed20), "--save_path", str(tmp_path / "exp"), *TINY]
    assert program.main([*argv, "--sampler", "weighted", "--loss", "cbloss", "--resume", "auto"]) == 0
    assert f"resuming {folder}" in capsys.readouterr().out
    assert only_run(tmp_path / "exp") == folder
    assert read_json(folder / "configuration.json")["test_split"] == FIRST_FOLD


def test_a_weighted_run_is_another_one_and_goes_on_to_the_same_result(preprocessed, finished, tmp_path):
    weighted = ("--sampler", "weighted")
    assert run(preprocessed, tmp_path / "whole", *weighted) == 0
    whole = content(only_run(tmp_path / "whole"))
    assert whole["history.csv"] != content(finished)["history.csv"]
    with signals_at(STEPS + 2, signal.SIGTERM):
        assert run(preprocessed, tmp_path / "stopped", *weighted) == 128 + signal.SIGTERM
    assert run(preprocessed, tmp_path / "stopped", *weighted, "--resume", "auto") == 0
    assert content(only_run(tmp_path / "stopped")) == whole


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--SorL", "listener"], "KEMDy20, in which nobody is rated as listener; it has speaker rows alone"),
        (
            ["--test_split", "9-16"],
            "--test_split: the corpus has no utterance of sessions [11, 12, 13, 14, 15, 16]",
        ),
    ],
)
def test_what_kemdy20_has_not_is_refused_in_one_line(preprocessed20, tmp_path, capsys, more, message):
    assert program.main(["--data_path", str(preprocessed20), "--save_path", str(tmp_path / "exp"), *TINY, *more]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "exp").exists()


def test_a_table_of_two_corpora_is_refused(preprocessed, preprocessed20, tmp_path, capsys):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    tables = [pd.read_csv(path / "df_speaker.csv", dtype=str) for path in (preprocessed20, preprocessed)]
    pd.concat(tables).to_csv(corpus / "df_speaker.csv", index=False)
    assert program.main(["--data_path", str(corpus), "--save_path", str(tmp_path / "exp"), *TINY]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "df_speaker.csv, row 62: segment id 'Sess01_" in error
    assert "expected an id such as Sess01_script01_User001F_001" in error
