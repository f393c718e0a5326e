"""Command line: the options of experiments.py and of its commands, and the plan that it asks for."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence
from typing import Any

from constants import ROLES
from corpora.sessions import Session, parse_sessions
from sweeps.memory import PLAN_FILE, merge_remembered, recall
from sweeps.plan import (
    BEYOND,
    EPOCHS,
    NEXT,
    SET_BY_PLAN,
    TABLES,
    TABLES_KEMDY20,
    Plan,
    is_flag,
    make_plan,
    options_set_by,
)
from training.arguments import ArgumentParser, did_you_mean, file_path, number, switch
from training.configuration import names_of
from training.options import MODEL, TEST, TRAINING, get_args_parser, parse_args
from utils import InputError

# Options with which a report or a comparison still covers the remembered runs
NARROWING = {"save_path", "tables", "rows", "SorL", "resamples"}


# Types of command-line options


def parse_fold(value: str) -> tuple[Session, ...]:
    """Test sessions, as main.py's `--test_split` takes them."""
    return tuple(parse_sessions(value))


def parse_validation(value: str) -> list[Session] | str:
    """Sessions to validate on, as main.py's `--valid_split` takes them, or `NEXT`."""
    return NEXT if value == NEXT else parse_sessions(value)


def parse_axis(value: str) -> tuple[str, list[str]]:
    """An option of main.py and the values to try, of `lam=0.5,0.66`."""
    name, equals, values = value.partition("=")
    names = names_of(MODEL, TRAINING, TEST) - SET_BY_PLAN
    if name not in names:
        raise argparse.ArgumentTypeError(f"{value!r}: expected NAME=VALUE,... with one of {', '.join(sorted(names))}")
    parts = values.split(",")
    if not equals or not all(parts):
        raise argparse.ArgumentTypeError(f"{value!r}: expected values such as {name}=A,B")
    if is_flag(name):
        parts = ["yes" if switch(part) else "no" for part in parts]
    return name, parts


# The command line


def get_args_parsers() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The command line, and that of each command; those but `runs` have main.py's options too."""
    parser = ArgumentParser(
        description="Run the published tables or a grid, and set them beside the published figures.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    note = " Without options it covers the runs in SAVE_PATH."
    add_command(commands, "list", "show the tables and how many runs each takes", note)
    note = " The options of main.py hold for all runs."
    run = add_command(commands, "run", "make the runs that have not finished, then the report", note)
    add_machine_options(run.add_argument_group("machines"))
    note = " Without options it covers the runs in SAVE_PATH."
    add_command(commands, "report", "write the tables of what has finished", note)
    text = "compare two rows, or two runs, over the folds and seeds that both have"
    compare = add_command(commands, "compare", text, note)
    compare.add_argument("--resamples", type=number(int, 100, 10**6), default=9999, help="of the bootstrap")
    text = "show every experiment folder with its figures and how far it is"
    runs = commands.add_parser("runs", help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    runs.add_argument(
        "--save_path", type=file_path, default="exp", help="folder of the experiment folders (%(default)s)"
    )
    return parser, commands.choices


def add_command(commands: Any, name: str, text: str, note: str = "") -> ArgumentParser:
    """Add a command with main.py's options and those that choose tables."""
    of_main = get_args_parser()
    for action in of_main._actions:
        if action.dest in SET_BY_PLAN:
            action.help = argparse.SUPPRESS  # refused, with the reason
        elif action.dest in options_set_by(TABLES):
            action.help += " (only with --grid: the tables set it)"
    command = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.{note}",
        parents=[of_main],
        conflict_handler="resolve",  # SorL and test_split take several values here
        formatter_class=lambda prog: argparse.ArgumentDefaultsHelpFormatter(prog, max_help_position=40, width=130),
        allow_abbrev=False,
    )
    command.set_defaults(epochs=EPOCHS)
    option = command.add_argument_group("experiments").add_argument
    if name == "compare":
        option("--data_path", type=file_path, default="data/KEMDy19", help="the rows' corpus")  # before them, one word
        option("rows", nargs=2, metavar="TABLE:ROW", help="a row such as 3.3:bidirectional, or an experiment folder")
    else:
        option(
            "tables",
            nargs="*",
            metavar="TABLE",
            help=f"{', '.join([*TABLES, *TABLES_KEMDY20, BEYOND])}; none: the corpus's, without {BEYOND}",
        )
    option(
        "--SorL",
        nargs="+",
        choices=ROLES,
        default=list(ROLES),
        help="whose emotion is predicted; without it all that the corpus has",
    )
    option(
        "--valid_split",
        type=parse_validation,
        metavar="SESSIONS",
        help=f"sessions to validate on, taken from training; {NEXT}: for each fold those of the one after it",
    )
    text = f"runs of each, with seeds from 0 on; without it one, of {BEYOND} three"
    option("--seeds", type=number(int, 1, 1000), help=text)
    option("--grid", nargs="+", type=parse_axis, metavar="NAME=A,B", help="all combinations of these options' values")
    option(
        "--test_split",
        nargs="+",
        type=parse_fold,
        metavar="SESSIONS",
        help="the grid's; without it 13-16, or 1-8 of KEMDy20",
    )
    return command


def add_machine_options(group: Any) -> None:
    """Add the options that say where the runs are made."""
    option = group.add_argument
    option("--jobs", type=number(int, 1, 256), default=1, help="runs at once on this machine, its GPUs dealt out")
    option("--slurm", action="store_true", help="hand the runs to a SLURM cluster")
    option("--partition", help="of the cluster")
    option("--time", type=number(int, 3), default=1440, help="minutes; a run that takes longer is started again")
    option("--gpus", type=number(int, 0, 1), default=1, help="GPUs of a run: one or none")
    option("--cpus", type=number(int, 1, 1024), help="processor cores of a run")
    option("--memory", type=number(int, 1), metavar="GB", help="main memory of a run")
    option("--array", type=number(int, 1), default=256, help="runs at once on the cluster")


def parse_plan(argv: Sequence[str]) -> Plan:
    """The plan of a command line; ends the program where the command line is wrong or asks for help."""
    parser, commands = get_args_parsers()
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        meant = did_you_mean(argv[0], commands) or f"; there are {', '.join(commands)}"
        parser.error(f"{argv[0]}: no such command{meant}")
    if not argv or argv[0].startswith("-"):
        parser.parse_args(argv)  # answers --help, and refuses the rest
    command = commands[argv[0]]
    args, given = parse_args(argv[1:], command)
    args.command = argv[0]
    return make_plan(args, given, command)


def with_remembered(plan: Plan) -> Plan:
    """The plan of a list, a report or a comparison: without options of runs it covers those that its folder remembers.

    A list of tables that were not run there is of what they take.

    Raises
    ------
    InputError : the remembered command lines cannot be read
    """
    save_path = plan.main_args.save_path
    lines = recall(save_path)
    if not lines or plan.given - NARROWING:
        return plan
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            remembered = [parse_plan(line) for line in lines]
    except SystemExit as error:
        raise InputError(
            f"{save_path / PLAN_FILE}: holds a command line that this program does not take; remove it"
        ) from error
    merged = merge_remembered(plan, remembered)
    return merged if merged.runs or plan.args.command != "list" else plan
