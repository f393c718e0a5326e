"""Corpus: the interface that every corpus implements, and the parts of a segment id."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from corpora.tables import in_time_order
from utils import InputError

if TYPE_CHECKING:
    import pandas as pd

    from corpora.problems import Problem


class SegmentId(NamedTuple):
    """The parts of an utterance's segment id."""

    session: int
    dialogue: str  # "Sess01_script01", unique in the corpus
    speaker: str  # "F", unique in the dialogue
    sequence: int  # running number of the speaker's utterance in the dialogue
    script: str  # "script01", the dialogue within its session


class Corpus(ABC):
    """A corpus: one subclass per corpus, each in its own module and listed in `registry.CORPORA`.

    Attributes
    ----------
    name : as its publisher spells it
    example_id : a segment id, for error messages
    example_table : the name of an annotation table, for error messages
    table : the names of its annotation tables, with groups of what they say
    segment : what a segment id matches, with the groups session, script, speaker and sequence
    sessions : all session numbers
    folds : test sessions of each fold of the usual protocol
    test_fold : the one that is tested by default
    tuning_fold : the one on which options are chosen: a grid is tested there
    imbalanced : whether it is mostly of one emotion, so that macro F1 alone says something
    utterances : number of labelled utterances by role, as distributed; the keys are the corpus's roles
    """

    name: str
    example_id: str
    example_table: str
    table: re.Pattern[str]
    segment: re.Pattern[str]
    sessions: range
    folds: tuple[tuple[int, ...], ...]
    test_fold: tuple[int, ...]
    tuning_fold: tuple[int, ...]
    imbalanced: bool = False
    utterances: Mapping[str, int]

    @property
    def roles(self) -> tuple[str, ...]:
        """Whether a row rates the one who speaks ("speaker") or the one who listens: one df_<role>.csv each."""
        return tuple(self.utterances)

    def parse_id(self, segment: str) -> SegmentId | None:
        """The parts of a segment id; None if it is not an id of this corpus."""
        match = self.segment.fullmatch(segment)
        if match is None:
            return None
        return SegmentId(
            session=int(match["session"]),
            dialogue=f"Sess{match['session']}_{match['script']}",
            speaker=match["speaker"],
            sequence=int(match["sequence"]),
            script=match["script"],
        )

    def own(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Those of files by segment id that are this corpus's: `--audio_path` may hold several corpora's."""
        return {segment: path for segment, path in files.items() if self.parse_id(segment)}

    def is_scripted(self, segment: SegmentId) -> bool | None:
        """Whether a dialogue is acted from a script; None in a corpus that does not distinguish such dialogues."""
        return None

    def table_in(self, data_path: Path) -> str | None:
        """The name of the first of this corpus's annotation tables in a raw folder; None if it holds none."""
        folder = data_path / "annotation"
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return next((name for name in names if self.table.fullmatch(name)), None)

    @abstractmethod
    def read_tables(self, data_path: Path, problems: list[Problem]) -> list[list[dict[str, str | int]]]:
        """The rows of each annotation table as `tables.annotate` gives them, in the table's order.

        Faults of the tables are added to `problems`.

        Raises
        ------
        InputError : one of the tables cannot be read
        """

    def read_annotation(self, data_path: Path, problems: list[Problem]) -> pd.DataFrame:
        """All rows of all annotation tables, in time order within a dialogue, dialogues in the corpus's order.

        Returns
        -------
        DataFrame with `tables.COLUMNS` except `text`, and `file`, `row` (where a row stands) and `usable` (False
        without a usable total or vote). Faults of the tables are added to `problems`.

        Raises
        ------
        InputError : the tables hold no row, or one of them cannot be read
        """
        tables = self.read_tables(data_path, problems)
        if not any(tables):
            raise InputError(f"{data_path / 'annotation'}: its {len(tables)} tables hold no row")
        return in_time_order(tables)
