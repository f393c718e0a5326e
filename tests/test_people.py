"""People: each rater against the others, recomputed by scikit-learn and numpy, their interval, and their agreement."""

from collections import Counter
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from windows import ccc, make_utterances

from constants import EMOTIONS
from metric import AFFECT, WHOLE_FIGURES, bootstrap, dialogue_sums
from reports.people import agreement, answers_of, figures_of_people
from utils import write_json

RATERS = range(1, 11)


@pytest.fixture(scope="module")
def table():
    """Utterances with single ratings, of which some are blank and one has a single rater; read only."""
    table = make_utterances((1, 2, 3)).iloc[5:]
    table.loc[table.index[3:6], ["Emotion.2", "Arousal.2", "Valence.2"]] = np.nan
    table.loc[table.index[7], ["Arousal.5"]] = np.nan
    table.loc[table.index[9], [f"Emotion.{rater}" for rater in RATERS if rater != 4]] = np.nan
    return table


def against_the_others(table, rater):
    """Of each utterance that a rater rated: the others' majority labels, mean arousal and valence, and the answers."""
    found = []
    for row in table.to_dict("records"):
        votes = Counter(row[f"Emotion.{n}"] for n in RATERS if n != rater and not pd.isna(row[f"Emotion.{n}"]))
        own = [row[f"{name}.{rater}"] for name in ("Emotion", "Arousal", "Valence")]
        if votes and not pd.isna(own).any():
            labels = [emotion for emotion in EMOTIONS if votes[emotion] == max(votes.values())]
            means = [np.nanmean([row[f"{n}.{r}"] for r in RATERS if r != rater]) for n in ("Arousal", "Valence")]
            found.append((";".join(labels), *means, *own))
    columns = ["true_emotion", "true_arousal", "true_valence", "pred_emotion", "pred_arousal", "pred_valence"]
    return pd.DataFrame(found, columns=columns)


def test_each_rater_is_compared_with_the_majority_and_the_mean_of_the_others(table):
    found, each, together = figures_of_people(table), [], []
    for rater in RATERS:
        answers = against_the_others(table, rater)
        single = answers[answers["true_emotion"].isin(EMOTIONS)]
        true, own = single["true_emotion"], single["pred_emotion"]
        scores = [f1_score(true, own, average=kind) for kind in ("weighted", "macro")] + [accuracy_score(true, own)]
        each.append([*scores, *(ccc(answers[f"pred_{name}"], answers[f"true_{name}"]) for name in AFFECT)])
        together.append(single)
    assert (found["n_raters"], found["n"]) == (10, len(table))
    for name, value in (("mean", np.mean(each, 0)), ("least", np.min(each, 0)), ("best", np.max(each, 0))):
        assert [*found[name].values()] == pytest.approx(value, abs=6e-5), name
    together = pd.concat(together)
    true, own = together["true_emotion"], together["pred_emotion"]
    np.testing.assert_array_equal(found["confusion"], confusion_matrix(true, own, labels=EMOTIONS))
    by_class = dict(zip(EMOTIONS, f1_score(true, own, average=None, labels=EMOTIONS), strict=True))
    assert found["classes"] == pytest.approx(by_class, abs=6e-5)


def test_the_interval_is_over_dialogues_and_of_the_mean_over_raters():
    table = make_utterances((1, 2, 3))
    rows = [answers_of(table, rater).join(table[["corpus", "dialogue"]]) for rater in RATERS]
    bounds = bootstrap([np.stack([dialogue_sums(answers) for answers in rows], axis=1)])
    for name, interval in figures_of_people(table)["intervals"].items():
        assert interval == pytest.approx(bounds.loc[name, ["low", "high"]].tolist(), abs=6e-5)


def alpha_by_definition(data, distance):
    """1 - observed / expected disagreement, over the pairs of ratings of each unit (rows are raters)."""
    units = [unit[~np.isnan(unit)] for unit in data.T]
    units = [unit for unit in units if len(unit) > 1]
    values = np.concatenate(units)
    observed = sum(sum(distance(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units)
    expected = sum(distance(a, b) for a, b in permutations(values, 2)) / (len(values) - 1)
    return 1 - observed / expected


def test_alpha_is_that_of_its_definition(table):
    emotions = np.array([table[f"Emotion.{rater}"].map({e: i for i, e in enumerate(EMOTIONS)}) for rater in RATERS])
    found = alpha_by_definition(emotions, lambda a, b: a != b)
    assert agreement(table, "Emotion") == pytest.approx(found, abs=6e-5)
    arousal = np.array([table[f"Arousal.{rater}"] for rater in RATERS])
    found = alpha_by_definition(arousal, lambda a, b: (a - b) ** 2)
    assert agreement(table, "Arousal") == pytest.approx(found, abs=6e-5)


def test_where_there_are_no_people_to_compare_there_are_no_figures(table, tmp_path):
    assert figures_of_people(table.drop(columns="Arousal.10")) is None
    assert figures_of_people(table.assign(**{f"Emotion.{rater}": np.nan for rater in range(2, 11)})) is None
    alike = table.assign(**{f"Emotion.{rater}": "sad" for rater in RATERS})
    found = figures_of_people(alike[alike["dialogue"] == alike["dialogue"].iloc[0]])
    assert (found["mean"]["accuracy"], found["alpha"]["emotion"]) == (1, None)
    assert found["intervals"] == dict.fromkeys(WHOLE_FIGURES)  # of one dialogue
    of_few = {
        f"{name}.3": table[f"{name}.3"].where(table["session"] == 1) for name in ("Emotion", "Arousal", "Valence")
    }
    assert figures_of_people(table.assign(**of_few))["n_raters"] == 9
    tied = table.assign(**{f"Emotion.{rater}": ("sad", "happy", "fear")[rater % 3] for rater in RATERS})
    blank = {f"Emotion.{rater}": np.nan for rater in range(4, 11)}
    found = figures_of_people(tied.assign(**blank))  # each against two who differ: no window has one majority
    assert found["mean"]["macro_f1"] is None
    assert found["classes"] == {}
    write_json(tmp_path / "result.json", found)
