"""Plan: the published tables, grids of options, and the runs of main.py that a command line asks for."""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from constants import ROLES
from corpora.base import Corpus
from corpora.kemdy19 import FOLDS
from corpora.kemdy20 import KEMDy20
from corpora.registry import CORPORA, preprocessed_corpora
from corpora.sessions import Session, format_sessions, settle, tuning_fold
from training.arguments import switch
from training.configuration import as_json, identity, options, outcome_options
from training.options import parse_args
from utils import InputError


class Table(NamedTuple):
    """What a table compares.

    title : of the table
    rows : options of main.py for each row, by the row's label
    folds : test sessions; every row is run on each
    by_role : options of main.py for all rows of one role
    seeds : runs of each, unless the user says another number
    baseline : the row that the others are compared with in the report
    """

    title: str
    rows: dict[str, dict[str, Any]]
    folds: tuple[tuple[Session, ...], ...] = (FOLDS[3],)
    by_role: Mapping[str, dict[str, Any]] = MappingProxyType({})
    seeds: int = 1
    baseline: str | None = None


TABLES = {
    "3.2": Table("Five folds", {"default": {}}, folds=FOLDS),
    "3.3": Table("One direction and two", {"default": {}, "bidirectional": {"bidirectional": True}}),
    "3.4": Table("Without the emotion in the affect heads", {"default": {}, "no concat": {"no_concat": True}}),
    "3.5": Table(
        "Class-balanced loss over beta",
        {
            "beta .8": {"loss": "cbloss", "lam": 0.9, "beta": 0.8},
            "beta .9": {"loss": "cbloss", "lam": 0.9, "beta": 0.9},
            "beta .99": {"loss": "cbloss", "lam": 0.9, "beta": 0.99},
            "beta .999": {"loss": "cbloss", "lam": 0.9, "beta": 0.999},
        },
    ),
    "3.6": Table(
        "Weight of the emotion's loss",
        {"lam .5": {"lam": 0.5}, "lam .66": {"lam": 0.66}, "lam .75": {"lam": 0.75}, "lam .8": {"lam": 0.8}},
    ),
    "3.7": Table(
        "Best, five folds",
        {"best": {}},
        folds=FOLDS,
        by_role={"speaker": {"lam": 0.75}, "listener": {"loss": "cbloss", "lam": 0.9, "beta": 0.9}},
    ),
    "modality": Table("Single modalities", {"audio": {"modality": "audio"}, "text": {"modality": "text"}}),
    "backbone": Table("LSTM against GRU", {"lstm": {}, "gru": {"backbone": "gru"}}),
}
# Of a corpus that has no published tables
TABLES_KEMDY20 = {"KEMDy20": Table("Five folds of KEMDy20", {"default": {}}, folds=KEMDy20.folds)}
# What each option beyond MATE is worth, on any corpus's own folds; it has to be named, and takes the longest
BEYOND = "beyond"
BEYOND_ROWS = {
    "MATE": {},
    "speakers": {"speakers": True},
    "ccc": {"affect_loss": "ccc"},
    "encoder": {"audio": "encoder"},
    "all": {"speakers": True, "affect_loss": "ccc", "audio": "encoder"},
    "text alone": {"modality": "text"},
    "encoder alone": {"modality": "audio", "audio": "encoder"},
}
GRID = "grid"  # the table of the user's own grid
NEXT = "next"  # as `--valid_split`: each fold is validated on the one after it
# Options of main.py that every plan sets, or that many runs at once have no use for
SET_BY_PLAN = {"SorL", "test_split", "seed", "resume", "test_only", "test_path"}
EPOCHS = 100  # of the published tables, and of a grid, where main.py has 50 by default


