"""The published tables: list, run and report.

python experiments.py list
python experiments.py run 3.2 3.6 --SorL speaker listener --epochs 100
python experiments.py report 3.2 3.6 --SorL speaker listener --epochs 100
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import main as program
from checkpoint import identity
from constants import FOLDS, ROLES
from tables import Entry, find_published, read_published, spell, write_report
from utils import InputError, atomic_write, number, read_json, run_command


class Table(NamedTuple):
    """What a published table compares: its rows' options of main.py, by label, on these test sessions.

    by_role : options that every row has for one role alone
    """

    title: str
    rows: dict[str, dict[str, Any]]
    folds: tuple[tuple[int, ...], ...] = (FOLDS[3],)
    by_role: Mapping[str, dict[str, Any]] = MappingProxyType({})


TABLES = {
    "3.2": Table("Five folds", {"default": {}}, FOLDS),
    "3.3": Table("One direction and two", {"default": {}, "bidirectional": {"bidirectional": True}}),
    "3.4": Table("Without the emotion in the affect heads", {"default": {}, "no concat": {"no_concat": True}}),
    "3.5": Table(
        "Class-balanced loss over beta",
        {f"beta {str(b)[1:]}": {"loss": "cbloss", "lam": 0.9, "beta": b} for b in (0.8, 0.9, 0.99, 0.999)},
    ),
    "3.6": Table("Weight of the emotion's loss", {f"lam {str(v)[1:]}": {"lam": v} for v in (0.5, 0.66, 0.75, 0.8)}),
    "3.7": Table(
        "Best, five folds",
        {"best": {}},
        FOLDS,
        {"speaker": {"lam": 0.75}, "listener": {"loss": "cbloss", "lam": 0.9, "beta": 0.9}},
    ),
    "modality": Table("Single modalities", {"audio": {"modality": "audio"}, "text": {"modality": "text"}}),
    "backbone": Table("LSTM against GRU", {"lstm": {}, "gru": {"backbone": "gru"}}),
}
# Options of main.py that the tables set, or that a run of experiments has no use for
TAKEN = {"SorL", "test_split", "seed", "resume", "test_only", "test_path"}
TAKEN |= {name for table in TABLES.values() for options in table.rows.values() for name in options}


class Planned(NamedTuple):
    """A run that a table wants: where it stands there, main.py's arguments, and the `identity` of its outcome."""

    table: str
    row: str
    role: str
    fold: tuple[int, ...]
    seed: int
    argv: tuple[str, ...]
    run: str


def get_args_parser() -> argparse.ArgumentParser:
    """The command line; what it does not know is for main.py."""
    parser = argparse.ArgumentParser(
        description="Run the published tables and set them beside the published figures.", allow_abbrev=False
    )
    parser.add_argument("command", choices=("list", "run", "report"))
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)}; none: all of them")
    parser.add_argument("--SorL", nargs="+", choices=ROLES, default=list(ROLES), help="whose emotion (default: both)")
    parser.add_argument("--seeds", type=number(int, 1, 1000), default=1, help="runs of each, seeds from 0 on (1)")
    parser.epilog = "Any other option is main.py's and holds for all runs: see main.py --help."
    return parser


def plan(tables: Sequence[str], roles: Sequence[str], seeds: int, options: Sequence[str]) -> Iterator[Planned]:
    """Every run that the tables want; tables that share one give it the same arguments."""
    for name in tables:
        table = TABLES[name]
        for role in roles:
            for row, values in table.rows.items():
                values = values | table.by_role.get(role, {})
                of_row = [part for option, value in values.items() for part in (f"--{option}", str(value))]
                of_row = [part for part in of_row if part != "True"]
                for fold in table.folds:
                    for seed in range(seeds):
                        split = ("--SorL", role, "--test_split", spell(fold), "--seed", str(seed))
                        argv = (*options, *of_row, *split)
                        outcome = program.outcome_options(program.parse_args(list(argv))[0])
                        yield Planned(name, row, role, fold, seed, argv, identity(outcome))


def finished_runs(save_path: Path) -> dict[str, Path]:
    """Experiment folders with a result, by the `identity` of their outcome."""
    names = program.outcome_options(program.parse_args([])[0])
    found = {}
    for result in sorted(save_path.glob("*/result.json")):
        try:
            stored = read_json(result.parent / "configuration.json")
        except InputError:
            continue  # another folder's damage is no reason to stop
        found[identity({name: stored.get(name) for name in names})] = result.parent
    return found


def error_file(save_path: Path, run: str) -> Path:
    """Where the last line of a failed run stands."""
    return save_path / "failed" / f"{run[:16]}.txt"


def run_all(planned: Sequence[Planned], save_path: Path) -> None:
    """Run what has not finished, one after the other; one that fails does not stop the others."""
    done, runs = finished_runs(save_path), {p.run: p for p in planned}
    for place, p in enumerate(runs.values(), start=1):
        print(f"[{place}/{len(runs)}] {p.table} {p.row}, {p.role}, test {spell(p.fold)}, seed {p.seed}", flush=True)
        if p.run in done:
            print("finished already", flush=True)
            continue
        command = [sys.executable, str(Path(program.__file__)), *p.argv, "--resume", "auto"]
        tail = b""
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            try:
                while chunk := process.stderr.read1():  # its progress bar and its warnings pass through
                    print(chunk.decode(errors="replace"), end="", file=sys.stderr, flush=True)
                    tail = (tail + chunk)[-4096:]
                process.wait()
            except KeyboardInterrupt:  # the run has had the signal as well, and saves
                process.communicate()
                raise
        path = error_file(save_path, p.run)
        if process.returncode:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = tail.decode(errors="replace").strip().splitlines()
            with atomic_write(path) as file:
                file.write(lines[-1].strip() if lines else f"exit status {process.returncode}")
        else:
            path.unlink(missing_ok=True)


def report(planned: Sequence[Planned], save_path: Path, settings: dict[str, Any]) -> Path:
    """Write the tables of what has finished into `save_path`/report and return that folder."""
    done, published = finished_runs(save_path), read_published()
    entries = []
    for p in planned:
        failed = error_file(save_path, p.run)
        error = None if p.run in done else failed.read_text("utf-8") if failed.is_file() else "not finished"
        figures = find_published(published, p.table, p.row, p.role, p.fold)
        entries.append(
            Entry(p.table, TABLES[p.table].title, p.row, p.role, p.fold, p.seed, done.get(p.run), error, figures)
        )
    folder = save_path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, entries, settings)
    return folder


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = get_args_parser()
    args, options = parser.parse_known_args(argv)
    tables = args.tables or list(TABLES)
    unknown = [table for table in tables if table not in TABLES]
    if unknown:
        parser.error(f"no table {unknown[0]!r}; there are {', '.join(TABLES)}")
    of_main, given = program.parse_args(options)
    if given & TAKEN:
        parser.error(f"--{min(given & TAKEN)} is set by the tables")
    planned = list(plan(tables, dict.fromkeys(args.SorL), args.seeds, options))

    def command() -> None:
        if args.command == "list":
            for name in tables:
                wanted = [p for p in planned if p.table == name]
                print(f"{name:<10}{TABLES[name].title}: {', '.join(TABLES[name].rows)}; {len(wanted)} runs")
            print(f"{len({p.run for p in planned})} runs in all, those that tables share counted once")
            return
        if args.command == "run":
            run_all(planned, of_main.save_path)
        settings = {name: value for name, value in program.outcome_options(of_main).items() if name not in TAKEN}
        print(f"report: {report(planned, of_main.save_path, settings) / 'index.html'}")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
