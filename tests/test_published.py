"""Folders and files of the published program: loaded, tested and predicted from, for ever."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from test_model import reference_weights

import main as program
from model import MATE
from training.record import Record, load_run
from utils import read_json, write_json

# As the published program writes it: flat, with options that had no effect
CONFIGURATION = {
    **{"save_path": "./exp/", "backbone": "lstm", "embed_d": 128, "hidden_size": 8, "text_dim": 768, "ws": 8},
    **{"bidirectional": False, "SorL": "speaker", "sr": 48000, "test_split": "[1,2]", "batch_size": 64, "gpu_id": 0},
    **{"optim": "adam", "loss": "normal", "lam": 0.66, "beta": 0.99, "lr": 0.001, "lr_decay": 0.7, "epochs": 100},
    **{"weight_decay": 1e-05, "test_only": False, "test_path": ""},
}


def published_folder(folder: Path, **configuration) -> Path:
    """A run folder of the published program."""
    folder.mkdir(parents=True)
    about = {name: value for name, value in (CONFIGURATION | configuration).items() if value is not None}
    model = MATE(hidden_size=about["hidden_size"], num_layers=4, bidirectional=about["bidirectional"])
    torch.save(reference_weights(model), folder / "model.pth")
    write_json(folder / "configuration.json", about)
    return folder


@pytest.mark.parametrize(
    ("configuration", "expected", "train_sessions"),
    [
        ({}, {"sr": 16_000, "num_layers": 4, "test_split": [1, 2], "epochs": 100}, range(3, 21)),
        ({"test_split": [17, 18, 19, 20]}, {"test_split": [17, 18, 19, 20], "no_concat": False}, range(1, 17)),
        ({"test_split": None, "optim": "sgd"}, {"test_split": [1, 2, 3, 4], "optim": "sgd"}, range(5, 21)),
        ({"bidirectional": True, "loss": "cbloss"}, {"bidirectional": True, "loss": "cbloss"}, range(3, 21)),
    ],
)
def test_a_published_folder_is_loaded(tmp_path, configuration, expected, train_sessions):
    run = load_run(published_folder(tmp_path / "run", **configuration))
    assert {name: vars(run.options)[name] for name in expected} == expected
    assert (run.options.gpu_id, run.options.modality, run.options.test_only) == (None, "audio_text", False)
    weights = reference_weights(run.model)  # test_model.py has what they give
    assert all(torch.equal(tensor, weights[name]) for name, tensor in run.model.state_dict().items())
    assert (run.train_sessions, run.epoch, run.record.data) == ([*train_sessions], None, {})


def test_a_published_folder_is_tested_on_published_files(preprocessed, tmp_path):
    """Tables with an index column and without session, dialogue and speaker; no corpus.json, no synthetic.json."""
    ours = shutil.copytree(preprocessed, tmp_path / "ours")
    corpus = shutil.copytree(ours, tmp_path / "corpus", ignore=shutil.ignore_patterns("*.json", "features"))
    path = corpus / "df_speaker.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("Session", "script", "sequence", "dialogue", "speaker", "text")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Unnamed: 0", *names])
        writer.writerows([number, *(row[name] for name in names)] for number, row in enumerate(rows))
    exp = tmp_path / "exp"
    folder = published_folder(exp / "lstm_speaker_2022", test_split="[1]", batch_size=16)
    argv = ["--save_path", str(exp), "--gpu_id", "cpu", "--test_only", "--lstm_speaker_2022"]
    assert program.main(["--data_path", str(corpus), *argv]) == 0
    shutil.copytree(corpus / "features", ours / "features", dirs_exist_ok=True)
    assert program.main(["--data_path", str(ours), *argv]) == 0
    first, second = sorted(folder.glob("test_*"))
    results = [read_json(test / "result.json") for test in (first, second)]
    assert [text for text in results[0]["warnings"] if "batch norm" not in text] == []  # which random weights are
    assert [results[0][name] for name in ("F1", "ccc_arousal")] == [results[1][name] for name in ("F1", "ccc_arousal")]
    tested = Record.read(first)
    assert (tested.options["sr"], tested.options["num_layers"], tested.options["test_split"]) == (16_000, 4, [1])
    assert (tested.data["text_model"], tested.data["corpus"], tested.data["synthetic"]) == ("unknown", "KEMDy19", "no")
    before = (folder / "model.pth").read_bytes()
    assert program.main(["--data_path", str(ours), *argv, "--bn_statistics", "train"]) == 0
    (mended,) = {*folder.glob("test_*")} - {first, second}
    run, original = load_run(mended), load_run(folder)
    assert run.train_sessions == [*range(2, 21)]
    names = ("mlp_emotion.0.fc.2.running_mean", "audio_embedding.3.bn.running_var", "mlp_av.0.fc.0.weight")
    equal = [torch.equal(run.model.state_dict()[name], original.model.state_dict()[name]) for name in names]
    assert equal == [False, False, True]
    assert (folder / "model.pth").read_bytes() == before
