"""Annotation tables and what preprocessing makes of their cells."""

import numpy as np
import pandas as pd
import pytest
from raw_corpus import FILES, NAME, faults, repeat_row, run, spoil, table, table_of, utterance

from corpora.annotation import read_annotation
from corpora.problems import OTHER_SPELLING, Problem
from utils import decode


def test_rows_that_cannot_be_used_stay_in_annotation_and_not_in_the_roles_tables(corpus):
    spoil(corpus, "Session01_F_res.csv", 4, 10, "bored")
    for rater in range(10):
        spoil(corpus, "Session02_F_res.csv", 4, 13 + 3 * rater, "bored")
    spoil(corpus, "Session03_F_res.csv", 4, 13, "bored")
    spoil(corpus, "Session03_F_res.csv", 4, 14, "7")
    spoil(corpus, "Session03_F_res.csv", 4, 16, "  SAD ")
    assert run(corpus) == 0
    tables = {name: pd.read_csv(corpus / name).set_index("Segment ID") for name in FILES[:3]}
    for session, used in ((1, False), (2, False), (3, True)):
        path = corpus / "annotation" / f"Session0{session}_F_res.csv"
        segment = path.read_text(encoding="utf-8-sig").splitlines()[4].split(",")[9]
        role = "speaker" if segment[-4] == "F" else "listener"
        assert segment in tables["annotation.csv"].index
        assert (segment in tables[f"df_{role}.csv"].index) is used
    row = tables[f"df_{role}.csv"].loc[segment]
    assert row[["Emotion.1", "Valence.1"]].isna().all()
    assert row["Emotion.2"] == "sad"
    votes = pd.Series(read_annotation(corpus / f"df_{role}.csv").ids)
    soft = read_annotation(corpus / f"df_{role}.csv").soft[votes.eq(segment).to_numpy().argmax()]
    assert (soft * 9).round(4).tolist() == (soft * 9).round().tolist()  # shares of the nine votes left


@pytest.mark.parametrize(
    ("column", "cell", "what"),
    [
        (10, "bored", "total emotion that is none of the seven"),
        (10, "", "total emotion that is none of the seven"),
        (10, "sad;bored", "total emotion that is none of the seven"),
        (11, "5.1", "total valence that is no number from 1 to 5"),
        (11, "", "total valence that is no number from 1 to 5"),
        (12, "0", "total arousal that is no number from 1 to 5"),
        (12, "high", "total arousal that is no number from 1 to 5"),
        (12, "nan", "total arousal that is no number from 1 to 5"),
    ],
)
def test_row_without_a_usable_total_is_left_out_of_its_roles_table(corpus, preprocessed, capsys, column, cell, what):
    spoil(corpus, NAME, 4, column, cell)
    segment, role_table = utterance(corpus, NAME, 4), table_of(corpus, NAME, 4)
    done = f"row left out of {role_table}"
    assert faults(corpus, preprocessed, capsys) == [
        Problem(f"annotation/{NAME}", "5", segment, what, f"{cell!r} of the total", done)
    ]
    ours, whole = table(corpus, role_table), table(preprocessed, role_table)
    pd.testing.assert_frame_equal(ours, whole[whole["Segment ID"] != segment].reset_index(drop=True))
    assert segment in set(table(corpus, "annotation.csv")["Segment ID"])


