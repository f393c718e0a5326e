"""Wavs and transcripts: where they are found, what is wrong with them, and their samples, texts and hashes."""

import os
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from raw_corpus import problems_of, read

import corpora.wavs
from corpora.transcripts import clean_transcript, clean_transcripts, other_marks
from corpora.wavs import (
    audio_digest,
    find_files,
    find_wavs,
    first_of_each,
    hash_wavs,
    inspect_sound,
    read_part,
    read_wav,
    wav_fault,
)
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


def test_names_of_a_mac_are_found_in_composed_letters_and_its_own_files_are_not(tmp_path):
    decomposed = touch(tmp_path / "wav" / unicodedata.normalize("NFD", "가다.wav"))
    touch(tmp_path / "wav/._가다.wav")
    touch(tmp_path / "wav/.trash/나.wav")
    assert find_wavs(tmp_path) == {"가다": decomposed} == first_of_each([decomposed], ["가다"], "wav")[0]


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


@pytest.mark.parametrize("announced", [0, 0x7FFFF000, 0x80000000, 2**32 - 1, 0x7FFFEFFF])
def test_a_wav_without_its_length_is_read_to_its_end_everywhere(tmp_path, announced):
    path, values = tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000)
    content = bytearray(write(path, values))
    whole = read_wav(path)
    content[40:44] = announced.to_bytes(4, "little")
    path.write_bytes(content)
    if announced == 0x7FFFEFFF:  # a length that can be one
        assert wav_fault(path)
        return
    assert wav_fault(path) is None
    assert inspect_sound(path) == (1.0, 1.0, 1, False)
    np.testing.assert_array_equal(read_wav(path), whole)
    np.testing.assert_array_equal(read_part(path, 0.5, 1.0, 16_000), whole[8_000:])
    assert path.read_bytes() == content


