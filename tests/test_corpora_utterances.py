"""The table of utterances: what read_utterances makes of a folder, whose corpus it is, and lists of sessions."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from constants import EMOTIONS
from corpora.corpus import CORPORA, KEMDY19, corpus_by_name, corpus_of, corpus_of_id
from corpora.sessions import format_sessions, parse_sessions, training_sessions
from corpora.tables import multi_hot
from corpora.utterances import read_utterances, shares
from utils import InputError


@pytest.fixture
def cells(preprocessed) -> pd.DataFrame:
    """The cells of df_speaker.csv, to change."""
    return pd.read_csv(preprocessed / "df_speaker.csv", dtype=str, keep_default_na=False)


def published(folder: Path, table: pd.DataFrame, role: str = "speaker", **options: object) -> Path:
    """A folder that holds this table alone."""
    table.to_csv(folder / f"df_{role}.csv", **{"index": False, **options})
    return folder


# What is read


def test_labels_are_majorities_means_and_shares_of_the_votes(preprocessed, cells):
    table = read_utterances(preprocessed, "speaker")
    assert table["id"].tolist() == cells["Segment ID"].tolist()
    votes = cells[[f"Emotion.{rater}" for rater in range(1, 11)]]
    for index, emotion in enumerate(EMOTIONS):
        np.testing.assert_allclose(shares(table)[:, index], (votes == emotion).sum(axis=1) / 10, rtol=1e-6)
        is_label = cells["Emotion"].str.split(";").map(lambda labels, emotion=emotion: emotion in labels)
        np.testing.assert_array_equal(multi_hot(table["emotion"])[emotion], is_label)
    for column in ("Arousal", "Valence"):
        np.testing.assert_array_equal(table[column.lower()], cells[column].astype(np.float32))
    some = table[table["session"] == 3]
    np.testing.assert_array_equal(shares(some), shares(table)[some.index])
    assert multi_hot(table["emotion"].iloc[:0]).shape == (0, 7)


def test_columns_have_the_types_that_all_modules_take(preprocessed, preprocessed20):
    for folder, scripted in ((preprocessed, {True, False}), (preprocessed20, {None})):
        table = read_utterances(folder, "speaker")
        assert isinstance(table.index, pd.RangeIndex)
        assert (table["session"].dtype, table["sequence"].dtype) == (np.int64, np.int64)
        assert {table[name].dtype for name in ("arousal", "valence", "share_happy")} == {np.dtype(np.float32)}
        assert (table["start"].dtype, table["end"].dtype) == (np.float64, np.float64)
        assert set(table["scripted"]) == scripted
        assert all(isinstance(text, str) for text in table["text"])


def test_published_tables_need_no_column_that_their_ids_say(preprocessed, cells, tmp_path):
    own = read_utterances(preprocessed, "speaker")
    bare = cells.drop(columns=["Session", "dialogue", "speaker", "script", "sequence", "role"])
    pd.testing.assert_frame_equal(read_utterances(published(tmp_path, bare, index=True), "speaker"), own)
    pd.testing.assert_frame_equal(read_utterances(published(tmp_path, bare, encoding="cp949"), "speaker"), own)
    bare = bare.drop(columns=["start", "end", "text"])
    found = read_utterances(published(tmp_path, bare.assign(Session="first")), "speaker")
    assert found["session"].tolist() == own["session"].tolist()
    assert found["start"].isna().all()
    assert set(found["text"]) == {""}


def test_missing_votes_leave_the_shares_of_the_others(cells, tmp_path):
    cells.loc[0, [f"Emotion.{rater}" for rater in range(1, 11)]] = ["sad", "sad", "Disqust", "happy", *[""] * 6]
    table = read_utterances(published(tmp_path, cells), "speaker")
    np.testing.assert_allclose(shares(table)[0], [0.25, 0, 0.5, 0, 0, 0, 0.25])
    single = table[[f"Emotion.{rater}" for rater in range(1, 11)]].iloc[0]
    assert single.dropna().tolist() == ["sad", "sad", "disgust", "happy"]
    np.testing.assert_array_equal(table["Valence.7"], cells["Valence.7"].astype(np.float32))


def test_rows_out_of_the_order_of_time_are_warned_of_and_empty_ones_left_out(cells, tmp_path):
    with pytest.warns(UserWarning, match=r"df_speaker\.csv"):
        read_utterances(published(tmp_path, cells[::-1]), "speaker")
    empty = pd.DataFrame("", index=range(2), columns=cells.columns)
    found = read_utterances(published(tmp_path, pd.concat([cells[:3], empty, cells[3:]])), "speaker")
    pd.testing.assert_frame_equal(found, read_utterances(published(tmp_path, cells), "speaker"))


# What is refused


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("Segment ID", "Sess01_script01_F1"),
        ("Segment ID", "Sess01_script01_F001"),  # the first row's
        ("Emotion", "bored"),
        ("Emotion.3", "bored"),
        ("Emotion.3", "sad;happy"),
        ([f"Emotion.{rater}" for rater in range(1, 11)], ""),
        ("Arousal", "7"),
        ("Valence", "nan"),
        ("Valence", ""),
        ("role", "listener"),
        ("Session", "x"),
        ("sequence", "1e400"),
    ],
)
def test_a_bad_cell_is_named_with_its_row(preprocessed, cells, tmp_path, column, value):
    if column in ("Session", "sequence"):  # which published files may lack
        shutil.copy(preprocessed / "corpus.json", tmp_path)
    cells.loc[2, column] = value
    with pytest.raises(InputError, match=r"df_speaker\.csv, row 4\b"):
        read_utterances(published(tmp_path, cells), "speaker")


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"Segment ID\n", b"Segment ID;Emotion\nx;sad\n"]
)
def test_other_files_are_no_table(tmp_path, content):
    (tmp_path / "df_speaker.csv").write_bytes(content)
    assert corpus_of(tmp_path) is KEMDY19  # what is wrong with it is said where it is read
    with pytest.raises(InputError, match=r"df_speaker\.csv: "):
        read_utterances(tmp_path, "speaker")


def test_folders_tables_and_roles_that_are_not_there(preprocessed20, tmp_path):
    for folder, role, name in (
        (tmp_path / "nowhere", "speaker", "nowhere"),
        (tmp_path, "speaker", "df_speaker.csv"),
        (preprocessed20, "listener", "KEMDy20"),
    ):
        with pytest.raises(InputError, match=name):
            read_utterances(folder, role)


# Corpora


def test_ids_and_folders_are_of_their_corpus(preprocessed, preprocessed20, cells, tmp_path):
    assert corpus_of_id("Sess07_impro02_M031").name == "KEMDy19"
    assert corpus_of_id("Sess40_script06_User080F_012").name == "KEMDy20"
    for segment in ("Sess01_F001", "Sess01_impro01_User001F_001", "Sess40_script06_User080F_012 "):
        assert corpus_of_id(segment) is None
    assert (corpus_of(preprocessed).name, corpus_of(preprocessed20).name) == ("KEMDy19", "KEMDy20")
    assert corpus_of(published(tmp_path, cells)).name == "KEMDy19"
    (tmp_path / "corpus.json").write_text('{"corpus": 3}')
    with pytest.raises(InputError, match=r"corpus\.json"):
        corpus_of(tmp_path)


def test_folds_hold_each_session_once():
    for corpus, n, size in zip(CORPORA, (20, 40), (4, 8), strict=True):
        assert sorted(sum(corpus.folds, ())) == list(range(1, n + 1))
        assert {len(fold) for fold in corpus.folds} == {size}
        assert corpus.tuning_fold in corpus.folds
    assert corpus_by_name("KEMDy21") is None


# Sessions


@pytest.mark.parametrize(
    ("written", "sessions", "again"),
    [
        ("[1, 2]", [1, 2], "1-2"),
        ("9, 1,8", [1, 8, 9], "1,8-9"),
        ("1-4,9,3", [1, 2, 3, 4, 9], "1-4,9"),
        ("101-108", [*range(101, 109)], "101-108"),
    ],
)
def test_sessions_are_read_and_written_again(written, sessions, again):
    assert parse_sessions(written) == sessions
    assert format_sessions(sessions) == again
    assert parse_sessions(again) == sessions


@pytest.mark.parametrize("written", ["", "x", "0", "4-2", "1,,2", "KEMDy19:1", "1-", "1000", "-3"])
def test_what_is_no_list_of_sessions_is_refused(written):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_sessions(written)


def test_sessions_left_to_train_on():
    assert training_sessions([1, 2, 3, 4], [1], [3]) == [2, 4]
    assert training_sessions([1, 2, 3, 4], [1], None, [4, 2]) == [2, 4]
    for test, valid, named in (([5], None, "5"), ([1], [9], "9"), ([1, 2], [2], "2"), ([1, 2, 3, 4], None, "1-4")):
        with pytest.raises(InputError, match=rf"\b{named}\b"):
            training_sessions([1, 2, 3, 4], test, valid)
