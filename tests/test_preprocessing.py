import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import heed_permissions

import preprocessing
from constants import EMOTIONS
from corpora.kemdy19 import COLUMNS
from corpora.problems import Problem
from corpora.transcripts import clean_transcript
from dataset import read_annotation
from features.embeddings import load_embeddings
from features.text import embed_sentences, load_text_model
from preprocessing import main, output_files, preprocess
from utils import decode

FILES = ("annotation.csv", "df_speaker.csv", "df_listener.csv", "embedding_768.npy", "problems.csv")
CACHE = "embedding_768.cache.npz"


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("b/ 그래 l/ 알았어. n/", "그래 알았어."),
        ("N/ o/ u/ c/ s/", ""),
        ("그래 u/.", "그래 ."),
        (".b/ 그래", ". 그래"),
        ("(u/+u/) 뭐?", "뭐?"),
        ("그래 /n 응", "그래 응"),
        ("b/b/아니", "아니"),
        ("/n/ 응", "응"),
        ("l/n 응", "응"),
        ("응/n 그래", "응 그래"),
        ("BTSb/ 6b/ 112n/", "BTS 6 112"),
        ("on/off ON/OFF 24/7", "on/off ON/OFF 24/7"),
        ("b/sos", "sos"),
        ("(그래+아니) 몰라", "그래 아니 몰라"),
        ("(아뇨 + 밖에) 있어", "아뇨 밖에 있어"),
        ("((가+나)+다)", "가 나 다"),
        ("(아니잖아) 진짜", "아니잖아 진짜"),
        ("(닫히지 않은", "닫히지 않은"),
        ('*그가 "가자"  했어', "그가 가자 했어"),
        ("한 줄\n두 줄\r\n", "한 줄 두 줄"),
        ("BTS가 QR코드로 112에 6살 TF팀 b/", "BTS가 QR코드로 112에 6살 TF팀"),
        ("blnoucs USB는 sos 1+1 행사", "blnoucs USB는 sos 1+1 행사"),
        ("정말? 와! 음, 네.", "정말? 와! 음, 네."),
        ("", ""),
    ],
)
def test_transcripts_lose_their_markup_and_nothing_else(raw, cleaned):
    assert clean_transcript(raw) == cleaned


def test_the_files_are_written_beside_the_raw_data(sample, preprocessed):
    made = {path.name for path in preprocessed.iterdir()} - {path.name for path in sample.iterdir()}
    made -= {"features"}  # training makes it
    assert made == {*FILES, CACHE} == {*output_files(preprocessed, 768), CACHE}
    wavs = [sorted(p.relative_to(root) for p in root.rglob("*.wav")) for root in (sample, preprocessed)]
    assert wavs[0] == wavs[1]
    assert wavs[0]


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
    table = speaker if raw[9][-4] == "F" else listener
    row = table[table["Segment ID"] == raw[9]].iloc[0]
    assert row["Emotion"] == raw[10]
    assert (row["Valence"], row["Arousal"]) == (float(raw[11]), float(raw[12]))
    assert (row["Emotion.10"], row["Valence.10"], row["Arousal.10"]) == (raw[40], float(raw[41]), float(raw[42]))


def test_columns_that_the_segment_id_gives(annotation):
    row = annotation.iloc[0]
    session, script, tail = row["Segment ID"].split("_")
    assert (row["Session"], row["script"], row["dialogue"]) == (int(session[4:]), script, f"{session}_{script}")
    assert (row["speaker"], row["sequence"]) == (tail[0], int(tail[1:]))


def test_embeddings_are_those_of_the_cleaned_transcripts(sample, preprocessed):
    vectors = load_embeddings(preprocessed / "embedding_768.npy", 768)
    txts = {path.name: path for path in (sample / "wav").rglob("*.txt")}
    assert vectors.keys() == txts.keys()
    tokenizer, model = load_text_model(str(sample / "kobert"), 768)
    for name in sorted(txts)[::7]:
        text = clean_transcript(txts[name].read_text(encoding="utf-8"))
        expected = embed_sentences([text], tokenizer, model, quiet=True)[0]
        np.testing.assert_allclose(vectors[name], expected, rtol=0, atol=1e-5)


