"""Annotation tables of both corpora: what is read of them, and each fault's row in problems.csv."""

import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from raw_corpus import ids, plant_faults, problems_of, read, rows_of, spoil, write_rows

from corpora.problems import OTHER_SPELLING
from utils import InputError


class Raw(NamedTuple):
    """A sample's copy to spoil; one of its tables, and the place of the total there, behind the id."""

    path: Path
    sample: Path
    table: str
    total: int

    def spoil(self, row: int, column: int, cell: str) -> str:
        """Another cell, in a column counted from the total; the id that the row had."""
        return spoil(self.path, self.table, row, self.total + column, cell)[self.total - 1]


@pytest.fixture(scope="module")
def small(request, tmp_path_factory) -> dict[str, Path]:
    """The first two sessions of each sample; read only."""
    folder, samples = tmp_path_factory.mktemp("small"), ("sample", "sample20")
    others = shutil.ignore_patterns("kobert", "Session0[3-9]*", "Session10*", "Sess0[3-9]*", "Sess10*")
    return {n: Path(shutil.copytree(request.getfixturevalue(n), folder / n, ignore=others)) for n in samples}


@pytest.fixture(params=["sample", "sample20"])
def raw(request, small, tmp_path) -> Raw:
    path = Path(shutil.copytree(small[request.param], tmp_path / "corpus"))
    if request.param == "sample":
        return Raw(path, small[request.param], "Session01_F_res.csv", 10)
    return Raw(path, small[request.param], "Sess01_eval.csv", 4)


kemdy19 = pytest.mark.parametrize("raw", ["sample"], indirect=True)  # where both corpora take the same way


HEADERS = {  # cells of a row in other places, with the place of the total; both header rows change likewise
    "arousal first": lambda row, total: [
        *row[:total],
        *(row[n - (n - total) % 3 * 2 + 2] for n in range(total, len(row))),
    ],
    "raters first": lambda row, total: [*row[:total], *row[total + 3 :], *row[total : total + 3]],
    "a column more": lambda row, total: ["", *row],
}


@pytest.mark.parametrize("moved", HEADERS.values(), ids=HEADERS)
def test_columns_are_found_by_the_words_of_the_header(raw, moved):
    rows = [row + [""] * (raw.total + 33 - len(row)) for row in rows_of(raw.path, raw.table)]
    write_rows(raw.path, raw.table, [moved(row, raw.total) for row in rows])
    expected, problems = read(raw.sample)
    tables, found = read(raw.path)
    pd.testing.assert_frame_equal(tables["annotation.csv"], expected["annotation.csv"])
    pd.testing.assert_frame_equal(found, problems)


def test_columns_without_names_are_those_of_etri_and_a_contradiction_is_refused(raw):
    for name in ("Emotion", "Valence", "Arousal"):
        rows = rows_of(raw.path, raw.table)
        rows[1] = ["" if cell == name else cell for cell in rows[1]]
        write_rows(raw.path, raw.table, rows)
        pd.testing.assert_frame_equal(read(raw.path)[0]["annotation.csv"], read(raw.sample)[0]["annotation.csv"])
    spoil(raw.path, raw.table, 2, raw.total + 4, "Arousal")
    with pytest.raises(InputError, match=rf"{raw.table}, row 2, column {raw.total + 5}: 'arousal'"):
        read(raw.path)


def all_ids(raw: Raw) -> list[str]:
    return [row[raw.total - 1] for row in rows_of(raw.path, raw.table)[2:]]


# What is read


DIGESTS = {  # SHA-256; earlier versions made the same tables
    "annotation.csv": "0e2fd50d1bcd984f",
    "df_speaker.csv": "acf2b61178678ff8",
    "df_listener.csv": "39e2151cb29f840a",
    "problems.csv": "6267c3cfe585b68f",
}


def test_the_files_of_a_corpus_with_faults_never_change(corpus):
    plant_faults(corpus)
    tables, problems = read(corpus)
    texts = {name: table.to_csv(index=False).encode() for name, table in (tables | {"problems.csv": problems}).items()}
    assert {name: hashlib.sha256(text).hexdigest()[:16] for name, text in texts.items()} == DIGESTS


@pytest.mark.parametrize("raw", ["sample20"], indirect=True)
def test_ids_with_another_sessions_prefix_are_those_of_their_table(raw):
    rows = rows_of(raw.path, "Sess02_eval.csv")
    write_rows(raw.path, "Sess02_eval.csv", [[cell.replace("Sess02", "Sess01") for cell in row] for row in rows])
    tables, problems = read(raw.path)
    pd.testing.assert_frame_equal(tables["annotation.csv"], read(raw.sample)[0]["annotation.csv"])
    assert problems["id"].tolist() == [row[3] for row in rows[2:]]


