"""Problems: the faults of a corpus, and what was done about them."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import IO, NamedTuple

from utils import InputError

MISSING_LIMIT = 0.05  # a larger share of utterances without wav or text stops the run


class Problem(NamedTuple):
    """A fault of a corpus and what was done about it: a row of `problems.csv`.

    file : path within the corpus folder
    row : of a table, counted from 1 with its header rows; "" elsewhere
    id : segment id it concerns, "" for none
    what : the kind of fault, equal for all faults of the kind
    found : what stands there
    done : what was done
    """

    file: str
    row: int | str
    id: str
    what: str
    found: str
    done: str

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row else ""
        segment = f" ({self.id})" if self.id and self.id not in self.file else ""
        found = f": {self.found}" if self.found else ""
        return f"{self.file}{row}{segment}{found}"


def warn_of_problems(problems: Sequence[Problem]) -> None:
    """One warning for each kind of fault, with how often it was found, the first one, and what was done."""
    times = Counter((problem.what, problem.done) for problem in problems)
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.what, problem.done), problem)
    for kind, problem in first.items():
        others = f" and {times[kind] - 1} more" if times[kind] > 1 else ""
        warnings.warn(f"{problem.what}: {problem}{others}; {problem.done}", stacklevel=2)


def write_problems(file: IO[str], problems: Sequence[Problem]) -> None:
    """`problems.csv`: a row a problem."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([Problem._fields, *problems])


def report_missing(
    ids: Sequence[str], missing: Sequence[bool], what: str, where: str, reason: str = "", warn: bool = True
) -> list[str]:
    """Say once (if `warn`) which utterances have no wav or no text, and return them.

    `reason` says what is wrong with the first one whose wav or text is there and cannot be used.

    Raises
    ------
    InputError : more than 5% are missing, or all of a session
    """
    absent = [segment for segment, is_missing in zip(ids, missing, strict=True) if is_missing]
    usable, first = (f"usable {what}", f"; first {reason}") if reason else (what, "")
    if len(absent) > MISSING_LIMIT * len(ids):
        raise InputError(
            f"{where}: {len(absent)} of {len(ids)} utterances have no {usable} there (such as {absent[0]}); "
            f"at most {MISSING_LIMIT:.0%} may be missing, so this is probably the wrong path{first}"
        )
    for session in sorted({segment.partition("_")[0] for segment in absent}):
        own = {segment for segment in ids if segment.startswith(f"{session}_")}
        if own <= {*absent}:
            raise InputError(
                f"{where}: none of the {len(own)} utterances of {session} has a {usable} there (such as {absent[0]}); "
                f"a session without any cannot be tested or trained on, so copy it there{first}"
            )
    if absent and warn:
        warnings.warn(
            f"{len(absent)} of {len(ids)} utterances have no {usable} in {where} and count as zeros: "
            f"{', '.join(absent)}{first}",
            stacklevel=2,
        )
    return absent