def test_published_readers_find_the_tables(preprocessed):
    for role in ("speaker", "listener"):
        assert len(read_annotation(preprocessed / f"df_{role}.csv").ids) > 0


@pytest.fixture
def corpus(sample, tmp_path) -> Path:
    """A raw corpus that may be spoilt."""
    shutil.copytree(sample, tmp_path / "corpus")
    return tmp_path / "corpus"


def run(corpus: Path, *options: str) -> int:
    return main(["--data_path", str(corpus), "--text_model", str(corpus / "kobert"), "--gpu_id", "cpu", *options])


def spoil(corpus: Path, table: str, row: int, column: int, value: str) -> None:
    path = corpus / "annotation" / table
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    cells = lines[row].split(",")
    cells[column] = value
    lines[row] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_summary_tells_what_was_found_and_how_often(corpus, preprocessed, capsys):
    spoil(corpus, "Session01_F_res.csv", 4, 10, "bored")
    spoil(corpus, "Session02_F_res.csv", 4, 11, "9")
    assert run(corpus) == 0
    out = capsys.readouterr().out
    n = len(list((corpus / "wav").rglob("*.txt")))
    assert f"{n} utterances, 6 sessions, 12 dialogues\nspeaker: " in out
    counts = [len(pd.read_csv(folder / "problems.csv")) for folder in (preprocessed, corpus)]
    assert counts[1] == counts[0] + 2
    assert out.endswith(f"faults, listed in problems.csv: {counts[1]}\n")


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


def test_blank_starts_leave_the_order_of_time(corpus, preprocessed):
    """Of one row, of one utterance in both tables, and of a whole dialogue."""
    tables = ["Session01_F_res.csv", "Session01_M_res.csv"]
    spoil(corpus, tables[0], 4, 1, "")
    for table in tables:
        spoil(corpus, table, 5, 1, "")
        for row in range(7, 12):
            spoil(corpus, table, row, 1, "")
    assert run(corpus) == 0
    for role in ("speaker", "listener"):
        ours, whole = (pd.read_csv(root / f"df_{role}.csv")["Segment ID"] for root in (corpus, preprocessed))
        assert ours.tolist() == whole.tolist()


# Faults of a corpus


def table(corpus: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(corpus / name, dtype=str, keep_default_na=False)


def faults(corpus: Path, preprocessed: Path, capsys: pytest.CaptureFixture) -> list[Problem]:
    """Pre-process and return what `problems.csv` has beyond that of `preprocessed`; each kind is warned of once."""
    assert run(corpus) == 0
    known = {tuple(row) for row in table(preprocessed, "problems.csv").itertuples(index=False)}
    rows = [Problem(*row) for row in table(corpus, "problems.csv").itertuples(index=False)]
    warned = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("warning: ")]
    assert len(warned) == len({(row.what, row.done) for row in rows})
    assert all(any(line.startswith(f"warning: {row.what}: ") and row.done in line for line in warned) for row in rows)
    return [row for row in rows if tuple(row) not in known]


def utterance(corpus: Path, name: str, row: int) -> str:
    return (corpus / "annotation" / name).read_text(encoding="utf-8-sig").splitlines()[row].split(",")[9]


def table_of(corpus: Path, name: str, row: int) -> str:
    """The role's table that a row of an annotation table goes to."""
    return "df_speaker.csv" if utterance(corpus, name, row)[-4] == name[10] else "df_listener.csv"