@pytest.mark.parametrize(
    ("rating", "fault"),  # column and cell, what it is and what is done
    [
        ((13, "bored"), ("vote that is none of the seven emotions", "left out of the soft label")),
        ((13, "sad;happy"), ("vote that is none of the seven emotions", "left out of the soft label")),
        ((13, ""), ("rater's emotion that is blank", "left out of the soft label")),
        ((14, "7"), ("rater's valence that is no number from 1 to 5", "left blank")),
        ((15, "?"), ("rater's arousal that is no number from 1 to 5", "left blank")),
        ((15, " "), ("rater's arousal that is blank", "left blank")),
    ],
)
def test_rating_that_cannot_be_used_is_left_blank(corpus, preprocessed, capsys, rating, fault):
    (column, cell), (what, done) = rating, fault
    spoil(corpus, NAME, 4, column, cell)
    segment, role_table = utterance(corpus, NAME, 4), table_of(corpus, NAME, 4)
    found = faults(corpus, preprocessed, capsys)
    assert found == [Problem(f"annotation/{NAME}", "5", segment, what, f"{cell!r} of rater 1", done)]
    ours, whole = table(corpus, role_table), table(preprocessed, role_table)
    rater = ["Emotion.1", "Valence.1", "Arousal.1"][column - 13]
    whole.loc[whole["Segment ID"] == segment, rater] = ""
    pd.testing.assert_frame_equal(ours, whole)
    annotation = read_annotation(corpus / role_table)
    soft = annotation.soft[annotation.ids.index(segment)]
    votes = 9 if column == 13 else 10
    np.testing.assert_allclose(soft * votes, (soft * votes).round(), atol=1e-5)
    assert soft.sum() == pytest.approx(1)


def test_row_without_a_vote_is_left_out(corpus, preprocessed, capsys):
    for rater in range(10):
        spoil(corpus, NAME, 4, 13 + 3 * rater, "bored")
    found = faults(corpus, preprocessed, capsys)
    assert [row.what for row in found] == ["vote that is none of the seven emotions", "row without a usable vote"]
    assert utterance(corpus, NAME, 4) not in set(table(corpus, table_of(corpus, NAME, 4))["Segment ID"])


@pytest.mark.parametrize("column", [10, 13])
@pytest.mark.parametrize("spelling", [" {} ", "{}\t", "title", "upper"])
def test_labels_in_other_spellings_are_read_as_what_is_meant(corpus, preprocessed, capsys, column, spelling):
    row = next(
        i
        for i in range(4, 12)
        if (corpus / "annotation" / NAME).read_text().splitlines()[i].split(",")[column].islower()
    )
    label = (corpus / "annotation" / NAME).read_text().splitlines()[row].split(",")[column]
    spelt = spelling.format(label) if "{}" in spelling else getattr(label, spelling)()
    spoil(corpus, NAME, row, column, spelt)
    (found,) = faults(corpus, preprocessed, capsys)
    assert (found.what, found.found) == (OTHER_SPELLING, f"{spelt!r} of {'the total' if column == 10 else 'rater 1'}")
    for name in FILES[:3]:
        assert (corpus / name).read_bytes() == (preprocessed / name).read_bytes()


def test_disqust_is_disgust(corpus, preprocessed, capsys):
    spoil(corpus, NAME, 4, 10, "disgust")
    assert run(corpus) == 0
    expected = [(corpus / name).read_bytes() for name in FILES[:3]]
    spoil(corpus, NAME, 4, 10, "disqust")
    assert run(corpus, "--overwrite") == 0
    assert [(corpus / name).read_bytes() for name in FILES[:3]] == expected
    assert "label in another spelling" in capsys.readouterr().err


def test_raters_other_names_and_trailing_empty_lines_and_columns_change_nothing(corpus, preprocessed, capsys):
    for path in (corpus / "annotation").glob("*.csv"):
        text = decode(path.read_bytes(), path).replace("Eval0", "Rater ").replace("Eval10", "열번째")
        lines = [line + ",,, ," for line in text.splitlines()]
        path.write_text("\n".join([*lines, "", "," * 42, "  ,", ""]) + "\n", encoding="utf-8")
    assert faults(corpus, preprocessed, capsys) == []
    for name in FILES:
        assert (corpus / name).read_bytes() == (preprocessed / name).read_bytes()


def test_id_that_repeats_with_equal_ratings_is_kept_once(corpus, preprocessed, capsys):
    segment = repeat_row(corpus, 4, c1="9999.5")
    role_table = table_of(corpus, NAME, 4)
    (found,) = faults(corpus, preprocessed, capsys)
    what = f"{role_table[3:-4]} rows of one id with equal ratings"
    assert found == Problem(f"annotation/{NAME}", "5", segment, what, "2 rows", "one kept")
    for name in FILES[1:3]:
        pd.testing.assert_frame_equal(table(corpus, name), table(preprocessed, name))


