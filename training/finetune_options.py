"""Options of finetune.py, and the name of the encoder that they make. Imports no slow package."""

from __future__ import annotations

import argparse
from pathlib import Path

from constants import PRECISIONS, ROLES, TRACKERS
from corpora.sessions import format_sessions, parse_sessions
from features.encoders import encoder_name
from training.options import ArgumentParser, file_path, gpu, number

NAMED = ("epochs", "lr", "batch_size", "accumulate", "precision", "patience", "lam", "affect_loss")


def get_args_parser() -> ArgumentParser:
    example = "finetune.py --text_model klue/roberta-base"
    parser = ArgumentParser((example, f"{example} --resume"), description="Fine-tune an encoder on single utterances.")
    add = parser.add_argument
    add("--data_path", type=file_path, default=Path("data/KEMDy19"), help="preprocessed corpus folder")
    add("--audio_path", type=file_path, help="folder of the wav files, if it is neither DATA_PATH/wav nor ./audio")
    add("--SorL", choices=ROLES, default="speaker", help="predict the emotion of the speaker or of the listener")
    one = parser.add_mutually_exclusive_group(required=True).add_argument
    one("--text_model", metavar="NAME", help="text encoder to fine-tune: Hub name or folder")
    one("--audio_model", metavar="NAME", help="speech encoder to fine-tune: Hub name or folder")
    add("--test_split", type=parse_sessions, metavar="SESSIONS", help="sessions to test on (default: the first fold)")
    add("--valid_split", type=parse_sessions, metavar="SESSIONS", help="validation sessions; the best epoch is kept")
    add("--epochs", type=number(int, 1), default=5, help="number of epochs")
    add("--lr", type=number(float, 0), default=2e-5, help="peak learning rate, after warm-up")
    add("--batch_size", type=number(int, 1), default=16, help="utterances in a batch, per process")
    add("--accumulate", type=number(int, 1), default=1, help="batches per optimizer step (gradient accumulation)")
    add("--gradient_checkpointing", action="store_true", help="use less memory and about a third more time")
    add("--precision", choices=PRECISIONS, default="auto", help="precision; auto: bf16 on a GPU where it is fast")
    add("--patience", type=number(int, 1), help="stop after this many epochs without a lower loss on --valid_split")
    add("--lam", type=number(float, 0, 1), default=0.66, help="weight of the emotion loss, from 0 to 1")
    add("--affect_loss", choices=("mse", "ccc", "mse_ccc"), default="mse", help="loss of arousal and valence")
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, help="random seed")
    add("--save_path", type=file_path, default=Path("exp"), help="parent folder of the encoder's folder")
    add("--resume", action="store_true", help="resume the unfinished fine-tuning with the same options")
    add("--report_to", choices=TRACKERS, default="none", help="experiment tracker")
    add("--gpu_id", type=gpu, help="number of the GPU to use, or cpu (default: the first CUDA GPU, or the CPU)")
    return parser


def folder_name(options: argparse.Namespace) -> str:
    """The name of the folder of the encoder that these options make.

    It has the parent's name, role, sessions and seed, and the other options that are not default.
    """
    parent = encoder_name(options.text_model or options.audio_model).replace("/", "-")
    splits = {"test": options.test_split, "valid": options.valid_split}
    parts = [parent, options.SorL, *(f"{name}{format_sessions(split)}" for name, split in splits.items() if split)]
    default = get_args_parser().parse_args(["--text_model", parent])
    changed = {name: getattr(options, name) for name in NAMED if getattr(options, name) != getattr(default, name)}
    return "_".join([*parts, f"seed{options.seed}", *(f"{name}{value}" for name, value in changed.items())])
