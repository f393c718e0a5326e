"""KEMDy19: its layout, segment ids, annotation tables, sessions and folds."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from corpora.base import Corpus, SegmentId
from corpora.problems import MISSING_LIMIT, Problem
from corpora.tables import TableLayout, annotate, find_tables, read_rows
from utils import InputError

SEGMENT_ID = re.compile(
    r"Sess(?P<session>\d{2})_(?P<script>(?:script|impro)\d{2})_(?P<speaker>[FM])(?P<sequence>\d{3})"
)
N_SESSIONS = 20
FOLDS = ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))
LAYOUT = TableLayout(start=1, end=2, segment=9, total=10)


class TableFile(NamedTuple):
    """One of a session's two annotation tables.

    It rates one actor's emotion over the whole session: in the rows of that actor's own utterances as the speaker, in
    those of the other's as the listener.
    """

    path: Path
    session: int
    actor: str  # F or M


class KEMDy19(Corpus):
    """ETRI's acted dialogues of 2019: 20 sessions, in each a female and a male actor."""

    name = "KEMDy19"
    example_id = "Sess01_script01_F001"
    example_table = "Session01_F_res.csv"
    table = re.compile(r"Session(?P<session>\d{2})_(?P<actor>[FM])_res\.csv", re.IGNORECASE)
    segment = SEGMENT_ID
    sessions = range(1, N_SESSIONS + 1)
    folds = FOLDS
    test_fold = FOLDS[0]
    tuning_fold = FOLDS[3]  # as the paper chose its parameters
    utterances = MappingProxyType({"speaker": 10_279, "listener": 10_285})

    def is_scripted(self, segment: SegmentId) -> bool:
        return segment.script.startswith("script")

    def read_tables(self, data_path: Path, problems: list[Problem]) -> list[list[dict[str, str | int]]]:
        found = find_tables(data_path, self, problems)
        files = [TableFile(path, int(match["session"]), match["actor"].upper()) for path, match in found]
        tables = {file: self.read_table(file, problems) for file in files}
        for session in sorted({file.session for file in files}):
            problems += half_rated({file: rows for file, rows in tables.items() if file.session == session})
        return [*tables.values()]

    def read_table(self, file: TableFile, problems: list[Problem]) -> list[dict[str, str | int]]:
        """Rows of one table as `tables.annotate` gives them, in the table's order; faults are added to `problems`.

        Raises
        ------
        InputError : as `tables.read_rows`, or more than a few ids are none of this session
        """
        rows, foreign = [], []
        for row in read_rows(file.path, LAYOUT, self):
            segment_id = self.parse_id(row.segment)
            if segment_id is None or segment_id.session != file.session:
                known = segment_id is not None
                what = "segment id of another session than its table" if known else "segment id that cannot be parsed"
                found = repr(row.segment)
                foreign.append(Problem(row.file, row.number, row.segment, what, found, "row left out"))
                continue
            role = "speaker" if segment_id.speaker == file.actor else "listener"
            rows.append(annotate(row, LAYOUT, segment_id, role, problems))
        if len(foreign) > max(1, MISSING_LIMIT * len(rows)):
            raise InputError(
                f"{file.path}, row {foreign[0].row}: segment id {foreign[0].found}, expected one such as "
                f"Sess{file.session:02d}_script01_F001; {len(foreign)} rows have no id of this session, "
                "is it another's table?"
            )
        problems += foreign
        if not rows:
            name = f"{file.path.parent.name}/{file.path.name}"
            problems.append(Problem(name, "", "", "table without rows", "", "nothing is taken from it"))
        return rows


def half_rated(tables: dict[TableFile, list[dict[str, str | int]]]) -> list[Problem]:
    """A problem if a session has one table of two, or for each utterance that only one of its two tables holds."""
    names = [f"{file.path.parent.name}/{file.path.name}" for file in tables]
    if len(tables) < 2:
        what, done = "session with one table of two", "half of its speaker and of its listener rows are lacking"
        return [Problem(names[0], "", "", what, "", done)]
    ids = [dict.fromkeys(str(row["Segment ID"]) for row in rows) for rows in tables.values()]
    what, done = "utterance that only one of its session's two tables holds", "it has a row of one role only"
    return [
        Problem(name, "", segment, what, "", done)
        for name, own, other in zip(names, ids, reversed(ids), strict=True)
        for segment in own
        if segment not in other
    ]
