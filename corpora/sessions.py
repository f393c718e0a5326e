"""Sessions: how lists of sessions are written, and the training sessions. A session is an int."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable

from utils import InputError

Sessions = Iterable[int]

MAX_SESSION = 999


def parse_sessions(value: str) -> list[int]:
    """Parse `1-4,9` or `[1, 2]` to a sorted list of sessions without duplicates; for argparse."""
    found: set[int] = set()
    for part in str(value).strip(" []()").split(","):
        first, dash, last = part.strip().partition("-")
        try:
            sessions = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            sessions = range(0)
        if not sessions or sessions[0] < 1 or sessions[-1] > MAX_SESSION:
            raise argparse.ArgumentTypeError(f"{value!r}: expected sessions such as 1-4, 1,8,9 or [1,8,9]")
        found.update(sessions)
    return sorted(found)


def format_sessions(sessions: Sessions) -> str:
    """`1-4,9` for 1, 2, 3, 4 and 9; two consecutive sessions are also a range."""
    runs = itertools.groupby(enumerate(sorted(set(sessions))), key=lambda pair: pair[1] - pair[0])
    ranges = [[session for _, session in run] for _, run in runs]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in ranges)


def training_sessions(
    present: Sessions, test_split: Sessions, valid_split: Sessions | None = None, train_split: Sessions | None = None
) -> list[int]:
    """`train_split`, or the sessions `present` in a corpus that are in neither `test_split` nor `valid_split`.

    Raises `InputError` if two splits share a session, a session is not in the corpus, or none is left.
    """
    present, splits = set(present), {"--test_split": test_split, "--valid_split": valid_split}
    splits = {name: set(split or []) for name, split in (splits | {"--train_split": train_split}).items()}
    for (other, before), (name, split) in itertools.combinations(splits.items(), 2):
        if both := before & split:
            raise InputError(f"{name} and {other} share sessions {format_sessions(both)}; use each in one split")
    for name, split in splits.items():
        check_sessions(present, split, name)
    left = splits["--train_split"] or present.difference(*splits.values())
    if not left:
        raise InputError(f"no session left for training: the corpus has sessions {format_sessions(present)}")
    return sorted(left)


def check_sessions(present: Sessions, split: Sessions, option: str) -> None:
    """Raise `InputError` if a session in `split` is not in the corpus."""
    if absent := set(split) - set(present):
        raise InputError(f"{option}: the corpus has sessions {format_sessions(present)}, not {format_sessions(absent)}")