NAME = "Session01_F_res.csv"


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
    assert faults(corpus, preprocessed, capsys) == [Problem(f"annotation/{NAME}", "5", segment, what, repr(cell), done)]
    ours, whole = table(corpus, role_table), table(preprocessed, role_table)
    pd.testing.assert_frame_equal(ours, whole[whole["Segment ID"] != segment].reset_index(drop=True))
    assert segment in set(table(corpus, "annotation.csv")["Segment ID"])


@pytest.mark.parametrize(
    ("column", "cell", "what", "done"),
    [
        (13, "bored", "vote that is none of the seven emotions", "left out of the soft label"),
        (13, "sad;happy", "vote that is none of the seven emotions", "left out of the soft label"),
        (13, "", "rater's emotion that is blank", "left out of the soft label"),
        (14, "7", "rater's valence that is no number from 1 to 5", "left blank"),
        (15, "?", "rater's arousal that is no number from 1 to 5", "left blank"),
        (15, " ", "rater's arousal that is blank", "left blank"),
    ],
)
def test_rating_that_cannot_be_used_is_left_blank(corpus, preprocessed, capsys, column, cell, what, done):
    spoil(corpus, NAME, 4, column, cell)
    segment, role_table = utterance(corpus, NAME, 4), table_of(corpus, NAME, 4)
    found = faults(corpus, preprocessed, capsys)
    assert found == [Problem(f"annotation/{NAME}", "5", segment, what, repr(cell), done)]
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
    assert [row.what for row in found] == ["vote that is none of the seven emotions"] * 10 + [
        "row without a usable vote"
    ]
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
    assert (found.what, found.found) == ("label in another spelling", repr(spelt))
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


def repeat_row(corpus: Path, row: int, **cells: str) -> str:
    """Repeat a row at the end of a table, with `c11="2.5"` another cell in column 11; return its id."""
    path = corpus / "annotation" / NAME
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    repeated = lines[row].split(",")
    for column, cell in cells.items():
        repeated[int(column[1:])] = cell
    path.write_text("\n".join([*lines, ",".join(repeated)]) + "\n", encoding="utf-8")
    return repeated[9]


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


def test_equal_ratings_in_other_spellings_are_equal(corpus, preprocessed, capsys):
    lines = (corpus / "annotation" / NAME).read_text(encoding="utf-8-sig").splitlines()
    repeat_row(corpus, 4, c11=f"{lines[4].split(',')[11]}0 ", c14=f"{lines[4].split(',')[14]}.0")
    (found,) = faults(corpus, preprocessed, capsys)
    assert found.done == "one kept"


def test_tables_of_other_names_and_of_one_session_twice(corpus, preprocessed, capsys):
    shutil.copy(corpus / "annotation" / NAME, corpus / "annotation" / "Session01_F_res (1).csv")
    (found,) = faults(corpus, preprocessed, capsys)
    assert found.file == "annotation/Session01_F_res (1).csv"
    assert found.done == "not read"
    shutil.copy(corpus / "annotation" / NAME, corpus / "annotation" / "session01_f_res.csv")
    assert run(corpus, "--overwrite") == 2
    assert f"session01_f_res.csv: {NAME} is there as well" in capsys.readouterr().err


def test_start_that_is_no_number(corpus, preprocessed, capsys):
    spoil(corpus, NAME, 4, 1, "0:04")
    (found,) = faults(corpus, preprocessed, capsys)
    assert (found.what, found.found) == ("start that is no number", "'0:04'")
    pd.testing.assert_frame_equal(
        table(corpus, "df_speaker.csv")[["Segment ID"]], table(preprocessed, "df_speaker.csv")[["Segment ID"]]
    )


def test_second_files_of_one_id(corpus, preprocessed, capsys):
    folder = corpus / "wav" / "Session06_copy"
    shutil.copytree(corpus / "wav" / "Session06", folder)
    found = faults(corpus, preprocessed, capsys)
    assert {row.what for row in found} == {"second wav of one id", "second transcript of one id"}
    assert all(row.file.startswith("wav/Session06_copy/") for row in found)


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


