import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from raw_corpus import FILES, faults, run, table, touch, write_wav

from corpora.wavs import announced_bytes, find_wavs, read_wav, wav_fault
from utils import InputError


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


def test_samples_that_are_not_numbers_are_a_fault(tmp_path):
    for value, fault in ((0.5, None), (np.nan, "holds samples that are not numbers")):
        soundfile.write(tmp_path / "a.wav", np.array([0.1, value]), 16_000, subtype="FLOAT")
        assert wav_fault(tmp_path / "a.wav") == fault


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
        {"format": "RF64"},
        {"format": "W64"},
        {"format": "AIFF"},
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


@pytest.mark.parametrize("comments", [1, 40, 200])
def test_comments_of_any_length_in_front_of_the_sound_hide_no_cut(tmp_path, comments):
    """libsndfile's own log of what is cut short ends at 2 KB, which 40 comments fill."""
    path = damaged_wav(tmp_path / "a.wav", 2044)
    content = path.read_bytes()
    listed = b"INFO" + (b"ICMT" + (40).to_bytes(4, "little") + b"c" * 40) * comments
    path.write_bytes(content[:36] + b"LIST" + len(listed).to_bytes(4, "little") + listed + content[36:])
    assert wav_fault(path) is None
    path.write_bytes(path.read_bytes()[:-2])
    assert wav_fault(path) == "cut short, 1998 of 2000 bytes of sound are there"


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


def test_an_audio_path_that_is_not_there(corpus, capsys):
    assert run(corpus, "--audio_path", "nowhere") == 2
    assert "--audio_path nowhere: no such folder" in capsys.readouterr().err


# Reading


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(16_000, 1, "PCM_16"), (44_100, 2, "PCM_24"), (8_000, 1, "FLOAT")]
)
def test_wavs_of_any_rate_and_channels_become_16_khz_mono(tmp_path, rate, channels, subtype):
    t = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    # Opposite noise on the two channels vanishes when they are mixed down
    stereo = np.stack([tone + 0.1 * np.sin(9000 * t), tone - 0.1 * np.sin(9000 * t)], axis=1)
    soundfile.write(tmp_path / "a.wav", tone if channels == 1 else stereo, rate, subtype=subtype)
    wave = read_wav(tmp_path / "a.wav")
    assert wave.dtype == np.float32
    assert wave.shape == (16_000,)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(wave - expected)[200:-200].max() < 2e-3


def test_wav_that_is_none_is_named(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"a\.wav: not readable as sound .*; replace it or take it away"):
        read_wav(tmp_path / "a.wav")


def test_samples_that_are_not_numbers_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.1, np.nan, 0.1]), 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"a\.wav: holds samples that are not numbers"):
        read_wav(tmp_path / "a.wav")
