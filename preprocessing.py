"""Raw KEMDy19 to the four files that training reads.

    python preprocessing.py --data_path data/KEMDy19

writes annotation.csv, df_speaker.csv, df_listener.csv and embedding_768.npy into data/KEMDy19, and what is wrong with
the corpus into problems.csv. The wavs stay where they are.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from constants import EMOTIONS, MAX_BATCH_SIZE, MAX_TEXT_DIM, ROLES, TEXT_DIM
from corpora.kemdy19 import COLUMNS, read_annotation_tables, rows_of_role
from corpora.problems import Problem, warn_of_problems, write_problems
from corpora.transcripts import ZEROS, clean_transcript, read_transcripts, repeated_files, within
from corpora.wavs import find_wavs, wav_fault
from features.embeddings import EmbeddingCache, save_embeddings
from features.text import KOBERT, embed_sentences, load_text_model
from training.devices import pick_device
from utils import (
    InputError,
    atomic_write,
    file_path,
    gpu,
    lock_folder,
    number,
    run_command,
)

if TYPE_CHECKING:
    import pandas as pd


def check_wavs(data_path: Path, audio_path: Path | None, ids: list[str], problems: list[Problem]) -> None:
    """Add the ids without a wav, or with one that cannot be used, to `problems`."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    if audio_path is not None and not audio_path.is_dir():
        raise InputError(f"--audio_path {audio_path}: no such folder")
    repeated: list[Path] = []
    wavs, where = find_wavs(data_path, audio_path, repeated)
    problems += repeated_files(data_path, repeated, ids, "wav")
    if not wavs:
        problems.append(Problem("wav", "", "", "no wav at all", where, "only --modality text can be trained"))
        return

    def fault(segment: str) -> Problem | None:
        if segment not in wavs:
            return Problem(within(data_path, Path(where)), "", segment, "no wav", "", ZEROS)
        reason = wav_fault(wavs[segment])
        file = within(data_path, wavs[segment])
        return Problem(file, "", segment, "wav that cannot be used", reason, ZEROS) if reason else None

    with ThreadPoolExecutor() as pool:  # reading heads of files is waiting
        found = tqdm(pool.map(fault, ids), total=len(ids), desc="wavs", unit="file")
        problems += [problem for problem in found if problem]


# The files


def output_files(data_path: Path, text_dim: int) -> dict[str, Path]:
    """Paths of the files that preprocessing writes, the one that takes its place last first."""
    names = (f"embedding_{text_dim}.npy", "annotation.csv", "df_speaker.csv", "df_listener.csv", "problems.csv")
    return {name: data_path / name for name in names}


