"""Runs in two processes, on CPUs: what they share and write, and how they end. Commands without what Windows lacks."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, SMALL, only_run, retest

import main
from training.checkpoint import CHECKPOINT
from utils import read_json

RUN = (*SMALL, "--modality", "text", "--test_split", "1-2", "--valid_split", "3", "--epochs", "3")
RUN = (*RUN, "--affect_loss", "ccc", "--bn_statistics", "train")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
)

# main.py with a checkpoint after every epoch, whose processes get a signal after the second
ENDED = """
import os, sys, main
main.SAVE_SECONDS = 0
train, number = main.train, int(os.environ["SIGNALS"].split()[int(os.environ["RANK"])])
main.train = lambda options: train(options, lambda epoch, _: epoch == 2 and os.kill(os.getpid(), number))
sys.exit(main.main(sys.argv[1:]))
"""

# Each process has half of a batch, and compares the loss and gradients with those of the whole batch
GRADIENTS = """
import numpy as np, torch
from accelerate import Accelerator
from loss import make_loss
from training.engine import over_processes

torch.manual_seed(0)
accelerator, model, x = Accelerator(cpu=True), torch.nn.Linear(5, 9, bias=False), torch.randn(8, 5)
target = [torch.randn(8, 7).softmax(1), torch.rand(8, 1) * 4 + 1, torch.rand(8, 1) * 4 + 1]
ccc = make_loss("normal", 0.5, 0.9, np.ones(7, dtype=int), affect="ccc")

def outputs(values):
    return values[:, :7].log_softmax(1), values[:, 7:8], values[:, 8:]

whole = ccc(outputs(model(x)), target)
(gradient,) = torch.autograd.grad(whole, model.weight)
trained, half = accelerator.prepare(model), slice(accelerator.process_index, None, 2)
loss = over_processes(ccc)(outputs(trained(x[half])), [t[half] for t in target])
loss.backward()
torch.testing.assert_close((loss, model.weight.grad), (whole, gradient))
accelerator.end_training()
"""


def launch(launcher: tuple[str, ...], *argv: object) -> subprocess.CompletedProcess:
    """What launched processes printed and how they ended."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    path = os.pathsep.join(map(str, (ROOT, ROOT / "data")))
    command = [sys.executable, "-m", *launcher, *map(str, argv)]
    environment = kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def argv_of(corpus: Path, save_path: Path) -> tuple[str, ...]:
    return ("--data_path", str(corpus), "--save_path", str(save_path), *RUN)


@pytest.fixture(scope="module")
def two(preprocessed, tmp_path_factory) -> tuple[Path, str, str]:
    """The folder of a run in two processes, and what they printed on stdout and stderr; read only."""
    save_path = tmp_path_factory.mktemp("two")
    ended = launch(TORCHRUN, ROOT / "main.py", *argv_of(preprocessed, save_path))
    assert ended.returncode == 0, ended.stderr
    return only_run(save_path), ended.stdout, ended.stderr


def test_two_processes_test_as_one_and_print_once(two, preprocessed):
    folder, out, err = two
    assert out.count("folder:") == 2  # at the start, and after the report
    assert len([line for line in err.splitlines() if line.startswith("epoch ")]) == 3
    assert read_json(folder / "configuration.json")["environment"]["processes"] == "2"
    test, mended = retest(folder), retest(folder, "--bn_statistics", "train")  # in one process
    ours, expected = (pd.read_csv(path / "predictions.csv") for path in (folder, test))
    assert ours["segment_id"].tolist() == expected["segment_id"].tolist()
    np.testing.assert_allclose(ours.select_dtypes("number"), expected.select_dtypes("number"), rtol=0, atol=1e-5)
    statistics = [torch.load(path / "model.pth", weights_only=True) for path in (folder, mended)]
    torch.testing.assert_close(*(state["mlp_av.0.fc.2.running_mean"] for state in statistics))  # both halves of batches
    history = pd.read_csv(folder / "history.csv")
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_a_loss_that_is_no_mean_over_windows_is_that_of_the_whole_batch(tmp_path):
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    ended = launch(TORCHRUN, script)
    assert ended.returncode == 0, ended.stderr


