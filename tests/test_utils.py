"""utils: errors in one line with a status, files written whole or not at all, JSON, locked folders."""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import ROOT

import utils
from reports.runs import is_locked
from utils import InputError, Terminated, atomic_write, lock_folder, new_folder, read_json, run_command, write_json

NVIDIA = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("a.csv, row 3:\nbad"), 2),
        (FileNotFoundError(2, "No such file", "a.csv"), 2),
        (MemoryError(), 2),
        (RuntimeError(NVIDIA), 2),
        (torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nmore"), 2),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore"), 2),
        (torch.distributed.DistBackendError("NCCL error in: /x.cpp:94, unhandled system error"), 2),
        (torch.distributed.DistNetworkError("The server socket has failed to listen. name: EADDRINUSE"), 2),
        (torch.distributed.DistStoreError("Timed out after 601 seconds waiting for clients. 1/2 clients joined."), 2),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:45978"), 2),
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


def test_a_second_sigterm_does_not_disturb_what_the_first_one_ends():
    ended = []

    def command():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(True)

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert (run_command(command), ended) == (143, [True])
    finally:
        signal.signal(signal.SIGTERM, before)


ASSERT = RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ASSERT, OSError("no file"), ValueError("x")])
def test_a_programming_error_keeps_its_traceback(error):
    def command():
        raise error

    with pytest.raises(type(error)):
        run_command(command)


@pytest.mark.parametrize(("closing", "status"), [("| true", 141), (">&-", 0)])
def test_output_that_nobody_reads_is_no_error(closing, status):
    code = "import utils, sys; sys.exit(utils.run_command(lambda: print('x' * 10**6)))"
    command = f'{sys.executable} -c "{code}" {closing}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (status, b"")


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
        assert not path.exists()
    assert path.read_bytes() == "한국어\n".encode()
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")

    def write(path, error=None):
        with atomic_write(path, "wb") as file:
            file.write(b"x" * 2000)
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        write(path, KeyboardInterrupt)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # a full disk
    try:
        with pytest.raises(InputError, match=r"a\.bin"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with pytest.raises(InputError, match=r"a\.bin"):
        write(tmp_path / "none" / "a.bin")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"{", b"\xff{}", b"null"])
def test_what_is_no_json_object_is_refused_with_its_file(tmp_path, content):
    write_json(tmp_path / "b.json", {"text": "한국어", "none": None})
    assert read_json(tmp_path / "b.json") == {"text": "한국어", "none": None}
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


def test_a_new_folder_never_exists_before(tmp_path, monkeypatch):
    monkeypatch.setattr(utils.time, "strftime", lambda _: "20221104-183000")
    names = [new_folder(tmp_path / "exp", "run").name.removeprefix("run_20221104-183000") for _ in range(3)]
    assert names == ["", "-2", "-3"]


def test_a_locked_folder_is_refused_and_temporary_files_of_killed_processes_are_removed(tmp_path):
    users = {".annotation.csv.20241129", "a.part", ".a.csv.part", ".a.csv.0123456.part", "notes.csv.01234567.part"}
    for name in (*users, ".a.csv.0123abcd.part"):
        (tmp_path / name).touch()
    with lock_folder(tmp_path, "training"):
        with pytest.raises(InputError, match=tmp_path.name), lock_folder(tmp_path, "training"):
            pass
        assert {path.name for path in tmp_path.iterdir()} == users | {".lock"}
    assert {path.name for path in tmp_path.iterdir()} == users


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_file_system_without_locks_is_warned_of_and_used(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".a.csv.0123abcd.part").touch()  # it may be of a process that is at work
    with pytest.warns(UserWarning, match=tmp_path.name) as caught, lock_folder(tmp_path, "training"):
        assert not is_locked(tmp_path)
    assert len(caught) == 2
    assert [path.name for path in tmp_path.iterdir()] == [".a.csv.0123abcd.part"]
