"""A corpus as a manifest: its rows, faults, labels, sessions and wavs, and what is made of them."""

import contextlib
import csv
import json
import re
import shlex
import subprocess
from pathlib import Path

import check_docs
import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import ROOT, SMALL, argv_of, only_run
from make_sample import make_sample
from raw_corpus import run

import experiments
import main
import predict
import preprocessing
from corpora.corpus import corpus_of
from corpora.manifest import number_sessions, read_manifest
from corpora.utterances import SHARES, read_utterances
from corpora.wavs import find_wavs, read_wav
from features.embeddings import load_embeddings
from utils import InputError

RATE = 8000
EMOTIONS = ("happy", "sad", "angry;happy", "neutral")


def rows(n: int = 24, **columns: object) -> list[dict[str, object]]:
    """Rows of dialogues of four; a function among `columns` gives a cell by the row's number, None no such column."""
    made = []
    for i in range(n):
        row = {"id": f"u{i}", "wav": f"sound/{i}.wav", "session": f"day {i // 4}", "dialogue": f"d{i // 4}"}
        row |= {"speaker": "AB"[i % 2], "text": f"오늘은 {i}번째 줄이에요.", "emotion": EMOTIONS[i % 4]}
        row |= {"arousal": 1 + i % 5, "valence": 2.5}
        row |= {name: value(i) if callable(value) else value for name, value in columns.items()}
        made.append({name: value for name, value in row.items() if value is not None})
    return made


