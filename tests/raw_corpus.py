"""Raw corpora that tests spoil, and what preprocessing.py finds in them, without the encoder."""

import contextlib
import csv
import functools
import io
from pathlib import Path

import pandas as pd

from corpora.corpus import corpus_in
from corpora.problems import PROBLEM_COLUMNS
from preprocessing import main, read_corpus
from utils import decode

FILES = ("annotation.csv", "df_speaker.csv", "df_listener.csv", "embedding_768.npy", "problems.csv")


def run(corpus: Path, *options: str) -> int:
    """Pre-process a corpus that has its encoder in `kobert`, or the one that `--text_model` names."""
    return main(["--data_path", str(corpus), "--text_model", str(corpus / "kobert"), "--gpu_id", "cpu", *options])


def rows_of(corpus: Path, name: str) -> list[list[str]]:
    """The cells of an annotation table, its two header rows included."""
    path = corpus / "annotation" / name
    return list(csv.reader(io.StringIO(decode(path.read_bytes(), path))))


def write_rows(corpus: Path, name: str, rows: list[list[str]]) -> None:
    with (corpus / "annotation" / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def spoil(corpus: Path, name: str, row: int, column: int, cell: str) -> list[str]:
    """Another cell in a row of a table, counted from 1 as in problems.csv; the row as it was."""
    rows = rows_of(corpus, name)
    before = [*rows[row - 1]]
    rows[row - 1][column] = cell
    write_rows(corpus, name, rows)
    return before


def read(corpus: Path) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The tables by the names of their files, and the problems, of a raw corpus."""
    with contextlib.redirect_stderr(io.StringIO()):  # progress
        tables, _, problems = read_corpus(corpus_in(corpus), corpus, None)
    return tables, problems


@functools.cache
def known_problems(sample: Path) -> set[tuple]:
    return set(read(sample)[1].itertuples(index=False, name=None))


def new_problems(corpus: Path, sample: Path) -> list[dict[str, object]]:
    """The problems of a spoilt corpus that the sample has not."""
    found = read(corpus)[1].itertuples(index=False, name=None)
    return [dict(zip(PROBLEM_COLUMNS, row, strict=True)) for row in found if row not in known_problems(sample)]


def ids(table: pd.DataFrame) -> list[str]:
    return table["Segment ID"].tolist()
