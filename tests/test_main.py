import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import main as program
from constants import EMOTIONS
from corpora.annotation import read_annotation
from metric import ccc
from training.folders import settle_sessions
from training.options import get_args_parser, parse_args

ROOT = Path(program.__file__).parent
RUN_FILES = {
    *("configuration.json", "model.pth", "train_loss.log", "history.csv", "loss_curve.png"),
    *("result.json", "confusion.txt", "confusion.png", "predictions.csv", "dialogues.html"),
}
TEST_FILES = {
    *("configuration.json", "result.json", "confusion.txt", "confusion.png", "predictions.csv", "dialogues.html"),
}
QUICK = ("--hidden_size", "8", "--num_layers", "1", "--batch_size", "8", "--gpu_id", "cpu", "--test_split", "1-2")
TEXT = (*QUICK, "--modality", "text", "--epochs", "2")


def run(corpus: Path, exp: Path, *options: str) -> int:
    return program.main(["--data_path", str(corpus), "--save_path", str(exp), *options])


def only_run(exp: Path) -> Path:
    (folder,) = exp.iterdir()
    return folder


# The command line


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[1,8,9,13]", [1, 8, 9, 13]),
        ("1,8,9,13", [1, 8, 9, 13]),
        ("1-4", [1, 2, 3, 4]),
        ("[13, 14, 15, 16]", [13, 14, 15, 16]),
        ("20,1-2", [1, 2, 20]),
        ("3", [3]),
    ],
)
def test_sessions_are_parsed(value, expected):
    assert parse_args(["--test_split", value])[0].test_split == expected


