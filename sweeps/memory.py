"""Memory: the command lines of `run` that a save path remembers, and the plan of a report that covers them."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from constants import ROLES
from sweeps.plan import GRID, Plan, PlannedRun
from training.configuration import as_json, identity
from utils import InputError, read_json, write_json

PLAN_FILE = "experiments.json"  # in SAVE_PATH: the command lines of `run`, for a report without options


def remember(save_path: Path, argv: Sequence[str]) -> None:
    """Add the command line of a `run` to those of this folder, as the newest one."""
    save_path.mkdir(parents=True, exist_ok=True)
    newest = list(argv)
    earlier = [line for line in recall(save_path) if line != newest]
    write_json(save_path / PLAN_FILE, {"runs": [*earlier, newest]})


def recall(save_path: Path) -> list[list[str]]:
    """The command lines of `run` that this folder remembers, the newest last.

    Raises
    ------
    InputError : the file that holds them is damaged
    """
    path = save_path / PLAN_FILE
    if not path.exists():
        return []
    lines = read_json(path).get("runs")
    if not isinstance(lines, list) or not all(is_command_line(line) for line in lines):
        raise InputError(f"{path}: its 'runs' are no command lines, as 'experiments.py run' writes them; remove it")
    return lines


def is_command_line(value: Any) -> bool:
    """Whether a JSON value is a list of strings."""
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def shared_options(main_args: argparse.Namespace) -> tuple[str, str | None]:
    """What must be equal in command lines whose runs are reported together; rows may hear through the encoder."""
    return identity(as_json(main_args)), main_args.audio_model


def merge_remembered(plan: Plan, remembered: Sequence[Plan]) -> Plan:
    """The plan of a list, a report or a comparison that covers the remembered runs.

    These are the runs of the newest command line and of the earlier ones with the same options, of the tables and
    roles that `plan` names, or of all.

    Parameters
    ----------
    plan : of the command line itself
    remembered : plans of the remembered command lines, the newest last
    """
    newest = remembered[-1].main_args
    same = [other for other in remembered if shared_options(other.main_args) == shared_options(newest)]
    tables = {name: table for other in same for name, table in other.tables.items()}
    if GRID in tables:  # with the rows of all grids
        rows = {name: row for other in same if GRID in other.tables for name, row in other.tables[GRID].rows.items()}
        tables[GRID] = tables[GRID]._replace(rows=rows)
    named = getattr(plan.args, "tables", []) or tables
    roles = plan.args.SorL if "SorL" in plan.given else ROLES
    runs: dict[PlannedRun, None] = {}  # in order, without duplicates
    for name in tables:
        for planned in itertools.chain.from_iterable(other.runs for other in same):
            if planned.table == name and name in named and planned.role in roles:
                runs.setdefault(planned)
    main_args = argparse.Namespace(**vars(newest))
    main_args.save_path = plan.main_args.save_path  # the folder may have moved since
    return replace(plan, main_args=main_args, tables=tables, runs=list(runs))
