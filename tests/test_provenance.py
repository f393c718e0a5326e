"""What a corpus and a run were made from: recorded, refused where it differs, and warned of in a test."""

import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import ROOT, heed_permissions
from raw_corpus import FILES
from small_runs import TEXT, content, only_run, options, run, signals_at
from test_preprocessing import last_line, run_apart
from test_text import make_encoder

import experiments
import main as program
import preprocessing
from constants import PROGRAM_VERSION
from corpora.provenance import MARKER, corpus_version, read_corpus_file, source_of
from corpora.transcripts import read_transcripts
from corpora.wavs import find_wavs
from features.embeddings import fingerprint_of, load_embeddings, save_embeddings
from features.text import load_text_model
from training.options import parse_args
from training.provenance import describe_data, unfinished
from utils import InputError, digest_file, read_json, write_json

UNKNOWN = "unknown, published files"
AUDIO = ("--modality", "audio", "--sr", "4000", "--ws", "1", "--hidden_size", "8", "--num_layers", "1")


@pytest.fixture
def own(preprocessed, tmp_path) -> Path:
    """A copy of the pre-processed corpus to change."""
    return shutil.copytree(preprocessed, tmp_path / "own")


@pytest.fixture
def stopped_on(stopped, own, tmp_path) -> Path:
    """The stopped run, as if it had begun with `own`."""
    folder = shutil.copytree(stopped, tmp_path / "exp" / stopped.name)
    change(folder / "configuration.json", data_path=str(own))
    return folder


def change(path: Path, **values: object) -> None:
    """Change some keys of a JSON file; None takes one away."""
    stored = read_json(path) | values
    write_json(path, {name: value for name, value in stored.items() if value is not None})


def embed_anew(corpus: Path) -> None:
    """Embeddings as those of another encoder, with a corpus.json that says so."""
    path = corpus / "embedding_768.npy"
    vectors = load_embeddings(path, 768)
    with path.open("wb") as file:
        save_embeddings(file, {key: vector[::-1] for key, vector in vectors.items()})
    stored = read_json(corpus / "corpus.json")
    other = {"name": "klue/bert-base", "revision": None, "fingerprint": "ab" * 32, "random": None}
    files = stored["files"] | {path.name: digest_file(path)}
    write_json(corpus / "corpus.json", stored | {"text_model": other, "files": files})


def one_error(capsys: pytest.CaptureFixture) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.splitlines()[-1]


# corpus.json


def test_corpus_json_says_what_the_files_were_made_from(preprocessed, sample):
    stored = read_corpus_file(preprocessed)
    assert (stored["corpus"], stored["synthetic"], stored["version"]) == ("KEMDy19", True, "sample, seed 0")
    assert stored["utterances"] == len(list((sample / "wav").rglob("*.txt")))
    assert (stored["program_version"], stored["raw"]) == (PROGRAM_VERSION, None)
    assert stored["files"] == {name: digest_file(preprocessed / name) for name in FILES}
    assert stored["text_model"] == {
        "name": str(preprocessed / "kobert"),
        "revision": None,
        "fingerprint": fingerprint_of(*load_text_model(str(sample / "kobert"))),
        "random": True,
    }


def test_the_program_has_one_version():
    assert f'\nversion = "{PROGRAM_VERSION}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_a_fingerprint_is_of_weights_and_tokenizer_and_not_of_a_drawn_pooling_layer(sample):
    tokenizer, model = load_text_model(str(sample / "kobert"))
    before = fingerprint_of(tokenizer, model)
    with torch.no_grad():
        model.pooler.dense.weight.add_(1)
    assert fingerprint_of(tokenizer, model) == before
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1
    assert fingerprint_of(tokenizer, model) != before


def test_the_version_of_a_corpus_is_in_its_folders_name_or_a_digest_of_its_tables(sample, tmp_path):
    shutil.copytree(sample / "annotation", tmp_path / "KEMDy19_v1_3" / "annotation")
    assert corpus_version(tmp_path / "KEMDy19_v1_3") == "1.3"
    (tmp_path / "KEMDy19_v1_3").rename(tmp_path / "corpus")
    before = corpus_version(tmp_path / "corpus")
    assert re.fullmatch(r"tables [0-9a-f]{12}", before)
    with (tmp_path / "corpus" / "annotation" / "Session01_F_res.csv").open("a") as file:
        file.write("\n")
    assert corpus_version(tmp_path / "corpus") != before


