"""Sessions: how lists of session numbers are written, on a command line and in a report."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from corpora.registry import CORPORA, LAST_SESSION


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
