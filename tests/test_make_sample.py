"""The sample corpus: its plan at full size, its files in both layouts, repetition, and what is refused."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import make_sample
import numpy as np
import pytest
import sample_layouts
from conftest import ROOT

from constants import EMOTIONS
from corpora.corpus import KEMDY19
from utils import decode


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_fold_of_the_default_sample_has_all_emotions_and_sentences_of_training():
    utterances = sample_layouts.SampleKEMDy19(0, 20, None).utterances
    assert len({u.id for u in utterances}) == len(utterances) == 461
    for fold in KEMDY19.folds:
        held_out = [u for u in utterances if u.session in fold]
        assert {u.ratings[u.speaker].total_emotion for u in held_out} >= set(EMOTIONS)
        assert {u.line for u in held_out} <= {u.line for u in utterances if u.session not in fold}
    own = [u.ratings[u.speaker].total_emotion for u in utterances]
    heard = [u.ratings["M" if u.speaker == "F" else "F"].total_emotion for u in utterances]
    assert 0.2 < np.mean([a == b for a, b in zip(own, heard, strict=True)]) < 0.6  # listeners react, and do not copy
    assert 0.01 < np.mean([";" in label for label in own]) < 0.15


def test_the_files_have_kemdy19s_layout_and_oddities(sample):
    tables = {path.name: path.read_bytes() for path in (sample / "annotation").iterdir()}
    assert tables.keys() == {f"Session{s:02d}_{actor}_res.csv" for s in range(1, 7) for actor in "FM"}
    assert [name for name, content in tables.items() if content.startswith(b"\xef\xbb\xbf")] == ["Session03_M_res.csv"]
    assert "평가01여" in tables["Session05_F_res.csv"].decode("cp949")
    rows = [row for name, c in tables.items() for row in list(csv.reader(decode(c, Path(name)).splitlines()))[2:]]
    assert {len(row) for row in rows} == {13 + 30}
    assert len(rows) == 2 * 60 + 1  # a listener's row occurs twice
    wavs, texts = ({p.stem for p in sample.glob(f"wav/*/*/*.{kind}")} for kind in ("wav", "txt"))
    assert texts == {row[9] for row in rows}
    assert len(texts - wavs) == 1


@pytest.mark.parametrize("layout", make_sample.LAYOUTS)
def test_a_seed_repeats_a_sample_to_the_byte_and_another_one_does_not(tmp_path, layout):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_sample.make_sample(tmp_path / name, layout, seed, sessions=1, utterances=1)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in a if name.endswith((".wav", ".csv", ".bin")))


@pytest.mark.parametrize(
    "given", [["--sessions", "21"], ["--sessions", "0"], ["--utterances", "0"], ["--seed", "-1"], ["--out", "there"]]
)
def test_what_is_refused_is_named_and_leaves_everything_as_it_was(tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there", "mine.txt").write_text("mine")
    assert make_sample.main(["--out", "new", *given]) == 2
    assert given[1] in capsys.readouterr().err
    assert contents(tmp_path) == {"there/mine.txt": b"mine"}


def test_a_terminated_command_leaves_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "data" / "make_sample.py"), "--out", str(tmp_path / "sample")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not [*tmp_path.glob(".*/sample/wav/*/*/*.wav")]:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (130, 143)
    assert [*tmp_path.iterdir()] == []
