"""Plots: the figures that matplotlib draws, of one run and of many."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from constants import AFFECT_RANGE, EMOTIONS
from metric import HEADINGS, ccc
from utils import atomic_write

# At least 3:1 against both pages, white and #111, of WCAG 2's contrast; after Okabe and Ito (2008)
COLOURS = ("#1a7fc4", "#d55e00", "#009070", "#b0629a", "#a67400", "#767676")
MARKERS = dict(zip("osD^vPX", "●■◆▲▼✚✖", strict=True))  # seven beside six colours: 42 rows look different
TEXT_INK = "#010203"  # stands for the colour of the page's text, which is light or dark
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
PLOT_STYLE = dict.fromkeys(INKED, TEXT_INK) | {"font.size": 9, "grid.alpha": 0.15, "grid.linewidth": 0.6}
PLOT_STYLE |= {"axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False}
PLOT_STYLE |= {"svg.fonttype": "none", "svg.hashsalt": "mate"}  # the same file from the same runs
PLOT_STYLE |= {"text.parse_math": False}  # a row's label is not a formula


def save_figure(figure: Figure, path: Path) -> None:
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def line_style(number: int) -> dict[str, str]:
    """Colour and marker of a table's row by its number: no two of the first 42 share both."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": [*MARKERS][number % len(MARKERS)]}


def new_axes(width: float, height: float, **settings: object) -> Axes:
    """The axes of an empty figure of `width` x `height` inches, which needs no screen; `settings` as of `Axes.set`."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained").subplots(subplot_kw=settings)


def plot_loss_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """The losses of a run whose epochs have the names of history.csv."""
    figure = plot_losses({"": [pd.DataFrame(history)]})
    figure.set_size_inches(6, 3.6)
    (axes,) = figure.axes
    axes.grid(color="#cccccc", linewidth=0.5)
    axes.legend(("training", "validation")[: len(axes.lines)], frameon=False)
    return figure


def plot_confusion(confusion: np.ndarray, labels: Sequence[str]) -> Figure:
    """`metric.confusion_matrix` with its counts, coloured by each count's share of its true label (of its row)."""
    axes = new_axes(5.4, 4.8, xlabel="predicted", ylabel="true")
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        colour = "white" if share[row, column] > 0.5 else "#222222"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.figure.colorbar(image, ax=axes, label="share of the true label", fraction=0.046)
    return axes.figure


def plot_figures(
    name: str,
    labels: Sequence[str],
    values: Sequence[Sequence[float]],
    intervals: Sequence[tuple[float, float]],
    published: Sequence[float],
    majority: Sequence[float],
) -> Figure:
    """One of `metric.FIGURES`, a line for each label: its runs' values (dots), the interval of their mean (bar).

    `published` figures are hollow diamonds; `majority`, of always predicting one label, is drawn for F1. NaN is not.
    """
    labels = [textwrap.fill(label, 26) for label in labels]
    n_lines = max(label.count("\n") + 1 for label in labels)
    axes = new_axes(3.7, 0.75 + (0.07 + 0.15 * n_lines) * len(labels), xlabel=HEADINGS[name])
    for height, (ours, (low, high)) in enumerate(zip(values, intervals, strict=True)):
        axes.hlines(height, low, high, COLOURS[0], linewidth=2.5, alpha=0.45)
        axes.plot(ours, [height] * len(ours), "o", color=COLOURS[0], markersize=5, alpha=0.85)
    heights = np.arange(len(labels))
    axes.plot(published, heights, "D", color=COLOURS[1], fillstyle="none", markersize=7, markeredgewidth=1.4)
    if name == "F1":
        axes.vlines(majority, heights - 0.45, heights + 0.45, COLOURS[5], linestyle=(0, (2, 1)), linewidth=1.8)
    axes.set_yticks(heights, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    centre, width = np.mean(axes.get_xlim()), max(0.1, np.ptp(axes.get_xlim()))  # do not magnify noise
    axes.set_xlim(centre - width / 2, centre + width / 2)
    axes.locator_params(axis="x", nbins=4)
    return axes.figure


def plot_losses(curves: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Training (solid) and validation loss (dotted) by epoch of each run; a key's place chooses its `line_style`."""
    axes = new_axes(3.7, 2.4, xlabel="epoch", ylabel="loss")
    for number, histories in enumerate(curves.values()):
        style = line_style(number) | {"markersize": 3.5, "linewidth": 1.1}
        for history in histories:
            for column, line in {"train_loss": "-", "valid_loss": ":"}.items():
                if column in history:
                    axes.plot(history["epoch"], history[column], line, markevery=max(1, len(history) // 6), **style)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return axes.figure


def plot_classes(classes: pd.DataFrame) -> Figure:
    """F1 by emotion, one marker per row of `classes`, whose columns are the emotions; rows as in `plot_losses`."""
    limits = {"xlim": (-0.03, 1.03), "ylim": (len(EMOTIONS) - 0.5, -0.5)}
    axes = new_axes(3.7, 2.2 + 0.12 * len(classes), xlabel="F1", **limits)
    for number, values in enumerate(classes[[*EMOTIONS]].to_numpy(dtype=float)):
        height = np.arange(len(EMOTIONS)) + 0.6 * ((number + 0.5) / len(classes) - 0.5)
        axes.plot(values, height, linestyle="", markersize=5, **line_style(number))
    axes.set_yticks(range(len(EMOTIONS)), EMOTIONS)
    return axes.figure


def plot_affect(name: str, prediction: np.ndarray, target: np.ndarray) -> Figure:
    """Predicted arousal or valence against the raters' mean, with the identity line and the CCC; both shape = (N,)."""
    low, high = AFFECT_RANGE
    axes = new_axes(2.9, 2.9, xlabel=f"{name}, raters' mean", ylabel="predicted", aspect="equal")
    alpha = float(np.clip(600 / len(target), 0.08, 0.7))
    axes.scatter(target, prediction, s=5, color=COLOURS[0], alpha=alpha, linewidths=0, rasterized=True)
    axes.axline((low, low), (high, high), color=TEXT_INK, linestyle="--", linewidth=1)
    axes.text(low, high, f"CCC {ccc(prediction, target):.3f}", va="top")
    ticks = np.arange(low, high + 1)
    axes.set(xlim=(low - 0.1, high + 0.1), ylim=(low - 0.1, high + 0.1), xticks=ticks, yticks=ticks)
    return axes.figure
