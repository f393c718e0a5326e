"""How often the interval of a difference between two equal settings excludes 0; it should be 5%.

    python tests/null_simulation.py  # a minute

All runs predict the same synthetic windows. Each run has its own skill, preference for emotions, and scale and shift of
arousal and valence. These are so large that intervals over dialogues alone exclude 0 as often as for real runs.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parent.parent))

from constants import EMOTIONS
from metric import AFFECT, HEADINGS, MAIN_FIGURES, bootstrap, dialogue_sums, seed_interval

SEEDS, DRAWS = (3, 5, 10), 500  # runs of a setting, and comparisons of each number of them
DIALOGUES, WINDOWS = 32, 40  # tested dialogues, and windows of each
PRIOR = np.log([0.03, 0.1, 0.1, 0.04, 0.08, 0.5, 0.15])
SCALE = np.repeat([1, 0.5], [7, 2])  # of scores of the emotions, of arousal and valence
OF_RUN = np.repeat([0.15, 0.06, 0.09], [7, 1, 1])  # standard deviations over runs


def draw_pairs(rng: np.random.Generator, seeds: int) -> np.ndarray:
    """The `dialogue_sums` of two settings on new windows; shape = (32, seeds, 2, 36)."""

    def normal(scale: float, n: int) -> np.ndarray:
        """Normal values of each of `n` dialogues or windows, repeated for every window; shape = (1280, 9)."""
        return np.repeat(rng.normal(size=(n, 9)) * scale * SCALE, DIALOGUES * WINDOWS // n, axis=0)

    n = DIALOGUES * WINDOWS
    truth = normal(0.5, DIALOGUES) + np.hstack([PRIOR + rng.gumbel(size=(n, 7)), 3 + 0.7 * rng.normal(size=(n, 2))])
    emotion, affect, errors, sums = truth[:, :7].argmax(axis=1), truth[:, 7:], normal(0.9, n), []
    columns = [f"{side}_{name}" for side in ("true", "pred") for name in AFFECT]
    for _ in range(2 * seeds):
        of_run, noise = rng.normal(size=9) * OF_RUN, errors + normal(0.6, n) + normal(0.3, DIALOGUES)
        skill, scale = 2 + 0.3 * rng.normal() * OF_RUN[0], 0.6 * np.exp(rng.normal(size=2) * OF_RUN[7:])
        scores = PRIOR + skill * np.eye(7)[emotion] + of_run[:7] + noise[:, :7]
        predicted = 3 + scale * (affect - 3) + of_run[7:] / 2 + noise[:, 7:]
        rows = pd.DataFrame(np.hstack([affect, predicted]), columns=columns)
        rows = rows.assign(corpus="", dialogue=np.arange(n) // WINDOWS, true_emotion=np.take(EMOTIONS, emotion))
        sums.append(dialogue_sums(rows.assign(pred_emotion=np.take(EMOTIONS, scores.argmax(axis=1)))))
    return np.stack(sums, axis=1).reshape(DIALOGUES, seeds, 2, -1)


def simulate(seeds: int, draws: int) -> pd.DataFrame:
    """The share of intervals that exclude 0, over dialogues and over both (seeds and dialogues), for each figure."""
    rng, excluded = np.random.default_rng(0), np.zeros((2, len(MAIN_FIGURES)))
    for _ in range(draws):
        pairs = [draw_pairs(rng, seeds)]
        intervals = bootstrap(pairs, 999), seed_interval(pairs)
        excluded += [(found["low"] > 0) | (found["high"] < 0) for found in intervals]
    return pd.DataFrame(excluded.T / draws, [HEADINGS[name] for name in MAIN_FIGURES], ["dialogues", "both"])


if __name__ == "__main__":
    for n in SEEDS:
        print(f"\n{n} seeds\n{simulate(n, DRAWS).map('{:.1%}'.format)}", flush=True)
