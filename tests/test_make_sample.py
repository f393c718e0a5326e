"""The maker of the sample corpus: its plan at full size, and what it writes at a small one."""

import csv
import io
import os
import re
import signal
import subprocess
import sys
import time
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data"))

import make_sample  # noqa: E402

from constants import EMOTION_ALIASES, EMOTIONS, N_RATERS, TEXT_DIM  # noqa: E402
from corpora.kemdy19 import FOLDS, SEGMENT_ID  # noqa: E402
from utils import InputError  # noqa: E402

SEED, SESSIONS, UTTERANCES = 3, 8, 4  # 64 utterances: just enough for every oddity
HEADER = (
    "Numb,Wav,,ECG,,E4-EDA,,E4-TEMP,,Segment ID,Total Evaluation,,,Eval01F,,,Eval02M,,,Eval03F,,,Eval04M,,,"
    "Eval05F,,,Eval06M,,,Eval07F,,,Eval08M,,,Eval09F,,,Eval10M,,",
    ",start,end,start,end,start,end,start,end,," + ",".join(["Emotion,Valence,Arousal"] * 11),
)


@pytest.fixture(scope="module")
def plan() -> make_sample.Plan:
    """The plan of the sample the fixture ``sample`` holds."""
    return make_sample.plan_sample(SEED, SESSIONS, utterances=UTTERANCES)


@pytest.fixture(scope="module")
def full_plan() -> make_sample.Plan:
    """The plan of the default command."""
    return make_sample.plan_sample()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "sample"
    make_sample.make_sample(out, seed=SEED, sessions=SESSIONS, utterances=UTTERANCES)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decode(raw: bytes) -> str:
    for encoding in ("utf-8-sig", "cp949"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise AssertionError("neither UTF-8 nor CP949")


def read_table(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(decode(path.read_bytes()), newline="")))


def rows_of(sample: Path) -> list[tuple[str, list[str]]]:
    """(actor, row) of all tables without their headers."""
    paths = sorted((sample / "annotation").iterdir())
    return [(path.name[10], row) for path in paths for row in read_table(path)[2:]]


def majority(votes: list[str]) -> set[str]:
    counts = Counter(EMOTION_ALIASES.get(vote, vote) for vote in votes)
    return {emotion for emotion, n in counts.items() if n == max(counts.values())}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "data" / "make_sample.py"), *arguments]


# The lines


def test_dialogues_hold_enough_lines_of_every_emotion():
    dialogues = make_sample.read_dialogues()
    lines = [line for dialogue in dialogues.values() for line in dialogue]
    counts = Counter(line.emotion for line in lines)
    assert len({line.text for line in lines}) == len(lines) >= 160
    assert set(counts) == set(EMOTIONS)
    assert min(counts.values()) >= 14
    assert 0.25 <= counts["neutral"] / len(lines) <= 0.30
    assert counts.most_common(1)[0][0] == "neutral"
    assert sum(name.startswith("script") for name in dialogues) == 6
    assert sum(name.startswith("impro") for name in dialogues) >= 10


def test_dialogues_are_taken_in_turns():
    for name, lines in make_sample.read_dialogues().items():
        speakers = "".join(line.speaker for line in lines)
        assert not re.search("FFF|MMM", speakers), name
        assert min(speakers.count("F"), speakers.count("M")) >= 3, name
        assert len({line.emotion for line in lines}) >= 4, name


def test_lines_are_korean_sentences_with_latin_letters_and_digits_in_some():
    texts = [line.text for dialogue in make_sample.read_dialogues().values() for line in dialogue]
    for text in texts:
        assert re.fullmatch(r"[가-힣A-Za-z0-9 .,?!]+[.?!]", text), text
        assert "  " not in text
    for word in ("BTS가", "QR코드", "6살", "112에", "TF팀"):
        assert any(word in text for text in texts), word


