"""One run in two processes, against the same run in one."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import main as program
from dataset import ShuffledBatches
from training.folders import compare_circumstances
from training.processes import ALONE, Processes
from training.run import CHECKPOINT
from utils import InputError

ROOT = Path(program.__file__).parent
RUN = ("--modality", "text", "--hidden_size", "8", "--num_layers", "1", "--batch_size", "8", "--test_split", "1-2")
# sgd: what Adam makes of a gradient near zero depends on its last bit
SGD = (
    *RUN,
    "--valid_split",
    "3",
    "--epochs",
    "2",
    "--optim",
    "sgd",
    "--momentum",
    "0.9",
    "--lr",
    "0.05",
    "--gpu_id",
    "cpu",
)
HISTORY = [
    *("epoch", "lr", "train_loss", "valid_loss", "valid_f1", "valid_accuracy", "valid_macro_f1"),
    *("valid_ccc_arousal", "valid_ccc_valence"),
]
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
)

# The program in float64: in a few steps rounding to float32 grows to 1e-4 where batch norm divides by small deviations
DOUBLE = """
import sys, dataset, main
from training import engine
build, move = engine.build_model, dataset.Batch.to
engine.build_model = lambda *given, **named: build(*given, **named).double()
dataset.Batch.to = lambda batch, device: dataset.Batch(*(t if t is None else t.double() for t in move(batch, device)))
sys.exit(main.main())
"""

# The program, in which process 1 alone sends itself, or the launcher, a signal behind its second step
SIGNALLED = """
import os, signal, sys, time, main
from torch.optim.optimizer import register_optimizer_step_post_hook
done, target = 0, os.environ["TARGET"]
def count(*_):
    global done
    done += 1
    if os.environ["RANK"] == "1" and done == 2:
        os.kill(os.getpid() if target == "itself" else os.getppid(), signal.SIGTERM)
    if target == "launcher" and done >= 2:
        time.sleep(0.5)  # until the launcher has passed it on
register_optimizer_step_post_hook(count)
sys.exit(main.main())
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What is computed here is summed in the order of the launched processes, which have a thread each."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def launch(launcher: tuple[str, ...], *argv: object, **environment: str) -> subprocess.CompletedProcess:
    """What a launched program said and how it ended; its programs find this one's modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment = kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", *launcher, *map(str, argv)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def where(corpus: Path, exp: Path) -> tuple[str, ...]:
    return ("--data_path", str(corpus), "--save_path", str(exp))


def only_run(exp: Path) -> Path:
    (folder,) = exp.iterdir()
    return folder


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_same_training(ours: Path, expected: Path) -> None:
    """The same losses, which are kept in float32, and the same weights and statistics of batch norm in float64."""
    tables = [pd.read_csv(folder / "history.csv") for folder in (ours, expected)]
    assert tables[0].columns.tolist() == tables[1].columns.tolist() == HISTORY
    np.testing.assert_allclose(*tables, rtol=1e-6)
    states = [torch.load(folder / "model.pth", weights_only=True) for folder in (ours, expected)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def two(preprocessed, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The save path of a run in two processes, and what it said."""
    exp = tmp_path_factory.mktemp("two")
    return exp, launch(ACCELERATE, ROOT / "main.py", *where(preprocessed, exp), *SGD)


# What is shown


def test_two_processes_train_as_one(preprocessed, tmp_path):
    """The gradients, and the statistics of batch norm, are those of the whole batch."""
    script = tmp_path / "script.py"
    script.write_text(DOUBLE)
    for name, launcher in (("two", TORCHRUN), ("one", (*TORCHRUN[:-1], "1"))):
        ended = launch(launcher, script, *where(preprocessed, tmp_path / name), *SGD)
        assert ended.returncode == 0, ended.stderr
    assert_same_training(only_run(tmp_path / "two"), only_run(tmp_path / "one"))


def test_two_processes_test_every_window_once_with_the_figures_of_one(preprocessed, two):
    folder = only_run(two[0])
    ended = launch(TORCHRUN, ROOT / "main.py", *where(preprocessed, two[0]), "--gpu_id", "cpu", "--test_only", folder)
    assert ended.returncode == 0, ended.stderr
    assert program.main([*where(preprocessed, two[0]), "--gpu_id", "cpu", "--test_only", str(folder)]) == 0
    tests = {read_json(path / "configuration.json")["processes"]: path for path in folder.glob("test_*")}
    assert tests.keys() == {1, 2}
    tables = [pd.read_csv(path / "predictions.csv") for path in (folder, *tests.values())]
    for table in tables[1:]:
        assert table["segment_id"].tolist() == tables[0]["segment_id"].tolist()
        np.testing.assert_allclose(table.iloc[:, 2:13], tables[0].iloc[:, 2:13], rtol=0, atol=2e-5)
    results = [read_json(path / "result.json") for path in (folder, *tests.values())]
    assert results[0] == results[1] == results[2]