def test_id_that_repeats_with_different_ratings_is_left_out(corpus, preprocessed, capsys):
    segment = repeat_row(corpus, 4, c11="1.05")
    role_table = table_of(corpus, NAME, 4)
    (found,) = faults(corpus, preprocessed, capsys)
    what = f"{role_table[3:-4]} rows of one id with different ratings"
    assert found == Problem(f"annotation/{NAME}", "5", segment, what, "2 rows", "all left out")
    whole = table(preprocessed, role_table)
    pd.testing.assert_frame_equal(
        table(corpus, role_table), whole[whole["Segment ID"] != segment].reset_index(drop=True)
    )


def test_equal_ratings_in_other_spellings_are_equal(corpus, preprocessed, capsys):
    lines = (corpus / "annotation" / NAME).read_text(encoding="utf-8-sig").splitlines()
    repeat_row(corpus, 4, c11=f"{lines[4].split(',')[11]}0 ", c14=f"{lines[4].split(',')[14]}.0")
    (found,) = faults(corpus, preprocessed, capsys)
    assert found.done == "one kept"


def test_start_that_is_no_number(corpus, preprocessed, capsys):
    spoil(corpus, NAME, 4, 1, "0:04")
    (found,) = faults(corpus, preprocessed, capsys)
    assert (found.what, found.found) == ("start that is no number", "'0:04'")
    pd.testing.assert_frame_equal(
        table(corpus, "df_speaker.csv")[["Segment ID"]], table(preprocessed, "df_speaker.csv")[["Segment ID"]]
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_tables_and_transcripts_of_any_encoding_and_line_end_give_the_same(corpus, preprocessed, encoding, newline):
    for path in [*(corpus / "annotation").glob("*.csv"), *(corpus / "wav").rglob("*.txt")]:
        text = decode(path.read_bytes(), path)
        path.write_bytes(newline.join(text.splitlines()).encode(encoding))
    assert run(corpus) == 0
    for name in FILES[:3]:
        assert (corpus / name).read_bytes() == (preprocessed / name).read_bytes()


@pytest.mark.parametrize(("column", "whose"), [(11, "valence of the total"), (15, "arousal of rater 1")])
@pytest.mark.parametrize("cell", ["03월 05일", "3-May", "44684"])
def test_a_column_of_ratings_that_became_dates_stops(corpus, capsys, column, whose, cell):
    for row in (4, 6):
        spoil(corpus, NAME, row, column, cell)
    before = sorted(corpus.rglob("*"))
    assert run(corpus) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    n_rows = len((corpus / "annotation" / NAME).read_text(encoding="utf-8-sig").splitlines()) - 2
    assert error.startswith(f"error: {corpus / 'annotation' / NAME}, row 5: {whose} is {cell!r}, expected a number")
    assert f"in 2 of {n_rows} rows: did a spreadsheet make dates of numbers?" in error
    assert sorted(corpus.rglob("*")) == before


def test_blank_ratings_do_not_stop(corpus):
    for row in range(3, 8):
        spoil(corpus, NAME, row, 14, "")
    assert run(corpus) == 0


def test_a_problem_names_the_raters_and_joins_their_cells(corpus, preprocessed, capsys):
    for column, cell in ((13, "bored"), (19, "bored"), (22, "x"), (17, "9"), (16, "Sad"), (10, " happy")):
        spoil(corpus, NAME, 4, column, cell)
    found = {row.what: row.found for row in faults(corpus, preprocessed, capsys)}
    assert found == {
        OTHER_SPELLING: "' happy' of the total; 'Sad' of rater 2",
        "vote that is none of the seven emotions": "'bored' of raters 1, 3; 'x' of rater 4",
        "rater's valence that is no number from 1 to 5": "'9' of rater 2",
    }


def test_strict_names_a_fault_and_no_other_spelling(corpus, preprocessed, capsys):
    known = set(table(preprocessed, "problems.csv")["what"])
    assert OTHER_SPELLING in known  # the sample has the corpus's disqust
    assert run(corpus, "--strict") == 2
    assert OTHER_SPELLING not in capsys.readouterr().err.splitlines()[-1]
