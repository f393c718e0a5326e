"""Folders and files of the published program: loaded, tested and predicted from, for ever."""

import csv
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import main as program
from model import MATE
from training.options import make_options
from training.record import Record, load_run, options_to_resume
from utils import InputError, read_json, write_json

# As the published program writes it: flat, with options that had no effect
CONFIGURATION = {
    **{"save_path": "./exp/", "backbone": "lstm", "embed_d": 128, "hidden_size": 8, "text_dim": 768, "ws": 8},
    **{"bidirectional": False, "SorL": "speaker", "sr": 48000, "test_split": "[1,2]", "batch_size": 64, "gpu_id": 0},
    **{"optim": "adam", "loss": "normal", "lam": 0.66, "beta": 0.99, "lr": 0.001, "lr_decay": 0.7, "epochs": 100},
    **{"weight_decay": 1e-05, "test_only": False, "test_path": ""},
}


def published_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights as tests/reference/README.md gives them, by the names that the published program's files have."""
    state = {}
    for name, tensor in model.state_dict().items():
        g, shape = np.random.default_rng(zlib.crc32(name.encode())), tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            value = np.array(1)
        elif name.endswith("running_var"):
            value = g.uniform(0.5, 1.5, shape)
        elif name.endswith("running_mean"):
            value = g.normal(0, 0.1, shape)
        elif len(shape) == 1:
            value = name.endswith(".weight") + g.normal(0, 0.1, shape)
        else:
            value = g.normal(0, 1, shape) * np.sqrt(2 / np.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(value)).to(tensor.dtype)
    return state


def published_folder(folder: Path, **configuration) -> Path:
    """A run folder of the published program."""
    folder.mkdir(parents=True)
    about = {name: value for name, value in (CONFIGURATION | configuration).items() if value is not None}
    model = MATE(hidden_size=about["hidden_size"], num_layers=4, bidirectional=about["bidirectional"])
    torch.save(published_weights(model), folder / "model.pth")
    write_json(folder / "configuration.json", about)
    return folder


@pytest.mark.parametrize(
    ("configuration", "expected", "train_sessions"),
    [
        (
            {},
            {"sr": 16_000, "num_layers": 4, "test_split": [1, 2], "modality": "audio_text", "epochs": 100},
            range(3, 21),
        ),
        ({"test_split": [17, 18, 19, 20]}, {"test_split": [17, 18, 19, 20], "no_concat": False}, range(1, 17)),
        ({"test_split": None, "optim": "sgd"}, {"test_split": [1, 2, 3, 4], "momentum": 0.0}, range(5, 21)),
        ({"bidirectional": True, "loss": "cbloss"}, {"bidirectional": True, "loss": "cbloss"}, range(3, 21)),
    ],
)
def test_a_published_folder_is_loaded(tmp_path, configuration, expected, train_sessions):
    run = load_run(published_folder(tmp_path / "run", **configuration))
    assert {name: vars(run.options)[name] for name in expected} == expected
    assert (run.options.gpu_id, run.options.save_path, run.options.test_only) == (None, Path("exp"), False)
    assert (run.train_sessions, run.epoch, run.record.data) == ([*train_sessions], None, {})


def test_a_loaded_published_folder_gives_the_published_outputs(tmp_path, reference):
    """The reference's model `uni`: hidden size 32, with the weights and inputs of tests/reference/README.md."""
    model = load_run(published_folder(tmp_path / "run", hidden_size=32)).model.eval()
    g, expected = np.random.default_rng(7), reference("model_uni.npz")
    audio = torch.from_numpy(g.normal(0, 1, (4, 8, 1, 229, 313))).float().squeeze(2)
    text = torch.from_numpy(g.normal(0, 0.5, (4, 8, 1, 768))).float().squeeze(2)
    with torch.inference_mode():
        outputs = model(audio, text)
    names = [name for name in expected if "eval" in name]
    assert len(names) == 3
    for name, output in zip(names, outputs, strict=True):
        np.testing.assert_allclose(output, expected[name].reshape(output.shape), rtol=0, atol=1e-5)


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
    folder = published_folder(exp / "lstm_speaker_2022", test_split="[1]")
    argv = ["--save_path", str(exp), "--gpu_id", "cpu", "--no_pages", "--test_only", "--lstm_speaker_2022"]
    assert program.main(["--data_path", str(corpus), *argv]) == 0
    shutil.copytree(corpus / "features", ours / "features", dirs_exist_ok=True)
    assert program.main(["--data_path", str(ours), *argv]) == 0
    first, second = sorted(folder.glob("test_*"))
    results = [read_json(test / "result.json") for test in (first, second)]
    assert results[0]["warnings"] == []
    assert [results[0][name] for name in ("F1", "ccc_arousal")] == [results[1][name] for name in ("F1", "ccc_arousal")]
    tested = Record.read(first)
    assert (tested.options["sr"], tested.options["num_layers"], tested.options["test_split"]) == (16_000, 4, [1])
    assert (tested.data["text_model"], tested.data["corpus"], tested.data["synthetic"]) == ("unknown", "KEMDy19", "no")


def test_a_published_run_is_not_resumed(tmp_path):
    with pytest.raises(InputError, match=r"configuration\.json"):
        options_to_resume(published_folder(tmp_path / "run"), make_options())
