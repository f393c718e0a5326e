"""Published: the figures in data/published.csv, and which of them may stand beside ours."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from corpora.corpus import corpus_by_name
from corpora.sessions import format_sessions, parse_sessions
from metric import BATCH_FIGURES, FIGURES, HEADINGS, SINGLE_LABEL_FIGURES

PUBLISHED_FILE = Path(__file__).parent.parent / "data/published.csv"
PUBLISHED_CORPUS = "KEMDy19"  # of the published figures, but for tables named after another corpus
SIZE_TOLERANCE = 0.05  # copies of a corpus may differ by this share of their utterances
KNOWN = (*FIGURES, *SINGLE_LABEL_FIGURES)  # what is published
KEY = ["table", "row", "role", "test"]


def read_published() -> pd.DataFrame:
    """The rows of data/published.csv; a figure that was not published is NaN, an empty role, test split or note ''."""
    names = {name.lower(): name for name in BATCH_FIGURES} | {"test_split": "test"}
    table = pd.read_csv(PUBLISHED_FILE, dtype=dict.fromkeys(("table", "row", "role", "test_split"), str))
    return table.rename(columns=names).fillna(dict.fromkeys(("role", "test", "note", "protocol"), ""))


def find_published(published: pd.DataFrame, entries: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """What was published of one row of a table, for the folds of its `entries`: each of `KNOWN`, NaN if it was not.

    The first are the figures over all folds, else their mean over folds, the second their standard deviation over
    folds. Those of a default row are in table 3.2. Beside runs that are `unlike` the published ones there are none.
    """
    first, tests = entries.iloc[0], [*entries["test"].unique()]
    table, row = ("3.2", "default") if first["is_default"] else (first["table"], first["row"])
    sessions = format_sessions(session for test in tests for session in parse_sessions(test))
    keys = [(table, row, first["role"], test) for test in (*tests, sessions)]
    found = published[:0] if entries["unlike"].any() else published
    found = found.set_index(KEY)[[*KNOWN]].reindex(keys)
    of_folds, of_all = found.iloc[:-1], found.iloc[-1]
    mean = of_folds.mean(skipna=False) if of_all.isna().all() else of_all
    return mean, of_folds.std(skipna=False)


def describe_others(published: pd.DataFrame, entries: pd.DataFrame) -> list[str]:
    """Lines below a table: why published figures do not stand beside it, and those of other systems, with protocol."""
    of_table = published[published["table"] == entries["table"].iloc[0]]
    others = of_table[~of_table["row"].isin(entries["row"])]
    has_published = (entries["is_default"] | entries["row"].isin(of_table["row"])) & (len(published) > 0)
    unlike = entries.loc[has_published & (entries["unlike"] != ""), "unlike"].unique()
    lines = [f"No published figures beside these runs: {why}." for why in unlike]
    for _, row in others.iterrows():
        figures = ", ".join(f"{HEADINGS[name]} {row[name]:.3f}" for name in KNOWN if row[name] == row[name])
        lines.append(f"{row['row']}: {figures}; comparable only under its protocol: {row['protocol']}.")
    return lines


def whole_corpus(run: pd.Series) -> str | None:
    """The name of the known corpus that a run of `runs.read_runs` was made from the whole of; None for other data."""
    corpus = corpus_by_name(str(run["data_corpus"]))
    if corpus is None or run["data_synthetic"] == "yes" or run["SorL"] not in corpus.roles:
        return None
    splits = (run["test"], run["data_train_sessions"], run["valid_split"])
    sessions = {session for split in splits if split for session in parse_sessions(str(split))}
    expected = corpus.utterances[run["SorL"]]
    is_whole = abs(int(run["data_utterances"]) - expected) <= SIZE_TOLERANCE * expected
    return corpus.name if is_whole and len(sessions) == len(sum(corpus.folds, ())) else None


def other_encoder(run: pd.Series) -> str:
    """That the text encoder of a run of `runs.read_runs` is not KoBERT, as far as its name says; '' if it may be."""
    name = str(run.get("data_text_model", "unknown"))
    is_other = "kobert" not in Path(name).name.lower() and name not in ("unknown", "nan")
    return f"the text encoder is {name}, published KoBERT" if is_other or run.get("data_text_random") == "yes" else ""


def published_beside(table: str, runs: pd.DataFrame) -> pd.DataFrame:
    """The published figures that may stand beside those of a table: all if our data are the whole corpus of these.

    All finished `runs` of the report count, with their column `whole_corpus`.
    """
    published, corpus = read_published(), table if corpus_by_name(table) else PUBLISHED_CORPUS
    return published if {*runs["whole_corpus"]} == {corpus} else published[:0]
