"""Fine-tuning of tiny text and speech encoders: what they learn, what is written, and what ends in one line."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import transformers
from conftest import ROOT
from make_sample import make_sample
from safetensors.torch import load_file
from scipy.special import log_softmax
from speech_encoders import CONFIGURATIONS, make_encoder

import experiments
import finetune
import preprocessing
from corpora.utterances import read_utterances
from features.encoders import encoders_of
from features.speech_encoder import load_speech_encoder
from features.text import load_text_encoder
from loss import make_loss
from reports.predictions import read_predictions
from reports.runs import read_runs
from training.finetuning import EmotionModel, collate, examples, read_inputs
from utils import read_json

TEXTS = ["안녕?", "", "어제 밤을 새웠는데도 끝이 안 나네요. 정말 힘들어요."]
QUICK = ("--gpu_id", "cpu", "--lr", "1e-3", "--batch_size", "8")
WRONG = ["--lr 1e30", "--patience 1", "--test_split 1 --valid_split 1-2", "--test_split 7", "--gpu_id 99"]
WRONG += ["--report_to wandb", "--audio_model encoders/hubert", "--text_model no/such/folder"]

# finetune.py that kills itself when the checkpoint of its second epoch is whole
PROGRAM = """
import os, signal, sys, finetune, transformers
def on_save(self, arguments, state, control, **_):
    if state.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
transformers.TrainerCallback.on_save = on_save
sys.exit(finetune.main(sys.argv[1:]))
"""


def make_text_encoder(folder: Path, sample: Path, dropout: float = 0.0) -> str:
    """A random BERT of two layers of 128 with the vocabulary of the sample's KoBERT."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.AutoConfig.from_pretrained(sample / "kobert")
    config.update(sizes | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout})
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    shutil.copyfile(sample / "kobert" / "spiece.model", folder / "spiece.model")
    return str(folder)


@pytest.fixture(scope="module")
def parent(sample, tmp_path_factory) -> str:
    return make_text_encoder(tmp_path_factory.mktemp("parent") / "bert", sample)


@pytest.fixture
def run(tmp_path, preprocessed):
    """Run the command with `--save_path tmp_path/exp`; the folder, the only one there."""

    def run(*argv: str, corpus: Path = preprocessed) -> Path:
        argv = ["--data_path", str(corpus), "--save_path", str(tmp_path / "exp"), *QUICK, *argv]
        assert finetune.main(argv) == 0
        return next((tmp_path / "exp").iterdir())

    return run


@pytest.fixture
def models(monkeypatch) -> list[EmotionModel]:
    """The models that are made, as they are when the command has ended."""
    made = []
    monkeypatch.setattr(finetune, "EmotionModel", lambda *args: made.append(EmotionModel(*args)) or made[-1])
    return made


@pytest.mark.parametrize("affect", ["mse", "none"])
def test_the_loss_of_a_batch_is_that_of_a_hand_computation(parent, affect):
    encoder, rng = load_text_encoder(parent), np.random.default_rng(0)
    model = EmotionModel(encoder, make_loss("normal", 0.66, 0.0, np.zeros(7), affect=affect)).eval()
    target, ratings = rng.dirichlet(np.ones(7), 3), rng.uniform(1, 5, (3, 2))
    labels = np.column_stack([target, ratings if affect == "mse" else ratings * np.nan])
    inputs = [torch.tensor(encoder.tokenizer.encode(text)) for text in TEXTS]
    loss = model(inputs, torch.from_numpy(labels.astype(np.float32)))["loss"].item()
    embedding, heads = encoder.embed(TEXTS), {name: w.detach().numpy() for name, w in model.named_parameters()}
    log_p = log_softmax(embedding @ heads["emotion.weight"].T + heads["emotion.bias"], axis=1)
    rated = 1 + 4 / (1 + np.exp(-(embedding @ heads["affect.weight"].T + heads["affect.bias"])))
    expected = 0.66 * (target * (np.log(target) - log_p)).sum() / 3
    if affect == "mse":
        expected += 0.34 * ((rated - ratings) ** 2).mean(axis=0).sum()
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", ["text", *CONFIGURATIONS])
def test_a_batch_has_the_embeddings_that_preprocessing_computes_of_single_utterances(family, parent, tmp_path):
    if family == "text":
        encoder = load_text_encoder(parent)
        inputs = [torch.tensor(encoder.tokenizer.encode(text)) for text in TEXTS]
        expected = [encoder.embed([text])[0] for text in TEXTS]
    else:
        encoder, rng = load_speech_encoder(str(make_encoder(tmp_path, family))), np.random.default_rng(0)
        inputs = [rng.normal(0, 0.1, n).astype(np.float32) for n in (12_000, 100, 5_000)]
        expected = [encoder.embed(wave)[-1].numpy() for wave in inputs]
    embeddings = EmotionModel(encoder, None).eval().embed(inputs)
    np.testing.assert_allclose(embeddings.detach(), expected, rtol=0, atol=2e-6)