@pytest.mark.parametrize("damage", ["{", "[]", '{"corpus": 3}'])
def test_a_damaged_corpus_json_is_named_and_pre_processing_mends_it(own, tmp_path, capsys, damage):
    (own / "corpus.json").write_text(damage)
    assert run(own, tmp_path / "exp") == 2
    assert one_error(capsys).startswith(f"error: {own / 'corpus.json'}: ")
    assert not (tmp_path / "exp").exists()
    argv = ["--data_path", str(own), "--text_model", str(own / "kobert"), "--gpu_id", "cpu", "--overwrite"]
    assert preprocessing.main(argv) == 0
    assert read_corpus_file(own)["corpus"] == "KEMDy19"


def test_embeddings_of_a_second_encoder_leave_it_known_what_the_first_ones_are(own):
    """A BERT of 24 dimensions beside the sample's of 768."""
    first = read_corpus_file(own)
    encoder = make_encoder(own / "encoder", "bert")
    argv = ["--data_path", str(own), "--gpu_id", "cpu", "--overwrite", "--text_model", encoder]
    assert preprocessing.main(argv) == 0
    second = read_corpus_file(own)
    assert second["text_model"]["name"] == encoder
    assert second["text_model"]["fingerprint"] != first["text_model"]["fingerprint"]
    for text_dim, expected in ((768, first), (24, second)):
        args, _ = parse_args(["--data_path", str(own), "--modality", "text", "--text_dim", str(text_dim)])
        assert describe_data(args, ["Sess01_script01_F001"])[0]["text_model"] == expected["text_model"]


# --out


def read_only(folder: Path, mode: int) -> None:
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(mode)


def test_a_corpus_on_a_read_only_disk_is_pre_processed_into_another_folder_and_trained_from_there(
    corpus, preprocessed, tmp_path, capsys
):
    out = tmp_path / "made" / "here"
    before = sorted(corpus.rglob("*"))
    read_only(corpus, 0o555)
    try:
        done = run_apart(corpus, heed_permissions, "--out", out, "--gpu_id", "cpu")
    finally:
        read_only(corpus, 0o755)
    assert done.returncode == 0, last_line(done)
    assert sorted(corpus.rglob("*")) == before
    for name in FILES[:4]:
        assert (out / name).read_bytes() == (preprocessed / name).read_bytes()
    assert source_of(out) == (corpus, None)
    ids = pd.read_csv(out / "df_speaker.csv")["Segment ID"].tolist()
    assert read_transcripts(out, ids, []) == read_transcripts(corpus, ids, [])
    argv = ["--data_path", str(out), "--save_path", str(tmp_path / "exp"), *AUDIO, "--gpu_id", "cpu"]
    assert program.main([*argv, "--batch_size", "8", "--epochs", "1", "--test_split", "1-2"]) == 0
    assert (out / "features").is_dir()
    assert sorted(corpus.rglob("*")) == before
    (missing,) = read_json(only_run(tmp_path / "exp") / "configuration.json")["missing"]["wav"]
    assert missing not in find_wavs(corpus)[0]


def test_the_folder_of_the_wavs_is_remembered_with_out(corpus, tmp_path):
    (corpus / "wav").rename(tmp_path / "sound")
    (corpus / "wav").mkdir()
    for path in (tmp_path / "sound").rglob("*.txt"):
        path.rename(corpus / "wav" / path.name)
    argv = ["--data_path", str(corpus), "--text_model", str(corpus / "kobert"), "--gpu_id", "cpu"]
    out = tmp_path / "out"
    assert preprocessing.main([*argv, "--out", str(out), "--audio_path", str(tmp_path / "sound")]) == 0
    assert source_of(out) == (corpus, tmp_path / "sound")
    assert find_wavs(out) == find_wavs(corpus, tmp_path / "sound")


def test_a_folder_that_out_made_vanishes_when_nothing_is_written(corpus, tmp_path, capsys):
    (corpus / "kobert" / "config.json").unlink()
    argv = ["--data_path", str(corpus), "--text_model", str(corpus / "kobert"), "--out", str(tmp_path / "out")]
    assert preprocessing.main(argv) == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    assert preprocessing.main([*argv[:-1], str(tmp_path / "file" / "out")]) == 2
    assert "choose another folder" in one_error(capsys)
    (tmp_path / "held" / "wav").mkdir(parents=True)
    assert preprocessing.main([*argv[:-1], str(tmp_path / "held")]) == 2
    assert "held: holds wav/, which training would take for this corpus's" in one_error(capsys)


