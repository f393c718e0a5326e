"""Plan: the published tables, grids of options, and the runs of main.py that they need."""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from corpora.corpus import KEMDY19, KEMDY20, Corpus, corpus_of
from corpora.sessions import format_sessions, training_sessions
from corpora.utterances import read_utterances
from features.encoders import encoder_name, has_embeddings
from training.data_record import data_record
from training.finetune_options import folder_name
from training.finetune_options import get_args_parser as get_finetune_parser
from training.learnt import check_learnt
from training.options import defaults, make_options, names_of, switch, without_effect
from training.record import ENCODERS, Record, load_init, run_id
from utils import InputError, count

Fold = tuple[int, ...]  # test sessions
Options = dict[str, Any]  # of main.py


@dataclass(frozen=True)
class Table:
    """A table of rows to compare: each row is run on each fold, for each role and seed."""

    title: str
    rows: dict[str, Options]  # by the row's name
    folds: tuple[Fold, ...] = (KEMDY19.tuning_fold,)
    by_role: dict[str, Options] = field(default_factory=dict)  # of all rows of one role
    seeds: int = 1  # default of --seeds
    baselines: Mapping[str, str] = field(default_factory=dict)  # by row name, the row to compare with


CLASS_BALANCED = {"loss": "cbloss", "lam": 0.9}
TABLES = {  # published, of KEMDy19; an option that one of them sets has its default in the others
    "3.2": Table("Five folds", {"default": {}}, folds=KEMDY19.folds),
    "3.3": Table("Unidirectional and bidirectional", {"default": {}, "bidirectional": {"bidirectional": True}}),
    "3.4": Table("Affect heads without emotion", {"default": {}, "no concat": {"no_concat": True}}),
    "3.5": Table(
        "Class-balanced loss over beta",
        {f"beta {text}": CLASS_BALANCED | {"beta": float(text)} for text in (".8", ".9", ".99", ".999")},
    ),
    "3.6": Table(
        "Weight of the emotion loss", {f"lam {text}": {"lam": float(text)} for text in (".5", ".66", ".75", ".8")}
    ),
    "3.7": Table(
        "Best settings, five folds",
        {"best": {}},
        folds=KEMDY19.folds,
        by_role={"speaker": {"lam": 0.75}, "listener": CLASS_BALANCED | {"beta": 0.9}},
    ),
    "modality": Table("Single modalities", {"audio": {"modality": "audio"}, "text": {"modality": "text"}}),
    "backbone": Table("LSTM against GRU", {"lstm": {}, "gru": {"backbone": "gru"}}),
}
BEYOND = "beyond"  # effect of each option beyond MATE, on the folds of any corpus
DATA_SIZE = "data_size"  # effect of more training sessions, see `data_size_table`
FINETUNED = "finetuned"  # effect of encoders that are fine-tuned on the training sessions
NAMED = (BEYOND, DATA_SIZE, FINETUNED)  # of any corpus; run only if named
RECOMPUTED = {"bn_statistics": "train"}
BEYOND_ROWS = {
    "MATE": RECOMPUTED,
    "running statistics": {},  # as published
    "speakers": RECOMPUTED | {"speakers": True},
    "ccc": RECOMPUTED | {"affect_loss": "ccc"},
    "encoder": RECOMPUTED | {"audio": "encoder"},
    "all": RECOMPUTED | {"speakers": True, "affect_loss": "ccc", "audio": "encoder"},
    "text alone": RECOMPUTED | {"modality": "text"},
    "encoder alone": RECOMPUTED | {"modality": "audio", "audio": "encoder"},
}
FROZEN = {"text": {"modality": "text"}, "speech": {"modality": "audio", "audio": "encoder"}}
FROZEN["both"] = {"audio": "encoder"}
FROZEN = {name: RECOMPUTED | {"speakers": True} | options for name, options in FROZEN.items()}
FINETUNED_ROWS = {f"{name} {how}": options for name, options in FROZEN.items() for how in ("frozen", "fine-tuned")}
GRID = "grid"  # the table of --grid
FOLDS = "folds"  # of a corpus with manifest.csv
NAMES = (*TABLES, KEMDY20.name, FOLDS, *NAMED)
NEXT = "next"  # as --valid_split: each fold is validated on the next fold, the last on the first
SET_BY_PLAN = {"SorL", "test_split", "seed", "resume", "test_only", "test_path"}
EPOCHS = 100  # of the published tables; main.py has 50 by default
UNDECIDED = {"seed", "precision", "compile"}  # may differ from the published runs; their seed is unknown


