"""Annotation tables of raw corpora, and the rows of annotation.csv and df_<role>.csv that are made from them.

KEMDy19 has two tables per session, each with ratings of one actor over the whole session. KEMDy20 has one, with
ratings of the speaker of each utterance. Problems are found as masks over the rows.
"""

from __future__ import annotations

import csv
import io
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import pandas as pd

from constants import AFFECT_RANGE, EMOTION_ALIASES, EMOTIONS, N_RATERS
from corpora.corpus import KEMDY20, Corpus, parts_of_ids
from corpora.problems import OTHER_SPELLING, file_problems, problem_text, row_problems
from corpora.wavs import find_files
from utils import InputError, decode

HEADER_ROWS = 2  # of every table that ETRI publishes
RATINGS = ("Emotion", "Valence", "Arousal")
RATING_COLUMNS = [*RATINGS, *(f"{name}.{rater}" for rater in range(1, N_RATERS + 1) for name in RATINGS)]
VOTES = [f"Emotion.{rater}" for rater in range(1, N_RATERS + 1)]
VOTE_COUNTS = [f"votes_{emotion}" for emotion in EMOTIONS]  # replace `VOTES` in a manifest
PART_COLUMNS = ["speaker", "text", "role", "Session", "script", "sequence", "dialogue"]
COLUMNS = ["start", "end", "Segment ID", *RATING_COLUMNS, *PART_COLUMNS]  # of annotation.csv and df_<role>.csv


def read_annotation(data_path: Path, corpus: Corpus) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of annotation.csv without text, in time order within a dialogue, and the problems of the tables.

    Labels have standard spelling, invalid cells are blank, and the column `usable` is False for a row without a valid
    total or vote. The role is speaker if the rated actor speaks the utterance, otherwise listener.
    Raises `InputError` if a table cannot be read, over 5% of its rows are invalid, or all tables are empty.
    """
    rows, of_files = read_tables(data_path, corpus)
    rows, of_prefixes = _fix_prefixes(rows, data_path, corpus) if corpus is KEMDY20 else (rows, None)
    parts = parts_of_ids(rows["Segment ID"], corpus)
    is_own = parts["Session"] == rows["session"].str.lstrip("0")
    what = "segment id invalid or of another session"
    of_ids = row_problems(rows[~is_own], what, rows["Segment ID"].map(repr), "row left out")
    own = rows[is_own].join(parts.astype({"Session": "Int64", "sequence": "Int64"}))
    is_rated = own["speaker"] == own["actor"].str.upper() if "actor" in own else True
    own["role"] = np.where(is_rated, "speaker", "listener")
    annotation, of_cells = _read_cells(own)
    of_tables = [_repeated_tables(data_path, own), _half_rated(own)] if "actor" in own else []
    problems = pd.concat([of_prefixes, of_ids, of_cells]).sort_index(kind="stable")
    is_lost = ~annotation["usable"].reindex(rows.index, fill_value=False)
    check_share_of_invalid(data_path, rows, is_lost, problems)
    return in_time_order(annotation), pd.concat([of_files, problems, *of_tables])


def read_tables(data_path: Path, corpus: Corpus) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The non-blank rows of all annotation tables, in the order of the tables' names, and their problems.

    Columns, all text except `row`: file, row, Segment ID, start, end, `RATING_COLUMNS`, the groups of `corpus.table`.
    """
    paths = sorted((data_path / "annotation").iterdir())
    tables = {path: read_table(path, corpus) for path in paths if corpus.table.fullmatch(path.name)}
    others = [path for path in paths if path not in tables and path.suffix.lower() == ".csv"]
    other_name = f"unknown table name (expected a name such as {corpus.example_table})"
    problems = [(path, "", other_name, "", "table ignored") for path in others]
    problems += [(path, "", "table without rows", "", "table ignored") for path, rows in tables.items() if rows.empty]
    rows = pd.concat(tables.values(), ignore_index=True)
    if rows.empty:
        raise InputError(f"{data_path / 'annotation'}: the {len(tables)} tables have no rows")
    return rows, file_problems(data_path, problems)


