"""Training with validation: what is shown, which epoch is tested, when it stops, and that a resumed run agrees."""

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import sys
import termios
import threading
from pathlib import Path

import pandas as pd
import pytest
from small_runs import content, only_run, run, signals_at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import main as program
from training.run import CHECKPOINT
from utils import read_json

# the learning rate leaps after the second epoch and again after the third, and the figures get worse
EARLY = ("--valid_split", "3", "--select", "best", "--monitor", "macro_f1", "--patience", "2", "--epochs", "6")
EARLY = (*EARLY, "--lr", "0.003", "--lr_gamma", "100")


@pytest.fixture(scope="module")
def early(preprocessed, tmp_path_factory) -> tuple[Path, str, str]:
    """The folder of a run that stopped early, and what it said on stdout and stderr; read only."""
    exp, said = tmp_path_factory.mktemp("early"), []
    with pytest.MonkeyPatch.context() as patch:
        for stream in ("stdout", "stderr"):
            path = tmp_path_factory.mktemp("said") / stream
            patch.setattr(sys, stream, path.open("w+", encoding="utf-8"))
            said.append(path)
        assert run(preprocessed, exp, *EARLY) == 0
        sys.stdout.close()
        sys.stderr.close()
    return only_run(exp), *(path.read_text("utf-8") for path in said)


def history_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv")


def test_the_best_epoch_is_tested_and_training_stops_after_patience(early):
    folder, out, err = early
    macro_f1 = history_of(folder)["valid_macro_f1"]
    best = int(macro_f1.argmax()) + 1
    assert len(macro_f1) == best + 2 < 6
    assert (
        f"training stopped early, after {best + 2} of 6 epochs: none since epoch {best} had a better validation" in err
    )
    result = read_json(folder / "result.json")
    assert (result["epoch"], result["epochs"]) == (best, 6)
    assert f"weights of epoch {best} of 6" in out
    assert not (folder / CHECKPOINT).exists()


def test_the_figures_of_an_epoch_are_those_of_a_test_on_the_validated_sessions(early, tmp_path):
    folder = Path(shutil.copytree(early[0], tmp_path / "run"))
    assert program.main(["--test_only", str(folder), "--test_split", "3", "--gpu_id", "cpu"]) == 0
    tested = read_json(next(folder.glob("test_*")) / "result.json")
    assert tested["epoch"] == read_json(folder / "result.json")["epoch"]
    row = history_of(folder).set_index("epoch").loc[tested["epoch"]]
    for name in ("f1", "ccc_arousal", "ccc_valence"):
        assert row[f"valid_{name}"] == pytest.approx(tested[name], abs=1e-4)
    for name in ("accuracy", "macro_f1"):
        assert row[f"valid_{name}"] == pytest.approx(tested["overall"][name], abs=1e-4)


def test_a_log_gets_a_line_an_epoch_and_no_bar(early):
    folder, _, err = early
    history = history_of(folder)
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == len(history)
    for number, (line, row) in enumerate(zip(lines, history.to_dict("records"), strict=True), 1):
        assert line.startswith(f"epoch {number}/6: lr ")
        for shown in (f"F1 {row['valid_f1']:.3f}", f"accuracy {row['valid_accuracy']:.3f}"):
            assert shown in line
        assert f"CCC arousal {row['valid_ccc_arousal']:.3f}, valence {row['valid_ccc_valence']:.3f}" in line
        before = max(history["valid_macro_f1"][: number - 1], default=-1)
        assert ("; best macro_f1 so far" in line) == (row["valid_macro_f1"] > before)
    assert "\r" not in err
    assert "it/s" not in err


def test_a_terminal_gets_a_bar(preprocessed, tmp_path, monkeypatch):
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # rows, columns
    shown = bytearray()

    def read() -> None:
        try:
            while part := os.read(control, 4096):
                shown.extend(part)
        except OSError:  # the terminal is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(terminal, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        assert run(preprocessed, tmp_path, "--epochs", "2") == 0
    reader.join()
    os.close(control)
    text = shown.decode()
    assert re.search(r"training: +0%.*\| 0/10 ", text)
    assert "testing: 100%" in text
    assert "epoch=2/2" in text
    assert "epoch 1/2:" not in text  # there is nothing to say that the bar does not


def test_tensorboard_has_the_figures_and_the_options_that_tell_runs_apart(early):
    folder = early[0]
    events = EventAccumulator(str(folder)).Reload()
    history = history_of(folder)
    assert {*events.Tags()["scalars"]} == {*history} - {"epoch"}
    shown = [event.value for event in events.Scalars("valid_macro_f1")]
    assert shown == pytest.approx(history["valid_macro_f1"].tolist(), rel=1e-6)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["monitor"].string_value == "macro_f1"
    assert (options["hidden_size"].number_value, options["seed"].number_value) == (8, 0)
    assert options["valid_split"].string_value == "[3]"


def test_a_stopped_run_chooses_and_stops_like_an_undisturbed_one(early, preprocessed, tmp_path, monkeypatch):
    """It is stopped in the epoch after the best one, and killed when it has stopped early."""

    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    best = read_json(early[0] / "result.json")["epoch"]
    steps = read_json(early[0] / "configuration.json")["windows"]["train"] // 8  # of an epoch
    with signals_at(best * steps + 2, signal.SIGTERM):
        assert run(preprocessed, tmp_path, *EARLY) == 128 + signal.SIGTERM
    with monkeypatch.context() as patch:
        patch.setattr(program, "predict", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(preprocessed, tmp_path, *EARLY, "--resume", "auto")
    with signals_at(1, signal.SIGKILL):  # no step is left
        assert run(preprocessed, tmp_path, *EARLY, "--resume", "auto") == 0
    assert content(only_run(tmp_path)) == content(early[0])


def test_a_default_run_keeps_its_history_and_its_weights_last(finished):
    assert [*history_of(finished)] == ["epoch", "lr", "train_loss"]
    result = read_json(finished / "result.json")
    assert (result["epoch"], result["epochs"]) == (3, 3)
    assert not (finished / "model.safetensors").exists()


def test_patience_needs_validation(capsys):
    with pytest.raises(SystemExit):
        program.main(["--patience", "3"])
    assert "--patience needs --valid_split" in capsys.readouterr().err


def test_predictions_say_who_said_what(finished, preprocessed):
    table = pd.read_csv(finished / "predictions.csv", keep_default_na=False)
    spoken = pd.read_csv(preprocessed / "df_speaker.csv", keep_default_na=False).set_index("Segment ID")
    rows = spoken.loc[table["segment_id"]]
    assert table["text"].tolist() == rows["text"].tolist() != [""] * len(rows)
    assert table["session"].tolist() == rows["Session"].tolist()
    assert table["dialogue"].tolist() == rows["dialogue"].tolist()
    assert (table["segment_id"].str[-4] == table["speaker"]).all()
