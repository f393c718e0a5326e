"""What a run outlasts: signals, kills, full disks, damaged checkpoints. `make faults` kills more often, at random."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import heed_permissions
from torch.optim.optimizer import register_optimizer_step_post_hook

import main as program
from training import engine, folders
from training.options import parse_args
from training.run import CHECKPOINT
from utils import lock_folder

ROOT = Path(program.__file__).parent
CHECKPOINT = CHECKPOINT
# What a run leaves that does not depend on the time or the call
RESULT = (
    "model.pth",
    "train_loss.log",
    "history.csv",
    "loss_curve.png",
    "result.json",
    "confusion.txt",
    "predictions.csv",
)
TEXT = ("--modality", "text", "--hidden_size", "8", "--num_layers", "1", "--batch_size", "8", "--test_split", "1-2")
SMALL = (*TEXT, "--gpu_id", "cpu", "--epochs", "3")  # 40 windows to train on: 5 steps an epoch
STEPS = 5
KILLS = int(os.environ.get("KILLS", "1"))


def options(corpus: Path, exp: Path, *more: str) -> list[str]:
    return ["--data_path", str(corpus), "--save_path", str(exp), *SMALL, *more]


def run(corpus: Path, exp: Path, *more: str) -> int:
    return program.main(options(corpus, exp, *more))


def only_run(exp: Path) -> Path:
    (folder,) = (path for path in exp.iterdir() if path.is_dir())
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULT}


@contextlib.contextmanager
def signals_at(step: int, *numbers: int) -> Iterator[None]:
    """Send this process signals when the optimizer has done so many steps."""
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        if done == step:
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(0.05)  # any thread may get it; two that come before the main one looks count as one

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()


# Stopped by a signal


@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, STEPS + 2, 3 * STEPS])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_result(preprocessed, tmp_path, capsys, step, number):
    assert run(preprocessed, tmp_path / "whole") == 0
    with signals_at(step, number):
        assert run(preprocessed, tmp_path / "stopped") == 128 + number
    folder = only_run(tmp_path / "stopped")
    assert (folder / CHECKPOINT).exists()
    assert not (folder / "result.json").exists()
    assert not (folder / ".lock").exists()
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"interrupted: stopped in step {step} of {3 * STEPS}, all is saved; "
        f"go on with: python main.py --resume {folder}"
    )
    assert program.main(["--resume", str(folder)]) == 0  # as it says
    assert content(folder) == content(only_run(tmp_path / "whole"))
    assert not (folder / CHECKPOINT).exists()
    assert {path.name for path in folder.iterdir()} - {*RESULT} >= {"configuration.json", "confusion.png"}


@pytest.mark.parametrize(
    "more",
    [
        ("--optim", "adagrad", "--lr_decay", "0.1"),
        ("--optim", "sgd", "--backbone", "gru"),
        ("--optim", "adamw", "--loss", "cbloss"),
        ("--valid_split", "3", "--select", "best"),
        ("--modality", "audio_text", "--batch_size", "16", "--epochs", "2"),
    ],
    ids=" ".join,
)
def test_every_kind_of_run_goes_on(preprocessed, tmp_path, more):
    assert run(preprocessed, tmp_path / "whole", *more) == 0
    for step, resumed in ((2, ()), (1, ("--resume", "auto"))):  # stopped, resumed, stopped again
        with signals_at(step, signal.SIGTERM):
            assert run(preprocessed, tmp_path / "stopped", *more, *resumed) == 128 + signal.SIGTERM
    assert run(preprocessed, tmp_path / "stopped", *more, "--resume", "auto") == 0
    assert content(only_run(tmp_path / "stopped")) == content(only_run(tmp_path / "whole"))


def test_a_run_stopped_in_its_validation_or_its_test_goes_on(preprocessed, tmp_path, monkeypatch):
    more = ("--valid_split", "3", "--epochs", "2")
    assert run(preprocessed, tmp_path / "whole", *more) == 0
    forward = engine.build_model

    def stopping(*args, **settings):
        """A model that sends SIGTERM in its n-th evaluation."""
        model = forward(*args, **settings)
        model.register_forward_hook(lambda *_: None if model.training else evaluated())
        return model

    passes, stop_at = 0, 0

    def evaluated() -> None:
        nonlocal passes
        passes += 1
        if passes == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(engine, "build_model", stopping)
    for stop_at, exp in ((1, "a"), (2, "b"), (3, "c")):  # the first validation, the second, the test
        passes = 0
        assert run(preprocessed, tmp_path / exp, *more) == 128 + signal.SIGTERM
        stop_at = 0
        folder = only_run(tmp_path / exp)
        assert not (folder / "result.json").exists()
        assert program.main(["--resume", str(folder)]) == 0
        assert content(folder) == content(only_run(tmp_path / "whole"))


def test_a_second_signal_stops_at_once(preprocessed, tmp_path, capsys):
    with signals_at(2, signal.SIGINT, signal.SIGINT):
        assert run(preprocessed, tmp_path) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert not (only_run(tmp_path) / CHECKPOINT).exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(preprocessed, tmp_path, "--resume", "auto") == 0  # from the beginning
    assert len(list(tmp_path.iterdir())) == 1


def test_sigterm_that_comes_twice_at_once_is_one_request(preprocessed, tmp_path, monkeypatch):
    """SLURM sends it to a job and to the run in it, and the job passes it on."""
    with signals_at(2, signal.SIGTERM, signal.SIGTERM):
        assert run(preprocessed, tmp_path) == 128 + signal.SIGTERM
    assert (only_run(tmp_path) / CHECKPOINT).exists()
    monkeypatch.setattr("utils.SAME_REQUEST", 0)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # in place of the end of this process
    try:
        with signals_at(2, signal.SIGTERM, signal.SIGTERM):
            assert run(preprocessed, tmp_path, "--seed", "1") == 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert len([*tmp_path.glob(f"*/{CHECKPOINT}")]) == 1


def test_auto_locks_no_folder_but_that_of_its_run(stopped, tmp_path, monkeypatch):
    """A run whose folder is locked for a moment by another that looks for its own would begin anew."""
    for number in range(3):
        shutil.copytree(stopped, tmp_path / str(number))
        path = tmp_path / str(number) / "configuration.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": number}))
    locked = []

    def note(folder: Path, doing: str) -> contextlib.AbstractContextManager:
        locked.append(folder.name)
        return lock_folder(folder, doing)

    monkeypatch.setattr(folders, "lock_folder", note)
    argv = options(Path(json.loads((stopped / "configuration.json").read_text())["data_path"]), tmp_path, "--seed", "1")
    assert folders.find_unfinished(parse_args(argv)[0]) == tmp_path / "1"
    assert locked == ["1"]


def test_a_loss_that_is_not_finite_names_its_windows_and_keeps_the_checkpoint(preprocessed, tmp_path, capsys):
    steps = 0

    def spoil(optimizer: torch.optim.Optimizer, *_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == STEPS + 2:
            optimizer.param_groups[0]["params"][0].data.fill_(float("nan"))

    hook = register_optimizer_step_post_hook(spoil)
    try:
        assert run(preprocessed, tmp_path, "--save_every", "1") == 2
    finally:
        hook.remove()
    folder = only_run(tmp_path)
    error = capsys.readouterr().err.splitlines()[-1]
    named = re.fullmatch(
        rf"error: the loss is nan at step {STEPS + 3} \(windows (.*)\): training stopped, "
        rf"{folder} keeps the weights of epoch 1 and checkpoint.pt from before; try a smaller --lr",
        error,
    )
    assert len(set(named[1].split(", "))) == 8
    assert all(re.fullmatch(r"Sess0[3-6]_\w+", segment) for segment in named[1].split(", "))
    stored = torch.load(folder / CHECKPOINT, weights_only=True)
    assert (stored["progress"]["epoch"], stored["progress"]["step"]) == (2, 2)
    assert stored["progress"]["losses"].isfinite().all()


# Which run goes on


def test_auto_finds_the_newest_unfinished_run_of_the_same_configuration(preprocessed, tmp_path, capsys):
    assert run(preprocessed, tmp_path, "--resume", "auto") == 0  # there is none: a new run
    assert "no unfinished run of this configuration, a new one begins" in capsys.readouterr().out
    finished = only_run(tmp_path)
    for seed in ("1", "2", "1"):
        with signals_at(2, signal.SIGTERM):
            assert run(preprocessed, tmp_path, "--seed", seed) == 143
    first, other, second = sorted(
        (path for path in tmp_path.iterdir() if path != finished),
        key=lambda p: (p / "configuration.json").stat().st_mtime,
    )
    assert run(preprocessed, tmp_path, "--seed", "1", "--resume", "auto") == 0
    assert (second / "result.json").exists()
    with lock_folder(first, "training"):  # another process trains there
        assert run(preprocessed, tmp_path, "--seed", "1", "--resume", "auto", "--epochs", "3") == 0
    assert not (first / "result.json").exists()
    assert len(list(tmp_path.iterdir())) == 5
    assert run(preprocessed, tmp_path, "--seed", "1", "--resume", "auto") == 0
    assert (first / "result.json").exists()
    assert not (other / "result.json").exists()


def test_a_run_is_not_trained_by_two_processes(preprocessed, tmp_path, capsys):
    with signals_at(2, signal.SIGTERM):
        run(preprocessed, tmp_path)
    folder = only_run(tmp_path)
    with lock_folder(folder, "training"):
        assert program.main(["--resume", str(folder)]) == 2
    assert "another process is training there" in capsys.readouterr().err


def test_options_that_contradict_the_run_are_refused_and_others_taken(preprocessed, tmp_path, capsys):
    with signals_at(2, signal.SIGTERM):
        run(preprocessed, tmp_path)
    folder = only_run(tmp_path)
    assert program.main(["--resume", str(folder), "--lr", "0.1"]) == 2
    assert f"--lr 0.1: the run in {folder} has 0.001; leave it out" in capsys.readouterr().err
    moved = shutil.copytree(preprocessed, tmp_path.parent / f"{tmp_path.name}_corpus")
    assert program.main(["--resume", str(folder), "--data_path", str(moved), "--lr", "0.001", "--save_every", "2"]) == 0


def test_a_finished_run_is_left_as_it_is(preprocessed, tmp_path, capsys):
    run(preprocessed, tmp_path)
    folder = only_run(tmp_path)
    before = content(folder)
    assert program.main(["--resume", str(folder)]) == 0
    assert f"{folder}: finished already" in capsys.readouterr().out
    (folder / CHECKPOINT).touch()  # it was killed behind its last line
    assert run(preprocessed, tmp_path, "--resume", "auto") == 0
    assert f"{folder}: finished already" in capsys.readouterr().out
    assert content(folder) == before
    assert not (folder / CHECKPOINT).exists()
    only_run(tmp_path)


def test_what_cannot_go_on_is_named(preprocessed, tmp_path, capsys):
    published = tmp_path / "published"
    published.mkdir()
    (published / "configuration.json").write_text('{"backbone": "lstm"}')
    for name, message in ((str(published), "of the published program"), ("nowhere", "no such experiment folder")):
        assert program.main(["--resume", name]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_args(["--resume", "a", "--test_only", "b"])


def test_another_corpus_is_refused_and_other_versions_are_warned_of(preprocessed, tmp_path, capsys):
    with signals_at(2, signal.SIGTERM):
        run(preprocessed, tmp_path)
    folder = only_run(tmp_path)
    corpus = shutil.copytree(preprocessed, tmp_path.parent / f"{tmp_path.name}_corpus")
    lines = (corpus / "df_speaker.csv").read_text(encoding="utf-8").splitlines(True)
    (corpus / "df_speaker.csv").write_text("".join(lines[:-1]), encoding="utf-8")
    assert program.main(["--resume", str(folder), "--data_path", str(corpus)]) == 2
    error = f"error: {folder}: began with other data, the role's table: a run goes on with the data that it began with"
    assert error in capsys.readouterr().err
    configuration = json.loads((folder / "configuration.json").read_text())
    configuration["versions"]["torch"] = "0.1"
    (folder / "configuration.json").write_text(json.dumps(configuration))
    assert program.main(["--resume", str(folder)]) == 0
    assert "'torch': '0.1'" in capsys.readouterr().err


# Checkpoints


def test_checkpoints_are_written_every_so_many_steps(preprocessed, tmp_path, monkeypatch):
    from training import run as training_run

    saved = []
    make = training_run.make_checkpoint

    def record(*arguments) -> dict:
        saved.append((arguments[-1].epoch, arguments[-1].step))
        return make(*arguments)

    monkeypatch.setattr(training_run, "make_checkpoint", record)
    for minutes, expected in (
        ("0", [(1, 2), (1, 4), (2, 0), (2, 1), (2, 3), (2, 5), (3, 0)]),
        ("1", [(1, 2), (1, 4), (2, 1), (2, 3), (2, 5), (3, 0)]),
    ):
        saved.clear()
        more = ("--save_every", "2", "--save_minutes", minutes, "--epochs", "2")
        assert run(preprocessed, tmp_path / minutes, *more) == 0
        assert saved == expected


@pytest.fixture(scope="module")
def stopped(preprocessed, tmp_path_factory) -> Path:
    """An experiment folder of a run that was stopped in its second epoch; to be copied."""
    exp = tmp_path_factory.mktemp("stopped")
    with signals_at(STEPS + 2, signal.SIGTERM):
        run(preprocessed, exp)
    return only_run(exp)


def other_checkpoint(folder: Path, what: str) -> None:
    path = folder / CHECKPOINT
    whole = path.read_bytes()
    match what:
        case "empty":
            path.write_bytes(b"")
        case "torn":
            path.write_bytes(whole[: len(whole) // 2])
        case "text":
            path.write_text("nothing of the kind")
        case "weights":
            shutil.copy(folder / "model.pth", path)
        case "other run":
            stored = torch.load(path, weights_only=True)
            torch.save(stored | {"run": stored["run"] | {"seed": 99}}, path)
        case "other format":
            torch.save(torch.load(path, weights_only=True) | {"format": 3}, path)
        case "other model":
            stored = torch.load(path, weights_only=True)
            stored["model"].popitem()
            torch.save(stored, path)
        case "other optimizer":
            stored = torch.load(path, weights_only=True)
            stored["optimizer"]["param_groups"] = []
            torch.save(stored, path)
        case "other losses":
            stored = torch.load(path, weights_only=True)
            stored["progress"]["step"] = 4
            torch.save(stored, path)
        case "more epochs" | "more history":
            stored = torch.load(path, weights_only=True)
            progress = stored["progress"]
            progress["history"] *= 1 if what == "more epochs" else 2
            progress["epoch"] = 5 if what == "more epochs" else progress["epoch"]  # of three
            torch.save(stored, path)
        case "more steps":
            stored = torch.load(path, weights_only=True)
            stored["progress"] |= {"step": STEPS + 1, "losses": torch.ones(STEPS + 1)}
            torch.save(stored, path)
        case "half an epoch":
            stored = torch.load(path, weights_only=True)
            stored["progress"]["epoch"] -= 0.5
            torch.save(stored, path)
        case "code":
            torch.save({"format": 1, "run": Attack(folder / "marker")}, path)


class Attack:
    """Makes a file where it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    "what",
    [
        *("empty", "torn", "text", "weights", "other run", "other format", "other model", "other optimizer"),
        *("other losses", "more epochs", "more history", "more steps", "half an epoch", "code"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_named_and_nothing_is_lost(stopped, tmp_path, capsys, what):
    folder = shutil.copytree(stopped, tmp_path / "run")
    other_checkpoint(folder, what)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert program.main(["--resume", str(folder)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {folder / CHECKPOINT}: ")
    assert error.endswith("take it away to train from the beginning")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before  # also: no marker


def test_a_flipped_bit_is_noticed_or_without_effect(stopped, preprocessed, tmp_path):
    assert run(preprocessed, tmp_path / "whole") == 0
    folder, rng = tmp_path / "run", random.Random(0)
    noticed = 0
    for _ in range(12):
        shutil.copytree(stopped, folder)
        damaged = bytearray((folder / CHECKPOINT).read_bytes())
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (folder / CHECKPOINT).write_bytes(damaged)
        if program.main(["--resume", str(folder)]) == 2:
            noticed += 1
        else:
            assert content(folder) == content(only_run(tmp_path / "whole"))
        shutil.rmtree(folder)
    assert noticed > 6


# Out of memory

LIMITED = """
import resource, sys
import matplotlib.figure, pandas, sklearn.metrics, torch, torch.utils.tensorboard
import main
(held,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (int(held) * 1024 + 150 * 2**20,) * 2)
sys.exit(main.main(sys.argv[1:]))
"""


def test_a_step_that_memory_does_not_suffice_for_names_a_smaller_batch(preprocessed, tmp_path):
    audio = ("--modality", "audio_text", "--batch_size", "30", "--precision", "fp32")
    done = start("-c", LIMITED, *options(preprocessed, tmp_path, *audio))
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: not enough memory (")
    stopped = f" at step 1: training stopped, {only_run(tmp_path)} holds no weights yet; "
    assert last.endswith(stopped + "try --batch_size 15 in place of 30, in a new run")


@pytest.mark.parametrize(
    ("training", "batch_size", "expected"),
    [
        (True, "8", "holds no weights yet; try --batch_size 4 in place of 8, in a new run"),
        (True, "3", "try --batch_size 2 in place of 3, in a new run"),
        (True, "2", "--batch_size 2 is the smallest; try a smaller model, or --gpu_id cpu in place of a GPU"),
        (False, "5", "in the test of 10 windows at once; test the run with --test_only and --gpu_id cpu"),
    ],
)
def test_a_gpu_without_memory_is_told_of_in_one_line(preprocessed, tmp_path, capsys, training, batch_size, expected):
    def fail(module: torch.nn.Module, _: object) -> None:
        if module.__class__.__name__ == "MATE" and module.training == training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.09 GiB.\nSee its documentation")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(fail)
    try:
        assert run(preprocessed, tmp_path, "--batch_size", batch_size) == 2
    finally:
        hook.remove()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: not enough memory (CUDA out of memory. Tried to allocate 1.09 GiB.)")
    assert expected in last


# Killed


DRIVER = """
import os, pathlib, signal, sys
replace, saves, kill_at = pathlib.Path.replace, 0, int(sys.argv[1])
def count(self, target):
    global saves
    saves += pathlib.Path(target).name == "checkpoint.pt"
    if saves == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = count
import main
sys.exit(main.main(sys.argv[2:]))
"""


def start(*command: str, limit: int | None = None) -> subprocess.CompletedProcess:
    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=restrict
    )


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(preprocessed, tmp_path):
    assert run(preprocessed, tmp_path / "whole") == 0
    for kill_at in ("1", "3"):
        killed = start("-c", DRIVER, kill_at, *options(preprocessed, tmp_path / kill_at, "--save_every", "2"))
        assert killed.returncode == -signal.SIGKILL
        folder = only_run(tmp_path / kill_at)
        assert (folder / CHECKPOINT).exists() is (kill_at == "3")
        assert run(preprocessed, tmp_path / kill_at, "--resume", "auto") == 0
        assert content(folder) == content(only_run(tmp_path / "whole"))
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_whole(preprocessed, tmp_path):
    assert run(preprocessed, tmp_path / "whole") == 0
    with signals_at(2, signal.SIGTERM):
        assert run(preprocessed, tmp_path / "full") == 143
    folder = only_run(tmp_path / "full")
    before = (folder / CHECKPOINT).read_bytes()
    done = start("main.py", "--resume", str(folder), limit=len(before) - 4096)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: {folder / CHECKPOINT}: cannot be written (File too large)"
    assert (folder / CHECKPOINT).read_bytes() == before
    assert not [path.name for path in folder.iterdir() if path.name.startswith(f".{CHECKPOINT}")]
    assert program.main(["--resume", str(folder)]) == 0
    assert content(folder) == content(only_run(tmp_path / "whole"))


def test_a_folder_that_cannot_be_written_is_named(preprocessed, tmp_path):
    exp = tmp_path / "exp"
    with signals_at(2, signal.SIGTERM):
        assert run(preprocessed, exp) == 143
    folder = only_run(exp)
    for path, command in ((exp, options(preprocessed, exp)), (folder, ["--resume", str(folder)])):
        before = sorted(exp.rglob("*"))
        path.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "main.py", *command],
            cwd=ROOT,
            preexec_fn=heed_permissions,
            capture_output=True,
            text=True,
            check=False,
        )
        path.chmod(0o755)
        assert done.returncode == 2
        assert "Permission denied" in done.stderr.splitlines()[-1]
        assert sorted(exp.rglob("*")) == before


def test_runs_of_one_second_and_a_clock_set_back_mix_nothing_up(preprocessed, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "timestamp", lambda: "20260101-000000")
    assert run(preprocessed, tmp_path) == run(preprocessed, tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 2
    with signals_at(2, signal.SIGTERM):
        assert run(preprocessed, tmp_path) == 143
    unfinished = next(path for path in tmp_path.iterdir() if not (path / "result.json").exists())
    for path in unfinished.iterdir():
        os.utime(path, (2**32, 2**32))  # as if the clock had been set back since
    assert run(preprocessed, tmp_path, "--resume", "auto") == 0
    assert (unfinished / "result.json").exists()
    first, second, third = map(content, sorted(tmp_path.iterdir()))
    assert first == second == third


def killed_after(seconds: float, command: list[str]) -> bool:
    """Start a command and kill it after a while; whether it had finished before, in success."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def until_it_ends(command: list[str], next_moment: Callable[[], float]) -> int:
    """Start a command again and again, killing it once after `next_moment()`; how often it was killed."""
    if killed_after(next_moment(), command):
        return 0
    done = start(*command)
    assert done.returncode == 0, done.stderr
    return 1


def test_runs_killed_at_random_moments_end_as_an_undisturbed_one(sample, tmp_path):
    """From the raw corpus to the report; each command is killed once and called again."""
    seed = int(os.environ.get("FAULTS_SEED", "0"))
    rng, killed = random.Random(seed), 0

    def commands(folder: Path) -> list[list[str]]:
        corpus = folder / "corpus"
        preprocess = ["preprocessing.py", "--data_path", str(corpus), "--text_model", str(corpus / "kobert")]
        audio = ("--modality", "audio_text", "--batch_size", "16", "--epochs", "2", "--save_every", "1")
        return [
            [*preprocess, "--overwrite", "--gpu_id", "cpu"],
            ["main.py", *options(corpus, folder / "exp", *audio, "--resume", "auto")],
        ]

    def results(folder: Path) -> list[dict[str, bytes]]:
        """Of every finished run: a command that is killed behind its last line has one, called again makes one more."""
        tables = {path.name: path.read_bytes() for path in (folder / "corpus").glob("*.csv")}
        runs = sorted(path.parent for path in folder.glob("exp/*/result.json"))
        assert not [path for run in runs for path in run.glob(CHECKPOINT)]
        assert not [*runs[-1].glob(".lock")]
        return [tables | content(run) for run in runs]

    whole, seconds = tmp_path / "whole", []
    shutil.copytree(sample, whole / "corpus")
    for command in commands(whole):
        begin = time.monotonic()
        done = start(*command)
        assert done.returncode == 0, done.stderr
        seconds.append(time.monotonic() - begin)
    (expected,) = results(whole)
    for attempt in range(KILLS):
        folder = tmp_path / str(attempt)
        shutil.copytree(sample, folder / "corpus")
        for command, duration in zip(commands(folder), seconds, strict=True):
            killed += until_it_ends(command, lambda duration=duration: rng.uniform(0.2, 1.0) * duration)
        found = results(folder)
        assert found == [expected] * len(found), f"attempt {attempt} of FAULTS_SEED {seed}"
        unfinished = [path for path in folder.glob("exp/*/*") if not (path.parent / "result.json").exists()]
        assert unfinished == [], f"attempt {attempt} of FAULTS_SEED {seed}"
        shutil.rmtree(folder)
    assert killed > 0
