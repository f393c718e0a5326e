"""KEMDy20: its sample is read whatever its oddities, and a fault of one is listed."""

import csv
import shutil

import numpy as np
import pandas as pd
import pytest
from raw_corpus import run, table

from constants import EMOTIONS
from corpora.annotation import read_annotation
from corpora.kemdy20 import KEMDy20
from corpora.problems import Problem
from utils import decode

NAME, LAST = "Sess01_eval.csv", "Sess10_eval.csv"
PREFIX = "segment id with another session's prefix"


@pytest.fixture
def corpus(sample20, tmp_path):
    """A raw corpus that may be spoilt."""
    return shutil.copytree(sample20, tmp_path / "corpus")


def rows_of(corpus, name: str) -> list[list[str]]:
    path = corpus / "annotation" / name
    return list(csv.reader(decode(path.read_bytes(), path).splitlines()))


def write_rows(corpus, name: str, rows: list[list[str]]) -> None:
    with (corpus / "annotation" / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def spoil(corpus, row: int, column: int, cell: str, name: str = NAME) -> str:
    """Another cell in a row, counted from 1; the id that the row had."""
    rows = rows_of(corpus, name)
    segment = rows[row - 1][3]
    rows[row - 1][column] = cell
    write_rows(corpus, name, rows)
    return segment


def new_faults(corpus, preprocessed20) -> list[Problem]:
    """Pre-process; what problems.csv has that the sample as it is has not."""
    assert run(corpus) == 0
    known = set(table(preprocessed20, "problems.csv").itertuples(index=False, name=None))
    found = table(corpus, "problems.csv").itertuples(index=False, name=None)
    return [Problem(*row) for row in found if row not in known]


def test_folds_hold_each_of_the_forty_sessions_once():
    corpus = KEMDy20()
    assert sorted(sum(corpus.folds, ())) == list(corpus.sessions) == list(range(1, 41))
    assert corpus.folds[0] == corpus.test_fold == tuple(range(1, 9))
    assert {len(fold) for fold in corpus.folds} == {8}
    assert corpus.roles == ("speaker",)


def test_the_first_line_names_the_corpus_and_there_are_no_listener_rows(corpus, capsys):
    assert run(corpus) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{corpus}: KEMDy20"
    assert "60 utterances, 10 sessions, 20 dialogues" in out[2]
    assert not (corpus / "df_listener.csv").exists()
    assert "listener" not in "".join(out)


def test_every_utterance_is_there_once_with_its_text_and_embedding(sample20, preprocessed20):
    speaker = pd.read_csv(preprocessed20 / "df_speaker.csv")
    files = {path.stem for path in (sample20 / "wav").rglob("*.wav")}
    assert set(speaker["Segment ID"]) == files
    assert len(speaker) == len(files) == 60
    annotation = read_annotation(preprocessed20 / "df_speaker.csv")
    assert annotation.session.tolist() == sorted(annotation.session.tolist())
    assert len(set(annotation.dialogue)) == 20
    assert speaker["text"].fillna("").str.contains("[가-힣]").sum() >= 58  # all but the empty ones
    assert not speaker["text"].fillna("").str.contains("\ufffd|[bnlu]/").any()


def test_rows_are_in_time_order_though_neighbours_overlap_and_speakers_alternate(preprocessed20):
    speaker = pd.read_csv(preprocessed20 / "df_speaker.csv")
    overlaps = 0
    for _, dialogue in speaker.groupby("dialogue"):
        assert dialogue["start"].is_monotonic_increasing
        overlaps += (dialogue["end"].to_numpy()[:-1] > dialogue["start"].to_numpy()[1:]).sum()
    assert overlaps > 3
    assert (speaker.groupby("dialogue")["speaker"].nunique() == 2).all()


def test_speakers_of_one_sex_are_two(preprocessed20):
    speaker = pd.read_csv(preprocessed20 / "df_speaker.csv")
    last = speaker[speaker["Session"] == 10]
    assert set(last["Segment ID"].str.split("_").str[2]) == {"User019F", "User020F"}
    assert set(last["speaker"]) == {"User019", "User020"}


def test_five_labels_tie_and_disqust_is_disgust(sample20, preprocessed20):
    first = rows_of(sample20, NAME)[2]
    assert first[4].count(";") == 4
    assert "disqust" in first[4]
    assert "disgust" in first[7:]
    annotation = read_annotation(preprocessed20 / "df_speaker.csv")
    assert annotation.majority[0].sum() == 5
    np.testing.assert_allclose(annotation.soft[0], [0.2] * 5 + [0, 0], atol=1e-6)
    emotions = pd.read_csv(preprocessed20 / "annotation.csv")["Emotion"].str.split(";").explode()
    assert set(emotions) <= set(EMOTIONS)


def test_transcripts_of_both_encodings_are_read(sample20, preprocessed20):
    sessions = set()
    text = pd.read_csv(preprocessed20 / "df_speaker.csv").set_index("Segment ID")["text"].fillna("")
    for path in (sample20 / "wav").rglob("*.txt"):
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            sessions.add(path.parent.name)
            assert text[path.stem]
    assert len(sessions) == 9  # all but the second


def test_ids_with_another_sessions_prefix_are_mended_and_warned_of_once(sample20, corpus, capsys):
    segments = [row[3] for row in rows_of(sample20, LAST)[2:]]
    assert {segment[:6] for segment in segments} == {"Sess09"}
    assert run(corpus) == 0
    err = capsys.readouterr().err
    assert err.count(f"warning: {PREFIX}") == 1
    speaker = table(corpus, "df_speaker.csv")
    mended = [f"Sess10{segment[6:]}" for segment in segments]
    assert speaker[speaker["Session"] == "10"]["Segment ID"].tolist() == mended
    assert set(speaker[speaker["Session"] == "10"]["dialogue"]) == {"Sess10_script01", "Sess10_script02"}
    problems = table(corpus, "problems.csv").query(f'what == "{PREFIX}"')
    assert problems["id"].tolist() == mended
    assert problems["found"].tolist() == [repr(segment) for segment in segments]


def test_a_row_whose_files_are_another_sessions_is_left_out(corpus, preprocessed20):
    other = rows_of(corpus, "Sess02_eval.csv")[3][3]
    lost = spoil(corpus, 4, 3, other)
    (found,) = new_faults(corpus, preprocessed20)
    what = "segment id of another session than its table"
    assert found == Problem(f"annotation/{NAME}", "4", other, what, repr(other), "row left out")
    ids = table(corpus, "df_speaker.csv")["Segment ID"].tolist()
    assert lost not in ids
    assert ids.count(other) == 1


def test_another_sessions_whole_table_is_refused(corpus, capsys):
    shutil.copy(corpus / "annotation" / "Sess02_eval.csv", corpus / "annotation" / NAME)
    assert run(corpus) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{NAME}, row 3: segment id 'Sess02_script01_User003F_001'" in error
    assert "6 rows have no id of this session, is it another's table?" in error
    assert not (corpus / "df_speaker.csv").exists()


@pytest.mark.parametrize("segment", ["", "Sess01_script01_F001", "Sess01_script01_User001_001"])
def test_a_row_without_an_id_is_left_out(corpus, preprocessed20, segment):
    lost = spoil(corpus, 5, 3, segment)
    (found,) = new_faults(corpus, preprocessed20)
    assert (found.row, found.what, found.found) == ("5", "segment id that cannot be parsed", repr(segment))
    assert lost not in set(table(corpus, "df_speaker.csv")["Segment ID"])


@pytest.mark.parametrize(
    ("column", "cell", "what", "kept"),
    [
        (4, "bored", "total emotion that is none of the seven", False),
        (5, "6", "total valence that is no number from 1 to 5", False),
        (6, "", "total arousal that is no number from 1 to 5", False),
        (7, "bored", "vote that is none of the seven emotions", True),
        (8, "x", "rater's valence that is no number from 1 to 5", True),
        (1, "0:01", "start that is no number", True),
    ],
)
def test_cells_that_cannot_be_used_are_listed(corpus, preprocessed20, column, cell, what, kept):
    segment = spoil(corpus, 5, column, cell)
    (found,) = new_faults(corpus, preprocessed20)
    assert (found.file, found.row, found.id, found.what) == (f"annotation/{NAME}", "5", segment, what)
    speaker = table(corpus, "df_speaker.csv")["Segment ID"].tolist()
    assert (segment in speaker) is kept
    whole = table(preprocessed20, "df_speaker.csv")["Segment ID"].tolist()
    assert speaker == [known for known in whole if known in speaker]  # the order of time


def test_rows_of_one_id(corpus, preprocessed20):
    rows = rows_of(corpus, NAME)
    equal, different = rows[3], [*rows[4][:5], "1.05", *rows[4][6:]]
    write_rows(corpus, NAME, [*rows, equal, different])
    found = {(row.id, row.what, row.done) for row in new_faults(corpus, preprocessed20)}
    assert found == {
        (equal[3], "speaker rows of one id with equal ratings", "one kept"),
        (different[3], "speaker rows of one id with different ratings", "all left out"),
    }


def test_files_and_tables_that_lack_or_are_odd(corpus, preprocessed20, capsys):
    ids = [row[3] for row in rows_of(corpus, NAME)[2:]]
    (corpus / f"wav/Session01/{ids[1]}.wav").unlink()
    (corpus / f"wav/Session01/{ids[2]}.txt").unlink()
    (corpus / f"wav/Session01/{ids[3]}.txt").write_bytes(b"\xff\xff\x80")
    header = rows_of(corpus, "Sess05_eval.csv")[:2]
    write_rows(corpus, "Sess05_eval.csv", header)
    shutil.copy(corpus / "annotation" / NAME, corpus / "annotation" / "Sess01_eval (1).csv")
    found = {(row.what, row.id or row.file) for row in new_faults(corpus, preprocessed20)}
    assert found == {
        ("no wav", ids[1]),
        ("no transcript", ids[2]),
        ("transcript that is not readable", ids[3]),
        ("table without rows", "annotation/Sess05_eval.csv"),
        ("table whose name is not such as Sess01_eval.csv", "annotation/Sess01_eval (1).csv"),
    }
    shutil.copy(corpus / "annotation" / NAME, corpus / "annotation" / NAME.lower())
    assert run(corpus, "--overwrite") == 2
    assert f"{NAME.lower()}: {NAME} is there as well" in capsys.readouterr().err


def test_a_table_cut_short_and_one_without_header_rows_are_named(corpus, capsys):
    rows = rows_of(corpus, NAME)
    write_rows(corpus, NAME, [*rows[:-1], rows[-1][:30]])
    assert run(corpus) == 2
    assert f"{NAME}, row 8: 30 columns, expected 37" in capsys.readouterr().err
    write_rows(corpus, NAME, rows[2:])
    assert run(corpus) == 2
    assert f"{NAME}: its first two rows hold an utterance" in capsys.readouterr().err
    write_rows(corpus, NAME, [[*row, "", ""] for row in rows])
    assert run(corpus) == 0
