"""Runs: what a report reads from experiment folders, and the corpora and machines that the runs come from."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from constants import EMOTIONS, ROLES
from corpora.registry import corpus_of, named, parse_id
from corpora.sessions import Session, is_session
from metric import FIGURES, SINGLE_LABEL_FIGURES, WHOLE_FIGURES
from utils import InputError, count, read_bounded, read_json

AFFECT_COLUMNS = ("arousal", "arousal_pred", "valence", "valence_pred")  # of predictions.csv
MAX_CSV_BYTES = 100 * 2**20  # the predictions of a run have some hundred thousand
PUBLISHED_CORPUS = "KEMDy19"  # of the figures in data/published.csv, but for tables named after another corpus
SAME_PREDICTION = 1e-2  # another device moves a probability or a rating by less, another option by more
SIZE_TOLERANCE = 0.05  # copies of the corpus may differ by this share of their utterances


class Entry(NamedTuple):
    """A run that a table asks for."""

    table: str  # "3.2", "modality", ...: names the table's files
    title: str  # of the table
    row: str  # label of the configuration
    role: str
    test_split: tuple[Session, ...]  # test sessions
    seed: int
    run_id: str  # the same for rows that share a run
    folder: Path | None  # the experiment folder, if the run has finished
    error: str | None  # why it has not
    published: dict[str, float] | None  # figures that were published for this row, by the names in `metric.FIGURES`
    options: Mapping[str, str] = MappingProxyType({})  # of a grid's row: the values of its options
    baseline: str | None = None  # the table's row that the others are compared with


class Run(NamedTuple):
    """What a report takes from an experiment folder; N windows were tested."""

    figures: dict[str, float]  # `metric.FIGURES`, the first three means over batches, and `SINGLE_LABEL_FIGURES`
    majority_f1: float
    classes: dict[str, float]  # F1 of each emotion that occurs
    ids: list[str]  # segment ids of the tested windows' last utterances
    arrays: dict[str, np.ndarray]  # as `engine.evaluate` returns them: shape = (N, 7) and (N,)
    history: pd.DataFrame  # epoch, train_loss, and valid_loss if there were validation sessions
    configuration: dict[str, Any]
    # By part of the test, as `sentences.figures_by_part` names them: numbers by name; none of an earlier run
    parts: Mapping[str, Mapping[str, float]] = MappingProxyType({})

    @property
    def sessions(self) -> set[Session]:
        """All sessions of its corpora: for training, validation and testing."""
        stored = self.configuration
        return {*stored["train_split"], *(stored.get("valid_split") or []), *stored["test_split"]}

    @property
    def has_dialogues(self) -> bool:
        """Whether all its tested windows are of a known corpus, whose ids say their dialogue."""
        return all(parse_id(segment) for segment in self.ids)

    @property
    def n_utterances(self) -> int:
        """Labelled utterances of its corpus: each of them ends one window."""
        return sum(self.configuration["windows"].values())


class Result(NamedTuple):
    """What a report takes from result.json."""

    figures: dict[str, float]
    majority_f1: float
    classes: dict[str, float]
    n_windows: int
    parts: dict[str, dict[str, float]]


def group(entries: Iterable[Any], *fields: str) -> dict[tuple, list[Any]]:
    """Entries, or other named tuples, by their values of these fields, in the order in which these first occur."""
    groups: dict[tuple, list[Any]] = {}
    for entry in entries:
        groups.setdefault(tuple(getattr(entry, field) for field in fields), []).append(entry)
    return groups


def finished(entries: Iterable[Entry], runs: dict[Path, Run]) -> list[Run]:
    """The runs of those entries whose run has finished and could be read."""
    return [runs[entry.folder] for entry in entries if entry.folder in runs]


def values_of(runs: Sequence[Run]) -> pd.DataFrame:
    """`metric.FIGURES`, `SINGLE_LABEL_FIGURES` (NaN where no window has one label) and `majority_f1`, a row per run."""
    rows = [run.figures | {"majority_f1": run.majority_f1} for run in runs]
    return pd.DataFrame(rows, columns=[*FIGURES, *SINGLE_LABEL_FIGURES, "majority_f1"], dtype=float)


# Reading an experiment folder


def read_run(folder: Path) -> Run:
    """Read an experiment folder in which main.py has finished.

    The result of an earlier version knows no parts: its newest `--test_only` that does takes its place.

    Raises
    ------
    InputError : one of its files is missing or damaged
    """
    result, predictions = read_test(folder)
    configuration = read_configuration(folder / "configuration.json")
    if not result.parts:
        result, predictions = find_test(folder, predictions, configuration) or (result, predictions)
    return Run(
        figures=result.figures,
        majority_f1=result.majority_f1,
        classes=result.classes,
        ids=predictions["segment_id"].astype(str).tolist(),
        arrays={
            "emotion": predictions[[*EMOTIONS]].to_numpy(),
            "emotion_pred": predictions[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy(),
            **{name: predictions[name].to_numpy() for name in AFFECT_COLUMNS},
        },
        history=read_columns(folder / "history.csv", ["epoch", "train_loss"]),
        configuration=configuration,
        parts=result.parts,
    )


def read_test(folder: Path) -> tuple[Result, pd.DataFrame]:
    """The result and predictions that a folder holds; raises `InputError` where they are missing or damaged."""
    result = read_result(folder / "result.json")
    return result, read_predictions(folder / "predictions.csv", result.n_windows)


def find_test(
    folder: Path, predictions: pd.DataFrame, configuration: Mapping[str, Any]
) -> tuple[Result, pd.DataFrame] | None:
    """The newest test that repeats the run's own, with the same predictions and batch size, and knows the parts."""
    tested = ["segment_id", *EMOTIONS, "arousal", "valence"]
    predicted = [column for column in predictions if column not in tested]
    for path in sorted(folder.glob("test_*"), reverse=True):
        try:
            result, again = read_test(path)
            batch_size = read_json(path / "configuration.json").get("batch_size")
        except InputError:  # one that was stopped, or of another program
            continue
        if not result.parts or batch_size != configuration.get("batch_size"):
            continue
        same = again[tested].equals(predictions[tested])
        if same and np.allclose(again[predicted], predictions[predicted], rtol=0, atol=SAME_PREDICTION):
            return result, again
    return None


