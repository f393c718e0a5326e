"""The known corpora; and that a second one needs no more than its own class and its place in the registry."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from corpora import registry
from corpora.base import Corpus, SegmentId
from corpora.kemdy19 import KEMDy19
from corpora.missing import report_missing
from corpora.problems import Problem
from corpora.tables import COLUMNS, TableLayout, annotate, read_rows
from features.embeddings import load_embeddings
from preprocessing import preprocess
from utils import InputError


class FreeTalk(Corpus):
    """A corpus such as KEMDy20: one table per session, speakers alone are rated, wavs and transcripts lie flat."""

    name = "FreeTalk"
    example_id = "Sess01_script01_User001F_001"
    example_table = "Sess01_eval.csv"
    sessions = range(1, 41)
    folds = (tuple(range(1, 9)),)
    utterances = {"speaker": 4}  # noqa: RUF012
    layout = TableLayout(start=1, end=2, segment=3, total=4)

    def parse_id(self, segment: str) -> SegmentId | None:
        match = re.fullmatch(r"(Sess(\d\d)_(script\d\d))_(User\d{3})[FM]_(\d{3})", segment)
        return match and SegmentId(int(match[2]), match[1], match[4], int(match[5]), match[3])

    def is_in(self, data_path: Path) -> bool:
        return any((data_path / "annotation").glob("Sess??_eval.csv"))

    def read_annotation(self, data_path: Path, problems: list[Problem]) -> pd.DataFrame:
        rows = []
        for path in sorted((data_path / "annotation").glob("Sess??_eval.csv")):
            for row in read_rows(path, self.layout, self):
                if segment_id := self.parse_id(row.segment):
                    rows.append(annotate(row, self.layout, segment_id, "speaker", problems))
                else:
                    problems.append(Problem(row.file, row.number, row.segment, "unknown id", "", "row left out"))
        return pd.DataFrame(rows)


TABLES = {
    1: [
        ("0.0", "Sess01_script01_User001F_001", "neutral", "그래"),
        ("1.5", "Sess01_script01_User002F_001", "happy;disqust", "알았어 b/"),
        ("2.5", "Sess01_F001", "sad", "뭐"),
    ],
    2: [
        ("0.0", "Sess02_script06_User003M_001", "angry", "(아니+응)"),
        ("1.0", "Sess02_script06_User003M_002", "bored", "네"),
    ],
}
IDS = [segment for rows in TABLES.values() for _, segment, *_ in rows]


@pytest.fixture
def free_talk(tmp_path, monkeypatch) -> Path:
    """A raw folder of the second corpus, which is registered beside KEMDy19."""
    monkeypatch.setattr(registry, "CORPORA", (KEMDy19(), FreeTalk()))
    corpus = tmp_path / "free_talk"
    (corpus / "annotation").mkdir(parents=True)
    for session, rows in TABLES.items():
        (corpus / "wav" / f"Session{session:02d}").mkdir(parents=True)
        header = ["Numb", "start", "end", "Segment ID", "Total", "", ""] + ["Rater", "", ""] * 10
        lines = [header, [""] * len(header)]
        for number, (start, segment, emotion, text) in enumerate(rows, start=1):
            lines.append([str(number), start, "9.0", segment, emotion, "3.5", "2"] + ["neutral", "3", "2"] * 10)
            stem = corpus / "wav" / f"Session{session:02d}" / segment
            stem.with_suffix(".txt").write_bytes(text.encode("cp949"))
            soundfile.write(stem.with_suffix(".wav"), np.full(1600, 0.1), 16_000)
        with (corpus / "annotation" / f"Sess{session:02d}_eval.csv").open("w", encoding="utf-8-sig") as file:
            csv.writer(file).writerows(lines)
    (corpus / "wav" / "Session02" / f"{IDS[-1]}.wav").unlink()
    return corpus


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_second_corpus_is_preprocessed(free_talk, sample):
    before = {path.name for path in free_talk.iterdir()}
    summary = preprocess(free_talk, text_model=str(sample / "kobert"), gpu_id="cpu")
    assert "4 utterances, 2 sessions, 2 dialogues\nspeaker: 3 rows" in summary
    assert "listener" not in summary
    made = {"annotation.csv", "df_speaker.csv", "embedding_768.npy", "embedding_768.cache.npz", "problems.csv"}
    made.add("corpus.json")
    assert {path.name for path in free_talk.iterdir()} - before == made

    annotation, speaker = (pd.read_csv(free_talk / name) for name in ("annotation.csv", "df_speaker.csv"))
    known = [segment for segment in IDS if segment != "Sess01_F001"]
    assert annotation["Segment ID"].tolist() == known
    assert speaker.columns.tolist() == COLUMNS
    assert speaker["Segment ID"].tolist() == known[:3]
    assert speaker["Emotion"].tolist() == ["neutral", "happy;disgust", "angry"]
    assert speaker["text"].tolist() == ["그래", "알았어", "아니 응"]
    assert speaker["dialogue"].tolist() == ["Sess01_script01", "Sess01_script01", "Sess02_script06"]
    assert speaker["script"].tolist() == ["script01", "script01", "script06"]
    assert speaker["speaker"].tolist() == ["User001", "User002", "User003"]
    assert speaker[["Session", "sequence", "Valence", "Emotion.10"]].iloc[2].tolist() == [2, 1, 3.5, "neutral"]
    assert load_embeddings(free_talk / "embedding_768.npy", 768).keys() == {f"{segment}.txt" for segment in known}

    problems = pd.read_csv(free_talk / "problems.csv", keep_default_na=False)
    first, second = "annotation/Sess01_eval.csv", "annotation/Sess02_eval.csv"
    assert problems[["file", "row", "id", "what"]].to_numpy().tolist() == [
        [first, "4", IDS[1], "label in another spelling"],
        [first, "5", IDS[2], "unknown id"],
        [second, "4", IDS[4], "total emotion that is none of the seven"],
        ["wav", "", IDS[4], "no wav"],
    ]


def test_a_second_corpus_is_known_by_its_ids_and_tables(free_talk, sample):
    assert registry.corpus_in(free_talk).name == "FreeTalk"
    assert registry.corpus_in(sample).name == "KEMDy19"
    assert registry.corpus_of(IDS[0]).name == "FreeTalk"
    assert registry.corpus_of("Sess01_script01_F001").name == "KEMDy19"
    assert registry.parse_id(IDS[0]) == (1, "Sess01_script01", "User001", 1, "script01")
    with pytest.raises(InputError, match=r"^there: none of the 1 utterances of Sess02 has a wav there"):
        report_missing([IDS[0]] * 40 + [IDS[-1]], [False] * 40 + [True], "wav", "there")


def test_ids_and_folders_of_no_corpus(tmp_path):
    assert registry.corpus_of("Sess01_F001") is None
    assert registry.parse_id("Sess01_F001") is None
    with pytest.raises(InputError, match=r"nowhere: no such folder; put KEMDy19 there, data/README\.md says how$"):
        registry.corpus_in(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"annotation: no table such as Session01_F_res\.csv; --data_path is the folder"
    ):
        registry.corpus_in(tmp_path)


def test_parts_of_kemdy19s_ids():
    expected = SegmentId(session=7, dialogue="Sess07_impro02", speaker="M", sequence=31, script="impro02")
    assert registry.parse_id("Sess07_impro02_M031") == expected
