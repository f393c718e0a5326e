"""Files and options as strangers hand them over: each ends in a true result or in one line and status 2.

FUZZ is the number of cases in all; `make faults` runs 2000.
"""

import csv
import io
import json
import math
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import main as program
import preprocessing
from constants import EMOTIONS, ROLES
from corpora.annotation import read_annotation
from corpora.labels import parse_emotions
from corpora.wavs import read_wav
from features.embeddings import load_embeddings, save_embeddings
from features.log_mel import decibel_frames
from features.store import FeatureStore
from training import state as checkpoint
from training.run import CHECKPOINT
from training.state import Trainee, load_weights
from utils import InputError, read_json

ROOT = Path(program.__file__).parent
CASES = int(os.environ.get("FUZZ", "200"))
SMALL = ("--modality", "text", "--hidden_size", "8", "--num_layers", "1", "--batch_size", "8", "--gpu_id", "cpu")
TRAIN = (*SMALL, "--test_split", "1-2", "--epochs", "1")
ODD = [
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "0",
    "9" * 30,
    "9" * 5000,
    "\0",
    "\n",
    '"',
    ",",
    ";",
    "happy;",
    "６",
]
ODD += [
    "６",
    "\ufeff",
    "\u202e",
    "\ud7ff",
    "𝟓",
    "../../etc/passwd",
    "Sess99_script01_F001",
    "True",
    "None",
    "[1]",
    "1e-320",
]


def cases(share: float) -> Callable:
    """So many cases of all, the same ones in every run."""
    return settings(
        max_examples=max(1, round(share * CASES)),
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


# What is done to a good file


@st.composite
def mutated(draw: st.DrawFn, content: bytes, text: bool) -> bytes:
    """A file's content with one to three faults: of bits and bytes, and in text of lines and cells."""
    kinds = ["flip", "cut", "insert", "overwrite", "repeat", "delete"]
    kinds += ["line dropped", "line repeated", "lines swapped", "cell", "cells swapped"] * text
    rng = random.Random(draw(st.integers(0, 2**32)))
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)):
        content = fault(content, kind, rng)
    return content


def fault(content: bytes, kind: str, rng: random.Random) -> bytes:
    """`content` with one fault."""
    place, length = rng.randrange(len(content) + 1), rng.choice([1, 2, 8, 100])
    before, after = content[:place], content[place:]
    if kind == "flip" and after:
        return before + bytes([after[0] ^ 1 << rng.randrange(8)]) + after[1:]
    if kind == "cut":
        return before
    if kind == "insert":
        return before + rng.choice([rng.randbytes(length), *(odd.encode() for odd in ODD)]) + after
    if kind == "overwrite":
        return before + rng.choice([rng.randbytes(length), b"\xff" * length, bytes(length)]) + after[length:]
    if kind == "repeat":
        return before + after[:length] + after
    if kind == "delete":
        return before + after[length:]
    lines = content.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    cells = lines[one].split(b",")
    cell, second = rng.randrange(len(cells)), rng.randrange(len(cells))
    if kind == "line dropped":
        del lines[one]
    elif kind == "line repeated":
        lines.insert(other, lines[one])
    elif kind == "lines swapped":
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == "cell":
        cells[cell] = rng.choice(ODD).encode()
    elif kind == "cells swapped":
        cells[cell], cells[second] = cells[second], cells[cell]
    if kind.startswith("cell"):
        lines[one] = b",".join(cells)
    return b"\n".join(lines)


# What must be seen


def contents(*paths: Path) -> dict[Path, bytes]:
    """The files in these folders, but for the texts that a run puts beside a corpus for its page."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return {file: file.read_bytes() for file in files if not file.match("transcripts_*.css")}


def outcome(main: Callable[[list[str]], int], argv: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit status of a command, called in this process, and the last line that it said on stderr; 2 is one line."""
    capsys.readouterr()
    try:
        status = main(argv)
    except SystemExit as exit_:  # of argparse
        status = exit_.code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert status in (0, 2), said
    errors = [line for line in said.splitlines() if "error: " in line]
    last = said.splitlines()[-1] if said.splitlines() else ""
    assert errors[-1:] == ([last] if status else []), said
    assert len(errors) == (status == 2), said
    return status, last


