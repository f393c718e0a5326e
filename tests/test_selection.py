from argparse import Namespace

import pandas as pd
import pytest

from training.selection import best_epoch, describe_choice, describe_epoch, epoch_of_weights, is_exhausted

ROWS = [
    {
        **{"epoch": epoch, "lr": 1e-3, "train_loss": 1.0, "valid_loss": loss, "valid_f1": f1, "valid_accuracy": 0.5},
        **{"valid_macro_f1": macro_f1, "valid_ccc_arousal": arousal, "valid_ccc_valence": valence},
    }
    for epoch, (loss, f1, macro_f1, arousal, valence) in enumerate(
        [(1.3, 0.7, 0.1, 0.2, 0.2), (1.1, 0.6, 0.3, 0.6, -0.4), (1.2, 0.5, 0.4, 0.1, 0.5), (1.1, 0.7, 0.2, 0.3, 0.1)], 1
    )
]


@pytest.mark.parametrize(("monitor", "best"), [("loss", 2), ("f1", 1), ("macro_f1", 3), ("ccc", 3)])
def test_the_best_epoch_is_the_first_with_the_lowest_loss_or_the_highest_of_another_figure(monitor, best):
    assert best_epoch(ROWS, monitor) == best


def test_patience_ends_with_so_many_epochs_that_are_no_better():
    ended = [is_exhausted(ROWS[:n], "loss", 2) for n in range(5)]
    assert ended == [False, False, False, False, True]
    assert [is_exhausted(ROWS[:n], "f1", 3) for n in range(5)] == [False, False, False, False, True]
    assert not is_exhausted(ROWS, "f1", None)


def test_the_epoch_of_the_weights_is_read_from_the_history(tmp_path):
    assert epoch_of_weights(tmp_path, "last", "loss") is None  # the published program wrote no history
    pd.DataFrame(ROWS).to_csv(tmp_path / "history.csv", index=False)
    assert epoch_of_weights(tmp_path, "last", "loss") == 4
    assert epoch_of_weights(tmp_path, "best", "macro_f1") == 3
    (tmp_path / "history.csv").write_text("epoch,lr\nno,history\n")
    assert epoch_of_weights(tmp_path, "last", "loss") is None


def test_an_epoch_is_one_line():
    assert describe_epoch(ROWS[2], 100) == (
        "epoch 3/100: lr 1.0e-03, loss 1.0000; validation: loss 1.2000, F1 0.500, accuracy 0.500, macro F1 0.400, "
        "CCC arousal 0.100, valence 0.500"
    )
    assert describe_epoch({"epoch": 3, "lr": 1e-3, "train_loss": 1}, 9) == "epoch 3/9: lr 1.0e-03, loss 1.0000"


def test_the_tested_epoch_says_by_which_monitor_it_was_chosen():
    options = Namespace(select="best", monitor="ccc", valid_split=[17, 18])
    assert describe_choice(options) == "best by ccc on the validation sessions 17-18"
    options.select = "last"
    assert describe_choice(options) == "the last one"
