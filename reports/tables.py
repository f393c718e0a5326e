"""Tables: the figures of many runs, their means, spreads and intervals, as CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corpora.corpus import corpus_by_name
from metric import BATCH_FIGURES, HEADINGS, MAIN_FIGURES, WHOLE_FIGURES, bootstrap, dialogue_sums
from reports.compare import DIFFERENCES, Windows, compare_with_baseline, format_intervals
from reports.groups import MIN_DIALOGUES, MIN_WINDOWS
from reports.published import KNOWN, describe_others, find_published, read_published
from reports.result import format_cell, format_difference, format_interval
from reports.runs import BY_EMOTION, CALIBRATION, OF_BASELINES, OF_RATERS
from utils import atomic_write, write_csv

OTHER_COLUMNS = ["majority_f1", *BY_EMOTION, *OF_RATERS, *OF_BASELINES, *CALIBRATION]
WHOLE_HEADINGS = {name: HEADINGS[name] for name in WHOLE_FIGURES}
FIGURE_COLUMNS = [*KNOWN, *OTHER_COLUMNS]
BASELINES = {"majority": "majority class", "lookup": "sentence lookup"}
CALIBRATED = dict(zip(CALIBRATION, ("calibration error", "Brier score", "KL divergence", "baseline KL"), strict=True))
OF_A_FOLD = ("session", "speaker")  # groups that no two folds share
COUNTS = {"n": "windows", "n_single_label": "single_label", "dialogues": "dialogues"}
GROUP_HEADINGS = COUNTS | WHOLE_HEADINGS
GROUP_HEADINGS |= {"n_single_label": "with one label", "lookup.weighted_f1": "weighted F1 of sentence lookup"}
LEGEND = (
    "± is the standard deviation over seeds; a mean of folds also has the deviation over folds. Square brackets: 95% "
    "interval over dialogues. Difference: ours minus published. Windows in parentheses have one majority label; "
    "weighted F1, macro F1 and accuracy use these, CCC all windows. Precision, recall, F1 are means over batches, as "
    f"in the paper. Rows with fewer than {MIN_WINDOWS} of these windows or {MIN_DIALOGUES} dialogues have no metrics. "
    "Bold: the best row of a role and test split, if its macro F1 is above both baselines. One rater: the mean of the "
    "raters, each compared with the others. Majority class, sentence lookup: weighted and macro F1 of predicting the "
    "most frequent training label, and the training label of the same sentence. Calibration compares probabilities "
    f"with the raters' shares; KL is in nats, the baseline KL is that of the mean training shares. {DIFFERENCES}"
)


def make_table(entries: pd.DataFrame, windows: Windows) -> dict[str, Any]:
    """A table of the report, from its `entries` of `page.read_finished` and the `windows` of the finished runs.

    It has published figures unless a run is `unlike` the published ones, or no run has finished. `numbers` are tables
    by the suffix of their file, `texts` the same tables as text by their heading, `figures` the figures to show.
    """
    name, title = entries[["table", "title"]].iloc[0]
    figures = (*WHOLE_FIGURES, *BATCH_FIGURES)
    corpora = map(corpus_by_name, entries["data_corpus"].dropna().unique())
    if any(corpus and corpus.imbalanced for corpus in corpora):  # accuracy and figures by batch are not informative
        figures = tuple(sorted(WHOLE_FIGURES, key=lambda name: name != "macro_f1"))
    published, unlike = read_published(), [*filter(None, entries["unlike"])][:1]
    beside = published[:0] if unlike or entries["folder"].isna().all() else published
    table, groups = summarise(entries, windows, beside), summarise_groups(entries)
    differences, notes = compare_with_baseline(entries, windows)
    notes += [f"Published scores are not shown: {why}." for why in unlike]
    texts = {"Metrics": format_table(table, figures)}
    if len(differences):
        texts["Difference from the baseline row"] = format_differences(differences)
    if len(groups):
        texts["Metrics by group"] = groups.rename(columns=GROUP_HEADINGS).astype(object).map(format_cell)
        texts["Calibration"] = format_columns(table, CALIBRATED)
        by_emotion = [format_columns(table, BY_EMOTION), format_people(table, BY_EMOTION)]
        texts["F1 by emotion"] = pd.concat(by_emotion, ignore_index=True)
    section = {"name": name, "title": f"Table {name}: {title}" if name[0].isdigit() else title, "figures": figures}
    section |= {"numbers": {"": table, "_differences": differences, "_groups": groups}, "texts": texts}
    return section | {"notes": [*notes, *describe_others(published, entries)]}


def summarise(entries: pd.DataFrame, windows: Windows, published: pd.DataFrame) -> pd.DataFrame:
    """A table's rows: one for each role, row and test split, and the mean of several test splits.

    Each of `KNOWN` has its mean over seeds (and folds), `_published`, `_diff`, and sample standard deviations:
    `_sd_seeds` over seeds (of the mean over folds, for seeds with all folds) and `_sd_folds` over the folds' means.
    `_low` and `_high` are the 95% interval over dialogues, for F1 over all windows at once. Unknown values are NaN.
    """
    rows = []
    for (role, row), of_row in entries.groupby(["role", "row"], sort=False):
        folds = [of_fold for _, of_fold in of_row.groupby("test", sort=False)]
        for some in [*folds, of_row] if len(folds) > 1 else folds:
            rows.append({"role": role, "row": row} | summarise_folds(some, windows, published))
    return pd.DataFrame(rows)


def summarise_folds(entries: pd.DataFrame, windows: Windows, published: pd.DataFrame) -> dict[str, Any]:
    tests, done = entries["test"].unique(), entries[entries["folder"].notna()]
    theirs = find_published(published, entries)
    by_fold = done.groupby("test", sort=False)[FIGURE_COLUMNS].mean()
    by_seed = done.groupby("seed")[FIGURE_COLUMNS]
    mean, is_whole = by_fold.mean(), len(by_fold) == len(tests)
    whole_seeds = by_seed.mean()[by_seed.size() == len(by_fold)]
    found = {"": mean, "_sd_seeds": whole_seeds.std(), "_sd_folds": by_fold.std()}
    found |= {"_published": theirs, "_diff": mean - (theirs if is_whole else np.nan)}
    columns = {f"{name}{suffix}": values[name] for name in KNOWN for suffix, values in found.items()}
    tables = [[windows[folder] for folder in folders] for _, folders in done.groupby("test", sort=False)["folder"]]
    bounds = pd.DataFrame(np.nan, index=[*MAIN_FIGURES], columns=["low", "high"])
    if tables and all(table.index.equals(of_fold[0].index) for of_fold in tables for table in of_fold):
        bounds = bootstrap([np.stack([*map(dialogue_sums, of_fold)], axis=1) for of_fold in tables])
    columns |= {f"{name}_{side}": bounds.loc[name, side] for name in MAIN_FIGURES for side in ("low", "high")}
    whole = [result["overall"] for result in done.drop_duplicates("test")["result"]]
    whole = pd.DataFrame(whole, columns=[*COUNTS])
    n_folds = f"{len(tests)}" if is_whole else f"{len(by_fold)} of {len(tests)}"
    place = {"test": tests[0] if len(tests) == 1 else f"mean of {n_folds} folds", "folds": len(by_fold)}
    counts = {"runs": len(done), "wanted": len(entries), **whole.astype(float).sum(min_count=1).rename(COUNTS)}
    columns |= mean[OTHER_COLUMNS].to_dict()
    if counts["single_label"] < MIN_WINDOWS or counts["dialogues"] < MIN_DIALOGUES:
        columns = dict.fromkeys(columns, np.nan)
    return place | counts | columns


def summarise_groups(entries: pd.DataFrame) -> pd.DataFrame:
    """The figures of each group (see reports/groups.py), for each role and row, without the groups `OF_A_FOLD`.

    Counts are sums over folds. Figures are means over folds of the mean over seeds, NaN for groups without figures.
    """
    rows, key = [], ["role", "row", "groups", "group"]
    counts, figures = [*COUNTS], [*WHOLE_FIGURES, "lookup.weighted_f1"]
    for entry in entries[entries["folder"].notna()].itertuples():
        place = {"role": entry.role, "row": entry.row, "test": entry.test}
        for name, groups in entry.result.get("groups", {}).items():
            rows += [own | place | {"groups": name, "group": label} for label, own in groups.items()]
    table = pd.json_normalize(rows).reindex(columns=[*key, "test", *counts, *figures])
    table = table[~table["groups"].isin(OF_A_FOLD)].astype(dict.fromkeys(figures, float))
    by_fold = table.groupby([*key, "test"], sort=False).mean().groupby(key, sort=False)
    return by_fold[counts].sum().astype(int).join(by_fold[figures].mean()).reset_index()


# As text: a cell may have several lines; **...** is bold


def format_table(table: pd.DataFrame, figures: Sequence[str]) -> pd.DataFrame:
    """Rows of `summarise`, with published figures and differences in columns `F1 published` and `F1 difference`."""
    rows, rounded = [], table[[*figures]].round(3)
    others = table[["majority_macro_f1", "lookup_macro_f1"]].max(axis=1)
    beats = ~(others >= table["macro_f1"])  # also true if there are no baselines
    place = [table["role"], table["test"]]
    highest = rounded.where(beats, axis=0).groupby(place).transform("max")
    best = rounded.eq(highest).mul(beats, axis=0) & rounded.groupby(place).transform("count").gt(1)
    for at, row in table.iterrows():
        texts = {name: row[name] for name in ("role", "row", "test")}
        texts["runs"] = f"{row['runs']} of {row['wanted']}"
        texts["windows"] = f"{row['windows']:,.0f} ({row['single_label']:,.0f})" if row["runs"] else ""
        texts["dialogues"] = f"{row['dialogues']:,.0f}" if row["runs"] else ""
        for name in figures:
            value, heading = format_cell(rounded.at[at, name]), HEADINGS[name]
            lines = [f"**{value}**" if best.at[at, name] else value]
            spreads = {over: row[f"{name}_sd_{over}"] for over in ("seeds", "folds")}
            lines += [f"± {sd:.3f} {over}".replace("0.", ".") for over, sd in spreads.items() if not np.isnan(sd)]
            if name in WHOLE_FIGURES and (interval := format_interval(row[f"{name}_low"], row[f"{name}_high"])):
                lines.append(interval)
            texts[heading] = "\n".join(lines)
            if table[f"{name}_published"].notna().any():
                texts[f"{heading} published"] = format_cell(row[f"{name}_published"])
                texts[f"{heading} difference"] = format_difference(row[f"{name}_diff"])
        for who, heading in BASELINES.items():
            texts[heading] = "\n".join(format_cell(row[f"{who}_{name}"]) for name in ("weighted_f1", "macro_f1"))
        rows.append(texts)
    return pd.concat([pd.DataFrame(rows), format_people(table, WHOLE_HEADINGS)], ignore_index=True).fillna("")


def format_columns(table: pd.DataFrame, headings: Mapping[str, str]) -> pd.DataFrame:
    """Columns of rows of `summarise` as text, under their `headings`."""
    return table[["role", "row", "test"]].join(table[[*headings]].map(format_cell).rename(columns=headings))


def format_people(table: pd.DataFrame, headings: Mapping[str, str]) -> pd.DataFrame:
    """A row with one rater's figures for each role and test split of `summarise`, if the corpus has single ratings."""
    people = table.dropna(subset="raters_macro_f1").drop_duplicates(["role", "test"]).assign(row="one rater")
    return format_columns(people, {f"raters_{name}": heading for name, heading in headings.items()})