def check_result(folder: Path) -> None:
    """A report whose figures are numbers, of as many windows as are listed."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert result["overall"]["n"] == len(rows) > 0
    assert all(math.isfinite(result[name]) for name in ("ccc_arousal", "ccc_valence"))
    assert all(math.isfinite(float(part)) for part in result["F1"].split("+-"))
    assert all(math.isfinite(float(row[f"p_{name}"])) for row in rows for name in EMOTIONS)
    assert all(1 <= float(row[name]) <= 5 for row in rows for name in ("arousal_pred", "valence_pred"))


def refused(function: Callable, *arguments: object) -> str | None:
    """None where a reader takes what it is given; the message of its error otherwise."""
    try:
        function(*arguments)
    except InputError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def experiment(preprocessed, tmp_path_factory) -> Path:
    """An experiment folder; to be copied."""
    exp = tmp_path_factory.mktemp("fuzz") / "exp"
    assert program.main(["--data_path", str(preprocessed), "--save_path", str(exp), *TRAIN]) == 0
    (folder,) = exp.iterdir()
    return folder


@pytest.fixture
def folder(experiment, tmp_path) -> Path:
    """A copy of an experiment folder: its configuration and its weights."""
    (tmp_path / "run").mkdir()
    for name in ("configuration.json", "model.pth"):
        shutil.copy(experiment / name, tmp_path / "run" / name)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def corpus(preprocessed, tmp_path_factory) -> Path:
    """A copy of a corpus without its sound, one file of which is spoilt at a time."""
    ignore = shutil.ignore_patterns("*.wav", "features")
    return shutil.copytree(preprocessed, tmp_path_factory.mktemp("fuzz") / "corpus", ignore=ignore)


# Files by their readers


def read_plainly(path: Path) -> Iterator[tuple[str, set[str], float, float]]:
    """Id, labels, arousal and valence of a table's rows, by the csv module."""
    text = path.read_bytes()
    try:
        text = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = text.decode("cp949")
    for row in csv.DictReader(io.StringIO(text, newline="")):
        if not any(row.values()):  # empty rows at the end are left out
            continue
        labels = {label.strip().lower().replace("disqust", "disgust") for label in row["Emotion"].split(";")}
        yield row["Segment ID"], labels, float(row["Arousal"]), float(row["Valence"])


@pytest.mark.filterwarnings("ignore:.*come after later ones", "ignore:.*empty rows at its end")
def test_a_table_is_read_as_it_stands_or_refused(preprocessed, tmp_path):
    path = tmp_path / "df_speaker.csv"

    @cases(0.2)
    @given(mutated((preprocessed / "df_speaker.csv").read_bytes(), text=True))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = read_annotation(path)
        except InputError:
            return
        expected = list(read_plainly(path))
        assert found.ids == [row[0] for row in expected]
        for number, (_, labels, arousal, valence) in enumerate(expected):
            assert {EMOTIONS[label] for label in np.flatnonzero(found.majority[number])} == labels
            assert (found.arousal[number], found.valence[number]) == (np.float32(arousal), np.float32(valence))
        assert np.allclose(found.soft.sum(axis=1), 1)

    check()


def test_sentence_embeddings_are_finite_or_refused(tmp_path):
    vectors = {f"Sess01_script01_F{i:03d}.txt": np.full(8, i, dtype=np.float32) for i in range(8)}
    file, path = io.BytesIO(), tmp_path / "embedding_8.npy"
    save_embeddings(file, vectors)

    @cases(0.25)
    @given(mutated(file.getvalue(), text=False))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = load_embeddings(path, 8)
        except InputError:
            return
        assert all(isinstance(key, str) for key in found)
        assert all(v.shape == (8,) and v.dtype == np.float32 and np.isfinite(v).all() for v in found.values())

    check()


def test_a_wav_gives_numbers_or_is_refused(tmp_path):
    wave = np.sin(np.arange(2000) / 9)
    good, path = [], tmp_path / "a.wav"
    forms = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16"), ("RF64", "PCM_16")]
    for form, subtype in [*forms, ("W64", "PCM_16")]:
        file = io.BytesIO()
        soundfile.write(file, wave, 16000, format=form, subtype=subtype)
        good.append(file.getvalue())

    @cases(0.2)
    @given(st.sampled_from(good).flatmap(lambda content: mutated(content, text=False)))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = read_wav(path)
        except InputError:
            return
        assert found.ndim == 1
        assert np.isfinite(found).all()
        assert decibel_frames(found).isfinite().all()

    check()