def preprocess(
    data_path: Path,
    text_model: str = KOBERT,
    text_dim: int | None = None,
    batch_size: int = 64,
    gpu_id: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    audio_path: Path | None = None,
) -> str:
    """Write `annotation.csv`, `df_speaker.csv`, `df_listener.csv`, `embedding_<dimension>.npy` and `problems.csv`.

    They go into `data_path`. The embeddings are kept in `embedding_<dimension>.cache.npz` as well, by text model and
    sentence: from there an interrupted run goes on, and a later one takes those whose transcripts have not changed.

    Parameters
    ----------
    text_model : hub name or folder of the sentence encoder
    text_dim : length of its embeddings; None for whatever the encoder gives
    batch_size : sentences at once
    gpu_id : as `utils.pick_device`
    overwrite : replace the files of an earlier run
    strict : anything that would be warned of raises, before the encoder runs and a file is written
    audio_path : folder of the wavs, if neither `data_path/wav` nor `./audio`

    Returns
    -------
    str : the summary that the command prints

    Raises
    ------
    InputError : the corpus or the text model cannot be used, or a file is there already and `overwrite` is not set
    """
    if not data_path.is_dir():
        raise InputError(f"{data_path}: no such folder; put KEMDy19 there, data/README.md says how")
    refuse_existing(output_files(data_path, text_dim or TEXT_DIM), overwrite)
    with lock_folder(data_path, "pre-processing"):
        annotation, roles, transcripts, problems = read_corpus(data_path, audio_path)
        tokenizer, model = load_text_model(text_model, text_dim)
        files = output_files(data_path, model.config.hidden_size)
        refuse_existing(files, overwrite)
        cache = EmbeddingCache(data_path / f"embedding_{model.config.hidden_size}.cache.npz", tokenizer, model)
        if cache.fault:
            what, done = "cache that is damaged", "all sentences are embedded anew"
            problems.append(Problem(cache.path.name, "", "", what, cache.fault, done))
        if strict and problems:
            first = problems[0]
            raise InputError(
                f"--strict: {data_path}: {first.what}: {first}; faults in all: {len(problems)}, which "
                "problems.csv lists without --strict"
            )
        warn_of_problems(problems)
        model = model.to(pick_device(gpu_id))
        vectors = embed_sentences(list(transcripts.values()), tokenizer, model, batch_size, cache=cache)
        embeddings = {f"{segment}.txt": vector for segment, vector in zip(transcripts, vectors, strict=True)}

        writers = [
            lambda file: save_embeddings(file, embeddings),
            *(partial(table[COLUMNS].to_csv, index=False) for table in (annotation, *roles.values())),
            lambda file: write_problems(file, problems),
        ]
        with contextlib.ExitStack() as stack:  # all are on the disk before any takes its place, the embeddings last
            for path, write in zip(files.values(), writers, strict=True):
                file = stack.enter_context(atomic_write(path, "wb" if path.suffix == ".npy" else "w"))
                write(file)
                file.flush()
                os.fsync(file.fileno())
    return describe(data_path, annotation, roles, problems)


def refuse_existing(files: dict[str, Path], overwrite: bool) -> None:
    """Raise `InputError` when one of the files is there and not to be replaced, or is a folder."""
    for path in files.values():
        if path.is_dir():
            raise InputError(f"{path}: a folder; a file of this name is to be written, so move it elsewhere")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already; pass --overwrite to write {', '.join(files)} anew")


def read_corpus(
    data_path: Path, audio_path: Path | None
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], dict[str, str], list[Problem]]:
    """All rows of a corpus's tables, those of each role, the cleaned transcripts by segment id, and what is wrong."""
    problems: list[Problem] = []
    annotation = read_annotation_tables(data_path, problems)
    ids = annotation["Segment ID"].drop_duplicates().tolist()
    raw = read_transcripts(data_path, ids, problems)
    if not raw:
        raise InputError(f"{data_path / 'wav'}: no readable .txt of the {len(ids)} utterances; is the corpus whole?")
    transcripts = {segment: clean_transcript(text) for segment, text in raw.items()}
    annotation["text"] = annotation["Segment ID"].map(transcripts)
    roles = {role: rows_of_role(annotation, role, problems) for role in ROLES}
    check_wavs(data_path, audio_path, ids, problems)
    return annotation, roles, transcripts, problems


def describe(data_path: Path, annotation: pd.DataFrame, roles: dict[str, pd.DataFrame], problems: list[Problem]) -> str:
    """Counts of what was found, a line each."""
    lines = [
        f"{data_path}: {annotation['Segment ID'].nunique()} utterances, {annotation['Session'].nunique()} sessions, "
        f"{annotation['dialogue'].nunique()} dialogues"
    ]
    for role, table in roles.items():
        single = Counter(label for label in table["Emotion"] if ";" not in label)
        counts = ", ".join(f"{emotion} {single[emotion]}" for emotion in EMOTIONS)
        ties = len(table) - sum(single.values())
        lines.append(f"{role}: {len(table)} rows; single majority labels: {counts}; ties: {ties}")
    lines.append(f"faults, listed in problems.csv: {len(problems)}")
    return "\n".join(lines)


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
