"""Page: index.html, a report's tables with their plots, as one file without anything from elsewhere.

Its only script, sort.js, sorts the tables; its content security policy lets no other run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from tqdm import tqdm

from constants import EMOTIONS
from corpora.sessions import format_sessions
from metric import BATCH_FIGURES, HEADINGS, WHOLE_FIGURES, confusion_matrix
from reports.formats import LEGEND, format_value, has_published
from reports.formats import OURS as OURS_IN_WORDS
from reports.heat import Heat
from reports.plots import (
    COLOURS,
    MARKERS,
    PLOT_STYLE,
    TEXT_INK,
    look,
    plot_affect,
    plot_classes,
    plot_figures,
    plot_losses,
)
from reports.runs import PUBLISHED_CORPUS, Entry, Run, finished, group
from reports.sentences import WORDS
from utils import atomic_write

if TYPE_CHECKING:
    import pandas as pd

    from reports.against import Against

OURS = Markup(
    '<span style="color:{0}">●</span> each of our runs; <span style="color:{0}">━</span> 95% interval over dialogues '
    "of their mean, of F1 over all windows at once; "
).format(COLOURS[0])
PUBLISHED = Markup('<span style="color:{}">◇</span> published; ').format(COLOURS[1])
MAJORITY = Markup('<span style="color:{}">┆</span> always answering with the commonest training label (F1)').format(
    COLOURS[5]
)
LOSSES_CAPTION = "Training loss by epoch, one line per run; dotted: validation loss, if there is one."
CLASSES_CAPTION = "F1 by emotion, over the windows with a single majority label; mean over runs."


class Plot(NamedTuple):
    """Figures of the page that share a caption."""

    svgs: list[Markup]
    caption: Markup | str


class Details(NamedTuple):
    """What the page shows of one role and configuration when it is unfolded.

    parts : of each kind of dialogue and sentence, its name, counts and figures in words; none of earlier runs
    confusion : by true emotion, for each predicted emotion the number of windows and its share of the true emotion
    """

    title: str
    parts: list[list[str]]
    confusion: list[tuple[str, list[tuple[int, float]]]]
    scatters: list[Markup]


class Section(NamedTuple):
    """A table on the page, with what is below it.

    groups : of `heading_groups`
    rows : of the table, by the names that page.html uses
    against : the rows' differences from one of them, None of a table without such a row
    notes : what others published, in words
    missing : the runs that are not in it, in words
    heats : maps of a grid of two options
    """

    title: str
    groups: list[tuple[str, list[tuple[str, bool]]]]
    rows: list[dict[str, Any]]
    against: Against | None
    notes: list[str]
    missing: list[str]
    heats: list[Heat]
    plots: list[Plot]
    details: list[Details]


class Page(NamedTuple):
    """The content of the page.

    warning : about the corpora of the runs, or ''
    corpora : of the runs, in words
    settings : options that all runs share, by name
    machines : commit, device and versions of the runs, by name
    n_wanted, n_finished : runs that the tables ask for, and of these the finished ones that can be read
    """

    warning: str
    corpora: list[str]
    settings: Mapping[str, Any]
    machines: Mapping[str, str]
    n_wanted: int
    n_finished: int
    sections: list[Section]


def write_page(path: Path, page: Page) -> None:
    """Write the page; raises `InputError` when it cannot be written."""
    script = (Path(__file__).parent / "sort.js").read_text("utf-8")
    templates = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template("page.html").render(
        **page._asdict() | {"settings": describe_settings(page.settings)},
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        ours=OURS_IN_WORDS,
        legend=LEGEND,
        published_corpus=PUBLISHED_CORPUS,
        emotions=EMOTIONS,
        part_headings=[HEADINGS[name] for name in WHOLE_FIGURES],
        heat=COLOURS[0],
    )
    with atomic_write(path) as file:
        file.write(text)


def heading_groups(table: pd.DataFrame, figures: Sequence[str]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """What the figures are over, and the heading of each and whether published ones of it stand beside ours.

    Parameters
    ----------
    table : of `summary.summarise`
    figures : those to show, those by batch last
    """
    groups: dict[str, list[tuple[str, bool]]] = {}
    for name in figures:
        over = "as the paper counts (per batch)" if name in BATCH_FIGURES else "whole test set"
        groups.setdefault(over, []).append((HEADINGS[name], has_published(table, [name])))
    return [*groups.items()]


def plotted(figures: Sequence[str]) -> tuple[str, ...]:
    """Of the figures of a table those that are drawn: the first, both CCCs, and the published F1."""
    return (figures[0], "ccc_arousal", "ccc_valence", "F1")


def describe_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings that are set, in words: a flag is on, and one that is off or has no value is left out."""
    shown = {name: value for name, value in settings.items() if value is not None and value is not False}
    return {name: "on" if value is True else str(value) for name, value in shown.items()}


# Under a table


class DrawnTable(NamedTuple):
    """What is drawn of a table: its numbers, as `summary.summarise` gives them, and some of its figures.

    parts : of `summary.summarise_parts`
    numbers : of the page's plots
    """

    table: pd.DataFrame
    parts: pd.DataFrame
    figures: Sequence[str]
    numbers: Iterator[int]


def draw_table(
    entries: Sequence[Entry], runs: dict[Path, Run], drawn: DrawnTable, bar: tqdm
) -> tuple[list[Plot], list[Details]]:
    """The plots of a table that has a run, and the details of each of its rows that has one.

    Parameters
    ----------
    entries : of the table
    runs : those that have finished, by folder
    bar : counts the table, and each of its rows
    """
    plots, details = [], []
    with matplotlib.rc_context(PLOT_STYLE):
        if finished(entries, runs):
            plots = [draw_figures(entries, runs, drawn), *draw_curves(entries, runs, drawn.numbers)]
        bar.update()
        for (role, row), of_row in group(entries, "role", "row").items():
            if runs_of_row := finished(of_row, runs):
                parts = format_parts(drawn.parts, role, row)
                details.append(draw_details(f"{role}, {row}", parts, runs_of_row, drawn.numbers))
            bar.update()
    return plots, details


