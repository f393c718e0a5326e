"""Preprocessing: from a raw corpus, such as KEMDy19, to the files that training reads.

    python preprocessing.py --data_path data/KEMDy19

writes annotation.csv, df_speaker.csv, df_listener.csv and embedding_768.npy into data/KEMDy19, and what is wrong with
the corpus into problems.csv. The wavs stay where they are.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from constants import EMOTIONS, MAX_BATCH_SIZE, MAX_TEXT_DIM, TEXT_DIM
from corpora.base import Corpus
from corpora.problems import Problem, warn_of_problems, write_problems
from corpora.registry import corpus_in
from corpora.tables import COLUMNS, rows_of_role
from corpora.transcripts import clean_transcript, read_transcripts
from corpora.wavs import check_wavs
from features.embeddings import EmbeddingCache, save_embeddings
from features.text import KOBERT, embed_sentences, load_text_model
from training.devices import pick_device
from utils import (
    ArgumentParser,
    InputError,
    atomic_write,
    file_path,
    gpu,
    lock_folder,
    number,
    run_command,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class RawCorpus:
    """What was read of a raw corpus.

    annotation : all rows of its tables, with `tables.COLUMNS` and more
    by_role : the usable rows of each role, each id once, with the same columns
    transcripts : cleaned, by segment id
    problems : all that is wrong with it
    """

    annotation: pd.DataFrame
    by_role: dict[str, pd.DataFrame]
    transcripts: dict[str, str]
    problems: list[Problem]


def preprocess(  # noqa: PLR0913
    data_path: Path,
    *,
    text_model: str = KOBERT,
    text_dim: int | None = None,
    batch_size: int = 64,
    gpu_id: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    audio_path: Path | None = None,
) -> str:
    """Write `annotation.csv`, a `df_<role>.csv` for each role, `embedding_<dimension>.npy` and `problems.csv`.

    They go into `data_path`. The embeddings are also kept by text model and sentence in
    `embedding_<dimension>.cache.npz`: an interrupted run goes on from there, and a later run takes from there those
    whose transcripts have not changed.

    Parameters
    ----------
    text_model : hub name or folder of the sentence encoder
    text_dim : length of its embeddings; None for whatever the encoder gives
    batch_size : sentences at once
    gpu_id : as in `utils.pick_device`
    overwrite : replace the files of an earlier run
    strict : anything that would be warned of raises, before the encoder runs and a file is written
    audio_path : folder of the wavs, if neither `data_path/wav` nor `./audio`

    Returns
    -------
    str : the summary that the command prints

    Raises
    ------
    InputError : the corpus or the text model cannot be used, or a file exists already and `overwrite` is not set
    """
    corpus = corpus_in(data_path)
    refuse_existing(output_files(data_path, text_dim or TEXT_DIM, corpus.roles), overwrite)
    with lock_folder(data_path, "pre-processing"):
        raw = read_corpus(corpus, data_path, audio_path)
        tokenizer, model = load_text_model(text_model, text_dim)
        text_dim = model.config.hidden_size
        files = output_files(data_path, text_dim, corpus.roles)
        refuse_existing(files, overwrite)
        cache = EmbeddingCache(data_path / f"embedding_{text_dim}.cache.npz", tokenizer, model)
        if cache.fault:
            what, done = "cache that is damaged", "all sentences are embedded anew"
            raw.problems.append(Problem(cache.path.name, "", "", what, cache.fault, done))
        if strict and raw.problems:
            first = raw.problems[0]
            raise InputError(
                f"--strict: {data_path}: {first.what}: {first}; faults in all: {len(raw.problems)}, which "
                "problems.csv lists without --strict"
            )
        warn_of_problems(raw.problems)
        model = model.to(pick_device(gpu_id))
        sentences = list(raw.transcripts.values())
        vectors = embed_sentences(sentences, tokenizer, model, batch_size, cache=cache)
        write_files(list(files.values()), raw, vectors)
    return describe(data_path, raw)


def output_files(data_path: Path, text_dim: int, roles: Sequence[str]) -> dict[str, Path]:
    """Paths by name of the files that preprocessing writes, in the order of `write_files`."""
    tables = [f"df_{role}.csv" for role in roles]
    names = [f"embedding_{text_dim}.npy", "annotation.csv", *tables, "problems.csv"]
    return {name: data_path / name for name in names}


def refuse_existing(files: dict[str, Path], overwrite: bool) -> None:
    """Raise `InputError` if one of the files exists and must not be replaced, or is a folder."""
    for path in files.values():
        if path.is_dir():
            raise InputError(f"{path}: a folder; a file of this name is to be written, so move it elsewhere")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already; pass --overwrite to write {', '.join(files)} anew")


def read_corpus(corpus: Corpus, data_path: Path, audio_path: Path | None) -> RawCorpus:
    """Read the tables and the transcripts of a corpus and check its wavs.

    Raises
    ------
    InputError : a table cannot be used, no transcript can be read, or there is no folder `audio_path`
    """
    problems: list[Problem] = []
    annotation = corpus.read_annotation(data_path, problems)
    ids = annotation["Segment ID"].drop_duplicates().tolist()
    transcripts = read_transcripts(data_path, ids, problems)
    if not transcripts:
        raise InputError(f"{data_path / 'wav'}: no readable .txt of the {len(ids)} utterances; is the corpus whole?")
    cleaned = {segment: clean_transcript(text) for segment, text in transcripts.items()}
    annotation["text"] = annotation["Segment ID"].map(cleaned)
    by_role = {role: rows_of_role(annotation, role, problems) for role in corpus.roles}
    check_wavs(data_path, audio_path, ids, problems)
    return RawCorpus(annotation, by_role, cleaned, problems)


def write_files(paths: Sequence[Path], raw: RawCorpus, vectors: np.ndarray) -> None:
    """Write the files of `output_files`: all are on the disk before any takes its place, the embeddings last.

    Parameters
    ----------
    paths : in the order of `output_files`
    vectors : float32, sentence embeddings in the order of the transcripts, shape = (N, text_dim)
    """
    embeddings = {f"{segment}.txt": vector for segment, vector in zip(raw.transcripts, vectors, strict=True)}
    tables = [raw.annotation, *raw.by_role.values()]
    writers: list[Callable[[IO], None]] = [
        partial(save_embeddings, embeddings=embeddings),
        *(partial(table[COLUMNS].to_csv, index=False) for table in tables),
        partial(write_problems, problems=raw.problems),
    ]
    with contextlib.ExitStack() as stack:  # leaves the files in reverse order
        for path, write in zip(paths, writers, strict=True):
            file = stack.enter_context(atomic_write(path, "wb" if path.suffix == ".npy" else "w"))
            write(file)
            file.flush()
            os.fsync(file.fileno())


def describe(data_path: Path, raw: RawCorpus) -> str:
    """Counts of what was found, one line each."""
    annotation = raw.annotation
    lines = [
        f"{data_path}: {annotation['Segment ID'].nunique()} utterances, {annotation['Session'].nunique()} sessions, "
        f"{annotation['dialogue'].nunique()} dialogues"
    ]
    for role, table in raw.by_role.items():
        single = Counter(label for label in table["Emotion"] if ";" not in label)
        counts = ", ".join(f"{emotion} {single[emotion]}" for emotion in EMOTIONS)
        ties = len(table) - sum(single.values())
        lines.append(f"{role}: {len(table)} rows; single majority labels: {counts}; ties: {ties}")
    lines.append(f"faults, listed in problems.csv: {len(raw.problems)}")
    return "\n".join(lines)


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Make annotation.csv, df_speaker.csv, df_listener.csv and the sentence embeddings of a raw corpus.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data_path",
        type=file_path,
        default=Path("data/KEMDy19"),
        help="corpus folder, with annotation/ and wav/ (%(default)s)",
    )
    add("--audio_path", type=file_path, help="folder of the wavs, if neither DATA_PATH/wav nor ./audio")
    add("--text_model", default=KOBERT, help="hub name or folder of the sentence encoder (%(default)s)")
    add("--text_dim", type=number(int, 1, MAX_TEXT_DIM), help="length of its embeddings (whatever it gives)")
    add("--batch_size", type=number(int, 1, MAX_BATCH_SIZE), default=64, help="sentences at once (%(default)s)")
    add("--gpu_id", type=gpu, help="a GPU's number, or cpu (the best there is)")
    add("--overwrite", action="store_true", help="replace files that an earlier run made")
    add("--strict", action="store_true", help="stop at anything that would be warned of")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_args_parser().parse_args(argv)
    return run_command(lambda: print(preprocess(**vars(args))))


if __name__ == "__main__":
    sys.exit(main())
