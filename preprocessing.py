"""Preprocessing: from a raw corpus, such as KEMDy19, to the files that training reads.

    python preprocessing.py --data_path data/KEMDy19

writes annotation.csv, df_speaker.csv, df_listener.csv and embedding_768.npy into data/KEMDy19, what is wrong with the
corpus into problems.csv, and what all of it was made from into corpus.json. The wavs stay where they are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from constants import EMOTIONS, MAX_BATCH_SIZE, MAX_TEXT_DIM, PROGRAM_VERSION, TEXT_DIM
from corpora.base import Corpus
from corpora.problems import Problem, warn_of_problems, write_problems
from corpora.provenance import (
    CORPUS_FILE,
    corpus_version,
    describe_embeddings,
    is_synthetic,
    source_of,
)
from corpora.registry import corpus_in
from corpora.tables import COLUMNS, rows_of_role
from corpora.transcripts import clean_transcript, read_transcripts
from corpora.wavs import check_wavs
from features.embeddings import EmbeddingCache, save_embeddings
from features.text import KOBERT, describe_text_model, embed_sentences, load_text_model
from training.arguments import ArgumentParser, file_path, gpu, number
from training.devices import pick_device
from utils import InputError, atomic_write, digest_file, lock_folder, removed_if_empty, run_command

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


def preprocess(args: argparse.Namespace) -> str:
    """Write `annotation.csv`, `df_<role>.csv`, `embedding_<dimension>.npy`, `problems.csv` and `corpus.json`.

    The embeddings are also kept by text model and sentence in `embedding_<dimension>.cache.npz`: an interrupted run
    goes on from there, and a later run takes from there those whose transcripts have not changed.

    Parameters
    ----------
    args : the options of `get_args_parser`; with `strict` any fault raises before the encoder runs and a file is
        written, except another spelling of a label

    Returns
    -------
    str : the summary that the command prints

    Raises
    ------
    InputError : the corpus or the text model cannot be used, or a file exists already and `overwrite` is not set
    """
    data_path, audio_path, folder = args.data_path, args.audio_path, folder_of(args)
    corpus = corpus_in(data_path)
    print(f"{data_path}: {corpus.name}", flush=True)
    refuse_existing(output_files(folder, args.text_dim or TEXT_DIM, corpus.roles), args.overwrite)
    if is_elsewhere(folder, data_path) and (folder / "wav").is_dir():
        raise InputError(f"--out {folder}: holds wav/, which training would take for this corpus's; choose another")
    with opened(folder):
        raw = read_corpus(corpus, data_path, audio_path)
        tokenizer, model = load_text_model(args.text_model, args.text_dim)
        text_dim = model.config.hidden_size
        files = output_files(folder, text_dim, corpus.roles)
        refuse_existing(files, args.overwrite)
        cache = EmbeddingCache(folder / f"embedding_{text_dim}.cache.npz", tokenizer, model)
        if cache.fault:
            what, done = "cache that is damaged", "all sentences are embedded anew"
            raw.problems.append(Problem(cache.path.name, "", "", what, cache.fault, done))
        report_faults(data_path, raw.problems, args.strict)
        model = model.to(pick_device(args.gpu_id))
        vectors = embed_sentences(list(raw.transcripts.values()), tokenizer, model, args.batch_size, cache=cache)
        facts = {"corpus": corpus.name, **describe_source(data_path, folder, audio_path)}
        facts["utterances"] = raw.annotation["Segment ID"].nunique()
        facts["text_model"] = describe_text_model(args.text_model, model, cache.text_model)
        write_files(files, raw, vectors, facts | other_embeddings(folder, files))
    return describe(folder, raw)


def folder_of(args: argparse.Namespace) -> Path:
    """The folder that the files are written into."""
    return args.out or args.data_path


def is_elsewhere(folder: Path, other: Path) -> bool:
    """Whether two paths are of two folders."""
    return folder.resolve() != other.resolve()


def refuse_other_source(args: argparse.Namespace, folder: Path) -> None:
    """Raise `InputError` where the files in `folder`, which are left as they are, are not what the options ask for."""
    anew = "or make the files anew with --overwrite"
    raw = source_of(folder).raw
    if is_elsewhere(folder, args.data_path) and is_elsewhere(raw, args.data_path):
        if not is_elsewhere(folder, raw):
            raise InputError(f"--out {folder}: its files were not made with --out; give it as --data_path, {anew}")
        raise InputError(f"--data_path {args.data_path}: the files in {folder} were made from {raw}; name that, {anew}")
    models = [str(entry["text_model"].get("name")) for entry in describe_embeddings(folder).values()]
    if models and args.text_model != KOBERT and all(is_elsewhere(Path(args.text_model), Path(m)) for m in models):
        found = " and ".join(models)
        raise InputError(
            f"--text_model {args.text_model}: the embeddings in {folder} are of {found}; name that, {anew}"
        )
    if args.text_dim and not (folder / f"embedding_{args.text_dim}.npy").exists():
        raise InputError(
            f"--text_dim {args.text_dim}: {folder} has no embeddings of that dimension; leave it out, {anew}"
        )


def report_faults(data_path: Path, problems: Sequence[Problem], strict: bool) -> None:
    """Warn of a corpus's faults; with `strict` raise `InputError` at any but a label in another spelling."""
    if strict and (faults := [problem for problem in problems if not problem.harmless]):
        raise InputError(
            f"--strict: {data_path}: {faults[0].what}: {faults[0]}; faults in all: {len(faults)}, which "
            "problems.csv lists without --strict"
        )
    if problems and is_synthetic(data_path):
        print("the sample's faults are planted: the warnings below show how faults are reported", flush=True)
    warn_of_problems(problems)


