from pathlib import Path

import pytest

from constants import SEGMENT_ID
from corpus import emotion_index, find_wavs, parse_emotions, report_missing
from utils import InputError


def test_emotions_are_parsed_with_ties_misspellings_capitals_and_spaces():
    assert parse_emotions("happy;surprise") == [6, 4]
    assert parse_emotions(" Disqust ") == [0]
    with pytest.raises(ValueError, match="bored"):
        parse_emotions("bored")
    with pytest.raises(ValueError, match="happy;sad"):
        emotion_index("happy;sad")


@pytest.mark.parametrize(
    "segment", ["Sess1_script01_F001", "Sess01_scene01_F001", "Sess01_script01_X001", "Sess01_script01_F001 "]
)
def test_other_ids_are_no_segment_ids(segment):
    assert SEGMENT_ID.fullmatch(segment) is None


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_wavs_are_found_in_the_corpus_or_flat_or_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flat, other = touch(tmp_path / "audio/b.WAV"), touch(tmp_path / "else/a.wav")
    assert find_wavs(tmp_path / "corpus") == ({"b": flat.relative_to(tmp_path)}, "audio")
    nested = touch(tmp_path / "corpus/wav/Session01/d/a.wav")
    touch(tmp_path / "corpus/wav/Session01/d/a.txt")
    # `b` stays missing: ./audio may be another corpus's
    assert find_wavs(tmp_path / "corpus") == ({"a": nested}, str(tmp_path / "corpus/wav"))
    assert find_wavs(tmp_path / "corpus", tmp_path / "else") == ({"a": other}, str(tmp_path / "else"))
    found, where = find_wavs(tmp_path / "nowhere", tmp_path / "nothing")
    assert (found, where) == ({}, str(tmp_path / "nothing"))


def test_few_missing_are_listed_once_and_many_stop_the_run():
    ids = [f"id{i}" for i in range(100)]
    with pytest.warns(UserWarning, match=r"2 of 100 utterances have no wav in there .*: id0, id1$") as warned:
        assert report_missing(ids, [i < 2 for i in range(100)], "wav", "there") == ["id0", "id1"]
    assert len(warned) == 1
    assert report_missing(ids, [False] * 100, "wav", "there") == []
    with pytest.raises(InputError, match=r"^there: 6 of 100 utterances have no wav"):
        report_missing(ids, [i < 6 for i in range(100)], "wav", "there")
