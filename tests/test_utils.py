"""utils: errors in one line with a status, files written whole or not at all, JSON, locked folders."""

import os
import resource
import signal
import subprocess
import sys
import time
import warnings

import pytest
from conftest import ROOT

import utils
from utils import InputError, Terminated, atomic_write, lock_folder, new_folder, read_json, run_command, write_json

NVIDIA = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("a.csv, row 3:\nbad"), 2),
        (FileNotFoundError(2, "No such file", "a.csv"), 2),
        (MemoryError(), 2),
        (RuntimeError(NVIDIA), 2),
        (KeyboardInterrupt(), 130),
        (Terminated("resume with main.py --resume a.csv"), 143),
    ],
)
def test_an_error_is_one_line_and_a_status(error, status, capsys):
    def command():
        raise error

    assert run_command(command) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.csv" in line or "a.csv" not in str(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError("no file"), ValueError("x")])
def test_a_programming_error_keeps_its_traceback(error):
    def command():
        raise error

    with pytest.raises(type(error)):
        run_command(command)


def test_sigterm_ends_the_command_and_the_handler_is_restored(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def command():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    assert run_command(command) == 143
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_output_that_nobody_reads_is_no_error():
    code = "import utils, sys; sys.exit(utils.run_command(lambda: print('x' * 10**6)))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        run.stdout.close()
        assert (run.wait(), run.stderr.read()) == (141, b"")


def test_a_warning_is_one_line_printed_once(capsys):
    def command():
        for row in (1, 1, 2):
            warnings.warn(f"row {row}\nis odd", stacklevel=2)

    assert run_command(command) == 0
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert run_command(command, quiet=True) == 0
    assert capsys.readouterr().err == ""


# Files


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.csv"
    with atomic_write(path) as file:
        file.write("한국어\n")
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".a.csv.")
        assert temporary.suffix == ".part"
    assert path.read_bytes() == "한국어\n".encode()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("failure", ["error", "signal", "full disk", "no folder"])
def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, failure):
    path = (tmp_path / "none" if failure == "no folder" else tmp_path) / "a.bin"
    if failure != "no folder":
        path.write_bytes(b"before")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write():
        with atomic_write(path, "wb") as file:
            file.write(b"x" * 2000)
            if failure in ("error", "signal"):
                raise expected

    expected = {"error": ValueError, "signal": KeyboardInterrupt}.get(failure, InputError)
    try:
        if failure == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        with pytest.raises(expected, match=r"a\.bin" if expected is InputError else None):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if failure == "no folder" else [b"before"])


def test_json_is_read_as_it_was_written(tmp_path):
    content = {"sessions": [1, 2], "text": "한국어", "none": None, "lam": 0.66}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    (tmp_path / "b.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.json").read_bytes())  # an editor's mark
    assert read_json(tmp_path / "b.json") == content


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"{", b"\xff{}", b"null"])
def test_what_is_no_json_object_is_refused_with_its_file(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_korean_text_is_decoded(tmp_path, encoding):
    assert utils.decode("안녕, 세션".encode(encoding), tmp_path / "a.csv") == "안녕, 세션"
    for bad in (b"\xff\xff\xff", "안녕".encode("utf-16")):
        with pytest.raises(InputError, match=r"a\.csv"):
            utils.decode(bad, tmp_path / "a.csv")


# Folders


def test_a_new_folder_never_exists_before(tmp_path):
    names = [new_folder(tmp_path / "exp", "run").name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):  # one line, by `run_command`
        new_folder(tmp_path / "file", "run")


def test_a_locked_folder_is_refused_until_it_is_released(tmp_path):
    code = (
        "import sys, utils, pathlib\nwith utils.lock_folder(pathlib.Path(sys.argv[1]), 'x'): input(print(flush=True))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, **pipes) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match=tmp_path.name), lock_folder(tmp_path, "training"):
            pass
        other.kill()  # also releases it
    with lock_folder(tmp_path, "training", wait=True):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())


def test_only_temporary_files_of_killed_processes_are_removed(tmp_path):
    users = {".annotation.csv.20241129", "a.part", ".a.csv.part", ".a.csv.0123456.part", "notes.csv.01234567.part"}
    for name in (*users, ".a.csv.0123abcd.part"):
        (tmp_path / name).touch()
    with lock_folder(tmp_path, "training"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == users
