"""Jobs: runs of main.py in processes of their own, several at once on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from training.configuration import identities
from utils import (
    InputError,
    Interrupted,
    atomic_write,
    count_epochs,
    lock_folder,
    new_folder,
    read_json,
    stop_requests,
    timestamp,
)

if TYPE_CHECKING:
    import submitit
    from tqdm import tqdm

ROOT = Path(__file__).parent.parent  # of this program
FOLDER = "jobs"  # in SAVE_PATH: logs of the runs, errors of those that failed, and submitit's own files
POLL = 1.0  # seconds between looks at the jobs
# Exit statuses of a main.py that was asked to stop; the last one is of one that could not save anything yet
INTERRUPTED = {128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM}
LOCAL_MINUTES = 10**6  # time limit of a job on this machine, which submitit wants to know

# Runs that there are


class Found(NamedTuple):
    """An experiment folder, whether its run has finished, and how many of its epochs are done."""

    folder: Path
    finished: bool
    epochs: int


def find_runs(save_path: Path) -> dict[str, Found]:
    """Experiment folders in `save_path` by the `identities` of their outcome; of several the most advanced one.

    Damaged folders and those of the published program, which stores no versions, are left out.
    """
    found: dict[str, Found] = {}
    for path in sorted(save_path.glob("*/configuration.json")):
        try:
            stored = read_json(path)
            run_ids = identities(stored) if "versions" in stored else ()
        except (InputError, TypeError, ValueError):
            continue
        this = Found(path.parent, (path.parent / "result.json").exists(), count_epochs(path.parent) or 0)
        for run_id in run_ids:
            if run_id not in found or this[1:] > found[run_id][1:]:
                found[run_id] = this
    return found


def find_finished(save_path: Path) -> dict[str, Path]:
    """Experiment folders of the finished runs in `save_path`, by the `identities` of their outcome."""
    return {run_id: found.folder for run_id, found in find_runs(save_path).items() if found.finished}


def job_file(save_path: Path, run_id: str, suffix: str) -> Path:
    """A file of a run's job."""
    return save_path / FOLDER / f"{run_id[:16]}{suffix}"


def error_file(save_path: Path, run_id: str) -> Path:
    """The file that holds the last line of a failed run."""
    return job_file(save_path, run_id, ".error.txt")


def why_unfinished(save_path: Path, run_id: str) -> str:
    """The last line of a run if it failed, else that it has not finished."""
    error = error_file(save_path, run_id)
    return error.read_text("utf-8") if error.is_file() else "not finished"


# A job


@dataclass
class Job:
    """A run of main.py in a process of its own; submitit calls it, perhaps on another machine.

    run_id : the `identity` of the run's outcome
    argv : main.py's arguments
    save_path : main.py's --save_path
    label : the run in one line, for messages
    epochs : of the whole run, for the progress bar
    environment : variables of main.py's environment, besides those of this process
    pid : process of main.py while it runs, else 0
    """

    run_id: str
    argv: tuple[str, ...]
    save_path: Path
    label: str = ""
    epochs: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0

    def __call__(self) -> int:
        """Run main.py and return its exit status; 0 if the run has finished or another process is working on it.

        Its output goes to `jobs/<run>.log`. SIGTERM, and SLURM's signal before its time limit, make it save and stop.
        """
        import filelock

        lock = filelock.FileLock(job_file(self.save_path, self.run_id, ".lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            print("another process is working on this run")
            return 0
        try:
            found = find_runs(self.save_path).get(self.run_id)
            if found is not None and found.finished:
                return 0
            if found is not None and is_trained_in(found.folder):
                print("another process is working on this run")
                return 0
            return self.run_main()
        finally:
            lock.release()

    def run_main(self) -> int:
        """Run main.py to its end and return its exit status; note the last line of one that failed."""
        error, log = error_file(self.save_path, self.run_id), job_file(self.save_path, self.run_id, ".log")
        error.unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.stop())
        command = [sys.executable, str(ROOT / "main.py"), *self.argv, "--resume", "auto"]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TQDM_MININTERVAL": "10", **self.environment},
                start_new_session=True,  # it gets signals from this process alone
                preexec_fn=ignore_submitit_signal,
            )
            self.pid = process.pid
            status = process.wait()
        if status and status not in INTERRUPTED:
            with atomic_write(error) as file:
                file.write(last_line(log, status))
        return status

    def stop(self) -> None:
        """Ask main.py to save and stop, once: a second signal would stop it before it has saved."""
        pid, self.pid = self.pid, 0
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def checkpoint(self) -> Any:
        """The job that SLURM starts again after the time limit; submitit calls this in a signal handler."""
        from submitit.helpers import DelayedSubmission

        pid = self.pid
        self.stop()
        if pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        return DelayedSubmission(replace(self, pid=0))