def tables_of(corpus: Corpus) -> dict[str, Table]:
    """The tables of a corpus, including `NAMED`."""
    folds = Table(f"{len(corpus.folds)} folds of {corpus.name}", {"default": {}}, corpus.folds)
    own = TABLES if corpus is KEMDY19 else {FOLDS if corpus.is_own else corpus.name: folds}
    to_mate = dict.fromkeys(BEYOND_ROWS, "MATE")
    to_frozen = {f"{name} fine-tuned": f"{name} frozen" for name in FROZEN}
    return own | {
        BEYOND: Table("Beyond MATE", BEYOND_ROWS, corpus.folds, seeds=3, baselines=to_mate),
        DATA_SIZE: data_size_table(corpus),
        FINETUNED: Table("Fine-tuned encoders", FINETUNED_ROWS, corpus.folds, seeds=3, baselines=to_frozen),
    }


def data_size_table(corpus: Corpus) -> Table:
    """Training on a quarter, a half, three quarters and all of the sessions outside the tuning fold.

    Each row includes the sessions of the previous row; the fold on which `NEXT` validates is added last.
    """
    fold = corpus.tuning_fold
    after = corpus.next_fold[fold]
    order = sorted({*sum(corpus.folds, ())} - {*fold}, key=lambda session: (session in after, session))
    sizes = [max(1, len(order) * quarter // 4) for quarter in (1, 2, 3, 4)]
    rows = {count(size, "session"): {"train_split": sorted(order[:size])} for size in sizes}
    baselines = dict.fromkeys(rows, next(iter(rows)))
    return Table("Number of training sessions", rows, folds=(fold,), seeds=3, baselines=baselines)


def make_grid(axes: Mapping[str, Sequence[tuple[str, Any]]], folds: Sequence[Fold]) -> Table:
    """A table with a row for each combination of these values, each given as text and as main.py's value."""
    rows = {}
    for values in itertools.product(*axes.values()):
        name = " ".join(f"{axis}={text}" for axis, (text, _) in zip(axes, values, strict=True))
        rows[name] = {axis: value for axis, (_, value) in zip(axes, values, strict=True)}
    return Table("Grid", rows, folds=tuple(dict.fromkeys(folds)))


def parse_axis(axis: str) -> tuple[str, list[tuple[str, Any]]]:
    """The option and the values, each as text and as main.py's value, of `lam=0.5,0.66` or `speakers=no,yes`."""
    name, _, values = axis.partition("=")
    names = names_of("test", "model", "training") - SET_BY_PLAN - {"valid_split"}
    if name not in names:
        raise InputError(f"--grid {axis}: expected NAME=VALUE,... with one of {', '.join(sorted(names))}")
    texts, is_flag = values.split(","), defaults()[name] is False
    given = [switch(text) if is_flag else text for text in texts]
    parsed = [make_options(**{"valid_split": [1], name: value}) for value in given]
    return name, [(text, vars(options)[name]) for text, options in zip(texts, parsed, strict=True)]


def options_set_by(tables: Mapping[str, Table]) -> set[str]:
    """The options that these tables set; with a published table, those that any published table sets."""
    of_published = TABLES if tables.keys() & TABLES.keys() else {}
    rows = [(*table.rows.values(), *table.by_role.values()) for table in (*tables.values(), *of_published.values())]
    return {name for options in itertools.chain(*rows) for name in options}


def plan_runs(
    tables: Mapping[str, Table],
    shared: argparse.Namespace,
    *,
    roles: Sequence[str],
    seeds: int | None = None,
    valid_split: Sequence[int] | str | None = None,
) -> pd.DataFrame:
    """The runs of the tables, in the order in which to make them; a run that tables share has a row for each table.

    `shared` are the options of all runs. The columns are `table`, `title`, `row`, `baseline`, `role`, `test` (sessions
    as text), `seed`, `label`, `options` (a Namespace), `is_default` (the row sets no option), `unlike` (see
    `other_settings`), `run_id`, and `error`: why a run cannot be made (its `run_id` is then of the options only).
    """
    rows, known, after = [], {}, corpus_of(shared.data_path).next_fold  # `known` by `identify`
    for (name, table), role in itertools.product(tables.items(), roles):
        of_each = itertools.product(table.rows.items(), table.folds, range(seeds or table.seeds))
        for (row, changes), fold, seed in of_each:
            if valid_split == NEXT and fold not in after:
                raise InputError(f"--valid_split {NEXT}: {format_sessions(fold)} is not a fold; give sessions instead")
            own = {"SorL": role, "test_split": [*fold], "seed": seed}
            valid = {"valid_split": [*after[fold]] if valid_split == NEXT else valid_split}
            changes = changes | table.by_role.get(role, {})
            options = argparse.Namespace(**vars(shared) | changes | own | valid)
            if Path(options.init or "").name == "latest":
                raise InputError("--init latest: the newest run changes while runs are made; give the run folder")
            if name == FINETUNED:
                if not all(used_encoders(options).values()):
                    continue
                if row.endswith("fine-tuned"):
                    options = with_fine_tuned(options)
            found = {"table": name, "title": table.title, "baseline": table.baselines.get(row), "row": row}
            found |= {"role": role, "test": format_sessions(fold), "seed": seed, "options": options}
            found["label"] = f"{role}, {row}, sessions {found['test']}, seed {seed}"
            found |= {"is_default": not changes and name != GRID, "unlike": other_settings(options, changes | own)}
            rows.append(found | identify(options, known))
    if not rows:
        raise InputError(f"{FINETUNED}: give the encoders to fine-tune by --text_model, --audio_model or both")
    idle = [without_effect(row["options"]) for row in rows]
    for name in shared.given.intersection(*idle):
        warnings.warn(f"--{name} {idle[0][name]}", stacklevel=2)
    return pd.DataFrame(rows)


def used_encoders(options: argparse.Namespace) -> dict[str, str | None]:
    """The encoders of a run of the table `FINETUNED`, by the options that name them."""
    uses_speech = "audio" in options.modality and options.audio == "encoder"
    names = ["text_model"] * ("text" in options.modality) + ["audio_model"] * uses_speech
    return {name: vars(options)[name] for name in names}


def with_fine_tuned(options: argparse.Namespace) -> argparse.Namespace:
    """The options with encoders fine-tuned for the run's fold, role and seed; `made_by` are their commands."""
    made_by, names = {}, {}
    for name, parent in used_encoders(options).items():
        same = ("data_path", "audio_path", "SorL", "test_split", "valid_split", "seed", "save_path", "gpu_id")
        given = {name: parent} | {key: vars(options)[key] for key in same}
        made_by[name] = [*options.finetune, *command_line(given)]
        names[name] = folder_name(get_finetune_parser().parse_args(made_by[name]))
    return argparse.Namespace(**vars(options) | names, made_by=made_by)


def lacking_encoders(planned: pd.DataFrame, keep: bool) -> pd.DataFrame:
    """The encoders whose embeddings the runs of `FINETUNED` lack: rows for `jobs.run_here`."""
    rows = {}
    for options in planned.loc[planned["table"] == FINETUNED, "options"]:
        of_corpus = {name: vars(options)[name] for name in ("data_path", "audio_path", "gpu_id")}
        for option, encoder in used_encoders(options).items():
            name, argv = encoder_name(encoder), vars(options).get("made_by", {}).get(option)
            if name in rows or has_embeddings(options.data_path, options.audio_path, ENCODERS[option], encoder):
                continue
            command = ["preprocessing", *command_line(of_corpus | {option: encoder})]
            if argv:
                command = ["sweeps.encoders", *["keep"] * keep, *argv]
            label = {"table": FINETUNED, "label": f"encoder {name}"}
            rows[name] = label | {"run_id": name.replace("/", "-"), "command": command}
    return pd.DataFrame(rows.values())


def command_line(options: Mapping[str, Any]) -> list[str]:
    """Options and their values as words of a command line, with absolute paths, without those that are None."""
    argv = []
    for name, value in options.items():
        if isinstance(value, Path):
            argv += [f"--{name}", str(value.absolute())]
        elif value is True:
            argv += [f"--{name}"]
        elif value is not None:
            argv += [f"--{name}", format_sessions(value) if isinstance(value, list) else str(value)]
    return argv


def other_settings(options: argparse.Namespace, row: Options) -> str:
    """The first option by which a run differs from the published run with the options `row`, as text; '' if none."""
    published = defaults() | {"epochs": EPOCHS} | row
    names = names_of("test", "model", "training") - UNDECIDED - without_effect(options).keys()
    differ = sorted(name for name in names if vars(options)[name] != published[name])
    return "".join(f"--{name} is {vars(options)[name]}, published {published[name]}" for name in differ[:1])


def identify(options: argparse.Namespace, known: dict[tuple, Any]) -> dict[str, str | None]:
    """`run_id` and `error` of a run; `known` caches sessions and data by the options that they depend on."""
    names = ("SorL", "modality", "audio", "audio_model", "text_model", "text_dim", "init")
    key = tuple(getattr(options, name) for name in names)
    try:
        if key not in known:
            table = read_utterances(options.data_path, options.SorL)
            known[key] = {*table["session"]}, data_record(options, table, []) | load_init(options)[1]
        present, data = known[key]
        sessions = training_sessions(present, options.test_split, options.valid_split, options.train_split)
        check_learnt(data, options.test_split)
    except InputError as error:
        return {"run_id": run_id(options, {}), "error": str(error)}
    return {"run_id": run_id(options, data | {"train_sessions": format_sessions(sessions)}), "error": None}


def find_planned(planned: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of `plan_runs` with the columns of the equal finished run in `runs`, or NaN.

    Without the corpus, runs of equal options are taken as equal, whatever their data.
    """
    if not planned["options"].iloc[0].data_path.is_dir():
        stored = [Record.read(folder).options | {"audio_model": None, "text_model": None} for folder in runs["folder"]]
        runs = runs.assign(run_id=pd.Series([run_id(options, {}) for options in stored], dtype=str))
    own = [name for name in runs if name == "run_id" or name not in planned]
    newest = runs[runs["run_id"].notna()].drop_duplicates("run_id", keep="last")
    return planned.merge(newest[own], "left", on="run_id", validate="m:1")
