"""Annotation: the utterances and labels of a pre-processed table, `df_speaker.csv` or `df_listener.csv`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from constants import AFFECT_RANGE, N_EMOTIONS, N_RATERS, ROLES
from corpora.labels import emotion_index, parse_emotions
from corpora.registry import CORPORA, corpus_of, preprocessed_corpora, preprocessed_corpus
from corpora.sessions import with_corpus
from utils import MAX_TABLE_BYTES, InputError, decode, read_bounded

VOTES = [f"Emotion.{rater}" for rater in range(1, N_RATERS + 1)]


@dataclass(frozen=True)
class Annotation:
    """N utterances in time order within a dialogue, and their labels, which are None where there are none.

    ids : N segment ids
    session : int64, or `KEMDy19:13` in several corpora (see `corpora.sessions`), shape = (N,)
    dialogue : int64, shape = (N,), equal for the utterances of one dialogue
    majority : float32 multi-hot majority label(s), shape = (N, 7)
    soft : float32 share of the raters' votes, shape = (N, 7)
    arousal, valence : float32, shape = (N,), 1 to 5
    text : N transcripts, None where there are none
    """

    ids: list[str]
    session: np.ndarray
    dialogue: np.ndarray
    majority: np.ndarray | None = None
    soft: np.ndarray | None = None
    arousal: np.ndarray | None = None
    valence: np.ndarray | None = None
    text: list[str] | None = None


def load_annotations(data_paths: Sequence[Path], role: str) -> Annotation:
    """The utterances of a role in pre-processed corpora, one corpus after the other.

    Raises
    ------
    InputError : two of the folders hold one corpus, or see `load_annotation`
    """
    parts = [load_annotation(path, role) for path in data_paths]
    if len(parts) == 1:
        return parts[0]
    corpora = preprocessed_corpora(data_paths)
    sessions = [with_corpus(corpus, part.session.tolist()) for corpus, part in zip(corpora, parts, strict=True)]
    n_dialogues = np.cumsum([0, *(part.dialogue.max() + 1 for part in parts)])
    texts = [part.text or [""] * len(part.ids) for part in parts]
    return Annotation(
        ids=[segment for part in parts for segment in part.ids],
        session=np.concatenate(sessions),
        dialogue=np.concatenate([part.dialogue + n for part, n in zip(parts, n_dialogues, strict=False)]),
        majority=np.concatenate([part.majority for part in parts]),
        soft=np.concatenate([part.soft for part in parts]),
        arousal=np.concatenate([part.arousal for part in parts]),
        valence=np.concatenate([part.valence for part in parts]),
        text=[text for of_part in texts for text in of_part] if any(part.text for part in parts) else None,
    )


def load_annotation(data_path: Path, role: str) -> Annotation:
    """The utterances of a role, "speaker" or "listener", in a pre-processed corpus.

    Raises
    ------
    InputError : there is no such folder, its corpus has no such role, or see `read_annotation`
    """
    if not data_path.is_dir():
        raise InputError(
            f"{data_path}: no such folder; pass --data_path, or put KEMDy19 there (data/README.md), or make the sample "
            "with 'python data/make_sample.py' and pass --data_path data/sample"
        )
    corpus = preprocessed_corpus(data_path)
    if role not in corpus.roles:
        raise InputError(
            f"--SorL {role}: {data_path} holds {corpus.name}, in which nobody is rated as {role}; it has "
            f"{' and '.join(corpus.roles)} rows alone"
        )
    return read_annotation(data_path / f"df_{role}.csv", role)


def read_annotation(path: Path, role: str | None = None) -> Annotation:
    """Read a `df_speaker.csv` or `df_listener.csv` of preprocessing.py, or a published one; rows keep their order.

    Raises
    ------
    InputError : it is missing, lacks a column, or a row holds what cannot be a segment id, a label or a rating, or is
        not of `role`
    """
    table = read_table(path)
    if role is not None:
        refuse_other_role(path, table, role)
    ids = table["Segment ID"].tolist()
    session, dialogue = read_ids(path, ids)
    majority, soft = np.zeros((2, len(ids), N_EMOTIONS), dtype=np.float32)
    affect = np.empty((2, len(ids)), dtype=np.float32)
    cells = table[["Emotion", "Arousal", "Valence", *VOTES]].itertuples(index=False, name=None)
    for row, (emotion, arousal, valence, *votes) in enumerate(cells):
        try:
            majority[row, parse_emotions(emotion)] = 1
            for vote in filter(str.strip, votes):
                soft[row, emotion_index(vote)] += 1
            affect[:, row] = float(arousal), float(valence)
            if not ((AFFECT_RANGE[0] <= affect[:, row]) & (affect[:, row] <= AFFECT_RANGE[1])).all():
                raise ValueError(f"arousal {arousal}, valence {valence}; expected 1 to 5")
            if not soft[row].any():
                raise ValueError(f"no rater's emotion in {VOTES[0]} to {VOTES[-1]}")
        except ValueError as error:
            raise InputError(f"{path}, row {row + 2} ({ids[row]}): {error}") from error
    soft /= soft.sum(axis=1, keepdims=True)
    text = table["text"].tolist() if "text" in table else None
    return Annotation(ids, session, dialogue, majority, soft, arousal=affect[0], valence=affect[1], text=text)


def read_table(path: Path) -> pd.DataFrame:
    """The cells of a table as text; `InputError` where it cannot be read, has no row or lacks a column."""
    try:
        text = decode(read_bounded(path, MAX_TABLE_BYTES), path)
        refuse_other_separator(path, text.partition("\n")[0])
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; run preprocessing.py --data_path {path.parent} first") from error
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path}: not readable as a CSV table ({error})") from error
    absent = [c for c in ("Segment ID", "Emotion", "Arousal", "Valence", *VOTES) if c not in table.columns]
    if absent:
        found = ", ".join(map(repr, table.columns[:3]))
        raise InputError(
            f"{path}: has no column {absent[0]!r}, its first ones are {found}; expected the columns that "
            "preprocessing.py writes, separated by commas"
        )
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what rows have beyond the header for row labels
        raise InputError(f"{path}: its rows have more cells than its header; expected a cell for each column")
    is_filled = (table != "").any(axis=1)
    if not is_filled.any():
        raise InputError(f"{path}: has no rows")
    n_rows = int(is_filled[::-1].idxmax()) + 1
    if n_rows < len(table):
        warnings.warn(f"{path}: {len(table) - n_rows} empty rows at its end, which are left out", stacklevel=3)
    return table[:n_rows]


def refuse_other_separator(path: Path, header: str) -> None:
    """Raise `InputError` where a spreadsheet has written semicolons or tabs in place of commas."""
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if header.count(separator) > header.count(","):
            raise InputError(
                f"{path}: its columns are separated by {name}, expected commas; save it with commas, or take the file "
                "that preprocessing.py wrote"
            )


def refuse_other_role(path: Path, table: pd.DataFrame, role: str) -> None:
    """Raise `InputError` where the column `role`, if the table has one, names another than the file's own."""
    if "role" not in table.columns:
        return
    found = table["role"].str.strip().str.lower()
    others = np.flatnonzero(found.isin([other for other in ROLES if other != role]))
    if len(others):
        first = others[0]
        raise InputError(
            f"{path}, row {first + 2} ({table['Segment ID'].iloc[first]}): role {found.iloc[first]!r}, expected "
            f"{role!r}; so it is in {len(others)} of {len(table)} rows: is it another role's table under this name?"
        )


