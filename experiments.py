"""The published tables, and grids of one's own: run them, report them, compare two of their rows.

python experiments.py list
python experiments.py run 3.2 3.6 --SorL speaker listener --epochs 100
python experiments.py run --grid lam=0.5,0.66 backbone=lstm,gru --jobs 2
python experiments.py report
python experiments.py compare 3.3:default 3.3:bidirectional
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import main as program
from constants import ROLES
from corpora.kemdy19 import FOLDS
from reports.comparison import Pair, compare
from reports.tables import Entry, find_published, format_sessions, read_published, read_run, write_report
from sweeps.jobs import Found, Job, Slurm, error_file, find_runs, run_jobs, shares
from training.options import as_json, get_args_parser, identity, outcome_options, parse_args, sessions
from utils import InputError, find_run, number, read_json, run_command, switch, write_json


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
GRID = "grid"  # the name of a grid of the user's own
# Options of main.py that every plan sets, or that a run of experiments has no use for
PLANNED = {"SorL", "test_split", "seed", "resume", "test_only", "test_path"}
PLAN_FILE = "experiments.json"  # in SAVE_PATH: the command lines of `run`, for a report that is called without any


class Planned(NamedTuple):
    """A run that a table wants: where it stands there, main.py's arguments, and the `identity` of its outcome."""

    table: str
    title: str
    row: str
    role: str
    fold: tuple[int, ...]
    seed: int
    argv: tuple[str, ...]
    run: str

    @property
    def label(self) -> str:
        """What it is, in a line."""
        return f"{self.table} {self.row}, {self.role}, test {format_sessions(self.fold)}, seed {self.seed}"


class Plan(NamedTuple):
    """What a command line asks for.

    args : of experiments.py
    given : names of the arguments that the user gave
    of_main : of main.py, for all runs
    tables : by name
    runs : in the order to make them, those that tables share once for each
    """

    args: argparse.Namespace
    given: set[str]
    of_main: argparse.Namespace
    tables: dict[str, Table]
    runs: list[Planned]

    @property
    def settings(self) -> dict[str, Any]:
        """The options of main.py that all runs share."""
        taken = PLANNED | taken_by(self.tables)
        return {name: value for name, value in outcome_options(as_json(self.of_main)).items() if name not in taken}


def taken_by(tables: Mapping[str, Table]) -> set[str]:
    """The options of main.py that these tables set; a published one keeps those of all to their published values."""
    tables = {**tables, **(TABLES if tables.keys() - {GRID} else {})}
    return {name for t in tables.values() for values in (*t.rows.values(), *t.by_role.values()) for name in values}


# The command line


def folds(value: str) -> tuple[int, ...]:
    """Test sessions as main.py's `--test_split` writes them."""
    return tuple(sessions(value))


def axis(value: str) -> tuple[str, list[str]]:
    """`lam=0.5,0.66` as an option of main.py and its values."""
    name, equals, values = value.partition("=")
    names = set(outcome_options(as_json(parse_args([])[0]))) - PLANNED - {"data_path", "audio_path"}
    if name not in names:
        raise argparse.ArgumentTypeError(f"{value!r}: expected NAME=VALUE,... with one of {', '.join(sorted(names))}")
    if not equals or not all(values.split(",")):
        raise argparse.ArgumentTypeError(f"{value!r}: expected values such as {name}=A,B")
    if name in flags():
        values = ",".join(str(switch(part)) for part in values.split(","))
    return name, values.split(",")


