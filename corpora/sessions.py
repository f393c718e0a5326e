"""Sessions: how lists of sessions are written, and which ones are trained on and tested.

A session is its number, such as `13`, in a run of one corpus. In a run of several it carries its corpus, `KEMDy19:13`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Sequence

from corpora.base import Corpus
from corpora.registry import CORPORA, LAST_SESSION, named
from utils import InputError

Session = int | str


def parse_sessions(value: str) -> list[Session]:
    """`[1,8,9,13]`, `1,8,9,13`, `1-4` or a mixture as a sorted list of sessions.

    `KEMDy19:13-16,KEMDy20:1,8` names corpora: a name holds until the next one.
    """
    found: set[Session] = set()
    name = ""
    for part in str(value).strip().strip("[]()").split(","):
        before, colon, numbers = part.strip(" '\"").rpartition(":")
        name = before.strip() if colon else name
        corpus = named(name)
        if name and corpus is None:
            known = " and ".join(corpus.name for corpus in CORPORA)
            raise argparse.ArgumentTypeError(f"{value!r}: no corpus {name!r}; there are {known}")
        own = parse_range(numbers, corpus.sessions[-1] if corpus else LAST_SESSION)
        if not own:
            known = ", ".join(f"{corpus.name} has {format_sessions(corpus.sessions)}" for corpus in CORPORA)
            raise argparse.ArgumentTypeError(
                f"{value!r}: expected sessions such as [1,8,9,13], 1,8,9,13 or 1-4, of several corpora such as "
                f"KEMDy19:13-16,KEMDy20:1-8; {known}"
            )
        found.update(with_corpus(corpus, own) if corpus else own)
    return in_order(found)


def parse_range(value: str, last: int) -> range:
    """The numbers of `13` or `13-16`; none where it is neither, or not within 1 to `last`."""
    first, dash, end = value.strip().partition("-")
    try:
        found = range(int(first), int(end if dash else first) + 1)
    except ValueError:
        return range(0)
    return found if found and found[0] >= 1 and found[-1] <= last else range(0)


def format_sessions(sessions: Iterable[Session]) -> str:
    """`13-16` for consecutive sessions, else `1,8,9`, of several corpora `KEMDy19:13-16,KEMDy20:1,8`; at least one."""
    parts = []
    for name, own in itertools.groupby(in_order(sessions), corpus_name):
        numbers = [number_of(session) for session in own]
        consecutive = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
        written = f"{numbers[0]}-{numbers[-1]}" if consecutive else ",".join(map(str, numbers))
        parts.append(f"{name}:{written}" if name else written)
    return ",".join(parts)


# Sessions of several corpora


def corpus_name(session: Session) -> str:
    """The corpus that a session carries, '' if none."""
    return session.partition(":")[0] if isinstance(session, str) else ""


def number_of(session: Session) -> int:
    """A session's number within its corpus."""
    return int(session.partition(":")[2]) if isinstance(session, str) else session


def is_session(value: object) -> bool:
    """Whether a JSON value is a session."""
    if isinstance(value, str):
        name, _, number = value.partition(":")
        return named(name) is not None and number.isdecimal()
    return isinstance(value, int)


def in_order(sessions: Iterable[Session]) -> list[Session]:
    """Sessions sorted by corpus and number."""
    return sorted(sessions, key=lambda session: (corpus_name(session), number_of(session)))


def listed(sessions: Iterable[Session]) -> str:
    """`[13, 14]` or `[KEMDy19:13, KEMDy19:14]`, for error messages."""
    return f"[{', '.join(map(str, in_order(sessions)))}]"


def with_corpus(corpus: Corpus, sessions: Iterable[Session]) -> list[Session]:
    """Sessions of a corpus as a run of several corpora names them."""
    return [f"{corpus.name}:{number_of(session)}" for session in sessions]


