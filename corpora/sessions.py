"""Sessions: how lists of session numbers are written, and which ones are trained on and tested."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from corpora.registry import CORPORA, LAST_SESSION
from utils import InputError


def parse_sessions(value: str) -> list[int]:
    """`[1,8,9,13]`, `1,8,9,13`, `1-4` or a mixture as a sorted list of session numbers."""
    numbers: set[int] = set()
    for part in str(value).strip().strip("[]()").split(","):
        first, dash, last = part.strip().partition("-")
        try:
            found = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            found = range(0)
        if not found or found[0] < 1 or found[-1] > LAST_SESSION:
            known = ", ".join(f"{corpus.name} has {format_sessions(corpus.sessions)}" for corpus in CORPORA)
            raise argparse.ArgumentTypeError(
                f"{value!r}: expected sessions such as [1,8,9,13], 1,8,9,13 or 1-4; {known}"
            )
        numbers.update(found)
    return sorted(numbers)


def format_sessions(sessions: Iterable[int]) -> str:
    """`13-16` for consecutive sessions, else `1,8,9`; at least one session."""
    numbers = sorted(sessions)
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


# Splits


def training_sessions(present: set[int], test_split: list[int], valid_split: list[int] | None) -> list[int]:
    """The sessions to train on: those of the corpus that are neither tested nor validated on.

    Parameters
    ----------
    present : sessions of the corpus

    Raises
    ------
    InputError : a session is tested and validated on, is not in the corpus, or none is left
    """
    held_out = {"--test_split": set(test_split), "--valid_split": set(valid_split or [])}
    both = set.intersection(*held_out.values())
    if both:
        raise InputError(f"--valid_split and --test_split share sessions {sorted(both)}")
    for option, split in held_out.items():
        check_sessions(present, split, option)
    left = present.difference(*held_out.values())
    if not left:
        raise InputError(f"no session is left to train on: the corpus has {sorted(present)}")
    return sorted(left)


def check_sessions(present: set[int], split: set[int], option: str) -> None:
    """Raise `InputError` when a session in `split` is not in the corpus: a part of a fold is no fold."""
    absent = sorted(split - present)
    if absent:
        raise InputError(f"{option}: the corpus has no utterance of sessions {absent}; it has {sorted(present)}")
