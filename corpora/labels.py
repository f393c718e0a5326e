"""Labels: emotions and ratings as annotation tables spell them."""

from __future__ import annotations

from constants import AFFECT_RANGE, EMOTION_ALIASES, EMOTIONS


def emotion_index(label: str) -> int:
    """Index in `EMOTIONS` of a label as tables spell it; raises `ValueError` when it is none of the seven."""
    name = label.strip().lower()
    name = EMOTION_ALIASES.get(name, name)
    if name not in EMOTIONS:
        raise ValueError(f"emotion {label!r}, expected one of {', '.join(EMOTIONS)}")
    return EMOTIONS.index(name)


def parse_emotions(cell: str) -> list[int]:
    """Label indices of a table cell: one emotion, or several that tie, joined by `;`; `ValueError` as above."""
    return [emotion_index(label) for label in cell.split(";")]


def rating(cell: str) -> str:
    """A number from 1 to 5 in one spelling (`3.0` is `3`); raises `ValueError` otherwise."""
    if not AFFECT_RANGE[0] <= float(cell) <= AFFECT_RANGE[1]:
        raise ValueError(f"rating {cell!r}, expected 1 to 5")
    return f"{float(cell):.12g}"


def emotions(cell: str) -> str:
    """The label or labels of a cell in `constants.EMOTIONS`' spelling; raises `ValueError` otherwise."""
    return ";".join(dict.fromkeys(EMOTIONS[label] for label in parse_emotions(cell)))


def vote(cell: str) -> str:
    """The label of a rater, who has one vote; raises `ValueError` otherwise."""
    return EMOTIONS[emotion_index(cell)]
