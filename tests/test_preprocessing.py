"""preprocessing.py: its files, options and refusals, one corpus made of two, and what a stopped run leaves."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from raw_corpus import FILES, plant_faults, read, rows_of, run, write_rows

import preprocessing
from constants import PROGRAM_VERSION
from corpora.corpus_json import corpus_version, read_corpus_json
from corpora.problems import OTHER_SPELLING
from corpora.transcripts import clean_transcript
from corpora.wavs import find_wavs
from features.embeddings import load_embeddings
from features.text import load_text_encoder
from utils import digest_file

NAME = "Session01_F_res.csv"
WRITTEN = {*FILES, "corpus.json"}


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def last_error(capsys: pytest.CaptureFixture) -> str:
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    return captured.replace("\r", "\n").splitlines()[-1]


# Its files


def test_the_files_lie_beside_the_raw_data_and_corpus_json_says_what_they_are(sample, preprocessed):
    before, after = ({path.name for path in folder.iterdir()} for folder in (sample, preprocessed))
    assert after - before - {"features"} == WRITTEN
    found = read_corpus_json(preprocessed)
    assert (found["corpus"], found["synthetic"], found["version"]) == ("KEMDy19", True, "sample, seed 0")
    assert found["utterances"] == len(list((sample / "wav").rglob("*.txt")))
    assert (found["program_version"], found["raw"], found["audio_path"]) == (PROGRAM_VERSION, None, None)
    assert found["files"] == {name: digest_file(preprocessed / name) for name in FILES}
    encoder = {**load_text_encoder(str(preprocessed / "kobert")).description, "sha256": found["files"][FILES[3]]}
    assert found["text_models"] == {"embedding_768.npy": encoder}


def test_embeddings_are_those_of_the_cleaned_transcripts(sample, preprocessed):
    vectors = load_embeddings(preprocessed / "embedding_768.npy", 768)
    paths = {path.name: path for path in (sample / "wav").rglob("*.txt")}
    assert vectors.keys() == paths.keys()
    texts = [clean_transcript(paths[name].read_text(encoding="utf-8")) for name in vectors]
    expected = load_text_encoder(str(sample / "kobert")).embed(texts)
    np.testing.assert_allclose([*vectors.values()], expected, rtol=0, atol=1e-5)


def test_the_summary_counts_and_each_kind_of_problem_is_warned_of_once(corpus, tmp_path, capsys):
    plant_faults(corpus)
    assert run(corpus, "--out", str(tmp_path / "out")) == 0
    captured = capsys.readouterr()
    problems = pd.read_csv(tmp_path / "out" / "problems.csv")
    warned = [line for line in captured.err.replace("\r", "\n").splitlines() if line.startswith("warning: ")]
    assert len(warned) == len(problems.drop_duplicates(["what", "done"])) == 5
    starts = {path.name: path.read_bytes()[:3] for path in (tmp_path / "out").glob("*.csv")}
    assert [name for name, start in starts.items() if start == "\ufeff".encode()] == ["problems.csv"]  # not published
    assert all(any(what in line for line in warned) for what in problems["what"])
    n_spelt = (problems["what"] == OTHER_SPELLING).sum()
    assert [f"{len(problems) - n_spelt},", str(n_spelt)] == re.findall(r"\d+,?", captured.out.splitlines()[-1])
    assert "60 utterances, 6 sessions, 12 dialogues" in captured.out


def test_the_version_of_a_corpus_is_a_digest_of_its_tables(sample, tmp_path):
    folder = Path(shutil.copytree(sample / "annotation", tmp_path / "KEMDy19_v1_3" / "annotation")).parent
    before = corpus_version(folder)
    folder = folder.rename(tmp_path / "corpus")
    assert corpus_version(folder) == before
    with (folder / "annotation" / NAME).open("a") as file:
        file.write("\n")
    assert corpus_version(folder) != before


def test_a_second_encoder_of_another_length_leaves_those_of_the_first(preprocessed, sample, tmp_path, monkeypatch):
    own = Path(shutil.copytree(preprocessed, tmp_path / "own"))
    before = read_corpus_json(own)["text_models"]
    encoder = load_text_encoder(str(sample / "kobert"))
    encoder.shape = (24,)
    monkeypatch.setattr(encoder, "embed", lambda texts, *_, **__: np.zeros((len(texts), 24), np.float32))
    monkeypatch.setattr(preprocessing, "load_text_encoder", lambda *_: encoder)
    assert run(own, "--overwrite") == 0
    found = read_corpus_json(own)["text_models"]
    assert found.keys() == {"embedding_768.npy", "embedding_24.npy"}
    assert found["embedding_768.npy"] == before["embedding_768.npy"]
    assert found["embedding_24.npy"]["sha256"] == digest_file(own / "embedding_24.npy")


# What is kept and refused


def test_existing_files_are_kept_unless_asked_and_no_other_is_touched(corpus, capsys):
    (corpus / ".annotation.csv.20241129").write_text("kept")
    (corpus / ".df_speaker.csv.0a1b2c3d.part").write_text("of a process that was killed")
    (corpus / "df_speaker.csv").write_text("mine")
    before = content(corpus)
    assert run(corpus) == 2
    assert "df_speaker.csv: " in last_error(capsys)
    assert content(corpus) == before
    assert run(corpus, "--overwrite") == 0
    assert (corpus / "df_speaker.csv").read_text().startswith("start,end,Segment ID")
    assert [path.name for path in corpus.iterdir() if path.name.startswith(".")] == [".annotation.csv.20241129"]


@pytest.mark.parametrize(
    ("damage", "options", "named"),
    [
        (lambda corpus: (corpus / "kobert" / "config.json").unlink(), "", "kobert"),
        (lambda corpus: write_rows(corpus, NAME, [row[:20] for row in rows_of(corpus, NAME)]), "", f"{NAME}, row "),
        (lambda corpus: (corpus.parent / "out" / "wav").mkdir(parents=True), "", "out: "),
        (lambda corpus: (corpus.parent / "out").touch(), "", "out: "),
        (id, "--audio_path nowhere", "nowhere"),
        (id, "--data_path nowhere", "nowhere"),
    ],
)
def test_a_fault_ends_in_one_line_and_writes_nothing(corpus, capsys, damage, options, named):
    out = corpus.parent / "out"
    damage(corpus)
    before = sorted(corpus.parent.rglob("*"))
    assert run(corpus, "--out", str(out), *options.split()) == 2
    assert named in last_error(capsys)
    assert sorted(corpus.parent.rglob("*")) == before


def test_strict_stops_at_any_problem_but_a_label_in_another_spelling(corpus, capsys):
    plant_faults(corpus)
    problems, before = read(corpus)[1], content(corpus)
    is_harmless = problems["what"] == OTHER_SPELLING
    assert run(corpus, "--strict") == 2
    assert problems[~is_harmless]["id"].iloc[0] in last_error(capsys)
    assert content(corpus) == before
    with pytest.warns(UserWarning, match=OTHER_SPELLING):
        preprocessing.report_problems(problems[is_harmless], strict=True)


def test_a_corpus_is_pre_processed_into_another_folder_and_not_touched(corpus, preprocessed, tmp_path):
    (corpus / "wav").rename(tmp_path / "sound")
    (corpus / "wav").mkdir()
    for path in (tmp_path / "sound").rglob("*.txt"):
        path.rename(corpus / "wav" / path.name)
    out, before = tmp_path / "made" / "here", sorted(corpus.rglob("*"))
    assert run(corpus, "--out", str(out), "--audio_path", str(tmp_path / "sound")) == 0
    assert sorted(corpus.rglob("*")) == before
    for name in FILES[:4]:
        assert (out / name).read_bytes() == (preprocessed / name).read_bytes()
    assert find_wavs(out) == find_wavs(corpus, tmp_path / "sound") != {}
