"""Registry: the known corpora, and which of them an id or a folder belongs to."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from corpora.base import Corpus, SegmentId
from corpora.kemdy19 import KEMDy19
from corpora.kemdy20 import KEMDy20
from utils import InputError

CORPORA: tuple[Corpus, ...] = (KEMDy19(), KEMDy20())
MAX_LINE_BYTES = 100_000  # of a row of a table
LAST_SESSION = max(corpus.sessions[-1] for corpus in CORPORA)
EXAMPLE_ID = CORPORA[0].example_id  # for error messages


def corpus_of(segment: str) -> Corpus | None:
    """The corpus that a segment id belongs to; None if it is not a segment id."""
    return next((corpus for corpus in CORPORA if corpus.parse_id(segment)), None)


def parse_id(segment: str) -> SegmentId | None:
    """The parts of a segment id of any known corpus; None if it is not a segment id."""
    corpus = corpus_of(segment)
    return corpus and corpus.parse_id(segment)


def dialogue_of(segment: str) -> str:
    """The dialogue of a segment id, `KEMDy19 Sess01_script01`: several corpora have dialogues of one name."""
    return f"{corpus_of(segment).name} {parse_id(segment).dialogue}"


def by_corpus(segments: Iterable[str]) -> dict[Corpus | None, list[str]]:
    """Segment ids by their corpus, corpora in the order of their first id."""
    found: dict[Corpus | None, list[str]] = {}
    for segment in segments:
        found.setdefault(corpus_of(segment), []).append(segment)
    return found


def corpus_in(data_path: Path) -> Corpus:
    """The corpus whose annotation tables a raw corpus folder holds.

    Raises
    ------
    InputError : there is no such folder, or it holds no annotation table of a known corpus, or those of several
    """
    if not data_path.is_dir():
        names = " or ".join(corpus.name for corpus in CORPORA)
        raise InputError(f"{data_path}: no such folder; put {names} there, data/README.md says how")
    found = {corpus: table for corpus in CORPORA if (table := corpus.table_in(data_path))}
    if not found:
        tables = " or ".join(corpus.example_table for corpus in CORPORA)
        raise InputError(
            f"{data_path / 'annotation'}: no table such as {tables}; "
            "--data_path is the folder that holds annotation/ and wav/"
        )
    if len(found) > 1:
        tables = " and ".join(f"{table} of {corpus.name}" for corpus, table in found.items())
        raise InputError(f"{data_path / 'annotation'}: holds {tables}; give each corpus a folder of its own")
    return next(iter(found))


def named(name: str) -> Corpus | None:
    """The corpus of this name; None if it is not known."""
    return next((corpus for corpus in CORPORA if corpus.name == name), None)


def preprocessed_corpus(data_path: Path) -> Corpus:
    """The corpus of a pre-processed folder, by the first id of its `df_speaker.csv`.

    Where that says nothing, because it is missing or damaged, the first of `CORPORA`: who reads it reports that.
    """
    try:
        with (data_path / "df_speaker.csv").open("rb") as file:
            lines = [file.readline(MAX_LINE_BYTES).decode("utf-8-sig", errors="replace") for _ in range(2)]
        header, first = csv.reader(lines)
    except (OSError, ValueError, csv.Error):
        return CORPORA[0]
    found = dict(zip(header, first, strict=False)).get("Segment ID", "")
    return corpus_of(found) or CORPORA[0]


def preprocessed_corpora(data_paths: Sequence[Path]) -> list[Corpus]:
    """The corpora of pre-processed folders, see `preprocessed_corpus`.

    Raises
    ------
    InputError : of several folders, two hold one corpus, or one is not pre-processed
    """
    found: dict[Corpus, Path] = {}
    for path in data_paths:
        if len(data_paths) > 1 and not (path / "df_speaker.csv").is_file():
            raise InputError(f"{path}: holds no df_speaker.csv; run preprocessing.py --data_path {path} first")
        corpus = preprocessed_corpus(path)
        if corpus in found:
            raise InputError(
                f"--data_path {found[corpus]} {path}: both hold {corpus.name}, whose ids would clash; give one of them"
            )
        found[corpus] = path
    return [*found]
