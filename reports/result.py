"""Result: the figures of a test, for result.json and for the terminal."""

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
from metric import HEADINGS, rounded
from reports.calibration import calibrate
from reports.groups import figures_by_group
from reports.people import figures_of_people
from reports.predictions import baselines, majority_label
from utils import count

SINGLE_LABEL = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")  # in the order of result.json
CCC = ("ccc_arousal", "ccc_valence")
COMPARED = {name: HEADINGS[name] for name in ("weighted_f1", "macro_f1", "accuracy")}  # with raters and baselines
COMPARED |= {"balanced_accuracy": "balanced accuracy (UA)"} | {name: HEADINGS[name] for name in CCC}
SHOWN_OF_GROUP = {"n": "windows", "dialogues": "dialogues", "macro_f1": "macro F1"}
SHOWN_OF_GROUP |= {"lookup.macro_f1": "sentence lookup"} | {name: HEADINGS[name] for name in CCC}
VERDICT = "macro_f1"  # close to 0 for a model that always predicts the majority class


def compute_result(rows: pd.DataFrame, majority: str, batch_size: int) -> dict[str, Any]:
    """The figures of rows of predictions.csv, as in `result.json`.

    `majority` and `lookup` hold the baselines' figures, `majority_f1` the published F1 of predicting `majority`.
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
    """`verdict` of result.json: compares the macro F1 of the model and of each baseline over the whole test set.

    Each baseline has its `value`, the `difference` of the model from it, and the 95% `interval` of the difference.
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
    """The figures of a test, as in result.json.

    `rows` come from `predictions_table` with `train_rows`; `table` has the tested utterances of `read_utterances`.
    """
    if not len(train_rows):
        warnings.warn("no training sessions: the majority class is that of the test windows", stacklevel=2)
    majority = majority_label(train_rows, rows)
    result = compute_result(rows, majority, options.batch_size)
    chosen = "the last"
    if options.select != "last":
        chosen = f"best {options.select} on validation sessions {format_sessions(options.valid_split or [])}".rstrip()
    bounds = metric.bootstrap([metric.dialogue_sums(rows)[:, None]])[["low", "high"]]
    result["intervals"] = {name: metric.bounds_of(bounds.loc[name]) for name in metric.WHOLE_FIGURES}
    if result["overall"]["n_single_label"]:
        result["verdict"] = judge(rows, majority)
    prior = shares(train_rows if len(train_rows) else table).mean(axis=0)
    result |= {"raters": figures_of_people(table), "calibration": calibrate(rows, prior, temperature)}
    result |= {"corpus": rows["corpus"].iloc[0], "groups": figures_by_group(rows, majority)}
    return result | {"epochs": options.epochs, "chosen": chosen}


def format_difference(value: float) -> str:
    """`+.012`, or `-` for NaN."""
    return "-" if np.isnan(value) else f"{round(value, 3) + 0.0:+.3f}".replace("0.", ".", 1)


def format_interval(low: float, high: float) -> str:
    """`[.601, .660]`, or '' for NaN."""
    return "" if np.isnan(low) or np.isnan(high) else f"[{low:.3f}, {high:.3f}]".replace("0.", ".")


def format_cell(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:.3f}" if isinstance(value, float) else str(value)


def result_text(result: dict[str, Any], folder: Path, options: argparse.Namespace) -> str:
    """A summary of `result.json` for the terminal, of at most 25 lines; macro F1 is first for an imbalanced corpus."""
    corpus, overall = corpus_by_name(result["corpus"]), result["overall"]
    heading = f"{options.SorL}, {result['corpus']}, sessions {format_sessions(options.test_split)}: "
    heading += f"{count(overall['n'], 'window')} of {count(overall['dialogues'], 'dialogue')}, "
    heading += f"{overall['n_single_label']} with one majority label\n"
    if result["epoch"] is not None:
        heading += f"epoch {result['epoch']} of {result['epochs']} ({result['chosen']}); "
    heading += f"majority class: {overall['majority_label']}"
    table = whole_table(result)
    if corpus and corpus.imbalanced:
        table = table.sort_index(key=lambda names: names != "macro F1", kind="stable")
    tables = [table.map(format_cell), group_table(result["groups"])]
    if "other_texts" in result:
        tables[1] = other_texts_table(result["other_texts"])
    blocks = [heading]
    blocks += [table.to_string(col_space=[len(name) + 1 for name in table]) for table in tables if len(table)]
    lines = [people_text(result["raters"]), calibration_text(result), verdict_text(result)]
    lines += [f"details:    {folder / 'result.html'}", f"run folder: {folder}"]
    return "\n" + "\n\n".join([*blocks, "\n".join(lines)])


