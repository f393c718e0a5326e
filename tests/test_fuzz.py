"""Damaged files and odd options: each is used as it stands, or refused in one line and with status 2.

FUZZ is the number of cases; `make faults` runs 2,000.
"""

import csv
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, SMALL
from test_text import Attack

import main as program
import preprocessing
from corpora.corpus_json import read_corpus_json
from corpora.utterances import read_utterances, shares
from corpora.wavs import read_wav
from features.embeddings import load_embeddings, save_embeddings
from prediction.segments import read_segments
from reports.predictions import read_predictions
from training.checkpoint import CHECKPOINT, load_checkpoint, load_weights, save_checkpoint
from training.engine import make_scheduler
from training.record import load_run
from utils import InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of tables out of order, and the like
CASES = int(os.environ.get("FUZZ", "60"))
ODD = ["", " ", "nan", "inf", "-inf", "1e400", "-1", "0", "9" * 30, "9" * 5000, "\0", "\n", '"', ",", ";", "happy;"]
ODD += ["６", "\ufeff", "\u202e", "𝟓", "../../etc/passwd", "Sess99_script01_F001", "True", "None", "[1]", "{}"]


def damage(content: bytes, rng: random.Random) -> bytes:
    """The content of a file with one to three faults: of bits and bytes, of lines and of cells."""
    for _ in range(rng.randint(1, 3)):
        place, length = rng.randrange(len(content) + 1), rng.choice([1, 2, 8, 100])
        before, after, lines = content[:place], content[place:], content.split(b"\n")
        one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        cells = lines[one].split(b",")
        cells[rng.randrange(len(cells))] = rng.choice(ODD).encode()
        faults = [before, before + after[length:], before + rng.randbytes(length) + after[length:]]
        faults += [before + bytes(length) + after[length:], before + rng.choice(ODD).encode() + after]
        faults += [b"\n".join([*lines[:one], *lines[one + 1 :]]), b"\n".join([*lines, lines[other]])]
        faults += [b"\n".join([*lines[:one], b",".join(cells), *lines[one + 1 :]])]
        content = rng.choice(faults)
    return content


# Readers: a good file, and a function that reads it and checks what it returns


def check_table(path: Path) -> None:
    table = read_utterances(path.parent, "speaker")
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig", "replace"), newline="")))
    rows = [row for row in rows if any(row.values())]  # empty rows at the end are left out
    assert [*table["id"]] == [row["Segment ID"] for row in rows]
    assert np.array_equal(table["arousal"], np.array([row["Arousal"] for row in rows], dtype=np.float32))
    assert np.allclose(shares(table).sum(axis=1), 1)