def test_a_spoilt_feature_store_is_made_anew(tmp_path):
    wavs = {f"Sess01_script01_F{i:03d}": tmp_path / f"{i}.wav" for i in range(4)}
    for number, path in enumerate(wavs.values()):
        path.write_bytes(bytes(number + 1))
    padding, folder = torch.zeros(1, 3), tmp_path / "features"

    def read() -> list:
        store = FeatureStore(folder, "log_mel-16000-float32", {"sr": 16000}, wavs, padding)
        if store.missing():
            with store.build() as build:
                for segment in build.missing:
                    path = wavs[segment]
                    build.add(segment, (torch.full((path.stat().st_size, 3), float(path.stem)), padding[:0]))
        frames = store.frames([*wavs])
        return [frames.values[start : start + length].tolist() for start, length, _ in frames.spans.tolist()]

    expected = read()

    @cases(0.05)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.suffix != ".lock")))
        file.write_bytes(data.draw(mutated(file.read_bytes(), text=False)))
        assert read() == expected

    check()


# Whole commands


def test_training_on_a_spoilt_table_is_true_or_one_line(corpus, preprocessed, tmp_path, capsys):
    path = corpus / "df_speaker.csv"

    @cases(0.03)
    @given(mutated((preprocessed / "df_speaker.csv").read_bytes(), text=True))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        before = contents(corpus)
        argv = ["--data_path", str(corpus), "--save_path", str(tmp_path / "exp"), "--no_pages", *TRAIN]
        if outcome(program.main, argv, capsys)[0] == 0:
            (folder,) = (tmp_path / "exp").iterdir()
            check_result(folder)
        assert contents(corpus) == before
        shutil.rmtree(tmp_path / "exp", ignore_errors=True)

    try:
        check()
    finally:
        shutil.copy(preprocessed / path.name, path)


def test_preprocessing_a_spoilt_corpus_is_true_or_one_line(corpus, capsys):
    made = [corpus / name for name in preprocessing.output_files(corpus, 768, ROLES)]
    good = contents(corpus / "annotation", corpus / "wav")
    argv = ["--data_path", str(corpus), "--text_model", str(corpus / "kobert"), "--gpu_id", "cpu", "--overwrite"]

    @cases(0.05)
    @given(st.sampled_from(sorted(good)).flatmap(lambda file: st.tuples(st.just(file), mutated(good[file], True))))
    def check(case: tuple[Path, bytes]) -> None:
        file, content = case
        file.write_bytes(content)
        before, old = contents(corpus / "annotation", corpus / "wav", corpus / "kobert"), contents(*made)
        if outcome(preprocessing.main, argv, capsys)[0] == 0:
            for role in ("speaker", "listener"):
                with (corpus / f"df_{role}.csv").open(encoding="utf-8", newline="") as rows:
                    assert all(parse_emotions(row["Emotion"]) for row in csv.DictReader(rows))
            load_embeddings(corpus / "embedding_768.npy", 768)
        else:
            assert contents(*made) == old
        assert contents(corpus / "annotation", corpus / "wav", corpus / "kobert") == before
        file.write_bytes(good[file])

    check()
    assert preprocessing.main(argv) == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def test_a_configuration_fits_its_weights_or_is_refused(folder, corpus, capsys):
    path = folder / "configuration.json"
    good = path.read_bytes()
    argv = ["--data_path", str(corpus), "--test_only", str(folder), "--gpu_id", "cpu"]
    other = st.builds(
        lambda name, value: json.dumps({**json.loads(good), name: value}).encode(),
        st.sampled_from(sorted(json.loads(good))),
        JSON,
    )

    @cases(0.1)
    @given(other | mutated(good, text=True))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        before = contents(corpus, folder)
        if outcome(program.main, argv, capsys)[0] == 0:
            (made,) = (path for path in folder.iterdir() if path.is_dir())
            check_result(made)
            shutil.rmtree(made)
        assert contents(corpus, folder) == before

    check()


