"""SLURM: runs of main.py handed to a cluster as one array, through submitit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sweeps.jobs import POLL, Job, find_runs, progress_bar, submitit_folder, update_bar, write_ended
from utils import InputError, Interrupted, count, stop_requests

if TYPE_CHECKING:
    import submitit

INTERVAL = 30.0  # seconds between questions to SLURM, and between looks at the folders of its runs
MAX_RESTARTS = 10**6  # times that SLURM may start a job again after its time limit


class Slurm(NamedTuple):
    """What every run asks of SLURM; None means the cluster's own setting."""

    partition: str | None = None
    time: int = 24 * 60  # minutes
    gpus: int = 1
    cpus: int | None = None
    memory: int | None = None  # GB
    array: int = 256  # runs at once


def run_on_slurm(jobs: Sequence[Job], save_path: Path, slurm: Slurm) -> None:
    """Hand all jobs to SLURM and return when none is left there.

    Raises
    ------
    InputError : there is no SLURM here, or it refuses the jobs
    Interrupted : SIGINT or SIGTERM came; the runs go on
    """
    executor, queue = slurm_executor(save_path, slurm), Queue()
    found, looked = find_runs(save_path), time.monotonic()
    with stop_requests(quiet=True) as received, progress_bar(jobs) as bar:
        running = list(zip(jobs, submit_array(executor, jobs), strict=True))
        bar.write(f"{count(len(jobs), 'run')} handed to SLURM, job {array_of(running[0][1])}", sys.stdout)
        while running:
            if received:
                raise Interrupted(
                    "the runs go on in SLURM; see them with squeue and stop them with scancel", received[0]
                )
            time.sleep(POLL)
            over = [queue.is_over(handle) for _, handle in running]
            ended = [job for (job, _), is_over in zip(running, over, strict=True) if is_over]
            running = [pair for pair, is_over in zip(running, over, strict=True) if not is_over]
            if ended or time.monotonic() - looked > INTERVAL:
                found, looked = find_runs(save_path), time.monotonic()
            write_ended(bar, ended, found, save_path)
            update_bar(bar, jobs, found, running=len(running), waiting=0)
        if received:
            raise Interrupted("stopped, all is saved; call the same command to go on", received[0])


def slurm_executor(save_path: Path, slurm: Slurm) -> submitit.SlurmExecutor:
    """The submitit executor that hands jobs to SLURM.

    Raises
    ------
    InputError : there is no SLURM here
    """
    import submitit

    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise InputError("--slurm: no sbatch and srun here; call it on a machine of a SLURM cluster, or use --jobs")
    parameters = {
        "job_name": "mate",
        "time": slurm.time,
        "array_parallelism": slurm.array,
        "partition": slurm.partition,
        "cpus_per_task": slurm.cpus,
        "gpus_per_node": slurm.gpus or None,
        "mem": None if slurm.memory is None else f"{slurm.memory}GB",
    }
    executor = submitit.SlurmExecutor(submitit_folder(save_path), max_num_timeout=MAX_RESTARTS)
    executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
    return executor


def submit_array(executor: submitit.SlurmExecutor, jobs: Sequence[Job]) -> list[submitit.SlurmJob]:
    """Hand all jobs to SLURM as one array.

    Raises
    ------
    InputError : SLURM refuses them
    """
    import submitit

    try:
        with executor.batch():
            return [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()
        raise InputError(f"--slurm: SLURM refuses the runs ({reason}); see --partition, --time and --gpus") from error


def array_of(job: submitit.SlurmJob) -> str:
    """The number of the array that a job of SLURM belongs to."""
    return job.job_id.partition("_")[0]


class Queue:
    """SLURM's jobs that have not ended, asked for now and then; submitit's own way needs SLURM's accounting.

    Parameters
    ----------
    interval : seconds between questions to SLURM
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self.interval = interval
        self.asked = time.monotonic()  # a job that was just handed over may not be listed yet
        self.jobs: set[str] | None = None

    def is_over(self, job: submitit.SlurmJob) -> bool:
        """Whether a job has written its result, or is gone without one."""
        if job.paths.result_pickle.exists():
            return True
        if time.monotonic() - self.asked >= self.interval:
            self.asked, self.jobs = time.monotonic(), self.ask(array_of(job))
        return self.jobs is not None and job.job_id not in self.jobs

    @staticmethod
    def ask(array: str) -> set[str] | None:
        """The jobs of an array that wait or run; None if SLURM does not answer."""
        command = ["squeue", "--noheader", "--array", "--jobs", array, "--format", "%i"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "Invalid job id" not in done.stderr:
            return None
        return set(done.stdout.split())