def test_rows_are_the_tables_in_time_order_with_what_their_ids_say(raw):
    tables, _ = read(raw.path)
    speaker = tables["df_speaker.csv"]
    assert set(ids(speaker)) >= set(all_ids(raw))
    assert all(dialogue["start"].is_monotonic_increasing for _, dialogue in speaker.groupby("dialogue"))
    assert (speaker.groupby("dialogue")["speaker"].nunique() == 2).all()
    assert speaker["dialogue"].is_monotonic_increasing or raw.total == 10  # impro after script, in the tables' order
    row = speaker.iloc[0]
    session, script, *_ = row["Segment ID"].split("_")
    assert (f"Sess{row['Session']:02d}", row["script"], row["dialogue"]) == (session, script, f"{session}_{script}")


@pytest.mark.parametrize("segment", ["", "Sess01_F001", "../../Sess01_script01_F001", "{id}x", "{other}"])
def test_a_row_whose_id_is_none_of_the_session_is_left_out(raw, segment):
    other = ids(read(raw.path)[0]["df_speaker.csv"].query("Session == 2"))[0]
    segment = segment.format(id=all_ids(raw)[2], other=other)
    lost = raw.spoil(5, -1, segment)
    first, *rest = problems_of(raw.path)
    assert (first["row"], first["id"], first["found"]) == (5, segment, repr(segment))
    assert {problem["id"] for problem in rest} <= {lost}  # KEMDy19's other table still has the utterance
    role = "df_listener.csv" if lost[-4] == "M" else "df_speaker.csv"
    assert lost not in ids(read(raw.path)[0][role])


def test_ids_that_occur_twice_are_kept_once_if_their_ratings_agree(raw):
    rows = rows_of(raw.path, raw.table)
    own = [row for row in rows[2:] if row[raw.total - 1][-4:-3] != "M"]  # of the table's actor, or KEMDy20's
    equal, different = own[1], [*own[2]]
    different[raw.total + 1] = "1.05"
    write_rows(raw.path, raw.table, [*rows, equal, different])
    found = {problem["id"]: (problem["found"], problem["done"]) for problem in problems_of(raw.path)}
    kept, lost = equal[raw.total - 1], different[raw.total - 1]
    assert found == {kept: ("2 rows", "one kept"), lost: ("2 rows", "all left out")}
    speaker = ids(read(raw.path)[0]["df_speaker.csv"])
    assert (speaker.count(kept), speaker.count(lost)) == (1, 0)


@kemdy19
@pytest.mark.parametrize(
    ("column", "cell"),
    [(0, "bored"), (0, ""), (0, "sad;bored"), (1, "5.1"), (1, ""), (2, "0"), (2, "high"), (2, "nan")],
)
def test_a_row_without_a_usable_total_is_in_annotation_alone(raw, column, cell):
    before = read(raw.path)[0]
    segment = raw.spoil(5, column, cell)
    (found,) = problems_of(raw.path)
    assert (found["file"], found["row"], found["id"]) == (f"annotation/{raw.table}", 5, segment)
    assert found["found"] == repr(cell)
    file = found["done"].removeprefix("row left out of ")
    tables, _ = read(raw.path)
    assert ids(tables[file]) == [known for known in ids(before[file]) if known != segment]
    assert segment in ids(tables["annotation.csv"])


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_total_that_its_votes_do_not_give_is_a_problem_and_stays(raw, column):
    before = rows_of(raw.path, raw.table)[4][raw.total + column]
    cell = f"{6 - float(before):.1f}" if column else "fear" if before != "fear" else "sad"
    segment = raw.spoil(5, column, cell)
    (found,) = problems_of(raw.path)
    assert (found["row"], found["id"]) == (5, segment)
    assert repr(cell) in found["found"]
    assert before in found["found"]
    row = read(raw.path)[0]["annotation.csv"].query("`Segment ID` == @segment").astype(str)
    assert cell in row[["Emotion", "Valence", "Arousal"][column]].tolist()


@kemdy19
@pytest.mark.parametrize(("column", "cell"), [(3, "bored"), (3, "sad;happy"), (3, ""), (4, "7"), (5, "?"), (5, " ")])
def test_a_raters_cell_that_cannot_be_used_is_left_blank(raw, column, cell):
    before = read(raw.path)[0]["annotation.csv"]
    segment = raw.spoil(5, column, cell)
    (found,) = problems_of(raw.path)
    assert (found["row"], found["id"], found["found"]) == (5, segment, repr(cell))
    name = ("Emotion.1", "Valence.1", "Arousal.1")[column - 3]
    changed = read(raw.path)[0]["annotation.csv"].compare(before)
    assert changed.xs("self", axis=1, level=1).to_dict("records") == [{name: ""}]
    assert before["Segment ID"][changed.index].tolist() == [segment]


def test_a_row_without_any_vote_is_left_out_and_its_problem_has_each_cell_once(raw):
    for rater in range(1, 11):
        segment = raw.spoil(5, 3 * rater, "x" if rater == 2 else "bored")
    votes, row = problems_of(raw.path)
    assert votes["found"] == "'bored'; 'x'"
    tables, _ = read(raw.path)
    assert segment not in ids(tables[row["done"].removeprefix("row left out of ")])


