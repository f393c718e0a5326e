"""Annotation tables of raw corpora: their rows as text, and the rows of annotation.csv and df_<role>.csv made of them.

KEMDy19 has two tables of each session, each of which rates one actor over the whole session; KEMDy20 has one, which
rates the speaker of each utterance. Faults are masks over the rows.
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
VOTE_COUNTS = [f"votes_{emotion}" for emotion in EMOTIONS]  # in place of `VOTES`, of a manifest
PART_COLUMNS = ["speaker", "text", "role", "Session", "script", "sequence", "dialogue"]
COLUMNS = ["start", "end", "Segment ID", *RATING_COLUMNS, *PART_COLUMNS]  # of annotation.csv and df_<role>.csv


def read_annotation(data_path: Path, corpus: Corpus) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of annotation.csv but for their text, in time order within a dialogue, and the problems of the tables.

    Labels are in one spelling, a cell that cannot be used is blank, and a column `usable` is False for a row without a
    usable total or vote. In the rows of a rated actor's own utterances the role is speaker, in the other's listener.
    Raises `InputError` where a table cannot be read, over 5% of its rows cannot be used, or all together hold no row.
    """
    rows, of_files = read_tables(data_path, corpus)
    rows, of_prefixes = _mend_prefixes(rows, data_path, corpus) if corpus is KEMDY20 else (rows, None)
    parts = parts_of_ids(rows["Segment ID"], corpus)
    is_own = parts["Session"] == rows["session"].str.lstrip("0")
    what = "segment id that cannot be parsed, or of another session than its table"
    of_ids = row_problems(rows[~is_own], what, rows["Segment ID"].map(repr), "row left out")
    own = rows[is_own].join(parts.astype({"Session": "Int64", "sequence": "Int64"}))
    is_rated = own["speaker"] == own["actor"].str.upper() if "actor" in own else True
    own["role"] = np.where(is_rated, "speaker", "listener")
    annotation, of_cells = _read_cells(own)
    of_tables = [_repeated_tables(data_path, own), _half_rated(own)] if "actor" in own else []
    problems = pd.concat([of_prefixes, of_ids, of_cells]).sort_index(kind="stable")
    is_lost = ~annotation["usable"].reindex(rows.index, fill_value=False)
    refuse_ruined_table(data_path, rows, is_lost, problems)
    return in_time_order(annotation), pd.concat([of_files, problems, *of_tables])


# Reading


