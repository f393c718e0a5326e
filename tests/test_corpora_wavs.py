"""Wavs and transcripts: where they are found, what is wrong with them, and their samples, texts and hashes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from raw_corpus import new_problems, read

import corpora.wavs
from corpora.transcripts import clean_transcript
from corpora.wavs import audio_digest, find_files, find_wavs, hash_wavs, read_wav, wav_fault
from utils import InputError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


# Where they are


def test_wavs_are_found_in_the_corpus_or_flat_or_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flat, other = touch(tmp_path / "audio/b.WAV"), touch(tmp_path / "else/a.wav")
    assert find_wavs(tmp_path / "corpus") == {"b": flat.relative_to(tmp_path)}
    nested = touch(tmp_path / "corpus/wav/Session01/d/a.wav")
    touch(tmp_path / "corpus/wav/Session01/d/a.txt")
    assert find_wavs(tmp_path / "corpus") == {"a": nested}  # not `b`: ./audio may be another corpus's
    assert find_wavs(tmp_path / "corpus", tmp_path / "else") == {"a": other}
    assert find_wavs(tmp_path / "nowhere", tmp_path / "nothing") == {}


def test_files_are_found_in_alphabetical_order_also_through_links(tmp_path):
    later, first = touch(tmp_path / "data/b/x.wav"), touch(tmp_path / "data/a/deep/x.WAV")
    dotted = touch(tmp_path / "data/a/Sess01.v2.wav")
    assert find_files(tmp_path / "data", ".wav") == [dotted, first, later]
    assert find_wavs(tmp_path, tmp_path / "data") == {"x": first, "Sess01.v2": dotted}
    (tmp_path / "wav").symlink_to(tmp_path / "data")
    (tmp_path / "data/c").symlink_to(touch(tmp_path / "else/y.wav").parent)
    (tmp_path / "data/c/z.wav").symlink_to("nothing")
    assert find_wavs(tmp_path).keys() == {"x", "y", "Sess01.v2"}


# Faults


def write(path: Path, values: object = (0.1,) * 1000, **options: object) -> bytes:
    soundfile.write(path, np.array(values), 16_000, **options)
    return path.read_bytes()


@pytest.mark.parametrize("size", [0, 30, 44, 2043])
@pytest.mark.parametrize("endian", ["FILE", "BIG"])
def test_a_wav_that_is_not_whole_is_a_fault(tmp_path, size, endian):
    path = tmp_path / "a.wav"
    whole = write(path, endian=endian)
    assert wav_fault(path) is None
    path.write_bytes(whole[:size])
    assert wav_fault(path)
    with pytest.raises(InputError, match=r"a\.wav: "):
        read_wav(path)


def test_the_length_of_a_wav_that_was_written_into_a_pipe_is_not_believed(tmp_path):
    path = tmp_path / "a.wav"
    content = bytearray(write(path))
    for announced, is_whole in ((2**32 - 1, True), (2**31 - 2, False)):
        content[40:44] = announced.to_bytes(4, "little")
        path.write_bytes(content)
        assert (wav_fault(path) is None) == is_whole


@pytest.mark.parametrize("values", [[], [0.1, np.nan], [np.inf], [1e12] * 100])
def test_samples_that_are_not_sound_are_refused(tmp_path, values):
    for sr in (4_000, 16_000):
        write(tmp_path / "a.wav", values, subtype="FLOAT")
        with pytest.raises(InputError, match=r"a\.wav: "):
            read_wav(tmp_path / "a.wav", sr)


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_wav_that_is_cut_short_or_missing_is_a_problem(corpus, sample, is_cut):
    path = sorted((corpus / "wav").rglob("*.wav"))[3]
    whole = path.read_bytes()
    path.unlink()
    if is_cut:
        path.write_bytes(whole[:-1000])
    (found,) = new_problems(corpus, sample)
    file = str(path.relative_to(corpus)) if is_cut else "wav"
    assert (found["file"], found["id"], bool(found["found"])) == (file, path.stem, is_cut)


def test_second_files_of_an_id_are_each_a_problem(corpus, sample):
    folder = shutil.copytree(corpus / "wav/Session06", corpus / "wav/Session06_copy")
    found = new_problems(corpus, sample)
    assert {Path(problem["file"]).parts[1] for problem in found} == {"Session06_copy"}
    assert len(found) == len([*Path(folder).rglob("*.*")])


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(16_000, 1, "PCM_U8"), (44_100, 2, "PCM_16"), (8_000, 1, "PCM_24"), (16_000, 2, "FLOAT"), (44_100, 1, "DOUBLE")],
)
def test_wavs_of_any_kind_become_16_khz_mono(tmp_path, rate, channels, subtype):
    t = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    noise = 0.1 * np.sin(9000 * t)  # opposite on the two channels, so it vanishes when they are mixed
    wave = tone if channels == 1 else np.stack([tone + noise, tone - noise], axis=1)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype=subtype)
    assert wav_fault(tmp_path / "a.wav") is None
    found = read_wav(tmp_path / "a.wav")
    assert (found.dtype, found.shape) == (np.float32, (16_000,))
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(found - expected)[200:-200].max() < (2e-2 if subtype == "PCM_U8" else 2e-3)


def test_hashes_are_of_the_content_and_only_changed_wavs_are_read_again(tmp_path, monkeypatch):
    for name in "abc":
        touch(tmp_path / f"wav/{name}.wav").write_bytes(name.encode())
    read_again = []
    digest = corpora.wavs.digest_file
    monkeypatch.setattr(corpora.wavs, "digest_file", lambda path: read_again.append(path.stem) or digest(path))
    ids = ["a", "b", "c", "absent"]
    first = hash_wavs(tmp_path, find_wavs(tmp_path), ids)
    assert first.keys() == {"a", "b", "c"}
    assert sorted(read_again) == ["a", "b", "c"]
    (tmp_path / "wav/b.wav").write_bytes(b"other")
    second = hash_wavs(tmp_path, find_wavs(tmp_path), ids)
    assert read_again[3:] == ["b"]
    assert [name for name in first if first[name] != second[name]] == ["b"]
    assert audio_digest(first, ids) != audio_digest(second, ids) != audio_digest(second, ids[1:])
    copy = Path(shutil.copytree(tmp_path, tmp_path.with_name("copy"), copy_function=shutil.copyfile))
    assert hash_wavs(copy, find_wavs(copy), ids) == second


def test_hashes_need_no_folder_that_can_be_written(tmp_path):
    wav = touch(tmp_path / "wav/a.wav")
    (tmp_path / "features").touch()  # no folder
    assert hash_wavs(tmp_path, {"a": wav}, ["a"]).keys() == {"a"}
    assert os.listdir(tmp_path / "wav") == ["a.wav"]  # noqa: PTH208


# Transcripts


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("b/ 그래 l/ 알았어. n/", "그래 알았어."),
        ("그래 N/ o/c/s/.", "그래 ."),
        ("(u/+u/) 뭐?", "뭐?"),
        ("그래 /n 응", "그래 응"),
        ("/n/ 응", "응"),
        ("l/n 응", "응"),
        ("응/n 그래", "응 그래"),
        ("BTSb/ 6b/ 112n/", "BTS 6 112"),
        ("on/off ON/OFF 24/7", "on/off ON/OFF 24/7"),
        ("b/sos", "sos"),
        ("(그래+아니) 몰라", "그래 아니 몰라"),
        ("((가+나)+다)", "가 나 다"),
        ('*그가 "가자"  했어', "그가 가자 했어"),
        ("한 줄\n두 줄\r\n", "한 줄 두 줄"),
        ("BTS가 QR코드로 112에 6살 TF팀 b/", "BTS가 QR코드로 112에 6살 TF팀"),
        ("blnoucs USB는 sos 1+1 행사", "blnoucs USB는 sos 1+1 행사"),
    ],
)
def test_transcripts_lose_their_markup_and_nothing_else(raw, cleaned):
    assert clean_transcript(raw) == cleaned


@pytest.mark.parametrize(
    ("content", "is_problem", "text"),
    [
        (None, True, None),
        (b"", True, ""),
        (b"b/ (u/+u/)\n", True, ""),
        (b"\xff\xff\x80", True, None),
        ("그래\n\n알았어\n".encode(), True, "그래 알았어"),
        ("그래 알았어".encode("cp949"), False, "그래 알았어"),
    ],
    ids=["missing", "empty", "marks", "bytes", "lines", "cp949"],
)
def test_transcripts_of_any_kind(corpus, sample, content, is_problem, text):
    path = sorted((corpus / "wav").rglob("*.txt"))[3]
    path.unlink()
    if content is not None:
        path.with_suffix(".TXT").write_bytes(content)
    assert [problem["id"] for problem in new_problems(corpus, sample)] == [path.stem] * is_problem
    annotation = read(corpus)[0]["annotation.csv"].set_index("Segment ID")
    found = annotation["text"][[path.stem]]
    assert found.isna().all() if text is None else set(found) == {text}
