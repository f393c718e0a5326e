"""Raw corpora that tests spoil, and what preprocessing reports of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from corpora.problems import Problem
from preprocessing import main

FILES = ("annotation.csv", "df_speaker.csv", "df_listener.csv", "embedding_768.npy", "problems.csv")
SOURCE = "corpus.json"  # says what they were made from, so its content differs with the text model's folder
CACHE = "embedding_768.cache.npz"
NAME = "Session01_F_res.csv"


def run(corpus: Path, *options: str) -> int:
    return main(["--data_path", str(corpus), "--text_model", str(corpus / "kobert"), "--gpu_id", "cpu", *options])


def spoil(corpus: Path, table: str, row: int, column: int, value: str) -> None:
    path = corpus / "annotation" / table
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    cells = lines[row].split(",")
    cells[column] = value
    lines[row] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def repeat_row(corpus: Path, row: int, **cells: str) -> str:
    """Repeat a row at the end of a table, with `c11="2.5"` another cell in column 11; return its id."""
    path = corpus / "annotation" / NAME
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    repeated = lines[row].split(",")
    for column, cell in cells.items():
        repeated[int(column[1:])] = cell
    path.write_text("\n".join([*lines, ",".join(repeated)]) + "\n", encoding="utf-8")
    return repeated[9]


def utterance(corpus: Path, name: str, row: int) -> str:
    return (corpus / "annotation" / name).read_text(encoding="utf-8-sig").splitlines()[row].split(",")[9]


def table_of(corpus: Path, name: str, row: int) -> str:
    """The role's table that a row of an annotation table goes to."""
    return "df_speaker.csv" if utterance(corpus, name, row)[-4] == name[10] else "df_listener.csv"


def table(corpus: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(corpus / name, dtype=str, keep_default_na=False)


def faults(corpus: Path, preprocessed: Path, capsys: pytest.CaptureFixture) -> list[Problem]:
    """Pre-process and return what `problems.csv` has beyond that of `preprocessed`; each kind is warned of once."""
    assert run(corpus) == 0
    known = {tuple(row) for row in table(preprocessed, "problems.csv").itertuples(index=False)}
    rows = [Problem(*row) for row in table(corpus, "problems.csv").itertuples(index=False)]
    warned = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("warning: ")]
    assert len(warned) == len({(row.what, row.done) for row in rows})
    assert all(any(line.startswith(f"warning: {row.what}: ") and row.done in line for line in warned) for row in rows)
    return [row for row in rows if tuple(row) not in known]


def write_wav(path: Path, damage: str) -> None:
    match damage:
        case "zero bytes":
            path.write_bytes(b"")
        case "zero samples":
            soundfile.write(path, np.zeros(0), 16_000)
        case "cut short":
            path.write_bytes(path.read_bytes()[:-1000])
        case "header only":
            path.write_bytes(path.read_bytes()[:44])
        case "half a header":
            path.write_bytes(path.read_bytes()[:20])
        case "no sound":
            path.write_text("Sess01")
        case "not a number":
            soundfile.write(path, np.full(1600, np.nan), 16_000, subtype="FLOAT")
        case "missing":
            path.unlink()


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path
