"""Result: the figures of a test, as result.json holds them and as a terminal shows them."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import metric
from corpora.corpus import corpus_by_name
from corpora.sessions import format_sessions
from corpora.utterances import shares
from metric import rounded
from reports.calibration import calibrate
from reports.groups import figures_by_group
from reports.people import figures_of_people
from reports.predictions import baselines, majority_label
from utils import count

SINGLE_LABEL = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")  # as result.json orders them
COMPARED = {name: metric.HEADINGS[name] for name in ("weighted_f1", "macro_f1")}  # with people and baselines
COMPARED |= {"accuracy": "accuracy (WA)", "balanced_accuracy": "balanced accuracy (UA)"}
COMPARED |= {name: metric.HEADINGS[name] for name in ("ccc_arousal", "ccc_valence")}
GROUP_COLUMNS = {"n": "windows", "n_single_label": "1 label", "dialogues": "dialogues"}
GROUP_COLUMNS |= {name: metric.HEADINGS[name] for name in metric.SINGLE_LABEL_FIGURES}
GROUP_COLUMNS |= {"ccc_arousal": "CCC A", "ccc_valence": "CCC V", "lookup.weighted_f1": "looked up"}
VERDICT = "macro_f1"  # the figure by which a model is judged: answering the commonest label alone gives next to none


def compute_result(rows: pd.DataFrame, majority: str, batch_size: int) -> dict[str, Any]:
    """The figures of rows of predictions.csv, as `result.json` holds them.

    `majority_f1` is the published F1 (by batch, all windows) of always predicting the label `majority`; `majority` and
    `lookup` have the other figures of that baseline, and of the label that the sentence has in training.
    """
    found, answers = metric.figures(rows), baselines(rows, majority)
    majority_f1 = float(metric.batch_figures(answers["majority"], 1, batch_size)[:, 2].mean())
    overall = {"n": found["n"], "n_single_label": found["n_single_label"], "majority_label": majority}
    overall |= {"dialogues": rows["dialogue"].nunique(dropna=False)}
    overall |= {"majority_f1": round(majority_f1, 4)} | rounded(found, ("arousal_mae", "valence_mae"))
    if found["n_single_label"]:
        overall |= rounded(found, SINGLE_LABEL) | {"classes": metric.class_figures(rows)}
        overall |= {name: rounded(metric.figures(table), SINGLE_LABEL) for name, table in answers.items()}
    rated = [f"ccc_{name}" for name in metric.AFFECT if rows[f"true_{name}"].notna().any()]
    return metric.published_figures(rows, batch_size) | rounded(found, rated) | {"overall": overall}


def judge(rows: pd.DataFrame, majority: str) -> dict[str, Any]:
    """`verdict` of result.json: the macro F1 of the model and of each baseline over the whole test set.

    Of a baseline it has the `value`, the model's `difference` from it and the 95% `interval` of that, over dialogues.
    """
    sums, model = metric.dialogue_sums(rows), round(metric.figures(rows)[VERDICT], 4)
    found = {"figure": VERDICT, "dialogues": len(sums), "model": model}
    for name, table in baselines(rows, majority).items():
        bounds = metric.bootstrap([np.stack([metric.dialogue_sums(table), sums], axis=1)[:, None]]).loc[VERDICT]
        value = round(metric.figures(table)[VERDICT], 4)
        found[name] = {"value": value, "difference": round(model - value, 4)}
        found[name]["interval"] = metric.bounds_of(bounds[["low", "high"]])
    return found


def result_of_test(
    rows: pd.DataFrame,
    options: argparse.Namespace,
    table: pd.DataFrame,
    train_rows: pd.DataFrame,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """The figures of a test, as result.json has them.

    `rows` are those of `predictions_table` with `train_rows`, `table` the tested utterances of `read_utterances`.
    """
    if not len(train_rows):
        warnings.warn("no training session: the most frequent label is that of the tested windows", stacklevel=2)
    majority = majority_label(train_rows, rows)
    result = compute_result(rows, majority, options.batch_size)
    chosen = "the last one"
    if options.select == "best":
        sessions = format_sessions(options.valid_split or [])
        chosen = f"best by {options.monitor} on the validation sessions {sessions}".rstrip()
    bounds = metric.bootstrap([metric.dialogue_sums(rows)[:, None]])[["low", "high"]]
    result["intervals"] = {name: metric.bounds_of(bounds.loc[name]) for name in metric.WHOLE_FIGURES}
    if result["overall"]["n_single_label"]:
        result["verdict"] = judge(rows, majority)
    prior = shares(train_rows if len(train_rows) else table).mean(axis=0)
    result |= {"raters": figures_of_people(table), "calibration": calibrate(rows, prior, temperature)}
    result |= {"corpus": rows["corpus"].iloc[0], "groups": figures_by_group(rows, majority)}
    return result | {"epochs": options.epochs, "chosen": chosen}


# In a terminal


def format_difference(value: float) -> str:
    """`+.012`, or `-` for NaN."""
    return "-" if np.isnan(value) else f"{round(value, 3) + 0.0:+.3f}".replace("0.", ".", 1)


def format_interval(low: float, high: float) -> str:
    """`.601 to .660`, or '' for NaN."""
    return "" if np.isnan(low) or np.isnan(high) else f"{low:.3f} to {high:.3f}".replace("0.", ".")


def format_cell(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:.3f}" if isinstance(value, float) else str(value)


def result_text(result: dict[str, Any], folder: Path, options: argparse.Namespace) -> str:
    """The content of a `result.json` for a terminal; macro F1 is first for a corpus that is mostly of one emotion."""
    corpus, overall = corpus_by_name(result["corpus"]), result["overall"]
    heading = f"{options.SorL}, {result['corpus']}, sessions {format_sessions(options.test_split)}: "
    heading += f"{count(overall['n'], 'window')} of {count(overall['dialogues'], 'dialogue')}, "
    heading += f"{overall['n_single_label']} of them with one majority label"
    if result["epoch"] is not None:
        heading += f"\nweights of epoch {result['epoch']} of {result['epochs']}, {result['chosen']}"
    heading += "".join(f"\n{line}" for line in result["encoders"])
    if found := result["batch_norm"]:
        kind = {"running": "running statistics", "train": "statistics of training windows"}[found["statistics"]]
        heading += f"\nbatch norm: {kind}; loss of {found['windows']:,} training windows {found['loss']:.3f}"
        heading += f", with each batch's own statistics {found['loss_of_batches']:.3f}"
    table = whole_table(result)
    if corpus and corpus.imbalanced:
        table = table.sort_index(key=lambda names: names != "macro F1", kind="stable")
    blocks = [heading, table.map(format_cell).to_string()]
    for name in ("dialogue", "sentence"):
        if name in result["groups"]:
            blocks.append(group_table(result["groups"][name]).rename_axis(name, axis=1).to_string())
    if "other_texts" in result:
        texts = pd.DataFrame(result["other_texts"]).T.rename(index=metric.HEADINGS).rename_axis("texts of", axis=1)
        blocks.append(texts.astype(object).map(format_cell).to_string())
    lines = [people_text(result["raters"]), calibration_text(result), verdict_text(result)]
    return "\n" + "\n\n".join([*blocks, "\n".join([*lines, f"run folder: {folder}"])])


def whole_table(result: dict[str, Any]) -> pd.DataFrame:
    """The figures over the whole test set and by batch, beside those of people and of the baselines."""
    overall = result["overall"]
    bounds = {name: format_interval(*pair) for name, pair in result["intervals"].items() if pair}
    columns = {"MATE": overall | result, f"{metric.CONFIDENCE:.0%} interval": bounds}
    columns["one rater"] = result["raters"] and result["raters"]["mean"]
    columns[f"always {overall['majority_label']}"] = overall.get("majority", {}) | {"F1": overall["majority_f1"]}
    columns["sentence looked up"] = overall.get("lookup")
    words = COMPARED | {f"{name}_mae": f"{name} MAE" for name in metric.AFFECT} | {"n": "windows"}
    words |= {name + k: f"{name}{k} by batch (paper)" for k in ("", "@2") for name in metric.BATCH_FIGURES}
    table = pd.DataFrame({text: pd.Series(column, [*words], object) for text, column in columns.items() if column})
    table = table[table["MATE"].notna()]  # without a window of one label there is neither accuracy nor F1
    return table.rename(index=words).rename_axis("whole test set", axis=1)


def group_table(groups: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row of text for each group."""
    table = pd.json_normalize([*groups.values()]).set_axis([*groups]).reindex(columns=[*GROUP_COLUMNS])
    return table.rename(columns=GROUP_COLUMNS).dropna(axis=1, how="all").astype(object).map(format_cell)