# Wavs and transcripts


def write_wav(path: Path, damage: str) -> None:
    match damage:
        case "zero bytes":
            path.write_bytes(b"")
        case "zero samples":
            soundfile.write(path, np.zeros(0), 16_000)
        case "cut short":
            path.write_bytes(path.read_bytes()[:-1000])
        case "header only":
            path.write_bytes(path.read_bytes()[:44])
        case "half a header":
            path.write_bytes(path.read_bytes()[:20])
        case "no sound":
            path.write_text("Sess01")
        case "not a number":
            soundfile.write(path, np.full(1600, np.nan), 16_000, subtype="FLOAT")
        case "missing":
            path.unlink()


@pytest.mark.parametrize(
    ("damage", "what", "found"),
    [
        ("zero bytes", "wav that cannot be used", "empty, 0 bytes"),
        ("zero samples", "wav that cannot be used", "holds no sample of sound"),
        ("cut short", "wav that cannot be used", "cut short, "),
        ("header only", "wav that cannot be used", "cut short, 0 of "),
        ("half a header", "wav that cannot be used", "not readable as sound"),
        ("no sound", "wav that cannot be used", "not readable as sound"),
        ("not a number", "wav that cannot be used", "holds samples that are not numbers"),
        ("missing", "no wav", ""),
    ],
)
def test_wav_that_cannot_be_used_counts_as_missing(corpus, preprocessed, capsys, damage, what, found):
    path = next(p for p in sorted((corpus / "wav").rglob("*.wav")) if p.with_suffix(".txt").exists())
    write_wav(path, damage)
    (row,) = faults(corpus, preprocessed, capsys)
    file = "wav" if damage == "missing" else str(path.relative_to(corpus))
    assert (row.file, row.id, row.what) == (file, path.stem, what)
    assert row.found.startswith(found)
    assert row.done == "counts as zeros in training, which stops where more than 5% do"
    for name in FILES[:4]:
        assert (corpus / name).read_bytes() == (preprocessed / name).read_bytes()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (22_050, 2), (48_000, 1)])
def test_wavs_of_any_kind_are_no_faults(corpus, preprocessed, capsys, subtype, rate, channels):
    path = next((corpus / "wav").rglob("*.wav"))
    soundfile.write(path, np.full((rate, channels), 0.1), rate, subtype=subtype)
    assert faults(corpus, preprocessed, capsys) == []