def read_table(path: Path, corpus: Corpus) -> pd.DataFrame:
    """The rows of one table, see `read_tables`; `InputError` if it cannot be read or columns are missing."""
    try:
        lines = [*csv.reader(io.StringIO(decode(path.read_bytes(), path), newline=None))]
    except csv.Error as error:
        raise InputError(f"{path}: not a readable CSV table ({error}); check for an unclosed quote") from error
    if any(corpus.segment.fullmatch(cell.strip()) for cells in lines[:HEADER_ROWS] for cell in cells):
        raise InputError(f"{path}: rows 1 and 2 contain an utterance; expected two header rows as in ETRI's tables")
    columns = _find_columns(path, [*lines, [], []][:HEADER_ROWS], corpus)
    n_columns = max(columns.values()) + 1
    rows = {n: cells for n, cells in enumerate(lines, start=1) if n > HEADER_ROWS and "".join(cells).strip()}
    for number, cells in rows.items():
        if len(cells) < n_columns:
            raise InputError(f"{path}, row {number}: {len(cells)} columns, expected {n_columns}; is the file complete?")
    table = pd.DataFrame([cells[:n_columns] for cells in rows.values()], columns=range(n_columns), dtype=str)
    table = table[[*columns.values()]].set_axis([*columns], axis=1)
    stripped = {name: table[name].str.strip() for name in ("Segment ID", "start", "end")}
    parts_of_name = corpus.table.fullmatch(path.name).groupdict()
    return table.assign(**stripped, file=f"annotation/{path.name}", row=np.array([*rows], dtype=int), **parts_of_name)


def _find_columns(path: Path, header: list[list[str]], corpus: Corpus) -> dict[str, int]:
    """The positions of a table's columns, from the header, or as in ETRI's tables for names that the header lacks.

    Raises `InputError` if only some rating columns are named, and they are not in ETRI's order.
    """
    width, names = max(map(len, header), default=0), [name.lower() for name in RATINGS]
    groups, words = ([c.strip().lower() for c in cells] + [""] * (width - len(cells)) for cells in header)
    heads = [*zip(accumulate(groups, lambda last, own: own or last), words, strict=True)]
    known = {"start": (("wav", "start"), 1), "end": (("wav", "end"), 2)}
    known |= {"Segment ID": (("segment id", ""), corpus.id_column)}
    columns = {name: heads.index(head) if head in heads else place for name, (head, place) in known.items()}
    columns |= {name: columns["Segment ID"] + n for n, name in enumerate(RATING_COLUMNS, start=1)}
    found = [[place for place, word in enumerate(words) if word == name] for name in names]
    if {*map(len, found)} == {1 + N_RATERS}:
        triples = [*zip(*found, strict=True)]
        triples.sort(key=lambda triple: not any("total" in groups[place] for place in triple))  # the total comes first
        return columns | dict(zip(RATING_COLUMNS, chain(*triples), strict=True))
    for column, place in columns.items():
        if place < width and words[place] in names and not column.lower().startswith(words[place]):
            expected = f"expected {column.partition('.')[0]}, or a header for all {len(RATING_COLUMNS)} rating columns"
            raise InputError(f"{path}, row {HEADER_ROWS}, column {place + 1}: {words[place]!r}, {expected}")
    return columns


def _fix_prefixes(rows: pd.DataFrame, data_path: Path, corpus: Corpus) -> tuple[pd.DataFrame, pd.DataFrame]:
    """KEMDy20's rows with the session of their table in their ids, and problems of the ids that were changed.

    In the first release the ids in the table of session 17 have the prefix of another session; its wavs and transcripts
    do not. A prefix is fixed unless files exist with the id as written and none with the fixed id.
    """
    present = {path.stem for suffix in (".wav", ".txt") for path in find_files(data_path / "wav", suffix)}
    as_written = rows["Segment ID"]
    fixed = "Sess" + rows["session"] + as_written.str[len("Sess00") :]
    other = as_written.str.fullmatch(corpus.segment) & (fixed != as_written)
    other &= fixed.isin(present) | ~as_written.isin(present)
    rows = rows.assign(**{"Segment ID": as_written.where(~other, fixed)})
    what, done = "segment id with the prefix of another session", "prefix changed to the session of the table"
    return rows, row_problems(rows[other], what, as_written.map(repr), done)


