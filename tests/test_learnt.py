"""Encoders and weights that have learnt from a corpus: embeddings side by side, and the sessions not to test on."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import SMALL, argv_of, only_run, train

import experiments
import export
import main
import predict
import preprocessing
from corpora.utterances import read_utterances
from dataset import load_features
from features.encoders import encoders_of
from features.text import load_text_encoder
from training.learnt import add_learnt, check_learnt
from training.options import make_options
from training.record import Record, load_run
from utils import InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of a synthetic corpus and random weights

LEARNT = {"KEMDy19": "3-6"}


def make_encoder(sample: Path, folder: Path, learnt: dict | None) -> str:
    """A text encoder in `folder`, the sample's with other weights, whose configuration says what it has learnt from."""
    shutil.copytree(sample / "kobert", folder)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({name: tensor * 1.5 for name, tensor in weights.items()}, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text()) | {"learnt_sessions": learnt}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def corpus(preprocessed, sample, tmp_path_factory) -> Path:
    """A preprocessed corpus with embeddings of an encoder, `learnt`, that has learnt from sessions 3 to 6."""
    folder = shutil.copytree(preprocessed, tmp_path_factory.mktemp("learnt") / "corpus")
    assert embed(folder, make_encoder(sample, folder / "encoders" / "learnt", LEARNT)) == 0
    return folder


def embed(corpus: Path, encoder: str, *more: str) -> int:
    return preprocessing.main(["--data_path", str(corpus), "--text_model", encoder, "--gpu_id", "cpu", *more])


def run_text(corpus: Path, save_path: Path, *more: str) -> int:
    """Train on text, testing on sessions 1 and 2 unless `more` says otherwise."""
    return main.main([*argv_of("text", corpus, save_path), "--valid_split", "4", *more])


@pytest.fixture
def refused(capsys):
    """Whether a command ended in one line with this word."""

    def refused(status: int, word: str) -> bool:
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return status == 2 and len(errors) == 1 and word in errors[0] and not any("Traceback" in line for line in lines)

    return refused


# Embeddings side by side


def test_a_second_text_encoder_leaves_the_files_alone_and_is_picked_by_its_name(corpus, preprocessed):
    for name in ("annotation.csv", "corpus.json", "embedding_768.npy"):
        assert (corpus / name).read_bytes() == (preprocessed / name).read_bytes()
    (about,) = encoders_of(corpus, "text")
    assert (about["name"], about["shape"], about["learnt_sessions"]) == ("learnt", [768], LEARNT)
    table = read_utterances(corpus, "speaker")
    settings = {"data_path": corpus, "modality": "text"}
    default, picked = (
        load_features(make_options(**settings, **more), table) for more in ({}, {"text_model": "learnt"})
    )
    expected = torch.from_numpy(load_text_encoder(str(corpus / "encoders" / "learnt")).embed(table["text"].tolist()))
    torch.testing.assert_close(picked.text, expected, rtol=0, atol=1e-5)
    assert (picked.text - default.text).abs().max() > 1e-2


def test_a_text_that_has_changed_is_asked_for_and_computed_alone(corpus, tmp_path, refused):
    own = shutil.copytree(corpus, tmp_path / "own")
    path = own / "df_speaker.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[3, "text"] = "다른 말"
    table.to_csv(path, index=False)
    options = make_options(data_path=own, modality="text", text_model="learnt")
    with pytest.raises(InputError, match=table["Segment ID"][3]):
        load_features(options, read_utterances(own, "speaker"))
    assert embed(own, str(own / "encoders" / "learnt")) == 0
    row = load_features(options, read_utterances(own, "speaker")).text[3]
    expected = torch.from_numpy(load_text_encoder(str(own / "encoders" / "learnt")).embed(["다른 말"])[0])
    torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)


# No leak


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Path:
    """A run on the embeddings of `learnt`, which tests on sessions that it has not learnt from."""
    return train("text", corpus, tmp_path_factory.mktemp("exp"), "--text_model", "learnt")


def test_training_and_testing_on_learnt_sessions_are_refused(corpus, run, tmp_path, refused):
    assert load_run(run).record.data["text_learnt"] == LEARNT
    assert refused(run_text(corpus, tmp_path, "--text_model", "learnt", "--test_split", "2-3"), "session")
    assert not any(tmp_path.iterdir())
    test = ["--test_only", "--test_path", str(run), "--gpu_id", "cpu"]
    assert main.main(test) == 0
    assert refused(main.main([*test, "--test_split", "3"]), "session")
    assert refused(main.main([*test, "--SorL", "listener", "--test_split", "3"]), "session")


