"""Run files: what a test writes into its folder: predictions, figures, plots, and two pages.

`result.html` holds no text of the corpus and can be shared; `dialogues.html` holds the texts and plays the wavs.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings as python_warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

import metric
from constants import EMOTIONS
from corpora.sessions import format_sessions
from corpora.wavs import find_wavs
from reports.dialogues import write_dialogues_page, write_page
from reports.groups import MIN_DIALOGUES, MIN_WINDOWS
from reports.plots import PLOT_STYLE, plot_confusion, plot_reliability, save_figure, svg_url
from reports.result import COMPARED, verdict_text
from utils import InputError, atomic_write, write_csv, write_json

TEXT_COLUMNS = ("corpus", "other", "difference", "low", "high")  # of the texts of the corpus and of others


def write_test(folder: Path, rows: pd.DataFrame, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the files of a test into `folder`, `result.json` last.

    `result` is of `result_of_test`, with `epoch` (of the tested weights, None where it is not known), `missing` (ids of
    the utterances that lack a feature, by its name), `encoders` (lines of text), `warnings`, and `batch_norm` (see
    `compare_statistics`).
    """
    write_csv(folder / "predictions.csv", rows)
    confusion = metric.confusion_matrix(rows)
    write_confusion(folder, confusion)
    save_figure(plot_reliability(result["calibration"]), folder / "reliability.png")
    write_run_page(folder, rows, options, result)
    if not options.no_pages:
        write_page_of_test(folder, rows, options, result["warnings"])
    write_json(folder / "result.json", result)  # with it the run is finished


def write_other_texts(folder: Path, rows: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    """Write the predictions from other texts; returns the figures of both, and the difference with its 95% interval."""
    write_csv(folder / "predictions_other_texts.csv", other)
    sums = np.stack([metric.dialogue_sums(table) for table in (rows, other)], axis=1)
    found = metric.bootstrap([sums[:, None]]).rename(columns={"value": "difference"})
    found = found.assign(corpus=pd.Series(metric.figures(rows)), other=pd.Series(metric.figures(other)))
    return {"other_texts": {name: metric.rounded(found.loc[name], TEXT_COLUMNS) for name in metric.WHOLE_FIGURES}}


def write_page_of_test(folder: Path, rows: pd.DataFrame, options: argparse.Namespace, warnings: Sequence[str]) -> None:
    """Write `dialogues.html`, with a warning where the wavs are gone, which it plays."""
    note = f"Run {folder.absolute().name}: {len(rows)} tested utterances. The texts are part of the corpus: "
    note += "its licence does not permit sharing them, and so not this page."
    wavs, about = {}, {"role": options.SorL, "notes": [note], "warnings": warnings}
    with contextlib.suppress(InputError, OSError):
        wavs = find_wavs(options.data_path, options.audio_path)
    if not wavs:
        python_warnings.warn(f"{options.data_path}: no wav there; {folder}/dialogues.html has no sound", stacklevel=2)
    write_dialogues_page(folder / "dialogues.html", rows, wavs, title="Tested dialogues", **about)


def write_confusion(folder: Path, confusion: np.ndarray) -> None:
    """Write `confusion.txt`, predicted labels in rows as published, and `confusion.png`."""
    macro = ", ".join(f"{name} {value:.4f}" for name, value in metric.matched_macro(confusion).items())
    text = "rows: predicted, columns: true, as published (true ones are the rows everywhere else); "
    text += "a window with k true labels adds its k likeliest ones\n"
    text += pd.DataFrame(confusion.T, index=EMOTIONS, columns=EMOTIONS).to_string()
    with atomic_write(folder / "confusion.txt") as file:
        file.write(f"{text}\nof these counts, macro {macro}\n")
    save_figure(plot_confusion(confusion, EMOTIONS), folder / "confusion.png")


# The page of figures


def write_run_page(folder: Path, rows: pd.DataFrame, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write `result.html` of a test; `result` is as in result.json.

    Confusions are over windows with one label, since a rater has no second answer as `confusion_matrix` counts it.
    """
    confusions = {"MATE": metric.confusion_matrix(rows[rows["true_emotion"].isin(EMOTIONS)])}
    if result["raters"] is not None:
        confusions["one rater, of the others' majority"] = np.array(result["raters"]["confusion"])
    maps = {}
    for title, confusion in confusions.items():
        shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        styler = Styler(pd.DataFrame(shares, EMOTIONS, EMOTIONS), precision=3, uuid=f"{len(maps)}", cell_ids=False)
        maps[title] = styler.background_gradient("Blues", axis=None).to_html()
    with matplotlib.rc_context(PLOT_STYLE):
        reliability = svg_url(plot_reliability(result["calibration"]))
    parts = {
        "name": folder.absolute().name,
        "about": f"{options.SorL}, {result['corpus']}, sessions {format_sessions(options.test_split)}",
        "result": result,
        "verdict": verdict_text(result).removeprefix("verdict: "),
        "compared": COMPARED,
        "figures": {name: metric.HEADINGS[name] for name in metric.WHOLE_FIGURES},
        "emotions": EMOTIONS,
        "maps": maps,
        "reliability": reliability,
        "least": f"{MIN_WINDOWS} windows with one majority label or {MIN_DIALOGUES} dialogues",
    }
    write_page(folder / "result.html", "result.html", "sort.js", parts)
