import importlib
import json
import os
import stat
import warnings

import pytest

import utils
from utils import (
    InputError,
    atomic_write,
    find_run,
    new_folder,
    read_json,
    run_command,
)


def test_a_failed_write_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_write_replaces_the_file_with_usual_permissions(tmp_path):
    for content in ("one", "둘"):
        with atomic_write(tmp_path / "a.txt") as file:
            file.write(content)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == content
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_full_disk_is_one_clear_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"a\.txt: cannot be written \(No space left"),
        atomic_write(tmp_path / "a.txt"),
    ):
        raise OSError(28, os.strerror(28))
    assert not list(tmp_path.iterdir())


def test_folders_are_never_reused(tmp_path):
    folders = [new_folder(tmp_path / "exp", "run") for _ in range(3)]
    assert [folder.name for folder in folders] == ["run", "run-2", "run-3"]


def test_run_command_turns_bad_input_into_a_line_and_leaves_bugs_alone(capsys):
    def fail() -> None:
        raise InputError("file.csv, row 3: found this")

    def bug() -> None:
        raise KeyError("bug")

    assert run_command(lambda: None) == 0
    assert run_command(fail) == 2
    assert capsys.readouterr().err == "error: file.csv, row 3: found this\n"
    with pytest.raises(KeyError, match="bug"):
        run_command(bug)


def test_run_command_says_a_warning_once(capsys):
    def warn() -> None:
        for text in ("a", "b\n", "a"):
            warnings.warn(text, stacklevel=1)

    for _ in range(2):  # a call does not hush the next one
        assert run_command(warn) == 0
        assert capsys.readouterr().err == "warning: a\nwarning: b\\n\n"


def test_runs_are_found_by_name_and_by_path(tmp_path):
    folder = new_folder(tmp_path / "exp", "run")
    (folder / "configuration.json").write_text("{}")
    assert find_run(tmp_path / "exp", "run") == find_run(tmp_path / "other", str(folder)) == folder


def test_read_json_refuses_what_is_no_object(tmp_path):
    (tmp_path / "a.json").write_text("3")
    with pytest.raises(InputError, match="expected a JSON object"):
        read_json(tmp_path / "a.json")


def test_configuration_written_is_the_one_read(tmp_path):
    content = {"test_split": [1, 2], "name": "청자"}
    utils.write_json(tmp_path / "c.json", content)
    assert read_json(tmp_path / "c.json") == content
    assert "청자" in (tmp_path / "c.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == content


@pytest.mark.parametrize(
    ("program", "argv", "line"),
    [
        ("main", ["--epohcs", "3"], "error: --epohcs: no such option, did you mean --epochs?"),
        ("main", ["--sorl=speaker"], "error: --sorl: no such option, did you mean --SorL?"),
        ("main", ["--zzz"], "error: --zzz: no such option; --help lists all"),
        ("main", ["--epochs", "3", "4"], "error: 4: not expected here; --help lists what is"),
        ("main", ["--lam", "3\n"], "error: argument --lam: '3\\n': expected float from 0 to 1"),
        ("preprocessing", ["--data_pth", "x"], "error: --data_pth: no such option, did you mean --data_path?"),
        ("benchmark", ["--rouds", "3"], "error: --rouds: no such option, did you mean --rounds?"),
    ],
)
def test_a_mistyped_option_is_one_line_with_the_one_that_was_meant(program, argv, line, capsys):
    with pytest.raises(SystemExit) as exit_:
        importlib.import_module(program).main(argv)
    captured = capsys.readouterr()
    assert (exit_.value.code, captured.out, captured.err) == (2, "", line + "\n")