def people_text(people: Mapping[str, Any] | None) -> str:
    if people is None:
        return "raters: the table has no single ratings (Emotion.1, Arousal.1, Valence.1, ...) of two raters or more"
    alpha = ", ".join(f"{name} {format_cell(value) or '-'}" for name, value in people["alpha"].items())
    least, best = (format_cell(people[which][VERDICT]) or "-" for which in ("least", "best"))
    return f"{people['n_raters']} raters: macro F1 {least} to {best}; Krippendorff's alpha: {alpha}"


def calibration_text(result: Mapping[str, Any]) -> str:
    def text(of: Mapping[str, Any]) -> str:
        return f"expected error {of['ece']:.3f}, Brier score {of['brier']:.3f}, KL divergence {of['kl']:.3f}"

    found = result["calibration"]
    lines = [f"calibration: {text(found)} (training's mean shares {found['kl_constant']:.3f})"]
    if before := found.get("without_temperature"):
        lines.append(f"without the temperature of {result['temperature']:.3f}: {text(before)}")
    return "\n".join(lines)


def verdict_text(result: dict[str, Any]) -> str:
    """Whether the model beats each baseline in macro F1: the interval of the difference must lie above 0."""
    found = result.get("verdict")
    if found is None:
        return "verdict: none, no window has a single majority label"
    lines, label = [], result["overall"]["majority_label"]
    names = {"majority": f"always answering {label}", "lookup": "the sentence looked up in training"}
    for name in [name for name in names if name in found]:
        other, (low, high) = found[name]["value"], found[name]["interval"] or (np.nan, np.nan)
        words = "better than" if low > 0 else "worse than" if high < 0 else "not shown to differ from"
        difference = format_difference(round(found["model"], 3) - round(other, 3))
        interval, over = format_interval(low, high) or "not defined", count(found["dialogues"], "dialogue")
        lines.append(f"{words} {names[name]}, {other:.3f}: {difference} (95% interval {interval}, {over})")
    return f"verdict: macro F1 {found['model']:.3f} is " + "\n         and ".join(lines)
