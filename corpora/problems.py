"""Problems: the faults of a corpus, and what was done about them."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import IO, NamedTuple

from utils import InputError

MISSING_LIMIT = 0.05  # a larger share of utterances without wav or text stops the run
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


def report_missing(
    ids: Sequence[str], missing: Sequence[bool], what: str, where: str, reason: str = "", warn: bool = True
) -> list[str]:
    """The utterances that have no wav or no text; one warning names them all.

    Parameters
    ----------
    ids : segment ids
    missing : for each id, whether its wav or text is missing
    what : "wav" or "text"
    where : the file or folder that was searched
    reason : why the first one cannot be used that is there and cannot be used; "" if there is none
    warn : whether to warn

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
    if not absent:
        return []
    in_session, absent_in = _count_by_session(ids), _count_by_session(absent)
    for session, n_absent in sorted(absent_in.items()):
        if n_absent == in_session[session]:
            raise InputError(
                f"{where}: none of the {n_absent} utterances of Sess{session:02d} has a {usable} there (such as "
                f"{absent[0]}); a session without any cannot be tested or trained on, so copy it there{first}"
            )
    if warn:
        warnings.warn(
            f"{len(absent)} of {len(ids)} utterances have no {usable} in {where} and count as zeros: "
            f"{', '.join(absent)}{first}",
            stacklevel=2,
        )
    return absent


def _count_by_session(ids: Sequence[str]) -> Counter[int]:
    from corpora.registry import parse_id  # not above: the corpora that it lists import this module

    return Counter(parse_id(segment).session for segment in ids)
