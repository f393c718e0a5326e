"""Learnt: the sessions that an encoder or initial weights were trained on, and that must not be tested on.

They are dicts of sessions as text by corpus, `{"KEMDy19": "1-12,17-20"}`: in the configuration of an encoder of
finetune.py, with its embeddings, and as `text_learnt`, `speech_learnt` and `init_learnt` in the data of a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from corpora.corpus import KEMDY19
from corpora.sessions import format_sessions, parse_sessions
from utils import InputError

Learnt = Mapping[str, str]
PARTS = {"text": "the text encoder {text_model}", "speech": "the speech encoder {speech_model}"}
PARTS |= {"init": "the run {init} of --init"}


def corpus_keys(data: Mapping[str, Any]) -> list[str]:
    """The names by which the corpus of a record's `data` is identified: its name, and the digest of its tables.

    The data of the published program are empty; its corpus is KEMDy19.
    """
    version = data.get("version", "")
    return [data.get("corpus", KEMDY19.name), *([version] if version.startswith("tables ") else [])]


def add_learnt(learnt: Learnt | None, data: Mapping[str, Any], sessions: Iterable[int]) -> dict[str, str]:
    """`learnt`, and these sessions of the corpus of a record's `data`."""
    return merge_learnt(learnt, dict.fromkeys(corpus_keys(data), format_sessions(sessions)))


def merge_learnt(*parts: Learnt | None) -> dict[str, str]:
    """All sessions of several dicts; None adds nothing."""
    found: dict[str, set[int]] = {}
    for corpus, sessions in (item for part in parts if part for item in part.items()):
        found.setdefault(corpus, set()).update(parse_sessions(sessions))
    return {corpus: format_sessions(sessions) for corpus, sessions in found.items()}


def learnt_text(learnt: Learnt) -> str:
    """The sessions as text for the user."""
    named = (corpus for corpus in learnt if not corpus.startswith("tables "))
    return ", ".join(f"sessions {learnt[corpus]} of {corpus}" for corpus in named)


def check_learnt(data: Mapping[str, Any], test_split: Iterable[int]) -> None:
    """Raise `InputError` if an encoder or the initial weights in a record's `data` were trained on a test session."""
    for part, what in PARTS.items():
        learnt = data.get(f"{part}_learnt") or {}
        for corpus in learnt.keys() & corpus_keys(data):
            if seen := {*test_split} & {*parse_sessions(learnt[corpus])}:
                found = f"{what.format(**data)} was trained on {learnt_text(learnt)}"
                raise InputError(f"--test_split: {found}, which include {format_sessions(seen)}; choose other sessions")