def read_tables(data_path: Path, corpus: Corpus) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a corpus's annotation tables that are not blank, in the order of the tables' names; and problems.

    Columns, all but `row` text: file, row, Segment ID, start, end, `RATING_COLUMNS` and the groups of `corpus.table`.
    """
    paths = sorted((data_path / "annotation").iterdir())
    tables = {path: read_table(path, corpus) for path in paths if corpus.table.fullmatch(path.name)}
    others = [path for path in paths if path not in tables and path.suffix.lower() == ".csv"]
    other_name, empty = f"table whose name is not such as {corpus.example_table}", "table without rows"
    problems = [(path, "", other_name, "", "not read") for path in others]
    problems += [(path, "", empty, "", "nothing is taken from it") for path, rows in tables.items() if rows.empty]
    rows = pd.concat(tables.values(), ignore_index=True)
    if rows.empty:
        raise InputError(f"{data_path / 'annotation'}: its {len(tables)} tables hold no row")
    return rows, file_problems(data_path, problems)


def read_table(path: Path, corpus: Corpus) -> pd.DataFrame:
    """The rows of one table, see `read_tables`; raises `InputError` where it cannot be read, or lacks columns."""
    try:
        lines = [*csv.reader(io.StringIO(decode(path.read_bytes(), path), newline=None))]
    except csv.Error as error:
        raise InputError(f"{path}: not readable as a CSV table ({error}); is a quote left open?") from error
    if any(corpus.segment.fullmatch(cell.strip()) for cells in lines[:HEADER_ROWS] for cell in cells):
        raise InputError(f"{path}: its first two rows hold an utterance; expected two header rows, as in ETRI's tables")
    columns = _find_columns(path, [*lines, [], []][:HEADER_ROWS], corpus)
    n_columns = max(columns.values()) + 1
    rows = {n: cells for n, cells in enumerate(lines, start=1) if n > HEADER_ROWS and "".join(cells).strip()}
    for number, cells in rows.items():
        if len(cells) < n_columns:
            raise InputError(f"{path}, row {number}: {len(cells)} columns, expected {n_columns}; is it whole?")
    table = pd.DataFrame([cells[:n_columns] for cells in rows.values()], columns=range(n_columns), dtype=str)
    table = table[[*columns.values()]].set_axis([*columns], axis=1)
    stripped = {name: table[name].str.strip() for name in ("Segment ID", "start", "end")}
    parts_of_name = corpus.table.fullmatch(path.name).groupdict()
    return table.assign(**stripped, file=f"annotation/{path.name}", row=np.array([*rows], dtype=int), **parts_of_name)


def _find_columns(path: Path, header: list[list[str]], corpus: Corpus) -> dict[str, int]:
    """The positions of a table's columns: those of the header's words, of words that it has not those of ETRI's tables.

    Raises `InputError` where only some columns of ratings are named, and not as ETRI's.
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
        triples.sort(key=lambda triple: not any("total" in groups[place] for place in triple))  # before the raters
        return columns | dict(zip(RATING_COLUMNS, chain(*triples), strict=True))
    for column, place in columns.items():
        if place < width and words[place] in names and not column.lower().startswith(words[place]):
            expected = f"expected {column.partition('.')[0]}, or names of all {len(RATING_COLUMNS)} columns of ratings"
            raise InputError(f"{path}, row {HEADER_ROWS}, column {place + 1}: {words[place]!r}, {expected}")
    return columns


def _mend_prefixes(rows: pd.DataFrame, data_path: Path, corpus: Corpus) -> tuple[pd.DataFrame, pd.DataFrame]:
    """KEMDy20's rows with their table's session in their ids, and problems of those that had another.

    The first release's table of session 17 has another session's prefix, while its wavs and transcripts have its own.
    So a prefix is mended unless there are files of the id as it stands, and none of the mended one.
    """
    present = {path.stem for suffix in (".wav", ".txt") for path in find_files(data_path / "wav", suffix)}
    as_written = rows["Segment ID"]
    mended = "Sess" + rows["session"] + as_written.str[len("Sess00") :]
    other = as_written.str.fullmatch(corpus.segment) & (mended != as_written)
    other &= mended.isin(present) | ~as_written.isin(present)
    rows = rows.assign(**{"Segment ID": as_written.where(~other, mended)})
    what, done = "segment id with another session's prefix", "read as the session of the table's name"
    return rows, row_problems(rows[other], what, as_written.map(repr), done)


def refuse_ruined_table(data_path: Path, rows: pd.DataFrame, is_lost: pd.Series, problems: pd.DataFrame) -> None:
    """Raise `InputError` where over 5% of a table's rows, and more than three or all, cannot be used.

    It is another session's table, say, or one in which a spreadsheet made dates of numbers.
    """
    by_table = is_lost.groupby(rows["file"])
    lost = by_table.mean().where((by_table.sum() > 3) | by_table.all(), 0)
    if lost.max() > 0.05:
        first = problems[(problems["file"] == lost.idxmax()) & problems["done"].str.startswith("row left out")].iloc[0]
        todo = f"{lost.max():.0%} of the table's rows cannot be used: correct it, or take it as it was distributed"
        raise InputError(f"{data_path / problem_text(first)}: {first['what']}; {todo}")


