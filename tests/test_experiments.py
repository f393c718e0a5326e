import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

import experiments
from constants import EMOTIONS
from metric import batch_figures
from sweeps.command_line import parse_plan
from sweeps.memory import remember
from sweeps.plan import TABLES, Table
from training.configuration import as_json, options
from training.options import parse_args
from utils import read_json, write_json

SMALL = ("--hidden_size", "4", "--num_layers", "1", "--batch_size", "4", "--sr", "4000")
QUICK = (*SMALL, "--epochs", "1", "--gpu_id", "cpu")

HEAVY = ("torch", "pandas", "numpy", "sklearn", "scipy", "matplotlib", "submitit", "tqdm", "jinja2", "reports")


@pytest.mark.parametrize("command", [[], ["list"], ["run"], ["report"], ["compare"], ["runs"]])
def test_help_names_the_options_that_are_taken_and_imports_nothing_heavy(command):
    code = (
        "import sys, experiments\n"
        f"try: experiments.main([*{command}, '--help'])\n"
        f"except SystemExit: print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *help_lines, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    named = {line.split()[0].rstrip(",") for line in help_lines if line.startswith("  -")} - {"-h"}
    if not command:
        names = [line.split()[0] for line in help_lines if line.startswith("    ")]
        assert {"list", "run", "report", "compare", "runs"} <= set(names)
    elif command == ["runs"]:
        assert named == {"--save_path"}
    else:
        of_main = {name: option.option_strings[0] for name, option in options().items()}
        refused = {of_main[name] for name in ("seed", "resume", "test_only", "test_path")}
        assert set(of_main.values()) - refused <= named
        assert not refused & named


def test_tables_that_share_a_run_ask_for_it_once(capsys):
    assert experiments.main(["list", "3.2", "3.6", "backbone", "--SorL", "speaker", "--epochs", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("; ")[2] for line in lines[:-1]] == ["5 runs", "4 runs", "2 runs"]
    assert lines[-1].startswith("9 runs in all")  # lam .66 and lstm are a fold of 3.2


def test_list_remembers_what_was_run(tmp_path, capsys):
    remember(tmp_path, ["run", "3.3", "--epochs", "3", "--save_path", str(tmp_path)])
    assert experiments.main(["list", "--save_path", str(tmp_path)]) == 0
    *tables, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in tables] == ["3.3"]
    assert last.startswith("4 runs in all")
    for named in ("3.2", "3.6"):  # not run there: what it would take
        assert experiments.main(["list", named, "--save_path", str(tmp_path)]) == 0
        assert capsys.readouterr().out.startswith(f"{named} ")
    assert experiments.main(["list", "--epochs", "5", "--save_path", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "210 runs, which 'run beyond' makes" in said
    assert "240 runs in all" in said  # ten of them are of 3.2 too, and two of modality


@pytest.mark.parametrize(
    "content", ['{"runs": [3]}', '{"runs": [["run", 3]]}', '{"runs": [[]]}', '{"runs": [["--help"]]}']
)
def test_a_spoilt_list_of_runs_is_named(content, tmp_path, capsys):
    (tmp_path / "experiments.json").write_text(content)
    assert experiments.main(["report", "--save_path", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {tmp_path / 'experiments.json'}: ")
    assert captured.err.endswith("remove it\n")
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


def test_beyond_without_an_encoder_says_which_command_fetches_one_and_writes_nothing(preprocessed, tmp_path, capsys):
    argv = ["run", "beyond", "--data_path", str(preprocessed), "--save_path", str(tmp_path / "exp")]
    assert experiments.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: beyond encoder: ")
    assert f"preprocessing.py --data_path {preprocessed} --audio_model team-lucid/hubert-base-korean" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "exp").exists()


def test_without_a_corpus_nothing_is_run(tmp_path, capsys):
    argv = ["run", "3.2", "--data_path", str(tmp_path / "corpus"), "--save_path", str(tmp_path / "exp")]
    assert experiments.main(argv) == 2
    assert "no such folder; pass --data_path" in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize("data_path", ["corpus", "../{name}/corpus", "{folder}/corpus"])
def test_a_run_of_an_earlier_program_and_of_any_spelling_of_the_path_is_not_made_again(
    data_path, preprocessed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").symlink_to(preprocessed)
    grid = ["--grid", "lam=0.5,0.6,0.7", "--SorL", "speaker", "--save_path", "exp"]
    argv = [*grid, "--data_path", data_path.format(name=tmp_path.name, folder=tmp_path)]
    for number, planned in enumerate(parse_plan(["run", *grid, "--data_path", str(tmp_path / "corpus")]).runs):
        folder = tmp_path / "exp" / str(number)
        folder.mkdir(parents=True)
        configuration = as_json(parse_args(planned.argv)[0]) | {"versions": {}}
        for name in ("precision", "feature_dtype"):  # as before these options existed
            del configuration[name]
        write_json(folder / "configuration.json", configuration)
        (folder / "result.json").touch()
    assert experiments.main(["list", *argv]) == 0
    assert "3 runs in all, those that tables share counted once; 3 finished in exp" in capsys.readouterr().out
    assert experiments.main(["run", *argv]) == 0
    assert "3 runs, 3 finished already" in capsys.readouterr().out
    assert not (tmp_path / "exp" / "jobs").exists()

    del configuration["versions"]  # now it is one of the published program
    write_json(folder / "configuration.json", configuration)
    assert experiments.main(["list", *argv]) == 0
    assert "2 finished in exp" in capsys.readouterr().out
    assert experiments.main(["list", *argv, "--precision", "bf16"]) == 0
    assert "0 finished in exp" in capsys.readouterr().out


def test_runs_are_made_once_and_one_that_fails_stops_no_other(preprocessed, tmp_path, monkeypatch, capsys):
    corpus, exp = tmp_path / "corpus", tmp_path / "exp"
    shutil.copytree(preprocessed, corpus)
    # The corpus has sessions 1 to 6: the first fold's run fails, the second's does not
    monkeypatch.setitem(TABLES, "3.2", TABLES["3.2"]._replace(folds=((5, 6, 7, 8), (1, 2, 3, 4))))
    monkeypatch.setitem(TABLES, "shared", Table("Shares the second", {"same": {"lam": 0.66}}, ((1, 2, 3, 4),)))
    argv = ["3.2", "shared", "--SorL", "speaker", "--data_path", str(corpus), "--save_path", str(exp), *QUICK]
    assert experiments.main(["run", *argv]) == 1
    said = capsys.readouterr().out
    assert re.search(
        r"^2 to make: about \d+ (s|min) here \(a rough guess .*\), \d+ MB of disk \(.* free\)$", said, re.M
    )
    (result,) = exp.glob("*/result.json")
    changed = result.stat().st_mtime_ns

    predictions = pd.read_csv(result.parent / "predictions.csv")
    true = np.array([[name in labels.split(";") for name in EMOTIONS] for labels in predictions["emotion"]])
    f1 = batch_figures(predictions[[f"p_{name}" for name in EMOTIONS]].to_numpy(), true, 1, 4)[:, 2].mean()
    row = pd.read_csv(exp / "report" / "3.2.csv").set_index("test").loc["1-4"]
    assert row["F1"] == pytest.approx(f1, abs=6e-4)
    assert np.isnan(row["F1_published"])  # the corpus is no KEMDy19
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
    assert len(list(exp.glob("*/configuration.json"))) == 1
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
    shutil.copytree(result.parent, exp / "other")
    write_json(exp / "other" / "configuration.json", read_json(result.parent / "configuration.json") | {"seed": 1})
    assert experiments.main(["compare", "3.2:default", "other", "--save_path", str(exp)]) == 0
    assert f"| 1-4    | 0 / 1  | {len(predictions)} " in capsys.readouterr().out
    result.unlink()
    assert experiments.main(["compare", "3.2:default", "3.2:default", "--save_path", str(exp)]) == 2
    assert "have no finished runs of the same role" in capsys.readouterr().err


def test_a_comparison_with_options_says_that_it_looks_for_runs_of_these_alone(tmp_path, capsys):
    argv = ["compare", "3.3:default", "3.3:bidirectional", "--save_path", str(tmp_path)]
    assert experiments.main(argv) == 2
    assert "; see 'experiments.py report' for what has not finished" in capsys.readouterr().err
    assert experiments.main([*argv, "--epochs", "9"]) == 2
    assert "; see 'experiments.py report' for what has not finished" in capsys.readouterr().err
    remember(tmp_path, ["run", "3.3", "--save_path", str(tmp_path)])
    assert experiments.main([*argv, "--epochs", "9"]) == 2
    assert "; without --epochs it looks at the runs that SAVE_PATH remembers" in capsys.readouterr().err
