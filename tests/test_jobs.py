import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT

from sweeps.jobs import Job, error_file, find_finished, find_runs, last_line, shares
from training.configuration import as_json, identity
from training.options import parse_args
from utils import lock_folder, read_json, write_json

QUICK = ("--hidden_size", "4", "--num_layers", "1", "--batch_size", "4", "--modality", "text", "--gpu_id", "cpu")


def test_gpus_are_dealt_out_and_the_processor_is_shared(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    dealt = shares(3, None)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in dealt] == ["GPU-a", "GPU-b", "GPU-a"]
    assert {place["OMP_NUM_THREADS"] for place in dealt} == {"2"}
    assert [place["CUDA_VISIBLE_DEVICES"] for place in shares(2, "1")] == ["GPU-a,GPU-b"] * 2
    assert shares(1, None) == [{"CUDA_VISIBLE_DEVICES": "GPU-a"}]  # all threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert shares(2, None)[1]["OMP_NUM_THREADS"] == "5"


def test_a_job_whose_time_is_over_has_its_run_stop_before_it_begins_anew(tmp_path):
    code = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(7)); print(flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()  # it is ready
    job = Job("run", ("--epochs", "1"), tmp_path, "label", epochs=1, environment={"A": "b"})
    again = replace(job, pid=process.pid).checkpoint()
    assert again.function == job
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    process.stdout.close()
    process.wait()


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path, capfd):
    import filelock

    (tmp_path / "jobs").mkdir()
    with filelock.FileLock(tmp_path / "jobs" / "a.lock"):
        assert Job("a", ("--no_such_option",), tmp_path)() == 0
    assert "another process is working on this run" in capfd.readouterr().out
    assert not (tmp_path / "jobs" / "a.log").exists()
    previous = signal.getsignal(signal.SIGTERM)
    try:
        assert Job("a", ("--no_such_option",), tmp_path)() == 2  # now it is free
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert "--no_such_option: no such option" in error_file(tmp_path, "a").read_text()


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        ("training: 3%\rtraining: 9%\nerror: no such file\n", 2, "error: no such file"),
        ("", 1, "exit status 1"),
        ("training: 3%", -signal.SIGKILL, "killed by SIGKILL"),
    ],
)
def test_last_line_of_a_run_that_failed(text, status, expected, tmp_path):
    (tmp_path / "log").write_text(text)
    assert last_line(tmp_path / "log", status) == expected


def running(exp: Path) -> list[int]:
    """Processes of main.py that write to this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(ROOT / "main.py").encode() in arguments and str(exp).encode() in arguments:
            found.append(int(path.parent.name))
    return found


def until(happens, process: subprocess.Popen, seconds: int = 120):
    """Wait until `happens` gives something, and return it."""
    end = time.monotonic() + seconds
    while not (value := happens()):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    return value


@pytest.mark.parametrize("how", ["kill", "ctrl-c"])
def test_a_run_that_was_killed_or_stopped_goes_on_in_its_folder(how, preprocessed, tmp_path):
    corpus, exp = tmp_path / "corpus", tmp_path / "exp"
    shutil.copytree(preprocessed, corpus)
    options = ["--SorL", "speaker", "--test_split", "1-2", "--data_path", str(corpus), "--save_path", str(exp)]
    grid = ["--grid", "lam=0.5,0.6", "--epochs", "60", "--save_minutes", "0", *QUICK]
    command = [sys.executable, str(ROOT / "experiments.py"), "run", *grid, *options, "--jobs", "2"]

    def begin() -> subprocess.Popen:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    first = begin()
    until(lambda: len(list(exp.glob("*/checkpoint.pt"))) == 2, first)
    before = {path.parent for path in exp.glob("*/checkpoint.pt")}
    if how == "kill":
        pids = running(exp)
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    else:
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    output = first.communicate(timeout=120)[0]
    assert first.returncode == (1 if how == "kill" else 130), output
    assert ("killed by SIGKILL" if how == "kill" else "all is saved; call the same command") in output
    assert not running(exp)

    second = begin()
    output = second.communicate(timeout=120)[0]
    assert second.returncode == 0, output
    assert {path.parent for path in exp.glob("*/result.json")} == before
    assert {read_json(folder / "configuration.json")["lam"] for folder in before} == {0.5, 0.6}
    logs = [path.read_text() for path in (exp / "jobs").glob("*.log")]
    assert len(logs) == 2
    assert all("resuming" in log for log in logs)
    assert not list((exp / "jobs").glob("*.error.txt"))


def test_a_run_whose_job_is_gone_is_left_to_its_process(tmp_path, capfd):
    args = parse_args(["--save_path", str(tmp_path)])[0]
    (tmp_path / "1").mkdir()
    (tmp_path / "jobs").mkdir()
    write_json(tmp_path / "1" / "configuration.json", as_json(args) | {"versions": {}})
    with lock_folder(tmp_path / "1", "training"):  # its main.py, which outlived the job that began it
        assert Job(identity(as_json(args)), ("--no_such_option",), tmp_path)() == 0
    assert "another process is working on this run" in capfd.readouterr().out


def test_folders_are_found_by_what_decides_their_outcome(tmp_path):
    def write(name: str, *argv: str, epochs: int = 0, finished: bool = False) -> str:
        folder = tmp_path / name
        folder.mkdir()
        args = parse_args(["--save_path", str(tmp_path), *argv])[0]
        write_json(folder / "configuration.json", as_json(args) | {"versions": {}})
        if epochs:
            (folder / "history.csv").write_text("epoch,train_loss\n" + "1,1\n" * epochs)
        if finished:
            (folder / "result.json").touch()
        return identity(as_json(args))

    a, b = write("1", "--lam", "0.5", epochs=3), write("2", "--lam", "0.6", epochs=7)
    assert write("3", "--lam", "0.5", finished=True) == a
    write("4", "--lam", "0.6", epochs=2)
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "configuration.json").write_text("{")
    assert find_runs(tmp_path) == {a: (tmp_path / "3", True, 0), b: (tmp_path / "2", False, 7)}
    assert find_finished(tmp_path) == {a: tmp_path / "3"}
    assert error_file(tmp_path, a) != error_file(tmp_path, b)


def test_a_folder_without_an_option_has_its_default_and_one_without_versions_is_none(tmp_path):
    configuration = as_json(parse_args(["--data_path", str(tmp_path), "--lam", "0.5"])[0]) | {"versions": {}}
    wanted = identity(configuration)
    for missing in ("precision", "feature_dtype", "versions"):
        (tmp_path / missing).mkdir()
        kept = {name: value for name, value in configuration.items() if name != missing}
        write_json(tmp_path / missing / "configuration.json", kept)
        (tmp_path / missing / "result.json").touch()
        found = find_runs(tmp_path)
        assert found == ({} if missing == "versions" else {wanted: (tmp_path / missing, True, 0)})
        shutil.rmtree(tmp_path / missing)
