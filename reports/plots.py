"""Plots: the figures of one run and of many, drawn by matplotlib."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils import atomic_write

# At least 3:1 against both pages, white and #111, of WCAG 2's contrast; after Okabe and Ito (2008)
BLUE, ORANGE, GREY = "#1a7fc4", "#d55e00", "#767676"
PLOT_STYLE = {"axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False}
PLOT_STYLE |= {"font.size": 9, "grid.color": "#dddddd", "grid.linewidth": 0.6}
PLOT_STYLE |= {"svg.fonttype": "none", "svg.hashsalt": "mate"}  # the same runs give the same file


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure as `path`, and also as a PDF."""
    for suffix in sorted({path.suffix, ".pdf"}):
        with atomic_write(path.with_suffix(suffix), "wb") as file:
            figure.savefig(file, format=suffix[1:], metadata={"CreationDate": None} if suffix == ".pdf" else None)


def svg_url(figure: Figure) -> str:
    """`figure` as an SVG in a data URL, with a transparent background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def new_axes(width: float, height: float, **settings: object) -> Axes:
    """Axes of a new figure of `width` x `height` inches, without a display; `settings` are those of `Axes.set`."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained").subplots(subplot_kw=settings)


def plot_loss_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """The losses of a run by epoch; `history` has the columns of history.csv."""
    axes = new_axes(6, 3.6, xlabel="epoch", ylabel="loss")
    epochs = [row["epoch"] for row in history]
    for name, column, line in (("training", "train_loss", ".-"), ("validation", "valid_loss", ".:")):
        if column in history[0]:
            axes.plot(epochs, [row[column] for row in history], line, color=BLUE, label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="#cccccc", linewidth=0.5)
    axes.legend(frameon=False)
    return axes.figure


def plot_confusion(confusion: np.ndarray, labels: Sequence[str]) -> Figure:
    """The counts of `metric.confusion_matrix`, coloured by their share of the true label (of the row)."""
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


def plot_reliability(calibration: Mapping[str, Any]) -> Figure:
    """Mean share of raters against mean probability of the predicted emotion, for the bins of `calibrate`."""
    kinds = {"MATE": calibration}
    if "without_temperature" in calibration:
        kinds = {"with temperature": calibration, "without temperature": calibration["without_temperature"]}
    axes = new_axes(3.6, 3.4, xlabel="probability of the predicted emotion", ylabel="share of raters", aspect="equal")
    axes.axline((0, 0), (1, 1), color=GREY, linestyle="--", linewidth=1)
    for (label, figures), colour, marker in zip(kinds.items(), (BLUE, ORANGE), "os", strict=False):
        bins = pd.DataFrame(figures["bins"])
        size = 10 + 300 * bins["n"] / bins["n"].sum()
        axes.scatter(bins["p"], bins["share"], size, colour, marker=marker, alpha=0.75, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    if len(kinds) > 1:
        axes.legend(frameon=False, markerscale=0.5)
    return axes.figure


def plot_spread(panels: Mapping[str, pd.Series], xlabel: str) -> Figure:
    """A panel for each series of values of runs: their mean (line) and range (band) for each value of the index."""
    figure = Figure(figsize=(3.7, 2 * len(panels)), dpi=150, layout="constrained")
    for axes, (title, values) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        of_runs = values.groupby(level=0).agg(["mean", "min", "max"])
        axes.fill_between(of_runs.index, of_runs["min"], of_runs["max"], color=BLUE, alpha=0.25, linewidth=0)
        axes.plot(of_runs.index, of_runs["mean"], ".-", color=BLUE)
        axes.set(xlabel=xlabel, ylabel=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
