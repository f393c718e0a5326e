"""Overview: every experiment folder of a save path as a line, with its figures and how far it is."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpora.sessions import format_sessions
from sweeps.jobs import error_file, is_trained_in
from training.configuration import defaults, identity, outcome_options
from utils import InputError, count, count_epochs, one_line, read_json

# Any of these makes a folder an experiment folder, perhaps a damaged one
FILES = ("configuration.json", "model.pth", "checkpoint.pt", "history.csv", "result.json")
OWN_COLUMNS = {"SorL", "test_split", "seed", "epochs"}  # options that have a column of their own
# Of `metric.MAIN_FIGURES`; a result of the published program has no weighted F1, macro F1 and accuracy
HEADERS = {
    "weighted_f1": "wF1",
    "macro_f1": "mF1",
    "accuracy": "acc",
    "ccc_arousal": "CCC A",
    "ccc_valence": "CCC V",
    "F1": "F1",
}
NO_FIGURES = [""] * (1 + len(HEADERS))
NEEDED = ("F1", "ccc_arousal", "ccc_valence")  # of any result
TIME = re.compile(r"\d{8}-\d{6}")  # in the name of a folder


class Line(NamedTuple):
    """What the table says of one experiment folder; what is not known is ''.

    differs : options that have not their defaults, by name, in words
    """

    date: str
    role: str
    test: str
    seed: str
    differs: dict[str, str]
    epochs: str
    figures: list[str]  # tested windows, and the figures of `HEADERS`
    folder: str
    state: str


def describe_runs(save_path: Path) -> str:
    """The table of all experiment folders in `save_path`, the oldest first, as text.

    Raises
    ------
    InputError : there is no such folder
    """
    from tabulate import tabulate

    if not save_path.is_dir():
        raise InputError(
            f"{save_path}: no such folder; --save_path is the one that main.py writes experiment folders into"
        )
    folders = [path for path in sorted(save_path.iterdir()) if any((path / name).is_file() for name in FILES)]
    lines = sorted((read_line(folder, save_path) for folder in folders), key=lambda line: (line.date, line.folder))
    if not lines:
        return f"{save_path}: no experiment folder yet"
    common = shared_options(lines)
    rows = [
        [
            line.date,
            line.role,
            line.test,
            line.seed,
            " ".join(text for name, text in line.differs.items() if name not in common),
            line.epochs,
            *line.figures,
            line.folder,
            line.state,
        ]
        for line in lines
    ]
    headers = ["date", "role", "test", "seed", "not default", "epochs", "windows", *HEADERS.values(), "folder", "state"]
    right = {"seed", "epochs", "windows", *HEADERS.values()}
    align = ["right" if header in right else "left" for header in headers]
    parts = [tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align)]
    if common:
        parts.append("not default in all of them: " + " ".join(common.values()))
    parts.append(
        "wF1, mF1, acc: weighted F1, macro F1 and accuracy over the test windows with one label; F1: per batch, as the "
        "paper counts"
    )
    n_finished = sum(line.state.startswith("finished") for line in lines)
    parts.append(f"{count(len(lines), 'experiment folder')} in {one_line(save_path)}, {n_finished} finished")
    return "\n\n".join(parts)


def shared_options(lines: Sequence[Line]) -> dict[str, str]:
    """The options that differ from their defaults in the same way in all readable folders, if these are several."""
    known = [line.differs for line in lines if line.role]
    return (
        {name: text for name, text in known[0].items() if all(d.get(name) == text for d in known)} if known[1:] else {}
    )


def read_line(folder: Path, save_path: Path) -> Line:
    """The line of one experiment folder; a damaged one says why."""
    try:
        stored = read_json(folder / "configuration.json")
        options = outcome_options(stored)
        test, epochs = format_sessions(options["test_split"] or []), int(options["epochs"])
    except (InputError, TypeError, ValueError) as error:
        return Line(date_of(folder), "", "", "", {}, "", NO_FIGURES, one_line(folder.name), damaged(error, folder))
    done = count_epochs(folder)  # None in finished folders of the published program
    if done is None and not (folder / "result.json").exists():
        done = 0
    try:
        figures, state = read_figures(folder / "result.json"), ""
    except InputError as error:
        figures, state = NO_FIGURES, damaged(error, folder)
    return Line(
        date=date_of(folder),
        role=one_line(options["SorL"]),
        test=test,
        seed=one_line(options["seed"]),
        differs=describe_differences(options),
        epochs=f"{epochs}" if done == epochs or done is None else f"{done}/{epochs}",
        figures=figures,
        folder=one_line(folder.name),
        state=state or describe_state(folder, save_path, stored, done),
    )


def damaged(error: Exception, folder: Path) -> str:
    """Why a folder cannot be read, without its own name."""
    return "damaged: " + one_line(error).replace(f"{folder}/", "").partition(";")[0]


def describe_state(folder: Path, save_path: Path, stored: Mapping[str, Any], done: int | None) -> str:
    """Whether a run has finished, is running, failed or was stopped, of a folder whose files can be read."""
    if (folder / "result.json").exists():
        return "finished"
    if "versions" not in stored:
        return "of the published program" if (folder / "model.pth").exists() else "damaged: no weights"
    at = f"at epoch {done or 0} of {stored.get('epochs', defaults()['epochs'])}"
    if (folder / ".lock").exists() and is_trained_in(folder):
        return f"running, {at}"
    error = error_file(save_path, identity(stored))
    if error.is_file():
        return f"failed {at}: {one_line(error.read_text('utf-8', errors='replace').strip())}"
    return f"unfinished {at}"


def describe_differences(options: Mapping[str, Any]) -> dict[str, str]:
    """The options that have not their defaults, as `lr=0.01`, flags by their name alone."""
    words = {name: f"[{','.join(map(str, v))}]" if isinstance(v, list) else v for name, v in options.items()}
    return {
        name: name if value is True else one_line(f"{name}={words[name]}".replace(" ", ""))
        for name, value in options.items()
        if name not in OWN_COLUMNS and value != defaults()[name]
    }


def read_figures(path: Path) -> list[str]:
    """The tested windows and the figures of `HEADERS` in a result.json, '' without one.

    Raises
    ------
    InputError : it is damaged
    """
    if not path.exists():
        return NO_FIGURES
    content = read_json(path)
    try:
        whole = content.get("overall", {})
        figures = {
            name: float(str(whole.get(name, content.get(name))).partition("+-")[0])
            for name in HEADERS
            if name in whole or name in content or name in NEEDED
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a result of main.py ({error!r})") from error
    if not all(math.isfinite(figure) for figure in figures.values()):
        raise InputError(f"{path}: holds a figure that is no number")
    return [str(whole.get("n", "")), *(f"{figures[name]:.3f}" if name in figures else "" for name in HEADERS)]


def date_of(folder: Path) -> str:
    """When a run began, by the name of its folder, else by its files: `2026-11-25 12:30`."""
    found = TIME.findall(folder.name)
    if found:
        try:
            return time.strftime("%Y-%m-%d %H:%M", time.strptime(found[-1], "%Y%m%d-%H%M%S"))
        except ValueError:
            pass
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.stat().st_mtime))
