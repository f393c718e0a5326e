import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora.kemdy19 import SEGMENT_ID
from corpora.labels import emotion_index, parse_emotions
from corpora.problems import Problem, report_missing, warn_of_problems, write_problems
from corpora.wavs import announced_bytes, find_files, find_wavs, wav_fault
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
    ids = [f"Sess0{1 + i % 2}_script01_F{i:03d}" for i in range(100)]
    with pytest.warns(
        UserWarning, match=rf"2 of 100 utterances have no wav in there .*: {ids[0]}, {ids[1]}$"
    ) as warned:
        assert report_missing(ids, [i < 2 for i in range(100)], "wav", "there") == ids[:2]
    assert len(warned) == 1
    assert report_missing(ids, [False] * 100, "wav", "there") == []
    with pytest.raises(InputError, match=r"^there: 6 of 100 utterances have no wav"):
        report_missing(ids, [i < 6 for i in range(100)], "wav", "there")


def test_linked_folders_are_entered_and_circles_are_not_walked_for_ever(tmp_path):
    wav = touch(tmp_path / "elsewhere/Session02/a.wav")
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav/Session02").symlink_to(tmp_path / "elsewhere/Session02")
    (tmp_path / "elsewhere/Session02/back").symlink_to(tmp_path / "wav")
    repeated = []
    found = find_files(tmp_path / "wav", ".wav", repeated)
    assert found.keys() == {"a"}
    assert found["a"].samefile(wav)
    assert repeated == []


def test_second_files_of_a_name_are_listed(tmp_path):
    first, *others = [touch(tmp_path / name) for name in ("a/x.WAV", "b/x.wav", "x.wav")]
    repeated = []
    assert find_files(tmp_path, ".wav", repeated) in ({"x": first}, {"x": others[1]})
    assert len(repeated) == 2


def test_samples_that_are_not_numbers_are_a_fault(tmp_path):
    for value, fault in ((0.5, None), (np.nan, "holds samples that are not numbers")):
        soundfile.write(tmp_path / "a.wav", np.array([0.1, value]), 16_000, subtype="FLOAT")
        assert wav_fault(tmp_path / "a.wav") == fault


def test_a_session_without_any_stops_the_run():
    ids = [f"Sess01_script01_F{i:03d}" for i in range(98)] + [f"Sess02_script01_F00{i}" for i in range(2)]
    with pytest.raises(InputError, match=r"^there: none of the 2 utterances of Sess02 has a text there"):
        report_missing(ids, [segment.startswith("Sess02") for segment in ids], "text", "there")


def test_files_are_found_in_any_case_and_the_first_of_several(tmp_path):
    later, first = touch(tmp_path / "b/x.wav"), touch(tmp_path / "a/deep/x.WAV")
    dotted = touch(tmp_path / "a/Sess01.v2.wav")
    assert find_files(tmp_path, ".wav") == {"x": first, "Sess01.v2": dotted}
    first.unlink()
    assert find_files(tmp_path, ".wav")["x"] == later


def damaged_wav(path: Path, size: int) -> Path:
    soundfile.write(path, np.full(1000, 0.1), 16_000)
    path.write_bytes(path.read_bytes()[:size])
    return path


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        (0, "empty, 0 bytes"),
        (30, "not readable as sound (Error in WAV file. No 'data' chunk marker.)"),
        (44, "cut short, 0 of 2000 bytes of sound are there"),
        (2043, "cut short, 1999 of 2000 bytes of sound are there"),
        (2044, None),
    ],
)
def test_wavs_that_are_not_whole_are_named(tmp_path, size, fault):
    path = damaged_wav(tmp_path / "a.wav", size)
    assert wav_fault(path) == fault


def test_length_of_a_wav_that_was_written_into_a_pipe_is_not_believed(tmp_path):
    path = damaged_wav(tmp_path / "a.wav", 2044)
    content = bytearray(path.read_bytes())
    content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert wav_fault(path) is None
    content[40:44] = b"\xfe\xff\xff\x7f"  # 2^31 - 2 bytes are announced
    path.write_bytes(content)
    assert wav_fault(path) == "cut short, 2000 of 2147483646 bytes of sound are there"


def test_chunks_in_front_of_the_sound_are_passed_over(tmp_path):
    path = damaged_wav(tmp_path / "a.wav", 2044)
    content = path.read_bytes()
    path.write_bytes(content[:36] + b"LIST\x03\0\0\0abc\0" + content[36:])
    assert wav_fault(path) is None
    path.write_bytes(path.read_bytes()[:-2])
    assert wav_fault(path) == "cut short, 1998 of 2000 bytes of sound are there"


@pytest.mark.parametrize(
    "options",
    [
        {"format": "WAV", "endian": "BIG"},  # RIFX
        *({"format": name} for name in ("RF64", "W64", "AIFF")),
    ],
    ids=lambda options: " ".join(options.values()),
)
def test_other_formats_of_a_wav_that_are_not_whole_are_named_too(tmp_path, options):
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        soundfile.write(file, np.full(1000, 0.1), 16_000, subtype="PCM_16", **options)
    whole = path.read_bytes()
    assert wav_fault(path) is None
    path.write_bytes(whole[:-2])
    # what AIFF announces is eight bytes longer than its samples
    there, announced = (2006, 2008) if options["format"] == "AIFF" else (1998, 2000)
    assert wav_fault(path) == f"cut short, {there} of {announced} bytes of sound are there"
    path.write_bytes(whole[:20])
    assert wav_fault(path).startswith("not readable as sound")


@pytest.mark.parametrize("length", [0, 1, 23, 2**63, 2**64 - 2])
def test_a_chunk_of_any_announced_length_ends_the_search(tmp_path, length):
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        soundfile.write(file, np.full(1000, 0.1), 16_000, format="W64", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[56:64] = length.to_bytes(8, "little")  # of the first chunk
    path.write_bytes(content)
    with path.open("rb") as file:
        announced = announced_bytes(file, len(content))
    assert announced is None or announced >= 0


def problem(what: str, segment: str, done: str = "left out") -> Problem:
    return Problem("annotation/t.csv", 3, segment, what, "'x'", done)


def test_each_kind_of_problem_is_warned_of_once():
    problems = [problem("bad label", "u1"), problem("no wav", "u2"), problem("bad label", "u3")]
    with pytest.warns(UserWarning) as warned:  # noqa: PT030
        warn_of_problems(problems)
    assert [str(warning.message) for warning in warned] == [
        "bad label: annotation/t.csv, row 3 (u1): 'x' and 1 more; left out",
        "no wav: annotation/t.csv, row 3 (u2): 'x'; left out",
    ]


def test_problems_csv_holds_any_text(tmp_path):
    problems = [problem('a "quoted", label', "가"), problem("two\nlines", "")]
    path = tmp_path / "problems.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        write_problems(file, problems)
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == Problem._fields
    assert rows == [[str(cell) for cell in row] for row in problems]
