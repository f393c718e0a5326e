"""Tables of experiments beside the published figures: CSV, Markdown, and one HTML page with their plots."""

from __future__ import annotations

import io
import itertools
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from tqdm import tqdm

import metric
from constants import AFFECT_RANGE, EMOTIONS, ROLES
from corpora.kemdy19 import N_SESSIONS
from metric import BATCH_FIGURES, FIGURES, HEADINGS, MAIN_FIGURES
from utils import InputError, atomic_write, new_figure, one_line, read_bounded, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEMDY19 = {"speaker": 10_279, "listener": 10_285}  # utterances that have a label of this role
MAX_CSV_BYTES = 100 * 2**20  # a run's predictions have some hundred thousand

# At least 3:1 against both pages, white and #111, of WCAG 2's contrast; after Okabe and Ito (2008)
COLOURS = ("#1a7fc4", "#d55e00", "#009070", "#b0629a", "#a67400", "#767676")
MARKERS = dict(zip("osD^vPX", "●■◆▲▼✚✖", strict=True))  # seven beside six colours: 42 rows look different
TEXT_INK = "#010203"  # drawn in it is what takes the colour of the page's text
PLOT_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mate",  # the same file from the same runs
    "text.parse_math": False,  # a row's label is no formula
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT_INK),
    "grid.color": TEXT_INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Entry(NamedTuple):
    """A run that a table wants."""

    table: str  # "3.2", "modality", ...: names the table's files
    title: str  # of the table
    row: str  # label of the configuration
    role: str
    test_split: tuple[int, ...]
    seed: int
    folder: Path | None  # the finished experiment folder
    error: str | None  # why there is none
    published: dict[str, float] | None  # of `FIGURES`, those published for this row


class Run(NamedTuple):
    """What the report takes from an experiment folder."""

    figures: dict[str, float]  # `FIGURES`; the first three are means over batches
    majority_f1: float
    classes: dict[str, float]  # F1 by emotion that occurs
    ids: list[str]  # segment ids of the tested windows' last utterances
    arrays: dict[str, np.ndarray]  # as `engine.evaluate` gives them
    history: pd.DataFrame  # epoch, train_loss and perhaps valid_loss
    configuration: dict[str, Any]


# What was published


def read_published() -> pd.DataFrame:
    """The rows of `data/published.csv`; what was not published is NaN."""
    path = Path(__file__).parent.parent / "data/published.csv"
    names = {name.lower(): name for name in BATCH_FIGURES}
    table = pd.read_csv(path, dtype=dict.fromkeys(("table", "row", "role", "test_split"), str))
    return table.rename(columns=names).fillna(dict.fromkeys(("role", "test_split", "note"), ""))


def find_published(
    published: pd.DataFrame, table: str, row: str, role: str, test_split: Sequence[int]
) -> dict[str, float] | None:
    """The published figures of one row of `read_published`, without those that are blank; None where there is none."""
    wanted = {"table": table, "row": row, "role": role, "test_split": spell(test_split)}
    found = published[(published[list(wanted)] == list(wanted.values())).all(axis=1)]
    return None if found.empty else {name: float(value) for name, value in found.iloc[0][[*FIGURES]].dropna().items()}


def spell(sessions: Sequence[int]) -> str:
    """`13-16` for consecutive sessions, else `1,8,9`."""
    first, last = min(sessions), max(sessions)
    if len(sessions) > 1 and sorted(sessions) == list(range(first, last + 1)):
        return f"{first}-{last}"
    return ",".join(map(str, sorted(sessions)))


# What the runs left