def training() -> dict[str, Any]:
    """A small model after a step, with what trains it."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    scheduler = make_scheduler(optimizer, 6, 0.7)
    scheduler.step()
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def check_weights(path: Path) -> None:
    restored = training()
    torch.nn.init.zeros_(restored["model"].weight)
    if path.name == CHECKPOINT:
        assert load_checkpoint(path.parent, "id", restored)[0] == [{"epoch": 1, "train_loss": 0.5}]
    else:
        load_weights(restored["model"], path)
    assert torch.equal(restored["model"].weight, training()["model"].weight)


READERS: dict[str, Callable[[Path], object]] = {
    "df_speaker.csv": check_table,
    "corpus.json": lambda path: read_corpus_json(path.parent),
    "embedding_8.npy": lambda path: load_embeddings(path, 8),
    **dict.fromkeys(("a.wav", "a.flac"), read_wav),
    **dict.fromkeys(("run/configuration.json", "run/history.csv"), lambda path: load_run(path.parent)),
    "predictions.csv": read_predictions,
    "model.pth": check_weights,
    CHECKPOINT: check_weights,
    **dict.fromkeys(("talk.srt", "talk.vtt", "talk.json"), read_segments),
}


@pytest.fixture
def files(preprocessed, text_run, tmp_path) -> Path:
    """A folder with a good file for each reader."""
    for path in (preprocessed / "df_speaker.csv", preprocessed / "corpus.json"):
        shutil.copy(path, tmp_path)
    shutil.copytree(text_run, tmp_path / "run")
    shutil.copy(text_run / "predictions.csv", tmp_path)
    vectors = {f"Sess01_script01_F{i:03d}.txt": np.full(8, i, dtype=np.float32) for i in range(8)}
    save_embeddings(tmp_path / "embedding_8.npy", vectors)
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, np.sin(np.arange(2000) / 9), 16_000)
    save_checkpoint(tmp_path, "id", training(), [{"epoch": 1, "train_loss": 0.5}], None)
    cues = "\n\n".join(f"{i}\n00:00:0{i},000 --> 00:00:0{i},900\n[Kim]: 안녕 {i}" for i in range(1, 6))
    (tmp_path / "talk.srt").write_text(cues, "utf-8")
    (tmp_path / "talk.vtt").write_text("WEBVTT\n\n" + cues.replace(",", "."), "utf-8")
    segments = [{"start": i, "end": i + 0.9, "text": "안녕"} for i in range(5)]
    (tmp_path / "talk.json").write_text(json.dumps({"segments": segments}), "utf-8")
    return tmp_path


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_as_it_stands_or_refused_by_its_name(files, name):
    path = files / name
    good = path.read_bytes()
    READERS[name](path)
    for case in range(max(1, CASES // len(READERS))):
        path.write_bytes(damage(good, random.Random(f"{name} {case}")))
        message = ""
        try:
            READERS[name](path)
        except InputError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"case {case} of {name}") from error
        assert not message or str(path) in message, f"case {case}"


# Commands


def outcome(main: Callable[[list[str]], int], argv: list[str], capsys: pytest.CaptureFixture) -> int:
    """Exit status of a command: 0, or 2 with one line of error."""
    capsys.readouterr()
    try:
        status = main(argv)
    except SystemExit as exit_:  # of argparse
        status = exit_.code
    lines = capsys.readouterr().err.splitlines()
    assert status in (0, 2), lines
    assert sum(line.startswith("error: ") for line in lines) == (status == 2), lines
    return status


def contents(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_preprocessing_a_damaged_corpus_writes_all_or_nothing_and_changes_no_raw_file(preprocessed, tmp_path, capsys):
    corpus = Path(shutil.copytree(preprocessed, tmp_path / "corpus"))
    raw = [corpus / "annotation", corpus / "wav"]
    argv = ["--data_path", str(corpus), "--text_model", str(corpus / "kobert"), "--gpu_id", "cpu", "--overwrite"]
    good = contents(*raw)
    for case in range(max(2, CASES // 40)):
        rng = random.Random(case)
        path = rng.choice(sorted(good))
        path.write_bytes(damage(good[path], rng))
        before = contents(corpus)
        if outcome(preprocessing.main, argv, capsys):
            assert contents(corpus) == before
        assert {name: before[name] for name in good} == contents(*raw)
        path.write_bytes(good[path])


OPTIONS = "ws hidden_size num_layers batch_size lr lr_gamma beta weight_decay lam seed gpu_id test_split valid_split sr"
OPTIONS += " text_dim audio_path save_path resume test_only SorL modality backbone loss optim select report_to patience"


def test_any_value_of_an_option_is_used_or_refused(preprocessed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = contents(preprocessed)
    for case in range(max(4, CASES // 20)):
        rng = random.Random(case)
        odd = f"--{rng.choice(OPTIONS.split())}={rng.choice([*ODD, '1-6', '1', 'a' * 300, chr(0xDCFF)])}"
        argv = ["--data_path", str(preprocessed), *SMALL, "--modality", "text", "--epochs", "1", odd]
        assert outcome(program.main, argv, capsys) in (0, 2), odd
        assert contents(preprocessed) == before


# What files and commands must not do


def test_code_in_files_of_others_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marker, attack = tmp_path / "marker", {"a.txt": Attack(os.system, "touch marker")}
    for zipped, name in ((True, "model.pth"), (False, "model.pth"), (True, CHECKPOINT)):
        torch.save(attack, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError):
            READERS[name](tmp_path / name)
    assert not marker.exists()
    pickle.loads(pickle.dumps(attack))
    assert marker.exists()  # it works where nobody is careful


OFFLINE = """
import socket, sys, time
time.sleep = lambda seconds: None  # of the hub's client, before it tries again
def refuse(*_, **__):
    print("a socket was asked for", file=sys.stderr)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import main, predict, preprocessing
corpus, *more = sys.argv[1:]
preprocess = ["--data_path", corpus, "--gpu_id", "cpu", "--overwrite", "--text_model"]
status = preprocessing.main([*preprocess, f"{corpus}/kobert"]) + main.main(["--data_path", corpus, *more])
predict.main(["misspelt_name", "talk.wav"])
print("from here a name on the hub", file=sys.stderr)
sys.exit(status or preprocessing.main([*preprocess, "nobody/no-such-encoder"]))
"""


def test_no_network_is_asked_for_unless_a_name_on_the_hub_is_given(sample, tmp_path):
    corpus = shutil.copytree(sample, tmp_path / "corpus")
    options = [*SMALL, "--modality", "text", "--epochs", "1", "--save_path", str(tmp_path / "exp")]
    command = [sys.executable, "-c", OFFLINE, str(corpus), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    before, after = done.stderr.split("from here a name on the hub")
    assert "a socket was asked for" not in before
    assert "a socket was asked for" in after
    assert after.splitlines()[-1].startswith("error: ")
