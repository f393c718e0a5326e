"""KEMDy20: its layout, segment ids, annotation tables, sessions and folds."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path
from types import MappingProxyType

from corpora.base import Corpus
from corpora.files import find_files
from corpora.problems import MISSING_LIMIT, Problem
from corpora.tables import TableLayout, TableRow, annotate, find_tables, read_rows
from utils import InputError

SEGMENT_ID = re.compile(
    r"Sess(?P<session>\d{2})_(?P<script>script\d{2})_(?P<speaker>User\d{3})[FM]_(?P<sequence>\d{3})"
)
N_SESSIONS = 40
FOLDS = tuple(tuple(range(first, first + 8)) for first in range(1, N_SESSIONS, 8))
LAYOUT = TableLayout(start=1, end=2, segment=3, total=4)


class KEMDy20(Corpus):
    """ETRI's free talk of 2020: 40 sessions, in each two speakers, perhaps of one sex, on six topics."""

    name = "KEMDy20"
    example_id = "Sess01_script01_User001F_001"
    example_table = "Sess01_eval.csv"
    table = re.compile(r"Sess(?P<session>\d{2})_eval\.csv", re.IGNORECASE)
    segment = SEGMENT_ID
    sessions = range(1, N_SESSIONS + 1)
    folds = FOLDS
    test_fold = tuning_fold = FOLDS[0]
    imbalanced = True  # 87% of it is neutral
    utterances = MappingProxyType({"speaker": 13_462})

    def read_tables(self, data_path: Path, problems: list[Problem]) -> list[list[dict[str, str | int]]]:
        files = find_tables(data_path, self, problems)
        present = find_files(data_path / "wav", ".wav").keys() | find_files(data_path / "wav", ".txt").keys()
        return [self.read_table(path, int(match["session"]), present, problems) for path, match in files]

    def read_table(
        self, path: Path, session: int, present: Container[str], problems: list[Problem]
    ) -> list[dict[str, str | int]]:
        """Rows of a session's table as `tables.annotate` gives them, in the table's order; faults go into `problems`.

        Parameters
        ----------
        present : ids that have a wav or a transcript; they say whether an id of another session is to be mended

        Raises
        ------
        InputError : as `tables.read_rows`, or more than a few ids are none of this session
        """
        rows, foreign = [], []
        for row in read_rows(path, LAYOUT, self):
            segment = self.mend_id(row.segment, session, present)
            if segment is None:
                foreign.append(self.foreign_row(row))
                continue
            if segment != row.segment:
                what, done = "segment id with another session's prefix", "read as the session of the table's name"
                problems.append(Problem(row.file, row.number, segment, what, repr(row.segment), done))
            mended = row._replace(segment=segment)
            rows.append(annotate(mended, LAYOUT, self.parse_id(segment), "speaker", problems))
        if len(foreign) > max(1, MISSING_LIMIT * len(rows)):
            raise InputError(
                f"{path}, row {foreign[0].row}: segment id {foreign[0].found}, expected one such as "
                f"Sess{session:02d}_script01_User001F_001; {len(foreign)} rows have no id of this session, "
                "is it another's table?"
            )
        problems += foreign
        if not rows:
            name = f"{path.parent.name}/{path.name}"
            problems.append(Problem(name, "", "", "table without rows", "", "nothing is taken from it"))
        return rows

    def mend_id(self, segment: str, session: int, present: Container[str]) -> str | None:
        """An id of a session's table, with the session's own prefix; None if it is no id, or one of another session.

        The first release's table of session 17 has another session's prefix, while its wavs and transcripts have its
        own. So a prefix is mended unless there are files of the id as it stands, and none of the mended one.
        """
        parts = self.parse_id(segment)
        if parts is None or parts.session == session:
            return segment if parts else None
        mended = f"Sess{session:02d}{segment[len('Sess00') :]}"
        return mended if mended in present or segment not in present else None

    def foreign_row(self, row: TableRow) -> Problem:
        """The problem of a row whose id is none of its table's session."""
        known = self.parse_id(row.segment) is not None
        what = "segment id of another session than its table" if known else "segment id that cannot be parsed"
        return Problem(row.file, row.number, row.segment, what, repr(row.segment), "row left out")