def test_of_a_long_wav_the_central_ten_seconds_are_learnt_from(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.arange(14 * 1000) / 20_000, 1000, subtype="FLOAT")
    (wave,) = collate([(tmp_path / "long.wav", torch.zeros(9))], rate=1000)["inputs"]
    np.testing.assert_allclose(wave, np.arange(2_000, 12_000) / 20_000, atol=1e-6)


def test_an_encoder_learns_the_sentences_and_is_kept_as_an_encoder(run, parent, models, preprocessed, tmp_path, capsys):
    # With --lam 1 the loss is the KL divergence: the cross-entropy beyond the entropy of the soft labels
    folder = run("--text_model", parent, "--test_split", "1-3", "--epochs", "25", "--lam", "1")
    record = read_json(folder / "finetune.json")
    losses = [row["loss"] for row in record["history"]]
    assert len(losses) == 25
    assert losses[-1] < losses[0] / 10
    assert folder.name == "bert_speaker_test1-3_seed0_epochs25_lr0.001_batch_size8_lam1.0"
    assert not (folder / "checkpoints").exists()
    rows = read_predictions(folder / "predictions.csv")
    assert set(rows["session"]) == {1, 2, 3}
    single = rows[~rows["true_emotion"].str.contains(";")]
    accuracy = (single["true_emotion"] == single["pred_emotion"]).mean()
    assert record["figures"]["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert f"{accuracy:.3f}" in capsys.readouterr().out
    card = (folder / "README.md").read_text("utf-8")
    assert all(text in card for text in ("sessions 4-6 of KEMDy19", "- weighted F1 0."))
    # It is loaded as it was trained, as one whose weights are not random, and which has learnt from these sessions
    loaded = load_text_encoder(str(folder))
    assert np.array_equal(loaded.embed(TEXTS), models[0].source.embed(TEXTS))
    assert loaded.description["random"] is False
    assert loaded.description["learnt_sessions"] == {"KEMDy19": "4-6"}
    corpus = shutil.copytree(preprocessed, tmp_path / "corpus")
    assert preprocessing.main(["--data_path", str(corpus), "--text_model", str(folder), "--gpu_id", "cpu"]) == 0
    again = ["--data_path", str(preprocessed), "--save_path", str(tmp_path / "again"), *QUICK, "--text_model"]
    assert finetune.main([*again, str(folder), "--test_split", "4"]) == 2  # it has learnt from that session
    assert "sessions 4-6" in capsys.readouterr().err


def test_a_speech_encoder_learns_but_for_its_convolutions_and_without_broken_wavs(run, spoken, models):
    parent = spoken / "encoders" / "hubert-group"
    options = ("--test_split", "1-3", "--epochs", "2", "--gradient_checkpointing", "--precision", "bf16")
    folder = run("--audio_model", str(parent), *options, corpus=spoken)
    record, table = read_json(folder / "finetune.json"), read_utterances(spoken, "speaker")
    usable = read_inputs(models[0].source, table, spoken, None)
    assert record["left_out"] == len(table) - len(usable) > 0
    assert record["figures"]["n"] == sum(table["id"][table["session"] <= 3].isin(usable))
    before, after = (load_file(path / "model.safetensors") for path in (parent, folder))
    changed = {name for name in before.keys() & after if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("feature_extractor") for name in changed)
    assert any(name.startswith("encoder.layers.0") for name in changed)
    wave = np.sin(np.arange(9_000) / 7).astype(np.float32)
    assert torch.equal(load_speech_encoder(str(folder)).embed(wave), models[0].source.embed(wave))


def test_the_best_epoch_on_validation_sessions_is_kept(run, parent, models, preprocessed):
    folder = run(*("--text_model", parent, "--test_split", "1", "--valid_split", "2", "--epochs", "9"), "--patience=2")
    history = read_json(folder / "finetune.json")["history"]
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 9
    table = read_utterances(preprocessed, "speaker")
    inputs = read_inputs(models[0].source, table, preprocessed, None)
    with torch.inference_mode():
        kept = models[0].eval()(**collate(examples(table[table["session"] == 2], inputs), None))["loss"].item()
    assert kept == pytest.approx(losses[best], rel=1e-5)
    assert load_text_encoder(str(folder)).description["learnt_sessions"] == {"KEMDy19": "2-6"}


def test_accumulated_batches_are_a_larger_batch(run, parent):
    options = ("--text_model", parent, "--test_split", "1-3", "--epochs", "1")
    weights, losses = [], []
    for sizes in (("--batch_size", "30"), ("--batch_size", "10", "--accumulate", "3")):
        folder = run(*options, *sizes)
        weights.append(load_file(folder / "model.safetensors"))
        losses.append(read_json(folder / "finetune.json")["history"][0]["loss"])
        shutil.rmtree(folder)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=0, atol=2e-5)


