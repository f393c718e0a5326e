"""Options of finetune.py, and the name that they give to an encoder. Imports nothing that takes time."""

from __future__ import annotations

import argparse
from pathlib import Path

from constants import PRECISIONS, ROLES, TRACKERS
from corpora.sessions import format_sessions, parse_sessions
from features.encoders import encoder_name
from training.options import ArgumentParser, file_path, gpu, number

NAMED = ("epochs", "lr", "batch_size", "accumulate", "precision", "patience", "lam", "affect_loss")


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Fine-tune a text or a speech encoder on single utterances of a corpus.")
    add = parser.add_argument
    add("--data_path", type=file_path, default=Path("data/KEMDy19"), help="pre-processed corpus (%(default)s)")
    add("--audio_path", type=file_path, help="folder of the wavs, if neither DATA_PATH/wav nor ./audio")
    add("--SorL", choices=ROLES, default="speaker", help="learn the emotion of the speaker or listener (%(default)s)")
    one = parser.add_mutually_exclusive_group(required=True).add_argument
    one("--text_model", metavar="NAME", help="text encoder: hub name or folder")
    one("--audio_model", metavar="NAME", help="speech encoder: hub name or folder")
    add("--test_split", type=parse_sessions, metavar="SESSIONS", help="sessions held out (the first fold)")
    add("--valid_split", type=parse_sessions, metavar="SESSIONS", help="sessions that choose the best epoch (none)")
    add("--epochs", type=number(int, 1), default=5, help="passes over the utterances (%(default)s)")
    add("--lr", type=number(float, 0), default=2e-5, help="learning rate, after a rise and before a fall (%(default)s)")
    add("--batch_size", type=number(int, 1), default=16, help="utterances at once, of each process (%(default)s)")
    add("--accumulate", type=number(int, 1), default=1, help="batches in a step (%(default)s)")
    add("--gradient_checkpointing", action="store_true", help="take less memory, and a third more time (off)")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 on a GPU that is fast in it (%(default)s)")
    add("--patience", type=number(int, 1), help="stop after so many epochs that are no better on --valid_split (none)")
    add("--lam", type=number(float, 0, 1), default=0.66, help="weight of the emotion's loss (%(default)s)")
    add("--affect_loss", choices=("mse", "ccc", "mse_ccc"), default="mse", help="of arousal, valence (%(default)s)")
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, help="random seed (%(default)s)")
    add("--save_path", type=file_path, default=Path("exp"), help="folder of the encoder's folder (%(default)s)")
    add("--resume", action="store_true", help="go on with an unfinished folder of the same options (off)")
    add("--report_to", choices=TRACKERS, default="none", help="experiment tracker (%(default)s)")
    add("--gpu_id", type=gpu, help="a GPU's number, or cpu (the first CUDA GPU, or the CPU)")
    return parser


def folder_name(options: argparse.Namespace) -> str:
    """The name of the folder of the encoder that these options make, by which preprocessing.py and main.py know it.

    It has the parent's name, role, sessions and seed, and whatever else is not as by default.
    """
    parent = encoder_name(options.text_model or options.audio_model).replace("/", "-")
    splits = {"test": options.test_split, "valid": options.valid_split}
    parts = [parent, options.SorL, *(f"{name}{format_sessions(split)}" for name, split in splits.items() if split)]
    default = get_args_parser().parse_args(["--text_model", parent])
    changed = {name: getattr(options, name) for name in NAMED if getattr(options, name) != getattr(default, name)}
    return "_".join([*parts, f"seed{options.seed}", *(f"{name}{value}" for name, value in changed.items())])
