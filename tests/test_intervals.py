import numpy as np
import pytest
from compared_runs import predictions, recompute_main_figures
from finished_runs import make_run

from corpora.kemdy19 import FOLDS
from metric import MAIN_FIGURES
from reports.intervals import mean_intervals, sums_of_runs
from reports.runs import read_run


def test_the_interval_is_that_of_dialogues_drawn_again_window_by_window(pairs):
    folders = [pair.a for pair in pairs[:2]]  # two seeds of one fold
    found = mean_intervals([sums_of_runs([read_run(folder) for folder in folders])])
    rng, draws = np.random.default_rng(1), []
    by_run = [predictions(folder) for folder in folders]
    dialogue = by_run[0]["segment_id"].str.rpartition("_")[0]
    members = [np.flatnonzero(dialogue == name) for name in dialogue.unique()]
    for _ in range(400):
        rows = np.concatenate([members[at] for at in rng.integers(0, len(members), len(members))])
        draws.append(np.mean([recompute_main_figures(windows.iloc[rows]) for windows in by_run], axis=0))
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    assert list(found.index) == [*MAIN_FIGURES]
    width = high - low
    np.testing.assert_array_less(abs(found["low"] - low), 0.3 * width)
    np.testing.assert_array_less(abs(found["high"] - high), 0.3 * width)


@pytest.mark.parametrize("ids", ["Sess01_script01_F{:03}", "S01_{:03}"])
def test_a_single_dialogue_or_an_unknown_corpus_has_no_interval(ids, tmp_path):
    run = read_run(make_run(tmp_path / "run", "speaker", FOLDS[0], 0))
    assert mean_intervals([sums_of_runs([run])]).notna().all(axis=None)
    sums = sums_of_runs([run._replace(ids=[ids.format(place) for place in range(len(run.ids))])])
    assert sums is None or mean_intervals([sums])[["low", "high"]].isna().all(axis=None)


def test_runs_of_other_windows_have_no_interval_of_their_mean(tmp_path):
    runs = [read_run(make_run(tmp_path / f"{n}", "speaker", FOLDS[n], 0)) for n in range(2)]
    assert sums_of_runs(runs) is None