@kemdy19
@pytest.mark.parametrize("column", [0, 3])
def test_a_label_in_another_spelling_is_harmless(raw, column):
    before = read(raw.path)[0]["annotation.csv"]
    raw.spoil(6, column, f" {rows_of(raw.path, raw.table)[5][raw.total + column].title()}\t")
    (found,) = problems_of(raw.path)
    assert (found["row"], found["what"]) == (6, OTHER_SPELLING)
    pd.testing.assert_frame_equal(read(raw.path)[0]["annotation.csv"], before)


def test_blank_and_unreadable_starts_leave_the_order_of_time(raw):
    before = ids(read(raw.path)[0]["df_speaker.csv"])
    raw.spoil(4, 1 - raw.total, "")
    segment = raw.spoil(5, 1 - raw.total, "0:01")
    (found,) = problems_of(raw.path)
    assert (found["id"], found["found"]) == (segment, "'0:01'")
    assert ids(read(raw.path)[0]["df_speaker.csv"]) == before


def dates(row: list[str], total: int) -> list[str]:
    """A row as a spreadsheet makes it of numbers."""
    return [*row[: total + 1], "03-May", *row[total + 2 :]]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda rows, _: [*rows[:-1], rows[-1][:20]], r", row \d+: 20 "),
        (lambda rows, _: rows[1:], ": "),
        (lambda rows, _: [["a" * 200_000]], ": "),
        (lambda rows, total: [*rows[:2], *(dates(row, total) for row in rows[2:])], ", row 3 .*'03-May'"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(raw, damage, named):
    write_rows(raw.path, raw.table, damage(rows_of(raw.path, raw.table), raw.total))
    with pytest.raises(InputError, match=raw.table + named):
        read(raw.path)


def test_a_table_of_another_session_or_encoding_and_a_folder_that_is_gone_are_named(raw):
    folder = raw.path / "annotation"
    for name in ("annotation", "wav"):
        shutil.move(raw.path / name, raw.path / "moved")
        with pytest.raises(InputError, match=f"{name}: "):
            read(raw.path)
        shutil.move(raw.path / "moved", raw.path / name)
    shutil.copy(folder / raw.table.replace("01", "02", 1), folder / raw.table)
    with pytest.raises(InputError, match=f"{raw.table}, row 3 .*Sess02_"):
        read(raw.path)
    (folder / raw.table).write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match=f"{raw.table}: "):
        read(raw.path)


@kemdy19
def test_a_table_that_is_a_copy_is_named_with_counts_and_an_utterance_that_it_lacks(raw):
    folder, ids_before = raw.path / "annotation", all_ids(raw)
    n = len(ids_before)
    shutil.copy(folder / raw.table, folder / "Session01_M_res.csv")
    found = {(problem["file"], problem["found"]) for problem in problems_of(raw.path)}
    assert found == {(f"annotation/Session01_{actor}_res.csv", f"{n} of {n} rows") for actor in "FM"}
    shutil.copy(raw.sample / "annotation" / "Session01_M_res.csv", folder)
    rows = rows_of(raw.path, raw.table)
    of_man = [row for row in rows[2:] if row[raw.total - 1][-4] == "M"]
    write_rows(raw.path, raw.table, [*rows[:2], *of_man])
    lost = {problem["id"] for problem in problems_of(raw.path)}
    assert lost == {segment for segment in ids_before if segment[-4] == "F"}  # each lacks a row


def test_blank_rows_more_cells_line_ends_and_encodings_change_nothing(raw):
    rows = rows_of(raw.path, raw.table)
    rows.insert(4, [])
    rows.insert(6, ["", " "])
    lines = [",".join([*row, "", ""]) for row in rows]
    path = raw.path / "annotation" / raw.table
    for encoding, end in (("utf-8-sig", "\r\n"), ("cp949", "\n"), ("utf-8", "\r")):
        path.write_bytes(end.join(lines).encode(encoding))
        expected, _ = read(raw.sample)
        tables, _ = read(raw.path)
        for name in tables:
            pd.testing.assert_frame_equal(tables[name], expected[name])


def test_tables_of_other_names_and_without_rows_are_problems(raw):
    shutil.copy(raw.path / "annotation" / raw.table, raw.path / "annotation" / "copy (1).csv")
    write_rows(raw.path, raw.table, rows_of(raw.path, raw.table)[:2])
    other, empty, *rest = problems_of(raw.path)
    assert (other["file"], other["done"]) == ("annotation/copy (1).csv", "table ignored")
    assert empty["file"] == f"annotation/{raw.table}"
    others = [row[9] for row in rows_of(raw.path, "Session01_M_res.csv")[2:]] if raw.total == 10 else []
    assert [problem["id"] for problem in rest] == others  # each utterance then lacks a role's row