def write(folder: Path, table: list[dict[str, object]], encoding: str = "utf-8") -> Path:
    """A manifest, and a wav of its own for each of its names."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, [*table[0]])
        writer.writeheader()
        writer.writerows(table)
    for number, name in enumerate(dict.fromkeys(row.get("wav") for row in table)):
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            noise = np.random.default_rng(number).integers(-9000, 9000, (4 * RATE, 2), dtype=np.int16)
            soundfile.write(folder / name, noise // 4 + noise[:, :1], RATE)  # channels that are alike
    return folder


def preprocess(folder: Path, sample: Path, *options: str) -> int:
    return run(folder, "--text_model", str(sample / "kobert"), *options)


def train(folder: Path, *options: str) -> Path:
    argv = ["--data_path", str(folder), "--save_path", str(folder / "exp"), *SMALL, "--epochs", "1", *options]
    assert main.main(argv) == 0
    return only_run(folder / "exp")


def test_a_manifest_is_preprocessed_trained_on_and_predicted(sample, tmp_path):
    votes = {"votes_happy": lambda i: 3 + (i % 4 == 0), "votes_sad": lambda i: "" if i % 2 else 4}
    folder = write(tmp_path / "mine", rows(session=lambda i: 100 + i // 4, **votes))
    assert preprocess(folder, sample, "--strict") == 0
    table = read_utterances(folder, "speaker")
    assert table["id"].tolist() == [f"u{i}" for i in range(24)]
    assert table["session"].tolist() == [100 + i // 4 for i in range(24)]
    assert table["share_happy"].iloc[:2].tolist() == [0.5, 1]
    assert corpus_of(folder).folds == ((100, 101), (102,), (103,), (104,), (105,))
    folder_of_run = train(folder)
    result = json.loads((folder_of_run / "result.json").read_text())
    assert result["corpus"] == "mine"
    assert result["overall"]["n"] == 8
    assert "dialogues.html" in {path.name for path in folder_of_run.iterdir()}
    argv = [str(folder_of_run), "--dialogue", "d1", "--data_path", str(folder), "--out", str(tmp_path / "out")]
    assert predict.main([*argv, "--gpu_id", "cpu"]) == 0
    assert [*pd.read_csv(tmp_path / "out" / "predictions.csv")["segment_id"]] == ["u4", "u5", "u6", "u7"]


def test_the_sample_as_a_manifest_gives_the_same_figures_to_the_bit(audio_run, preprocessed, tmp_path):
    folder = tmp_path / "mine"
    make_sample(folder, "manifest", seed=0, sessions=6, utterances=5)
    assert run(folder) == 0
    expected, table = (read_utterances(path, "speaker") for path in (preprocessed, folder))
    unlike = ["corpus", "sequence", "scripted", "start", "end"]
    expected = expected.drop(columns=expected.filter(regex=r"\.\d+$"))  # a manifest has no single votes
    pd.testing.assert_frame_equal(table.drop(columns=unlike), expected.drop(columns=unlike))
    vectors, others = (load_embeddings(path / "embedding_768.npy", 768) for path in (preprocessed, folder))
    assert all(np.array_equal(vectors[key], others[key]) for key in vectors.keys() | others.keys())
    assert main.main(argv_of("audio", folder, tmp_path / "exp")) == 0
    runs = audio_run, only_run(tmp_path / "exp")
    a, b = (pd.read_csv(path / "predictions.csv") for path in runs)
    pd.testing.assert_frame_equal(a.filter(regex="pred|p_|true"), b.filter(regex="pred|p_|true"), check_exact=True)
    a, b = (json.loads((path / "result.json").read_text()) for path in runs)
    assert (a["overall"], a["intervals"], a["F1"]) == (b["overall"], b["intervals"], b["F1"])


def test_a_changed_manifest_is_preprocessed_again_before_it_is_used(sample, tmp_path, capsys):
    folder = write(tmp_path / "mine", rows())
    assert preprocess(folder, sample) == 0
    assert preprocess(folder, sample, "--strict") == 2  # the tables exist, and are not checked
    write(folder, rows(28))
    for command in (lambda: preprocess(folder, sample), lambda: main.main(["--data_path", str(folder), *SMALL])):
        capsys.readouterr()
        assert command() == 2
        assert "--overwrite" in capsys.readouterr().err
    assert preprocess(folder, sample, "--overwrite") == 0
    assert len(read_utterances(folder, "speaker")) == 28


def test_what_a_manifest_lacks_is_left_out_of_losses_figures_and_pages(sample, tmp_path, capsys):
    folder = write(tmp_path / "mine", rows(320, arousal=None, valence=None, wav=None, session=None, speaker=None))
    assert preprocess(folder, sample, "--strict") == 0
    assert "group of dialogues" in capsys.readouterr().out
    options = ("--modality", "text", "--valid_split", "2", "--affect_loss", "ccc")
    run_folder = train(folder, *options, "--test_split", "1")
    assert "group of dialogues" in capsys.readouterr().out
    result = (run_folder / "result.json").read_text()
    assert "NaN" not in result
    assert "ccc_arousal" not in json.loads(result)
    assert json.loads(result)["intervals"]["ccc_arousal"] is None
    assert pd.read_csv(run_folder / "predictions.csv")["true_arousal"].isna().all()
    assert "ccc" not in (run_folder / "history.csv").read_text()
    with pytest.raises(AssertionError):
        train(folder, *options, "--test_split", "1", "--select", "ccc")
    assert "--select ccc" in capsys.readouterr().err
    argv = ["--data_path", str(folder), "--save_path", str(folder / "exp"), *SMALL, "--epochs", "1"]
    assert experiments.main(["run", "--SorL", "speaker", *argv, "--modality", "text"]) == 0
    table = (folder / "exp" / "report" / "folds.csv").read_text()
    assert table.count("\n") == 1 + 5 + 1
    assert "group of dialogues" in table  # folds and their mean


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ({"id": ""}, "id missing"),
        ({"id": "../u7"}, "id missing"),
        ({"id": "u2"}, "duplicate id"),
        ({"emotion": ""}, "missing emotion"),
        ({"arousal": "5.5"}, "arousal"),
        ({"valence": ""}, "valence"),
        ({"session": ""}, "session"),
        ({"wav": "", "text": ""}, "neither"),
        ({"start": "2,5"}, "start"),
        ({"start": "3", "end": "2"}, "start"),
        ({"channel": "left"}, "channel"),
        ({"votes_sad": "two"}, "vote"),
    ],
)
def test_a_row_that_cannot_be_used_is_left_out_and_named(tmp_path, cells, what):
    table = rows(start="", end="", channel="", votes_sad="", votes_happy="")
    table[7] |= cells
    found, problems = read_manifest(write(tmp_path / "mine", table), None)
    assert len(found) == 23
    assert len(problems) == 1
    assert (problems["file"].iloc[0], problems["row"].iloc[0]) == ("manifest.csv", 9)
    assert what in problems["what"].iloc[0]


def test_a_manifest_that_cannot_be_read_or_is_mostly_faulty_is_refused(tmp_path, sample, capsys):
    for number, (table, named) in enumerate(
        [
            (rows(emotion=None), "emotion"),
            (rows(wav=None, text=None), "wav or text"),
            (rows(valence=lambda i: 9 if i % 4 else 3), "row 3"),
            (rows(emotion=lambda i: "joy" if i % 4 else "sad"), "joy 18"),
        ]
    ):
        folder = write(tmp_path / str(number), table)
        assert preprocess(folder, sample) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "manifest.csv" in line
        assert named in line
        assert not (folder / "df_speaker.csv").exists()


def test_labels_csv_names_emotions_and_leaves_rows_out(tmp_path):
    votes = {"votes_기쁨": lambda i: 3 if i == 0 else "", "votes_당황": 1}
    folder = write(tmp_path / "mine", rows(emotion=lambda i: ("기쁨", "Etc", "sad;etc", "")[i % 4], **votes), "cp949")
    (folder / "labels.csv").write_text("label,emotion\n기쁨,happy\n당황,surprise\netc,-\n", encoding="utf-8-sig")
    found, problems = read_manifest(folder, None)
    assert len(problems) == 0  # what labels.csv leaves out is no fault
    assert found["Emotion"].tolist() == ["happy", "sad", "surprise"] * 6
    assert found.loc[0, ["votes_happy", "votes_surprise"]].tolist() == [3, 1]
    (folder / "labels.csv").write_text("label,emotion\n기쁨,joy\n당황,surprise\netc,-\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"labels\.csv.*'joy'"):
        read_manifest(folder, None)
    (folder / "labels.csv").write_text("label,emotion\n기쁨,-\n당황,-\netc,-\nsad,-\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"labels\.csv"):  # no row is left
        read_manifest(folder, None)


def test_sessions_are_those_named_or_groups_in_which_speakers_stay_together():
    speaker = ["A", "B", "B", "C", "D", "E", "E"]  # A talks with B, B with C
    table = pd.DataFrame({"session": "", "speaker": speaker, "dialogue": [*"112234", "5"]})
    session, groups = number_sessions(table)
    assert (session.tolist(), groups) == ([1, 1, 1, 1, 2, 3, 3], " (a session is a group of speakers)")
    session, groups = number_sessions(table.assign(speaker="", session="1"))
    assert (len({*session}), groups) == (5, " (a session is a group of dialogues)")
    session, groups = number_sessions(table.assign(session=[*"3399", "12", "12", "12"]))
    assert (session.tolist(), groups) == ([3, 3, 9, 9, 12, 12, 12], "")
    many = pd.DataFrame({"session": "", "speaker": [f"{i}" for i in range(2000)], "dialogue": range(2000)})
    assert np.bincount(number_sessions(many)[0]).tolist() == [0] + [200] * 10


def test_start_end_and_channel_cut_a_wav_to_the_same_samples(tmp_path, sample):
    times = {"start": lambda i: 3 - i % 4, "end": lambda i: 3.25 - i % 4 + (i == 4) * 2, "channel": lambda i: 1 + i % 2}
    table = rows(wav=lambda i: f"d{i // 4}.flac", **times)
    table[5]["start"], table[5]["end"], table[6]["channel"] = 7, 8, 3
    folder, out = write(tmp_path / "mine", table), tmp_path / "out"
    before = sorted(folder.rglob("*"))
    assert preprocess(folder, sample, "--out", str(out)) == 0
    assert sorted(folder.rglob("*")) == before
    problems = pd.read_csv(out / "problems.csv")
    assert problems["id"].tolist() == ["u4", "u5", "u6"]  # of an end, a start and a channel that are not there
    read, wavs = read_utterances(out, "speaker"), find_wavs(out)
    assert read["id"].iloc[:4].tolist() == ["u3", "u2", "u1", "u0"]  # in the order of time
    assert read["id"][~read["id"].isin(wavs.keys())].tolist() == ["u6", "u4", "u5"]
    whole, rate = soundfile.read(folder / "d0.flac", dtype="float32")
    np.testing.assert_array_equal(read_wav(wavs["u1"], rate), whole[2 * rate : round(2.25 * rate), 1])


# The examples of data/README


def python_of(word: str) -> str:
    """The Python block in data/README that has a word, the same in both languages."""
    blocks = [
        [block for block in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL) if word in block]
        for path in (ROOT / "data" / "README.md", ROOT / "data" / "README.ko.md")
    ]
    assert blocks[0] == blocks[1]
    return blocks[0][0]


def write_wav(path: Path, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, (8 * RATE, channels)), RATE)


def test_the_tables_of_ai_hub_263_become_a_manifest(sample, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "aihub263"
    (folder / "tables").mkdir(parents=True)
    heads = [f"{n}번{' ' * (n != 4)}감정세기" for n in range(1, 6)]
    votes = ["Happiness happiness Neutral Sadness happiness", "Angry angry Angry fear sadness"]
    rows = [["5e25", "기분이 좋아요.", "happiness"], ["5f10", "화가 나요.", "anger"]]
    for row, own in zip(rows, votes, strict=True):
        row += [cell for vote in own.split() for cell in (vote, "1")] + ["28", "male"]
        write_wav(folder / "wavs" / "4th" / f"{row[0]}.wav")
    own = [name for n in range(5) for name in (f"{n + 1}번 감정", heads[n])]
    head = ["wav_id", "발화문", "상황", *own, "나이", "성별"]
    pd.DataFrame(rows, columns=head).to_csv(folder / "tables" / "4차년도.csv", index=False, encoding="cp949")
    monkeypatch.chdir(tmp_path)
    exec(python_of("aihub263"), {})
    assert preprocess(folder, sample, "--strict") == 0
    table = read_utterances(folder, "speaker").set_index("id")
    assert table.loc["5e25", ["emotion", "share_happy", "share_sad"]].tolist() == pytest.approx(["happy", 0.6, 0.2])
    assert table.loc["5f10", "emotion"] == "angry"
    assert find_wavs(folder).keys() == {"5e25", "5f10"}


def test_the_conversations_of_ai_hub_71631_become_a_manifest(sample, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "aihub71631"
    (folder / "labels").mkdir(parents=True)
    for name, one, two in (("A_0001", "0001", "0002"), ("A_0002", "0003", "0004")):
        times = [("3.10", "5.25", "Speaker2"), ("0.50", "2.75", "Speaker1")]
        lines = [
            {"SpeakerNo": who, "StartTime": start, "EndTime": end, "Text": "그래요?", "VerifyEmotionTarget": "없음"}
            for start, end, who in times
        ]
        content = {"Speaker1": {"ID": one}, "Speaker2": {"ID": two}, "Conversation": lines}
        (folder / "labels" / f"{name}.json").write_text(json.dumps(content), "utf-8-sig")
        write_wav(folder / "wavs" / "in" / f"{name}.wav", channels=2)
    monkeypatch.chdir(tmp_path)
    exec(python_of("aihub71631"), {})
    assert preprocess(folder, sample, "--strict") == 0
    table = read_utterances(folder, "speaker")
    assert table["id"].iloc[:2].tolist() == ["A_0001_0002", "A_0001_0001"]
    assert table["speaker"].tolist() == ["0001", "0002", "0003", "0004"]
    assert "group of speakers" in corpus_of(folder).name
    wave, rate = soundfile.read(folder / "wavs" / "in" / "A_0001.wav", dtype="float32")
    np.testing.assert_array_equal(read_wav(find_wavs(folder)["A_0001_0002"], rate), wave[4000:22000, 0])


def test_the_corpora_of_etri_become_one_manifest(preprocessed, preprocessed20, sample, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name, folder in (("KEMDy19", preprocessed), ("KEMDy20_v1_1", preprocessed20)):
        (tmp_path / "data" / name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    exec(python_of("data/both"), {})
    assert preprocess(Path("data/both"), sample) == 0
    first, second = (read_utterances(folder, "speaker") for folder in (preprocessed, preprocessed20))
    table, expected = read_utterances(Path("data/both"), "speaker"), pd.concat([first, second])
    assert table["id"].tolist() == expected["id"].tolist()
    assert table["session"].tolist() == [*first["session"], *second["session"] + 100]
    names = ["emotion", "arousal", *SHARES]
    pd.testing.assert_frame_equal(table[names], expected[names].reset_index(drop=True))
    dialogues = expected["corpus"] + expected["dialogue"]
    assert (pd.factorize(table["dialogue"])[0] == pd.factorize(dialogues)[0]).all()
    assert find_wavs(Path("data/both")).keys() == find_wavs(preprocessed).keys() | find_wavs(preprocessed20).keys()


def test_the_ten_utterances_of_data_readme_run_as_written(sample, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample").symlink_to(sample)
    for page in ("README.md", "README.ko.md"):
        text = (ROOT / "data" / page).read_text("utf-8")
        commands = [command.text for command in check_docs.read_commands(page, text) if "data/ten" in command.text]
    assert len(commands) == 4
    for command in commands[:2]:
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    with contextlib.chdir(tmp_path):
        assert preprocessing.main(shlex.split(commands[2])[2:]) == 0
        assert main.main([*shlex.split(commands[3])[2:], "--gpu_id", "cpu", "--hidden_size", "8"]) == 0
    assert len(pd.read_csv(tmp_path / "data" / "ten" / "df_speaker.csv")) == 10
