"""Raw corpora that tests spoil, and what preprocessing.py finds in them, without the encoder."""

import contextlib
import csv
import io
from pathlib import Path

import pandas as pd

from corpora.corpus import corpus_in
from preprocessing import main, read_corpus
from utils import decode

FILES = ("annotation.csv", "df_speaker.csv", "df_listener.csv", "embedding_768.npy", "problems.csv")


def run(corpus: Path, *options: str) -> int:
    """Preprocess a corpus that has its encoder in `kobert`, or the one that `--text_model` names."""
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


def plant_faults(corpus: Path) -> None:
    """In KEMDy19's sample: another spelling, a listener's row with two ratings, no wav, an empty transcript."""
    rows = rows_of(corpus, "Session02_F_res.csv")
    rows[-1][10] = rows[-1][10].title()
    heard = next(row for row in rows[2:] if "_M0" in row[9])
    write_rows(corpus, "Session02_F_res.csv", [*rows, [*heard[:11], "1.05", *heard[12:]]])
    one, two = sorted(corpus.glob("wav/Session03/*/*.wav"))[:2]
    one.unlink()
    two.with_suffix(".txt").write_text("n/\n", encoding="utf-8")


def read(corpus: Path) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The tables by the names of their files, and the problems, of a raw corpus."""
    with contextlib.redirect_stderr(io.StringIO()):  # progress
        tables, _, problems = read_corpus(corpus_in(corpus), corpus, None)
    return tables, problems


def problems_of(corpus: Path) -> list[dict[str, object]]:
    return read(corpus)[1].to_dict("records")


def ids(table: pd.DataFrame) -> list[str]:
    return table["Segment ID"].tolist()
