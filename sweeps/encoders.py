"""Encoders: what the runs of the table `finetuned` need before they can be planned, each made in a process of its own.

`python -m sweeps.encoders NAME FINETUNE_ARGUMENTS...` fine-tunes an encoder, computes its embeddings and removes its
weights; where NAME is that of a parent, it computes the parent's embeddings alone. A lock keeps others from doing so.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import filelock
import pandas as pd

import finetune
import preprocessing
from corpora.sessions import format_sessions
from features.encoders import OPTIONS, encoder_name, has_embeddings
from sweeps.jobs import FOLDER
from sweeps.plan import used_encoders
from training.record import ENCODERS
from utils import lock_file


def lacking_encoders(planned: pd.DataFrame, save_path: Path, keep: bool) -> pd.DataFrame:
    """The encoders whose embeddings the runs of `plan_runs` lack, a row each, as `jobs.run_here` takes them."""
    rows = {}
    for options in planned["options"]:
        for option in used_encoders(options):
            name, kind = encoder_name(vars(options)[option]), ENCODERS[option]
            if name not in rows and not has_embeddings(options.data_path, options.audio_path, kind, name):
                parent = options.parents.get(option, vars(options)[option])
                parent = str(Path(parent).absolute()) if Path(parent).is_dir() else parent
                given = {option: parent, "SorL": options.SorL, "seed": options.seed, "lam": options.lam}
                given |= {"data_path": options.data_path.absolute(), "save_path": save_path.absolute()}
                given |= {"audio_path": options.audio_path and options.audio_path.absolute(), "gpu_id": options.gpu_id}
                splits = {part: vars(options)[part] for part in ("test_split", "valid_split")}
                given |= {part: format_sessions(split) for part, split in splits.items() if split}
                argv = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
                command = ["sweeps.encoders", name, *(["keep"] if keep else []), *argv]
                label = {"table": "finetuned", "label": f"encoder {name}", "run_id": name.replace("/", "-")}
                rows[name] = label | {"command": command}
    return pd.DataFrame(rows.values())


def make_encoder(name: str, keep: bool, argv: list[str]) -> int:
    """Make what a row of `lacking_encoders` asks for, or go on with it; the exit status of the command that failed."""
    options = finetune.get_args_parser().parse_args(argv)
    folder, option = options.save_path / name, "text_model" if options.text_model else "audio_model"
    parent, where = vars(options)[option], ["--data_path", str(options.data_path)]
    where += ["--audio_path", str(options.audio_path)] if options.audio_path else []
    where += ["--gpu_id", options.gpu_id] if options.gpu_id else []
    with contextlib.suppress(filelock.Timeout), lock_file(options.save_path / FOLDER / f"{name.replace('/', '-')}.lock"):
        is_parent = name == encoder_name(parent)
        if not is_parent and not finetune.is_finished(folder) and (status := finetune.main([*argv, "--resume"])):
            return status
        source = parent if is_parent else str(folder)
        if status := preprocessing.main([*where, OPTIONS[ENCODERS[option]], source]):
            return status
        for path in [] if keep or is_parent else folder.glob("*.safetensors"):
            path.unlink()
        return 0
    print("another process is working on this encoder")
    return 0


if __name__ == "__main__":
    keep = sys.argv[2] == "keep"
    sys.exit(make_encoder(sys.argv[1], keep, sys.argv[2 + keep :]))