def describe_source(data_path: Path, folder: Path, audio_path: Path | None) -> dict[str, Any]:
    """What `corpus.json` says of a raw corpus; `raw` and `audio_path` lead to it if its files are written elsewhere."""
    elsewhere = is_elsewhere(folder, data_path)
    return {
        "version": corpus_version(data_path),
        "synthetic": is_synthetic(data_path),
        "raw": str(data_path.resolve()) if elsewhere else None,
        "audio_path": str(audio_path.resolve()) if elsewhere and audio_path else None,
        "program_version": PROGRAM_VERSION,
    }


def other_embeddings(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """What is known of embeddings of other dimensions, which earlier runs wrote and this one leaves alone."""
    try:
        known = describe_embeddings(folder)
    except InputError:  # a damaged corpus.json, which is about to be replaced
        known = {}
    return {"other_embeddings": {name: entry for name, entry in known.items() if name not in files}}


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[None]:
    """A folder to write into, locked; it is made if need be, and taken away again if nothing is written."""
    made = [] if folder.exists() else [folder]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made ({error.strerror}); choose another folder") from error
    with removed_if_empty(*made), lock_folder(folder, "pre-processing"):
        yield


def output_files(folder: Path, text_dim: int, roles: Sequence[str]) -> dict[str, Path]:
    """Paths by name of the files that preprocessing writes, in the order of `write_files`."""
    tables = [f"df_{role}.csv" for role in roles]
    names = [f"embedding_{text_dim}.npy", "annotation.csv", *tables, "problems.csv", CORPUS_FILE]
    return {name: folder / name for name in names}


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


def write_files(files: Mapping[str, Path], raw: RawCorpus, vectors: np.ndarray, facts: Mapping[str, Any]) -> None:
    """Write the files of `output_files`: all are on the disk before any takes its place, the embeddings last.

    Parameters
    ----------
    files : of `output_files`
    vectors : float32, sentence embeddings in the order of the transcripts, shape = (N, text_dim)
    facts : of `corpus.json`, which also holds the digest of every other file
    """
    embeddings = {f"{segment}.txt": vector for segment, vector in zip(raw.transcripts, vectors, strict=True)}
    tables = [raw.annotation, *raw.by_role.values()]
    writers: list[Callable[[IO], None]] = [
        partial(save_embeddings, embeddings=embeddings),
        *(partial(table[COLUMNS].to_csv, index=False) for table in tables),
        partial(write_problems, problems=raw.problems),
    ]
    digests: dict[str, str] = {}
    writers.append(
        lambda file: file.write(json.dumps({**facts, "files": digests}, indent=2, ensure_ascii=False) + "\n")
    )
    with contextlib.ExitStack() as stack:  # leaves the files in reverse order
        for (name, path), write in zip(files.items(), writers, strict=True):
            file = stack.enter_context(atomic_write(path, "wb" if path.suffix == ".npy" else "w"))
            write(file)
            file.flush()
            os.fsync(file.fileno())
            digests[name] = digest_file(Path(file.name))


def describe(folder: Path, raw: RawCorpus) -> str:
    """Counts of what was found, one line each."""
    annotation = raw.annotation
    lines = [
        f"{folder}: {annotation['Segment ID'].nunique()} utterances, {annotation['Session'].nunique()} sessions, "
        f"{annotation['dialogue'].nunique()} dialogues"
    ]
    for role, table in raw.by_role.items():
        single = Counter(label for label in table["Emotion"] if ";" not in label)
        counts = ", ".join(f"{emotion} {single[emotion]}" for emotion in EMOTIONS)
        ties = len(table) - sum(single.values())
        lines.append(f"{role}: {len(table)} rows; single majority labels: {counts}; ties: {ties}")
    harmless = sum(problem.harmless for problem in raw.problems)
    spellings = f", and {harmless} rows with a label in another spelling" if harmless else ""
    lines.append(f"faults, listed in problems.csv: {len(raw.problems) - harmless}{spellings}")
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
    add(
        "--out",
        type=file_path,
        metavar="FOLDER",
        help="where to write (DATA_PATH); training then takes it as --data_path",
    )
    add("--text_model", default=KOBERT, help="hub name or folder of the sentence encoder (%(default)s)")
    add("--text_dim", type=number(int, 1, MAX_TEXT_DIM), help="length of its embeddings (whatever it gives)")
    add(
        "--batch_size",
        type=number(int, 1, MAX_BATCH_SIZE),
        default=64,
        help="sentences or utterances at once (%(default)s)",
    )
    add("--audio_model", metavar="NAME", help="speech encoder, whose embeddings are computed too")
    add("--gpu_id", type=gpu, help="a GPU's number, cpu or mps (the first CUDA GPU, or the CPU)")
    add("--overwrite", action="store_true", help="replace files that an earlier run made")
    add("--strict", action="store_true", help="stop at any fault; a label in another spelling is none")
    return parser


def run(args: argparse.Namespace) -> None:
    """Pre-process, and compute the embeddings of a speech encoder if one is named.

    They alone are computed where the tables are there already, unless these are to be replaced.
    """
    folder = folder_of(args)
    if args.audio_model is None or args.overwrite or not any(folder.glob("df_*.csv")):
        print(preprocess(args))
    else:
        refuse_other_source(args, folder)
    if args.audio_model is not None:
        from features.speech import embed_corpus

        print(embed_corpus(folder, args.audio_model, pick_device(args.gpu_id), args.audio_path, args.batch_size))


def main(argv: list[str] | None = None) -> int:
    args = get_args_parser().parse_args(argv)
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
