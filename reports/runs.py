"""Runs: the run folders in a save path as a DataFrame, with their options, data and figures as columns."""

from __future__ import annotations

import argparse
import math
import re
import time
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from constants import EMOTIONS, ROLES
from corpora.sessions import format_sessions, parse_sessions
from metric import BATCH_FIGURES, FIGURES, SINGLE_LABEL_FIGURES, WHOLE_FIGURES
from reports.predictions import read_predictions
from utils import InputError, lock_file, read_json

# A folder with any of these files is a run folder, perhaps a damaged one
FILES = ("configuration.json", "model.pth", "checkpoint.pt", "history.csv", "result.json")
BY_EMOTION = {f"F1_{emotion}": emotion for emotion in EMOTIONS}
OF_RATERS = [f"raters_{name}" for name in (*WHOLE_FIGURES, *BY_EMOTION)]
OF_BASELINES = [f"{who}_{name}" for who in ("majority", "lookup") for name in ("weighted_f1", "macro_f1")]
CALIBRATION = ["ece", "brier", "kl", "kl_constant"]
COLUMNS = ["folder", "date", "state", "epochs_done", "run_id", "test", "SorL", "seed", "epochs", "valid_split"]
COLUMNS += ["data_path", "data_corpus", "data_table", "data_utterances", "environment", "result", "n", "majority_f1"]
COLUMNS += [*FIGURES, *SINGLE_LABEL_FIGURES, *BY_EMOTION, *OF_RATERS, *OF_BASELINES, *CALIBRATION]
TRUTH = ["true_emotion", "true_arousal", "true_valence"]  # columns of predictions.csv


def read_runs(save_path: Path) -> pd.DataFrame:
    """The rows of `read_folders` whose run is finished and not damaged."""
    table = read_folders(save_path)
    return table[table["state"] == "finished"].reset_index(drop=True)


def read_folders(save_path: Path) -> pd.DataFrame:
    """All run folders in `save_path`, a row each, the oldest first; no rows if `save_path` does not exist.

    The columns are `COLUMNS`, all options by their names, and all data as `data_<name>`. `state` is "finished",
    "running", "unfinished", "not tested" (but trained) or "damaged: ..."; `test` is the test sessions as text;
    `environment` and `result` (of result.json) are dicts. Missing values are NaN.
    """
    paths = sorted(save_path.iterdir()) if save_path.is_dir() else []
    rows = [read_folder(path) for path in paths if any((path / name).is_file() for name in FILES)]
    names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    return pd.DataFrame(rows, columns=[*names]).sort_values(["date", "folder"], ignore_index=True)


def read_folder(folder: Path) -> dict[str, Any]:
    """The row of a run folder."""
    row: dict[str, Any] = {"folder": folder, "date": date_of(folder), "epochs_done": count_epochs(folder)}
    path = folder / "configuration.json"
    try:
        record = read_json(path)
        options = record.get("options", record)  # the published program's configuration is flat
        row |= options | {f"data_{name}": value for name, value in record.get("data", {}).items()}
        row |= {"run_id": record.get("run_id"), "environment": record.get("environment", {})}
        row |= {"test": format_sessions(parse_sessions(str(options["test_split"]))), "seed": options.get("seed", 0)}
        if options["SorL"] not in ROLES or not isinstance(options["epochs"], int):
            raise ValueError("expected a role and a number of epochs")
        path = folder / "result.json"
        if path.exists():
            return row | figures_of(read_json(path)) | {"state": "finished"}
        left = "not tested" if (folder / "loss_curve.png").exists() else "unfinished"
        return row | {"state": "running" if is_locked(folder) else left}
    except InputError as error:
        return row | {"state": "damaged: " + str(error).replace(f"{folder}/", "").partition(";")[0]}
    except (argparse.ArgumentTypeError, AttributeError, KeyError, TypeError, ValueError) as error:
        return row | {"state": f"damaged: {path.name}: {error!r}"}


def figures_of(result: dict[str, Any]) -> dict[str, Any]:
    """The columns of a result.json; those of the published program have no `overall`."""
    whole = result.get("overall", {})
    names = [name for name in FIGURES if name in result or name in BATCH_FIGURES]  # some corpora have no CCC
    found = {name: float(str(result[name]).partition("+-")[0]) for name in names}
    found |= {name: float(whole[name]) for name in (*SINGLE_LABEL_FIGURES, "majority_f1") if name in whole}
    found |= {f"F1_{name}": v["f1-score"] for name, v in whole.get("classes", {}).items() if name in EMOTIONS}
    people = result.get("raters") or {"mean": {}, "classes": {}}
    of_people = people["mean"] | {f"F1_{name}": value for name, value in people["classes"].items()}
    for who, figures in (("raters", of_people), ("majority", whole.get("majority")), ("lookup", whole.get("lookup"))):
        found |= {f"{who}_{name}": math.nan if value is None else value for name, value in (figures or {}).items()}
    if not all(-1 <= value <= 1 for value in found.values() if not math.isnan(value)):
        raise ValueError("a metric is outside -1 to 1")
    found |= {name: value for name, value in result.get("calibration", {}).items() if name in CALIBRATION}
    return found | {"n": whole.get("n"), "result": result}


def count_epochs(folder: Path) -> float:
    """Epochs in a run's history.csv, 0 without a history.csv, NaN for a folder of the published program."""
    if (folder / "history.csv").exists():
        return float((folder / "history.csv").read_bytes().count(b"\n") - 1)
    return math.nan if (folder / "result.json").exists() else 0.0


def date_of(folder: Path) -> str:
    """The start of a run, from its folder's name or else modification time: `2026-11-25 12:30:00`."""
    if found := re.search(r"(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)(\d\d)", folder.name):
        return "{}-{}-{} {}:{}:{}".format(*found.groups())
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folder.stat().st_mtime))


def is_locked(folder: Path) -> bool:
    """Whether a process is training in a run folder."""
    if not (folder / ".lock").exists():
        return False
    try:
        with lock_file(folder / ".lock"):
            return False
    except filelock.Timeout:
        return True


def read_windows(folder: Path) -> pd.DataFrame:
    """The test windows of a run, indexed and sorted by `segment_id`; `InputError` if they are damaged."""
    path = folder / "predictions.csv"
    windows = read_predictions(path).set_index("segment_id").sort_index()
    if windows.empty or windows[TRUTH].isna().any().drop(TRUTH[1:]).any() or windows.index.has_duplicates:
        raise InputError(f"{path}: no rows, a row without labels, or a duplicate segment id; test the run again")
    return windows