def test_a_wrong_label_in_the_dialogues_is_named(tmp_path):
    path = tmp_path / "lines.csv"
    path.write_text("dialogue,speaker,emotion,line\nscript01,F,joy,안녕.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"lines\.csv row 2: .*joy"):
        make_sample.read_dialogues(path)


# The plan at full size


def test_default_size(full_plan):
    assert 400 <= len(full_plan.utterances) <= 480
    assert {u.session for u in full_plan.utterances} == set(range(1, 21))
    for session in range(1, 21):
        names = {u.dialogue[:6].rstrip("0") for u in full_plan.utterances if u.session == session}
        assert names == {"script", "impro"}


def test_every_fold_has_every_emotion_as_a_majority(full_plan):
    for fold in FOLDS:
        own = [u for u in full_plan.utterances if u.session in fold]
        assert {u.emotion for u in own} == set(EMOTIONS)
        assert {u.ratings[u.speaker].total_emotion for u in own} >= set(EMOTIONS)


def test_lines_of_a_held_out_fold_are_heard_in_training(full_plan):
    for fold in FOLDS:
        held_out = {u.line for u in full_plan.utterances if u.session in fold}
        training = {u.line for u in full_plan.utterances if u.session not in fold}
        assert held_out <= training


def test_votes_agree_with_the_acting_but_not_always(full_plan):
    own = [(u.emotion, u.ratings[u.speaker]) for u in full_plan.utterances]
    right = np.mean([emotion == rating.total_emotion for emotion, rating in own])
    unanimous = np.mean([len(set(rating.emotions)) == 1 for _, rating in own])
    tied = np.mean([";" in rating.total_emotion for _, rating in own])
    assert 0.80 < right < 0.99
    assert unanimous < 0.15
    assert 0.01 < tied < 0.15


def test_arousal_and_valence_go_with_the_emotion(full_plan):
    def mean(emotion: str, scale: str) -> float:
        ratings = [u.ratings[u.speaker] for u in full_plan.utterances if u.emotion == emotion]
        return float(np.mean([getattr(rating, scale) for rating in ratings]))

    assert mean("happy", "valences") > 4 > 3.4 > mean("neutral", "valences") > 2.6 > 2.2
    assert max(mean(name, "valences") for name in ("angry", "sad", "fear", "disgust")) < 2.3
    assert min(mean(name, "arousals") for name in ("angry", "fear", "surprise", "happy")) > 3.4
    assert mean("sad", "arousals") < mean("neutral", "arousals") < 2.8
    votes = {v for u in full_plan.utterances for r in u.ratings.values() for v in (*r.valences, *r.arousals)}
    assert votes == {1, 2, 3, 4, 5}


def test_listeners_react_and_do_not_copy(full_plan):
    pairs = []
    for u in full_plan.utterances:
        listener = "M" if u.speaker == "F" else "F"
        pairs.append((u.ratings[u.speaker], u.ratings[listener]))
    assert all(speaker != listener for speaker, listener in pairs)
    same = np.mean([speaker.total_emotion == listener.total_emotion for speaker, listener in pairs])
    assert 0.2 < same < 0.6
    calm = [np.mean(listener.arousals) < np.mean(speaker.arousals) for speaker, listener in pairs]
    assert np.mean(calm) > 0.6


def test_oddities_of_the_transcripts(full_plan):
    transcripts = [u.transcript for u in full_plan.utterances]
    assert transcripts.count("") == 1
    assert transcripts.count("n/") == 1
    for pattern, least in (
        (r"(^| )\.?[blnNoucs]/", 8),  # noise marks
        (r" u/\. ", 1),
        (r"\(u/\+u/\)", 1),
        (r" /n ", 1),
        (r"\([가-힣]+ ?\+ ?[가-힣]+\)", 4),  # two people at once
        (r"\([가-힣]+\)", 2),
        (r"\*", 1),
        (r'"', 1),
        (r"  ", 1),
    ):
        found = sum(bool(re.search(pattern, transcript)) for transcript in transcripts)
        assert least <= found <= 20, pattern
    marked = [u for u in full_plan.utterances if u.transcript != u.line]
    assert 20 <= len(marked) <= 30
    for u in marked:  # what is spoken is still there, less a comma within brackets
        if len(u.transcript) > 2:
            assert set(re.findall(r"\w+", u.line)) <= set(re.findall(r"\w+", u.transcript))


def test_oddities_of_the_tables(full_plan):
    misspelt = [u for u in full_plan.utterances if any(r.misspelt for r in u.ratings.values())]
    assert 1 <= len(misspelt) <= 6
    for u in misspelt:
        cells = u.ratings[u.speaker].cells()
        assert "disqust" in cells[0]
    by_id = {u.segment_id: u for u in full_plan.utterances}
    assert len(by_id) == len(full_plan.utterances)
    assert by_id[full_plan.missing_wav].transcript
    repeated, second = full_plan.repeated
    u = by_id[repeated]
    assert second.total_emotion != u.ratings["M" if u.speaker == "F" else "F"].total_emotion
    assert full_plan.blank_biosignals in {u.folder for u in full_plan.utterances}
    assert full_plan.crlf_table != full_plan.cp949_table


@pytest.mark.parametrize("sessions", [1, 2, 5, 20])
@pytest.mark.parametrize("dialogues", [1, 2, 3])
@pytest.mark.parametrize("utterances", [1, 2, 7, None])
def test_oddities_keep_within_a_small_sample(sessions, dialogues, utterances):
    plan = make_sample.plan_sample(1, sessions, dialogues, utterances)
    n = len(plan.utterances)
    assert n <= sessions * dialogues * (utterances or 13)
    assert len({u.segment_id for u in plan.utterances}) == n
    empty = sum(u.transcript in make_sample.EMPTY_TRANSCRIPTS for u in plan.utterances)
    assert empty <= min(2, 0.05 * n)
    assert (plan.missing_wav is not None) == (n >= 60)
    assert sum(u.transcript != u.line for u in plan.utterances) <= n / 8 + 2


# What is written


def test_layout(sample, plan):
    assert {path.name for path in sample.iterdir()} == {"annotation", "wav", "kobert", "synthetic.json"}
    tables = {f"Session{s:02d}_{actor}_res.csv" for s in range(1, SESSIONS + 1) for actor in "FM"}
    assert {path.name for path in (sample / "annotation").iterdir()} == tables
    ids = []
    for path in sorted(sample.glob("wav/*/*/*.txt")):
        match = SEGMENT_ID.fullmatch(path.stem)
        assert match, path
        assert path.parent.name == f"Sess{match['session']}_{match['script']}"
        assert path.parent.parent.name == f"Session{match['session']}"
        ids.append(path.stem)
    assert set(ids) == {u.segment_id for u in plan.utterances}
    assert len(ids) == SESSIONS * 2 * UTTERANCES
    runs = Counter(segment_id[:-3] for segment_id in ids)
    assert {f"{run}{n:03d}" for run, last in runs.items() for n in range(1, last + 1)} == set(ids)


def test_transcripts_are_one_line_of_utf8(sample, plan):
    for u in plan.utterances:
        text = (sample / f"{u.stem}.txt").read_bytes().decode()
        assert text.removesuffix("\n") == u.transcript
        assert text.count("\n") == bool(u.transcript)


def test_one_wav_is_missing_and_the_others_are_speech(sample, plan):
    paths = {path.stem for path in sample.glob("wav/*/*/*.wav")}
    assert {u.segment_id for u in plan.utterances} - paths == {plan.missing_wav}
    for path in sample.glob("wav/*/*/*.wav"):
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (22_050, 1, 2)
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15
        assert 1 < len(sound) / 22_050 < 16, path
        assert np.sqrt(np.mean(sound**2)) > 0.02, path
        assert np.mean(np.abs(sound) > 0.999) < 1e-3, path  # not clipped


def test_one_utterance_is_longer_than_ten_seconds(sample):
    seconds = []
    for path in sample.glob("wav/*/*/*.wav"):
        with wave.open(str(path)) as file:
            seconds.append(file.getnframes() / file.getframerate())
    assert [11 < s < 15 for s in seconds if s > 10] == [True]


def test_anger_is_louder_faster_and_higher_than_sadness(sample, plan):
    def figures(emotion: str) -> np.ndarray:
        rows = []
        for u in plan.utterances:
            path = sample / f"{u.stem}.wav"
            if u.emotion == emotion and path.exists():
                with wave.open(str(path)) as file:
                    sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15
                rows.append((np.sqrt(np.mean(sound**2)), len(u.line) / len(sound) * 22_050, u.speech.pitch))
        assert len(rows) >= 4
        return np.mean(rows, axis=0)

    assert np.all(figures("angry") > [1.5, 1.15, 1.2] * figures("sad"))


def test_two_voices(sample, plan):
    """The man's fundamental is about an octave below the woman's."""

    def pitch(u: make_sample.Utterance) -> float:
        with wave.open(str(sample / f"{u.stem}.wav")) as file:
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
        spectrum = np.abs(np.fft.rfft(sound, 2**18)) ** 2
        correlation = np.fft.irfft(spectrum)[: 22_050 // 60]
        lag = 22_050 // 350 + int(np.argmax(correlation[22_050 // 350 :]))
        return 22_050 / lag

    neutral = [u for u in plan.utterances if u.emotion == "neutral" and u.segment_id != plan.missing_wav]
    women = np.median([pitch(u) for u in neutral if u.speaker == "F"])
    men = np.median([pitch(u) for u in neutral if u.speaker == "M"])
    assert {u.speech.voice for u in plan.utterances} == {"ko+f4", "ko+m3"}
    assert women > 150 > 130 > men


def test_header_rows(sample, plan):
    korean = "Session{:02d}_{}_res.csv".format(*plan.cp949_table)
    for path in (sample / "annotation").iterdir():
        lines = decode(path.read_bytes()).splitlines()
        assert lines[1] == HEADER[1]
        if path.name == korean:
            assert lines[0].split(",")[:13] == HEADER[0].split(",")[:13]
        else:
            assert lines[0] == HEADER[0]


def test_both_tables_hold_every_utterance_in_order_of_time(sample, plan):
    for session in range(1, SESSIONS + 1):
        expected = [u.segment_id for u in plan.utterances if u.session == session]
        for actor in "FM":
            rows = read_table(sample / "annotation" / f"Session{session:02d}_{actor}_res.csv")[2:]
            assert {len(row) for row in rows} == {13 + 3 * N_RATERS}
            assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
            assert list(dict.fromkeys(row[9] for row in rows)) == expected
            starts, ends = ([float(row[i]) for row in rows] for i in (1, 2))
            assert starts == sorted(starts)
            assert starts[0] == 0
            assert all(start < end for start, end in zip(starts, ends, strict=True))


def test_times_are_those_of_the_wavs(sample):
    for _, row in rows_of(sample):
        path = next(sample.glob(f"wav/*/*/{row[9]}.txt")).with_suffix(".wav")
        if path.exists():
            with wave.open(str(path)) as file:
                assert float(row[2]) - float(row[1]) == pytest.approx(file.getnframes() / 22_050, abs=0.002)


def test_the_total_is_the_majority_and_the_mean_of_the_votes(sample):
    ties = 0
    for _, row in rows_of(sample):
        total = [EMOTION_ALIASES.get(label, label) for label in row[10].split(";")]
        assert len(total) == len(set(total))
        assert set(total) == majority(row[13::3])
        assert row[11] == f"{np.mean([int(vote) for vote in row[14::3]]):.1f}"
        assert row[12] == f"{np.mean([int(vote) for vote in row[15::3]]):.1f}"
        assert {*row[14::3], *row[15::3]} <= set("12345")
        ties += len(total) > 1
    assert ties


def test_speakers_show_the_acted_emotion(sample, plan):
    acted = {u.segment_id: u.emotion for u in plan.utterances}
    hits = {True: [], False: []}
    for actor, row in rows_of(sample):
        speaks = row[9][-4] == actor
        hits[speaks].append(acted[row[9]] in majority(row[13::3]))
    assert np.mean(hits[True]) > 0.9
    assert np.mean(hits[False]) < 0.6


def test_one_listener_id_occurs_twice_with_different_ratings(sample, plan):
    seen: dict[tuple[str, str], list[list[str]]] = {}
    for actor, row in rows_of(sample):
        seen.setdefault((row[9], actor), []).append(row)
    repeated = {key: rows for key, rows in seen.items() if len(rows) > 1}
    assert len(repeated) == 1
    ((segment_id, actor), (first, second)), *_ = repeated.items()
    assert segment_id == plan.repeated[0]
    assert segment_id[-4] != actor
    assert first[1:3] == second[1:3]
    assert first[10] != second[10]


def test_biosignals_are_blank_over_one_whole_dialogue(sample, plan):
    for _, row in rows_of(sample):
        blank = row[9].startswith(plan.blank_biosignals)
        assert [cell == "" for cell in row[3:9]] == [blank] * 6
        assert row[1]


def test_disgust_is_misspelt_in_a_few_rows(sample):
    rows = [row for _, row in rows_of(sample) if "disqust" in ";".join(row)]
    assert 1 <= len(rows) <= 6
    assert all("disqust" in row[10] for row in rows)
    assert any("disqust" in row[13::3] and "disgust" in row[13::3] for row in rows)


def test_one_table_has_bom_and_crlf_and_one_is_cp949(sample):
    raw = {path.name: path.read_bytes() for path in (sample / "annotation").iterdir()}
    assert [name for name, data in raw.items() if data.startswith(b"\xef\xbb\xbf")] == ["Session03_M_res.csv"]
    crlf = raw["Session03_M_res.csv"]
    assert crlf.count(b"\r\n") == crlf.count(b"\n") > 2
    assert all(b"\r" not in data for name, data in raw.items() if name != "Session03_M_res.csv")
    not_utf8 = []
    for name, data in raw.items():
        try:
            data.decode()
        except UnicodeDecodeError:
            not_utf8.append(name)
    assert not_utf8 == ["Session05_F_res.csv"]
    assert "평가01여" in raw["Session05_F_res.csv"].decode("cp949")


def test_text_encoder_has_the_layout_of_kobert(sample):
    import sentencepiece
    from transformers import BertModel

    folder = sample / "kobert"
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "pytorch_model.bin", "spiece.model", "tokenizer_config.json"}
    reference = ROOT / "tests" / "reference" / "tokenizer"
    if reference.exists():
        assert (folder / "tokenizer_config.json").read_text() == (reference / "tokenizer_config.json").read_text()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert [pieces.id_to_piece(i) for i in range(5)] == ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    assert pieces.is_unknown(0)
    assert all(pieces.is_control(i) for i in range(1, 5))
    assert 0 not in pieces.encode("입구에서 QR코드를 보여 줘야 한대.")
    model, loading = BertModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    assert model.config.hidden_size == TEXT_DIM
    assert model.config.pad_token_id == 1
    assert model.config.vocab_size == pieces.vocab_size() > 500


# Repetition


def test_a_second_build_is_the_same_byte_for_byte(sample, tmp_path):
    """Within this process, and in another one through the command line."""
    make_sample.make_sample(tmp_path / "again", seed=SEED, sessions=SESSIONS, utterances=UTTERANCES)
    arguments = ["--seed", str(SEED), "--sessions", str(SESSIONS), "--utterances", str(UTTERANCES)]
    done = subprocess.run(
        command("--out", "sub/other", *arguments), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first = contents(sample)
    assert contents(tmp_path / "again") == first
    assert contents(tmp_path / "sub" / "other") == first
    assert {path.name for path in (tmp_path / "sub").iterdir()} == {"other"}
    assert "64 utterances" in done.stdout
    assert "sub/other" in done.stdout
    assert "neutral" in done.stdout
    assert "step/s" in done.stderr  # the progress bar


def test_another_seed_makes_another_sample(sample, tmp_path):
    make_sample.make_sample(tmp_path / "other", seed=SEED + 1, sessions=1, utterances=UTTERANCES)
    first, second = contents(sample), contents(tmp_path / "other")
    for name in (
        "annotation/Session01_F_res.csv",
        "annotation/Session01_M_res.csv",
        "wav/Session01/Sess01_script01/Sess01_script01_F001.wav",
        "kobert/pytorch_model.bin",
    ):
        assert first[name] != second[name], name
    votes = [[row[10:] for _, row in rows_of(folder)][: 2 * UTTERANCES] for folder in (sample, tmp_path / "other")]
    assert all(row != other for row, other in zip(*votes, strict=True))


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    import torch

    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    make_sample.make_sample(tmp_path / "sample", sessions=1, dialogues=1, utterances=1)
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


# Refusals and failures


def test_an_existing_folder_is_refused_and_untouched(tmp_path, capsys):
    out = tmp_path / "sample"
    out.mkdir()
    (out / "precious.txt").write_text("kept")
    assert make_sample.main(["--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(out) in error
    assert contents(tmp_path) == {"sample/precious.txt": b"kept"}
    with pytest.raises(InputError, match="exists already"):
        make_sample.make_sample(out)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--sessions", "0"), ("--sessions", "21"), ("--utterances", "0"), ("--seed", "-1")],
)
def test_a_value_out_of_range_is_refused(tmp_path, capsys, option, value):
    assert make_sample.main(["--out", str(tmp_path / "sample"), option, value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{option[2:]} is {value}" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dialogues", [0, 4])
def test_a_number_of_dialogues_out_of_range_is_refused(tmp_path, dialogues):
    with pytest.raises(InputError, match=f"dialogues is {dialogues}; it must be 1 to 3"):
        make_sample.make_sample(tmp_path / "sample", dialogues=dialogues)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(OSError(28, "No space left"), 2, "cannot be written (No space left)"), (KeyboardInterrupt(), 130, "interrupted")],
)
def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch, capsys, error, status, message):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(make_sample, "write_text_encoder", fail)  # the last thing written
    assert make_sample.main(["--out", str(tmp_path / "sample"), "--sessions", "1", "--utterances", "1"]) == status
    assert not list(tmp_path.iterdir())
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_synthesiser_that_fails_is_reported_with_its_message(tmp_path, monkeypatch):
    monkeypatch.setitem(make_sample.VOICES, "F", "no such voice")
    with pytest.raises(RuntimeError, match="espeak-ng has no voice no such voice"):
        make_sample.make_sample(tmp_path / "sample", sessions=1, utterances=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX sends them")
def test_an_interrupted_command_leaves_nothing(tmp_path, name):
    process = subprocess.Popen(command("--out", str(tmp_path / "sample")), stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".*/sample/wav/*/*/*.wav")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(tmp_path.glob(".*/sample/wav/*/*/*.wav"))
        assert not (tmp_path / "sample").exists()
        process.send_signal(getattr(signal, name))
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in error.decode().splitlines()[-1]
    assert not list(tmp_path.iterdir())
