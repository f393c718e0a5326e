"""Run the published tables or a grid of options, report them beside published scores, and compare their runs."""

from __future__ import annotations

import training  # noqa: F401, isort: skip (must be first, see training/__init__.py)

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from constants import ROLES
from corpora.corpus import corpus_of
from corpora.sessions import parse_sessions
from metric import HEADINGS
from reports.compare import compare
from reports.page import write_report
from reports.runs import read_folders, read_runs
from sweeps import plan as plans
from sweeps.jobs import last_line, run_here
from training.options import ArgumentParser, defaults, file_path, get_args_parser, names_of, number, parse_args
from training.record import ENCODERS, find_run
from utils import InputError, count, run_command

SCOPES = ("data", "test", "model", "training")  # of main.py's options that hold for every run
TITLES = ", ".join(f"{name} ({plans.TABLES[name].title})" if name in plans.TABLES else name for name in plans.NAMES)
TABLES = f"TABLE: {TITLES} (default: all tables of the corpus except {', '.join(plans.NAMED)})."
OF_RUN = f"{TABLES} Every option of main.py is accepted and applies to every run; the default of --epochs is 100."
TABLE = "[TABLE ...] "
SAME = "Give the options of the run command again, also those of main.py: they select the runs."
COMMANDS = {  # by name: arguments, what it does, more about it, two examples
    "run": (TABLE, "train and test the missing runs, and write the report", OF_RUN, "3.3", "--grid lam=0.5,0.66"),
    "report": (TABLE, "write the tables of the finished runs", f"{TABLES} {SAME}", "3.3", "3.3 --seeds 3"),
    "compare": ("A B ", "compare two rows TABLE:ROW or runs", SAME, "backbone:lstm backbone:gru", "exp/RUN exp/latest"),
    "runs": ("", "list every run folder with its metrics and state", "", "--save_path exp", "--save_path exp/tables"),
}


def get_parser() -> ArgumentParser:
    """The command line without the options of main.py."""
    examples = "experiments.py run 3.3 --seeds 3", "experiments.py compare backbone:lstm backbone:gru"
    parser = ArgumentParser(examples, description=__doc__, usage="%(prog)s COMMAND [options]")
    settings = {"dest": "command", "metavar": "COMMAND", "required": True, "prog": parser.prog}
    commands = parser.add_subparsers(title="commands", **settings)
    for name, (arguments, what, more, *lines) in COMMANDS.items():
        texts = {"help": what, "description": f"{what.capitalize()}. {more}", "usage": f"%(prog)s {arguments}[options]"}
        command = commands.add_parser(name, examples=[f"experiments.py {name} {line}" for line in lines], **texts)
        if name != "runs":
            add_selection(command, is_run=name == "run")
        command.add_argument("--save_path", type=file_path, default=Path("exp"), help="folder of the run folders")
    return parser


def add_selection(parser: ArgumentParser, is_run: bool) -> None:
    """Add the options that select runs; the help of `run` alone shows --keep_encoders and --jobs."""
    add = parser.add_argument
    add("--SorL", nargs="+", choices=ROLES, help="roles (default: all roles of the corpus)")
    sessions = {"type": lambda text: text if text == plans.NEXT else parse_sessions(text), "metavar": "SESSIONS"}
    add("--valid_split", **sessions, help=f"sessions to validate on; {plans.NEXT}: the fold after each test fold")
    add("--seeds", type=number(int, 1, 1000), help="number of seeds, from 0 (default: that of the table, 1 or 3)")
    add("--grid", nargs="+", type=plans.parse_axis, metavar="NAME=A,B", help="all combinations of these values")
    folds = {"nargs": "+", "type": lambda text: tuple(parse_sessions(text)), "metavar": "SESSIONS"}
    add("--test_split", **folds, help="test sessions of the grid (default: 13-16, or 1-8 of KEMDy20)")
    learning = f"options of finetune.py for the table {plans.FINETUNED}, such as '--epochs 3 --lr 1e-5'"
    add("--finetune", type=shlex.split, metavar="OPTIONS", default=[], help=learning)
    keep = f"keep the weights of the encoders of the table {plans.FINETUNED}"
    add("--keep_encoders", action="store_true", help=keep if is_run else argparse.SUPPRESS)
    jobs = "parallel runs on this machine, which share its GPUs"
    add("--jobs", type=number(int, 1, 256), default=1, help=jobs if is_run else argparse.SUPPRESS)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, argparse.Namespace]:
    """The options of experiments.py, and those of main.py with the tables, rows or folders as `names`."""
    args, rest = get_parser().parse_known_args(argv)
    of_main = get_args_parser()
    of_main.add_argument("names", nargs="*")
    of_main.set_defaults(epochs=plans.EPOCHS)
    rest += ["--save_path", str(args.save_path)]
    if vars(args).get("valid_split") is not None:
        rest += ["--valid_split", "1"]  # for --select; the plan replaces it
    return args, parse_args(rest, of_main)