def test_a_killed_process_ends_the_run_which_then_resumes_exactly_under_accelerate(
    preprocessed, two, tmp_path, monkeypatch
):
    script = tmp_path / "killed.py"
    script.write_text(ENDED)
    monkeypatch.setenv("SIGNALS", f"0 {int(signal.SIGKILL)}")
    argv = argv_of(preprocessed, tmp_path / "exp")
    assert launch(TORCHRUN, script, *argv).returncode != 0
    folder = only_run(tmp_path / "exp")
    assert not (folder / "result.json").exists()
    assert (folder / CHECKPOINT).exists()
    ended = launch(ACCELERATE, ROOT / "main.py", "--gpu_id", "cpu", "--resume", folder)
    assert ended.returncode == 0, ended.stderr
    for name in ("model.pth", "history.csv", "result.json", "predictions.csv"):
        assert (folder / name).read_bytes() == (two[0] / name).read_bytes(), name


@pytest.mark.parametrize(
    ("signals", "statuses", "words"),
    [
        ((signal.SIGTERM, signal.SIGTERM), (143, 143), ("terminated: ", "terminated: ")),
        ((0, signal.SIGKILL), (2, -signal.SIGKILL), ("error: ", "")),
    ],
)
def test_processes_that_get_a_signal_or_lose_another_one_end_in_one_line(
    preprocessed, tmp_path, signals, statuses, words
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared |= {"PYTHONPATH": str(ROOT), "SIGNALS": " ".join(str(int(number)) for number in signals)}
    command = [sys.executable, "-c", ENDED, *argv_of(preprocessed, tmp_path), "--report_to", "none"]
    environments = [os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for environment in environments]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert tuple(process.returncode for process in processes) == statuses
    for error, word in zip(errors, words, strict=True):
        assert "Traceback" not in error
        assert (error.splitlines() or [""])[-1].startswith(word)
    assert [*only_run(tmp_path).glob("checkpoint.pt")]


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, ()),  # accelerate launch --cpu
        ({"WORLD_SIZE": "2"}, ("--gpu_id", "0")),
    ],
)
def test_processes_that_cannot_be_are_refused(preprocessed, tmp_path, monkeypatch, capsys, environment, options):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main.main([*argv_of(preprocessed, tmp_path / "exp"), *options]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()


# What Python lacks or refuses on Windows; imported by every process of a test before anything else
WINDOWS = """
import os, signal, subprocess, sys

for name in ("SIGALRM", "SIGHUP", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "setitimer"):
    delattr(signal, name)
for name in ("fork", "killpg", "mkfifo", "sched_getaffinity", "setsid"):
    delattr(os, name)

def of_closed(function):
    def call(*paths, **settings):
        path = os.path.realpath(paths[-1])
        is_open = path in [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
        if os.path.exists(path) and (is_open or path in open("/proc/self/maps").read()):
            raise PermissionError(13, "used by another process", path)
        return function(*paths, **settings)
    return call

os.unlink, os.remove, os.replace, os.rename = map(of_closed, (os.unlink, os.remove, os.replace, os.rename))

start = subprocess.Popen.__init__

def on_windows(self, *args, **settings):
    assert not {"preexec_fn", "start_new_session", "pass_fds", "umask"} & settings.keys()
    start(self, *args, **settings)

subprocess.Popen.__init__ = on_windows
"""
COMMANDS = """
import shutil, sys, preprocessing, main, predict, experiments
from pathlib import Path

small, data = [*sys.argv[1:], "--epochs", "1", "--test_split", "1-2"], ["--data_path", "corpus"]
assert preprocessing.main([*data, "--text_model", "corpus/kobert", "--gpu_id", "cpu"]) == 0
assert main.main([*data, *small]) == 0
(run,) = Path("exp").iterdir()
wavs = sorted(Path("corpus").rglob("*.wav"))
shutil.copyfile(wavs[0], wavs[1])  # whose features are then replaced
assert main.main(["--test_only", str(run), "--gpu_id", "cpu"]) == 0
assert predict.main([str(run), str(wavs[0].parent), "--out", "predicted", "--gpu_id", "cpu"]) == 0
assert experiments.main(["run", "--grid", "lam=0.5", "--SorL", "speaker", *data, *small, "--save_path", "grid"]) == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for open files in /proc")
def test_the_commands_need_nothing_that_windows_lacks(sample, tmp_path):
    program = {*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")} - {*ROOT.glob("tests/*")}
    names = r"^import (fcntl|pwd|resource)|SIGKILL|os\.sysconf"  # which other packages use after a look at the platform
    assert not [path for path in program if re.search(names, path.read_text("utf-8"), re.M)]
    (tmp_path / "sitecustomize.py").write_text(WINDOWS)
    shutil.copytree(sample, tmp_path / "corpus")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))}
    command = [sys.executable, "-c", COMMANDS, *SMALL]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([*tmp_path.glob("grid/*/result.json")]) == 1
