"""Jobs: many runs of main.py in parallel on this machine, each in its own process.

`python -m sweeps.jobs SAVE_PATH RUN_ID MAIN_ARGUMENTS...` is such a process, here and on a cluster. It holds a lock
until it ends, even if the experiments.py that started it has ended, so that no run is made twice.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import torch
from tqdm import tqdm

import main
from reports.runs import read_folders
from sweeps.plan import command_line
from training import ROOT
from training.options import defaults
from utils import lock_file

FOLDER = "jobs"  # in SAVE_PATH: logs of the runs, <run_id>.log
POLL = 1.0  # seconds between checks of the runs


def run_once(save_path: Path, run_id: str, argv: list[str]) -> int:
    """Make or resume a run unless it has finished or another process trains it; return main.py's exit status, or 0."""
    with contextlib.suppress(filelock.Timeout), lock_file(save_path / FOLDER / f"{run_id}.lock"):
        runs = read_folders(save_path)
        if not runs.loc[runs["run_id"] == run_id, "state"].isin(["finished", "running"]).any():
            return main.main([*argv, "--resume", "auto"])
    print("finished, or another process is working on this run")
    return 0


def command_of(planned: Any, save_path: Path) -> list[str]:
    """The module and arguments that make a planned run."""
    options = vars(planned.options)
    changed = {name: options[name] for name, value in defaults().items() if options[name] != value}
    paths = {name: value for name, value in options.items() if isinstance(value, Path)}
    return ["sweeps.jobs", str(save_path.absolute()), planned.run_id, *command_line(changed | paths)]


def device_slots(n_jobs: int, gpu_id: str | None) -> list[dict[str, str]]:
    """Environments of runs that share this machine: a part of its cores, and one GPU each, or all with --gpu_id."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores // n_jobs))} if n_jobs > 1 else {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    gpus = visible.split(",") if gpu_id is None else [visible]
    shared = {"TQDM_MININTERVAL": "10"} | threads | os.environ
    return [shared | {"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} for n in range(n_jobs)]


def run_here(todo: pd.DataFrame, save_path: Path, n_jobs: int, gpu_id: str | None) -> None:
    """Make planned runs, `n_jobs` in parallel. Ctrl-C and SIGTERM end them and are raised again."""
    if todo.empty:
        return
    (save_path / FOLDER).mkdir(parents=True, exist_ok=True)
    print(f"{len(todo)} to make; {shutil.disk_usage(save_path).free / 1e9:.1f} GB of disk space free", flush=True)
    slots = device_slots(min(n_jobs, len(todo)), gpu_id)
    waiting, running = [*todo.itertuples()], {}  # the latter by slot
    with tqdm(total=len(todo), desc="runs", unit="run") as bar:
        try:
            while waiting or running:
                for n in [n for n in range(len(slots)) if n not in running][: len(waiting)]:
                    planned = waiting.pop(0)
                    running[n] = planned, start(planned, save_path, slots[n])
                time.sleep(POLL)
                for n in [n for n, (_, process) in running.items() if process.poll() is not None]:
                    planned, process = running.pop(n)
                    if process.returncode < 0:
                        with log_of(save_path, planned.run_id).open("a") as log:
                            log.write(f"\nkilled by {signal.Signals(-process.returncode).name}\n")
                    log = last_line(save_path, planned.run_id)
                    bar.write(f"{planned.table}: {planned.label}: {log}", sys.stdout)
                    bar.update()
        except KeyboardInterrupt as error:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()
            raise type(error)("resume with the same command") from error


def start(planned: Any, save_path: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Start the process of a planned run, which writes to the run's log."""
    command = [sys.executable, "-m", *(getattr(planned, "command", None) or command_of(planned, save_path))]
    with log_of(save_path, planned.run_id).open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def log_of(save_path: Path, run_id: str) -> Path:
    """The log of a planned run."""
    return save_path / FOLDER / f"{run_id}.log"


def last_line(save_path: Path, run_id: str) -> str:
    """The last line of a run's log; empty without a log."""
    path = log_of(save_path, run_id)
    text = path.read_text("utf-8", errors="replace").strip() if path.is_file() else ""
    return text.splitlines()[-1].strip() if text else ""


if __name__ == "__main__":
    sys.exit(run_once(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
