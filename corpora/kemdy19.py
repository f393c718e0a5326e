"""KEMDy19: its layout, segment ids, annotation tables, sessions and folds."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from constants import N_RATERS
from corpora.base import Corpus, SegmentId
from corpora.labels import emotions, rating, vote
from corpora.problems import MISSING_LIMIT, Problem
from corpora.transcripts import within
from utils import MAX_TABLE_BYTES, InputError, decode, read_bounded

if TYPE_CHECKING:
    import pandas as pd


SEGMENT_ID = re.compile(
    r"Sess(?P<session>\d{2})_(?P<script>(?:script|impro)\d{2})_(?P<speaker>[FM])(?P<sequence>\d{3})"
)
N_SESSIONS = 20
FOLDS = ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))
TABLE = re.compile(r"Session(?P<session>\d{2})_(?P<actor>[FM])_res\.csv", re.IGNORECASE)
HEADER_ROWS = 2
START, END, SEGMENT, TOTAL = 1, 2, 9, 10  # positions of columns in an annotation table
N_COLUMNS = 13 + 3 * N_RATERS
RATINGS = ["Emotion", "Valence", "Arousal"]
COLUMNS = [
    *("start", "end", "Segment ID"),
    *RATINGS,
    *(f"{name}.{rater}" for rater in range(1, N_RATERS + 1) for name in RATINGS),
    *("speaker", "text", "role", "Session", "script", "sequence", "dialogue"),
]


class KEMDy19(Corpus):
    """ETRI's acted dialogues of 2019: 20 sessions, in each a female and a male actor."""

    name = "KEMDy19"
    example_id = "Sess01_script01_F001"
    sessions = range(1, N_SESSIONS + 1)
    folds = FOLDS
    utterances = MappingProxyType({"speaker": 10_279, "listener": 10_285})

    def parse_id(self, segment: str) -> SegmentId | None:
        match = SEGMENT_ID.fullmatch(segment)
        if match is None:
            return None
        dialogue = f"Sess{match['session']}_{match['script']}"
        return SegmentId(int(match["session"]), dialogue, match["speaker"], int(match["sequence"]))

    def is_in(self, data_path: Path) -> bool:
        folder = data_path / "annotation"
        return folder.is_dir() and any(TABLE.fullmatch(path.name) for path in folder.iterdir())

    def read_annotation(self, data_path: Path, problems: list[Problem]) -> pd.DataFrame:
        return read_annotation_tables(data_path, problems)


# What a cell that cannot be used is called; a row with such a total is left out of df_*.csv
UNUSABLE_TOTAL = {
    "Emotion": "total emotion that is none of the seven",
    "Valence": "total valence that is no number from 1 to 5",
    "Arousal": "total arousal that is no number from 1 to 5",
}
UNUSABLE_VOTE = {
    "Emotion": ("vote that is none of the seven emotions", "left out of the soft label"),
    "Valence": ("rater's valence that is no number from 1 to 5", "left blank"),
    "Arousal": ("rater's arousal that is no number from 1 to 5", "left blank"),
}


