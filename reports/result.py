"""Result: the files that a test writes from rows of predictions.csv, and what it prints in a terminal."""

from __future__ import annotations

import argparse
import contextlib
import warnings as python_warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import metric
from constants import EMOTIONS
from corpora.corpus import corpus_by_name
from corpora.sessions import format_sessions
from corpora.utterances import SHARES, read_utterances
from corpora.wavs import find_wavs
from reports.dialogues import write_dialogues_page
from reports.plots import plot_confusion, save_figure
from reports.predictions import majority_label, read_predictions, write_predictions
from utils import InputError, atomic_write, count, read_json, write_json

SINGLE_LABEL = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")  # as result.json orders them
TEXT_COLUMNS = ("corpus", "other", "difference", "low", "high")  # of the texts of the corpus and of others
LABELS = {
    "scripted": "scripted dialogues",
    "improvised": "improvised dialogues",
    "seen": "sentences in training",
    "unseen": "sentences not in it",
    "short": "under five letters",
}


def compute_result(rows: pd.DataFrame, majority: str, batch_size: int) -> dict[str, Any]:
    """The figures of rows of predictions.csv, as `result.json` holds them.

    `majority_f1` is the published F1 (by batch, all windows) of always predicting the label `majority`, and `majority`
    has the other figures of that baseline.
    """
    found, baseline = metric.figures(rows), metric.with_prediction(rows, majority)
    majority_f1 = float(metric.batch_figures(baseline, 1, batch_size)[:, 2].mean())
    overall = {"n": found["n"], "n_single_label": found["n_single_label"], "majority_label": majority}
    overall |= {"majority_f1": round(majority_f1, 4)} | rounded(found, ("arousal_mae", "valence_mae"))
    if found["n_single_label"]:
        overall |= rounded(found, SINGLE_LABEL)
        overall |= {"majority": rounded(metric.figures(baseline), SINGLE_LABEL), "classes": metric.class_figures(rows)}
    rated = [f"ccc_{name}" for name in metric.AFFECT if rows[f"true_{name}"].notna().any()]
    return metric.published_figures(rows, batch_size) | rounded(found, rated) | {"overall": overall}


def figures_by_part(rows: pd.DataFrame, majority: str) -> dict[str, dict[str, Any]]:
    """The figures of the whole test and of its parts (see `LABELS`), as `result.json` holds them under `parts`.

    `majority` and `lookup` have the figures of these two baselines. What is not defined is left out.
    """
    parts, baselines = {"whole": rows["segment_id"].notna()}, {"majority": majority}
    if rows["scripted"].notna().all():
        parts |= {"scripted": rows["scripted"].isin([True]), "improvised": rows["scripted"].isin([False])}
    if rows["lookup"].notna().any():
        parts |= {"seen": rows["seen"].isin([True]), "unseen": rows["seen"].isin([False]), "short": rows["seen"].isna()}
        baselines["lookup"] = rows["lookup"]
    predicted = {name: metric.with_prediction(rows, labels) for name, labels in baselines.items()}
    found = {}
    for name, inside in parts.items():
        own, dialogues = metric.figures(rows[inside]), rows.loc[inside, "dialogue"].unique()
        found[name] = {"n": own["n"], "n_single_label": own["n_single_label"], "dialogues": len(dialogues)}
        if own["n_single_label"]:
            found[name] |= rounded(own, SINGLE_LABEL)
            found[name] |= {of: rounded(metric.figures(t[inside]), SINGLE_LABEL) for of, t in predicted.items()}
        if own["n"]:
            found[name] |= rounded(own, ("ccc_arousal", "ccc_valence"))
    return found


def rounded(found: Mapping[str, float], names: Sequence[str]) -> dict[str, float | None]:
    """These figures, to four decimals as in `result.json`, None where one is NaN."""
    return {name: None if np.isnan(found[name]) else round(float(found[name]), 4) for name in names}


def dialogue_intervals(rows: pd.DataFrame, majority: str) -> dict[str, dict[str, Any]]:
    """95% bootstrap intervals over dialogues, None where there is none.

    `intervals` are of `WHOLE_FIGURES`, `against_majority` is of F1 less that of always predicting `majority`.
    """
    sums, baseline = (metric.dialogue_sums(table) for table in (rows, metric.with_prediction(rows, majority)))
    bounds = metric.bootstrap([sums[:, None]])[["low", "high"]]
    pairs = {name: [*rounded(bounds.loc[name], ("low", "high")).values()] for name in metric.WHOLE_FIGURES}
    difference = metric.bootstrap([np.stack([baseline, sums], axis=1)[:, None]]).loc["F1"]
    against = rounded(difference.rename({"value": "f1_difference"}), ("f1_difference", "low", "high"))
    return {
        "against_majority": against | {"dialogues": len(sums)},
        "intervals": {name: None if None in pair else pair for name, pair in pairs.items()},
    }


