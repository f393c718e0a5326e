"""Output: the table of what was predicted for a dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from constants import EMOTIONS
from prediction.predictor import Prediction
from prediction.utterance import Utterance
from utils import InputError, atomic_write


def prediction_table(utterances: Sequence[Utterance], prediction: Prediction, role: str, n_runs: int) -> pd.DataFrame:
    """A row per utterance: what is known of it, probabilities, the likeliest emotion, arousal and valence.

    With several runs, the standard deviation between them follows in columns that end with `_sd`. The column `of` says
    whose emotion it is.
    """
    columns = {}
    if any(u.id for u in utterances):
        columns["id"] = [u.id for u in utterances]
    columns |= {name: [getattr(u, name) for u in utterances] for name in ("start", "end", "speaker", "text")}
    columns |= {f"p_{name}": prediction.emotion[:, label] for label, name in enumerate(EMOTIONS)}
    columns |= {"emotion": prediction.labels, "arousal": prediction.arousal, "valence": prediction.valence, "of": role}
    if n_runs > 1:
        columns |= {f"p_{name}_sd": prediction.emotion_sd[:, label] for label, name in enumerate(EMOTIONS)}
        columns |= {"arousal_sd": prediction.arousal_sd, "valence_sd": prediction.valence_sd}
    return pd.DataFrame(columns)


def make_output(folder: Path) -> None:
    """Make the folder of the results; raises `InputError` where it exists or cannot be made."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise InputError(f"{folder}: exists already and is not overwritten; give another folder as --out") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give another folder as --out") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write the table as CSV, whole or not at all."""
    with atomic_write(path) as file:
        table.to_csv(file, index=False, float_format="%.6g")


def describe(table: pd.DataFrame, role: str, n_runs: int, folder: Path) -> str:
    """What was predicted, in a few lines for a terminal."""
    counts = table["emotion"].value_counts()
    of = f"the emotion of the {role}" + (", not of the one who speaks" if role == "listener" else "")
    runs = f", mean of {n_runs} runs" if n_runs > 1 else ""
    return "\n".join(
        [
            f"{len(table)} utterances: {of}{runs}",
            ", ".join(f"{name} {count}" for name, count in counts.items()),
            f"mean arousal {table['arousal'].mean():.2f}, mean valence {table['valence'].mean():.2f}, each from 1 to 5",
            f"table and page: {folder / 'predictions.csv'}, {folder / 'dialogue.html'}",
        ]
    )
