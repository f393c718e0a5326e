"""Encoders: fine-tuning an encoder, computing its embeddings and removing its weights, in a process of its own.

`python -m sweeps.encoders NAME [keep] FINETUNE_ARGUMENTS...`; where NAME is the parent's, its embeddings are computed
and nothing else. A lock keeps others from making the same. Called again, it goes on.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import filelock
import finetune

import preprocessing
from features.encoders import OPTIONS, encoder_name
from sweeps.jobs import log_of
from sweeps.plan import command_line
from utils import lock_file


def make_encoder(name: str, keep: bool, argv: list[str]) -> int:
    """Make an encoder of `plan.lacking_encoders`; the exit status of the command that failed, or 0."""
    options = finetune.get_args_parser().parse_args(argv)
    kind, parent = ("text", options.text_model) if options.text_model else ("speech", options.audio_model)
    with contextlib.suppress(filelock.Timeout), lock_file(log_of(options.save_path, name).with_suffix(".lock")):
        is_parent = name == encoder_name(parent)
        folder = Path(parent) if is_parent else options.save_path / name
        if not is_parent and not finetune.is_finished(folder) and (status := finetune.main([*argv, "--resume"])):
            return status
        where = {name: vars(options)[name] for name in ("data_path", "audio_path", "gpu_id")}
        status = preprocessing.main([*command_line(where), OPTIONS[kind], str(folder)])
        for path in [] if keep or status or is_parent else folder.glob("*.safetensors"):
            path.unlink()
        return status
    print("another process is working on this encoder")
    return 0


if __name__ == "__main__":
    keep = sys.argv[2] == "keep"
    sys.exit(make_encoder(sys.argv[1], keep, sys.argv[2 + keep :]))
