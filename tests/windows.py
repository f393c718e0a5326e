"""Tables of utterances and predictions without a corpus or a model, for the tests of figures, results and pages."""

import numpy as np
import pandas as pd

from constants import EMOTIONS
from corpora.utterances import SHARES
from reports.predictions import predictions_table

TEXTS = ("나는 안 간다.", "응", "", "b/ 그래 알았어, 응!", "처음 듣는 말 {}")


def ccc(prediction, target):
    """The concordance correlation coefficient of two arrays, from numpy's variances; 0 if either is constant."""
    p, t = (np.asarray(values, dtype=np.float64).ravel() for values in (prediction, target))
    return 2 * np.cov(p, t, bias=True)[0, 1] / (p.var() + t.var() + (p.mean() - t.mean()) ** 2 or 1.0)


def make_utterances(sessions=(1, 2), dialogues=2, windows=8, seed=0, corpus="KEMDy19"):
    """A table as `read_utterances` returns it: in each session `dialogues` scripted and as many improvised ones."""
    kinds = ("script", "impro") if corpus == "KEMDy19" else ("script",)
    rows = [
        {
            "id": f"Sess{session:02}_{kind}{number:02}_{'FM'[place % 2]}{place:03}",
            "corpus": corpus,
            "session": session,
            "dialogue": f"Sess{session:02}_{kind}{number:02}",
            "speaker": "FM"[place % 2],
            "sequence": place,
            "scripted": kind == "script" if corpus == "KEMDy19" else None,
            "start": 30 + 2.5 * place,
            "end": 32 + 2.5 * place,
        }
        for session in sessions
        for kind in kinds
        for number in range(1, dialogues + 1)
        for place in range(windows)
    ]
    rng, n = np.random.default_rng([seed, len(corpus), *sessions]), len(rows)
    votes = rng.multinomial(10, np.eye(7)[rng.choice(7, n, p=(0.02, 0.1, 0.1, 0.03, 0.1, 0.5, 0.15))] * 0.6 + 0.4 / 7)
    table = pd.DataFrame(rows).astype({"scripted": object})
    table["text"] = [TEXTS[kind].format(row) for row, kind in enumerate(rng.integers(len(TEXTS), size=n))]
    majority = votes == votes.max(axis=1, keepdims=True)
    table["emotion"] = [";".join(np.array(EMOTIONS)[labels]) for labels in majority]
    for name in ("arousal", "valence"):
        table[name] = (rng.integers(10, 51, n) / 10).astype(np.float32)
    table[SHARES] = (votes / 10).astype(np.float32)
    return table.join(single_ratings(table, votes, rng))


def single_ratings(table, votes, rng):
    """The ratings of each of ten raters, Emotion.1 and so on, whose shares and means are those of the table."""
    columns = {}
    for name, of_each in (
        ("Emotion", [np.repeat(EMOTIONS, counts) for counts in votes]),
        ("Arousal", [spread(mean) for mean in table["arousal"]]),
        ("Valence", [spread(mean) for mean in table["valence"]]),
    ):
        by_rater = np.array([rng.permutation(ratings) for ratings in of_each]).T
        columns |= {f"{name}.{rater}": ratings for rater, ratings in enumerate(by_rater, start=1)}
    return pd.DataFrame(columns)


def spread(mean):
    """Ten whole ratings from 1 to 5 with a mean, of tenths: half of the raters at each side of it."""
    width, total = min(1, mean - 1, 5 - mean), round(10 * mean)
    ratings = np.full(10, total // 10, dtype=np.float32)
    ratings[: total % 10] += 1
    return ratings + np.repeat([-1, 1], 5).astype(np.float32) * (width == 1)


def make_arrays(table, skill=2.0, seed=0):
    """Arrays as `engine.evaluate` returns them; the larger `skill`, the closer to the truth."""
    rng = np.random.default_rng(seed)
    scores = np.exp(rng.normal(size=(len(table), 7)) + skill * 2 * table[SHARES].to_numpy())
    arrays = {"emotion_pred": (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)}
    for name in ("arousal", "valence"):
        noisy = table[name] + rng.normal(size=len(table)) / skill
        arrays[f"{name}_pred"] = noisy.clip(1, 5).to_numpy(np.float32)
    return arrays


def make_rows(skill=2.0, seed=0, **table):
    """Rows of the predictions.csv of a test, with session 9 as training."""
    tested = make_utterances(**table)
    return predictions_table(tested, range(len(tested)), make_arrays(tested, skill, seed), make_utterances((9,)))
