"""The known corpora, and which of them an id or a folder belongs to."""

from __future__ import annotations

from corpora.base import Corpus, SegmentId
from corpora.kemdy19 import KEMDy19

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
