"""Registry: the known corpora, and which of them an id or a folder belongs to."""

from __future__ import annotations

from pathlib import Path

from corpora.base import Corpus, SegmentId
from corpora.kemdy19 import KEMDy19
from utils import InputError

CORPORA: tuple[Corpus, ...] = (KEMDy19(),)
LAST_SESSION = max(corpus.sessions[-1] for corpus in CORPORA)
EXAMPLE_ID = CORPORA[0].example_id  # for error messages


def corpus_of(segment: str) -> Corpus | None:
    """The corpus that a segment id belongs to; None if it is not a segment id."""
    return next((corpus for corpus in CORPORA if corpus.parse_id(segment)), None)


def parse_id(segment: str) -> SegmentId | None:
    """The parts of a segment id of any known corpus; None if it is not a segment id."""
    corpus = corpus_of(segment)
    return corpus and corpus.parse_id(segment)


def corpus_in(data_path: Path) -> Corpus:
    """The corpus whose annotation tables a raw corpus folder holds.

    Raises
    ------
    InputError : there is no such folder, or it holds no annotation table of a known corpus
    """
    if not data_path.is_dir():
        names = " or ".join(corpus.name for corpus in CORPORA)
        raise InputError(f"{data_path}: no such folder; put {names} there, data/README.md says how")
    found = next((corpus for corpus in CORPORA if corpus.is_in(data_path)), None)
    if found is None:
        tables = " or ".join(corpus.example_table for corpus in CORPORA)
        raise InputError(
            f"{data_path / 'annotation'}: no table such as {tables}; "
            "--data_path is the folder that holds annotation/ and wav/"
        )
    return found