def read_run(folder: Path) -> Run:
    """Read an experiment folder that main.py has finished.

    Raises
    ------
    InputError : one of its files is missing or damaged
    """
    result, configuration = read_json(folder / "result.json"), read_json(folder / "configuration.json")
    try:
        figures = {name: float(str(result[name]).partition("+-")[0]) for name in FIGURES}
        overall = result["overall"]
        by_class = overall.get("classes", {})
        classes = {emotion: float(by_class[emotion]["f1-score"]) for emotion in EMOTIONS if emotion in by_class}
        majority_f1, n = float(overall["majority_f1"]), int(overall["n"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / 'result.json'}: not a result of main.py ({error!r}); test the run again"
        ) from error
    if not all(-1 <= value <= 1 for value in (*figures.values(), *classes.values(), majority_f1)):
        raise InputError(f"{folder / 'result.json'}: holds a figure beyond -1 to 1; test the run again")
    try:
        splits = [configuration["train_split"], configuration["test_split"], configuration.get("valid_split") or []]
        whole = [*configuration["windows"].values(), *itertools.chain(*splits)]
        if configuration["SorL"] not in ROLES or not all(isinstance(number, int) for number in whole):
            raise TypeError("expected a role, and whole numbers in the splits and in windows")
        configuration["data_path"] = str(configuration["data_path"])
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'configuration.json'}: not one of main.py's runs ({error!r})") from error

    predictions = read_columns(
        folder / "predictions.csv",
        [*(f"p_{name}" for name in EMOTIONS), "arousal", "arousal_pred", "valence", "valence_pred"],
        texts=["segment_id", "emotion"],
    )
    labels = predictions["emotion"].astype(str).str.get_dummies(";")
    if len(predictions) != n or not set(labels) <= set(EMOTIONS):
        raise InputError(
            f"{folder / 'predictions.csv'}: {len(predictions)} windows with the labels {', '.join(labels)}; expected "
            f"{n}, as in result.json, with some of {', '.join(EMOTIONS)}"
        )
    arrays = {
        "emotion": labels.reindex(columns=EMOTIONS, fill_value=0).to_numpy(),
        "emotion_pred": predictions[[f"p_{name}" for name in EMOTIONS]].to_numpy(),
    }
    arrays |= {name: predictions[name].to_numpy() for name in ("arousal", "arousal_pred", "valence", "valence_pred")}
    history = read_columns(folder / "history.csv", ["epoch", "train_loss"])
    ids = predictions["segment_id"].astype(str).tolist()
    return Run(figures, majority_f1, classes, ids, arrays, history, configuration)