# The data of a run


def test_a_run_says_what_it_was_made_from(finished, preprocessed):
    data = read_json(finished / "configuration.json")["data"]
    stored = read_corpus_file(preprocessed)
    assert {name: data[name] for name in ("corpus", "version", "synthetic", "text_model")} == {
        name: stored[name] for name in ("corpus", "version", "synthetic", "text_model")
    }
    assert data["digests"]["table"] == stored["files"]["df_speaker.csv"]
    assert data["digests"]["embeddings"] == stored["files"]["embedding_768.npy"]
    assert (data["digests"]["wavs"], data["digests"]["features"]) == (None, None)  # it reads text alone


def test_published_files_are_taken_and_their_text_model_is_unknown(own, tmp_path, capsys):
    (own / "corpus.json").unlink()
    (own / MARKER).unlink()
    assert run(own, tmp_path / "exp", "--epochs", "1") == 0
    data = read_json(only_run(tmp_path / "exp") / "configuration.json")["data"]
    assert (data["corpus"], data["version"], data["synthetic"], data["text_model"]) == ("KEMDy19", None, False, UNKNOWN)
    captured = capsys.readouterr()
    assert f"corpus:     KEMDy19 ({UNKNOWN}) in {own}\ntext model: {UNKNOWN}\n" in captured.out
    assert "\nrole:       speaker, 60 utterances, the whole corpus has 10,279\n" in captured.out
    assert "warning" not in captured.err


def test_files_that_changed_since_pre_processing_are_said_to_be_unknown(own, tmp_path, capsys):
    stored = (own / "corpus.json").read_bytes()
    embed_anew(own)
    (own / "corpus.json").write_bytes(stored)
    assert run(own, tmp_path / "exp", "--epochs", "1") == 0
    assert "embedding_768.npy changed since preprocessing.py wrote corpus.json" in capsys.readouterr().err
    assert read_json(only_run(tmp_path / "exp") / "configuration.json")["data"]["text_model"] == UNKNOWN


# A run that goes on


@pytest.mark.parametrize("how", ["folder", "auto"])
def test_a_run_does_not_go_on_with_other_embeddings(stopped_on, own, capsys, how):
    embed_anew(own)
    argv = ["--resume", str(stopped_on)] if how == "folder" else options(own, stopped_on.parent, "--resume", "auto")
    before = {path.name: path.read_bytes() for path in stopped_on.iterdir()}
    assert program.main(argv) == 2
    error = one_error(capsys)
    assert error.startswith(f"error: {stopped_on}: began with other data, the sentence embeddings (text model ")
    assert "kobert, RANDOM weights" in error
    assert "now klue/bert-base" in error
    assert "train anew without --resume" in error
    assert {path.name: path.read_bytes() for path in stopped_on.iterdir()} == before


def test_a_run_goes_on_with_a_copy_of_its_data(stopped_on, finished):
    assert program.main(["--resume", str(stopped_on)]) == 0
    assert content(stopped_on) == content(finished)


def test_a_run_that_does_not_know_its_data_goes_on_and_is_tested(stopped_on, finished, capsys):
    change(stopped_on / "configuration.json", data=None)
    assert program.main(["--resume", str(stopped_on)]) == 0
    assert content(stopped_on) == content(finished)
    capsys.readouterr()
    assert program.main(["--test_only", str(stopped_on)]) == 0
    assert "the model was" not in capsys.readouterr().err
    (tested,) = stopped_on.glob("test_*")
    assert read_json(tested / "result.json") == read_json(stopped_on / "result.json")


@pytest.fixture(scope="module")
def heard(preprocessed, tmp_path_factory) -> Path:
    """A run on audio that was stopped in its second step; to be copied, with the corpus beside it."""
    parent = tmp_path_factory.mktemp("heard")
    shutil.copytree(preprocessed, parent / "corpus")
    argv = ["--data_path", str(parent / "corpus"), "--save_path", str(parent / "exp"), *AUDIO, "--batch_size", "8"]
    with signals_at(2, signal.SIGTERM):
        assert program.main([*argv, "--gpu_id", "cpu", "--epochs", "1", "--test_split", "1-2"]) == 128 + signal.SIGTERM
    return parent


