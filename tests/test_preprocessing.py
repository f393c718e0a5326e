import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import preprocessing
from constants import EMOTIONS
from dataset import read_annotation
from kobert import embed_sentences, load_embeddings, load_text_model
from preprocessing import COLUMNS, clean_transcript, main, output_files, preprocess

FILES = ("annotation.csv", "df_speaker.csv", "df_listener.csv", "embedding_768.npy")


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


def test_four_files_are_written_beside_the_raw_data(sample, preprocessed):
    made = {path.name for path in preprocessed.iterdir()} - {path.name for path in sample.iterdir()}
    assert made == set(FILES) == set(output_files(preprocessed, 768))
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
        expected = embed_sentences([text], tokenizer, model, progress=False)[0]
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


def test_summary_tells_what_was_found_dropped_and_missing(corpus, capsys):
    spoil(corpus, "Session01_F_res.csv", 4, 10, "bored")
    spoil(corpus, "Session02_F_res.csv", 4, 11, "9")
    txt, wav = sorted((corpus / "wav").rglob("*.txt"))[0], sorted((corpus / "wav").rglob("*.wav"))[1]
    txt.unlink()
    wav.unlink()
    assert run(corpus) == 0
    out = capsys.readouterr().out
    n = len(list((corpus / "wav").rglob("*.txt"))) + 1
    assert f"{n} utterances, 6 sessions, 12 dialogues" in out
    assert "rows with an unusable total (emotion 'bored', expected one of" in out
    assert "rows with an unusable total (rating '9', expected 1 to 5)" in out
    assert f"1 utterances without a transcript: {txt.stem}" in out
    assert wav.stem in out
    assert "listener rows whose id occurs with different ratings" in out
    assert "speaker: " in out
    assert f"{txt.stem}.txt" not in load_embeddings(corpus / "embedding_768.npy", 768)


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


def repeat_row(corpus: Path, table: str, row: int) -> str:
    path = corpus / "annotation" / table
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    path.write_text("\n".join([*lines, lines[row]]) + "\n", encoding="utf-8")
    return lines[row].split(",")[9]


def test_an_id_that_repeats_with_equal_ratings_is_kept_once(corpus):
    segment = repeat_row(corpus, "Session01_F_res.csv", 4)
    assert run(corpus) == 0
    ids = [pd.read_csv(corpus / f"df_{role}.csv")["Segment ID"].tolist() for role in ("speaker", "listener")]
    assert [own.count(segment) for own in ids] == [1, 1]


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


def test_lacking_tables_and_rows_are_warned_of(corpus, capsys):
    (corpus / "annotation" / "Session02_M_res.csv").unlink()
    path = corpus / "annotation" / "Session01_F_res.csv"
    *lines, last = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert run(corpus) == 0
    error = capsys.readouterr().err
    assert "session 02 has one table of two" in error
    assert f"1 utterances of session 01 are in only one of its two tables: {last.split(',')[9]}" in error
    assert error.count("warning: ") == 2


def test_a_failing_write_leaves_all_four_files_as_they_were(corpus, capsys, monkeypatch):
    assert run(corpus) == 0
    before = {name: (corpus / name).read_bytes() for name in FILES}
    spoil(corpus, "Session01_F_res.csv", 4, 11, "2.2")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("preprocessing.save_embeddings", fail)
    assert run(corpus, "--overwrite") == 2
    assert "embedding_768.npy: cannot be written (No space left" in capsys.readouterr().err
    assert {name: (corpus / name).read_bytes() for name in FILES} == before
    assert not [path for path in corpus.iterdir() if path.name.startswith(".")]


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
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tables_and_transcripts_of_any_encoding_and_line_end_give_the_same(
    corpus, preprocessed, encoding, newline, monkeypatch
):
    for path in [*(corpus / "annotation").glob("*.csv"), *(corpus / "wav").rglob("*.txt")]:
        text = preprocessing.decode(path.read_bytes(), path)
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
        case "id":
            spoil(corpus, "Session01_F_res.csv", 3, 9, "Sess01_F001")
        case "other session":
            spoil(corpus, "Session01_F_res.csv", 3, 9, "Sess02_script01_F001")
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
        ("no transcripts", "wav: holds no .txt"),
        ("id", "Session01_F_res.csv, row 4: segment id 'Sess01_F001'"),
        ("other session", "Session01_F_res.csv, row 4: segment id 'Sess02_script01_F001'"),
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