@pytest.mark.parametrize("name", ["model.pth", CHECKPOINT])
def test_spoilt_weights_and_checkpoints_are_noticed_or_the_same(tmp_path, name):
    model, path = torch.nn.Linear(3, 2), tmp_path / name
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    progress = checkpoint.Progress(1, 0, torch.zeros(0), torch.Generator().get_state())
    if name == "model.pth":
        torch.save(model.state_dict(), path)
    else:
        checkpoint.save_tensors(checkpoint.make_checkpoint({}, Trainee(model, optimizer, scheduler), progress), path)
    weights = {key: value.clone() for key, value in model.state_dict().items()}

    @cases(0.05)
    @given(mutated(path.read_bytes(), text=False))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        if name == "model.pth":
            message = refused(load_weights, model, path)
        else:
            message = refused(checkpoint.load_checkpoint, path, {}, Trainee(model, optimizer, scheduler), 1, 1)
        if message is None:
            assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())

    check()


OPTIONS = [
    *(
        "--ws",
        "--hidden_size",
        "--num_layers",
        "--epochs",
        "--batch_size",
        "--lr",
        "--lr_gamma",
        "--lr_decay",
        "--beta",
    ),
    *("--beta", "--weight_decay", "--lam", "--seed", "--gpu_id", "--test_split", "--valid_split", "--text_dim"),
    *(
        "--num_workers",
        "--save_every",
        "--save_minutes",
        "--sr",
        "--data_path",
        "--audio_path",
        "--save_path",
        "--resume",
        "--test_only",
        "--SorL",
    ),
    *("--modality", "--backbone", "--loss", "--optim", "--select", "--bidirectional", "--embed_d"),
]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_value_of_an_option_is_used_or_refused(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = contents(corpus)
    value = st.sampled_from(
        [*ODD, "1e38", "1-6", "1", "10000000", "100000", "\udcff", "\ud800", "a" * 300, str(corpus)]
    )

    @cases(0.07)
    @given(st.sampled_from(OPTIONS), value)
    def check(option: str, value: str) -> None:
        argv = ["--data_path", str(corpus), "--save_path", str(tmp_path / "exp"), *TRAIN, f"{option}={value}"]
        if outcome(program.main, argv, capsys)[0] == 0:
            (made,) = [path.parent for path in tmp_path.rglob("result.json")] or [
                path.parent for path in corpus.rglob("result.json")
            ]
            check_result(made)
            shutil.rmtree(made)
        assert contents(corpus) == before
        for path in tmp_path.iterdir():
            shutil.rmtree(path)

    check()


# Cases that once failed


@pytest.mark.parametrize(
    "options",
    [
        *(("--hidden_size", "10000000"), ("--hidden_size", "60000", "--num_layers", "90"), ("--num_layers", "1000000")),
        *(("--ws", "100000"), ("--ws", "1000000000"), ("--hidden_size", "9" * 19), ("--lr", "1e38"), ("--lr", "1e400")),
        *(("--weight_decay", "1e308"), ("--lr_gamma", "1e308"), ("--num_workers", "100000"), ("--epochs", "9" * 20)),
        *(
            ("--gpu_id", "9" * 5000),
            ("--lr_gamma", "1e15", "--lr", "1e3"),
            ("--save_path", "a\0b"),
            ("--save_path", "\udcff"),
            ("--data_path", "a" * 300),
        ),
        *(("--audio_path", "\ud800", "--modality", "audio"), ("--resume", "a" * 300), ("--test_only", "a" * 300)),
    ],
    ids=lambda options: ascii(" ".join(options))[:40],
)
def test_options_that_are_too_large_or_no_path_are_refused(preprocessed, tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    argv = ["--data_path", str(preprocessed), "--save_path", "exp", *TRAIN, *options]
    assert outcome(program.main, argv, capsys)[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("hidden_size", 10**9), ("hidden_size", 10**30), ("ws", 10**6), ("text_dim", 10**9), ("num_layers", 10**6)),
        *(("batch_size", 10**30), ("lr", math.inf), ("lr", math.nan), ("train_split", [1, 2, 3]), ("valid_split", [1])),
    ],
)
def test_configurations_that_contradict_or_exceed_are_refused(folder, preprocessed, capsys, name, value):
    path = folder / "configuration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    argv = ["--data_path", str(preprocessed), "--test_only", str(folder), "--gpu_id", "cpu"]
    status, said = outcome(program.main, argv, capsys)
    assert status == 2
    assert said.startswith(f"error: {path}: ")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, '{"a": 1e999}', '{"a": NaN}', "\0"])