def test_a_wav_without_sound_is_not_read_beyond_it(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(write(path, []) + b"LIST\x04\0\0\0INFO" * 100)
    assert wav_fault(path)
    write(path, [0.5])  # a single sample
    with pytest.raises(InputError, match=r"a\.wav: "):
        read_wav(path)


@pytest.mark.parametrize("ending", ["mp3", "flac"])
def test_the_length_of_a_damaged_recording_is_the_decoded_one(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    whole = write(path, np.random.default_rng(0).normal(0, 0.1, 320_000))
    assert inspect_sound(path) == (20.0, 20.0, 1, False)
    path.write_bytes(whole[: len(whole) // 2])
    seconds, announced, *_ = inspect_sound(path)
    assert 8 < seconds < 11
    assert announced == 20
    assert len(read_part(path, 5, 8, 16_000)) == 48_000
    for unusable in (lambda: read_part(path, 12, 15, 16_000), lambda: read_wav(path)):
        with pytest.raises(InputError, match=rf"a\.{ending}"):
            unusable()


@pytest.mark.parametrize(
    ("factors", "differ"), [((1, -1), True), ((1, 0.9), False), ((1, 0), False), ((0, 0), False), ((1,), False)]
)
def test_channels_in_opposite_phase_differ_and_silent_ones_do_not(tmp_path, factors, differ):
    values = np.random.default_rng(0).normal(0, 0.1, (64_000, 1))
    write(tmp_path / "a.wav", values * factors)
    assert inspect_sound(tmp_path / "a.wav")[3] == differ


@pytest.mark.parametrize("values", [[], [0.1, np.nan], [np.inf], [1e12] * 100])
def test_samples_that_are_not_sound_are_refused(tmp_path, values):
    for sr in (4_000, 16_000):
        write(tmp_path / "a.wav", values, subtype="FLOAT")
        with pytest.raises(InputError, match=r"a\.wav: "):
            read_wav(tmp_path / "a.wav", sr)


def speakers_of_their_own(path: Path) -> None:
    speakers = np.random.default_rng(0).normal(0, 0.1, (64_000, 2))
    speakers[:32_000, 0] = speakers[32_000:, 1] = 0
    write(path, speakers)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


@pytest.mark.parametrize("damage", [speakers_of_their_own, cut, Path.unlink])
def test_a_wav_that_is_cut_short_or_missing_or_has_two_speakers_is_a_problem(corpus, damage):
    path = sorted((corpus / "wav").rglob("*.wav"))[3]
    damage(path)
    (found,) = problems_of(corpus)
    assert found["id"] == path.stem
    if damage is not speakers_of_their_own:
        file = str(path.relative_to(corpus)) if path.exists() else "wav"
        assert (found["file"], bool(found["found"])) == (file, path.exists())


def test_second_files_of_an_id_are_each_a_problem(corpus):
    folder = shutil.copytree(corpus / "wav/Session06", corpus / "wav/Session06_copy")
    found = problems_of(corpus)
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


def test_a_wav_that_may_not_be_read_is_read_once_it_may(tmp_path, monkeypatch):
    wav = touch(tmp_path / "wav/a.wav")
    with monkeypatch.context() as patch:
        patch.setattr(corpora.wavs, "digest_file", lambda path: (path / "beyond a file").read_bytes())
        assert hash_wavs(tmp_path, {"a": wav}, ["a"]) == {"a": ""}
    assert len(hash_wavs(tmp_path, {"a": wav}, ["a"])["a"]) == 64


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
    assert other_marks(raw) == []


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("<|ko|><|NEUTRAL|>조금만", "조금만"),
        ("<|0.00|> 잠깐<|1.20|><|1.20|> 있어 봐<|endoftext|>", "잠깐 있어 봐"),
        ("<b>저</b>기 <i>비</i> 온다<br>우산", "저기 비 온다 우산"),
        ("<00:00:01.200><c.red> 문</c> {\\an8}닫아", "문 닫아"),
        ("(웃음) 좋지 ( 한숨소리 ) [음악]", "좋지"),
        ("[잔잔한 음악] {laughing} 【박수】 [BLANK_AUDIO] [문 닫는 소리]", ""),
        ("♪ 비가 오네 ♪ 😊", "비가 오네"),
        ("(5시)/(다섯 시)에 (1+1) / (원 플러스 원)", "5시에 1+1"),
        ("(b/ 5시)/(다섯 시)", "5시"),
        (unicodedata.normalize("NFD", "(웃음) 각 잡고"), "각 잡고"),
    ],
)
def test_what_recognisers_and_captions_add_is_left_out(raw, cleaned):
    assert clean_transcript(raw) == cleaned
    assert other_marks(raw)
    with pytest.warns(UserWarning, match="1 of 2"):
        assert clean_transcripts(["가", raw]) == ["가", cleaned]


@pytest.mark.parametrize(
    "said", ["(무슨 소리)", "(웃음+아니)", "[박소리꾼]", "<BTS> 3 < 5", "*음악 *박수", "음악 소리"]
)
def test_words_are_no_sounds(said):
    assert clean_transcript(said) == " ".join(said.translate(str.maketrans("(+)*", "    ")).split())
    assert other_marks(said) == []


@pytest.mark.parametrize(
    "part", ["(", ")", "(a", "[음악 ", "(a) /", "<b ", "<|", "b/", "소리", "{", "+", "(a)   ", " "]
)
def test_the_time_of_a_transcript_is_linear_in_its_length(part):
    begin = time.perf_counter()
    clean_transcript("(" * 8000 + part * 30_000 + ")" * 8000)
    other_marks("[" + part * 30_000)
    assert time.perf_counter() - begin < 3


def test_transcripts_with_marks_of_a_recogniser_are_problems(corpus):
    path = sorted((corpus / "wav").rglob("*.txt"))[3]
    path.write_text("<|ko|>그래 (웃음)", "utf-8")
    (found,) = problems_of(corpus)
    assert (found["id"], found["found"]) == (path.stem, "<|ko|>")
    annotation = read(corpus)[0]["annotation.csv"].set_index("Segment ID")
    assert set(annotation["text"][[path.stem]]) == {"그래"}


@pytest.mark.parametrize(
    ("content", "is_problem", "text"),
    [
        (None, True, None),
        (b"", True, ""),
        (b"b/ (u/+u/)\n", True, ""),
        (b"\xff\xff\x80", True, None),
        ("그래\n\n알았어\n".encode(), False, "그래 알았어"),
        ("그래 알았어".encode("cp949"), False, "그래 알았어"),
    ],
    ids=["missing", "empty", "marks", "bytes", "lines", "cp949"],
)
def test_transcripts_of_any_kind(corpus, content, is_problem, text):
    path = sorted((corpus / "wav").rglob("*.txt"))[3]
    path.unlink()
    if content is not None:
        path.with_suffix(".TXT").write_bytes(content)
    assert [problem["id"] for problem in problems_of(corpus)] == [path.stem] * is_problem
    annotation = read(corpus)[0]["annotation.csv"].set_index("Segment ID")
    found = annotation["text"][[path.stem]]
    assert found.isna().all() if text is None else set(found) == {text}