def get_args_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The command line, and that of each command, which has main.py's options too."""
    parser = argparse.ArgumentParser(
        description="Run the published tables or a grid, and set them beside the published figures.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, note: str = "") -> argparse.ArgumentParser:
        of = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.{note}",
            parents=[get_args_parser()],
            conflict_handler="resolve",  # SorL and test_split here are several
            formatter_class=lambda prog: argparse.ArgumentDefaultsHelpFormatter(prog, max_help_position=40, width=130),
            allow_abbrev=False,
        )
        option = of.add_argument_group("experiments").add_argument
        if name == "compare":
            option(
                "rows", nargs=2, metavar="TABLE:ROW", help="a row such as 3.3:bidirectional, or an experiment folder"
            )
        else:
            option("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)}; none: all of them")
        option("--SorL", nargs="+", choices=ROLES, default=list(ROLES), help="whose emotion is predicted")
        option("--seeds", type=number(int, 1, 1000), default=1, help="runs of each, with seeds from 0 on")
        option("--grid", nargs="+", type=axis, metavar="NAME=A,B", help="all combinations of these options' values")
        option("--test_split", nargs="+", type=folds, metavar="SESSIONS", help="the grid's; without it 13-16")
        return of

    command("list", "show the tables and how many runs each takes")
    run = command(
        "run", "make the runs that have not finished, then the report", " All options but those here hold for all."
    )
    option = run.add_argument_group("machines").add_argument
    option("--jobs", type=number(int, 1, 256), default=1, help="runs at once on this machine, its GPUs dealt out")
    option("--slurm", action="store_true", help="hand the runs to a SLURM cluster")
    option("--partition", help="of the cluster")
    option("--time", type=number(int, 3), default=1440, help="minutes; a run that takes longer begins anew and goes on")
    option("--gpus", type=number(int, 0, 1), default=1, help="GPUs of a run: one or none")
    option("--cpus", type=number(int, 1, 1024), help="processor cores of a run")
    option("--memory", type=number(int, 1), metavar="GB", help="main memory of a run")
    option("--array", type=number(int, 1), default=256, help="runs at once on the cluster")
    note = " Without options it is that of the runs in SAVE_PATH."
    command("report", "write the tables of what has finished", note)
    compare = command("compare", "compare two rows, or two runs, over the folds and seeds that both have", note)
    compare.add_argument("--resamples", type=number(int, 100, 10**6), default=9999, help="of the bootstrap")
    return parser, commands.choices


def make_plan(argv: Sequence[str]) -> Plan:
    """The plan of a command line; a grid alone is the only table unless others are named."""
    top, parsers = get_args_parsers()
    if not argv or argv[0] not in parsers:
        top.parse_args(argv)  # answers --help, and refuses the rest
    parser = parsers[argv[0]]
    args, given = parse_args(argv[1:], parser)
    args.command = argv[0]
    names = list(TABLES) if args.command == "compare" else args.tables
    known = [*TABLES, GRID] if args.command == "report" else TABLES
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no table {unknown[0]!r}; there are {', '.join(known)}")
    tables = {name: TABLES[name] for name in (names or ([] if args.grid else TABLES)) if name in TABLES}
    if args.grid:
        axes = dict(args.grid)
        if len(axes) < len(args.grid):
            parser.error("--grid: an option is given twice")
        combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        rows = {" ".join(f"{name}={value}" for name, value in row.items()): row for row in combinations}
        tables[GRID] = Table("Grid", rows, tuple(dict.fromkeys(args.test_split or [FOLDS[3]])))
    elif args.test_split:
        parser.error("--test_split is for --grid; the published tables have their own")
    if taken := sorted((given - {"SorL", "test_split"}) & (PLANNED | taken_by(tables))):
        parser.error(f"--{taken[0]} is set by the tables")
    of_main = {action.dest for action in get_args_parser()._actions}
    options = spell_options({name: getattr(args, name) for name in sorted((given & of_main) - PLANNED)})
    runs = [
        planned
        for name, table in tables.items()
        for role in dict.fromkeys(args.SorL)
        for planned in plan_table(name, table, role, args.seeds, options)
    ]
    return Plan(args, given, parse_args(options)[0], tables, runs)


def plan_table(name: str, table: Table, role: str, seeds: int, options: Sequence[str]) -> list[Planned]:
    """The runs of a table for one role; tables that share one give it the same arguments."""
    runs = []
    for row, values in table.rows.items():
        of_row = spell_options(values | table.by_role.get(role, {}))
        for fold in table.folds:
            for seed in range(seeds):
                argv = (*options, *of_row, "--SorL", role, "--test_split", format_sessions(fold), "--seed", str(seed))
                run = identity(as_json(parse_args(list(argv))[0]))
                runs.append(Planned(name, table.title, row, role, fold, seed, argv, run))
    return runs


def flags() -> set[str]:
    """The options of main.py that take no value."""
    return {action.dest for action in get_args_parser()._actions if action.nargs == 0}


