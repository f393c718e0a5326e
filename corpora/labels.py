"""Labels: emotions and ratings as annotation tables spell them."""

from __future__ import annotations

from constants import AFFECT_RANGE, EMOTION_ALIASES, EMOTIONS


def emotion_index(label: str) -> int:
    """Index in `EMOTIONS` of a label as tables spell it; raises `ValueError` if it is none of the seven."""
    name = label.strip().lower()
    name = EMOTION_ALIASES.get(name, name)
    if name not in EMOTIONS:
        raise ValueError(f"emotion {label!r}, expected one of {', '.join(EMOTIONS)}")
    return EMOTIONS.index(name)


def parse_emotions(cell: str) -> list[int]:
    """Indices of the label in a table's cell, or of several labels that tie, joined by `;`; `ValueError` as above."""
    return [emotion_index(label) for label in cell.split(";")]


def normalise_emotions(cell: str) -> str:
    """The label or tied labels of a cell as `EMOTIONS` spells them, each once; raises `ValueError` as above."""
    return ";".join(dict.fromkeys(EMOTIONS[label] for label in parse_emotions(cell)))


def normalise_vote(cell: str) -> str:
    """The single label of one rater as `EMOTIONS` spells it; raises `ValueError` as above, also for a tie."""
    return EMOTIONS[emotion_index(cell)]


def normalise_rating(cell: str) -> str:
    """A number from 1 to 5 in one spelling (`3.0` is `3`); raises `ValueError` if it is none."""
    if not AFFECT_RANGE[0] <= float(cell) <= AFFECT_RANGE[1]:
        raise ValueError(f"rating {cell!r}, expected 1 to 5")
    return f"{float(cell):.12g}"