def result_of_test(rows: pd.DataFrame, options: argparse.Namespace, train_rows: pd.DataFrame) -> dict[str, Any]:
    """The figures of a test, as `result.json` has them; `rows` are those of `predictions_table` with `train_rows`."""
    if not len(train_rows):
        python_warnings.warn("no training session: the most frequent label is that of the tested windows", stacklevel=2)
    majority = majority_label(train_rows, rows)
    result = compute_result(rows, majority, options.batch_size)
    chosen = "the last one"
    if options.select == "best":
        sessions = format_sessions(options.valid_split or [])
        chosen = f"best by {options.monitor} on the validation sessions {sessions}".rstrip()
    result |= dialogue_intervals(rows, majority)
    result |= {"corpus": rows["corpus"].iloc[0], "parts": figures_by_part(rows, majority)}
    return result | {"epochs": options.epochs, "chosen": chosen}


def write_test(folder: Path, rows: pd.DataFrame, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the files of a test into `folder`, `result.json` last.

    `result` is of `result_of_test`, with `epoch` (of the tested weights, None where it is not known), `missing` (ids of
    the utterances that lack a feature, by its name), `warnings`, and `batch_norm` (see `compare_statistics`).
    """
    write_predictions(folder / "predictions.csv", rows)
    write_confusion(folder, metric.confusion_matrix(rows))
    if not options.no_pages:
        write_page_of_test(folder, rows, options, result["warnings"])
    write_json(folder / "result.json", result)  # with it the run is finished


def write_other_texts(folder: Path, rows: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    """Write the predictions from other texts; returns the figures of both, and the difference with its 95% interval."""
    write_predictions(folder / "predictions_other_texts.csv", other)
    sums = np.stack([metric.dialogue_sums(table) for table in (rows, other)], axis=1)
    found = metric.bootstrap([sums[:, None]]).rename(columns={"value": "difference"})
    found = found.assign(corpus=pd.Series(metric.figures(rows)), other=pd.Series(metric.figures(other)))
    return {"other_texts": {name: rounded(found.loc[name], TEXT_COLUMNS) for name in metric.WHOLE_FIGURES}}


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


def complete_test(folder: Path, options: argparse.Namespace) -> None:
    """Print that a run has finished, and write its `dialogues.html` if it is missing and `--no_pages` is not given."""
    print(f"{folder}: finished already")
    if not options.no_pages and not (folder / "dialogues.html").exists():
        rows = read_predictions(folder / "predictions.csv")
        with contextlib.suppress(InputError, KeyError):  # the corpus may be gone, which has the raters' shares
            table = read_utterances(options.data_path, options.SorL).set_index("id")
            rows[SHARES] = table.loc[rows["segment_id"], SHARES].to_numpy()
        write_page_of_test(folder, rows, options, read_json(folder / "result.json")["warnings"])


def write_confusion(folder: Path, confusion: np.ndarray) -> None:
    """Write `confusion.txt`, predicted labels in rows as published, and `confusion.png`."""
    macro = ", ".join(f"{name} {value:.4f}" for name, value in metric.matched_macro(confusion).items())
    text = "rows: predicted, columns: true, as published (true ones are the rows everywhere else); "
    text += "a window with k true labels adds its k likeliest ones\n"
    text += pd.DataFrame(confusion.T, index=EMOTIONS, columns=EMOTIONS).to_string()
    with atomic_write(folder / "confusion.txt") as file:
        file.write(f"{text}\nof these counts, macro {macro}\n")
    save_figure(plot_confusion(confusion, EMOTIONS), folder / "confusion.png")


def format_difference(value: float) -> str:
    """`+.012`, or `-` for NaN."""
    return "-" if np.isnan(value) else f"{round(value, 3) + 0.0:+.3f}".replace("0.", ".", 1)


def format_interval(low: float, high: float) -> str:
    """`.601 to .660`, or '' for NaN."""
    return "" if np.isnan(low) or np.isnan(high) else f"{low:.3f} to {high:.3f}".replace("0.", ".")


def result_text(result: dict[str, Any], folder: Path, options: argparse.Namespace) -> str:
    """The content of a `result.json` for a terminal; macro F1 is first for a corpus that is mostly of one emotion."""
    corpus, whole = corpus_by_name(result["corpus"]), result["parts"]["whole"]
    heading = f"{options.SorL}, {result['corpus']}, sessions {format_sessions(options.test_split)}: "
    heading += f"{count(whole['n'], 'window')} of {count(whole['dialogues'], 'dialogue')}, "
    heading += f"{whole['n_single_label']} of them with one majority label"
    if result["epoch"] is not None:
        heading += f"\nweights of epoch {result['epoch']} of {result['epochs']}, {result['chosen']}"
    if found := result["batch_norm"]:
        kind = {"running": "running statistics", "train": "statistics of training windows"}[found["statistics"]]
        heading += f"\nbatch norm: {kind}; loss of {found['windows']:,} training windows {found['loss']:.3f}"
        heading += f", with each batch's own statistics {found['loss_of_batches']:.3f}"
    overall = overall_table(result)
    if corpus and corpus.imbalanced:
        overall = overall.sort_index(key=lambda names: names != "macro F1", kind="stable")
    blocks = [heading]
    texts = pd.DataFrame(result.get("other_texts", {})).T.rename(index=metric.HEADINGS).rename_axis("texts of", axis=1)
    for table in (overall, parts_table(result["parts"]), texts.astype(object)):
        table = table.map(lambda value: "" if pd.isna(value) else f"{value:.3f}" if isinstance(value, float) else value)
        blocks += [table.to_string()] if len(table) else []
    return "\n" + "\n\n".join([*blocks, f"{verdict(result)}\nrun folder: {folder}"])


def overall_table(result: dict[str, Any]) -> pd.DataFrame:
    """The figures over the whole test set and by batch, beside those of the two baselines."""
    overall, whole = result["overall"], result["parts"]["whole"]
    bounds = {name: format_interval(*pair) for name, pair in result["intervals"].items() if pair}
    columns = {"MATE": overall | result, f"{metric.CONFIDENCE:.0%} interval": bounds}
    columns[f"always {overall['majority_label']}"] = overall.get("majority", {}) | {"F1": overall["majority_f1"]}
    columns["sentence looked up"] = whole.get("lookup")
    by_batch = [name + k for k in ("", "@2") for name in metric.BATCH_FIGURES]
    words = {"n": "windows", "balanced_accuracy": "balanced accuracy", "arousal_mae": "arousal MAE"}
    words |= {"valence_mae": "valence MAE"} | {name: f"{name} by batch (paper)" for name in by_batch}
    names = [*metric.WHOLE_FIGURES, *("balanced_accuracy", "arousal_mae", "valence_mae", "n"), *by_batch]
    table = pd.DataFrame({text: pd.Series(column, names, object) for text, column in columns.items() if column})
    table = table[table["MATE"].notna()]  # without a window of one label there is neither accuracy nor F1
    return table.rename(index=metric.HEADINGS | words).rename_axis("whole test set", axis=1)


def parts_table(parts: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each part of the test but the whole; `looked up` is the weighted F1 of the column `lookup`."""
    columns = {"n": "windows", "n_single_label": "1 label", "dialogues": "dialogues"}
    columns |= {name: metric.HEADINGS[name] for name in metric.SINGLE_LABEL_FIGURES}
    columns |= {"ccc_arousal": "CCC A", "ccc_valence": "CCC V", "lookup.weighted_f1": "looked up"}
    names = [name for name in LABELS if name in parts]
    table = pd.json_normalize([parts[name] for name in names]).set_axis([LABELS[name] for name in names])
    table = table.reindex(columns=[*columns]).rename(columns=columns).dropna(axis=1, how="all").astype(object)
    return table.rename_axis("by dialogue and sentence", axis=1)


def verdict(result: dict[str, Any]) -> str:
    """Whether the model beats always predicting the commonest training label: the interval must lie above 0."""
    found, baseline = result["against_majority"], f"always predicting {result['overall']['majority_label']}"
    low, high = (np.nan if found[name] is None else found[name] for name in ("low", "high"))  # of a single dialogue
    words = "better than" if low > 0 else "worse than" if high < 0 else "not shown to be better than"
    difference, interval = format_difference(found["f1_difference"]), format_interval(low, high) or "not defined"
    text = f"verdict: {words} {baseline}\ndifference in F1 over all windows: {difference} "
    return text + f"(95% interval {interval}, {count(found['dialogues'], 'dialogue')})"