def test_odd_json_is_refused(tmp_path, text):
    path = tmp_path / "configuration.json"
    path.write_text(text)
    assert str(path) in refused(read_json, path)


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"ws": 8}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"ws": 8}


@pytest.mark.parametrize("what", ["nan", "inf", "complex", "bool", "sparse", "meta", "quantized"])
def test_weights_that_are_no_plain_numbers_are_refused(tmp_path, what):
    model, path = torch.nn.BatchNorm1d(4), tmp_path / "model.pth"
    weight = torch.ones(4)
    if what in ("nan", "inf"):
        weight[0] = float(what)
    other = {
        **{"complex": weight * 1j, "bool": weight > 0, "sparse": weight.to_sparse(), "meta": weight.to("meta")},
        "quantized": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8) if what == "quantized" else None,
    }
    torch.save({**model.state_dict(), "running_var": other.get(what, weight)}, path)
    assert "running_var" in refused(load_weights, model, path) or what in ("sparse", "quantized")
    assert torch.equal(model.running_var, torch.ones(4))


def test_an_archive_that_expands_is_refused_unread(tmp_path):
    path, model = tmp_path / "model.pth", torch.nn.Linear(2, 2)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert "compressed" in refused(load_weights, model, path)


HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(127) + b"\n"
BOMBS = {
    "text of 2^60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a.",
    "bytes of 20 GB": b"\x80\x04\x8e" + struct.pack("<Q", 20 * 2**30) + b"a.",
    "place of 2^30": b"\x80\x04]r\xff\xff\xff\x3f.",
    "nested": b"\x80\x04" + b"(" * 100_000 + b"t" * 100_000 + b".",
    "nested key": b"\x80\x04}" + b"(" * 100_000 + b"t" * 100_000 + b"Ns.",
    "one text encoded often": b"\x80\x02c_codecs\nencode\nq\x00X\x40\x42\x0f\x00" + b"a" * 1_000_000 + b"q\x010("
    b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R" + b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R" * 3000 + b"t.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_an_embedding_file_cannot_fill_the_memory(tmp_path, bomb):
    (tmp_path / "embedding_4.npy").write_bytes(HEADER + BOMBS[bomb])
    assert refused(load_embeddings, tmp_path / "embedding_4.npy", 4)


def test_one_vector_under_many_keys_is_refused(tmp_path):
    vector, path = np.ones(768, dtype=np.float32), tmp_path / "embedding_768.npy"
    with path.open("wb") as file:
        save_embeddings(file, {str(number): vector for number in range(10_000)})
    assert "bytes for 10000 vectors" in refused(load_embeddings, path, 768)


def test_files_of_20_gb_are_refused_unread(tmp_path):
    for name, read in (
        ("df_speaker.csv", read_annotation),
        ("a.json", read_json),
        ("embedding_4.npy", load_embeddings),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(20 * 2**30)
        message = refused(read, tmp_path / name, *([4] if read is load_embeddings else []))
        assert "expected at most" in message


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "df_speaker.csv")
    assert "expected a file" in refused(read_annotation, tmp_path / "df_speaker.csv")


@pytest.mark.parametrize("rate", [0, 1, 999, 2**31 - 1, 2**32 - 1])
def test_a_wav_of_an_odd_rate_is_refused(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(1000), 16000)
    content = path.read_bytes()
    path.write_bytes(content[:24] + struct.pack("<I", rate) + content[28:])
    assert refused(read_wav, path)


def test_a_wav_of_2_to_the_31_samples_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(2000), 16000)
    content = path.read_bytes()
    path.write_bytes(content[:40] + struct.pack("<I", 2**32 - 2) + content[44:])
    assert "cut short" in refused(read_wav, path)
    with path.open("r+b") as file:  # and one that has them
        file.truncate(44 + 2**32 - 2)
    assert "no utterance" in refused(read_wav, path)