def test_no_wav_at_all_is_one_fault(corpus, preprocessed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (corpus / "wav").rglob("*.wav"):
        path.unlink()
    (found,) = faults(corpus, preprocessed, capsys)
    assert (found.what, found.done) == ("no wav at all", "only --modality text can be trained")


@pytest.mark.parametrize("where", ["audio", "elsewhere", "both"])
def test_wavs_in_the_flat_folder_or_where_the_user_says(corpus, preprocessed, capsys, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    flat = tmp_path / ("elsewhere" if where == "elsewhere" else "audio")
    flat.mkdir()
    for path in (corpus / "wav").rglob("*.wav"):
        (shutil.copy if where == "both" else shutil.move)(path, flat / path.name)
    options = ["--audio_path", str(flat)] if where == "elsewhere" else []
    assert run(corpus, *options) == 0
    expected = table(preprocessed, "problems.csv").query("what != 'no wav'")
    pd.testing.assert_frame_equal(
        table(corpus, "problems.csv").query("what != 'no wav'").reset_index(drop=True), expected.reset_index(drop=True)
    )


def test_upper_case_endings_are_read(corpus, preprocessed):
    for path in [*(corpus / "wav").rglob("*.wav"), *(corpus / "wav").rglob("*.txt")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    assert run(corpus) == 0
    assert (corpus / "problems.csv").read_text().replace(".TXT", ".txt") == (preprocessed / "problems.csv").read_text()
    assert (corpus / "embedding_768.npy").read_bytes() == (preprocessed / "embedding_768.npy").read_bytes()


@pytest.mark.parametrize(
    ("content", "what", "text"),
    [
        (None, "no transcript", ""),
        (b"", "transcript that is empty", ""),
        (b" \n\n", "transcript that is empty", ""),
        (b"b/ (u/+u/)\n", "transcript that is empty once cleaned", ""),
        (b"\xff\xff\x80", "transcript that is not readable", ""),
        ("그래\n\n알았어\n".encode(), "transcript of several lines", "그래 알았어"),
        ("그래 알았어".encode("cp949"), None, "그래 알았어"),
    ],
    ids=["missing", "empty", "blank", "marks", "bytes", "lines", "cp949"],
)
def test_transcripts_of_any_kind(corpus, preprocessed, capsys, content, what, text):
    path = sorted((corpus / "wav").rglob("*.txt"))[3]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    found = faults(corpus, preprocessed, capsys)
    assert [(row.id, row.what) for row in found] == ([(path.stem, what)] if what else [])
    rows = table(corpus, "annotation.csv").query(f"`Segment ID` == '{path.stem}'")
    assert set(rows["text"]) == {text}
    there = f"{path.stem}.txt" in load_embeddings(corpus / "embedding_768.npy", 768)
    assert there is (what not in ("no transcript", "transcript that is not readable"))


def test_the_encoder_runs_on_the_device_that_is_picked(corpus, monkeypatch):
    import torch

    monkeypatch.setattr("preprocessing.pick_device", lambda gpu_id: torch.device("meta"))
    with pytest.raises(RuntimeError, match="meta"):  # there is no other device to be had here
        run(corpus)


def test_a_damaged_cache_is_a_fault(corpus, preprocessed, capsys):
    (corpus / CACHE).write_bytes(b"PK")
    (found,) = faults(corpus, preprocessed, capsys)
    assert (found.file, found.what, found.done) == (CACHE, "cache that is damaged", "all sentences are embedded anew")
    assert (corpus / CACHE).read_bytes() == (preprocessed / CACHE).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_a_files_place_is_named_before_the_work(corpus, capsys, name):
    (corpus / name).mkdir()
    assert run(corpus, "--overwrite") == 2
    assert f"{name}: a folder" in capsys.readouterr().err
    assert not [path for path in corpus.iterdir() if path.is_file()]


def test_an_audio_path_that_is_not_there(corpus, capsys):
    assert run(corpus, "--audio_path", "nowhere") == 2
    assert "--audio_path nowhere: no such folder" in capsys.readouterr().err


def test_what_a_killed_run_left_half_written_is_cleared_away(corpus):
    for name in (".embedding_768.cache.npz.ab12_xyz", ".df_speaker.csv.abcdefgh"):
        (corpus / name).write_bytes(b"half")
    (corpus / ".mine.settings").write_text("kept")
    assert run(corpus) == 0
    assert [path.name for path in corpus.iterdir() if path.name.startswith(".")] == [".mine.settings"]


def test_folders_that_cannot_be_read_are_named(corpus):
    for folder in ("wav/Session02", "annotation", "kobert"):
        (corpus / folder).chmod(0)
        done = run_apart(corpus, heed_permissions)
        (corpus / folder).chmod(0o755)
        assert done.returncode == 2
        assert last_line(done).startswith("error: ")
        assert folder in last_line(done)
        assert "Permission denied" in last_line(done)


# Strictness, and files that cannot be written


def spoil_softly(corpus: Path, what: str) -> None:
    match what:
        case "label":
            spoil(corpus, NAME, 4, 13, "Sad")
        case "vote":
            spoil(corpus, NAME, 4, 13, "")
        case "repeated":
            repeat_row(corpus, 4)
        case "table":
            (corpus / "annotation" / "Session02_M_res.csv").unlink()
        case "transcript":
            next((corpus / "wav").rglob("*.txt")).unlink()
        case "wav":
            write_wav(next((corpus / "wav").rglob("*.wav")), "cut short")


@pytest.fixture
def faultless(corpus, capsys) -> Path:
    """A raw corpus without any fault."""
    run(corpus)
    repeats = table(corpus, "problems.csv")
    for path in (corpus / "annotation").glob("*.csv"):
        seen, lines = set(), []
        for line in decode(path.read_bytes(), path).replace("disqust", "disgust").splitlines():
            segment = line.split(",")[9]
            if segment.startswith("Sess") and segment in seen:
                continue
            seen.add(segment)
            lines.append(line)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for segment in repeats["id"]:
        for path in (corpus / "wav").rglob(f"{segment}.txt"):
            path.write_text("그래\n", encoding="utf-8")
    whole = next((corpus / "wav").rglob("*.wav"))
    for segment in set(table(corpus, "annotation.csv")["Segment ID"]):
        folder = corpus / "wav" / f"Session{segment[4:6]}" / segment.rpartition("_")[0]
        if not (folder / f"{segment}.wav").exists():
            shutil.copy(whole, folder / f"{segment}.wav")
        if not (folder / f"{segment}.txt").exists():
            (folder / f"{segment}.txt").write_text("그래\n", encoding="utf-8")
    for name in (*FILES, CACHE):
        (corpus / name).unlink()
    capsys.readouterr()
    return corpus


def test_strict_passes_where_there_is_no_fault(faultless, capsys):
    assert run(faultless, "--strict") == 0
    assert "warning" not in capsys.readouterr().err
    assert table(faultless, "problems.csv").empty
    assert tuple(table(faultless, "problems.csv").columns) == Problem._fields


@pytest.mark.parametrize("what", ["label", "vote", "repeated", "table", "transcript", "wav"])
def test_strict_stops_at_what_would_be_warned_of_and_writes_nothing(faultless, capsys, what):
    spoil_softly(faultless, what)
    before = sorted(faultless.rglob("*"))
    assert run(faultless, "--strict") == 2
    *_, error = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert error.startswith("error: --strict: ")
    assert sorted(faultless.rglob("*")) == before
    assert run(faultless) == 0
    assert "warning: " in capsys.readouterr().err


def run_apart(corpus: Path, before: Callable[[], None], *options: str) -> subprocess.CompletedProcess:
    """Pre-process in a process of its own, which calls `before` first."""
    return subprocess.run(
        [sys.executable, preprocessing.__file__, "--data_path", corpus, "--text_model", corpus / "kobert", *options],
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess) -> str:
    return done.stderr.replace("\r", "\n").splitlines()[-1]


def test_folder_that_cannot_be_written_is_said_before_the_work(corpus):
    before = sorted(corpus.rglob("*"))
    corpus.chmod(0o555)
    done = run_apart(corpus, heed_permissions)
    corpus.chmod(0o755)
    assert done.returncode == 2
    assert last_line(done) == f"error: {corpus}: cannot be written to (Permission denied); choose another folder"
    assert "sentence embeddings" not in done.stderr
    assert sorted(corpus.rglob("*")) == before


def test_disk_that_fills_up_leaves_all_files_as_they_were(corpus):
    assert run(corpus) == 0
    before = {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    spoil(corpus, NAME, 4, 11, "2.2")
    before[corpus / "annotation" / NAME] = (corpus / "annotation" / NAME).read_bytes()
    limit = (len(before[corpus / "embedding_768.npy"]) - 1000,) * 2
    done = run_apart(corpus, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit), "--overwrite")
    assert done.returncode == 2
    assert last_line(done) == f"error: {corpus / 'embedding_768.npy'}: cannot be written (File too large)"
    assert {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "options", [["--batch_size", "0"], ["--batch_size", "-1"], ["--gpu_id", "x"], ["--text_dim", "0"]]
)
def test_impossible_options_are_refused(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(options)
    assert exit_.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_existing_files_are_kept_unless_asked(corpus, capsys):
    (corpus / "df_speaker.csv").write_text("mine")
    assert run(corpus) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (corpus / "df_speaker.csv").read_text() == "mine"
    assert not (corpus / "annotation.csv").exists()
    assert run(corpus, "--overwrite") == 0
    assert (corpus / "df_speaker.csv").read_text().startswith("start,end,Segment ID")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_tables_and_transcripts_of_any_encoding_and_line_end_give_the_same(
    corpus, preprocessed, encoding, newline, monkeypatch
):
    for path in [*(corpus / "annotation").glob("*.csv"), *(corpus / "wav").rglob("*.txt")]:
        text = decode(path.read_bytes(), path)
        path.write_bytes(newline.join(text.splitlines()).encode(encoding))
    assert run(corpus) == 0
    for name in FILES[:3]:
        assert (corpus / name).read_bytes() == (preprocessed / name).read_bytes()


def spoil_with(what: str, corpus: Path) -> None:
    match what:
        case "no annotation":
            shutil.rmtree(corpus / "annotation")
        case "no transcripts":
            shutil.rmtree(corpus / "wav")
        case "ids":
            for row in (3, 5):
                spoil(corpus, "Session01_F_res.csv", row, 9, "Sess01_F001")
        case "other session":
            shutil.copy(corpus / "annotation" / "Session02_F_res.csv", corpus / "annotation" / "Session01_F_res.csv")
        case "no rows":
            for path in (corpus / "annotation").glob("*.csv"):
                path.write_bytes(b"")
        case "cut":
            path = corpus / "annotation" / "Session01_F_res.csv"
            path.write_bytes(path.read_bytes()[:-40])
        case "no header":
            path = corpus / "annotation" / "Session01_F_res.csv"
            path.write_text("".join(path.read_text(encoding="utf-8").splitlines(True)[1:]), encoding="utf-8")
        case "open quote":
            path = corpus / "annotation" / "Session01_F_res.csv"
            path.write_text('"' + "a" * 200_000, encoding="utf-8")
        case "neither encoding":
            path = corpus / "annotation" / "Session01_F_res.csv"
            path.write_bytes(b"\xff\xff" + path.read_bytes())
        case "text model":
            (corpus / "kobert" / "config.json").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no annotation", "annotation: no table such as Session01_F_res.csv"),
        ("no transcripts", "wav: no readable .txt"),
        (
            "ids",
            "Session01_F_res.csv, row 4: segment id 'Sess01_F001', expected one such as Sess01_script01_F001; 2 rows",
        ),
        ("other session", "Session01_F_res.csv, row 3: segment id 'Sess02_"),
        ("no rows", "annotation: its 12 tables hold no row"),
        ("cut", "Session01_F_res.csv, row "),
        ("no header", "Session01_F_res.csv: its first two rows hold an utterance"),
        ("open quote", "Session01_F_res.csv: not readable as a CSV table"),
        ("neither encoding", "Session01_F_res.csv: neither UTF-8 nor CP949"),
        ("text model", "kobert"),
    ],
)
def test_faults_end_in_one_line_and_write_nothing(corpus, capsys, what, message):
    spoil_with(what, corpus)
    before = sorted(corpus.rglob("*"))
    assert run(corpus) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert sorted(corpus.rglob("*")) == before


def test_missing_folder_and_other_dimension(tmp_path, sample, capsys):
    assert run(tmp_path / "nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert main(["--data_path", str(sample), "--text_model", str(sample / "kobert"), "--text_dim", "512"]) == 2
    assert "768 values, --text_dim is 512" in capsys.readouterr().err
    with pytest.raises(preprocessing.InputError):
        preprocess(tmp_path / "nowhere")