def check_share_of_invalid(data_path: Path, rows: pd.DataFrame, is_lost: pd.Series, problems: pd.DataFrame) -> None:
    """Raise `InputError` if over 5% of a table's rows, and more than three or all, are invalid.

    For example the table of another session, or a table in which a spreadsheet changed numbers to dates.
    """
    by_table = is_lost.groupby(rows["file"])
    lost = by_table.mean().where((by_table.sum() > 3) | by_table.all(), 0)
    if lost.max() > 0.05:
        first = problems[(problems["file"] == lost.idxmax()) & problems["done"].str.startswith("row left out")].iloc[0]
        todo = f"{lost.max():.0%} of the table's rows are invalid: correct the table or use the original file"
        raise InputError(f"{data_path / problem_text(first)}: {first['what']}; {todo}")


def _repeated_tables(data_path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Problems of KEMDy19's tables that repeat the ratings of the session's other table."""
    content = ["Segment ID", *RATING_COLUMNS]
    distinct = rows.drop_duplicates(["file", *content])
    by_file = distinct.duplicated(content, keep=False).groupby(distinct["file"]).agg(["sum", "size"])
    what, done = "same ratings in both tables of a session", "both used, although one rates the wrong actor"
    repeated = by_file[by_file["sum"] > by_file["size"] / 2]  # so many equal ratings are no coincidence
    found = [(data_path / file, "", what, f"{n} of {size} rows", done) for file, n, size in repeated.itertuples()]
    return file_problems(data_path, found)


def _half_rated(rows: pd.DataFrame) -> pd.DataFrame:
    """A problem for each utterance of KEMDy19 that is in only one of the session's two tables."""
    is_alone = rows.groupby("Segment ID")["file"].transform("nunique") < 2
    alone = rows[is_alone].drop_duplicates("Segment ID").assign(row="")
    what = "utterance in only one of the session's two tables"
    return row_problems(alone, what, "", "used for one role only")


def read_emotions(cells: pd.Series) -> pd.Series:
    """The label or tied labels (`happy;surprise`) of cells in the spelling of `EMOTIONS`; NaN if invalid."""

    def spell(cell: str) -> str | float:
        names = [name.strip().lower() for name in cell.split(";")]
        names = [EMOTION_ALIASES.get(name, name) for name in names]
        return ";".join(dict.fromkeys(names)) if set(names).issubset(EMOTIONS) else np.nan

    return cells.map({cell: spell(cell) for cell in cells.unique()})


def multi_hot(labels: pd.Series) -> pd.DataFrame:
    """0 or 1 for each of `EMOTIONS`, from labels joined by `;`."""
    return labels.str.get_dummies(";").reindex(columns=EMOTIONS, fill_value=0)


def count_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """The number of raters (one column each) who chose each of `EMOTIONS`."""
    return pd.DataFrame({emotion: (votes == emotion).sum(axis=1) for emotion in EMOTIONS})


def majority_labels(counts: pd.DataFrame) -> pd.Series:
    """The labels with the most votes, joined by `;`; "" for a row without votes."""
    is_most = counts.eq(counts.max(axis=1), axis=0) & (counts > 0)
    return is_most.dot(counts.columns + ";").str.rstrip(";")


def read_ratings(cells: pd.Series) -> pd.Series:
    """Numbers from 1 to 5 in one format (`3.0` becomes `3`) as text; NaN for any other cell."""
    numbers = pd.to_numeric(cells, errors="coerce")
    return numbers.where(numbers.between(*AFFECT_RANGE)).map("{:.12g}".format, na_action="ignore")


def _read_cells(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows with the labels, ratings and times of `read_annotation`, and the problems of their cells."""
    readers = {column: read_emotions if column.startswith("Emotion") else read_ratings for column in RATING_COLUMNS}
    values = pd.DataFrame({column: read(rows[column]) for column, read in readers.items()})
    values[VOTES] = values[VOTES].where(values[VOTES].isin(EMOTIONS))  # a rater chooses one label
    has_vote = values[VOTES].notna().any(axis=1)
    usable = values[list(RATINGS)].notna().all(axis=1) & has_vote
    start, end = (pd.to_numeric(rows[name], errors="coerce") for name in ("start", "end"))
    bad_start = start.isna() & (rows["start"] != "")
    left_out = "row left out of df_" + rows["role"] + ".csv"
    ordered = "ordered by its row in the table"
    problems = [
        *_cell_problems(rows, values, left_out),
        *_doubtful_totals(rows, values),
        row_problems(rows[~has_vote], "no valid emotion vote", "", left_out),
        row_problems(rows[bad_start], "start is not a number", rows["start"].map(repr), ordered),
    ]
    return rows.assign(start=start, end=end, usable=usable, **values.fillna("")), pd.concat(problems)


def _cell_problems(rows: pd.DataFrame, values: pd.DataFrame, left_out: pd.Series) -> list[pd.DataFrame]:
    """Problems of invalid cells and nonstandard spellings: at most one of each kind per row, with its cells."""
    unusable = values.isna()
    respelt = ~unusable & (values != rows[RATING_COLUMNS])
    kinds = {OTHER_SPELLING: (respelt[["Emotion", *VOTES]], "read as the standard label")}
    for name in RATINGS:
        of_raters = unusable.filter(like=f"{name}.")
        kinds[f"invalid total {name.lower()}"] = unusable[[name]], left_out
        kinds[f"invalid {name.lower()} of a rater"] = of_raters, "cell left blank"
    problems = []
    for what, (bad, done) in kinds.items():
        cells = rows.loc[bad.any(axis=1), bad.columns].where(bad)
        found = ["; ".join(map(repr, row.dropna().unique())) for _, row in cells.iterrows()]
        problems.append(row_problems(rows.loc[cells.index], what, found, done))
    return problems


def _doubtful_totals(rows: pd.DataFrame, values: pd.DataFrame) -> list[pd.DataFrame]:
    """Problems of totals that are not the majority label or the mean of the votes, if all votes are valid."""
    majority = majority_labels(count_votes(values[VOTES]))
    differs = (multi_hot(values["Emotion"]) != multi_hot(majority)).any(axis=1)
    found = {"emotion": (differs & values[["Emotion", *VOTES]].notna().all(axis=1), majority)}
    for name in RATINGS[1:]:
        mean = values.filter(like=f"{name}.").astype(float).mean(axis=1, skipna=False)
        differs = (values[name].astype(float) - mean).abs() > 0.051  # one decimal
        found[name.lower()] = differs, mean.round(2).astype(str)
    what, done = "total {} differs from the votes", "total used unchanged"
    texts = {name: rows[name.title()].map(repr) + ", from the votes " + given for name, (_, given) in found.items()}
    return [row_problems(rows[found[name][0]], what.format(name), texts[name], done) for name in found]


def in_time_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows sorted by time within a dialogue, dialogues in the order of the tables.

    Each table is in time order. So a blank start is filled from another row of the utterance (KEMDy19 has two tables
    per session) or from the previous utterance, and rows with equal starts keep their order in the table.
    """
    time = rows.groupby("Segment ID")["start"].transform("first")
    time = time.groupby([rows["file"], rows["dialogue"]]).ffill()
    position = rows.groupby("file").cumcount()
    keys = rows.assign(dialogue_number=pd.factorize(rows["dialogue"])[0], time=time, position=position)
    order = keys.sort_values(["dialogue_number", "time", "position"], kind="stable", na_position="first").index
    return rows.loc[order].reset_index(drop=True)


def rows_of_role(annotation: pd.DataFrame, role: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of df_<role>.csv: the usable rows of `role` without duplicate ids; and problems.

    Of duplicate rows one is kept if their ratings are equal; otherwise all are left out.
    """
    rows = annotation[(annotation["role"] == role) & annotation["usable"]]
    distinct = rows.drop_duplicates([column for column in COLUMNS if column not in ("start", "end", "text")])
    n_rows, n_distinct = rows["Segment ID"].value_counts(), distinct["Segment ID"].value_counts()
    first = rows[rows["Segment ID"].map(n_rows) > 1].drop_duplicates("Segment ID")
    differs = first["Segment ID"].map(n_distinct) > 1
    what = f"duplicate {role} rows with " + differs.map({True: "different", False: "equal"}) + " ratings"
    found = first["Segment ID"].map(n_rows).astype(str) + " rows"
    problems = row_problems(first, what, found, differs.map({True: "all left out", False: "one kept"}))
    return distinct[distinct["Segment ID"].map(n_distinct) == 1], problems
