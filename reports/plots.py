"""Plots: the figures that matplotlib draws, of one run and of many."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from constants import AFFECT_RANGE, EMOTIONS
from metric import HEADINGS, ccc
from reports.runs import Entry, Run, finished, values_of
from utils import atomic_write, one_line

INK, GRID = "#222222", "#cccccc"

# On the report's page
# At least 3:1 against both pages, white and #111, of WCAG 2's contrast; after Okabe and Ito (2008)
COLOURS = ("#1a7fc4", "#d55e00", "#009070", "#b0629a", "#a67400", "#767676")
MARKERS = dict(zip("osD^vPX", "●■◆▲▼✚✖", strict=True))  # seven beside six colours: 42 rows look different
TEXT_INK = "#010203"  # stands for the colour of the page's text, which is light or dark
PLOT_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mate",  # the same file from the same runs
    "text.parse_math": False,  # a row's label is not a formula
    "font.size": 9,
    "text.color": TEXT_INK,
    "axes.labelcolor": TEXT_INK,
    "axes.edgecolor": TEXT_INK,
    "xtick.color": TEXT_INK,
    "ytick.color": TEXT_INK,
    "grid.color": TEXT_INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches that needs no screen."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG file; raises `InputError` when it cannot be written."""
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def look(number: int) -> dict[str, str]:
    """Colour and marker of a table's row by its number: no two of the first 42 share both."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": [*MARKERS][number % len(MARKERS)]}


# Of one run


def plot_loss_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """Training loss by epoch, and validation loss if there is one.

    `history` has one row per epoch: `epoch`, `train_loss` and perhaps `valid_loss`.
    """
    figure = new_figure(6, 3.6)
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    for key, label, style in (("train_loss", "training", "-"), ("valid_loss", "validation", "--")):
        values = [row.get(key, math.nan) for row in history]
        if not all(math.isnan(value) for value in values):
            axes.plot(epochs, values, style, marker="o" if len(epochs) < 30 else None, markersize=3, label=label)
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color=GRID, linewidth=0.5)
    axes.legend(frameon=False)
    return figure


def plot_confusion(confusion: np.ndarray, labels: Sequence[str]) -> Figure:
    """Confusion matrix with counts, coloured by each count's share of its true label (of its row).

    `confusion` holds integers: rows are true, columns predicted, as `metric.confusion_matrix` returns it.
    """
    figure = new_figure(5.4, 4.8)
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        colour = "white" if share[row, column] > 0.5 else INK
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, ax=axes, label="share of the true label", fraction=0.046)
    return figure


# Of many runs


def plot_figures(
    name: str,
    folds: Sequence[Sequence[Entry]],
    labels: Sequence[str],
    runs: dict[Path, Run],
    intervals: Sequence[tuple[float, float]],
) -> Figure:
    """One of `values_of` of every run, one line per fold, with the published row's (hollow) and the majority's F1.

    `folds` has the entries of each line, `labels` the names of the lines, `intervals` the interval of each mean, drawn
    as a bar, or NaN.
    """
    labels = [textwrap.fill(one_line(label), 26) for label in labels]
    n_lines = max(label.count("\n") + 1 for label in labels)
    figure = new_figure(3.7, 0.75 + (0.07 + 0.15 * n_lines) * len(folds))
    axes = figure.subplots()
    for height, entries in enumerate(folds):
        ours = values_of(finished(entries, runs))
        low, high = intervals[height]
        if not np.isnan(low):
            axes.hlines(height, low, high, COLOURS[0], linewidth=2.5, alpha=0.45)
        axes.plot(ours[name], [height] * len(ours), "o", color=COLOURS[0], markersize=5, alpha=0.85)
        if entries[0].published:
            theirs = entries[0].published.get(name, np.nan)
            axes.plot([theirs], [height], "D", color=COLOURS[1], fillstyle="none", markersize=7, markeredgewidth=1.4)
        if name == "F1" and len(ours):
            majority = ours["majority_f1"].mean()
            axes.vlines(majority, height - 0.45, height + 0.45, COLOURS[5], linestyle=(0, (2, 1)), linewidth=1.8)
    axes.set_yticks(range(len(folds)), labels)
    axes.set_ylim(len(folds) - 0.4, -0.6)
    centre, width = np.mean(axes.get_xlim()), max(0.1, np.ptp(axes.get_xlim()))  # do not blow noise up
    axes.set_xlim(centre - width / 2, centre + width / 2)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel(HEADINGS[name])
    return figure


def plot_losses(curves: Mapping[Hashable, Sequence[Run]], numbers: Mapping[Hashable, int]) -> Figure:
    """Training loss (solid) and validation loss (dotted) by epoch, one line per run.

    `numbers` choose the `look` of the runs of each key; a key without runs has no line.
    """
    figure = new_figure(3.7, 2.4)
    axes = figure.subplots()
    for key, number in numbers.items():
        style = look(number) | {"markersize": 3.5, "linewidth": 1.1}
        for run in curves.get(key, ()):
            epochs, every = run.history["epoch"], max(1, len(run.history) // 6)
            for column, line in (("train_loss", "-"), ("valid_loss", ":")):
                if column in run.history:
                    axes.plot(epochs, run.history[column], line, markevery=every, **style)
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def plot_classes(rows: Mapping[str, Sequence[Run]], numbers: Mapping[str, int]) -> Figure:
    """F1 by emotion, mean over the runs in which it occurs, one marker per row; `numbers` as in `plot_losses`."""
    figure = new_figure(3.7, 2.2 + 0.12 * len(numbers))
    axes = figure.subplots()
    for name, number in numbers.items():
        classes = [run.classes for run in rows.get(name, ())]
        means = pd.DataFrame(classes, columns=EMOTIONS, dtype=float).mean()
        height = np.arange(len(EMOTIONS)) + 0.6 * ((number + 0.5) / len(numbers) - 0.5)
        axes.plot(means, height, linestyle="", markersize=5, **look(number))
    axes.set_yticks(range(len(EMOTIONS)), EMOTIONS)
    axes.set(xlim=(-0.03, 1.03), ylim=(len(EMOTIONS) - 0.5, -0.5), xlabel="F1")
    return figure


def plot_affect(name: str, prediction: np.ndarray, target: np.ndarray) -> Figure:
    """Predicted arousal or valence against the raters' mean, with the identity line and the CCC; both shape = (N,)."""
    low, high = AFFECT_RANGE
    figure = new_figure(2.9, 2.9)
    axes = figure.subplots()
    alpha = float(np.clip(600 / len(target), 0.08, 0.7))
    axes.scatter(target, prediction, s=5, color=COLOURS[0], alpha=alpha, linewidths=0, rasterized=True)
    axes.axline((low, low), (high, high), color=TEXT_INK, linestyle="--", linewidth=1)
    axes.text(low, high, f"CCC {ccc(prediction, target):.3f}", va="top")
    ticks = np.arange(low, high + 1)
    axes.set(xlim=(low - 0.1, high + 0.1), ylim=(low - 0.1, high + 0.1), xticks=ticks, yticks=ticks, aspect="equal")
    axes.set(xlabel=f"{name}, raters' mean", ylabel="predicted")
    return figure
