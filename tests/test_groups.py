"""Groups of a test: the windows of each label, their figures and baselines."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score
from windows import ccc, make_arrays, make_rows, make_utterances

from constants import EMOTIONS
from corpora.utterances import SHARES
from metric import WHOLE_FIGURES, bootstrap, dialogue_sums
from reports.groups import GROUPS, MIN_DIALOGUES, MIN_WINDOWS, figures_by_group
from reports.predictions import predictions_table


@pytest.fixture(scope="module")
def rows():
    """96 windows of 12 dialogues of three sessions, 1 to 8 s long; read only."""
    table = make_utterances((1, 2, 3))
    table["end"] = table["start"] + np.random.default_rng(0).choice([1.0, 1.99, 2.0, 4.99, 5.0, 8.0], len(table))
    table.loc[4, ["start", "end"]] = np.nan
    return predictions_table(table, range(len(table)), make_arrays(table), make_utterances((9,)))


def duration(row):
    seconds = row["end"] - row["start"]
    return None if np.isnan(seconds) else "under 2 s" if seconds < 2 else "2 to 5 s" if seconds < 5 else "5 s and over"


def agreement(row):
    votes = max(round(10 * row[name]) for name in SHARES)
    return "up to 50%" if votes <= 5 else "50 to 70%" if votes <= 7 else "over 70%"


EXPECTED = {
    "dialogue type": lambda row: "scripted" if "_script" in row["segment_id"] else "improvised",
    "sentence": lambda row: {True: "in training", False: "not in training"}.get(row["seen"], "under five letters"),
    "session": lambda row: f"session {row['segment_id'][4:6]}",
    "speaker's sex": lambda row: {"F": "female", "M": "male"}[row["segment_id"][-4]],
    "speaker": lambda row: f"session {row['segment_id'][4:6]}, {row['segment_id'][-4]}",
    "duration": duration,
    "position": lambda row: "first seven utterances" if int(row["segment_id"][-3:]) < 7 else "later",
    "rater agreement": agreement,
}


def test_each_window_is_in_the_group_of_its_id_times_and_votes(rows):
    assert EXPECTED.keys() == GROUPS.keys()
    for name, label_of in EXPECTED.items():
        found = pd.Series(GROUPS[name](rows), rows.index).astype(object)
        assert found.where(found.notna(), None).tolist() == [label_of(row) for row in rows.to_dict("records")], name


def test_ids_have_the_sex_only_in_etris_corpora():
    rows = make_rows(corpus="KEMDy20")
    ids = rows["dialogue"] + "_User0" + np.resize(["01F", "12M"], len(rows)) + "_007"
    rows = rows.assign(segment_id=ids)
    assert GROUPS["speaker's sex"](rows).tolist() == [*np.resize(["female", "male"], len(rows))]
    assert GROUPS["speaker's sex"](rows.assign(segment_id=[f"call_F{n:03}" for n in range(len(rows))])).isna().all()


def test_the_figures_of_a_group_are_those_of_its_windows_and_one_too_small_has_none(rows):
    groups, has_figures = figures_by_group(rows, "neutral"), []
    assert groups.keys() == EXPECTED.keys()
    for name, label_of in EXPECTED.items():
        labels = pd.Series([label_of(row) for row in rows.to_dict("records")])
        assert groups[name].keys() == {*labels.dropna()}
        for label, found in groups[name].items():
            own = rows[labels == label]
            single = own[own["true_emotion"].isin(EMOTIONS)]
            counts = {"n": len(own), "n_single_label": len(single), "dialogues": own["dialogue"].nunique()}
            assert {key: found[key] for key in counts} == counts
            has_figures.append(len(single) >= MIN_WINDOWS and counts["dialogues"] >= MIN_DIALOGUES)
            if not has_figures[-1]:
                assert found == counts
                continue
            baselines = {"majority": ["neutral"] * len(single), "lookup": single["lookup"]}
            for of, answers in ({None: single["pred_emotion"]} | baselines).items():
                scores = {
                    f"{kind}_f1": f1_score(single["true_emotion"], answers, average=kind)
                    for kind in ("macro", "weighted")
                }
                scores["accuracy"] = accuracy_score(single["true_emotion"], answers)
                assert {key: found.get(of, found)[key] for key in scores} == pytest.approx(scores, abs=6e-5)
            assert found["ccc_arousal"] == pytest.approx(ccc(own["pred_arousal"], own["true_arousal"]), abs=6e-5)
            bounds = bootstrap([dialogue_sums(own)[:, None]])
            for figure in WHOLE_FIGURES:
                assert found["intervals"][figure] == pytest.approx([*bounds.loc[figure, ["low", "high"]]], abs=6e-5)
    assert {*has_figures} == {True, False}


def test_windows_with_several_labels_do_not_make_a_group_large_enough(rows):
    of_session, single = rows["session"] == 2, rows["true_emotion"].isin(EMOTIONS)
    for n, has_figures in ((MIN_WINDOWS, True), (MIN_WINDOWS - 1, False)):
        is_tied = of_session & ((of_session & single).cumsum() > n)
        found = figures_by_group(rows.assign(true_emotion=rows["true_emotion"].mask(is_tied, "sad;happy")), "neutral")
        assert found["session"]["session 02"]["n_single_label"] == n
        assert ("ccc_arousal" in found["session"]["session 02"]) == has_figures


def test_groups_that_a_test_lacks_are_left_out(rows):
    found = figures_by_group(rows[rows["dialogue"] == rows["dialogue"][0]].assign(seen=None, lookup=None), "neutral")
    assert found.keys() == {"speaker's sex", "speaker", "duration", "position", "rater agreement"}
    untimed = figures_by_group(rows.assign(start=np.nan, end=np.nan), "neutral")
    assert untimed.keys() == EXPECTED.keys() - {"duration"}
