"""The sample corpus: its plan at full size, its files in both layouts, repetition, and what is refused."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import make_sample
import pytest
import sample_layouts
from conftest import ROOT

from constants import EMOTIONS
from corpora.corpus import KEMDY19


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_fold_of_the_default_sample_has_all_emotions_and_sentences_of_training():
    utterances = [u for session in range(1, 21) for u in sample_layouts.plan_session(0, session, "kemdy19", None)]
    assert len({u.id for u in utterances}) == len(utterances) == 461
    for fold in KEMDY19.folds:
        held_out = [u for u in utterances if u.session in fold]
        assert {sample_layouts.total(u.votes[u.speaker])[0] for u in held_out} >= set(EMOTIONS)
        assert {u.line for u in held_out} <= {u.line for u in utterances if u.session not in fold}


@pytest.mark.parametrize("layout", make_sample.SESSIONS)
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
    try:
        status = make_sample.main(["--out", "new", *given])
    except SystemExit as error:  # argparse's
        status = error.code
    assert status == 2
    assert given[1] in capsys.readouterr().err
    assert contents(tmp_path) == {"there/mine.txt": b"mine"}


def test_a_terminated_command_leaves_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "data" / "make_sample.py"), "--out", str(tmp_path / "sample")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not [*tmp_path.glob(".*/sample")]:  # which is empty while it speaks
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (130, 143)
    assert [*tmp_path.iterdir()] == []
