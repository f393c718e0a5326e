"""SLURM: runs of main.py as one array job, by a script that is written beside their logs."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from sweeps.jobs import FOLDER, ROOT, epoch_bar, label_of, main_argv, update_bar
from utils import InputError, atomic_write, count, timestamp

INTERVAL = 30.0  # seconds between questions to SLURM, and between looks at the folders of its runs
SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}%{array}
#SBATCH --output={jobs}/slurm_%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --time={time}
{settings}
# 60 seconds before the time limit: put the run into the queue again, where it resumes from its last checkpoint
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

cd {root}
run() {{ {python} -m sweeps.jobs {save_path} "$@" >> {jobs}/"$1.log" 2>&1 & wait $!; }}

case "$SLURM_ARRAY_TASK_ID" in
{runs}
esac
"""


def clean_environment(script: str) -> dict[str, str]:
    """The environment for SLURM's commands: nothing of a job that this process is part of, nor what overrides `script`.

    The job inherits it. Variables such as SBATCH_ACCOUNT stay: the script does not set an account.
    """
    set_here = {f"SBATCH_{name.upper().replace('-', '_')}" for name in re.findall("^#SBATCH --([a-z-]+)", script, re.M)}
    dropped = ("SLURM_", "SQUEUE_", "SBATCH_NO_REQUEUE", *set_here)  # SBATCH_TIME is the beginning of SBATCH_TIMELIMIT
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")  # the cluster, and the right to use it
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith(dropped)}


def run_on_slurm(todo: pd.DataFrame, save_path: Path, args: argparse.Namespace) -> None:
    """Hand planned runs to SLURM, and wait until none is left there; `InputError` where it refuses them."""
    script = save_path.absolute() / FOLDER / f"slurm_{timestamp()}.sh"
    settings, runs = {"partition": args.partition, "gpus-per-node": args.gpus}, []
    for n, planned in enumerate(todo.itertuples()):
        command = shlex.join([planned.run_id, *main_argv(planned.options)])
        runs.append(f"  {n}) run {command} ;;  # {label_of(planned)}")
    paths = {"root": ROOT, "python": sys.executable, "save_path": save_path.absolute(), "jobs": script.parent}
    text = SCRIPT.format(
        **{name: shlex.quote(str(path)) for name, path in paths.items()},
        **{"name": script.stem, "last": len(runs) - 1, "array": args.array, "time": args.time},
        settings="".join(f"#SBATCH --{name}={value}\n" for name, value in settings.items() if value),
        runs="\n".join(runs),
    )
    with atomic_write(script) as file:
        file.write(text)
    call = {"capture_output": True, "text": True, "check": False, "env": clean_environment(text)}
    try:
        done = subprocess.run(["sbatch", str(script)], **call)
    except FileNotFoundError as error:
        raise InputError("--slurm: no sbatch here; call it on a machine of a SLURM cluster, or use --jobs") from error
    if done.returncode:
        raise InputError(f"--slurm: SLURM refuses {script} ({done.stderr.strip()}); see --partition, --time and --gpus")
    print(f"{count(len(todo), 'run')} handed to SLURM by {script}", flush=True)
    queue = ["squeue", "--me", "--noheader", "--name", script.stem]
    with epoch_bar(todo) as bar:
        try:
            # SLURM may not answer for a while
            while (answer := subprocess.run(queue, **call)).returncode or answer.stdout:
                time.sleep(INTERVAL)
                update_bar(bar, todo, save_path)
        except KeyboardInterrupt as error:
            raise type(error)(f"the runs continue; scancel --name {script.stem} would stop them") from error
