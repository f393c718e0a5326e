"""Experiments: run the published tables or a grid of options, report them, compare two rows, and list all runs.

python experiments.py list
python experiments.py run 3.2 3.6 --SorL speaker listener --epochs 100
python experiments.py run beyond
python experiments.py run --grid lam=0.5,0.66 backbone=lstm,gru --jobs 2
python experiments.py report
python experiments.py compare 3.3:default 3.3:bidirectional
python experiments.py runs
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from corpora.sessions import Session, plain
from sweeps.command_line import NARROWING, get_args_parsers, parse_plan, with_remembered
from sweeps.data import other_data, speech_shape_of
from sweeps.estimate import Machine, estimate_disk, estimate_time, format_bytes, measure, this_machine
from sweeps.jobs import Job, find_finished, find_runs, run_locally, shares, why_unfinished
from sweeps.memory import recall, remember
from sweeps.overview import describe_runs
from sweeps.plan import BEYOND, GRID, TABLES, TABLES_KEMDY20, Plan, PlannedRun, check_corpora
from sweeps.slurm import Slurm, run_on_slurm
from training.options import parse_args
from utils import InputError, count, find_run, run_command


def show(plan: Plan) -> None:
    """Print one line per table, and how many runs there are and have finished."""
    save_path = plan.main_args.save_path
    for name, table in plan.tables.items():
        n_runs = sum(planned.table == name for planned in plan.runs)
        if n_runs:
            named = f", which 'run {name}' makes" if name == BEYOND and not plan.args.tables else ""
            print(f"{name:<10}{table.title}: {', '.join(table.rows)}; {count(n_runs, 'run')}{named}")
    runs = {planned.run_id for planned in plan.runs}
    finished = find_finished(save_path)
    others = other_data(plan.runs, finished)
    n_done = len(runs & finished.keys() - others.keys())
    print(f"{count(len(runs), 'run')} in all, those that tables share counted once; {n_done} finished in {save_path}")
    for line in others.values():
        print(line)


def run(plan: Plan, argv: Sequence[str]) -> list[PlannedRun]:
    """Make the runs that have not finished, and return those that still have not.

    Raises
    ------
    InputError : there is no corpus, it lacks the speech embeddings that a run needs, a run was made from other data, or
        there is no SLURM cluster that takes the runs
    Interrupted : see `run_locally` and `run_on_slurm`
    """
    save_path, args = plan.main_args.save_path, plan.args
    roles = dict.fromkeys(planned.role for planned in plan.runs)
    sizes = {role: check_corpora(plan.main_args.data_path, role, plan.tables) for role in roles}
    if others := other_data(plan.runs, {run_id: found.folder for run_id, found in find_runs(save_path).items()}):
        raise InputError(f"{next(iter(others.values()))} (so it is with {len(others)} of the plan's runs)")
    wanted: dict[str, PlannedRun] = {}
    for planned in plan.runs:
        wanted.setdefault(planned.run_id, planned)  # a run that tables share counts as the first one's
    finished = find_finished(save_path)
    todo = [planned for planned in wanted.values() if planned.run_id not in finished]
    speech_shape = speech_shape_of(todo)
    remember(save_path, argv)
    print(f"{count(len(wanted), 'run')}, {len(wanted) - len(todo)} finished already", flush=True)
    if not todo:
        return []
    jobs = [make_job(planned, save_path) for planned in todo]
    places = shares(min(args.jobs, len(todo)), plan.main_args.gpu_id)
    if args.slurm:
        machine = Machine(None, min(args.array, len(todo)), 1 if args.gpus else args.cpus or 1)
    else:
        machine = this_machine(plan.main_args.gpu_id, places)
    print(f"{len(todo)} to make: {describe_cost(todo, save_path, sizes, machine, speech_shape)}", flush=True)
    if args.slurm:
        slurm = Slurm(
            partition=args.partition,
            time=args.time,
            gpus=args.gpus,
            cpus=args.cpus,
            memory=args.memory,
            array=args.array,
        )
        run_on_slurm(jobs, save_path, slurm)
    else:
        run_locally(jobs, save_path, places)
    finished = find_finished(save_path)
    return [planned for planned in todo if planned.run_id not in finished]


def describe_cost(
    todo: Sequence[PlannedRun],
    save_path: Path,
    sizes: Mapping[str, Counter],
    machine: Machine,
    speech_shape: tuple[int, int] | None = None,
) -> str:
    """The time and the disk that runs will take, in words; warns where the disk has less free.

    Parameters
    ----------
    sizes : by role, the utterances of each session
    speech_shape : of `data.speech_shape_of`
    """
    options = [parse_args(planned.argv)[0] for planned in todo]
    time = estimate_time(options, sizes, measure(dict.fromkeys(find_runs(save_path).values())), machine)
    disk, free = estimate_disk(options, sizes, machine.places, speech_shape), shutil.disk_usage(save_path).free
    if disk > free:
        warnings.warn(f"{save_path}: the runs take {format_bytes(disk)}, {format_bytes(free)} are free", stacklevel=2)
    return f"{time}, {format_bytes(disk)} of disk ({format_bytes(free)} free)"


def make_job(planned: PlannedRun, save_path: Path) -> Job:
    """The job of a planned run."""
    return Job(
        run_id=planned.run_id,
        argv=planned.argv,
        save_path=save_path.absolute(),
        label=planned.label,
        epochs=parse_args(planned.argv)[0].epochs,
    )


def report(plan: Plan) -> Path:
    """Write the tables of what has finished into SAVE_PATH/report and return that folder."""
    from reports.published import find_published, read_published
    from reports.runs import Entry
    from reports.tables import write_report

    save_path = plan.main_args.save_path
    if not plan.runs:
        raise InputError(f"{save_path}: no such table or role was run there")
    finished, published, entries = find_finished(save_path), read_published(), []
    others = other_data(plan.runs, finished)
    for planned in plan.runs:
        table, row, role, fold = planned.table, planned.row, planned.role, planned.fold
        figures = find_published(published, table, row, role, fold)
        of_plan = plan.tables[table]
        if figures is None and not (table == GRID or of_plan.rows[row] or of_plan.by_role):  # the default
            figures = find_published(published, "3.2", "default", role, fold)
        folder = None if planned.run_id in others else finished.get(planned.run_id)
        entry = Entry(
            table=table,
            title=planned.title,
            row=row,
            role=role,
            test_split=fold,
            seed=planned.seed,
            run_id=planned.run_id,
            folder=folder,
            error=None if folder else others.get(planned.run_id) or why_unfinished(save_path, planned.run_id),
            published=figures,
            options=of_plan.rows[row] if table == GRID else {},
            baseline=of_plan.baseline,
        )
        entries.append(entry)
    folder = save_path / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, entries, plan.settings)
    return folder


def compare_rows(plan: Plan) -> str:
    """The comparison of two rows or two runs, as text.

    Raises
    ------
    InputError : there is no such row or folder, or the two have no finished runs of the same sessions
    """
    from reports.comparison import Pair, compare

    a, b = (finished_of(name, plan) for name in plan.args.rows)
    pairs = [Pair(*key, a[key], b[key]) for key in a if key in b]
    if not pairs and len(a) == len(b) == 1:  # two runs may differ in their seeds
        (key_a, folder_a), (key_b, folder_b) = *a.items(), *b.items()
        if key_a[:2] == key_b[:2]:
            pairs = [Pair(*key_a[:2], seed=f"{key_a[2]} / {key_b[2]}", a=folder_a, b=folder_b)]
    if not pairs:
        advice = "see 'experiments.py report' for what has not finished"
        if (options := sorted(plan.given - NARROWING)) and recall(plan.main_args.save_path):
            advice = f"without --{' and --'.join(options)} it looks at the runs that SAVE_PATH remembers"
        raise InputError(
            f"{' and '.join(plan.args.rows)}: have no finished runs of the same role, test sessions and seed; {advice}"
        )
    return compare(pairs, tuple(plan.args.rows), plan.args.resamples)


def finished_of(name: str, plan: Plan) -> dict[tuple[str, tuple[Session, ...], int], Path]:
    """Folders of the finished runs of a table's row, or an experiment folder, by role, test sessions and seed."""
    from reports.runs import read_run

    save_path = plan.main_args.save_path
    table, colon, row = name.partition(":")
    if not colon or table not in (*TABLES, *TABLES_KEMDY20, BEYOND, GRID):
        folder = find_run(save_path, name)
        stored = read_run(folder).configuration
        return {(stored["SorL"], tuple(plain(stored["test_split"])), stored.get("seed", 0)): folder}
    runs = [planned for planned in plan.runs if planned.table == table]
    rows = list(dict.fromkeys(planned.row for planned in runs))
    if row not in rows:  # as it was called before flags were yes and no
        row = row.replace("=True", "=yes").replace("=False", "=no")
    if row not in rows:
        known = f"table {table} has the rows {', '.join(rows)}" if rows else f"table {table} was not run there"
        raise InputError(f"{name}: no such row in {save_path}; {known}")
    finished = find_finished(save_path)
    if others := other_data([planned for planned in runs if planned.row == row], finished):
        raise InputError(next(iter(others.values())))
    return {
        (planned.role, tuple(plain(planned.fold)), planned.seed): finished[planned.run_id]
        for planned in runs
        if planned.row == row and planned.run_id in finished
    }


def execute(plan: Plan, argv: Sequence[str]) -> list[PlannedRun]:
    """Carry out a command, and return the runs that it should have made and that have not finished."""
    command, unfinished = plan.args.command, []
    if command in ("list", "report", "compare"):
        plan = with_remembered(plan)
    if command == "list":
        show(plan)
    elif command == "compare":
        print(compare_rows(plan))
    else:
        if command == "run":
            unfinished = run(plan, argv)
        print(f"report: {report(plan) / 'index.html'}")
    if unfinished:
        have = "have" if len(unfinished) > 1 else "has"
        print(f"{count(len(unfinished), 'run')} {have} not finished: the report says why", file=sys.stderr)
    return unfinished


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 when a run has not finished."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["runs"]:
        args = get_args_parsers()[0].parse_args(argv)
        return run_command(lambda: print(describe_runs(args.save_path)))
    unfinished: list[PlannedRun] = []
    status = run_command(lambda: unfinished.extend(execute(parse_plan(argv), argv)))
    return status or int(bool(unfinished))


if __name__ == "__main__":
    sys.exit(main())
