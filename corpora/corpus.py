"""Corpora: the description of each known corpus, and how the corpus of a folder is found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from corpora.corpus_json import read_corpus_json
from utils import InputError

MANIFEST = "manifest.csv"  # in the raw folder of a user's own corpus, see corpora/manifest.py
N_FOLDS = 5  # of a user's own corpus


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus. To add one, list it in `CORPORA` and handle what is special in its tables in `tables.read_annotation`.

    In its annotation tables start and end are columns 1 and 2, counted from 0. The segment id is followed by the total
    emotion, valence and arousal, and then by the emotion, valence and arousal of each rater.
    """

    name: str  # as published
    example_id: str  # a segment id, for error messages
    example_table: str  # the name of an annotation table, for error messages
    table: re.Pattern[str]  # pattern of the names of its annotation tables, with the group `session`
    id_column: int  # column of the segment id, from 0, used if the header does not name it
    segment: re.Pattern[str]  # pattern of segment ids, with the groups session, script, speaker and sequence
    folds: tuple[tuple[int, ...], ...]  # test sessions of each fold of the usual protocol; the first by default
    tuning_fold: tuple[int, ...]  # fold on which a grid of options is tested
    utterances: Mapping[str, int]  # number of labelled utterances by role, as distributed
    imbalanced: bool = False  # mostly one emotion: macro F1 is shown before accuracy
    improvised: bool = False  # has improvised and scripted dialogues, as `script` in the ids shows
    is_own: bool = False  # a user's own corpus, read from a manifest

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are rated, "speaker" or also "listener"; each has its df_<role>.csv."""
        return tuple(self.utterances)

    @property
    def next_fold(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """The fold after each fold; after the last comes the first."""
        return dict(zip(self.folds, self.folds[1:] + self.folds[:1], strict=True))


def _folds(n_sessions: int, size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(range(first, first + size)) for first in range(1, n_sessions + 1, size))


KEMDY19 = Corpus(  # ETRI's acted dialogues of 2019: in each session a female and a male actor
    name="KEMDy19",
    example_id="Sess01_script01_F001",
    example_table="Session01_F_res.csv",
    table=re.compile(r"Session(?P<session>\d{2})_(?P<actor>[FM])_res\.csv", re.IGNORECASE),
    id_column=9,
    segment=re.compile(
        r"Sess(?P<session>\d{2})_(?P<script>(?:script|impro)\d{2})_(?P<speaker>[FM])(?P<sequence>\d{3})"
    ),
    folds=_folds(20, 4),
    tuning_fold=(13, 14, 15, 16),  # as the paper chose its parameters
    utterances={"speaker": 10_279, "listener": 10_285},
    improvised=True,
)
KEMDY20 = Corpus(  # ETRI's free talk of 2020: in each session two speakers talk about six topics
    name="KEMDy20",
    example_id="Sess01_script01_User001F_001",
    example_table="Sess01_eval.csv",
    table=re.compile(r"Sess(?P<session>\d{2})_eval\.csv", re.IGNORECASE),
    id_column=3,
    segment=re.compile(
        r"Sess(?P<session>\d{2})_(?P<script>script\d{2})_(?P<speaker>User\d{3})[FM]_(?P<sequence>\d{3})"
    ),
    folds=_folds(40, 8),
    tuning_fold=tuple(range(1, 9)),
    utterances={"speaker": 13_462},
    imbalanced=True,  # 87% of it is neutral
)
CORPORA = (KEMDY19, KEMDY20)


def own_corpus(name: str, sessions: Sequence[int] = (1,)) -> Corpus:
    """The corpus of a manifest; its folds are up to five groups of consecutive sessions."""
    parts = np.array_split(sorted(sessions), min(N_FOLDS, len(sessions)))
    folds = tuple(tuple(part.tolist()) for part in parts)
    settings = {"folds": folds, "tuning_fold": folds[0], "utterances": {"speaker": 0}}
    return replace(KEMDY20, name=name, imbalanced=False, is_own=True, **settings)


def corpus_by_name(name: str) -> Corpus | None:
    """The known corpus of this name; None if it is not known."""
    return next((corpus for corpus in CORPORA if corpus.name == name), None)


def corpus_of_id(segment: str) -> Corpus | None:
    """The known corpus whose segment ids look like this one; None if there is none."""
    return next((corpus for corpus in CORPORA if corpus.segment.fullmatch(segment)), None)


def corpus_of(data_path: Path) -> Corpus:
    """The corpus of a preprocessed folder, from corpus.json, or for published files from an id in df_speaker.csv.

    KEMDy19 if neither exists; `read_utterances` then reports the error. `InputError`: corpus.json is damaged.
    """
    content = read_corpus_json(data_path)
    if content and "sessions" in content:
        return own_corpus(content["corpus"], content["sessions"])
    if content and (corpus := corpus_by_name(content["corpus"])):
        return corpus
    try:
        first = pd.read_csv(data_path / "df_speaker.csv", nrows=1, dtype=str, encoding_errors="replace")
        return corpus_of_id(str(first["Segment ID"].iloc[0])) or KEMDY19
    except (OSError, ValueError, LookupError):
        return KEMDY19


def corpus_in(data_path: Path) -> Corpus:
    """The corpus of a raw folder, from the names of its tables; `InputError` if there are none."""
    if not data_path.is_dir():
        raise InputError(f"{data_path}: no such folder; see docs/data.md for where to put a corpus")
    if (data_path / MANIFEST).is_file():
        name = data_path.resolve().name
        return own_corpus(f"own {name}" if corpus_by_name(name) else name)
    folder = data_path / "annotation"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for corpus in CORPORA:
        if any(map(corpus.table.fullmatch, names)):
            return corpus
    tables = " or ".join(corpus.example_table for corpus in CORPORA)
    expected = f"expected annotation/ and wav/, or {MANIFEST}, in {data_path}"
    raise InputError(f"{folder}: no annotation table such as {tables}; {expected}")


def parts_of_ids(ids: pd.Series, corpus: Corpus) -> pd.DataFrame:
    """Session, speaker, script, sequence and dialogue of segment ids, as text; NaN for an id of another form."""
    parts = ids.str.extract(f"^(?:{corpus.segment.pattern})\\Z")
    dialogue = "Sess" + parts["session"] + "_" + parts["script"]
    session = parts["session"].str.lstrip("0")
    return parts.assign(Session=session, dialogue=dialogue).drop(columns="session")
