import json
import re
from pathlib import Path

import numpy as np
import pytest
from compared_runs import NAMES, make_arrays, make_ids, predictions, recompute_main_figures
from finished_runs import finished_run

from corpora.kemdy19 import FOLDS
from reports.comparison import compare, figures
from reports.pairs import dialogue_sums, read_windows
from reports.runs import read_run
from utils import InputError


def test_sums_are_by_dialogue(pairs):
    assert read_run(pairs[0].a).ids == make_ids(FOLDS[0], 4, 6)
    sums = dialogue_sums(read_windows(pairs[0].a, "speaker", FOLDS[0]))
    windows = predictions(pairs[0].a)
    assert sums.shape == (16, 62)
    for of_dialogue, (_, rows) in zip(sums, windows.groupby(windows["segment_id"].str[:-5]), strict=True):
        assert of_dialogue[0] == len(rows) == 6
        np.testing.assert_allclose(figures(of_dialogue), recompute_main_figures(rows), atol=1e-9)


# What cannot be compared


def edit_predictions(change):
    """A damage that changes the frame of predictions.csv."""

    def damage(folder: Path) -> None:
        change(predictions(folder)).to_csv(folder / "predictions.csv", index=False)

    return damage


def set_cell(row: int, column: str, value):
    return edit_predictions(
        lambda windows: windows.assign(**{column: windows[column].where(windows.index != row, value)})
    )


def configure(**values):
    def damage(folder: Path) -> None:
        path = folder / "configuration.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


A, B = "speaker-1-0-0/predictions.csv", "b/predictions.csv"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (set_cell(0, "segment_id", "Sess04_impro03_F999"), (A, B, r"\w+_F000|\w+_F999", "same corpus")),
        (set_cell(7, "emotion", "disgust;fear"), (A, B, "Sess01_impro01_M001", "disgust;fear, arousal")),
        (set_cell(8, "arousal", 4.95), (A, B, "Sess01_impro01_F002", "arousal 4.95")),
        (set_cell(9, "valence", 1.05), (A, B, "Sess01_impro01_M003", "valence 1.05")),
        (set_cell(0, "segment_id", "Sess01_impro00_M001"), (B, "Sess01_impro00_M001", "occurs twice")),
        (set_cell(3, "segment_id", "id3"), (B, "'id3'", "expected an id such as Sess01_script01_F001")),
        (edit_predictions(lambda windows: windows.drop(columns="segment_id")), (B, "has no column segment_id")),
        (lambda folder: (folder / "predictions.csv").unlink(), (B, "not found")),
        (configure(SorL="listener"), ("b/configuration.json", "the listener", "expected the speaker")),
        (configure(test_split=[1, 2, 3, 5]), ("b/configuration.json", "1,2,3,5", "sessions 1-4")),
    ],
)
def test_what_is_not_a_pair_is_refused(damaged, damage, told):
    damage(damaged.b)
    with pytest.raises(InputError) as error:
        compare([damaged], NAMES, 9)
    for part in told:
        assert re.search(part, str(error.value)), part


def test_first_window_that_one_lacks_is_named(pairs, tmp_path):
    ids = make_ids(FOLDS[0], 4, 6)
    arrays = make_arrays(ids, 1, 2, 0)
    fewer = {name: np.delete(values, [30, 50], axis=0) for name, values in arrays.items()}
    gone = np.delete(ids, [30, 50]).tolist()
    shorter = finished_run(tmp_path / "shorter", "speaker", FOLDS[0], gone, fewer)
    for pair in (pairs[0]._replace(b=shorter), pairs[0]._replace(a=shorter)):
        with pytest.raises(InputError, match=f"shorter/predictions.csv: has no window {ids[30]}, which .*-1-0-"):
            compare([pair], NAMES, 9)


def test_seeds_of_a_fold_share_their_windows(pairs, damaged):
    set_cell(8, "arousal", 4.95)(damaged.b)
    with pytest.raises(InputError, match="Sess01_impro01_F002"):
        compare([pairs[0], pairs[1]._replace(a=damaged.b, b=damaged.b)], NAMES, 9)