@pytest.mark.parametrize("value", ["", "a", "0", "41", "4-1", "1;2", "1-", "[]"])
def test_impossible_sessions_are_refused(value, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_args([f"--test_split={value}"])
    assert exit_.value.code == 2
    assert "KEMDy19 has 1-20, KEMDy20 has 1-40" in capsys.readouterr().err


def test_defaults_are_the_published_ones():
    args, given = parse_args([])
    published = {
        **{"save_path": Path("exp"), "backbone": "lstm", "embed_d": 32, "hidden_size": 512, "text_dim": 768, "ws": 8},
        **{"SorL": "speaker", "sr": 16000, "test_split": [1, 2, 3, 4], "batch_size": 64, "optim": "adam"},
        **{"loss": "normal", "lam": 0.66, "beta": 0.99, "lr": 1e-3, "weight_decay": 1e-5, "epochs": 50},
    }
    # what its code does without an option for it; its --lr_decay of 1e-3 had no effect, ours would have one on Adagrad
    unnamed = {
        **{"lr_decay": 0.0, "lr_gamma": 0.7, "momentum": 0.0, "num_layers": 4, "bidirectional": False},
        **{"modality": "audio_text", "no_concat": False, "select": "last", "test_only": False},
    }
    for name, value in (published | unnamed).items():
        assert getattr(args, name) == value, name
    assert given == set()


@pytest.mark.parametrize(("corpus_of", "fold"), [("preprocessed", [1, 2, 3, 4]), ("preprocessed20", [*range(1, 9)])])
def test_the_sessions_tested_by_default_are_the_first_fold_of_the_corpus(corpus_of, fold, request):
    argv = ["--data_path", str(request.getfixturevalue(corpus_of))]
    assert settle_sessions(*parse_args(argv)).test_split == fold
    assert settle_sessions(*parse_args([*argv, "--test_split", "5"])).test_split == [5]


@pytest.mark.parametrize(
    ("argv", "expected"), [([], False), (["--bidirectional"], True), (["--bidirectional", "False"], False)]
)
def test_bidirectional_is_a_flag_that_also_takes_a_value(argv, expected):
    assert parse_args(argv)[0].bidirectional is expected


@pytest.mark.parametrize(
    "argv",
    [
        ["--test_only", "--test_path", "NAME"],
        ["--test_only", "NAME"],
        ["--test_only", "--NAME"],
        ["--test_path", "NAME", "--test_only"],
    ],
    ids=" ".join,
)
def test_three_spellings_of_test_only(argv):
    args, _ = parse_args([*argv, "--gpu_id", "cpu"])
    assert (args.test_only, args.test_path, args.gpu_id) == (True, "NAME", "cpu")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--test_only"], "which experiment folder"),
        (["--test_only", "--epochs", "3"], "which experiment folder"),
        (["--test_path", "NAME"], "--test_only"),
        (["--test_only", "A", "--test_path", "B"], "two folders"),
        (["--select", "best"], "--valid_split"),
        (["--beta", "1"], "below 1"),
        (["--lam", "1.5"], "from 0 to 1"),
        (["--ws", "0"], "from 1 to 1000"),
        (["--lr", "nan"], "expected float"),
        (["--lr", "inf"], "expected float"),
        (["--seed", "4294967296"], "expected int"),
        (["--gpu_id", "x"], "cpu"),
        (["--bidirectional", "maybe"], "True or False"),
        (["--epoch", "3"], "--epoch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_options_are_refused_with_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_args(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_help_is_grouped_has_a_line_an_option_and_imports_nothing_heavy():
    code = (
        "import sys, main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'pandas', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *help_lines, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    options = [line for line in help_lines if line.startswith("  -")]
    assert len(options) == len(get_args_parser()._actions)
    described = help_lines[help_lines.index("options:") :]
    assert [line for line in described if line.startswith("   ")] == []  # no description on a line of its own
    for group in ("data:", "model:", "training:", "run:"):
        assert group in help_lines


# Train, test, and test again


@pytest.fixture(scope="module")
def trained(preprocessed, tmp_path_factory) -> Path:
    """The experiment folder of a full model trained for two epochs, with validation."""
    exp = tmp_path_factory.mktemp("exp")
    assert run(preprocessed, exp, *QUICK, "--epochs", "2", "--valid_split", "3", "--select", "best") == 0
    return only_run(exp)


@pytest.fixture
def experiment(trained, tmp_path) -> Path:
    """A copy of `trained` in a folder of its own."""
    return Path(shutil.copytree(trained, tmp_path / "exp" / trained.name))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_experiment_folder_holds_what_design_says(trained, preprocessed):
    names = {path.name for path in trained.iterdir()}
    assert names - RUN_FILES == {name for name in names if name.startswith("events.out.tfevents")} != set()
    assert names >= RUN_FILES
    assert re.fullmatch(r"lstm_speaker_adam_8_test1-2_seed0_\d{8}-\d{6}", trained.name)
    configuration = read_json(trained / "configuration.json")
    assert configuration.keys() >= vars(parse_args([])[0]).keys() | {"versions", "commit", "device"}
    assert configuration["train_split"] == [4, 5, 6]
    session = read_annotation(preprocessed / "df_speaker.csv").session
    windows = {"train": (session >= 4).sum(), "valid": (session == 3).sum(), "test": (session <= 2).sum()}
    assert configuration["windows"] == windows
    history = pd.read_csv(trained / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert history[["train_loss", "valid_loss", "lr"]].notna().all(axis=None)
    assert len((trained / "train_loss.log").read_text().splitlines()) == 2


def test_result_is_that_of_the_predictions(trained, preprocessed):
    result, table = read_json(trained / "result.json"), pd.read_csv(trained / "predictions.csv")
    annotation = read_annotation(preprocessed / "df_speaker.csv")
    tested = np.flatnonzero(annotation.session <= 2)
    assert table["segment_id"].tolist() == [annotation.ids[i] for i in tested]
    np.testing.assert_allclose(table["valence"], annotation.valence[tested], rtol=1e-5)
    probabilities = table[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    for name in ("arousal", "valence"):
        assert result[f"ccc_{name}"] == pytest.approx(ccc(table[f"{name}_pred"], table[name]), abs=2e-4)
    true = table["emotion"].str.split(";")
    hits = np.array([EMOTIONS[row.argmax()] in labels for row, labels in zip(probabilities, true, strict=True)])
    batches = [hits[i : i + 8].mean() for i in range(0, len(hits), 8)]
    assert result["Precision"] == f"{np.mean(batches):.3f}+-{np.std(batches):.3f}"
    single = true.str.len() == 1
    assert result["overall"]["n_single_label"] == single.sum()
    assert result["overall"]["accuracy"] == pytest.approx(hits[single].mean(), abs=1e-4)
    confusion = [line.split() for line in (trained / "confusion.txt").read_text().splitlines()[2:9]]
    assert sum(int(count) for row in confusion for count in row[1:]) == true.str.len().sum()


def test_report_shows_figures_baseline_and_folder(experiment, preprocessed, capsys):
    assert run(preprocessed, experiment.parent, "--test_only", experiment.name) == 0
    out, result = capsys.readouterr().out, read_json(experiment / "result.json")
    for name in ("Precision", "Recall", "F1", "Precision@2", "Recall@2", "F1@2"):
        assert result[name] in out
    assert f"{result['overall']['majority_f1']:.3f}" in out
    assert f"{result['ccc_arousal']:.3f}" in out
    assert f"{result['overall']['macro_f1']:.3f}" in out
    assert out.splitlines()[-1] == f"experiment folder: {next(experiment.glob('test_*'))}"


def test_majority_is_the_commonest_training_label(trained, preprocessed):
    annotation = read_annotation(preprocessed / "df_speaker.csv")
    counts = annotation.majority[annotation.session >= 4].sum(axis=0)
    overall = read_json(trained / "result.json")["overall"]
    assert overall["majority_label"] == EMOTIONS[counts.argmax()] != EMOTIONS[0]
    assert list(read_json(trained / "configuration.json")["class_counts"].values()) == counts.tolist()


def test_testing_again_gives_the_same_result_in_all_spellings_and_overwrites_nothing(experiment, preprocessed):
    before = {path.name: path.read_bytes() for path in experiment.iterdir()}
    for spelling in (["--test_path", experiment.name], [experiment.name], [f"--{experiment.name}"]):
        assert run(preprocessed, experiment.parent, "--test_only", *spelling) == 0
    tests = sorted(experiment.glob("test_*"))
    assert len(tests) == 3
    for folder in tests:
        assert {path.name for path in folder.iterdir()} == TEST_FILES
        assert (folder / "result.json").read_bytes() == before["result.json"]
        assert (folder / "predictions.csv").read_bytes() == before["predictions.csv"]
    assert {path.name: path.read_bytes() for path in experiment.iterdir() if path.is_file()} == before


def test_another_split_is_tested_and_trained_sessions_are_warned_of(experiment, preprocessed, capsys):
    assert run(preprocessed, experiment.parent, "--test_only", str(experiment), "--test_split", "2,4") == 0
    assert "warning: the model was trained on sessions [4]" in capsys.readouterr().err
    tested = pd.read_csv(next(experiment.glob("test_*")) / "predictions.csv")["segment_id"]
    assert set(tested.str[:6]) == {"Sess02", "Sess04"}


def test_option_that_contradicts_the_trained_model_is_refused(experiment, preprocessed, capsys):
    assert run(preprocessed, experiment.parent, "--test_only", experiment.name, "--hidden_size", "16") == 2
    assert "--hidden_size 16: the model in" in capsys.readouterr().err
    assert run(preprocessed, experiment.parent, "--test_only", experiment.name, "--hidden_size", "8") == 0


def test_folder_of_the_published_program_loads(experiment, preprocessed):
    """It knows no modality, seed or versions, had four layers, and recorded an --sr that had no effect."""
    from model import MATE

    torch.manual_seed(0)
    model = MATE(hidden_size=8)
    torch.save(model.state_dict(), experiment / "model.pth")
    published = {
        **{"save_path": "./exp/", "backbone": "lstm", "embed_d": 128, "hidden_size": 8, "text_dim": 768},
        **{"bidirectional": False, "ws": 8, "SorL": "speaker", "sr": 48000, "test_split": "[1,2]", "batch_size": 64},
        **{"optim": "adam", "loss": "normal", "lam": 0.66, "beta": 0.99, "lr": 0.001, "lr_decay": 0.7},
        **{"weight_decay": 1e-05, "epochs": 100, "test_only": False, "test_path": "", "gpu_id": 0},
    }
    (experiment / "configuration.json").write_text(json.dumps(published))
    assert run(preprocessed, experiment.parent, "--test_only", f"--{experiment.name}", "--gpu_id", "cpu") == 0
    stored = read_json(next(experiment.glob("test_*")) / "configuration.json")
    assert (stored["sr"], stored["num_layers"], stored["test_split"]) == (16000, 4, [1, 2])
    assert stored["train_split"] == list(range(3, 21))


def test_listener_is_predicted_from_the_listeners_table(preprocessed, tmp_path):
    assert run(preprocessed, tmp_path, *TEXT, "--SorL", "listener") == 0
    table = pd.read_csv(only_run(tmp_path) / "predictions.csv")
    annotation = read_annotation(preprocessed / "df_listener.csv")
    tested = annotation.session <= 2
    np.testing.assert_allclose(table["arousal"], annotation.arousal[tested], rtol=1e-5)
    speaker = read_annotation(preprocessed / "df_speaker.csv")
    assert not np.array_equal(annotation.arousal[tested], speaker.arousal[speaker.session <= 2])


# Options that change what is trained


@pytest.mark.parametrize(
    "options",
    [["--loss", "cbloss"], ["--lam", "0.5"], ["--optim", "sgd"], ["--weight_decay", "0.1"], ["--lr", "1e-4"]],
    ids=" ".join,
)
def test_options_of_training_change_the_history(preprocessed, tmp_path, options):
    for exp, more in (("plain", []), ("other", options)):
        assert run(preprocessed, tmp_path / exp, *TEXT, *more) == 0
    plain, other = (pd.read_csv(only_run(tmp_path / exp) / "history.csv") for exp in ("plain", "other"))
    assert plain["train_loss"].iloc[-1] != other["train_loss"].iloc[-1]


def test_beta_changes_the_class_balanced_loss(preprocessed, tmp_path):
    for beta in ("0.5", "0.999"):
        assert run(preprocessed, tmp_path / beta, *TEXT, "--loss", "cbloss", "--beta", beta) == 0
    low, high = (pd.read_csv(only_run(tmp_path / beta) / "history.csv")["train_loss"][0] for beta in ("0.5", "0.999"))
    assert low != high


def test_training_and_validation_get_soft_targets_and_only_training_random_crops(preprocessed, tmp_path):
    from training.processes import ALONE

    options, _ = parse_args(
        ["--data_path", str(preprocessed), "--save_path", str(tmp_path), *TEXT, "--valid_split", "3", "--seed", "7"]
    )
    training = program.prepare_training(options, ALONE, program.prepare(options, ALONE))
    annotation = read_annotation(preprocessed / "df_speaker.csv")
    sets = {"train": (training.train_set, 4, 6, 7), "valid": (training.valid_set, 3, 3, None)}
    for windows, first, last, crop_seed in sets.values():
        own = (annotation.session >= first) & (annotation.session <= last)
        emotion = windows.__getitems__(range(len(windows))).emotion
        np.testing.assert_array_equal(emotion, annotation.soft[own])
        assert windows.crop_seed == crop_seed


def test_validation_loss_is_that_of_soft_targets(preprocessed, tmp_path):
    from training.engine import evaluate
    from training.folders import load_run
    from training.processes import ALONE

    assert run(preprocessed, tmp_path, *TEXT, "--valid_split", "3") == 0
    folder = only_run(tmp_path)
    options, _ = parse_args(["--data_path", str(preprocessed), *TEXT, "--valid_split", "3"])
    training = program.prepare_training(options, ALONE, program.prepare(options, ALONE))
    loader = program.test_loader(options, training.valid_set, ALONE)
    _, expected = evaluate(load_run(folder).model, loader, training.loss_function)
    assert pd.read_csv(folder / "history.csv")["valid_loss"].iloc[-1] == pytest.approx(expected, rel=1e-5)


def test_crops_of_long_utterances_are_drawn_anew_every_epoch(preprocessed, tmp_path, monkeypatch):
    from dataset import WindowDataset

    drawn = []
    set_epoch = WindowDataset.set_epoch

    def record(self: WindowDataset, epoch: int) -> None:
        set_epoch(self, epoch)
        drawn.append((self.crop_seed, epoch))

    monkeypatch.setattr(WindowDataset, "set_epoch", record)
    assert run(preprocessed, tmp_path, *TEXT, "--seed", "7") == 0
    assert [entry for entry in drawn if entry[1] > 0] == [(7, 1), (7, 2)]


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        (["--backbone", "lstm"], "lstm.weight_hh_l0"),
        (["--backbone", "gru"], "gru.weight_hh_l0"),
        (["--bidirectional"], "lstm.weight_hh_l0_reverse"),
        (["--loss", "cbloss", "--lam", "0.9", "--beta", "0.9"], None),
        (["--no_concat"], None),
        (["--modality", "audio"], "audio_embedding.0.conv.weight"),
        (["--modality", "text"], None),
        (["--SorL", "listener", "--optim", "adagrad", "--lr_decay", "0.1", "--ws", "3"], None),
        (["--sr", "8000", "--num_workers", "1", "--num_layers", "2"], "lstm.weight_hh_l1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_variants_train_an_epoch_and_test_again(preprocessed, tmp_path, options, parameter):
    assert run(preprocessed, tmp_path, *QUICK, "--epochs", "1", *options) == 0
    folder = only_run(tmp_path)
    state = torch.load(folder / "model.pth", weights_only=True)
    assert parameter is None or parameter in state
    assert any(name.startswith("audio_embedding") for name in state) == ("text" not in options)
    assert state["mlp_arousal.0.fc.0.weight"].shape[1] == (512 if "--no_concat" in options else 519)
    assert run(preprocessed, tmp_path, "--test_only", folder.name) == 0
    again = next(folder.glob("test_*"))
    assert read_json(again / "result.json") == read_json(folder / "result.json")


def test_a_seed_decides_weights_and_report(preprocessed, tmp_path):
    options = (*QUICK, "--epochs", "1", "--ws", "3")
    for exp, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert run(preprocessed, tmp_path / exp, *options, "--seed", seed) == 0
    a, b, c = (torch.load(only_run(tmp_path / exp) / "model.pth", weights_only=True) for exp in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
    for name in ("result.json", "predictions.csv", "history.csv", "train_loss.log"):
        assert (only_run(tmp_path / "a") / name).read_bytes() == (only_run(tmp_path / "b") / name).read_bytes()


def test_a_seed_decides_the_weights_that_training_starts_from(preprocessed, tmp_path):
    for seed in ("5", "6"):
        assert run(preprocessed, tmp_path / seed, *TEXT, "--lr", "0", "--seed", seed) == 0
    a, b = (torch.load(only_run(tmp_path / seed) / "model.pth", weights_only=True) for seed in ("5", "6"))
    assert not torch.equal(a["lstm.weight_hh_l0"], b["lstm.weight_hh_l0"])


def test_training_learns(preprocessed, tmp_path):
    assert run(preprocessed, tmp_path, *QUICK, "--modality", "text", "--epochs", "20", "--lr", "3e-4") == 0
    loss = pd.read_csv(only_run(tmp_path) / "history.csv")["train_loss"]
    assert loss.iloc[-1] < 0.6 * loss.iloc[0]


def test_select_best_tests_the_epoch_of_the_lowest_validation_loss(preprocessed, tmp_path):
    options = (*QUICK, "--modality", "text", "--valid_split", "3", "--select", "best", "--lr_gamma", "300")
    assert run(preprocessed, tmp_path, *options, "--epochs", "4") == 0  # the learning rate leaps, the loss with it
    folder = only_run(tmp_path)
    best = int(pd.read_csv(folder / "history.csv")["valid_loss"].argmin()) + 1
    assert best < 4
    assert run(preprocessed, tmp_path / "short", *options, "--epochs", str(best), "--lr_gamma", "1") == 0
    short = only_run(tmp_path / "short")
    ours, expected = (torch.load(f / "model.pth", weights_only=True) for f in (folder, short))
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


def test_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_saved(preprocessed, tmp_path, capsys):
    steps = 0

    def leap(optimizer: torch.optim.Optimizer, *_: object) -> None:
        """A learning rate for the second epoch that no weight outlasts."""
        nonlocal steps
        steps += 1
        if steps == 5:
            optimizer.param_groups[0]["lr"] = 1e15

    hook = register_optimizer_step_post_hook(leap)
    try:
        assert run(preprocessed, tmp_path, *QUICK, "--modality", "text", "--epochs", "3") == 2
    finally:
        hook.remove()
    error = capsys.readouterr().err.splitlines()[-1]
    folder = only_run(tmp_path)
    windows = read_json(folder / "configuration.json")["windows"]["train"]
    steps = windows // 8
    step = int(error.split(" at step ")[1].split(" ")[0])
    assert steps < step <= 2 * steps
    assert f"{folder} keeps the weights of epoch 1" in error
    assert pd.read_csv(folder / "history.csv")["epoch"].tolist() == [1]
    assert (folder / "loss_curve.png").is_file()
    state = torch.load(folder / "model.pth", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_weights_that_blow_up_in_the_last_step_are_not_reported_on(preprocessed, tmp_path, capsys):
    def leap(optimizer: torch.optim.Optimizer, *_: object) -> None:
        optimizer.param_groups[0]["lr"] = 1e30

    hook = register_optimizer_step_pre_hook(leap)
    try:
        options = ("--modality", "text", "--epochs", "1", "--batch_size", "40")  # a single step
        assert run(preprocessed, tmp_path, *QUICK, *options) == 2
    finally:
        hook.remove()
    assert "predicts values that are not numbers" in capsys.readouterr().err.splitlines()[-1]
    assert not (only_run(tmp_path) / "result.json").exists()


def test_weights_that_predict_what_are_no_numbers_are_not_reported_on(experiment, preprocessed, capsys):
    state = torch.load(experiment / "model.pth", weights_only=True)
    state["mlp_emotion.4.bias"][0] = float("nan")
    torch.save(state, experiment / "model.pth")
    assert run(preprocessed, experiment.parent, "--test_only", experiment.name) == 2
    assert "mlp_emotion.4.bias holds torch.float32 values that are not finite" in one_error(capsys)
    assert not list(experiment.glob("test_*"))


# Bad input


def one_error(capsys) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.splitlines()[-1]


def test_missing_corpus_names_the_sample(tmp_path, capsys):
    assert run(tmp_path / "none", tmp_path / "exp") == 2
    assert "data/make_sample.py" in one_error(capsys)
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--test_split", "5-8"],
            "--test_split: the corpus has no utterance of sessions [7, 8]; it has [1, 2, 3, 4, 5, 6]",
        ),
        (["--valid_split", "7"], "--valid_split: the corpus has no utterance of sessions [7]"),
        (["--test_split", "1-6"], "no session is left to train on"),
        (["--batch_size", "1"], "--batch_size 1: batch norm"),
        (["--valid_split", "2-3"], "share sessions"),
        (["--batch_size", "1000"], "--batch_size 1000: training has "),
        (["--text_dim", "512"], "embedding_512.npy: not found"),
        (["--gpu_id", "99"], "--gpu_id 99: this machine has "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_training_that_cannot_be_is_refused_in_one_line_before_a_folder_is_made(
    preprocessed, tmp_path, capsys, options, message
):
    assert run(preprocessed, tmp_path / "exp", *TEXT, *options) == 2
    assert message in one_error(capsys)
    assert not (tmp_path / "exp").exists()


def test_wrong_audio_path_stops_and_few_missing_wavs_do_not(preprocessed, tmp_path, capsys):
    assert run(preprocessed, tmp_path / "exp", *QUICK, "--audio_path", str(tmp_path)) == 2
    assert f"{tmp_path}: " in one_error(capsys)
    corpus = Path(shutil.copytree(preprocessed, tmp_path / "corpus"))
    gone = sorted((corpus / "wav").rglob("*.wav"))[3]
    gone.unlink()
    assert run(corpus, tmp_path / "exp", *QUICK, "--epochs", "1") == 0
    assert capsys.readouterr().err.count(gone.stem) == 1
    assert gone.stem in read_json(only_run(tmp_path / "exp") / "configuration.json")["missing"]["wav"]


def test_log_mels_are_kept_beside_the_corpus_unless_told_otherwise(preprocessed, tmp_path, capsys):
    corpus = Path(shutil.copytree(preprocessed, tmp_path / "corpus", ignore=shutil.ignore_patterns("features")))
    options = (*QUICK, "--ws", "1", "--epochs", "1")
    assert run(corpus, tmp_path / "without", *options, "--no_cache") == 0
    assert not (corpus / "features").exists()
    for exp in ("first", "second"):
        capsys.readouterr()
        assert run(corpus, tmp_path / exp, *options) == 0
        assert ("log-mel:" in capsys.readouterr().err) == (exp == "first")
    assert (corpus / "features" / "log_mel-16000-float16.safetensors").is_file()
    for name in ("history.csv", "predictions.csv"):
        assert len({(only_run(tmp_path / exp) / name).read_bytes() for exp in ("without", "first", "second")}) == 1


def test_wavs_that_cannot_be_used_count_as_missing(preprocessed, tmp_path, capsys):
    corpus = Path(shutil.copytree(preprocessed, tmp_path / "corpus", ignore=shutil.ignore_patterns("features")))
    bad, *others = sorted((corpus / "wav").rglob("*.wav"))
    bad.write_bytes(b"no sound")
    for more in ([], ["--no_cache"]):
        assert run(corpus, tmp_path / "exp", *QUICK, "--ws", "1", "--epochs", "1", *more) == 0
        (warning,) = (line for line in capsys.readouterr().err.splitlines() if "no usable wav" in line)
        assert f"count as zeros: {bad.stem}, " in warning
        assert f"; first {bad}: not readable as sound" in warning
    for folder in (tmp_path / "exp").iterdir():
        assert bad.stem in read_json(folder / "configuration.json")["missing"]["wav"]
    for path in others[: len(others) // 10]:
        path.write_bytes(b"no sound")
    assert run(corpus, tmp_path / "many", *QUICK) == 2
    assert "utterances have no usable wav there" in one_error(capsys)
    assert not (tmp_path / "many").exists()


def test_precision_decides_where_bfloat16_is_used(preprocessed, tmp_path, monkeypatch):
    from training import engine

    used = []
    build = engine.build_model

    def build_recording(*args, **settings):
        """A model that notes in which precision autocast has it train and predict."""
        model = build(*args, **settings)
        model.register_forward_pre_hook(lambda *_: used.append((model.training, torch.is_autocast_enabled("cpu"))))
        return model

    monkeypatch.setattr(engine, "build_model", build_recording)
    options = (*QUICK, "--modality", "text", "--epochs", "1", "--valid_split", "3")
    for precision, fast, training, testing in (
        ("auto", True, True, False),
        ("auto", False, False, False),
        ("fp32", True, False, False),
        ("bf16", False, True, True),
    ):
        monkeypatch.setattr(engine, "has_bfloat16", lambda device, fast=fast: fast)
        used.clear()
        exp = tmp_path / f"{precision}-{fast}"
        assert run(preprocessed, exp, *options, "--precision", precision) == 0
        assert set(used) == {(True, training), (False, testing)}
        stored = read_json(only_run(exp) / "configuration.json")["training_precision"]
        assert stored == ("bfloat16" if training else "float32")


def test_predictions_do_not_depend_on_the_batches_of_evaluation(experiment, preprocessed, monkeypatch):
    from training import engine

    for size in (1, 7):
        monkeypatch.setattr(engine, "EVALUATION_BATCH", size)
        assert run(preprocessed, experiment.parent, "--test_only", experiment.name) == 0
    expected = pd.read_csv(experiment / "predictions.csv").iloc[:, 2:13]
    for folder in experiment.glob("test_*"):
        ours = pd.read_csv(folder / "predictions.csv").iloc[:, 2:13]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
        assert read_json(folder / "result.json")["F1"] == read_json(experiment / "result.json")["F1"]


def test_compiling_that_fails_is_one_line(preprocessed, tmp_path, capsys, monkeypatch):
    def fail(model, **_):
        def forward(*_args, **_options):
            raise torch._dynamo.exc.TorchDynamoException("no compiler\nand much more")

        return ForwardInstead(model, forward)

    class ForwardInstead(torch.nn.Module):
        def __init__(self, model, forward):
            super().__init__()
            self.model, self.instead = model, forward

        def forward(self, *args, **options):
            return self.instead(*args, **options)

    monkeypatch.setattr(torch, "compile", fail)
    assert run(preprocessed, tmp_path, *QUICK, "--compile") == 2
    assert one_error(capsys) == "error: --compile: torch cannot compile the model (no compiler); leave it out"


def test_unknown_folders_are_named(preprocessed, tmp_path, capsys):
    assert run(preprocessed, tmp_path, "--test_only", "nowhere") == 2
    assert "nowhere: no such experiment folder" in one_error(capsys)
    (tmp_path / "empty").mkdir()
    assert run(preprocessed, tmp_path, "--test_only", "empty") == 2
    assert "no configuration.json" in one_error(capsys)


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_weights_that_run_code_are_refused_and_do_not_run_it(experiment, preprocessed, tmp_path, capsys):
    torch.save({"lstm.weight_hh_l0": Attack(tmp_path / "marker")}, experiment / "model.pth")
    assert run(preprocessed, experiment.parent, "--test_only", experiment.name) == 2
    assert "model.pth: not a file of weights alone" in one_error(capsys)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.pth", b"", "model.pth: not a file of weights alone"),
        ("model.pth", b"torn", "model.pth: not a file of weights alone"),
        ("model.pth", None, "model.pth: not found"),
        ("configuration.json", b"{", "configuration.json: not readable as JSON"),
        ("configuration.json", b"[]", "configuration.json: holds a list"),
        ("configuration.json", b'{"hidden_size": "big"}', "configuration.json: hidden_size: 'big'"),
        ("configuration.json", b'{"backbone": "rnn"}', "configuration.json: backbone: 'rnn'"),
        ("configuration.json", b'{"hidden_size": null}', "configuration.json: hidden_size: 'None'"),
        ("configuration.json", b'{"SorL": null}', "configuration.json: SorL: 'None'"),
        ("configuration.json", b'{"epochs": null}', "configuration.json: epochs: 'None'"),
        (
            "configuration.json",
            b'{"hidden_size": 8, "num_layers": 1, "versions": {}, "train_split": ["a"]}',
            "train_split",
        ),
        ("configuration.json", b'{"hidden_size": 16, "ws": 8}', "has shape"),
    ],
)
def test_damaged_experiment_folders_are_refused_in_one_line(experiment, preprocessed, capsys, file, content, message):
    (experiment / file).unlink()
    if content is not None:
        (experiment / file).write_bytes(content)
    assert run(preprocessed, experiment.parent, "--test_only", experiment.name) == 2
    assert message in one_error(capsys)
    assert not list(experiment.glob("test_*"))