def _repeated_tables(data_path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Problems of the tables of KEMDy19 that repeat the ratings of their session's other table."""
    content = ["Segment ID", *RATING_COLUMNS]
    distinct = rows.drop_duplicates(["file", *content])
    by_file = distinct.duplicated(content, keep=False).groupby(distinct["file"]).agg(["sum", "size"])
    what, done = "table with the ratings of its session's other table", "used, though one rates the wrong actor"
    repeated = by_file[by_file["sum"] > by_file["size"] / 2]  # ten raters do not agree on both actors by chance
    found = [(data_path / file, "", what, f"{n} of {size} rows", done) for file, n, size in repeated.itertuples()]
    return file_problems(data_path, found)


def _half_rated(rows: pd.DataFrame) -> pd.DataFrame:
    """A problem for each utterance of KEMDy19 that only one of its session's two tables holds."""
    is_alone = rows.groupby("Segment ID")["file"].transform("nunique") < 2
    alone = rows[is_alone].drop_duplicates("Segment ID").assign(row="")
    what = "utterance that only one of its session's two tables holds"
    return row_problems(alone, what, "", "it has a row of one role only")


# Cells


def read_emotions(cells: pd.Series) -> pd.Series:
    """The label or tied labels (`happy;surprise`) of cells as `EMOTIONS` spells them, each once; NaN where none is."""

    def spell(cell: str) -> str | float:
        names = [name.strip().lower() for name in cell.split(";")]
        names = [EMOTION_ALIASES.get(name, name) for name in names]
        return ";".join(dict.fromkeys(names)) if set(names).issubset(EMOTIONS) else np.nan

    return cells.map({cell: spell(cell) for cell in cells.unique()})


def multi_hot(labels: pd.Series) -> pd.DataFrame:
    """0 or 1 for each of `EMOTIONS`, of labels that are joined by `;`."""
    return labels.str.get_dummies(";").reindex(columns=EMOTIONS, fill_value=0)


def count_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """How many of the raters, who have a column each, chose each of `EMOTIONS`."""
    return pd.DataFrame({emotion: (votes == emotion).sum(axis=1) for emotion in EMOTIONS})


def majority_labels(counts: pd.DataFrame) -> pd.Series:
    """The labels with the most votes, joined by `;`; "" of a row without votes."""
    is_most = counts.eq(counts.max(axis=1), axis=0) & (counts > 0)
    return is_most.dot(counts.columns + ";").str.rstrip(";")


def read_ratings(cells: pd.Series) -> pd.Series:
    """Numbers from 1 to 5 in one spelling (`3.0` is `3`) as text; NaN where a cell is none."""
    numbers = pd.to_numeric(cells, errors="coerce")
    return numbers.where(numbers.between(*AFFECT_RANGE)).map("{:.12g}".format, na_action="ignore")


def _read_cells(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows with their labels, ratings and times as `read_annotation` gives them, and the problems of their cells."""
    readers = {column: read_emotions if column.startswith("Emotion") else read_ratings for column in RATING_COLUMNS}
    values = pd.DataFrame({column: read(rows[column]) for column, read in readers.items()})
    values[VOTES] = values[VOTES].where(values[VOTES].isin(EMOTIONS))  # a rater's cell holds one label
    has_vote = values[VOTES].notna().any(axis=1)
    usable = values[list(RATINGS)].notna().all(axis=1) & has_vote
    start, end = (pd.to_numeric(rows[name], errors="coerce") for name in ("start", "end"))
    bad_start = start.isna() & (rows["start"] != "")
    left_out = "row left out of df_" + rows["role"] + ".csv"
    ordered = "its place in the table orders it"
    problems = [
        *_cell_problems(rows, values, left_out),
        *_doubtful_totals(rows, values),
        row_problems(rows[~has_vote], "row without a usable vote", "", left_out),
        row_problems(rows[bad_start], "start that is no number", rows["start"].map(repr), ordered),
    ]
    return rows.assign(start=start, end=end, usable=usable, **values.fillna("")), pd.concat(problems)


def _cell_problems(rows: pd.DataFrame, values: pd.DataFrame, left_out: pd.Series) -> list[pd.DataFrame]:
    """Problems of the cells that cannot be used or are spelt otherwise: of each kind one a row, with what is there."""
    unusable = values.isna()
    respelt = ~unusable & (values != rows[RATING_COLUMNS])
    kinds = {OTHER_SPELLING: (respelt[["Emotion", *VOTES]], "read as the label that is meant")}
    for name in RATINGS:
        of_raters = unusable.filter(like=f"{name}.")
        kinds[f"total {name.lower()} that cannot be used"] = unusable[[name]], left_out
        kinds[f"rater's {name.lower()} that cannot be used"] = of_raters, "left blank"
    problems = []
    for what, (bad, done) in kinds.items():
        cells = rows.loc[bad.any(axis=1), bad.columns].where(bad)
        found = ["; ".join(map(repr, row.dropna().unique())) for _, row in cells.iterrows()]
        problems.append(row_problems(rows.loc[cells.index], what, found, done))
    return problems


def _doubtful_totals(rows: pd.DataFrame, values: pd.DataFrame) -> list[pd.DataFrame]:
    """The totals that are not the majority label, or the mean, of their votes, where all of these can be used."""
    majority = majority_labels(count_votes(values[VOTES]))
    differs = (multi_hot(values["Emotion"]) != multi_hot(majority)).any(axis=1)
    found = {"emotion": (differs & values[["Emotion", *VOTES]].notna().all(axis=1), majority)}
    for name in RATINGS[1:]:
        mean = values.filter(like=f"{name}.").astype(float).mean(axis=1, skipna=False)
        differs = (values[name].astype(float) - mean).abs() > 0.051  # one decimal
        found[name.lower()] = differs, mean.round(2).astype(str)
    what, done = "total {} that its votes do not give", "used as it is"
    texts = {name: rows[name.title()].map(repr) + ", of the votes " + given for name, (_, given) in found.items()}
    return [row_problems(rows[found[name][0]], what.format(name), texts[name], done) for name in found]


# Order and roles


def in_time_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows sorted by time within a dialogue, dialogues in the order of the tables.

    Each table holds its utterances in time order. So a blank start is taken from another row of the utterance (KEMDy19
    has two tables a session), or from the utterance before, after which the row's position puts it.
    """
    time = rows.groupby("Segment ID")["start"].transform("first")
    time = time.groupby([rows["file"], rows["dialogue"]]).ffill()
    position = rows.groupby("file").cumcount()
    keys = rows.assign(dialogue_number=pd.factorize(rows["dialogue"])[0], time=time, position=position)
    order = keys.sort_values(["dialogue_number", "time", "position"], kind="stable", na_position="first").index
    return rows.loc[order].reset_index(drop=True)


def rows_of_role(annotation: pd.DataFrame, role: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The usable rows of `role` of an annotation, each id once: the rows of df_<role>.csv; and problems.

    An id that occurs several times is kept once if its ratings agree and left out altogether if they do not.
    """
    rows = annotation[(annotation["role"] == role) & annotation["usable"]]
    distinct = rows.drop_duplicates([column for column in COLUMNS if column not in ("start", "end", "text")])
    n_rows, n_distinct = rows["Segment ID"].value_counts(), distinct["Segment ID"].value_counts()
    first = rows[rows["Segment ID"].map(n_rows) > 1].drop_duplicates("Segment ID")
    differs = first["Segment ID"].map(n_distinct) > 1
    what = f"{role} rows of one id with " + differs.map({True: "different", False: "equal"}) + " ratings"
    found = first["Segment ID"].map(n_rows).astype(str) + " rows"
    problems = row_problems(first, what, found, differs.map({True: "all left out", False: "one kept"}))
    return distinct[distinct["Segment ID"].map(n_distinct) == 1], problems