def spell_options(values: Mapping[str, Any]) -> list[str]:
    """Options as main.py's command line has them; of one that takes no value a true one is there, a false one not."""
    options, without_value = [], flags()
    for name, value in values.items():
        if name not in without_value:
            options += [f"--{name}", str(value)]
        elif switch(str(value)):
            options.append(f"--{name}")
    return options


def remember(save_path: Path, argv: Sequence[str]) -> None:
    """Note the command line of a `run`, for later reports."""
    save_path.mkdir(parents=True, exist_ok=True)
    earlier = recall(save_path)
    write_json(save_path / PLAN_FILE, {"runs": [line for line in earlier if line != [*argv]] + [[*argv]]})


def recall(save_path: Path) -> list[list[str]]:
    """Command lines of the `run`s in this folder, the newest last."""
    path = save_path / PLAN_FILE
    if not path.exists():
        return []
    lines = read_json(path).get("runs")
    lines = lines if isinstance(lines, list) and all(isinstance(line, list) for line in lines) else [[None]]
    if not all(isinstance(part, str) for line in lines for part in line):
        raise InputError(f"{path}: expected the command lines of runs; take it away")
    return lines


def with_remembered(plan: Plan) -> Plan:
    """The plan of a command line without options of runs: that of the newest `run` in its folder.

    Earlier ones with the same options are added; `plan` may name some of their tables and roles.

    Raises
    ------
    InputError : the command lines in the folder cannot be read
    """
    save_path = plan.of_main.save_path
    lines = recall(save_path)
    if not lines or plan.given - {"save_path", "tables", "rows", "SorL", "resamples"}:
        return plan
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            plans = [make_plan(line) for line in lines]
    except SystemExit as error:
        raise InputError(f"{save_path / PLAN_FILE}: holds a command line that is none; take it away") from error
    newest = plans[-1]
    options = outcome_options(as_json(newest.of_main))
    plans = [other for other in plans if outcome_options(as_json(other.of_main)) == options]
    tables = {name: table for other in plans for name, table in other.tables.items()}
    named = getattr(plan.args, "tables", []) or tables
    roles = plan.args.SorL if "SorL" in plan.given else ROLES
    runs = dict.fromkeys(  # whatever else their command lines said
        planned._replace(argv=())
        for name in tables
        for other in plans
        for planned in other.runs
        if planned.table == name and name in named and planned.role in roles
    )
    of_main = argparse.Namespace(**vars(newest.of_main) | {"save_path": save_path})  # the folder may have moved
    return plan._replace(of_main=of_main, tables=tables, runs=[*runs])


# The commands


def show(plan: Plan) -> None:
    """A line a table, and how many runs there are and have finished."""
    found = find_runs(plan.of_main.save_path)
    for name, table in plan.tables.items():
        wanted = [planned for planned in plan.runs if planned.table == name]
        print(f"{name:<10}{table.title}: {', '.join(table.rows)}; {len(wanted)} runs")
    runs = {planned.run for planned in plan.runs}
    done = sum(run in found and found[run].finished for run in runs)
    print(f"{len(runs)} runs in all, those that tables share counted once; {done} finished in {plan.of_main.save_path}")


def run(plan: Plan, argv: Sequence[str]) -> int:
    """Make the runs that have not finished, and return how many have not after that.

    Raises
    ------
    InputError : there is no corpus, or no SLURM cluster that takes them
    Interrupted : see `run_jobs`
    """
    save_path, args = plan.of_main.save_path, plan.args
    for role in args.SorL:  # what fails every run had better fail now
        program.load_annotation(argparse.Namespace(**vars(plan.of_main) | {"SorL": role}))
    remember(save_path, argv)
    wanted: dict[str, Planned] = {}
    for planned in plan.runs:
        wanted.setdefault(planned.run, planned)  # that tables share: as the first one's
    labels = {name: planned.label for name, planned in wanted.items()}
    found = find_runs(save_path)
    todo = [planned for planned in wanted.values() if not is_finished(found, planned.run)]
    print(f"{len(wanted)} runs, {len(wanted) - len(todo)} finished already", flush=True)
    if todo:
        slurm = None
        if args.slurm:
            slurm = Slurm(args.partition, args.time, args.gpus, args.cpus, args.memory, args.array)
        places = [] if args.slurm else shares(min(args.jobs, len(todo)), plan.of_main.gpu_id)
        jobs = [Job(planned.run, planned.argv, save_path.absolute()) for planned in todo]
        epochs = {planned.run: parse_args(planned.argv)[0].epochs for planned in todo}
        run_jobs(jobs, labels, epochs, save_path, places, slurm)
        found = find_runs(save_path)
    return sum(not is_finished(found, planned.run) for planned in todo)