@dataclass(frozen=True, order=True)
class PlannedRun:
    """A run that a table needs.

    table, title, row, role, fold, seed : its place in the table; `fold` are the test sessions
    run_id : the `identity` of its outcome, the same for runs that tables share
    argv : main.py's arguments; they also hold options that do not change the outcome, so they are not compared
    """

    table: str
    title: str
    row: str
    role: str
    fold: tuple[Session, ...]
    seed: int
    run_id: str
    argv: tuple[str, ...] = field(compare=False)

    @property
    def label(self) -> str:
        """The run in one line, for messages."""
        return f"{self.table} {self.row}, {self.role}, test {format_sessions(self.fold)}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What a command line asks for.

    args : arguments of experiments.py
    given : names of the arguments that the user gave
    main_args : arguments of main.py that hold for all runs
    tables : by name
    runs : in the order to make them; a run that tables share is there once for each of them
    """

    args: argparse.Namespace
    given: set[str]
    main_args: argparse.Namespace
    tables: dict[str, Table]
    runs: list[PlannedRun]

    @property
    def settings(self) -> dict[str, Any]:
        """The options of main.py that all runs share."""
        varied = SET_BY_PLAN | options_set_by(self.tables)
        settings = {n: v for n, v in outcome_options(as_json(self.main_args)).items() if n not in varied}
        return settings | {"data_path": " and ".join(map(str, self.main_args.data_path))}


def options_set_by(tables: Mapping[str, Table]) -> set[str]:
    """The options of main.py that these tables set.

    With a published table these are the options of all published ones: in each table, those that it does not vary
    keep the values that were published.
    """
    of_published = TABLES if tables.keys() & TABLES.keys() else {}
    names = set()
    for table in (*tables.values(), *of_published.values()):
        for values in (*table.rows.values(), *table.by_role.values()):
            names.update(values)
    return names


# The plan of a command line


def make_plan(args: argparse.Namespace, given: set[str], parser: argparse.ArgumentParser) -> Plan:
    """The plan of a command line; ends the program with the parser's error where the options contradict each other.

    Parameters
    ----------
    args : arguments of experiments.py, with `command`
    given : names of the arguments that the user gave
    parser : of the command
    """
    tables = choose_tables(args, parser)
    if args.valid_split and args.valid_split != NEXT:
        args.valid_split = settle(args.valid_split, preprocessed_corpora(args.data_path), "--valid_split")
    of_tables = SET_BY_PLAN | options_set_by(tables)
    if refused := sorted((given - {"SorL", "test_split"}) & of_tables):
        parser.error(f"--{refused[0]} is set by the tables")
    names = sorted(({"epochs", *given} & options().keys()) - SET_BY_PLAN - {"valid_split"})
    shared = format_options({name: getattr(args, name) for name in names})
    validated = plan_validation(args.valid_split, tables)
    runs = []
    for name, table in tables.items():
        for role in dict.fromkeys(roles_of(args, given)):
            runs += plan_table(name, table, role, args.seeds or table.seeds, shared, validated)
    some = ["--valid_split", "1"] if args.valid_split else []  # for options that need any
    main_args, _ = parse_args([*shared, *some])
    main_args.valid_split = args.valid_split  # where it is NEXT, every fold has its own
    return Plan(args=args, given=given, main_args=main_args, tables=tables, runs=runs)


def plan_validation(
    valid_split: Sequence[Session] | str | None, tables: Mapping[str, Table]
) -> dict[tuple[Session, ...], list[str]]:
    """By test sessions, the arguments of main.py that say which sessions to validate on, if any.

    Raises
    ------
    InputError : `valid_split` is NEXT, and test sessions are no fold of one corpus
    """
    validated = {}
    for fold in (fold for table in tables.values() for fold in table.folds):
        sessions = next_fold(fold) if valid_split == NEXT else valid_split
        validated[fold] = format_options({"valid_split": format_sessions(sessions)} if sessions else {})
    return validated


def next_fold(fold: tuple[Session, ...]) -> tuple[Session, ...]:
    """The fold after this one, and after the last the first, of the corpus that has it; `InputError` if none has."""
    for corpus in CORPORA:
        if fold in corpus.folds:
            return corpus.folds[(corpus.folds.index(fold) + 1) % len(corpus.folds)]
    known = "; ".join(f"{c.name} has {' and '.join(map(format_sessions, c.folds))}" for c in CORPORA)
    raise InputError(
        f"--valid_split {NEXT}: test sessions {format_sessions(fold)} are no fold of one corpus ({known}); name the "
        "sessions to validate on"
    )


def roles_of(args: argparse.Namespace, given: set[str]) -> list[str]:
    """The roles that a command line asks for; without `--SorL` those that all of its corpora have."""
    corpora = preprocessed_corpora(args.data_path)
    return args.SorL if "SorL" in given else [role for role in ROLES if all(role in c.roles for c in corpora)]


def choose_tables(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Table]:
    """The tables that a command line names; without names a grid alone, and without a grid all tables of the corpus."""
    every = {**TABLES, **TABLES_KEMDY20}
    if args.command != "compare":  # a table after `--data_path` is one all the same
        after = [path for path in args.data_path[1:] if str(path) in (*every, BEYOND, GRID)]
        args.data_path = [path for path in args.data_path if path not in after]
        args.tables = [*args.tables, *map(str, after)]
    corpora = preprocessed_corpora(args.data_path)
    every[BEYOND] = beyond(corpora)
    if args.command == "compare":
        names = [name for name in every if any(row.startswith(f"{name}:") for row in args.rows)]
    else:
        names = args.tables
    known = [*every, GRID] if args.command in ("list", "report") else [*every]  # of an earlier grid
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no table {unknown[0]!r}; there are {', '.join(known)}")
    if not names and not args.grid:
        names = [*tables_of(corpora), *([BEYOND] if args.command == "list" and len(corpora) == 1 else [])]
        if not names and args.command == "run":
            parser.error("--data_path names several corpora, and a table is of one: give --grid NAME=A,B")
    tables = {name: every[name] for name in names if name in every}
    if args.grid:
        if len(dict(args.grid)) < len(args.grid):
            parser.error("--grid: an option is given twice")
        folds = [tuple(settle(fold, corpora, "--test_split")) for fold in args.test_split or []]
        tables[GRID] = make_grid(dict(args.grid), folds or [tuple(tuning_fold(corpora))])
    elif args.test_split:
        parser.error("--test_split is for --grid; the published tables have their own")
    return tables


def tables_of(corpora: Sequence[Corpus]) -> dict[str, Table]:
    """The tables that a corpus has: the published ones are of KEMDy19. Several corpora have none."""
    if len(corpora) > 1:
        return {}
    return TABLES_KEMDY20 if corpora[0].name == KEMDy20.name else TABLES


def beyond(corpora: Sequence[Corpus]) -> Table:
    """The table of the options beyond MATE, on the folds of the first of these corpora."""
    return Table("Beyond MATE", BEYOND_ROWS, folds=corpora[0].folds, seeds=3, baseline="MATE")


def make_grid(axes: Mapping[str, Sequence[str]], folds: Iterable[tuple[Session, ...]]) -> Table:
    """A table with one row for every combination of the values on these axes."""
    rows = {}
    for values in itertools.product(*axes.values()):
        row = dict(zip(axes, values, strict=True))
        rows[" ".join(f"{name}={value}" for name, value in row.items())] = row
    return Table("Grid", rows, folds=tuple(dict.fromkeys(folds)))


def plan_table(
    name: str,
    table: Table,
    role: str,
    seeds: int,
    shared: Sequence[str],
    validated: Mapping[tuple[Session, ...], Sequence[str]],
) -> list[PlannedRun]:
    """The runs of a table for one role.

    Parameters
    ----------
    shared : the arguments of main.py that hold for all runs
    validated : those that hold for the runs of one fold
    """
    runs = []
    for row, values in table.rows.items():
        of_row = format_options(values | table.by_role.get(role, {}))
        for fold, seed in itertools.product(table.folds, range(seeds)):
            of_run = ["--SorL", role, "--test_split", format_sessions(fold), "--seed", str(seed)]
            argv = (*shared, *of_row, *validated[fold], *of_run)
            planned = PlannedRun(
                table=name,
                title=table.title,
                row=row,
                role=role,
                fold=fold,
                seed=seed,
                run_id=identity(as_json(parse_args(argv)[0])),
                argv=argv,
            )
            runs.append(planned)
    return runs


def is_flag(name: str) -> bool:
    """Whether this option of main.py takes no value."""
    return options()[name].nargs == 0


def format_options(values: Mapping[str, Any]) -> list[str]:
    """Options as arguments of main.py; one that takes no value is written if it is true and left out if not."""
    argv = []
    for name, value in values.items():
        if options()[name].nargs == "+":
            argv += [f"--{name}", *map(str, value)]
        elif not is_flag(name):
            argv += [f"--{name}", str(value)]
        elif switch(str(value)):
            argv.append(f"--{name}")
    return argv


def check_corpora(data_paths: Sequence[Path], role: str, tables: Iterable[str] = ()) -> Counter:
    """Read the role's utterances, to fail now where otherwise every run would; the number of them in each session.

    Raises
    ------
    InputError : there is no such folder, `df_<role>.csv` is missing or damaged, or one of the tables is of another
        corpus
    """
    from corpora.annotation import load_annotations

    corpora = preprocessed_corpora(data_paths)
    own = [*tables_of(corpora), *([BEYOND] if len(corpora) == 1 else [])]
    if others := [name for name in tables if name not in (*own, GRID)]:
        held = f"{' and '.join(c.name for c in corpora)}, which --data_path {' '.join(map(str, data_paths))} holds"
        known = f"{', '.join(own)} and --grid" if own else "grids alone, with --grid"
        raise InputError(f"table {others[0]}: not of {held}; for it there are {known}")
    return Counter(load_annotations(data_paths, role).session.tolist())
