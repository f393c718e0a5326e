import os
import signal
import stat
import subprocess
import sys

import pytest
import submitit
from conftest import ROOT

from sweeps.jobs import Job
from sweeps.slurm import Queue, Slurm, run_on_slurm, slurm_executor, submit_array
from utils import InputError

# A cluster that cannot be had in the tests: scripts in place of its commands


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Give SLURM's commands these shell scripts."""

    def make(**scripts: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return make


def test_a_cluster_gets_an_array_with_what_each_run_needs(cluster, tmp_path):
    cluster(srun="exit 0", sbatch=f"cat $1 > {tmp_path}/script; echo Submitted batch job 7")
    executor = slurm_executor(tmp_path, Slurm("gpu", 90, 1, 4, 16, array=3))
    handles = submit_array(executor, [Job(run, ("--epochs", "1"), tmp_path) for run in "abcd"])
    assert [handle.job_id for handle in handles] == ["7_0", "7_1", "7_2", "7_3"]
    script = (tmp_path / "script").read_text()
    for line in ("array=0-3%3", "partition=gpu", "time=90", "gpus-per-node=1", "cpus-per-task=4", "mem=16GB"):
        assert f"#SBATCH --{line}\n" in script


def test_a_cluster_that_refuses_or_is_not_there_ends_in_one_line(cluster, tmp_path, monkeypatch):
    cluster(srun="exit 0", sbatch="echo 'error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(InputError, match="invalid partition specified: gpu"):
        run_on_slurm([Job("a", (), tmp_path)], tmp_path, Slurm("gpu"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="no sbatch and srun"):
        slurm_executor(tmp_path, Slurm())


def test_a_job_is_over_when_slurm_has_it_no_more(cluster, tmp_path):
    handles = [submitit.SlurmJob(tmp_path, f"7_{number}") for number in range(2)]
    cluster(squeue="echo 7_1")
    assert [Queue(0).is_over(handle) for handle in handles] == [True, False]
    cluster(squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert not Queue(0).is_over(handles[0])  # nobody knows
    cluster(squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert Queue(0).is_over(handles[1])
    cluster(squeue="echo 7_0; echo 7_1")
    handles[0].paths.result_pickle.touch()
    assert [Queue(0).is_over(handle) for handle in handles] == [True, False]
    cluster(squeue=f"touch {tmp_path}/asked")
    assert not Queue(3600).is_over(handles[1])  # it was just handed over
    assert not (tmp_path / "asked").exists()


# Starts every job of an array on this machine, as `srun` below lets it; keeps the script, which submitit then moves
SBATCH = r"""
script=$(cat "$1")
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1")
export SLURM_ARRAY_JOB_ID=7 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1
export SLURM_JOB_NODELIST=here
for task in $(seq 0 "$last"); do
    SLURM_JOB_ID=1$task SLURM_ARRAY_TASK_ID=$task sh -c "$script" > /dev/null 2>&1 &
done
echo Submitted batch job 7"""
SRUN = """
while :; do
    case $1 in
        --unbuffered) shift ;;
        --*) shift 2 ;;
        *) exec "$@" ;;
    esac
done"""
QUICK = ("--hidden_size", "4", "--num_layers", "1", "--batch_size", "4", "--modality", "text", "--gpu_id", "cpu")


def test_a_cluster_makes_the_runs_and_one_that_fails_stops_no_other(cluster, preprocessed, tmp_path):
    cluster(sbatch=SBATCH, srun=SRUN, squeue="echo 7_0; echo 7_1")
    grid = ["--grid", "lam=0.5", "--test_split", "1-2", "17-18", "--SorL", "speaker", "--epochs", "1", *QUICK]
    paths = ["--data_path", str(preprocessed), "--save_path", str(tmp_path / "exp")]
    command = [sys.executable, str(ROOT / "experiments.py"), "run", "--slurm", *grid, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "2 runs handed to SLURM, job 7" in done.stdout
    (result,) = (tmp_path / "exp").glob("*/result.json")
    assert f"grid lam=0.5, speaker, test 1-2, seed 0: {result.parent}\n" in done.stdout
    assert "test 17-18, seed 0: error: --test_split: the corpus has no utterance of sessions [17, 18]" in done.stdout
    assert "1 run has not finished" in done.stderr


def test_runs_on_a_cluster_go_on_when_the_program_is_stopped(cluster, preprocessed, tmp_path):
    cluster(sbatch="echo Submitted batch job 7", srun="exit 0", squeue="echo 7_0")
    options = ["--grid", "lam=0.5", "--SorL", "speaker", "--data_path", str(preprocessed), "--save_path", str(tmp_path)]
    command = [sys.executable, str(ROOT / "experiments.py"), "run", "--slurm", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1 run, 0 finished already\n"
        assert any("1 run handed to SLURM, job 7" in process.stdout.readline() for _ in range(3))
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "the runs go on in SLURM; see them with squeue and stop them with scancel" in output[1]