@pytest.mark.parametrize("how", ["copied", "renamed", "default"])
def test_no_other_place_or_name_of_an_encoder_hides_its_sessions(how, corpus, tmp_path, refused):
    own, encoder = shutil.copytree(corpus, tmp_path / "another corpus"), corpus / "encoders" / "learnt"
    more = []
    if how == "copied":
        shutil.rmtree(own / "features")
        embed(own, str(shutil.copytree(encoder, tmp_path / "place" / "learnt")))
        more = ["--text_model", "learnt"]
    elif how == "renamed":
        embed(own, str(shutil.copytree(encoder, tmp_path / "innocent")))
        more = ["--text_model", "innocent"]
    else:
        embed(own, str(encoder), "--overwrite")  # as embedding_768.npy
    assert refused(run_text(own, tmp_path / "exp", *more, "--test_split", "3"), "session")
    assert run_text(own, tmp_path / "exp", *more) == 0


def test_an_exported_run_keeps_the_sessions_and_predicts_no_dialogue_of_them(corpus, run, tmp_path, refused):
    exported = export.export(run, tmp_path / "hub")
    assert all("3-6" in path.read_text("utf-8") for path in (run / "result.html", exported / "README.md"))
    where = ["--data_path", str(corpus), "--gpu_id", "cpu", "--out"]
    for model in (run, exported):
        status = predict.main([str(model), "--dialogue", "Sess03_script03", *where, str(tmp_path / "out")])
        assert refused(status, "session")
        assert not (tmp_path / "out").exists()
    assert predict.main([str(exported), "--dialogue", "Sess01_script01", *where, str(tmp_path / "out")]) == 0


def test_experiments_refuses_a_run_on_learnt_sessions_and_makes_the_others(corpus):
    argv = ["run", "--data_path", str(corpus), "--SorL", "speaker", "--modality", "text", *SMALL]
    grid = ["--grid", "text_model=learnt", "--test_split", "1", "3"]
    errors = experiments.plan(*experiments.parse([*argv, *grid]))[0].set_index("test")["error"]
    assert pd.isna(errors["1"])
    assert "3-6" in errors["3"]


def test_embeddings_without_their_record_are_said_to_be_unknown(corpus, tmp_path, capsys):
    own = shutil.copytree(corpus, tmp_path / "own")
    embed(own, str(corpus / "encoders" / "learnt"), "--overwrite")
    (own / "corpus.json").unlink()
    capsys.readouterr()
    assert run_text(own, tmp_path / "exp", "--test_split", "3") == 0
    assert "unknown" in capsys.readouterr().out
    assert "unknown" in (only_run(tmp_path / "exp") / "result.html").read_text()


def test_a_corpus_of_ones_own_is_known_by_its_tables_too():
    data = {"corpus": "mine", "version": "tables 0123456789ab"}
    renamed = {"corpus": "yours", "version": "tables 0123456789ab", "text_model": "x"}
    with pytest.raises(InputError, match="1-2"):
        check_learnt(renamed | {"text_learnt": add_learnt(None, data, [1, 2])}, [2, 3])
    check_learnt(renamed | {"version": "tables 1", "text_learnt": add_learnt(None, data, [1, 2])}, [2, 3])
    assert add_learnt({"mine": "1"}, data, [3]) == {"mine": "1,3", "tables 0123456789ab": "3"}


# --init


def test_a_run_begins_with_the_weights_of_another_and_counts_its_sessions(corpus, text_run, tmp_path, refused):
    """With lr 0 the weights stay those of the other run, but for a layer of another size."""
    more = ("--init", str(text_run), "--lr", "0", "--weight_decay", "0", "--epochs", "1", "--select", "last")
    assert run_text(corpus, tmp_path / "same", *more) == 0
    before, after = load_run(text_run), load_run(only_run(tmp_path / "same"))
    for (name, old), new in zip(before.model.named_parameters(), after.model.parameters(), strict=True):
        assert torch.equal(old, new), name
    assert after.record.data["init"] == text_run.name
    assert after.record.data["init_learnt"] == {"KEMDy19": "3-6"}
    assert refused(run_text(corpus, tmp_path / "refused", *more, "--test_split", "3", "--valid_split", "4"), "session")
    assert run_text(corpus, tmp_path / "without", *more[2:]) == 0
    assert Record.read(only_run(tmp_path / "without")).run_id != after.record.run_id
    assert run_text(corpus, tmp_path / "wider", *more, "--hidden_size", "24") == 0
    wider = load_run(only_run(tmp_path / "wider")).model
    assert wider.lstm.weight_ih_l0.shape != before.model.lstm.weight_ih_l0.shape
    assert torch.equal(wider.mlp_emotion[-1].weight, before.model.mlp_emotion[-1].weight)
