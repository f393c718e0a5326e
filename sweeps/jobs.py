"""Runs of main.py as jobs, several at once on this machine or handed to a SLURM cluster, both through submitit."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import main as program
from training.options import identity
from utils import InputError, Interrupted, atomic_write, lock_folder, new_folder, read_json, stop_requests, timestamp

if TYPE_CHECKING:
    import submitit

FOLDER = "jobs"  # in SAVE_PATH: logs of the runs, errors of those that failed, and submitit's own files
POLL = 1.0  # seconds between looks at the jobs
CLUSTER_POLL = 30.0  # seconds between questions to SLURM, and between looks at the folders of its runs
# Exit statuses of a main.py that was told to stop, the last one before it could save anything
INTERRUPTED = {128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM}
MANY = 10**6  # times that SLURM may begin a job anew at its time limit; and minutes that a local one may take


class Found(NamedTuple):
    """An experiment folder, whether its run has finished, and how many epochs of it are done."""

    folder: Path
    finished: bool
    epochs: int


def find_runs(save_path: Path) -> dict[str, Found]:
    """Experiment folders in `save_path` by the `identity` of their outcome; of several the most advanced one."""
    found: dict[str, Found] = {}
    for path in sorted(save_path.glob("*/configuration.json")):
        try:
            stored = read_json(path)
        except InputError:
            continue  # another folder's damage is no reason to stop
        try:
            epochs = (path.parent / "history.csv").read_bytes().count(b"\n") - 1
        except OSError:
            epochs = 0
        if "versions" not in stored:
            continue  # the published program's
        run = identity(stored)
        this = Found(path.parent, (path.parent / "result.json").exists(), max(0, epochs))
        if run not in found or this[1:] > found[run][1:]:
            found[run] = this
    return found


def error_file(save_path: Path, run: str) -> Path:
    """Where the last line of a failed run stands."""
    return save_path / FOLDER / f"{run[:16]}.error.txt"


@dataclass
class Job:
    """A run of main.py in a process of its own, which submitit calls, perhaps on another machine.

    run : the `identity` of its outcome
    argv : main.py's arguments
    save_path : main.py's --save_path
    environment : variables that main.py gets besides those that are there
    """

    run: str
    argv: tuple[str, ...]
    save_path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0

    def __call__(self) -> int:
        """Run main.py, unless the run has finished or another process is at it, and return its exit status.

        Its output goes to `jobs/<run>.log`. SIGTERM, and SLURM's signal before its time limit, has it save and stop.
        """
        import filelock

        folder = self.save_path / FOLDER
        error, log = error_file(self.save_path, self.run), folder / f"{self.run[:16]}.log"
        lock = filelock.FileLock(folder / f"{self.run[:16]}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print("another process is at this run")
            return 0
        with lock:
            there = find_runs(self.save_path).get(self.run)
            if there is not None:
                if there.finished:
                    return 0
                try:
                    with lock_folder(there.folder, "training"):
                        pass
                except InputError:  # a main.py that outlived its job, or that the user called
                    print("another process is at this run")
                    return 0
            error.unlink(missing_ok=True)
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda *_: self.stop())
            command = [sys.executable, str(Path(program.__file__)), *self.argv, "--resume", "auto"]
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "TQDM_MININTERVAL": "10", **self.environment},
                    start_new_session=True,  # signals come to it from here alone
                    preexec_fn=ignore_submitit_signal,
                )
                self.pid = process.pid
                status = process.wait()
            if status and status not in INTERRUPTED:
                with atomic_write(error) as file:
                    file.write(last_line(log, status))
            return status

    def stop(self) -> None:
        """Have main.py save and stop, once: a second signal would stop it without."""
        pid, self.pid = self.pid, 0
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def checkpoint(self) -> Any:
        """What SLURM begins anew when the job's time is over; submitit calls it in a signal's handler."""
        from submitit.helpers import DelayedSubmission

        pid = self.pid
        self.stop()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0) if pid else None
        return DelayedSubmission(Job(self.run, self.argv, self.save_path, self.environment))


def ignore_submitit_signal() -> None:
    """SLURM sends the signal before its time limit to all processes of a job; main.py gets SIGTERM in its place."""
    signal.signal(getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")), signal.SIG_IGN)


def last_line(log: Path, status: int) -> str:
    """The last line of a run that ended with this exit status, or what ended it."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else f"exit status {status}"


# Where they run


class Slurm(NamedTuple):
    """What SLURM is asked for, for every run; None leaves it to the cluster's own setting."""

    partition: str | None = None
    time: int = 24 * 60  # minutes
    gpus: int = 1
    cpus: int | None = None
    memory: int | None = None  # GB
    array: int = 256  # runs at once


def submitit_folder(save_path: Path) -> Path:
    """A new folder for what submitit writes, in whose processes this program's modules are found."""
    here = str(Path(__file__).parent.parent)
    if here not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return new_folder(save_path.absolute() / FOLDER, f"submitit_{timestamp()}")


def slurm_executor(save_path: Path, wanted: Slurm) -> submitit.SlurmExecutor:
    """What hands jobs to SLURM.

    Raises
    ------
    InputError : there is no SLURM here
    """
    import shutil

    import submitit

    if not all(map(shutil.which, ("sbatch", "srun"))):
        raise InputError("--slurm: no sbatch and srun here; call it on a machine of a SLURM cluster, or use --jobs")
    executor = submitit.SlurmExecutor(submitit_folder(save_path), max_num_timeout=MANY)
    parameters = {"partition": wanted.partition, "cpus_per_task": wanted.cpus}
    parameters |= {"gpus_per_node": wanted.gpus or None, "mem": wanted.memory and f"{wanted.memory}GB"}
    parameters = {name: value for name, value in parameters.items() if value is not None}
    executor.update_parameters(job_name="mate", time=wanted.time, array_parallelism=wanted.array, **parameters)
    return executor