def is_finished(found: Mapping[str, Found], run: str) -> bool:
    """Whether a run is among the finished ones."""
    return run in found and found[run].finished


def report(plan: Plan) -> Path:
    """Write the tables of what has finished into SAVE_PATH/report and return that folder."""
    save_path = plan.of_main.save_path
    if not plan.runs:
        raise InputError(f"{save_path}: no such table or role was run there")
    found, published, entries = find_runs(save_path), read_published(), []
    for p in plan.runs:
        done = found[p.run].folder if is_finished(found, p.run) else None
        failed = error_file(save_path, p.run)
        error = None if done else failed.read_text("utf-8") if failed.is_file() else "not finished"
        figures = find_published(published, p.table, p.row, p.role, p.fold)
        if figures is None and p.table in TABLES and not TABLES[p.table].rows[p.row]:  # the default, published once
            figures = find_published(published, "3.2", "default", p.role, p.fold)
        entries.append(Entry(p.table, p.title, p.row, p.role, p.fold, p.seed, done, error, figures))
    folder = save_path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, entries, plan.settings)
    return folder


def compare_rows(plan: Plan) -> str:
    """The comparison of two rows or runs, in words.

    Raises
    ------
    InputError : there is no such row or folder, or the two have no finished runs of the same sessions
    """
    found = find_runs(plan.of_main.save_path)
    a, b = (finished_of(name, plan, found) for name in plan.args.rows)
    pairs = [Pair(*key, a[key], b[key]) for key in a if key in b]
    if not pairs and len(a) == len(b) == 1:  # two runs that differ in their seeds
        pairs = [
            Pair(*of_a[:2], f"{of_a[2]} / {of_b[2]}", a[of_a], b[of_b])
            for of_a in a
            for of_b in b
            if of_a[:2] == of_b[:2]
        ]
    if not pairs:
        raise InputError(
            f"{' and '.join(plan.args.rows)}: have no finished runs of the same role, test sessions and seed; see "
            "'experiments.py report' for what has not finished"
        )
    return compare(pairs, tuple(plan.args.rows), plan.args.resamples)


def finished_of(name: str, plan: Plan, found: Mapping[str, Found]) -> dict[tuple[str, tuple[int, ...], int], Path]:
    """Folders of the finished runs of a table's row, or an experiment folder, by role, test sessions and seed."""
    table, colon, row = name.partition(":")
    if not colon or table not in (*TABLES, GRID):
        folder = find_run(plan.of_main.save_path, name)
        stored = read_run(folder).configuration
        return {(stored["SorL"], tuple(stored["test_split"]), stored.get("seed", 0)): folder}
    runs = [planned for planned in plan.runs if planned.table == table]
    if row not in (rows := dict.fromkeys(planned.row for planned in runs)):
        there = f"table {table} has the rows {', '.join(rows)}" if rows else f"table {table} was not run there"
        raise InputError(f"{name}: no such row in {plan.of_main.save_path}; {there}")
    runs = [planned for planned in runs if planned.row == row and is_finished(found, planned.run)]
    return {(planned.role, planned.fold, planned.seed): found[planned.run].folder for planned in runs}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 when a run has not finished."""
    argv = sys.argv[1:] if argv is None else argv
    plan, unfinished = make_plan(argv), 0

    def command() -> None:
        nonlocal plan, unfinished
        if plan.args.command in ("report", "compare"):
            plan = with_remembered(plan)
        if plan.args.command == "list":
            return show(plan)
        if plan.args.command == "compare":
            return print(compare_rows(plan))
        if plan.args.command == "run":
            unfinished = run(plan, argv)
        print(f"report: {report(plan) / 'index.html'}")
        if unfinished:
            print(f"{unfinished} runs have not finished: the report says why", file=sys.stderr)

    return run_command(command) or int(unfinished > 0)


if __name__ == "__main__":
    sys.exit(main())