def short_table(table: pd.DataFrame) -> str:
    """Rows of `summarise` for a terminal, by role: the figures over all windows, and the baselines' macro F1."""
    shown = {"runs": "finished", "wanted": "planned"} | WHOLE_HEADINGS
    shown |= {f"{who}_macro_f1": heading for who, heading in BASELINES.items()}
    texts = pd.concat([format_columns(table, shown), format_people(table, WHOLE_HEADINGS)]).set_index("role").fillna("")
    texts.columns = pd.MultiIndex.from_tuples([heading.rpartition(" ")[::2] for heading in texts])  # of two lines
    by_role = texts.groupby(level="role", sort=False)
    lines = [f"{role} (baselines: macro F1)\n{own.to_string(index=False, sparsify=False)}" for role, own in by_role]
    return "\n".join(lines)


def format_differences(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `compare_with_baseline`, a column for each figure."""
    own = table.replace({"figure": HEADINGS}).assign(**{"text": format_intervals(table), "baseline row": table["from"]})
    key = ["role", "row", "baseline row", "folds", "seeds", "dialogues"]
    return own.set_index([*key, "figure"])["text"].unstack(sort=False).reset_index().astype(str)


def write_table(folder: Path, section: dict[str, Any], corpora: str) -> None:
    """Write a table of `make_table` as CSV and LaTeX, with the names of its `corpora`."""
    for suffix, numbers in section["numbers"].items():
        if len(numbers):
            write_csv(folder / f"{section['name']}{suffix}.csv", numbers.assign(corpus=corpora), float_format="%.6g")
    latex = ["% needs \\usepackage{booktabs,graphicx}", f"% corpus: {corpora}"]
    for number, (heading, texts) in enumerate(section["texts"].items()):
        caption = " ".join([f"{section['title']}: {heading}.", LEGEND, *section["notes"]])
        latex.append(format_latex(texts, caption, f"tab:{section['name']}" + f"-{number}" * (number > 0)))
    with atomic_write(folder / f"{section['name']}.tex") as file:
        file.write("\n".join(latex))


def format_latex(texts: pd.DataFrame, caption: str, label: str) -> str:
    settings = {"column_format": "lll" + "r" * (len(texts.columns) - 3), "label": label}
    settings["caption"] = re.sub(r"([&%$#_{}])", r"\\\1", caption.replace("\\", "/"))
    text = texts.replace("\n", " ", regex=True).to_latex(index=False, escape=True, **settings)
    text = re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", text).replace("±", "$\\pm$")
    return re.sub(r"(\\begin{tabular}.*\\end{tabular})", r"\\resizebox{\\linewidth}{!}{%\n\1}", text, flags=re.DOTALL)
