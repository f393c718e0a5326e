import shutil

import pandas as pd
import pytest
from raw_corpus import FILES, NAME, faults, run, spoil, table, table_of, utterance

from constants import EMOTIONS
from corpora.kemdy19 import KEMDy19
from corpora.problems import Problem
from corpora.tables import COLUMNS


@pytest.mark.parametrize(
    "segment", ["Sess1_script01_F001", "Sess01_scene01_F001", "Sess01_script01_X001", "Sess01_script01_F001 "]
)
def test_other_ids_are_no_segment_ids(segment):
    assert KEMDy19().parse_id(segment) is None


@pytest.fixture(scope="module")
def annotation(preprocessed) -> pd.DataFrame:
    return pd.read_csv(preprocessed / "annotation.csv")


def test_annotation_has_a_row_for_every_table_row(sample, annotation):
    rows = 0
    for path in (sample / "annotation").glob("*.csv"):
        rows += sum("Sess" in line for line in path.read_bytes().decode("cp949", errors="ignore").splitlines())
    assert len(annotation) == rows
    assert annotation.columns.tolist() == COLUMNS
    assert set(annotation["Emotion"].str.split(";").explode()) <= set(EMOTIONS)  # disqust is disgust


def test_annotation_is_in_time_order_within_dialogues_and_dialogues_in_the_corpus_order(annotation):
    assert annotation["dialogue"].ne(annotation["dialogue"].shift()).sum() == annotation["dialogue"].nunique()
    assert annotation["Session"].is_monotonic_increasing
    for _, dialogue in annotation.groupby("dialogue"):
        assert dialogue["start"].is_monotonic_increasing


def test_roles_hold_each_utterance_once_and_agree_with_the_tables(sample, preprocessed, annotation):
    speaker, listener = (pd.read_csv(preprocessed / f"df_{role}.csv") for role in ("speaker", "listener"))
    ids = {path.stem for path in (sample / "wav").rglob("*.txt")}
    assert set(speaker["Segment ID"]) == ids
    repeated = annotation[annotation["role"] == "listener"]["Segment ID"].value_counts()
    conflicting = set(repeated.index[repeated > 1])
    assert conflicting  # the sample carries one id with two different ratings, as KEMDy19 does
    assert set(listener["Segment ID"]) == ids - conflicting
    assert not speaker["Segment ID"].duplicated().any()
    assert not listener["Segment ID"].duplicated().any()

    raw = pd.read_csv(sample / "annotation" / "Session01_F_res.csv", header=None, skiprows=2, dtype=str).iloc[0]
    own = speaker if raw[9][-4] == "F" else listener
    row = own[own["Segment ID"] == raw[9]].iloc[0]
    assert row["Emotion"] == raw[10]
    assert (row["Valence"], row["Arousal"]) == (float(raw[11]), float(raw[12]))
    assert (row["Emotion.10"], row["Valence.10"], row["Arousal.10"]) == (raw[40], float(raw[41]), float(raw[42]))


def test_columns_that_the_segment_id_gives(annotation):
    row = annotation.iloc[0]
    session, script, tail = row["Segment ID"].split("_")
    assert (row["Session"], row["script"], row["dialogue"]) == (int(session[4:]), script, f"{session}_{script}")
    assert (row["speaker"], row["sequence"]) == (tail[0], int(tail[1:]))


def test_blank_starts_leave_the_order_of_time(corpus, preprocessed):
    """Of one row, of one utterance in both tables, and of a whole dialogue."""
    names = ["Session01_F_res.csv", "Session01_M_res.csv"]
    spoil(corpus, names[0], 4, 1, "")
    for name in names:
        spoil(corpus, name, 5, 1, "")
        for row in range(7, 12):
            spoil(corpus, name, row, 1, "")
    assert run(corpus) == 0
    for role in ("speaker", "listener"):
        ours, whole = (pd.read_csv(root / f"df_{role}.csv")["Segment ID"] for root in (corpus, preprocessed))
        assert ours.tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("segment", "what"),
    [
        ("Sess01_F001", "segment id that cannot be parsed"),
        ("", "segment id that cannot be parsed"),
        ("../../Sess01_script01_F001", "segment id that cannot be parsed"),
        ("Sess02_script01_F001", "segment id of another session than its table"),
    ],
)
def test_single_row_with_another_id_is_left_out(corpus, preprocessed, capsys, segment, what):
    lost, role_table = utterance(corpus, NAME, 4), table_of(corpus, NAME, 4)
    spoil(corpus, NAME, 4, 9, segment)
    first, *half = faults(corpus, preprocessed, capsys)
    assert first == Problem(f"annotation/{NAME}", "5", segment, what, repr(segment), "row left out")
    # The other table still has the utterance that lost its id
    assert [(row.file, row.id) for row in half] == [("annotation/Session01_M_res.csv", lost)]
    whole = table(preprocessed, role_table)
    pd.testing.assert_frame_equal(table(corpus, role_table), whole[whole["Segment ID"] != lost].reset_index(drop=True))


def test_tables_of_other_names_and_of_one_session_twice(corpus, preprocessed, capsys):
    shutil.copy(corpus / "annotation" / NAME, corpus / "annotation" / "Session01_F_res (1).csv")
    (found,) = faults(corpus, preprocessed, capsys)
    assert found.file == "annotation/Session01_F_res (1).csv"
    assert found.done == "not read"
    shutil.copy(corpus / "annotation" / NAME, corpus / "annotation" / "session01_f_res.csv")
    assert run(corpus, "--overwrite") == 2
    assert f"session01_f_res.csv: {NAME} is there as well" in capsys.readouterr().err


def test_session_with_one_table(corpus, preprocessed, capsys):
    (corpus / "annotation" / "Session02_M_res.csv").unlink()
    (found,) = [row for row in faults(corpus, preprocessed, capsys) if "table" in row.what]
    assert (found.file, found.what) == ("annotation/Session02_F_res.csv", "session with one table of two")
    for role, actor in (("speaker", "F"), ("listener", "M")):
        own = table(corpus, f"df_{role}.csv").query("Session == '2'")
        assert set(own["speaker"]) == {actor}


def test_table_without_rows_and_utterance_in_one_table_only(corpus, preprocessed, capsys):
    path = corpus / "annotation" / "Session02_M_res.csv"
    header = path.read_bytes().splitlines(True)[:2]
    path.write_bytes(b"".join(header))
    *_, last = lines = (corpus / "annotation" / NAME).read_text(encoding="utf-8").splitlines()
    (corpus / "annotation" / NAME).write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    found = faults(corpus, preprocessed, capsys)
    assert [row.file for row in found if row.what == "table without rows"] == ["annotation/Session02_M_res.csv"]
    half = [row.id for row in found if row.what == "utterance that only one of its session's two tables holds"]
    assert half[0] == last.split(",")[9]
    assert {segment[:6] for segment in half[1:]} == {"Sess02"}
    for name in FILES[:3]:
        ours, whole = table(corpus, name), table(preprocessed, name)
        ours, whole = (rows[~rows["Session"].isin(["1", "2"])].reset_index(drop=True) for rows in (ours, whole))
        pd.testing.assert_frame_equal(ours, whole)
        assert len(ours) > 0