@pytest.mark.parametrize(
    ("what", "words"),
    [("time", "the wavs' sizes or times of change"), ("constant", "the constants of the log-mels"), ("unread", None)],
)
def test_a_run_does_not_go_on_with_other_wavs_or_log_mels(heard, capsys, monkeypatch, what, words):
    folder, wav = only_run(heard / "exp"), next((heard / "corpus" / "wav").rglob("*.wav"))
    status = wav.stat()
    if what == "time":
        os.utime(wav, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif what == "constant":
        monkeypatch.setattr("features.log_mel.F_MIN", 40.0)
    else:  # what the run does not use may change
        embed_anew(heard / "corpus")
    assert program.main(["--resume", str(folder)]) == (0 if words is None else 2)
    captured = capsys.readouterr()
    os.utime(wav, ns=(status.st_atime_ns, status.st_mtime_ns))
    if words:
        assert f"began with other data, {words}" in captured.err
        assert "log-mel:" not in captured.err  # refused before anything long


def test_other_code_of_the_log_mels_is_warned_of(heard, tmp_path, capsys):
    shutil.copytree(heard / "exp", tmp_path / "exp")
    folder = only_run(tmp_path / "exp")
    data = read_json(folder / "configuration.json")["data"]
    data["digests"]["feature_code"] = "0" * 64
    change(folder / "configuration.json", data=data)
    (folder / "result.json").unlink(missing_ok=True)
    assert program.main(["--resume", str(folder)]) == 0
    assert "began with another version of the log-mels' code" in capsys.readouterr().err


# Experiments


def test_a_folder_with_other_data_is_not_the_finished_run_of_a_plan(own, tmp_path, capsys):
    exp = tmp_path / "exp"
    argv = ["--data_path", str(own), "--save_path", str(exp), *TEXT[:-2], "--epochs", "1", "--gpu_id", "cpu"]
    grid = [*argv, "--grid", "lam=0.5", "--SorL", "speaker", "--test_split", "1-2"]
    assert experiments.main(["run", *grid]) == 0
    assert experiments.main(["list", *grid]) == 0
    assert f"1 finished in {exp}" in capsys.readouterr().out
    folder = next(exp.glob("*/configuration.json")).parent

    embed_anew(own)
    assert experiments.main(["run", *grid]) == 2
    error = one_error(capsys)
    assert error.startswith(f"error: {folder}: made from other data than {own} now holds: the sentence embeddings (")
    assert "klue/bert-base" in error
    assert "another --save_path" in error
    assert experiments.main(["list", *grid]) == 0
    assert f"0 finished in {exp}" in capsys.readouterr().out
    assert experiments.main(["report", "--save_path", str(exp)]) == 0
    assert "made from other data" in (exp / "report" / "index.html").read_text("utf-8")
    assert experiments.main(["compare", "grid:lam=0.5", "grid:lam=0.5", "--save_path", str(exp)]) == 2
    assert "made from other data" in one_error(capsys)

    shutil.rmtree(own)  # a report needs no corpus
    assert experiments.main(["report", "--save_path", str(exp)]) == 0
    assert "made from other data" not in (exp / "report" / "index.html").read_text("utf-8")


# A test on other data


def warnings_of(folder: Path, *more: str) -> list[str]:
    """Test a run; the warnings that its result keeps."""
    known = set(folder.glob("test_*"))
    assert program.main(["--test_only", str(folder), "--gpu_id", "cpu", *more]) == 0
    (new,) = set(folder.glob("test_*")) - known
    return read_json(new / "result.json")["warnings"]


def test_a_test_on_other_data_than_the_trainings_kind_is_warned_of_and_the_result_keeps_it(
    finished, own, tmp_path, capsys
):
    folder = shutil.copytree(finished, tmp_path / "exp" / finished.name)
    assert read_json(folder / "result.json")["warnings"] == []
    assert warnings_of(folder) == warnings_of(folder, "--data_path", str(own)) == []
    capsys.readouterr()
    role = "the model was trained on speaker rows, and is tested on listener rows"
    seen = "the model was trained on sessions [3], which are tested here"
    assert warnings_of(folder, "--SorL", "listener", "--test_split", "3") == [seen, role]
    assert [line for line in capsys.readouterr().err.splitlines() if "the model was" in line] == [
        f"warning: {seen}",
        f"warning: {role}",
    ]
    embed_anew(own)
    (encoder,) = warnings_of(folder, "--data_path", str(own))
    assert re.fullmatch(
        r"the model was trained with the text model \S+kobert, RANDOM weights, fingerprint [0-9a-f]{12}, and is tested "
        r"with klue/bert-base, fingerprint abababababab",
        encoder,
    )
    change(own / "corpus.json", synthetic=False, version="1.3")
    corpus, again = warnings_of(folder, "--data_path", str(own))
    assert again == encoder
    assert corpus == ("the model was trained on KEMDy19 (sample, seed 0, SYNTHETIC), and is tested on KEMDy19 (1.3)")


def test_embeddings_of_an_unknown_text_model_are_the_same_only_if_their_file_is(finished, own, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "exp" / finished.name)
    (own / "corpus.json").unlink()
    assert warnings_of(folder, "--data_path", str(own)) == []
    rows = load_embeddings(own / "embedding_768.npy", 768)
    with (own / "embedding_768.npy").open("wb") as file:
        save_embeddings(file, {key: -vector for key, vector in rows.items()})
    (sentence,) = warnings_of(folder, "--data_path", str(own))
    assert sentence.endswith(f"and is tested with {UNKNOWN}")


def test_the_test_of_an_unfinished_run_says_how_far_it_has_come(stopped_on, capsys):
    sentence = "the run has not finished: its weights are of epoch 1 of 3"
    assert warnings_of(stopped_on) == [sentence]
    assert f"warning: {sentence}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recorded", "select", "said"),
    [
        (5, "last", ["epoch 5 of 9"]),
        (6, "last", ["epoch 6 of 9"]),  # killed before its history was written
        (3, "best", ["epoch 3 of 9, the best of 5"]),
        (None, "last", ["epoch 5 of 9, or of one before if it was killed"]),  # an earlier version's
        (None, "best", ["epoch 5 of 9, or of the best one before"]),
        (9, "last", []),
    ],
)
def test_the_epoch_of_an_unfinished_runs_weights_is_the_one_that_they_record(tmp_path, recorded, select, said):
    (tmp_path / "history.csv").write_text("epoch,train_loss\n" + "1,1\n" * 5)
    run = SimpleNamespace(folder=tmp_path, epoch=recorded)
    found = unfinished(run, SimpleNamespace(epochs=9, select=select))
    assert found == [f"the run has not finished: its weights are of {epoch}" for epoch in said]


