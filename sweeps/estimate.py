"""Estimate: the time and the disk that runs will take, said before long work."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from constants import SAMPLE_RATE
from sweeps.jobs import Found
from training.configuration import defaults
from utils import InputError, read_json

# Thread-seconds, on a GPU seconds, that a window of 8 utterances takes in an epoch of the default model: of README.md's
# benchmark on two threads, and twice what an H100 takes by its bandwidth
STATED = {"cpu": 0.074, "gpu": 0.0005}
TEXT_SHARE = 0.05  # of that time where no log-mels go through the CNN
START = 8.0  # seconds in which a run starts, tests and draws
DECISIVE = ("modality", "audio", "ws", "sr")  # a run that differs in one of them says nothing about the time of another
SIMILAR = (
    *("backbone", "hidden_size", "num_layers", "bidirectional", "batch_size", "precision", "compile", "cuda_graph"),
    "loss",
)
OPTIMIZER_COPIES = {"adam": 2, "adamw": 2, "adagrad": 1, "sgd": 1}  # of the weights, which a checkpoint holds too
SMALL_FILES = 1_000_000  # bytes of a run's plots and logs
BYTES_OF_WINDOW = 300  # in predictions.csv


class Measured(NamedTuple):
    """A finished run that was made in one go.

    device : as `describe_kind` gives it
    seconds : thread-seconds (on a GPU seconds) of a training window in an epoch
    """

    configuration: Mapping[str, Any]
    device: str
    seconds: float


class Machine(NamedTuple):
    """Where runs are made.

    device : as `describe_kind` gives it, None where it is not known
    places : runs at once, on GPUs not more than there are
    threads : of a run, 1 on a GPU
    """

    device: str | None
    places: int
    threads: int


def describe_kind(device: str) -> str:
    """The kind of a `device` of configuration.json, without its number and its threads."""
    return re.sub(r"(?<=cuda):\d+|,? *\d+ threads", "", device)


def n_threads(device: str) -> int:
    """The threads that a `device` of configuration.json says, 1 for a GPU: its time does not depend on them."""
    found = re.search(r"(\d+) threads", device)
    return int(found[1]) if found and device.startswith("cpu") else 1


# Time


def measure(runs: Iterable[Found]) -> list[Measured]:
    """What the finished runs took, from the times of their files; those that were stopped in between are left out."""
    measured = []
    for run in runs:
        configuration, result = run.folder / "configuration.json", run.folder / "result.json"
        if not run.finished or len([*run.folder.glob("events.out.tfevents.*")]) > 1:  # it was resumed
            continue
        try:
            stored = read_json(configuration)
            seconds = result.stat().st_mtime - configuration.stat().st_mtime
            work, device = run.epochs * stored["windows"]["train"], str(stored["device"])
        except (InputError, OSError, KeyError, TypeError):
            continue
        if seconds > 1 and work > 0:  # not a copy, whose files are all of one time
            measured.append(Measured(defaults() | stored, describe_kind(device), seconds * n_threads(device) / work))
    return measured


def seconds_of_window(options: Mapping[str, Any], measured: Sequence[Measured], device: str | None) -> float | None:
    """Thread-seconds of a window of a run with these options, of the finished runs most like it; None without one."""
    import statistics

    alike = [
        run
        for run in measured
        if device in (None, run.device) and all(run.configuration[name] == options[name] for name in DECISIVE)
    ]
    shared = [sum(run.configuration[name] == options[name] for name in SIMILAR) for run in alike]
    if not alike:
        return None
    return statistics.median(run.seconds for run, n in zip(alike, shared, strict=True) if n == max(shared))


def stated_seconds(options: Mapping[str, Any], device: str) -> float:
    """Thread-seconds of a window by the stated rule."""
    audio = 1 if options["modality"] != "text" and options["audio"] == "cnn" else TEXT_SHARE
    return (
        STATED["cpu" if device.startswith("cpu") else "gpu"] * audio * options["ws"] / 8 * options["sr"] / SAMPLE_RATE
    )


def estimate_time(
    runs: Sequence[argparse.Namespace], sizes: Mapping[str, Counter], measured: Sequence[Measured], machine: Machine
) -> str:
    """How long these runs take, in words, and by what that is known.

    Parameters
    ----------
    runs : options of main.py of each
    sizes : by role, the utterances of each session
    """
    total, stated = 0.0, False
    for run in runs:
        options = vars(run)
        windows = sum(sizes[run.SorL].values()) - sum(sizes[run.SorL][session] for session in run.test_split)
        seconds = seconds_of_window(options, measured, machine.device)
        if seconds is None:
            if machine.device is None:
                return "time not known before a run like these has finished"
            seconds, stated = stated_seconds(options, machine.device), True
        total += run.epochs * windows * seconds / machine.threads + START
    place = "here" if machine.device else "there"
    known = "a rough guess until runs like these have finished" if stated else "as finished runs took"
    return f"about {format_duration(total / machine.places)} {place} ({known})"


def this_machine(gpu_id: str | None, places: Sequence[Mapping[str, str]]) -> Machine:
    """This machine, with runs at once in these `places` of `jobs.shares`."""
    import torch

    from training.devices import environment, pick_device

    device = pick_device(gpu_id)
    kind = describe_kind(environment(device)["device"])
    if device.type != "cpu":
        return Machine(kind, len({place["CUDA_VISIBLE_DEVICES"] for place in places}), 1)
    return Machine(kind, len(places), int(places[0].get("OMP_NUM_THREADS", torch.get_num_threads())))


# Disk


def estimate_disk(
    runs: Sequence[argparse.Namespace],
    sizes: Mapping[str, Counter],
    at_once: int,
    speech_shape: tuple[int, int] | None = None,
) -> int:
    """Bytes that these runs take at most: their weights, and while a run lasts two checkpoints of it.

    Parameters
    ----------
    runs, sizes : as in `estimate_time`
    at_once : runs that last at the same time
    speech_shape : layers and dimension of the speech embeddings, if one of the runs hears through an encoder

    Raises
    ------
    InputError : a model is too large for this machine
    """
    import torch

    from training.engine import build_model

    sizes_of_models: dict[tuple, int] = {}
    kept, working = 0, []
    for run in runs:
        key = tuple(
            str(value) for name, value in sorted(vars(run).items()) if name not in ("test_split", "SorL", "seed")
        )
        if key not in sizes_of_models:
            with torch.device("meta"):  # takes no memory
                sizes_of_models[key] = sum(
                    weight.nbytes for weight in build_model(run, speech_shape=speech_shape).state_dict().values()
                )
        windows = sum(sizes[run.SorL][session] for session in run.test_split)
        kept += sizes_of_models[key] + SMALL_FILES + BYTES_OF_WINDOW * windows
        working.append(
            2 * (1 + OPTIMIZER_COPIES[run.optim]) * sizes_of_models[key]
        )  # the old one stays until the new is whole
    return kept + sum(sorted(working)[-at_once:])


# In words


def format_duration(seconds: float) -> str:
    """`40 s`, `12 min`, `9 h` or `4 days`."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= (2 if unit == "days" else 1) * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, seconds):.0f} s"


def format_bytes(n: float) -> str:
    """`830 MB` or `5.1 GB`."""
    return f"{n / 1e6:.0f} MB" if n < 1e9 else f"{n / 1e9:.1f} GB" if n < 1e10 else f"{n / 1e9:.0f} GB"