def read_table(path: Path, session: int, actor: str, problems: list[Problem]) -> list[dict[str, str | int]]:
    """Rows of `SessionNN_<F|M>_res.csv`, in the table's order, with labels in one spelling.

    A cell that cannot be used is left blank, a row whose id is none of this session left out; both are added to
    `problems`, as are labels in another spelling. A row also has the `file` and the `row` it stands in, and `usable`,
    which is False without a usable total or vote.

    Raises
    ------
    InputError : the table is not text, a row has too few columns, or more than a few ids are none of this session
    """
    file = f"{path.parent.name}/{path.name}"
    try:
        text = decode(read_bounded(path, MAX_TABLE_BYTES), path)
        lines = list(csv.reader(io.StringIO(text if "\n" in text else text.replace("\r", "\n"))))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise InputError(
            f"{path}: not readable as a CSV table ({error}); is a quote left open, or a carriage return in a row?"
        ) from error
    if any(SEGMENT_ID.fullmatch(cell.strip()) for cells in lines[:HEADER_ROWS] for cell in cells):
        raise InputError(
            f"{path}: its first two rows hold an utterance; expected two header rows, as ETRI's tables have"
        )
    rows, foreign = [], []
    for line, cells in enumerate(lines[HEADER_ROWS:], start=HEADER_ROWS + 1):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < N_COLUMNS:
            raise InputError(
                f"{path}, row {line}: {len(cells)} columns, expected {N_COLUMNS}, separated by commas; is it whole?"
            )
        segment = cells[SEGMENT].strip()
        match = SEGMENT_ID.fullmatch(segment)
        if match is None or int(match["session"]) != session:
            what = "segment id of another session than its table" if match else "segment id that cannot be parsed"
            foreign.append(Problem(file, line, segment, what, repr(segment), "row left out"))
            continue
        script, dialogue = match["script"], segment.rpartition("_")[0]
        row: dict[str, str | int] = {"start": cells[START].strip(), "end": cells[END].strip(), "Segment ID": segment}
        row |= {"file": file, "row": line}
        row |= {"speaker": match["speaker"], "role": "speaker" if match["speaker"] == actor else "listener"}
        row |= {"Session": session, "script": script, "sequence": int(match["sequence"]), "dialogue": dialogue}
        found = _read_ratings(cells, row)
        if cells[START].strip() and not _is_number(cells[START]):
            found.append(("start that is no number", repr(cells[START]), "its place in the table orders it"))
        problems += [Problem(file, line, segment, *problem) for problem in found]
        rows.append(row)
    if len(foreign) > max(1, MISSING_LIMIT * len(rows)):
        raise InputError(
            f"{path}, row {foreign[0].row}: segment id {foreign[0].found}, expected one such as "
            f"Sess{session:02d}_script01_F001; {len(foreign)} rows have no id of this session, is it another's table?"
        )
    problems += foreign
    if not rows:
        problems.append(Problem(file, "", "", "table without rows", "", "nothing is taken from it"))
    return rows


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _read_ratings(cells: list[str], row: dict[str, str | int]) -> list[tuple[str, str, str]]:
    """Put a table row's total and votes, and whether they are `usable`, into `row`; return what, found, done."""
    problems = []
    left_out = f"row left out of df_{row['role']}.csv"
    row["usable"] = True
    for rater in range(N_RATERS + 1):  # 0 is the total
        readers = {"Emotion": vote if rater else emotions, "Valence": rating, "Arousal": rating}
        for offset, (name, read) in enumerate(readers.items()):
            cell, column = cells[TOTAL + 3 * rater + offset], f"{name}.{rater}" if rater else name
            try:
                row[column] = read(cell)
            except ValueError:
                row[column] = ""
                if rater == 0:
                    row["usable"] = False
                what, done = UNUSABLE_VOTE[name] if rater else (UNUSABLE_TOTAL[name], left_out)
                if rater and not cell.strip():
                    what = f"rater's {name.lower()} that is blank"
                problems.append((what, repr(cell), done))
            else:
                if name == "Emotion" and row[column] != cell:
                    problems.append(("label in another spelling", repr(cell), "read as the label that is meant"))
    if not any(row[f"Emotion.{rater}"] for rater in range(1, N_RATERS + 1)):
        row["usable"] = False
        problems.append(("row without a usable vote", "", left_out))
    return problems


