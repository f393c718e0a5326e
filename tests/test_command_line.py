from pathlib import Path

import pytest

from sweeps.command_line import parse_plan, with_remembered
from sweeps.memory import recall, remember
from sweeps.plan import Plan, PlannedRun


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "3.9"], "no table '3.9'"),
        (["run", "--lam", "0.5"], "--lam is set by the tables"),
        (["run", "--seed", "3"], "--seed is set by the tables"),
        (["report", "--seeds", "0"], "from 1 to 1000"),
        (["run", "--test_split", "1-4"], "--test_split is for --grid"),
        (["run", "--grid", "lambda=0.5"], "expected NAME=VALUE,... with one of affect_loss"),
        (["run", "--grid", "seed=1,2"], "expected NAME=VALUE"),
        (["run", "--grid", "lam=0.5,"], "expected values such as lam=A,B"),
        (["run", "--grid", "lam=0.5,2"], "--lam: '2': expected float from 0 to 1"),
        (["run", "--grid", "no_concat=maybe"], "'maybe': expected True or False"),
        (["run", "--grid", "lam=0.5", "lam=0.6"], "an option is given twice"),
        (["run", "--grid", "lam=0.5", "--lam", "0.6"], "--lam is set by the tables"),
        (["compare", "3.3:default"], "arguments are required: TABLE:ROW"),
        ([], "required: COMMAND"),
        (["lits"], "lits: no such command, did you mean list?"),
        (["run", "--epohcs", "3"], "--epohcs: no such option, did you mean --epochs?"),
        (["run", "--sedes=3"], "--sedes: no such option, did you mean --seeds?"),  # not the hidden --seed
    ],
)
def test_impossible_experiments_are_refused_with_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_plan(argv)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_report_without_options_is_of_all_runs_with_the_last_ones_options(tmp_path):
    def plan(*argv: str, save_path: Path = tmp_path) -> Plan:
        return parse_plan([*argv, "--save_path", str(save_path)])

    def recalled(*argv: str, save_path: Path = tmp_path) -> list[PlannedRun]:
        return with_remembered(plan(*argv, save_path=save_path)).runs

    def runs(*argv: str) -> list[PlannedRun]:
        return plan(*argv).runs

    lines = [
        ["run", "3.2", "--SorL", "speaker", "--epochs", "2"],
        ["run", "3.3", "--epochs", "9"],
        ["run", "3.2", "--epochs", "2", "--gpu_id", "cpu"],  # the first one's runs again, and the listener's
        ["run", "--grid", "lam=0.5", "--SorL", "listener", "--epochs", "2"],
        ["run", "--grid", "lam=0.6", "--SorL", "listener", "--epochs", "2", "--jobs", "2"],
    ]
    for line in lines:
        remember(tmp_path, [*line, "--save_path", str(tmp_path)])
    of_grids = [*runs(*lines[3]), *runs(*lines[4])]
    assert len(runs(*lines[2])) == 10
    assert sorted(recalled("report")) == sorted([*runs(*lines[2]), *of_grids])
    assert recalled("compare", "grid:lam=0.5", "grid:lam=0.6") == recalled("report")
    assert recalled("report", "grid") == of_grids
    assert recalled("report", "grid", "--SorL", "speaker") == []
    assert recalled("report", "3.2", "--SorL", "listener") == runs(*lines[2], "--SorL", "listener")
    assert recalled("report", "3.3") == []  # with other options
    assert recalled("report", "3.3", "--epochs", "9") == plan("report", "3.3", "--epochs", "9").runs
    remember(tmp_path, [*lines[1], "--save_path", str(tmp_path)])
    assert recalled("report") == runs(*lines[1])
    assert [line[1] for line in recall(tmp_path)] == ["3.2", "3.2", "--grid", "--grid", "3.3"]  # not twice

    moved = tmp_path.rename(tmp_path.with_name("moved"))
    found = with_remembered(plan("report", save_path=moved))
    assert (found.main_args.save_path, found.args.command, found.settings["epochs"]) == (moved, "report", 9)
    assert len(found.runs) == 4


def test_remembered_runs_of_one_corpus_belong_together_however_its_path_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remember(tmp_path, ["run", "3.3", "--data_path", "corpus"])
    remember(tmp_path, ["run", "backbone", "--data_path", str(tmp_path / "corpus")])
    remember(tmp_path, ["run", "modality", "--data_path", "corpus/../corpus"])
    assert list(with_remembered(parse_plan(["report", "--save_path", "."])).tables) == ["3.3", "backbone", "modality"]
    remember(tmp_path, ["run", "3.6", "--data_path", "other"])
    assert list(with_remembered(parse_plan(["report", "--save_path", "."])).tables) == ["3.6"]


def test_a_report_without_options_is_of_runs_with_one_speech_encoder(tmp_path):
    lines = [["run", "beyond", "--seeds", "1", "--SorL", "speaker", "--save_path", str(tmp_path)] for _ in range(3)]
    for line, encoder in zip(lines, ([], ["--audio_model", "hubert"], ["--audio_model", "whisper"]), strict=True):
        remember(tmp_path, line + encoder)
        found = with_remembered(parse_plan(["report", "--save_path", str(tmp_path)]))
        assert found.runs == parse_plan(line + encoder).runs
        assert len(found.runs) == 7 * 5