def test_one_process_writes_and_speaks(two):
    folder, (exp, ended) = only_run(two[0]), two
    assert ended.stdout.count(f"experiment folder: {folder}") == len(ended.stdout.split("experiment folder: ")) - 1 == 1
    epochs = [line for line in ended.stderr.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    configuration = read_json(folder / "configuration.json")
    assert configuration["processes"] == 2
    assert len(list(folder.glob("events.out.tfevents*"))) == 1
    assert {path.name for path in folder.iterdir()} >= {"model.pth", "history.csv", "result.json"}
    assert not list(folder.glob(".*"))
    assert exp in folder.parents


def test_two_processes_stop_early_at_one_epoch(preprocessed, tmp_path):
    more = ("--epochs", "6", "--select", "best", "--patience", "2", "--lr_gamma", "20")  # the learning rate leaps
    ended = launch(TORCHRUN, ROOT / "main.py", *where(preprocessed, tmp_path), *SGD, *more)
    assert ended.returncode == 0, ended.stderr
    folder = only_run(tmp_path)
    loss = pd.read_csv(folder / "history.csv")["valid_loss"]
    best = int(loss.argmin()) + 1
    assert len(loss) == best + 2 < 6
    assert ended.stderr.count(f"training stopped early, after {best + 2} of 6 epochs: none since epoch {best} ") == 1
    assert read_json(folder / "result.json")["epoch"] == best


# Signals and bad input


def test_a_signal_stops_all_processes_at_one_step_and_the_run_goes_on_to_the_same_result(preprocessed, two, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SIGNALLED)
    exp = tmp_path / "exp"
    stopped = r"^interrupted: stopped in step (\d) of 6, all is saved; go on with: main.py --resume "
    more = (*where(preprocessed, exp), *SGD)
    for target, resumed, steps in (("itself", (), "2"), ("launcher", ("--resume", "auto"), "456")):
        ended = launch(TORCHRUN, script, *more, *resumed, TARGET=target)
        assert ended.returncode != 0
        (step,) = re.findall(stopped, ended.stderr, re.MULTILINE)
        assert step in steps
        folder = only_run(exp)
        assert (folder / CHECKPOINT).exists()
        assert not (folder / ".lock").exists()
    ended = launch(TORCHRUN, ROOT / "main.py", *where(preprocessed, exp), "--gpu_id", "cpu", "--resume", folder)
    assert ended.returncode == 0, ended.stderr
    for name in ("model.pth", "history.csv", "result.json", "predictions.csv"):
        assert (folder / name).read_bytes() == (only_run(two[0]) / name).read_bytes(), name
    assert program.main([*where(preprocessed, exp), "--gpu_id", "cpu", "--resume", str(folder)]) == 0  # finished


def test_another_number_of_processes_is_warned_of(two, capsys):
    folder = only_run(two[0])
    stored = read_json(folder / "configuration.json")
    with pytest.warns(UserWarning, match="processes 2 is 3 now: the result may differ"):
        compare_circumstances(folder, {}, {"device": stored["device"], "processes": 3})


def test_batches_that_cannot_be_shared_are_refused_once_and_in_one_line(preprocessed, tmp_path):
    ended = launch(TORCHRUN, ROOT / "main.py", *where(preprocessed, tmp_path / "exp"), *RUN, "--batch_size", "7")
    assert ended.returncode != 0
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert line == (
        "error: --batch_size 7: 2 processes take equal parts of a batch, of at least 2 windows; give a multiple of 2, "
        "at least 4"
    )
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    ("batch_size", "n", "message"),
    [(7, 2, "a multiple of 2"), (4, 4, "at least 8"), (1, 1, "batch norm"), (2, 1, None), (4, 2, None)],
)
def test_a_part_of_a_batch_has_two_windows_at_least(batch_size, n, message):
    if message is None:
        program.check_batch_size(batch_size, n)
    else:
        with pytest.raises(InputError, match=message):
            program.check_batch_size(batch_size, n)


def test_accelerate_that_would_start_one_process_is_refused(preprocessed, tmp_path, monkeypatch, capsys):
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert program.main([*where(preprocessed, tmp_path / "exp"), *RUN]) == 2
    assert "give it --multi_gpu in place of --cpu" in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()


# Who gets what


@pytest.mark.parametrize(("n", "size"), [(10, 2), (11, 3), (1, 2), (0, 2), (7, 4)])
def test_shares_of_a_test_are_every_window_once_in_order(n, size):
    shares = [list(Processes(rank, size).share(n)) for rank in range(size)]
    assert list(chain.from_iterable(shares)) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_parts_of_the_batches_are_the_batches_of_one_process():
    def batches(part: slice) -> list[list[int]]:
        return list(ShuffledBatches(20, 6, torch.Generator().manual_seed(1), part))

    parts = [batches(slice(rank, None, 3)) for rank in range(3)]
    for whole, *shared in zip(batches(slice(None)), *parts, strict=True):
        assert [len(part) for part in shared] == [2, 2, 2]
        assert sorted(chain.from_iterable(shared)) == sorted(whole)


def test_one_process_imports_no_launcher_and_computes_nothing_anew():
    tensor, model = torch.ones(2), nn.Linear(1, 1)
    assert ALONE.mean(tensor) is tensor
    assert ALONE.average_gradients(model) is ALONE.synchronise_statistics(model) is model
    code = (
        "import sys; from training import processes\n"
        "with processes.join('cpu') as p: print(p.first, p.size)\n"
        "print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "1", "False"]
