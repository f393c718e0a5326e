"""Preprocessing: from a raw corpus, such as KEMDy19, to the files that training reads.

It writes annotation.csv, df_speaker.csv, df_listener.csv, the sentence embeddings, problems.csv (errors in the corpus)
and corpus.json (what the files were made from). The wav files stay where they are.
"""

from __future__ import annotations

import training  # noqa: F401, isort: skip (must be first, see training/__init__.py)

import argparse
import contextlib
import sys
from pathlib import Path

import pandas as pd

from constants import EMOTIONS, PROGRAM_VERSION, ROLES
from corpora.corpus import Corpus, corpus_in
from corpora.corpus_json import CORPUS_FILE, corpus_version, is_synthetic, read_corpus_json
from corpora.manifest import read_manifest, write_parts
from corpora.problems import OTHER_SPELLING, problem_text, warn_of_problems
from corpora.tables import COLUMNS, read_annotation, rows_of_role
from corpora.transcripts import clean_transcript, read_transcripts
from corpora.wavs import check_wavs
from features.embeddings import save_embeddings
from features.encoders import save_encoder_embeddings
from features.speech_encoder import load_speech_encoder
from features.text import KOBERT, TextEncoder, load_text_encoder
from training.devices import pick_device, set_switches
from training.options import ArgumentParser, file_path, gpu
from utils import InputError, atomic_write, digest_file, lock_folder, run_command, write_csv, write_json

Tables = dict[str, pd.DataFrame]  # by file name: annotation.csv, then df_<role>.csv of each role


def preprocess(args: argparse.Namespace, folder: Path) -> str:
    """Write into `folder` the files of the raw corpus in `args.data_path`, and return a summary to print.

    They are `annotation.csv`, `df_<role>.csv`, `problems.csv`, `embedding_<dimension>.npy` and `corpus.json`; `args`
    are the options of `get_args_parser`. Raises `InputError` and writes nothing if the corpus or the text encoder is
    unusable, a file exists and `overwrite` is not set, or `strict` is set and there is any problem except a nonstandard
    label spelling.
    """
    corpus = corpus_in(args.data_path)
    print(f"{args.data_path}: corpus {corpus.name}", flush=True)
    encoder = load_text_encoder(args.text_model or KOBERT, pick_device(args.gpu_id))
    check_folder(folder, args, *encoder.shape)
    tables, transcripts, problems = read_corpus(corpus, args.data_path, args.audio_path)
    report_problems(problems, args.strict)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder, "preprocessing"):
        vectors = encoder.embed([*transcripts.values()], progress=True)
        embeddings = {f"{segment}.txt": vector for segment, vector in zip(transcripts, vectors, strict=True)}
        is_elsewhere = args.data_path.resolve() != folder.resolve()
        about = {
            "corpus": corpus.name,
            "version": corpus_version(args.data_path),
            "synthetic": is_synthetic(args.data_path),
            "raw": str(args.data_path.resolve()) if is_elsewhere else None,
            "audio_path": str(args.audio_path.resolve()) if args.audio_path and is_elsewhere else None,
            "program_version": PROGRAM_VERSION,
            "utterances": tables["annotation.csv"]["Segment ID"].nunique(),
        }
        if corpus.is_own:
            rows = tables["df_speaker.csv"]
            about["sessions"] = rows["Session"].unique().tolist()
            about["corpus"] += rows["groups"].iloc[0]
            write_parts(rows, problems, args.audio_path or args.data_path, folder)
        write_files(folder, {**tables, "problems.csv": problems}, embeddings, encoder, about)
    return summary(folder, tables, problems)


def read_corpus(
    corpus: Corpus, data_path: Path, audio_path: Path | None
) -> tuple[Tables, dict[str, str], pd.DataFrame]:
    """The tables, the cleaned transcripts by id, and the problems of a raw corpus and its wavs.

    Raises `InputError` if a table is unusable, no transcript is readable, or the folder `audio_path` is missing.
    """
    if audio_path is not None and not audio_path.is_dir():
        raise InputError(f"--audio_path {audio_path}: no such folder")
    if corpus.is_own:
        table, problems = read_manifest(data_path, audio_path)
        texts = dict(zip(table["Segment ID"], table["text"], strict=True)) if table["text"].any() else {}
        return {"annotation.csv": table, "df_speaker.csv": table}, texts, problems
    annotation, of_tables = read_annotation(data_path, corpus)
    ids = annotation["Segment ID"].drop_duplicates().tolist()
    transcripts, of_transcripts = read_transcripts(data_path, ids)
    if not transcripts:
        raise InputError(f"{data_path / 'wav'}: no readable .txt of the {len(ids)} utterances; is the corpus complete?")
    transcripts = {segment: clean_transcript(text) for segment, text in transcripts.items()}
    annotation["text"] = annotation["Segment ID"].map(transcripts)
    tables, problems = {"annotation.csv": annotation[COLUMNS]}, [of_tables, of_transcripts]
    for role in corpus.roles:
        rows, of_role = rows_of_role(annotation, role)
        tables[f"df_{role}.csv"] = rows[COLUMNS]
        problems.append(of_role)
    problems.append(check_wavs(data_path, audio_path, ids))
    return tables, transcripts, pd.concat(problems, ignore_index=True)


def report_problems(problems: pd.DataFrame, strict: bool) -> None:
    """Warn of the problems; with `strict` raise `InputError` for any except a nonstandard label spelling."""
    errors = problems[problems["what"] != OTHER_SPELLING]
    if strict and len(errors):
        first = errors.iloc[0]
        todo = f"problems in total: {len(errors)}; run without --strict to list them in problems.csv"
        raise InputError(f"--strict: {first['what']}: {problem_text(first)}; {todo}")
    warn_of_problems(problems)