def read_columns(path: Path, numbers: list[str], texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file that has columns of finite `numbers`, perhaps some of `texts`, and perhaps others.

    Raises
    ------
    InputError : it is missing, has no row, or not these columns
    """
    try:
        table = pd.read_csv(io.BytesIO(read_bounded(path, MAX_CSV_BYTES)))
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; a finished run of main.py has it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as CSV ({error})") from error
    if absent := sorted({*numbers, *texts} - set(table)):
        raise InputError(f"{path}: has no column {', '.join(absent)}")
    try:
        finite = np.isfinite(table[numbers].to_numpy(dtype=np.float64)).all()
    except ValueError:
        finite = False
    if table.empty or not finite:
        raise InputError(f"{path}: expected rows of finite numbers in {', '.join(numbers)}")
    return table


def describe_corpora(runs: Iterable[Run]) -> tuple[list[str], str]:
    """The corpora of these runs in words, and the warning that heads a report of others than KEMDy19, else ''.

    It warns too when runs of one role were made from corpora of several sizes at one path.
    """
    sizes: dict[str, dict[tuple[str, int], bool]] = {}  # by path: role and utterances, and whether it is KEMDy19
    for run in runs:
        stored = run.configuration
        sessions = {*stored["train_split"], *(stored.get("valid_split") or []), *stored["test_split"]}
        role, n = stored["SorL"], sum(stored["windows"].values())
        kemdy19 = len(sessions) == N_SESSIONS and abs(n - KEMDY19[role]) <= 0.05 * KEMDY19[role]
        sizes.setdefault(stored["data_path"], {})[role, n] = kemdy19

    def spell_sizes(path: str, of_path: Iterable[tuple[str, int]]) -> str:
        return ", ".join([path, *(f"{n:,} utterances ({role})" for role, n in of_path)])

    words = [spell_sizes(path, of_path) for path, of_path in sizes.items()]
    others = {path: [key for key, kemdy19 in of_path.items() if not kemdy19] for path, of_path in sizes.items()}
    others = [spell_sizes(path, of_path) for path, of_path in others.items() if of_path]
    mixed = [path for path, of_path in sizes.items() if len({role for role, _ in of_path}) < len(of_path)]
    parts = []
    if others:
        parts.append(
            f"Not KEMDy19: made from {'; '.join(others)}. Its figures say nothing about KEMDy19 and must not be put "
            "beside published ones."
        )
    if mixed:
        parts.append(
            f"The corpus in {', '.join(mixed)} changed between the runs, whose figures cannot be compared: take those "
            "of the old one away and run them again."
        )
    return words, " ".join(parts)


# Tables

LEGEND = (
    "Ours: mean over seeds ± standard deviation over seeds; in a mean of folds, over folds and seeds. In brackets the "
    "published figure (a mean with its standard deviation over folds) and our difference from it. Precision, recall "
    "and F1 are the published program's: at 1, by batch, averaged over batches. Majority F1: of always answering the "
    "commonest training label."
)


def group(entries: Iterable[Any], *names: str) -> dict[tuple, list[Any]]:
    """Entries, or other named tuples, by their values of these fields, in the order in which they first occur."""
    groups: dict[tuple, list[Any]] = {}
    for entry in entries:
        groups.setdefault(tuple(getattr(entry, name) for name in names), []).append(entry)
    return groups


def finished(entries: Iterable[Entry], runs: dict[Path, Run]) -> list[Run]:
    """The runs of these entries that are there."""
    return [runs[entry.folder] for entry in entries if entry.folder in runs]


def summarise(entries: Sequence[Entry], runs: dict[Path, Run], published: pd.DataFrame) -> pd.DataFrame:
    """A table's rows: one a role, configuration and test split, and under several splits their mean.

    Columns of each of `FIGURES`: its mean over seeds (for a mean of folds: of the folds' means), `_sd` the sample
    standard deviation over seeds (over all runs), `_published`, `_published_sd` (over folds), and `_diff`, ours less
    the published one where all folds are there.
    """
    rows = []
    for (table, role, label), of_row in group(entries, "table", "role", "row").items():
        folds = group(of_row, "test_split")
        ours = {fold: values_of(finished(of_fold, runs)) for fold, of_fold in folds.items()}
        theirs = {
            fold: pd.Series(of_fold[0].published or {}, index=FIGURES, dtype=float) for fold, of_fold in folds.items()
        }
        for fold, of_fold in folds.items():
            found = ours[fold]
            counts = {"role": role, "row": label, "test": spell(fold[0]), "folds": 1}
            counts |= {"runs": len(found), "wanted": len(of_fold)}
            rows.append(counts | row_figures(found.mean(), found.std(), theirs[fold]))
        if len(folds) > 1:
            sessions = {session for fold in folds for session in fold[0]}
            of_mean = find_published(published, table, label, role, sessions)  # where only the mean was published
            by_fold = pd.DataFrame([*theirs.values()])
            mean = pd.Series(of_mean, dtype=float) if of_mean else by_fold.mean(skipna=False)
            there = [values for values in ours.values() if len(values)]
            everything = values_of(finished(of_row, runs))
            means = pd.DataFrame([values.mean() for values in there], columns=everything.columns, dtype=float)
            complete = len(there) == len(folds)
            of = f"{len(folds)} folds" if complete else f"{len(there)} of {len(folds)} folds"
            counts = {"role": role, "row": label, "test": f"mean of {of}", "folds": len(there)}
            counts |= {"runs": len(everything), "wanted": len(of_row)}
            figures = row_figures(means.mean(), everything.std(), mean, by_fold.std(skipna=False), complete)
            rows.append(counts | figures)
    return pd.DataFrame(rows)


def values_of(runs: Sequence[Run]) -> pd.DataFrame:
    """`FIGURES` and the majority's F1, a row a run."""
    rows = [run.figures | {"majority_f1": run.majority_f1} for run in runs]
    return pd.DataFrame(rows, columns=[*FIGURES, "majority_f1"], dtype=float)


def row_figures(
    mean: pd.Series,
    sd: pd.Series,
    published: pd.Series,
    published_sd: pd.Series | None = None,
    comparable: bool = True,
) -> dict[str, float]:
    """The columns of one row of `summarise` that hold figures."""
    columns = {}
    for name in FIGURES:
        columns[name], columns[f"{name}_sd"] = mean[name], sd[name]
        columns[f"{name}_published"] = published.get(name, np.nan)
        columns[f"{name}_published_sd"] = np.nan if published_sd is None else published_sd[name]
        columns[f"{name}_diff"] = mean[name] - columns[f"{name}_published"] if comparable else np.nan
    return columns | {"majority_f1": mean["majority_f1"]}


def spell_value(value: float, sd: float = np.nan) -> str:
    """`0.674`, `0.674 ± .012`, or `-` for NaN."""
    if np.isnan(value):
        return "-"
    return f"{value:.3f}" + ("" if np.isnan(sd) else f" ± {sd:.3f}".replace(" 0.", " ."))


def spell_difference(value: float) -> str:
    """`+.012`, or `-` for NaN."""
    return "-" if np.isnan(value) else f"{round(value, 3) + 0.0:+.3f}".replace("0.", ".", 1)


def figure_cells(row: pd.Series, name: str) -> tuple[str, str, str]:
    """Ours, the published one and the difference, as the tables show them."""
    ours = spell_value(row[name], row[f"{name}_sd"])
    theirs = spell_value(row[f"{name}_published"], row[f"{name}_published_sd"])
    return ours, theirs, spell_difference(row[f"{name}_diff"])


def markdown(title: str, table: pd.DataFrame, missing: Sequence[str], warning: str) -> str:
    """A table of `summarise` as Markdown, under the corpus's warning and above the runs that are missing."""
    shown = table[["role", "row", "test"]].map(plain)
    shown["runs"] = [spell_count(row) for _, row in table.iterrows()]
    for name in FIGURES:
        cells = [figure_cells(row, name) for _, row in table.iterrows()]
        shown[HEADINGS[name]] = [
            ours if theirs == "-" else f"{ours} ({theirs}{'' if diff == '-' else ', ' + diff})"
            for ours, theirs, diff in cells
        ]
    shown["majority F1"] = table["majority_f1"].map(spell_value)
    lines = [f"> **{plain(warning)}**", ""] if warning else []
    lines += [f"# {plain(title)}", "", shown.to_markdown(index=False, disable_numparse=True), "", LEGEND]
    if missing:
        lines += ["", "Runs that are not in it:", "", *(f"- {plain(line)}" for line in missing)]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text that Markdown, and HTML in it, takes literally."""
    return re.sub(r"([\\`*<>|\[\]#])", r"\\\1", one_line(text))


def spell_count(row: pd.Series) -> str:
    """Runs that are there, of those wanted."""
    return f"{row['runs']}" if row["runs"] == row["wanted"] else f"{row['runs']} of {row['wanted']}"


# Plots


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """`figure` as an SVG element that takes its text's colour from the page; `name` makes its ids the page's own."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # that matplotlib's font lacks: the browser has others
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT_INK, "currentColor")
    svg = re.sub(r'(\bid="|\burl\(#|href="#)', rf"\g<1>{name}-", svg)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def look(number: int) -> dict[str, str]:
    """Colour and marker of a table's row: no two of the first 42 share both."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": [*MARKERS][number % len(MARKERS)]}


def plot_figures(name: str, folds: dict[tuple, list[Entry]], runs: dict[Path, Run], labels: Sequence[str]) -> Figure:
    """One figure of every run, of the published row (hollow) and of the majority (dashed; F1 alone), a line a fold.

    `folds` has a group of entries a line, `labels` their names.
    """
    labels = [textwrap.fill(one_line(label), 26) for label in labels]
    n_lines = max(label.count("\n") + 1 for label in labels)
    figure = new_figure(3.7, 0.75 + (0.07 + 0.15 * n_lines) * len(folds))
    axes = figure.subplots()
    for height, entries in enumerate(folds.values()):
        found = values_of(finished(entries, runs))
        axes.plot(found[name], [height] * len(found), "o", color=COLOURS[0], markersize=5, alpha=0.85)
        if entries[0].published:
            theirs = entries[0].published.get(name, np.nan)
            axes.plot([theirs], [height], "D", color=COLOURS[1], fillstyle="none", markersize=7, markeredgewidth=1.4)
        if name == "F1" and len(found):
            at = found["majority_f1"].mean()
            axes.vlines(at, height - 0.45, height + 0.45, COLOURS[5], linestyle=(0, (2, 1)), linewidth=1.8)
    axes.set_yticks(range(len(folds)), labels)
    axes.set_ylim(len(folds) - 0.4, -0.6)
    centre, width = np.mean(axes.get_xlim()), max(0.1, np.ptp(axes.get_xlim()))  # do not blow noise up
    axes.set_xlim(centre - width / 2, centre + width / 2)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel(HEADINGS[name])
    return figure


def plot_losses(curves: dict[Any, list[Run]], numbers: dict[Any, int]) -> Figure:
    """Training loss (solid) and validation loss (dotted) by epoch, a line a run; `numbers` choose the curves' looks."""
    figure = new_figure(3.7, 2.4)
    axes = figure.subplots()
    for name, number in numbers.items():
        style = look(number) | {"markersize": 3.5, "linewidth": 1.1}
        for run in curves.get(name, ()):
            epochs, every = run.history["epoch"], max(1, len(run.history) // 6)
            for column, line in (("train_loss", "-"), ("valid_loss", ":")):
                if column in run.history:
                    axes.plot(epochs, run.history[column], line, markevery=every, **style)
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def plot_classes(rows: dict[str, list[Run]], numbers: dict[str, int]) -> Figure:
    """F1 by emotion, mean over the runs in which it occurs, a marker a row."""
    figure = new_figure(3.7, 2.2 + 0.12 * len(numbers))
    axes = figure.subplots()
    for name, number in numbers.items():
        runs = rows.get(name, ())
        by_class = pd.DataFrame([run.classes for run in runs], columns=EMOTIONS, dtype=float).mean()
        height = np.arange(len(EMOTIONS)) + 0.6 * ((number + 0.5) / len(numbers) - 0.5)
        axes.plot(by_class, height, linestyle="", markersize=5, **look(number))
    axes.set_yticks(range(len(EMOTIONS)), EMOTIONS)
    axes.set(xlim=(-0.03, 1.03), ylim=(len(EMOTIONS) - 0.5, -0.5), xlabel="F1")
    return figure


def plot_affect(name: str, prediction: np.ndarray, target: np.ndarray) -> Figure:
    """Predicted arousal or valence against the raters' mean, with the identity line and their CCC."""
    low, high = AFFECT_RANGE
    figure = new_figure(2.9, 2.9)
    axes = figure.subplots()
    alpha = float(np.clip(600 / len(target), 0.08, 0.7))
    axes.scatter(target, prediction, s=5, color=COLOURS[0], alpha=alpha, linewidths=0, rasterized=True)
    axes.axline((low, low), (high, high), color=TEXT_INK, linestyle="--", linewidth=1)
    axes.text(low, high, f"CCC {metric.ccc(prediction, target):.3f}", va="top")
    ticks = np.arange(low, high + 1)
    axes.set(xlim=(low - 0.1, high + 0.1), ylim=(low - 0.1, high + 0.1), xticks=ticks, yticks=ticks, aspect="equal")
    axes.set(xlabel=f"{name}, raters' mean", ylabel="predicted")
    return figure


# The page


class Plot(NamedTuple):
    """Figures of the page that share a caption."""

    svgs: list[Markup]
    caption: Markup | str


OURS = Markup('<span style="color:{}">●</span> each of our runs; ').format(COLOURS[0])
PUBLISHED = Markup('<span style="color:{}">◇</span> published; ').format(COLOURS[1])
MAJORITY = Markup('<span style="color:{}">┆</span> always answering the commonest training label (F1)').format(
    COLOURS[5]
)


def table_plots(entries: Sequence[Entry], runs: dict[Path, Run], draw: Callable[..., Markup]) -> list[Plot]:
    """The plots under a table; `draw` turns a figure and its label into an SVG element."""
    folds = group(entries, "role", "row", "test_split")
    varying = [name for name in ("role", "row", "test_split") if len(group(entries, name)) > 1] or ["role"]
    labels = []
    for role, row, split in folds:
        parts = {"role": role, "row": row, "test_split": spell(split)}
        labels.append(" ".join(parts[name] for name in varying))
    shown = [
        draw(plot_figures(name, folds, runs, labels), f"{HEADINGS[name]} of every run, published figure and majority")
        for name in MAIN_FIGURES
    ]
    theirs = PUBLISHED if any(entry.published for entry in entries) else ""
    plots = [Plot(shown, OURS + theirs + MAJORITY)]

    curve = "row" if len(group(entries, "row")) > 1 else "test_split"  # what a colour stands for
    losses, classes = [], []
    for (role,), of_role in group(entries, "role").items():
        there = [entry for entry in of_role if entry.folder in runs]
        for svgs, field, plot, what in (
            (losses, curve, plot_losses, "Loss by epoch"),
            (classes, "row", plot_classes, "F1 by emotion"),
        ):
            if there:
                lines = {key: finished(found, runs) for (key,), found in group(there, field).items()}
                figure = plot(lines, numbers_of(entries, field))
                figure.axes[0].set_title(role, fontsize=9)
                svgs.append(draw(figure, f"{what}, {role}"))
    if losses:
        of_losses = "Training loss by epoch, a line a run; dotted: validation loss, where there is one."
        of_classes = "F1 by emotion over the windows with one majority label, mean over runs."
        plots += [
            Plot(losses, legend(of_losses, numbers_of(entries, curve))),
            Plot(classes, legend(of_classes, numbers_of(entries, "row"))),
        ]
    return plots


def numbers_of(entries: Sequence[Entry], field: str) -> dict[Any, int]:
    """A number for every value of a field, for its look in the plots of both roles."""
    return {key: number for number, (key,) in enumerate(group(entries, field))}


def legend(caption: str, numbers: dict[Any, int]) -> Markup:
    """The caption, and the look of every row or test split."""
    keys = [
        Markup('<span style="color:{}">{}</span>&nbsp;{}').format(
            look(number)["color"],
            MARKERS[look(number)["marker"]],
            key if isinstance(key, str) else f"test {spell(key)}",
        )
        for key, number in numbers.items()
    ]
    return Markup("{} {}").format(caption, Markup("; ").join(keys))


def row_details(role: str, row: str, runs: Sequence[Run], draw: Callable[..., Markup]) -> dict[str, Any]:
    """Confusion matrix and scatter plots of one role and configuration, all folds and seeds together."""
    arrays = {name: np.concatenate([run.arrays[name] for run in runs]) for name in runs[0].arrays}
    counts = metric.confusion_matrix(arrays["emotion_pred"], arrays["emotion"]).T  # rows: true
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    confusion = [
        (emotion, [*zip(of_row.tolist(), share.tolist(), strict=True)])
        for emotion, of_row, share in zip(EMOTIONS, counts, shares, strict=True)
    ]
    scatters = [
        draw(
            plot_affect(name, arrays[f"{name}_pred"], arrays[name]),
            f"Predicted {name} against the raters' mean, {role}, {row}",
        )
        for name in ("arousal", "valence")
    ]
    n_runs = f"{len(runs)} run" + "s" * (len(runs) > 1)
    of = f"{role}, {row}: {len(arrays['arousal']):,} windows of {n_runs}"
    return {"of": of, "confusion": confusion, "scatters": scatters}


def describe_machines(runs: Iterable[Run]) -> dict[str, str]:
    """Commit, device and versions that the runs were made with, and how many of them where they differ."""
    found: dict[str, Counter] = {}
    for run in runs:
        stored = run.configuration
        versions = stored.get("versions")
        facts = {name: stored.get(name, "unknown") for name in ("commit", "device", "training_precision")}
        for name, value in {**facts, **(versions if isinstance(versions, dict) else {})}.items():
            found.setdefault(name, Counter())[str(value)] += 1
    return {
        name.replace("_", " "): "; ".join(v if len(values) == 1 else f"{v} ({n} runs)" for v, n in values.items())
        for name, values in found.items()
    }


def write_report(folder: Path, entries: Sequence[Entry], settings: dict[str, Any]) -> None:
    """Write `<table>.csv`, `<table>.md` of every table, and `index.html` with all of them, into `folder`.

    A run whose files are damaged is listed as missing, with the reason.

    Parameters
    ----------
    entries : the tables' runs, in the order to show them
    settings : options that all runs share, by name

    Raises
    ------
    InputError : `folder` cannot be written to
    """
    import jinja2
    import matplotlib

    tables = group(entries, "table")
    folders = dict.fromkeys(entry.folder for entry in entries if entry.folder is not None)
    n_steps = len(folders) + len(tables) + len(group(entries, "table", "role", "row"))
    bar = tqdm(total=n_steps, desc="report", unit="step", delay=2, leave=False)
    runs, errors = {}, {}
    for path in folders:
        try:
            runs[path] = read_run(path)
        except InputError as error:
            errors[path] = str(error)
        bar.update()

    corpora, warning = describe_corpora(runs.values())
    published, sections, numbers = read_published(), [], itertools.count(1)

    def draw(figure: Figure, label: str) -> Markup:
        return inline_svg(figure, f"plot{next(numbers)}", label)

    for (name,), wanted in tables.items():
        wanted = sorted(wanted, key=lambda entry: ROLES.index(entry.role))
        missing = [
            f"{entry.role}, {entry.row}, sessions {spell(entry.test_split)}, seed {entry.seed}: "
            + one_line(errors.get(entry.folder) or entry.error or "not started")
            for entry in wanted
            if entry.folder not in runs
        ]
        table = summarise(wanted, runs, published)
        table["corpus"] = warning or "; ".join(corpora)
        with atomic_write(folder / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format="%.6g")
        title = f"Table {name}: {wanted[0].title}" if name[0].isdigit() else wanted[0].title
        with atomic_write(folder / f"{name}.md") as file:
            file.write(markdown(title, table, missing, warning))
        with matplotlib.rc_context(PLOT_STYLE):
            plots = table_plots(wanted, runs, draw)
            bar.update()
            details = []
            for (role, row), of_row in group(wanted, "role", "row").items():
                if there := finished(of_row, runs):
                    details.append(row_details(role, row, there, draw))
                bar.update()
        rows = [
            {**row, "count": spell_count(row), "cells": [figure_cells(row, figure) for figure in FIGURES]}
            for _, row in table.iterrows()
        ]
        section = {"title": title, "rows": rows, "missing": missing, "plots": plots, "details": details}
        sections.append(section | {"published": any(entry.published for entry in wanted)})
    bar.close()

    templates = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"value": spell_value}
    with atomic_write(folder / "index.html") as file:
        file.write(
            page.get_template("page.html").render(
                warning=warning,
                corpora=corpora,
                settings=settings,
                machines=describe_machines(runs.values()),
                n_runs=len(runs),
                n_missing=sum(entry.folder not in runs for entry in entries),
                n_entries=len(entries),
                sections=sections,
                headings=HEADINGS.values(),
                emotions=EMOTIONS,
                heat=COLOURS[0],
            )
        )