def is_trained_in(folder: Path) -> bool:
    """Whether a main.py trains in this experiment folder: one that outlived its job, or that the user started."""
    try:
        with lock_folder(folder, "training"):
            return False
    except InputError:
        return True


def ignore_submitit_signal() -> None:
    """Ignore the signal that SLURM sends to all processes of a job before its time limit; main.py gets SIGTERM."""
    signal.signal(getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")), signal.SIG_IGN)


def last_line(log: Path, status: int) -> str:
    """The last line of a run that ended with this exit status, or what ended it."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else f"exit status {status}"


# Jobs on this machine


def shares(n_jobs: int, gpu_id: str | None) -> list[dict[str, str]]:
    """Environments of runs that share this machine: one GPU for each in turn, and equal parts of the processor.

    Parameters
    ----------
    n_jobs : runs at once
    gpu_id : main.py's --gpu_id; if it is given, it holds for all runs and every run sees all GPUs
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // n_jobs)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    environments = []
    for number in range(n_jobs):
        of_run = [gpus[number % len(gpus)]] if gpus and gpu_id is None else gpus
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(of_run)}
        if n_jobs > 1:
            environment["OMP_NUM_THREADS"] = threads
        environments.append(environment)
    return environments


def run_locally(jobs: Sequence[Job], save_path: Path, places: Sequence[Mapping[str, str]]) -> None:
    """Run all jobs on this machine, one at a time in each place, and return when none is left.

    Parameters
    ----------
    places : the environment that a run gets in each place, see `shares`

    Raises
    ------
    Interrupted : SIGINT or SIGTERM came; the runs have saved and stopped
    """
    import submitit

    executor = submitit.LocalExecutor(submitit_folder(save_path))
    executor.update_parameters(timeout_min=LOCAL_MINUTES)
    waiting = list(jobs)
    running: dict[int, tuple[Job, submitit.LocalJob]] = {}  # by place
    with stop_requests(quiet=True) as received, progress_bar(jobs) as bar:
        while running or waiting:
            if received:
                waiting = []
                for _, handle in running.values():  # at every look: a process that is just starting may miss one
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(handle.job_id), signal.SIGTERM)
            for place, environment in enumerate(places):
                if waiting and place not in running:
                    job = replace(waiting.pop(0), environment=environment)
                    with ignored(signal.SIGINT):  # a terminal sends it to all processes; only this one obeys it
                        running[place] = job, executor.submit(job)
            time.sleep(POLL)
            ended = [running.pop(place)[0] for place in list(running) if running[place][1].done()]
            found = find_runs(save_path)
            write_ended(bar, ended, found, save_path)
            update_bar(bar, jobs, found, running=len(running), waiting=len(waiting))
        if received:
            raise Interrupted("stopped, all is saved; call the same command to go on", received[0])


@contextlib.contextmanager
def ignored(number: int) -> Iterator[None]:
    """Processes that start in this block ignore the signal of this number."""
    previous: Callable | int | None = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, previous)


# For jobs here and on a cluster


def submitit_folder(save_path: Path) -> Path:
    """A new folder for submitit's files; also lets its processes import this program's modules."""
    path = os.environ.get("PYTHONPATH", "")
    if str(ROOT) not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))
    return new_folder(save_path.absolute() / FOLDER, f"submitit_{timestamp()}")


def progress_bar(jobs: Sequence[Job]) -> tqdm:
    """A bar of the epochs of all jobs."""
    from tqdm import tqdm

    return tqdm(total=sum(job.epochs for job in jobs), desc="runs", unit="epoch")


def update_bar(bar: tqdm, jobs: Sequence[Job], found: Mapping[str, Found], running: int, waiting: int) -> None:
    """Show how many epochs are done, and how many jobs run and wait."""
    known = [(found[job.run_id], job.epochs) for job in jobs if job.run_id in found]
    done = sum(epochs if run.finished else min(run.epochs, epochs) for run, epochs in known)  # one may stop early
    bar.set_postfix(running=running, waiting=waiting, refresh=False)
    bar.update(done - bar.n)


def write_ended(bar: tqdm, ended: Sequence[Job], found: Mapping[str, Found], save_path: Path) -> None:
    """Print one line for each job that has ended: the run's folder, or why it has not finished."""
    for job in ended:
        run = found.get(job.run_id)
        result = str(run.folder) if run is not None and run.finished else why_unfinished(save_path, job.run_id)
        bar.write(f"{job.label}: {result}", sys.stdout)
