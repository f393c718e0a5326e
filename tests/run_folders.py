"""Run folders without weights, in the form that main.py writes, for the tests of the reports."""

from pathlib import Path

import numpy as np
import pandas as pd

from constants import EMOTIONS
from corpora.sessions import format_sessions, training_sessions
from corpora.utterances import SHARES
from metric import MAIN_FIGURES, PREDICTION_COLUMNS, PROBABILITIES, figures
from reports.groups import figures_by_group
from reports.result import compute_result
from training.options import make_options
from training.record import make_record
from utils import write_csv, write_json

BATCH = 64
SESSIONS = range(1, 21)


def make_rows(sessions: list[int], skill: float, seed: int, dialogues: int = 4, windows: int = 6) -> pd.DataFrame:
    """Rows of predictions.csv; the labels depend on the sessions alone, the predictions also on `seed` and `skill`."""
    ids = [
        (session, f"Sess{session:02}_{kind}{number:02}", f"{'FM'[place % 2]}{place:03}")
        for session in sessions
        for number in range(dialogues)
        for kind in [("script", "impro")[number % 2]]
        for place in range(windows)
    ]
    table = pd.DataFrame(ids, columns=["session", "dialogue", "speaker"])
    rng, n = np.random.default_rng(sessions[0]), len(table)
    labels = np.eye(7)[rng.integers(0, 7, n)]
    labels[rng.random(n) < 0.2, 5] = 1
    targets = rng.integers(10, 51, (2, n)) / 10
    rng = np.random.default_rng([sessions[0], seed])
    skills = skill + rng.normal(size=n // windows)[np.arange(n) // windows]  # dialogues differ in how hard they are
    scores = np.exp(rng.normal(size=(n, 7)) + skills[:, None] * labels)
    same = {"corpus": "KEMDy19", "text": "", "seen": None, "lookup": None, "start": np.nan, "end": np.nan}
    rows = pd.DataFrame(index=table.index, columns=[*PREDICTION_COLUMNS]).assign(
        **same,
        segment_id=table["dialogue"] + "_" + table["speaker"],
        session=table["session"],
        dialogue=table["dialogue"],
        speaker=table["speaker"].str[0],
        true_emotion=[";".join(np.array(EMOTIONS)[row > 0]) for row in labels],
        scripted=table["dialogue"].str.contains("script"),
    )
    rows[SHARES] = (labels / labels.sum(axis=1, keepdims=True)).astype(np.float32)
    rows[[*PROBABILITIES]] = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    rows["pred_emotion"] = np.array(EMOTIONS)[rows[[*PROBABILITIES]].to_numpy().argmax(axis=1)]
    for name, target in zip(("arousal", "valence"), targets, strict=True):
        rows[f"true_{name}"] = target.astype(np.float32)
        rows[f"pred_{name}"] = np.clip(target + (rng.normal(size=n) + 0.3) / skill, 1, 5).astype(np.float32)
    return rows


def write_run(folder: Path, rows: pd.DataFrame, data: dict | None = None, **options) -> Path:
    """The folder of a finished run on the whole of KEMDy19 with these rows; `data` replaces parts of its record."""
    folder.mkdir(parents=True)
    write_csv(folder / "predictions.csv", rows)
    result = compute_result(rows, "neutral", BATCH)
    write_json(folder / "result.json", result | {"groups": figures_by_group(rows, "neutral")})
    loss = 1.5 - options.get("seed", 0) / 10
    pd.DataFrame({"epoch": [1, 2], "train_loss": [loss, loss / 2]}).to_csv(folder / "history.csv", index=False)
    options = make_options(**{"data_path": "data/KEMDy19", "epochs": 100, "batch_size": BATCH} | options)
    trained = training_sessions(SESSIONS, options.test_split, options.valid_split, options.train_split)
    facts = {"corpus": "KEMDy19", "version": "1.3", "synthetic": "no", "utterances": "10279"}
    facts |= {"table": f"df_{options.SorL}.csv 0123", "train_sessions": format_sessions(trained)}
    make_record(options, facts | (data or {}), {"torch": "2.11.0", "device": "cpu"}).write(folder)
    return folder


def make_run(folder: Path, skill: float = 2.0, **options) -> Path:
    """The folder of a finished run whose predictions depend on its seed, test sessions and `skill`."""
    rows = make_rows(options["test_split"], skill, options.get("seed", 0) + int(10 * skill))
    return write_run(folder, rows, **options)


def figures_of(rows: pd.DataFrame) -> np.ndarray:
    """`MAIN_FIGURES` of rows of a predictions.csv; shape = (6,)."""
    found = figures(rows)
    return np.array([found[name] for name in MAIN_FIGURES])