def read_annotation_tables(data_path: Path, problems: list[Problem]) -> pd.DataFrame:
    """All rows of all annotation tables, in time order within a dialogue, dialogues in the corpus's order.

    Has the columns `COLUMNS` but for `text`, and `file`, `row` and `usable` (see `read_table`). What is wrong with the
    tables is added to `problems`, also a session with one table and an utterance that is in one of its two only.

    Raises
    ------
    InputError : there is no table, or one cannot be read
    """
    import pandas as pd

    folder = data_path / "annotation"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [(path, match) for path in files if (match := TABLE.fullmatch(path.name))]
    for path in {path for path in files if path.suffix.lower() == ".csv"} - {path for path, _ in paths}:
        what, done = "table whose name is not such as Session01_F_res.csv", "not read"
        problems.append(Problem(within(data_path, path), "", "", what, "", done))
    if not paths:
        raise InputError(
            f"{folder}: no table such as Session01_F_res.csv; --data_path is the folder that holds annotation/ and wav/"
        )
    of_session = {}
    for path, match in paths:
        other = of_session.setdefault((match["session"], match["actor"].upper()), path)
        if other != path:
            raise InputError(f"{path}: {other.name} is there as well; take one of them away")
    tables = [
        pd.DataFrame(read_table(path, int(match["session"]), match["actor"].upper(), problems)) for path, match in paths
    ]
    filled = [t.assign(table=i, position=range(len(t))) for i, t in enumerate(tables) if len(t)]
    if not filled:
        raise InputError(f"{folder}: its {len(paths)} tables hold no row")
    table = pd.concat(filled, ignore_index=True)
    for session in sorted({match["session"] for _, match in paths}):
        pair = {path: t for t, (path, match) in zip(tables, paths, strict=True) if match["session"] == session}
        problems += half_rated(pair)
    table["start"], table["end"] = (pd.to_numeric(table[name], errors="coerce") for name in ("start", "end"))
    # Each of a session's two tables holds all its utterances in time order. So a start that is blank is taken from the
    # other table, or from the utterance before, behind which the row's position puts it
    table["dialogue_number"] = pd.factorize(table["dialogue"])[0]
    table["time"] = table.groupby("Segment ID")["start"].transform("first")
    table["time"] = table.groupby(["table", "dialogue"])["time"].ffill()
    order = ["dialogue_number", "time", "position"]
    return (
        table.sort_values(order, kind="stable", na_position="first")
        .drop(columns=["table", *order])
        .reset_index(drop=True)
    )


def half_rated(tables: dict[Path, pd.DataFrame]) -> list[Problem]:
    """A session's one table of two, or the utterances that only one of its two tables holds."""
    files = [f"{path.parent.name}/{path.name}" for path in tables]
    if len(tables) < 2:
        what, done = "session with one table of two", "half of its speaker and of its listener rows are lacking"
        return [Problem(files[0], "", "", what, "", done)]
    ids = [dict.fromkeys(table["Segment ID"]) if len(table) else {} for table in tables.values()]
    what, done = "utterance that only one of its session's two tables holds", "it has a row of one role only"
    return [
        Problem(file, "", segment, what, "", done)
        for file, own, other in zip(files, ids, reversed(ids), strict=True)
        for segment in own
        if segment not in other
    ]


def rows_of_role(annotation: pd.DataFrame, role: str, problems: list[Problem]) -> pd.DataFrame:
    """The usable rows of `role`, each id once.

    An id that occurs several times is kept once if its ratings agree and left out altogether if they do not; either is
    added to `problems`.
    """
    rows = annotation[(annotation["role"] == role) & annotation["usable"]]
    distinct = rows.drop_duplicates([column for column in COLUMNS if column not in ("start", "end", "text")])
    conflicting = distinct["Segment ID"].duplicated(keep=False)
    conflicts = {*distinct["Segment ID"][conflicting]}
    for segment, repeated in rows[rows["Segment ID"].duplicated(keep=False)].groupby("Segment ID", sort=False):
        agree, done = ("different", "all left out") if segment in conflicts else ("equal", "one kept")
        what = f"{role} rows of one id with {agree} ratings"
        first, found = repeated.iloc[0], f"{len(repeated)} rows"
        problems.append(Problem(first["file"], int(first["row"]), segment, what, found, done))
    return distinct[~conflicting]