@pytest.mark.parametrize("samples", [6000, 2**31, 2**36 - 1])
def test_a_flac_that_announces_more_than_it_holds_is_refused(tmp_path, samples):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(5000), 16000, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    path.write_bytes(content)
    assert refused(read_wav, path)


def test_a_wav_of_values_beyond_any_sound_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(1000, 1e30), 16000, subtype="FLOAT")
    assert "holds samples up to 1e+30" in refused(read_wav, tmp_path / "a.wav")


@pytest.mark.parametrize("what", ["shape", "nan", "model", "order", "history"])
def test_a_checkpoint_of_other_values_is_refused(tmp_path, what):
    model, path = torch.nn.Linear(3, 2), tmp_path / CHECKPOINT
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    progress = checkpoint.Progress(1, 0, torch.zeros(0), torch.Generator().get_state())
    checkpoint.save_tensors(checkpoint.make_checkpoint({}, Trainee(model, optimizer, scheduler), progress), path)
    content = torch.load(path, weights_only=True)
    if what == "shape":
        content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(7)
    elif what == "nan":
        content["optimizer"]["state"][0]["exp_avg"][0] = math.nan
    elif what == "model":
        content["model"]["weight"][0] = math.inf
    elif what == "order":
        content["progress"]["order"] = torch.zeros(3)
    else:
        content["progress"]["history"] = [{"epoch": 1, "train_loss": math.nan}]
    torch.save(content, path)
    assert "not a checkpoint of this run" in refused(
        checkpoint.load_checkpoint, path, {}, Trainee(model, optimizer, scheduler), 1, 1
    )


class Attack:
    """Makes a file where it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_code_in_strangers_files_is_not_run(tmp_path):
    marker, model = tmp_path / "marker", torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    for protocol in range(6):
        content = HEADER + pickle.dumps({"a.txt": Attack(marker)}, protocol)
        (tmp_path / "embedding_4.npy").write_bytes(content)
        assert refused(load_embeddings, tmp_path / "embedding_4.npy", 4)
    for zipped in (True, False):
        torch.save({"weight": Attack(marker)}, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
        assert refused(load_weights, model, tmp_path / "model.pth")
        assert refused(checkpoint.load_checkpoint, tmp_path / "model.pth", {}, Trainee(model, optimizer, None), 1, 1)
    assert not marker.exists()
    pickle.loads(content[128:])  # it would have
    assert marker.exists()


def test_an_id_with_a_path_in_it_writes_nothing_elsewhere(corpus, tmp_path, capsys):
    spoilt = tmp_path / "a" / "b" / "corpus"
    shutil.copytree(corpus, spoilt)
    table = spoilt / "annotation" / "Session01_F_res.csv"
    table.write_bytes(table.read_bytes().replace(b"Sess01_", b"../../Sess01_"))
    outside = contents(tmp_path)
    argv = ["--data_path", str(spoilt), "--text_model", str(spoilt / "kobert"), "--gpu_id", "cpu", "--overwrite"]
    assert outcome(preprocessing.main, argv, capsys)[0] == 2
    assert contents(tmp_path) == outside


# The network

OFFLINE = """
import socket, sys
def refuse(*_, **__):
    print("a socket was asked for", file=sys.stderr)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
program = sys.argv.pop(1)
sys.exit(__import__(program).main(sys.argv[1:]))
"""


def offline(name: str, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", OFFLINE, name, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_no_network_is_asked_for_unless_a_name_on_the_hub_is(sample, tmp_path):
    corpus = shutil.copytree(sample, tmp_path / "corpus")
    preprocess = ("preprocessing", "--data_path", str(corpus), "--gpu_id", "cpu")
    done = offline(*preprocess, "--text_model", "nobody/no-such-encoder")
    assert done.returncode == 2
    assert "a socket was asked for" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: text model nobody/no-such-encoder: no such folder")
    assert "Traceback" not in done.stderr
    for command in (
        (*preprocess, "--text_model", str(corpus / "kobert")),
        ("main", "--data_path", str(corpus), "--save_path", str(tmp_path / "exp"), *TRAIN),
    ):
        done = offline(*command)
        assert done.returncode == 0, done.stderr
        assert "a socket was asked for" not in done.stderr
