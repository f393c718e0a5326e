"""Encoders: fine-tuning an encoder, computing its embeddings and removing its weights, in a process of its own.

`python -m sweeps.encoders [keep] FINETUNE_ARGUMENTS...`. A lock prevents that two processes make the same encoder.
Called again, it resumes.
"""

from __future__ import annotations

import contextlib
import sys

import filelock

import finetune
import preprocessing
from sweeps.jobs import log_of
from sweeps.plan import command_line
from training.finetune_options import folder_name, get_args_parser
from utils import lock_file


def make_encoder(keep: bool, argv: list[str]) -> int:
    """Make an encoder of `plan.lacking_encoders`; return the exit status of the command that failed, or 0."""
    options = get_args_parser().parse_args(argv)
    name, option = folder_name(options), "text_model" if options.text_model else "audio_model"
    folder = options.save_path / name
    with contextlib.suppress(filelock.Timeout), lock_file(log_of(options.save_path, name).with_suffix(".lock")):
        if status := finetune.main([*argv, "--resume"]):
            return status
        given = {key: vars(options)[key] for key in ("data_path", "audio_path", "gpu_id")} | {option: folder}
        status = preprocessing.main(command_line(given))
        for path in [] if keep or status else folder.glob("*.safetensors"):
            path.unlink()
        return status
    print("another process is working on this encoder")
    return 0


if __name__ == "__main__":
    keep = sys.argv[1] == "keep"
    sys.exit(make_encoder(keep, sys.argv[1 + keep :]))
