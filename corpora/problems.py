"""Problems: the faults of a corpus, and what was done about them."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import IO, NamedTuple

MISSING_LIMIT = 0.05  # a larger share of utterances without wav or text stops the run
OTHER_SPELLING = "label in another spelling"
COUNTS_AS_ZEROS = f"counts as zeros in training, which stops where more than {MISSING_LIMIT:.0%} do"


class Problem(NamedTuple):
    """A fault of a corpus and what was done about it: a row of `problems.csv`.

    file : path within the corpus folder
    row : of a table, counted from 1 with its header rows; "" elsewhere
    id : segment id it concerns, "" for none
    what : the kind of fault, in the same words for all faults of the kind
    found : what stands in the file
    done : what was done
    """

    file: str
    row: int | str
    id: str
    what: str
    found: str
    done: str

    @property
    def harmless(self) -> bool:
        """Whether nothing is lost by it: a label in another spelling, which the corpus itself has, is read rightly."""
        return self.what == OTHER_SPELLING

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row else ""
        segment = f" ({self.id})" if self.id and self.id not in self.file else ""
        found = f": {self.found}" if self.found else ""
        return f"{self.file}{row}{segment}{found}"


def warn_of_problems(problems: Sequence[Problem]) -> None:
    """Warn once of each kind of fault: how often it was found, the first one, and what was done."""
    times = Counter((problem.what, problem.done) for problem in problems)
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.what, problem.done), problem)
    for kind, problem in first.items():
        others = f" and {times[kind] - 1} more" if times[kind] > 1 else ""
        warnings.warn(f"{problem.what}: {problem}{others}; {problem.done}", stacklevel=2)


def write_problems(file: IO[str], problems: Sequence[Problem]) -> None:
    """Write `problems.csv`: a header row, then one row per problem."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([Problem._fields, *problems])