def local_executor(save_path: Path) -> submitit.LocalExecutor:
    """What runs jobs on this machine, all that it is given at once."""
    import submitit

    executor = submitit.LocalExecutor(submitit_folder(save_path))
    executor.update_parameters(timeout_min=MANY)
    return executor


def shares(n_jobs: int, gpu_id: str | None) -> list[dict[str, str]]:
    """Environments of runs that share this machine: a GPU for each in turn, and equal parts of the processor.

    Parameters
    ----------
    n_jobs : runs at once
    gpu_id : main.py's --gpu_id; where it is given it holds for all
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // n_jobs)))
    there = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = there.split(",") if there else [str(number) for number in range(torch.cuda.device_count())]
    dealt = []
    for number in range(n_jobs):
        visible = gpus if gpu_id is not None else gpus[number % len(gpus) :][:1] if gpus else []
        dealt.append({"CUDA_VISIBLE_DEVICES": ",".join(visible)})
        if n_jobs > 1:
            dealt[-1]["OMP_NUM_THREADS"] = threads
    return dealt


# Running them


def run_jobs(
    jobs: Sequence[Job],
    labels: Mapping[str, str],
    epochs: Mapping[str, int],
    save_path: Path,
    places: Sequence[Mapping[str, str]] = (),
    slurm: Slurm | None = None,
) -> None:
    """Run all jobs, as many at once as there are `places` or as SLURM lets, and return when none is left.

    Parameters
    ----------
    labels, epochs : of the runs, to tell the user of them and for the progress bar
    places : of this machine: the environment that a run gets there

    Raises
    ------
    InputError : SLURM refuses them
    Interrupted : SIGINT or SIGTERM came; what ran on this machine has saved and stopped, what SLURM has goes on
    """
    from tqdm import tqdm

    waiting, running = list(jobs), {}  # running: jobs by their places, or by their numbers
    is_over = (lambda handle: handle.done()) if slurm is None else Queue().is_over
    executor = local_executor(save_path) if slurm is None else slurm_executor(save_path, slurm)
    found, looked, look_every = find_runs(save_path), time.monotonic(), 0 if slurm is None else CLUSTER_POLL
    with stop_requests(quiet=True) as received, tqdm(total=sum(epochs.values()), desc="runs", unit="epoch") as bar:
        if slurm is not None:
            running = dict(enumerate(zip(jobs, submit_array(executor, jobs), strict=True)))
            waiting = []
            bar.write(f"{len(jobs)} runs handed to SLURM, job {running[0][1].job_id.partition('_')[0]}", sys.stdout)
        while running or waiting:
            if received and slurm is not None:
                raise Interrupted(
                    "the runs go on in SLURM; see them with squeue and stop them with scancel", received[0]
                )
            if received:
                waiting = []
                for _, handle in running.values():  # again and again: a process that just begins may miss one
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(handle.job_id), signal.SIGTERM)
            for place, environment in enumerate(places):
                if waiting and place not in running:
                    job = waiting.pop(0)
                    job.environment = environment
                    with ignored(signal.SIGINT):  # which a terminal sends to all; this program alone decides
                        running[place] = job, executor.submit(job)
            time.sleep(POLL)
            ended = {place: job for place, (job, handle) in running.items() if is_over(handle)}
            running = {place: pair for place, pair in running.items() if place not in ended}
            if ended or time.monotonic() - looked > look_every:
                found, looked = find_runs(save_path), time.monotonic()
            for job in ended.values():
                bar.write(f"{labels[job.run]}: {describe(save_path, job.run, found)}", sys.stdout)
            done = [min(found[job.run].epochs, epochs[job.run]) for job in jobs if job.run in found]
            bar.set_postfix(running=len(running), waiting=len(waiting), refresh=False)
            bar.update(sum(done) - bar.n)
        if received:
            raise Interrupted("stopped, all is saved; call the same command to go on", received[0])


def submit_array(executor: submitit.SlurmExecutor, jobs: Sequence[Job]) -> list[Any]:
    """Hand all jobs to SLURM at once."""
    import submitit

    try:
        with executor.batch():
            return [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()
        raise InputError(f"--slurm: SLURM refuses the runs ({reason}); see --partition, --time and --gpus") from error


class Queue:
    """SLURM's jobs that have not ended, asked for now and then; submitit's own way needs SLURM's accounting."""

    def __init__(self) -> None:
        self.asked = time.monotonic()  # a job that was just handed over may not be there yet
        self.jobs: set[str] | None = None

    def is_over(self, job: submitit.SlurmJob) -> bool:
        """Whether a job has written its result, or has gone without."""
        if job.paths.result_pickle.exists():
            return True
        if time.monotonic() - self.asked > CLUSTER_POLL:
            self.asked, self.jobs = time.monotonic(), self.ask(job.job_id.partition("_")[0])
        return self.jobs is not None and job.job_id not in self.jobs

    @staticmethod
    def ask(job_id: str) -> set[str] | None:
        """The jobs of an array that wait or run; None where SLURM does not answer."""
        command = ["squeue", "--noheader", "--array", "--jobs", job_id, "--format", "%i"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "Invalid job id" not in done.stderr:
            return None
        return set(done.stdout.split())


def describe(save_path: Path, run: str, found: Mapping[str, Found]) -> str:
    """How a run ended."""
    if run in found and found[run].finished:
        return str(found[run].folder)
    error = error_file(save_path, run)
    return error.read_text("utf-8") if error.exists() else "not finished"


@contextlib.contextmanager
def ignored(number: int) -> Iterator[None]:
    """Processes that begin in this block ignore the signal of this number."""
    previous: Callable | int | None = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, previous)
