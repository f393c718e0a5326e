"""Run files: the files that a test writes into its folder: predictions, figures, plots, and two pages.

`result.html` contains no transcripts and can be shared; `dialogues.html` contains transcripts and plays audio files.
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
from reports.dialogues import say, write_dialogues_page, write_page
from reports.groups import MIN_DIALOGUES, MIN_WINDOWS
from reports.plots import PLOT_STYLE, plot_confusion, plot_reliability, save_figure, svg_url
from reports.result import COMPARED
from utils import InputError, atomic_write, write_csv, write_json

TEXT_COLUMNS = ("corpus", "other", "difference", "low", "high")  # of the texts of the corpus and of others


def write_test(folder: Path, rows: pd.DataFrame, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the files of a test into `folder`, `result.json` last.

    `result` is of `result_of_test`, with `epoch` (of the tested weights, None if unknown), `missing` (ids of the
    utterances that lack a feature, by its name), `encoders` (lines of text), `warnings`, and `batch_norm` (see
    `compare_statistics`).
    """
    write_csv(folder / "predictions.csv", rows)
    confusion = metric.confusion_matrix(rows)
    write_confusion(folder, confusion)
    save_figure(plot_reliability(result["calibration"]), folder / "reliability.png")
    write_run_page(folder, rows, options, result)
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
    """Write `dialogues.html`; warn if the audio files that it plays are missing."""
    wavs, about = {}, {"role": options.SorL, "run": folder.absolute().name, "warnings": warnings}
    with contextlib.suppress(InputError, OSError):
        wavs = find_wavs(options.data_path, options.audio_path)
    if not wavs:
        where = folder / "dialogues.html"
        python_warnings.warn(f"{options.data_path}: no wav files found; {where} cannot play audio", stacklevel=2)
    write_dialogues_page(folder / "dialogues.html", rows, wavs, title="Tested dialogues", **about)


def write_confusion(folder: Path, confusion: np.ndarray) -> None:
    """Write `confusion.txt`, predicted labels in rows as published, and `confusion.png`."""
    macro = ", ".join(f"{name} {value:.4f}" for name, value in metric.matched_macro(confusion).items())
    text = "rows: predicted labels, columns: true labels, as in the published program (transposed in other files); "
    text += "a window with k true labels counts its k most probable emotions\n"
    text += pd.DataFrame(confusion.T, index=EMOTIONS, columns=EMOTIONS).to_string()
    with atomic_write(folder / "confusion.txt") as file:
        file.write(f"{text}\nmacro averages of these counts: {macro}\n")
    save_figure(plot_confusion(confusion, EMOTIONS), folder / "confusion.png")


def write_run_page(folder: Path, rows: pd.DataFrame, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write `result.html` of a test; `result` is as in result.json.

    Confusions are over windows with one label, since a rater has no second answer as `confusion_matrix` counts it.
    """
    confusions = {"MATE": metric.confusion_matrix(rows[rows["true_emotion"].isin(EMOTIONS)])}
    if result["raters"] is not None:
        confusions["one rater"] = np.array(result["raters"]["confusion"])
    maps = {}
    for title, confusion in confusions.items():
        shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        styler = Styler(pd.DataFrame(shares, EMOTIONS, EMOTIONS), precision=3, uuid=f"{len(maps)}", cell_ids=False)
        styler = styler.background_gradient("Blues", axis=None).format_index(say, axis=0).format_index(say, axis=1)
        maps[title] = styler.to_html()
    with matplotlib.rc_context(PLOT_STYLE):
        reliability = svg_url(plot_reliability(result["calibration"]))
    parts = {
        "name": folder.absolute().name,
        "role": options.SorL,
        "sessions": format_sessions(options.test_split),
        "result": result,
        "compared": COMPARED,
        "figures": {name: COMPARED[name] for name in metric.WHOLE_FIGURES},
        "emotions": EMOTIONS,
        "maps": maps,
        "reliability": reliability,
        "min_windows": MIN_WINDOWS,
        "min_dialogues": MIN_DIALOGUES,
    }
    write_page(folder / "result.html", "result.html", "sort.js", parts)
