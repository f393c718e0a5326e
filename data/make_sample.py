"""Make the sample corpus: a small synthetic KEMDy19 or KEMDy20 that needs no licence, to try all commands.

    python data/make_sample.py                                 # 20 sessions into data/sample
    python data/make_sample.py --out data/tiny --sessions 6 --utterances 4

espeak-ng speaks the lines of `sample_dialogues.csv`, and ten simulated raters rate them. The folder has the raw layout
of the corpus, without errors, and `kobert/`, a tiny randomly initialised BERT in the file layout of skt/kobert-base-v1.
It has no recordings or ratings of people: results on it show that the program works, but mean nothing for emotion
recognition. The same seed gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import sample_layouts as layouts  # adds the program to the path
import sentencepiece
import soundfile
import torch
from transformers import BertConfig, BertModel

# isort: split
from constants import TEXT_DIM
from training.options import ArgumentParser, file_path, number
from utils import InputError, run_command, write_json

ROOT = Path(__file__).resolve().parent.parent

SESSIONS = {"kemdy19": 20, "kemdy20": 40, "manifest": 20}  # by layout, in the full sample
NOTE = "synthetic speech and simulated raters from data/make_sample.py; scores on this corpus are meaningless"

# The replacement of KoBERT
VOCAB_SIZE = 1_000  # maximum; the lines have fewer tokens
SPECIAL_PIECES = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4, as in KoBERT


def write_text_encoder(folder: Path, seed: int) -> None:
    """A randomly initialised BERT of 768 dimensions and a SentencePiece model of the lines, in KoBERT's file layout."""
    folder.mkdir()
    pieces = io.BytesIO()
    unk, pad, *control = SPECIAL_PIECES
    settings = {"model_type": "unigram", "vocab_size": VOCAB_SIZE, "hard_vocab_limit": False, "character_coverage": 1.0}
    settings |= {"num_threads": 1, "minloglevel": 2}  # with more threads the scores are not reproducible
    settings |= {"unk_id": 0, "pad_id": 1, "bos_id": -1, "eos_id": -1, "unk_piece": unk, "pad_piece": pad}
    lines = (text for dialogue in layouts.read_dialogues().values() for _, _, text in dialogue)
    settings |= {"control_symbols": control, "sentence_iterator": lines, "model_writer": pieces}
    sentencepiece.SentencePieceTrainer.train(**settings)
    (folder / "spiece.model").write_bytes(pieces.getvalue())

    sizes = {"hidden_size": TEXT_DIM, "intermediate_size": TEXT_DIM, "num_hidden_layers": 1, "num_attention_heads": 12}
    sizes["vocab_size"] = sentencepiece.SentencePieceProcessor(model_proto=pieces.getvalue()).vocab_size()
    sizes |= {"max_position_embeddings": 512, "pad_token_id": SPECIAL_PIECES.index("[PAD]")}
    config = BertConfig(**sizes, architectures=["BertModel"], random_weights=True)  # recorded by preprocessing.py
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
        torch.default_generator.manual_seed(seed)
        model = BertModel(config)
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def write_corpus(folder: Path, utterances: Sequence[layouts.Utterance], layout: str) -> None:
    """Write transcripts, wavs and tables; times continue from one session to the next."""
    clock, times = 0.0, {}
    for u, samples in zip(utterances, layouts.speak(utterances), strict=True):
        (folder / u.folder).mkdir(parents=True, exist_ok=True)
        (folder / u.folder / f"{u.id}.txt").write_text(f"{u.line}\n", encoding="utf-8", newline="\n")
        content = io.BytesIO()
        soundfile.write(content, np.frombuffer(samples, np.int16), layouts.SAMPLE_RATE, format="WAV")
        (folder / u.folder / f"{u.id}.wav").write_bytes(content.getvalue())
        end = clock + len(samples) / 2 / layouts.SAMPLE_RATE
        times[u.id], clock = (f"{clock:.3f}", f"{end:.3f}"), end + layouts.PAUSE
    for name, rows in layouts.TABLES[layout](utterances, times):
        (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def make_sample(
    out: Path, layout: str = "kemdy19", seed: int = 0, sessions: int | None = None, utterances: int | None = None
) -> str:
    """Make the sample corpus in a new folder, which is only created when complete; returns a summary.

    `utterances` is the maximum per dialogue. Raises `InputError` if `out` exists.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: already exists; choose another --out or remove it first")
    numbers = range(1, (sessions or SESSIONS[layout]) + 1)
    planned = [u for number in numbers for u in layouts.plan_session(seed, number, layout, utterances)]
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=parent) as holder:
            folder = Path(holder, out.name)  # the temporary folder is private; this one has the usual permissions
            folder.mkdir()
            write_corpus(folder, planned, layout)
            write_text_encoder(folder / "kobert", seed)
            write_json(folder / "synthetic.json", {"note": NOTE, "seed": seed})
            folder.rename(out)
    except (OSError, RuntimeError) as error:  # torch.save raises a RuntimeError on a full disk
        raise InputError(f"{out}: cannot be written ({error})") from error
    return f"{len(planned)} utterances of synthetic speech in {out}"


def get_args_parser() -> ArgumentParser:
    examples = "data/make_sample.py", "data/make_sample.py --layout kemdy20"
    parser = ArgumentParser(examples, description="Make the synthetic sample corpus in the layout of a raw corpus.")
    option = parser.add_argument
    option("--layout", choices=SESSIONS, default="kemdy19", help="layout of the files")
    option("--out", type=file_path, help="new folder (default: data/sample, or data/sample_LAYOUT)")
    option("--seed", type=number(int, 0, 2**32 - 1), default=0, help="random seed; the same seed gives the same files")
    option("--sessions", type=number(int, 1, 20), help="number of sessions, 1 to 20 (default: 20, or 40 for kemdy20)")
    option("--utterances", type=number(int, 1), help="utterances per dialogue (default: all)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = vars(get_args_parser().parse_args(argv))
    name = "sample" if args["layout"] == "kemdy19" else f"sample_{args['layout']}"
    args["out"] = args["out"] or ROOT / "data" / name
    return run_command(lambda: print(make_sample(**args)))


if __name__ == "__main__":
    sys.exit(main())