def check_folder(folder: Path, args: argparse.Namespace, text_dim: int) -> None:
    """Raise `InputError` if a file exists and must not be replaced, or the folder has other wavs."""
    if folder != args.data_path and (folder / "wav").is_dir():
        raise InputError(f"--out {folder}: contains wav/, which training would use for this corpus; choose another")
    tables = [f"df_{role}.csv" for role in ROLES]
    for name in (f"embedding_{text_dim}.npy", "annotation.csv", *tables, "problems.csv", CORPUS_FILE):
        if (folder / name).exists() and not args.overwrite:
            raise InputError(f"{folder / name}: already exists; pass --overwrite to replace all files")


def write_files(folder: Path, tables: Tables, embeddings: dict, encoder: TextEncoder, about: dict) -> None:
    """Write the tables, the embeddings, and at the end corpus.json, which has a digest of each file."""
    text_models = {}
    with contextlib.suppress(InputError):  # a damaged file is replaced
        text_models = (read_corpus_json(folder) or {}).get("text_models", {})  # also those of another length
    for name, table in tables.items():
        if name == "problems.csv":
            write_csv(folder / name, table)
        else:  # in the published format, for other programs
            with atomic_write(folder / name) as file:
                table.to_csv(file, index=False)
    name = f"embedding_{encoder.shape[0]}.npy"
    save_embeddings(folder / name, embeddings)
    text_models[name] = {**encoder.description, "sha256": digest_file(folder / name)}
    files = {name: digest_file(folder / name) for name in (name, *tables)}
    write_json(folder / CORPUS_FILE, {**about, "text_models": text_models, "files": files})


def summary(folder: Path, tables: Tables, problems: pd.DataFrame) -> str:
    """The summary: one line for the corpus, one per role, and one for the problems."""
    found = tables["annotation.csv"]
    n_utterances, n_sessions, n_dialogues = (found[c].nunique() for c in ("Segment ID", "Session", "dialogue"))
    lines = [f"{folder}: {n_utterances} utterances, {n_sessions} sessions, {n_dialogues} dialogues"]
    if "groups" in found:
        lines[0] += found["groups"].iloc[0]
    for name, table in [*tables.items()][1:]:
        counts = table["Emotion"].value_counts().reindex(EMOTIONS, fill_value=0)
        labels = ", ".join(f"{emotion} {n}" for emotion, n in counts.items())
        role, n_ties = name.removeprefix("df_").removesuffix(".csv"), len(table) - counts.sum()
        lines.append(f"{role}: {len(table)} rows; majority labels: {labels}; ties: {n_ties}")
    n_spelt = (problems["what"] == OTHER_SPELLING).sum()
    spelt = f", nonstandard label spellings: {n_spelt}" if n_spelt else ""
    lines.append(f"problems (see problems.csv): {len(problems) - n_spelt}{spelt}")
    return "\n".join(lines)


def get_args_parser() -> ArgumentParser:
    examples = "preprocessing.py --data_path data/KEMDy19", "preprocessing.py --data_path data/mine --overwrite"
    description = "Convert a raw corpus to the tables and sentence embeddings for training."
    parser = ArgumentParser(examples, description=description)
    add = parser.add_argument
    text = "corpus folder, with annotation/ and wav/ or with manifest.csv"
    add("--data_path", type=file_path, default=Path("data/KEMDy19"), help=text)
    add("--audio_path", type=file_path, help="folder of the wav files, if it is neither DATA_PATH/wav nor ./audio")
    add("--out", type=file_path, metavar="FOLDER", help="output folder, for main.py --data_path (default: DATA_PATH)")
    text = "text encoder: Hub name or folder; without --overwrite existing tables are kept"
    add("--text_model", metavar="NAME", help=f"{text} (default: {KOBERT})")
    add("--audio_model", metavar="NAME", help="also compute the embeddings of this speech encoder: Hub name or folder")
    add("--gpu_id", type=gpu, help="number of the GPU to use, or cpu (default: the first CUDA GPU, or the CPU)")
    add("--overwrite", action="store_true", help="overwrite the files of an earlier run")
    add("--strict", action="store_true", help="stop at the first problem, except labels in another spelling")
    return parser


def run(args: argparse.Namespace) -> None:
    """Preprocess a corpus, and compute the embeddings of a speech encoder if one is given.

    If the tables exist and `overwrite` is not set, only the embeddings of the given encoders are added.
    """
    folder, device = args.out or args.data_path, pick_device(args.gpu_id)
    tables_exist = not args.overwrite and any(folder.glob("df_*.csv"))
    if tables_exist and args.strict:
        raise InputError(f"--strict: {folder} has tables, which are not checked again; add --overwrite")
    if tables_exist and (args.text_model or args.audio_model):
        print(f"{folder}: the tables and embedding_*.npy are kept; --overwrite replaces them", flush=True)
        if args.text_model:
            print(save_encoder_embeddings(folder, args.audio_path, load_text_encoder(args.text_model, device)))
    else:
        print(preprocess(args, folder))
    if args.audio_model:
        print(save_encoder_embeddings(folder, args.audio_path, load_speech_encoder(args.audio_model, device)))


def main(argv: list[str] | None = None) -> int:
    set_switches()
    args = get_args_parser().parse_args(argv)
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