# The first lines


def test_a_run_begins_with_what_it_is(preprocessed, tmp_path, capsys):
    assert run(preprocessed, tmp_path, "--valid_split", "3", "--epochs", "1") == 0
    folder, out = only_run(tmp_path), capsys.readouterr().out
    configuration = read_json(folder / "configuration.json")
    windows = configuration["windows"]
    state = torch.load(folder / "model.pth", weights_only=True)
    n_parameters = sum(t.numel() for name, t in state.items() if not re.search("running_|num_batches", name))
    expected = [
        f"corpus:     KEMDy19 (sample, seed 0, SYNTHETIC) in {preprocessed}: it has planted faults, and its "
        "figures say nothing about emotion recognition",
        f"text model: {preprocessed / 'kobert'}, RANDOM weights, fingerprint "
        f"{configuration['data']['text_model']['fingerprint'][:12]}",
        f"role:       speaker, {len(pd.read_csv(preprocessed / 'df_speaker.csv'))} utterances",
        "sessions:   train on 4-6; validate on 3; test on 1-2",
        f"windows:    {windows['train']} to train, {windows['valid']} to validate, {windows['test']} to test, of 8 "
        "utterances",
        f"model:      lstm, text, {n_parameters:,} parameters",
        f"device:     {configuration['device']}, trains in {configuration['training_precision']}, tests in float32",
        f"folder:     {folder}",
    ]
    assert out.splitlines()[: len(expected)] == expected

    assert program.main(["--test_only", str(folder), "--gpu_id", "cpu"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == expected[:3]
    assert out[3:5] == ["sessions:   test on 1-2", f"windows:    {windows['test']} to test, of 8 utterances"]
    assert out[7] == expected[7]


def test_the_first_lines_come_before_the_log_mels(own, tmp_path, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise InputError("the log-mels would be computed now")

    monkeypatch.setattr("features.utterances.open_store", fail)
    assert run(own, tmp_path / "exp", "--modality", "audio_text") == 2
    captured = capsys.readouterr()
    folder = captured.out.splitlines()[-1].removeprefix("folder:     ")
    assert folder.startswith(str(tmp_path / "exp" / "lstm_speaker_adam_8_"))
    assert captured.err.splitlines()[-1] == "error: the log-mels would be computed now"
    assert not (tmp_path / "exp").exists()  # the folder was empty