def draw_figures(entries: Sequence[Entry], runs: dict[Path, Run], drawn: DrawnTable) -> Plot:
    """The figures of every run, one line per role, row and test split."""
    folds = group(entries, "role", "row", "test_split")
    varying = [field for field in ("role", "row", "test_split") if len(group(entries, field)) > 1] or ["role"]
    labels, numbers = [], drawn.table.set_index(["role", "row", "test"])
    for role, row, split in folds:
        parts = {"role": role, "row": row, "test_split": format_sessions(split)}
        labels.append(" ".join(parts[field] for field in varying))
    svgs = []
    for name in drawn.figures:
        bounds = [
            tuple(numbers.loc[(role, row, format_sessions(split)), [f"{name}_low", f"{name}_high"]])
            for role, row, split in folds
        ]
        figure = plot_figures(name, [*folds.values()], labels, runs, bounds)
        words = f"{HEADINGS[name]} of every run" + (", published figure and majority" if name == "F1" else "")
        svgs.append(inline_svg(figure, next(drawn.numbers), words))
    published = PUBLISHED if any(entry.published for entry in entries) else ""
    return Plot(svgs, OURS + published + MAJORITY)


def draw_curves(entries: Sequence[Entry], runs: dict[Path, Run], numbers: Iterator[int]) -> list[Plot]:
    """The losses by epoch and F1 by emotion, one figure of each per role; at least one run has finished."""
    curve = "row" if len(group(entries, "row")) > 1 else "test_split"  # what a colour stands for
    curve_numbers, row_numbers = number_values(entries, curve), number_values(entries, "row")
    losses, classes = [], []
    for (role,), of_role in group(entries, "role").items():
        if not finished(of_role, runs):
            continue
        figure = plot_losses(runs_by(curve, of_role, runs), curve_numbers)
        figure.axes[0].set_title(role, fontsize=9)
        losses.append(inline_svg(figure, next(numbers), f"Loss by epoch, {role}"))
        figure = plot_classes(runs_by("row", of_role, runs), row_numbers)
        figure.axes[0].set_title(role, fontsize=9)
        classes.append(inline_svg(figure, next(numbers), f"F1 by emotion, {role}"))
    return [
        Plot(losses, format_legend(LOSSES_CAPTION, curve_numbers)),
        Plot(classes, format_legend(CLASSES_CAPTION, row_numbers)),
    ]


def number_values(entries: Sequence[Entry], field: str) -> dict[Hashable, int]:
    """A number for every value of a field, for its look in the plots of both roles."""
    return {value: number for number, (value,) in enumerate(group(entries, field))}


def runs_by(field: str, entries: Sequence[Entry], runs: dict[Path, Run]) -> dict[Hashable, list[Run]]:
    """The finished runs of the entries by the value of a field."""
    return {value: finished(of_value, runs) for (value,), of_value in group(entries, field).items()}


def format_legend(caption: str, numbers: Mapping[Hashable, int]) -> Markup:
    """The caption, and the look of every row or test split."""
    keys = [
        Markup('<span style="color:{}">{}</span>&nbsp;{}').format(
            look(number)["color"],
            MARKERS[look(number)["marker"]],
            value if isinstance(value, str) else f"test {format_sessions(value)}",
        )
        for value, number in numbers.items()
    ]
    return Markup("{} {}").format(caption, Markup("; ").join(keys))


def format_parts(parts: pd.DataFrame, role: str, row: str) -> list[list[str]]:
    """The rows of `summary.summarise_parts` of one role and configuration, in words."""
    if parts.empty:
        return []
    of_row = parts[(parts["role"] == role) & (parts["row"] == row)]
    return [
        [
            WORDS.get(part["part"], "all"),
            f"{part['windows']:,} ({part['single_label']:,})",
            f"{part['dialogues']:,}",
            *(format_value(part[name]) for name in (*WHOLE_FIGURES, "lookup")),
        ]
        for _, part in of_row.iterrows()
    ]


def draw_details(name: str, parts: list[list[str]], runs: Sequence[Run], numbers: Iterator[int]) -> Details:
    """Confusion matrix and scatter plots of one role and configuration, all folds and seeds together."""
    arrays = {name: np.concatenate([run.arrays[name] for run in runs]) for name in runs[0].arrays}
    counts = confusion_matrix(arrays["emotion_pred"], arrays["emotion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    confusion = [
        (emotion, [*zip(of_emotion.tolist(), share.tolist(), strict=True)])
        for emotion, of_emotion, share in zip(EMOTIONS, counts, shares, strict=True)
    ]
    scatters = []
    for affect in ("arousal", "valence"):
        figure = plot_affect(affect, arrays[f"{affect}_pred"], arrays[affect])
        scatters.append(inline_svg(figure, next(numbers), f"Predicted {affect} against the raters' mean, {name}"))
    n_runs = f"{len(runs)} run" + "s" * (len(runs) > 1)
    return Details(f"{name}: {len(arrays['arousal']):,} windows of {n_runs}", parts, confusion, scatters)


def inline_svg(figure: Figure, number: int, label: str) -> Markup:
    """`figure` as an SVG element whose text has the colour of the page's; `label` is read out to the blind.

    `number` differs between the figures of a page: it keeps their ids apart.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # missing from matplotlib's font: the browser has others
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT_INK, "currentColor")
    svg = re.sub(r'(\bid="|\burl\(#|href="#)', rf"\g<1>plot{number}-", svg)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
