import json

import numpy as np
import pytest
from finished_runs import entry, recompute_figures

from constants import EMOTIONS
from corpora.kemdy19 import FOLDS
from reports.plots import (
    COLOURS,
    MARKERS,
    look,
    plot_classes,
    plot_confusion,
    plot_figures,
    plot_loss_curve,
    plot_losses,
    save_figure,
)
from reports.runs import group, read_run

# Of one run


def test_plots_are_drawn(tmp_path):
    history = [{"epoch": 1, "train_loss": 2.0, "valid_loss": 2.5}, {"epoch": 2, "train_loss": 1.0, "valid_loss": 2.4}]
    curve = plot_loss_curve(history)
    training, validation = curve.axes[0].lines
    np.testing.assert_allclose(training.get_ydata(), [2.0, 1.0])
    np.testing.assert_allclose(validation.get_ydata(), [2.5, 2.4])
    matrix = plot_confusion(np.arange(49).reshape(7, 7), tuple("abcdefg"))
    assert sorted(int(text.get_text()) for text in matrix.axes[0].texts) == list(range(49))
    save_figure(curve, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


# Of many runs


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_colours_are_seen_on_both_pages(page):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert all(contrast(colour, page) >= 3 for colour in COLOURS)


def test_rows_differ_in_more_than_colour():
    looks = [look(number) for number in range(len(COLOURS) * len(MARKERS))]
    assert len({(look["color"], look["marker"]) for look in looks}) == len(looks)
    assert len({look["marker"] for look in looks[: len(COLOURS)]}) == len(COLOURS)


def test_dots_are_where_the_figures_are(finished_runs):
    of_two_folds = [entry("3.2", "default", key, folder) for key, folder in finished_runs.items()][:4]
    folds = list(group(of_two_folds, "test_split").values())
    read = {folder: read_run(folder) for folder in finished_runs.values()}
    axes = plot_figures("F1", folds, ["a", "b"], read, [(np.nan, np.nan), (0.1, 0.2)]).axes[0]
    bars = [bar.get_segments() for bar in axes.collections if bar.get_linewidth()[0] == 2.5]
    np.testing.assert_allclose(bars, [[[[0.1, 1], [0.2, 1]]]])
    ours = [sorted(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    for dots, split in zip(ours, FOLDS, strict=False):
        seeds = [recompute_figures(finished_runs["speaker", split, seed])["F1"] for seed in (0, 1)]
        np.testing.assert_allclose(dots, sorted(seeds), atol=6e-4)
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"] == [0.674, 0.673]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_each_loss_has_one_line_per_run(finished_runs):
    read = [read_run(finished_runs["speaker", FOLDS[0], seed]) for seed in (0, 1)]
    axes = plot_losses({"x": read}, {"x": 0, "other": 1}).axes[0]
    drawn = [(line.get_linestyle(), list(line.get_ydata())) for line in axes.lines if len(line.get_xdata())]
    assert drawn == [("-", [1.5, 1.2, 1.1]), ("-", [1.5, 1.2, 1.0]), (":", [1.6, 1.5, 1.4])]


def test_f1_by_class_is_the_mean_over_the_runs_that_have_it(finished_runs):
    read = [read_run(finished_runs["speaker", FOLDS[0], seed]) for seed in (0, 1)]
    reports = [json.loads((finished_runs["speaker", FOLDS[0], seed] / "result.json").read_text()) for seed in (0, 1)]
    read[0].classes.pop("fear")
    found = dict(zip(EMOTIONS, plot_classes({"x": read}, {"x": 0}).axes[0].lines[0].get_xdata(), strict=True))
    by_class = [result["overall"]["classes"] for result in reports]
    assert found["sad"] == pytest.approx(np.mean([classes["sad"]["f1-score"] for classes in by_class]))
    assert found["fear"] == pytest.approx(by_class[1]["fear"]["f1-score"])
