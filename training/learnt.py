"""Learnt: which sessions an encoder, or the weights that a run begins with, have learnt from, and may not be tested on.

They are dicts of sessions as text by corpus, `{"KEMDy19": "1-12,17-20"}`: in the configuration of an encoder that
finetune.py made, with its embeddings, and as `text_learnt`, `speech_learnt` and `init_learnt` in the data of a record.
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
    """By what the corpus of a record's `data` is known: its name, and the digest of its tables, which a copy keeps.

    The published program, whose data are empty, knew KEMDy19 alone.
    """
    version = data.get("version", "")
    return [data.get("corpus", KEMDY19.name), *([version] if version.startswith("tables ") else [])]


def add_learnt(learnt: Learnt | None, data: Mapping[str, Any], sessions: Iterable[int]) -> dict[str, str]:
    """`learnt`, and these sessions of the corpus of a record's `data`."""
    return merge_learnt(learnt, dict.fromkeys(corpus_keys(data), format_sessions(sessions)))


def merge_learnt(*parts: Learnt | None) -> dict[str, str]:
    """All that several have learnt from; None adds nothing."""
    found: dict[str, set[int]] = {}
    for corpus, sessions in (item for part in parts if part for item in part.items()):
        found.setdefault(corpus, set()).update(parse_sessions(sessions))
    return {corpus: format_sessions(sessions) for corpus, sessions in found.items()}


def learnt_text(learnt: Learnt) -> str:
    """In words, for people."""
    named = (corpus for corpus in learnt if not corpus.startswith("tables "))
    return ", ".join(f"sessions {learnt[corpus]} of {corpus}" for corpus in named)


def check_learnt(data: Mapping[str, Any], test_split: Iterable[int]) -> None:
    """Raise `InputError` where an encoder or the first weights of a record's `data` have learnt from a test session."""
    for part, what in PARTS.items():
        learnt = data.get(f"{part}_learnt") or {}
        for corpus in learnt.keys() & corpus_keys(data):
            if seen := {*test_split} & {*parse_sessions(learnt[corpus])}:
                found = f"{what.format(**data)} has learnt from {learnt_text(learnt)}"
                raise InputError(f"--test_split: {found}, among them {format_sessions(seen)}; test on others")
