"""Run the published tables or a grid of options, report them beside published figures, and compare their runs.

python experiments.py run                                         make the runs that have not finished, then the report
python experiments.py run beyond --SorL speaker --seeds 5 --valid_split next --lr 1e-4
python experiments.py run --grid lam=0.5,0.66 backbone=lstm,gru --jobs 2
python experiments.py report                                      the tables of the runs that have finished
python experiments.py compare 3.3:default 3.3:bidirectional       two rows, or two run folders
python experiments.py runs                                        every run folder with its figures and its state
"""

from __future__ import annotations

import training  # noqa: F401, isort: skip (before all others: see there)

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
from training.options import ArgumentParser, defaults, get_args_parser, names_of, number, parse_args
from training.record import ENCODERS, find_run
from utils import InputError, count, run_command

SCOPES = ("data", "test", "model", "training")  # groups of main.py's options that hold for every run
COMMANDS = ("run", "report", "compare", "runs")

# The command line


def get_parser() -> ArgumentParser:
    """The command line without the options of main.py."""
    parser = ArgumentParser(
        usage="experiments.py COMMAND [TABLE ...] [options]",
        description=__doc__,
        epilog=f"TABLE: {', '.join(plans.NAMES)}; without one those of the corpus but {' and '.join(plans.NAMED)}.\n"
        "All options of main.py hold for every run: see main.py --help. The default of --epochs is 100.\n"
        "report and compare find the runs of the options that are given to them: give those of run again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    add("--SorL", nargs="+", choices=ROLES, help="roles (default: those of the corpus)")
    sessions = {"type": lambda text: text if text == plans.NEXT else parse_sessions(text), "metavar": "SESSIONS"}
    add("--valid_split", **sessions, help=f"sessions to validate on; {plans.NEXT}: for each fold those of the next one")
    add("--seeds", type=number(int, 1, 1000), help="runs of each, with seeds from 0 (default: 1, or the table's)")
    add("--grid", nargs="+", type=plans.parse_axis, metavar="NAME=A,B", help="all combinations of these values")
    folds = {"nargs": "+", "type": lambda text: tuple(parse_sessions(text)), "metavar": "SESSIONS"}
    add("--test_split", **folds, help="folds of the grid (default: 13-16, or 1-8 of KEMDy20)")
    learning = f"options of finetune.py for {plans.FINETUNED}, such as '--epochs 3 --lr 1e-5'"
    add("--finetune", type=shlex.split, metavar="OPTIONS", default=[], help=learning)
    add("--keep_encoders", action="store_true", help=f"keep the weights of the encoders of {plans.FINETUNED}")
    add("--jobs", type=number(int, 1, 256), default=1, help="runs at once on this machine, which share its GPUs")
    return parser


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, argparse.Namespace]:
    """The options of experiments.py, and those of main.py with the tables, rows or folders as `names`."""
    args, rest = get_parser().parse_known_args(argv)
    of_main = get_args_parser()
    of_main.add_argument("names", nargs="*")
    of_main.set_defaults(epochs=plans.EPOCHS)
    if args.valid_split is not None:
        rest += ["--valid_split", "1"]  # which --select best asks for; the plan replaces it
    return args, parse_args(rest, of_main)


# From the command line to the runs


def plan(args: argparse.Namespace, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The planned runs of a command line with what has finished of them, and the options that all of them share."""
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
    """The tables that are named; without names a grid alone, and without a grid those of the corpus."""
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


# The commands


def make_runs(entries: pd.DataFrame, args: argparse.Namespace, options: argparse.Namespace) -> None:
    """Make the runs that have not finished; warn of those that cannot be made, and raise `InputError` if none can."""
    distinct = entries.drop_duplicates("run_id")  # a run that tables share is made once
    todo = distinct[distinct["folder"].isna()]
    print(f"{count(len(distinct), 'run')}, {len(distinct) - len(todo)} finished already", flush=True)
    for error in todo["error"].dropna().unique():
        if todo["error"].notna().all():
            raise InputError(error)
        warnings.warn(error, stacklevel=2)
    run_here(todo[todo["error"].isna()], options.save_path, args.jobs, options.gpu_id)


def report(entries: pd.DataFrame, settings: dict[str, Any], save_path: Path) -> int:
    """Write the tables of what has finished into SAVE_PATH/report, and return the number of other runs."""
    if not save_path.is_dir():
        raise InputError(f"{save_path}: no such folder; --save_path is the one that main.py writes run folders into")
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
        raise InputError("compare takes two rows, such as 3.3:default 3.3:bidirectional, or two run folders")
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
    """The run folders in `save_path`, the oldest first, with the options in which they differ; `InputError` if none."""
    runs = read_folders(save_path)
    if runs.empty:
        raise InputError(f"{save_path}: no run folder; --save_path is the one that main.py writes run folders into")
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
    """Carry out a command, and return the number of runs that it should have made and that have not finished."""
    if args.command == "runs":
        print(runs_table(options.save_path))
    elif args.command == "compare":
        print(compare_rows(args, options))
    elif args.command == "report":
        entries, settings = plan(args, options)
        begun = entries.groupby("table")["folder"].transform("count") > 0
        report(entries[begun].reset_index(drop=True) if begun.any() else entries, settings, options.save_path)
    else:
        encoders = plans.lacking_encoders(plan(args, options)[0], args.keep_encoders)
        run_here(encoders, options.save_path, args.jobs, options.gpu_id)  # without them their runs have no id
        make_runs(plan(args, options)[0], args, options)
        return report(*plan(args, options), options.save_path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 when a run has not finished."""
    unfinished: list[int] = []
    status = run_command(lambda: unfinished.append(execute(*parse(sys.argv[1:] if argv is None else argv))))
    return status or int(any(unfinished))


if __name__ == "__main__":
    sys.exit(main())