def whole_table(result: dict[str, Any]) -> pd.DataFrame:
    """The figures over the whole test set and F1 by batch, beside those of raters and of the baselines."""
    overall = result["overall"]
    bounds = {name: format_interval(*pair) for name, pair in result["intervals"].items() if pair}
    columns = {"MATE": overall | result, f"{metric.CONFIDENCE:.0%} interval": bounds}
    columns["one rater"] = result["raters"] and result["raters"]["mean"]
    columns["majority class"] = overall.get("majority", {}) | {"F1": overall["majority_f1"]}
    columns["sentence lookup"] = overall.get("lookup")
    headings = COMPARED | {"F1": "F1 by batch (paper)"}
    table = pd.DataFrame({text: pd.Series(column, [*headings], object) for text, column in columns.items() if column})
    return table[table["MATE"].notna()].rename(index=headings)  # without one majority label there is no accuracy or F1


def group_table(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """The groups by dialogue type and sentence as text, a row each."""
    labels = [(name, label) for name in ("dialogue type", "sentence") for label in groups.get(name, {})]
    shown = {f"{name}: {label}": groups[name][label] for name, label in labels if label != "under five letters"}
    table = pd.json_normalize([*shown.values()]).set_axis([*shown]).reindex(columns=[*SHOWN_OF_GROUP])
    table = table.dropna(subset="macro_f1").dropna(axis=1, how="all")  # small groups have no metrics
    return table.rename(columns=SHOWN_OF_GROUP).astype(object).map(format_cell)


def other_texts_table(texts: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """The figures with the transcripts of the corpus and with others, as text; result.json also has the accuracy."""
    table = pd.DataFrame(texts).T.drop(index="accuracy").rename(index=HEADINGS).astype(float)
    intervals = [*map(format_interval, table["low"], table["high"])]
    shown = table[["corpus", "other"]].map(format_cell).set_axis(["corpus transcripts", "other transcripts"], axis=1)
    return shown.assign(difference=table["difference"].map(format_difference), **{"95% interval": intervals})


def people_text(people: Mapping[str, Any] | None) -> str:
    if people is None:
        return "raters: the corpus has no ratings of single raters"
    alpha = ", ".join(f"{name} {format_cell(value) or '-'}" for name, value in people["alpha"].items())
    least, best = (format_cell(people[which][VERDICT]) or "-" for which in ("least", "best"))
    return f"raters: {people['n_raters']}, macro F1 {least} to {best}; Krippendorff's alpha: {alpha}"


def calibration_text(result: Mapping[str, Any]) -> str:
    found = result["calibration"]
    text = "calibration: error {ece:.3f}, Brier score {brier:.3f}, KL divergence {kl:.3f}".format(**found)
    if before := found.get("without_temperature"):
        without = "error {ece:.3f}, Brier {brier:.3f}, KL {kl:.3f}".format(**before)
        return f"{text}; without the temperature of {result['temperature']:.3f}: {without}"
    return f"{text} (baseline of mean training shares: {found['kl_constant']:.3f})"


def verdict_text(result: dict[str, Any]) -> str:
    """Whether the macro F1 is better than each baseline: the interval of the difference must exclude 0."""
    found = result.get("verdict")
    if found is None:
        return "verdict: none, because no window has a single majority label"
    lines = []
    for name, baseline in {"majority": "majority-class", "lookup": "sentence-lookup"}.items():
        if name in found:
            other, (low, high) = found[name]["value"], found[name]["interval"] or (np.nan, np.nan)
            relation = "better than" if low > 0 else "worse than" if high < 0 else "not significantly different from"
            difference = format_difference(round(found["model"], 3) - round(other, 3))
            interval = format_interval(low, high) or "undefined"
            difference += f", 95% interval {interval} over {count(found['dialogues'], 'dialogue')}"
            lines.append(f"{relation} the {baseline} baseline ({other:.3f}): difference {difference}")
    return f"verdict: macro F1 {found['model']:.3f} is " + "\n         and ".join(lines)