def test_a_killed_run_is_resumed_to_the_same_weights(run, sample, tmp_path, preprocessed):
    dropping = make_text_encoder(tmp_path / "dropping", sample, dropout=0.1)
    options = ("--text_model", dropping, "--test_split", "1-3", "--valid_split", "4", "--epochs", "3")
    whole = run(*options).rename(tmp_path / "whole")
    argv = ["--data_path", str(preprocessed), "--save_path", str(tmp_path / "exp"), *QUICK, *options]
    command = [sys.executable, "-c", PROGRAM, *argv]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = next((tmp_path / "exp").iterdir())
    (folder / "checkpoints" / "checkpoint-99").mkdir()  # of which a kill left a part
    assert finetune.main(argv) == 2  # without --resume
    assert finetune.main([*argv, "--resume", "--gradient_checkpointing"]) == 2  # another run, of the same name
    run(*options, "--resume")
    for name in ("model.safetensors", "config.json", "predictions.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert finetune.main(argv) == 2  # it is finished
    assert finetune.main([*argv, "--resume"]) == 0
    assert finetune.main([*argv, "--resume", "--gradient_checkpointing"]) == 2


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_done_ends_in_one_line(wrong, parent, preprocessed, tmp_path, capfd):
    argv = ["--data_path", str(preprocessed), "--text_model", parent, "--save_path", str(tmp_path)]
    argv += [*QUICK, *wrong.split()]
    with contextlib.suppress(SystemExit):  # of argparse
        assert finetune.main(argv) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert not [*tmp_path.rglob("model.safetensors")]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_table_compares_encoders_of_each_fold_with_the_frozen_one_and_resumes(parent, tmp_path, monkeypatch):
    """Two sessions, and so two folds. The second call lacks an encoder, whose folder is there, and a run."""
    corpus, save_path = tmp_path / "corpus", tmp_path / "exp"
    make_sample(corpus, "manifest", sessions=2, utterances=6)
    assert preprocessing.main(["--data_path", str(corpus), "--text_model", parent, "--gpu_id", "cpu"]) == 0
    argv = ["run", "finetuned", "--data_path", str(corpus), "--save_path", str(save_path), "--text_model", parent]
    argv += ["--seeds", "1", "--finetune", "--epochs 1 --batch_size 8 --lr 1e-3", "--jobs", "2", "--gpu_id", "cpu"]
    argv += ["--epochs", "1", "--hidden_size", "8", "--num_layers", "1", "--batch_size", "4", "--keep_encoders"]
    assert experiments.main(argv) == 0
    names = [f"bert_speaker_test{fold}_seed0_epochs1_lr0.001_batch_size8" for fold in (1, 2)]
    assert {about["name"] for about in encoders_of(corpus, "text")} == {"bert", *names}
    runs = read_runs(save_path).set_index(["text_model", "test"])
    assert sorted(runs.index) == sorted([*product(["bert"], "12"), *zip(names, "12", strict=True)])
    assert runs.loc[(names[0], "1"), "data_text_learnt"]["corpus"] == "2"
    differences = pd.read_csv(save_path / "report" / "finetuned_differences.csv")
    assert {*zip(differences["row"], differences["from"], strict=True)} == {("text fine-tuned", "text frozen")}
    shutil.rmtree(next(corpus.glob(f"features/text-{names[0].replace('_', '-')}-*")))
    shutil.rmtree(runs.loc[("bert", "1"), "folder"])
    assert experiments.main([*argv[:-1]]) == 0  # without --keep_encoders
    assert len(read_runs(save_path)) == 4
    assert [path.parent.name for path in save_path.glob("bert*/model.safetensors")] == [names[1]]
    shutil.rmtree(next(corpus.glob(f"features/text-{names[0].replace('_', '-')}-*")))
    assert experiments.main([*argv[:-1]]) == 0  # it is fine-tuned again
    assert len(encoders_of(corpus, "text")) == 3