def read_ids(path: Path, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Session and dialogue numbers of segment ids, both int64, shape = (N,).

    Warns where an utterance comes after later ones of its speaker, since windows follow the order of the rows.

    Raises
    ------
    InputError : one is not a segment id, is of another corpus than the first, or occurs twice
    """
    sessions, dialogues, backwards, seen = [], [], [], set()
    last: dict[tuple[str, str], int] = {}  # sequence number by dialogue and speaker
    corpus = corpus_of(ids[0]) or CORPORA[0]
    for row, segment in enumerate(ids):
        parts = corpus.parse_id(segment)
        if parts is None or segment in seen:
            found = f"expected an id such as {corpus.example_id}" if parts is None else "occurs twice"
            found = found if segment else f"{found}; is it an empty row?"
            raise InputError(f"{path}, row {row + 2}: segment id {segment!r}: {found}")
        seen.add(segment)
        sessions.append(parts.session)
        dialogues.append(parts.dialogue)
        if parts.sequence < last.get((parts.dialogue, parts.speaker), 0):
            backwards.append(segment)
        last[parts.dialogue, parts.speaker] = parts.sequence
    if backwards:
        warnings.warn(
            f"{path}: {len(backwards)} utterances such as {backwards[0]} come after later ones of their dialogue; "
            "windows follow the order of the file, so it should be the order of time",
            stacklevel=3,
        )
    return np.array(sessions, dtype=np.int64), pd.factorize(pd.Series(dialogues))[0]