def plan(args: argparse.Namespace, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The planned runs of a command line, with the results of the finished ones, and the options of all runs."""
    own = {"valid_split": args.valid_split, "finetune": args.finetune}
    named = {name: vars(options)[name] for name in ENCODERS if vars(options)[name]}
    own |= {name: str(Path(place).resolve()) for name, place in named.items() if Path(place).is_dir()}  # for all runs
    shared = argparse.Namespace(**vars(options) | own)
    tables = choose_tables(args, options.names, shared.data_path)
    not_free = plans.SET_BY_PLAN | plans.options_set_by(tables)
    if refused := sorted(options.given & not_free):
        raise InputError(f"--{refused[0]} is set by experiments.py or by the tables")
    roles = args.SorL or [role for role in ROLES if role in corpus_of(shared.data_path).roles]
    planned = plans.plan_runs(tables, shared, roles=roles, seeds=args.seeds, valid_split=args.valid_split)
    settings = {name: vars(shared)[name] for name in sorted(names_of(*SCOPES) - not_free)}
    return plans.find_planned(planned, read_runs(options.save_path)), settings


def choose_tables(args: argparse.Namespace, names: Sequence[str], data_path: Path) -> dict[str, plans.Table]:
    """The named tables; without names only the grid, and without a grid the tables of the corpus."""
    corpus = corpus_of(data_path)
    known = plans.tables_of(corpus)
    if args.command == "compare":
        names = [name for name in plans.NAMES if any(row.startswith(f"{name}:") for row in names)]
    if not names and not args.grid:
        names = [name for name in known if name not in plans.NAMED]
    tables = {name: known[name] for name in names if name in known}
    if len(tables) < len({*names}) or not (tables or args.grid):
        raise InputError(f"{corpus.name} in {data_path} has the tables {', '.join(known) or '-'}; or give --grid")
    if args.grid:
        if len(dict(args.grid)) < len(args.grid):
            raise InputError("--grid: an option is given twice")
        tables[plans.GRID] = plans.make_grid(dict(args.grid), args.test_split or [corpus.tuning_fold])
    elif args.test_split:
        raise InputError("--test_split is for --grid; the published tables have their own")
    return tables


def make_runs(entries: pd.DataFrame, args: argparse.Namespace, options: argparse.Namespace) -> None:
    """Make the runs that have not finished; warn of runs that cannot be made, and raise `InputError` if none can."""
    distinct = entries.drop_duplicates("run_id")  # a run that tables share is made once
    todo = distinct[distinct["folder"].isna()]
    print(f"{count(len(distinct), 'run')}, {len(distinct) - len(todo)} already finished", flush=True)
    for error in todo["error"].dropna().unique():
        if todo["error"].notna().all():
            raise InputError(error)
        warnings.warn(error, stacklevel=2)
    run_here(todo[todo["error"].isna()], options.save_path, args.jobs, options.gpu_id)


def report(entries: pd.DataFrame, settings: dict[str, Any], save_path: Path) -> int:
    """Write the tables of finished runs into SAVE_PATH/report, and return the number of other runs."""
    if not save_path.is_dir():
        raise InputError(f"{save_path}: no such folder; give the --save_path of the runs")
    reasons = [last_line(save_path, run_id) or "not finished" for run_id in entries["run_id"]]
    folder = save_path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    entries["error"] = entries["error"].fillna(pd.Series(reasons, entries.index))
    print(write_report(folder, entries, settings, defaults()))
    n = int(entries.drop_duplicates("run_id")["folder"].isna().sum())
    print(f"report: {folder / 'index.html'}; {count(n, 'run')} not finished")
    return n


def compare_rows(args: argparse.Namespace, options: argparse.Namespace) -> str:
    """The comparison of two rows or two run folders, as text."""
    if len(options.names) != 2:
        raise InputError("compare needs two rows, such as 3.3:default 3.3:bidirectional, or two run folders")
    sides = []
    for name in options.names:
        table, _, row = name.partition(":")
        if table in (*plans.NAMES, plans.GRID):
            entries, _ = plan(args, options)
            runs = entries[(entries["table"] == table) & (entries["row"] == row) & entries["folder"].notna()]
        else:
            folder = find_run(options.save_path, name)
            runs = read_runs(folder.parent).rename(columns={"SorL": "role"})
            runs = runs[runs["folder"] == folder]
        sides.append(runs[["role", "test", "seed", "folder"]])
    if len(sides[0]) == len(sides[1]) == 1:  # two runs may differ in their seeds
        seeds = " / ".join(map(str, dict.fromkeys(pd.concat(sides)["seed"])))
        sides = [side.assign(seed=seeds) for side in sides]
    pairs = sides[0].merge(sides[1], on=["role", "test", "seed"])
    if pairs.empty:
        raise InputError(f"{' and '.join(options.names)}: no finished runs of the same role, test sessions and seed")
    return compare(pairs.rename(columns={"folder_x": "a", "folder_y": "b"}), tuple(options.names))


def runs_table(save_path: Path) -> str:
    """The run folders in `save_path`, oldest first, with the options in which they differ; `InputError` if none."""
    runs = read_folders(save_path)
    if runs.empty:
        raise InputError(f"{save_path}: contains no run folder; give the --save_path of the runs")
    table = pd.DataFrame({"folder": [folder.name for folder in runs["folder"]]})
    for name in sorted(names_of("test", "model", "training") & {*runs}):
        texts = runs[name].astype(str).where(runs[name].notna(), str(defaults()[name]))
        values = texts.str.removesuffix(".0")  # integers of a column with missing values are floats
        if values[runs["SorL"].notna()].nunique() > 1:  # where configuration.json is not damaged
            table[name] = runs["test"] if name == "test_split" else values
    for name, heading in HEADINGS.items():
        table[heading] = runs[name].map("{:.3f}".format)
    done, wanted = (runs[name].map("{:.0f}".format) for name in ("epochs_done", "epochs"))
    waits = runs["state"].isin(["unfinished", "not tested"])
    logs = [last_line(save_path, run_id) for run_id in runs["run_id"]]
    states = (runs["state"] + ": " + logs).str.removesuffix(": ").where(waits, runs["state"])
    table = table.assign(epochs=done + "/" + wanted, state=states).fillna("").replace("nan", "")
    return table.to_markdown(index=False, tablefmt="simple", disable_numparse=True)


def execute(args: argparse.Namespace, options: argparse.Namespace) -> int:
    """Execute a command, and return the number of its runs that have not finished."""
    if args.command == "runs":
        print(runs_table(options.save_path))
    elif args.command == "compare":
        print(compare_rows(args, options))
    elif args.command == "report":
        entries, settings = plan(args, options)
        has_runs = entries.groupby("table")["folder"].transform("count") > 0
        if not has_runs.any():
            raise InputError(f"{options.save_path}: no finished run of these tables with these options; see runs")
        report(entries[has_runs].reset_index(drop=True), settings, options.save_path)
    else:
        entries, _ = plan(args, options)
        encoders = plans.lacking_encoders(entries, args.keep_encoders)
        if not encoders.empty:
            run_here(encoders, options.save_path, args.jobs, options.gpu_id)
            entries, _ = plan(args, options)  # the run ids depend on the embeddings
        make_runs(entries, args, options)
        return report(*plan(args, options), options.save_path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status, 1 if a run has not finished."""
    unfinished: list[int] = []
    status = run_command(lambda: unfinished.append(execute(*parse(sys.argv[1:] if argv is None else argv))))
    return status or int(any(unfinished))


if __name__ == "__main__":
    sys.exit(main())
