"""Measuring the protocol: five folds of 100 epochs with their tests, each by main.py as a user calls it."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from constants import SAMPLE_RATE
from corpora.registry import preprocessed_corpus
from corpora.sessions import format_sessions
from features.log_mel import open_store
from training.devices import describe_device
from training.measure_corpus import make_corpus, read_corpus, write_embeddings
from utils import InputError, read_json

MAIN = Path(__file__).parent.parent / "main.py"
N_UTTERANCES = 10_279  # of KEMDy19's speakers
N_SESSIONS = 20
EPOCHS, FOLDS, GOAL = 100, 5, 300  # seconds, on one H200


def measure_protocol(args: argparse.Namespace, device: torch.device, scratch: Path) -> str:
    """A Markdown table with the seconds of each fold; the corpus is synthetic unless `--data_path` names one."""
    corpus = args.data_path
    if corpus is None:
        corpus = scratch / "corpus"
        make_corpus(corpus, args.utterances, in_a_session=-(-args.utterances // N_SESSIONS))
        found = read_corpus(corpus, corpus / "features")
        write_embeddings(corpus, found)
        # Computed once a corpus, before any run of it
        dtype = getattr(torch, args.feature_dtype)
        open_store(found.features, found.wavs, found.annotation.ids, SAMPLE_RATE, dtype, quiet=False)
    lines = ["| test sessions | seconds | TFLOP/s in training |", "|---|---|---|"]
    total, folds = 0.0, preprocessed_corpus(corpus).folds[: args.folds]
    for number, fold in enumerate(tqdm(folds, "folds", disable=None), 1):
        seconds, folder = run_fold(args, corpus, fold, scratch / f"fold{number}")
        total += seconds
        tflops = read_json(folder / "result.json").get("utilisation", {}).get("tflops", "–")
        lines.append(f"| {format_sessions([*fold])} | {seconds:.1f} | {tflops} |")
    whole = len(folds) == FOLDS and args.epochs == EPOCHS and (args.data_path or args.utterances >= N_UTTERANCES)
    verdict = f"; the goal on one H200 is {GOAL} s" if whole else ""
    options = f" with {args.main_options}" if args.main_options else ""
    lines += ["", f"{len(folds)} folds of {args.epochs} epochs with tests{options}: {total:.1f} s{verdict}"]
    return "\n".join([*lines, f"{describe_device(device)}, torch {torch.__version__}"])


def run_fold(args: argparse.Namespace, corpus: Path, fold: tuple[int, ...], exp: Path) -> tuple[float, Path]:
    """Seconds of a call of main.py from its start to its end, and its experiment folder."""
    command = [sys.executable, str(MAIN), "--data_path", str(corpus), "--save_path", str(exp)]
    command += ["--test_split", ",".join(map(str, fold)), "--epochs", str(args.epochs)]
    command += ["--batch_size", str(args.batch_size), "--precision", args.precision]
    command += ["--feature_dtype", args.feature_dtype, *(["--gpu_id", args.gpu_id] if args.gpu_id else [])]
    start = time.perf_counter()
    done = subprocess.run([*command, *shlex.split(args.main_options)], stdout=subprocess.DEVNULL, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise InputError(f"test on {format_sessions([*fold])}: main.py ended with status {done.returncode}, see above")
    (result,) = exp.glob("*/result.json")
    return seconds, result.parent