def read_result(path: Path) -> Result:
    """Read a result.json; raises `InputError` unless it holds the figures of a test."""
    content = read_json(path)
    try:
        figures = {name: float(str(content[name]).partition("+-")[0]) for name in FIGURES}
        overall = content["overall"]
        figures |= {name: float(overall[name]) for name in SINGLE_LABEL_FIGURES if name in overall}
        by_class = overall.get("classes", {})
        classes = {emotion: float(by_class[emotion]["f1-score"]) for emotion in EMOTIONS if emotion in by_class}
        majority_f1, n_windows = float(overall["majority_f1"]), int(overall["n"])
        parts = {name: read_part(part) for name, part in content.get("parts", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a result of main.py ({error!r}); test the run again") from error
    if not all(-1 <= value <= 1 for value in (*figures.values(), *classes.values(), majority_f1)):
        raise InputError(f"{path}: holds a figure outside -1 to 1; test the run again")
    return Result(figures, majority_f1, classes, n_windows, parts)


def read_part(part: Mapping[str, Any]) -> dict[str, float]:
    """Counts and figures of a part of a test; `lookup` is the weighted F1 of looking the sentence up."""
    numbers = {name: float(part[name]) for name in ("n", "n_single_label", "dialogues")}
    numbers |= {name: float(part[name]) for name in WHOLE_FIGURES if name in part}
    return numbers | ({"lookup": float(part["lookup"]["weighted_f1"])} if "lookup" in part else {})


def read_configuration(path: Path) -> dict[str, Any]:
    """Read the configuration.json of a run; raises `InputError` unless it holds a role, splits and window counts."""
    content = read_json(path)
    try:
        splits = [content["train_split"], content["test_split"], content.get("valid_split") or []]
        is_whole = all(isinstance(number, int) for number in content["windows"].values())
        if content["SorL"] not in ROLES or not is_whole or not all(map(is_session, itertools.chain(*splits))):
            raise TypeError("expected a role, sessions in the splits and whole numbers in windows")
        paths = content["data_path"]
        content["data_path"] = " and ".join(map(str, paths)) if isinstance(paths, list) else str(paths)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not one of main.py's runs ({error!r}); run it again") from error
    return content


def read_predictions(path: Path, n_windows: int) -> pd.DataFrame:
    """Read the predictions.csv of a test of `n_windows` windows: its columns, and one per emotion (multi-hot labels).

    Raises
    ------
    InputError : it is missing, lacks a column, or has other labels or another number of windows
    """
    probabilities = [f"p_{emotion}" for emotion in EMOTIONS]
    predictions = read_columns(path, [*probabilities, *AFFECT_COLUMNS], texts=["segment_id", "emotion"])
    labels = predictions["emotion"].astype(str).str.get_dummies(";")
    if len(predictions) != n_windows or not set(labels) <= set(EMOTIONS):
        raise InputError(
            f"{path}: {len(predictions)} windows with the labels {', '.join(labels)}; expected {n_windows}, as in "
            f"result.json, with some of {', '.join(EMOTIONS)}"
        )
    known = ["segment_id", *probabilities, *AFFECT_COLUMNS]
    return predictions[known].join(labels.reindex(columns=EMOTIONS, fill_value=0))


def read_columns(path: Path, numbers: Sequence[str], texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file that has columns of finite `numbers`, perhaps some of `texts`, and perhaps others.

    Raises
    ------
    InputError : it is missing, has no row, or lacks one of these columns
    """
    try:
        table = pd.read_csv(io.BytesIO(read_bounded(path, MAX_CSV_BYTES)))
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; a finished run of main.py has it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as CSV ({error}); run it again") from error
    if absent := sorted({*numbers, *texts} - set(table)):
        raise InputError(f"{path}: has no column {', '.join(absent)}; run it again")
    try:
        finite = np.isfinite(table[[*numbers]].to_numpy(dtype=np.float64)).all()
    except ValueError:
        finite = False
    if table.empty or not finite:
        raise InputError(f"{path}: expected rows of finite numbers in {', '.join(numbers)}; run it again")
    return table


# Corpora and machines


def whole_corpus(run: Run) -> str | None:
    """The known corpus that a run was made from the whole of; None for another, a part, a synthetic one, and several.

    Its ids, all its sessions, its size, and what its configuration says of its data must agree.
    """
    corpora = {corpus_of(segment) for segment in run.ids}
    corpus = corpora.pop() if len(corpora) == 1 else None
    if corpus is None:
        return None
    data = run.configuration.get("data")
    if isinstance(data, list):
        return None
    if isinstance(data, dict) and (data.get("synthetic") or data.get("corpus", corpus.name) != corpus.name):
        return None
    expected = corpus.utterances.get(run.configuration["SorL"], 0)
    is_complete = len(run.sessions) == len(corpus.sessions)
    return corpus.name if is_complete and abs(run.n_utterances - expected) <= SIZE_TOLERANCE * expected else None


def is_of_several(run: Run) -> bool:
    """Whether a run was made from several corpora, none of them synthetic."""
    data = run.configuration.get("data")
    return isinstance(data, list) and not any(record["synthetic"] for record in data)


def published_corpus_of(table: str) -> str:
    """The corpus of a table's published figures: the one that it is named after, else `PUBLISHED_CORPUS`."""
    corpus = named(table)
    return corpus.name if corpus else PUBLISHED_CORPUS


def may_show_published(
    table: str, of_table: Iterable[str | None], of_report: Iterable[str | None], data_path: Path
) -> bool:
    """Whether a table's published figures may stand beside ours.

    Parameters
    ----------
    table : its name
    of_table, of_report : the `whole_corpus` of each run of the table, and of the report: all must be of a whole corpus,
        and the table's (if it has none, the report's) of that of its published figures
    data_path : without any run, the corpus there counts
    """
    expected = published_corpus_of(table)
    found, every = {*of_table}, {*of_report}
    if every:
        return None not in every and (found or every) == {expected}
    try:
        corpus = read_json(data_path / "corpus.json")
    except InputError:  # published files have none
        return True
    return not corpus.get("synthetic") and corpus.get("corpus", expected) == expected


def describe_corpora(runs: Iterable[Run]) -> tuple[list[str], str]:
    """The corpora of these runs in words, one per data path, and the warning that heads the report, or ''.

    It warns of corpora other than the published one, and of one path whose corpus had several sizes.
    """
    # by path: role and number of utterances, and whether this is a whole corpus in all runs
    sizes: dict[str, dict[tuple[str, int], bool]] = {}
    for run in runs:
        of_path = sizes.setdefault(run.configuration["data_path"], {})
        key = run.configuration["SorL"], run.n_utterances
        of_path[key] = of_path.get(key, True) and whole_corpus(run) is not None

    corpora = [format_sizes(path, of_path) for path, of_path in sizes.items()]
    others = [
        format_sizes(path, [key for key, is_whole in of_path.items() if not is_whole])
        for path, of_path in sizes.items()
        if not all(of_path.values())
    ]
    changed = [path for path, of_path in sizes.items() if len({role for role, _ in of_path}) < len(of_path)]
    warnings = []
    if others and all(is_of_several(run) for run in runs if whole_corpus(run) is None):
        warnings.append(
            f"Not {PUBLISHED_CORPUS} alone: made from {'; '.join(others)}. Its figures must not be put beside "
            "published ones."
        )
    elif others:
        warnings.append(
            f"Not {PUBLISHED_CORPUS}: made from {'; '.join(others)}. Its figures say nothing about {PUBLISHED_CORPUS} "
            "and must not be put beside published ones."
        )
    if changed:
        warnings.append(
            f"The corpus in {', '.join(changed)} changed between the runs, so their figures cannot be compared: remove "
            "the runs on the old corpus and run them again."
        )
    return corpora, " ".join(warnings)


def format_sizes(path: str, sizes: Iterable[tuple[str, int]]) -> str:
    """`data/sample, 461 utterances (speaker)`, from a data path and its numbers of utterances by role."""
    return ", ".join([path, *(f"{n:,} utterances ({role})" for role, n in sizes)])


def describe_machines(runs: Iterable[Run]) -> dict[str, str]:
    """Commit, device and versions that the runs were made with; where they differ, with the number of runs of each."""
    found: dict[str, Counter] = {}
    for run in runs:
        facts = {name: run.configuration.get(name, "unknown") for name in ("commit", "device", "training_precision")}
        versions = run.configuration.get("versions")
        if isinstance(versions, dict):
            facts |= versions
        for name, value in facts.items():
            found.setdefault(name, Counter())[str(value)] += 1
    return {name.replace("_", " "): format_counts(counts) for name, counts in found.items()}


def format_counts(counts: Counter) -> str:
    """The only value, or `2.11.0 (3 runs); 2.10.0 (1 run)`."""
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({count(n, 'run')})" for value, n in counts.items())