def of_corpora(sessions: Iterable[Session], corpora: Sequence[Corpus]) -> list[Session]:
    """Those sessions that are of these corpora, as a run of these names them; all sessions carry their corpus."""
    names = [corpus.name for corpus in corpora]
    own = [session for session in sessions if corpus_name(session) in names]
    return own if len(corpora) > 1 else [number_of(session) for session in own]


def carried(sessions: Iterable[Session], corpora: Sequence[Corpus]) -> list[Session]:
    """The sessions of a run of these corpora, each carrying its corpus."""
    return [*sessions] if len(corpora) > 1 else with_corpus(corpora[0], sessions)


def plain(sessions: Iterable[Session]) -> list[Session]:
    """Sessions of one corpus as a run of it alone names them; those of several as they are."""
    sessions = [*sessions]
    return [*map(number_of, sessions)] if len({*map(corpus_name, sessions)}) == 1 else sessions


def default_fold(corpora: Sequence[Corpus]) -> list[Session]:
    """The sessions that are tested by default: those of the first of these corpora."""
    return of_corpora(with_corpus(corpora[0], corpora[0].test_fold), corpora)


def tuning_fold(corpora: Sequence[Corpus]) -> list[Session]:
    """The sessions on which options are chosen: those of the first of these corpora."""
    return of_corpora(with_corpus(corpora[0], corpora[0].tuning_fold), corpora)


def settle(sessions: Iterable[Session], corpora: Sequence[Corpus], option: str) -> list[Session]:
    """Sessions that the user wrote as a run of these corpora names them.

    Raises
    ------
    InputError : they are of another corpus, or it is not clear of which
    """
    sessions = [*sessions]
    written, names = format_sessions(sessions), [corpus.name for corpus in corpora]
    if others := {corpus_name(session) for session in sessions}.difference(names, [""]):
        raise InputError(f"{option} {written}: --data_path holds {' and '.join(names)}, no {min(others)}")
    unnamed = [session for session in sessions if not corpus_name(session)]
    if len(corpora) > 1 and unnamed:
        forms = [f"{name}:{format_sessions(unnamed)}" for name in names]
        raise InputError(
            f"{option} {written}: of which corpus? --data_path holds {' and '.join(names)}: write "
            f"{' or '.join(forms)}, or {','.join(forms)} for both"
        )
    return sessions if len(corpora) > 1 else sorted({number_of(session) for session in sessions})


def describe_sessions(sessions: Iterable[Session], corpora: Sequence[Corpus]) -> str:
    """The sessions of a run of these corpora in words: `KEMDy19, sessions 13-16 and KEMDy20, sessions 1-8`."""
    by_name = itertools.groupby(in_order(carried(sessions, corpora)), corpus_name)
    return " and ".join(f"{name}, sessions {format_sessions(map(number_of, own))}" for name, own in by_name)


# Splits


def training_sessions(
    present: set[Session], test_split: list[Session], valid_split: list[Session] | None
) -> list[Session]:
    """The sessions to train on: those of the corpora that are neither tested nor validated on.

    Parameters
    ----------
    present : sessions of the corpora

    Raises
    ------
    InputError : a session is tested and validated on, is not in a corpus, or none is left
    """
    held_out = {"--test_split": set(test_split), "--valid_split": set(valid_split or [])}
    both = set.intersection(*held_out.values())
    if both:
        raise InputError(f"--valid_split and --test_split share sessions {listed(both)}")
    for option, split in held_out.items():
        check_sessions(present, split, option)
    left = present.difference(*held_out.values())
    if not left:
        raise InputError(f"no session is left to train on: the corpus has {listed(present)}")
    return in_order(left)


def check_sessions(present: set[Session], split: set[Session], option: str) -> None:
    """Raise `InputError` when a session in `split` is not in the corpus: a part of a fold is no fold."""
    absent = split - present
    if absent:
        raise InputError(
            f"{option}: the corpus has no utterance of sessions {listed(absent)}; it has {listed(present)}"
        )
