"""Raw KEMDy19 to the four files that training reads.

    python preprocessing.py --data_path data/KEMDy19

writes annotation.csv, df_speaker.csv, df_listener.csv and embedding_768.npy into data/KEMDy19, and what is wrong with
the corpus into problems.csv. The wavs stay where they are.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import os
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from constants import AFFECT_RANGE, EMOTIONS, MAX_BATCH_SIZE, MAX_TEXT_DIM, N_RATERS, ROLES, SEGMENT_ID, TEXT_DIM
from corpus import (
    MAX_TABLE_BYTES,
    MISSING_LIMIT,
    Problem,
    decode,
    emotion_index,
    find_files,
    find_wavs,
    parse_emotions,
    warn_of_problems,
    wav_fault,
    write_problems,
)
from kobert import KOBERT, EmbeddingCache, embed_sentences, load_text_model, save_embeddings
from utils import (
    InputError,
    atomic_write,
    file_path,
    gpu,
    lock_folder,
    number,
    pick_device,
    read_bounded,
    run_command,
)

if TYPE_CHECKING:
    import pandas as pd

TABLE = re.compile(r"Session(?P<session>\d{2})_(?P<actor>[FM])_res\.csv", re.IGNORECASE)
HEADER_ROWS = 2
START, END, SEGMENT, TOTAL = 1, 2, 9, 10  # positions of columns in an annotation table
N_COLUMNS = 13 + 3 * N_RATERS
RATINGS = ["Emotion", "Valence", "Arousal"]
COLUMNS = [
    *("start", "end", "Segment ID"),
    *RATINGS,
    *(f"{name}.{rater}" for rater in range(1, N_RATERS + 1) for name in RATINGS),
    *("speaker", "text", "role", "Session", "script", "sequence", "dialogue"),
]

# Transcripts

MAX_TRANSCRIPT_BYTES = 100_000  # an utterance of 40 s has some hundred

# Breath b, laughter l, noise n or N, o, u, c, s: the letter and a slash, runs of them, misspelt with the slash in front
# or with the last one lacking. A letter that ends a Latin word is no mark (`on/off`), one behind `BTS` or `6` is.
_MARK = re.compile(
    r"/?(?:(?<![a-z])[blnoucs]/|(?<![A-Za-z])N/)+(?:[blnoucsN](?![A-Za-z0-9]))?|(?<![A-Za-z0-9])/[blnoucsN](?![A-Za-z0-9])"
)
_PARENTHESES = re.compile(r"\(([^()]*)\)")


def clean_transcript(text: str) -> str:
    """A transcript without its markup: what was said, on one line.

    Marks of noise (`b/`, `l/`, `n/`, ..., also `/n`) go, `(A+B)` and `(A)` leave their words, `*` and `"` go, white
    space is one space. Latin letters and digits that are spoken (`BTS가`, `QR코드`, `112에`) and `. ? ! ,` stay.
    """
    text = _MARK.sub("", text)
    while _PARENTHESES.search(text):  # the innermost pair first
        text = _PARENTHESES.sub(lambda overlap: overlap[1].replace("+", " "), text)
    return " ".join(re.sub(r'[()*"\ufeff]', "", text).split())


def read_transcripts(data_path: Path, ids: list[str], problems: list[Problem]) -> dict[str, str]:
    """Transcripts as they are written, of the ids that have a readable `.txt` below `data_path/wav`.

    Those that are missing, unreadable, empty or longer than a line are added to `problems`.
    """
    from tqdm import tqdm

    repeated: list[Path] = []
    paths = find_files(data_path / "wav", ".txt", repeated)
    problems += _repeated_files(data_path, repeated, ids, "transcript")
    transcripts = {}
    for segment in tqdm(ids, desc="transcripts", unit="file"):
        file = _within(data_path, paths.get(segment, data_path / "wav"))
        if segment not in paths:
            problems.append(Problem(file, "", segment, "no transcript", "", ZEROS))
            continue
        try:
            text = decode(read_bounded(paths[segment], MAX_TRANSCRIPT_BYTES), paths[segment])
        except (OSError, InputError) as error:
            found = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{paths[segment]}: ")
            found = str(found).partition(";")[0]
            problems.append(Problem(file, "", segment, "transcript that is not readable", found, ZEROS))
            continue
        n_lines = sum(bool(line.strip()) for line in text.splitlines())
        if n_lines > 1:
            problems.append(Problem(file, "", segment, "transcript of several lines", f"{n_lines} lines", "joined"))
        if not clean_transcript(text):
            what = "transcript that is empty once cleaned" if n_lines else "transcript that is empty"
            problems.append(
                Problem(file, "", segment, what, " ".join(text.split()), "embedded as a sentence without words")
            )
        transcripts[segment] = text
    return transcripts


ZEROS = f"counts as zeros in training, which stops where more than {MISSING_LIMIT:.0%} do"


def check_wavs(data_path: Path, audio_path: Path | None, ids: list[str], problems: list[Problem]) -> None:
    """Add the ids without a wav, or with one that cannot be used, to `problems`."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    if audio_path is not None and not audio_path.is_dir():
        raise InputError(f"--audio_path {audio_path}: no such folder")
    repeated: list[Path] = []
    wavs, where = find_wavs(data_path, audio_path, repeated)
    problems += _repeated_files(data_path, repeated, ids, "wav")
    if not wavs:
        problems.append(Problem("wav", "", "", "no wav at all", where, "only --modality text can be trained"))
        return

    def fault(segment: str) -> Problem | None:
        if segment not in wavs:
            return Problem(_within(data_path, Path(where)), "", segment, "no wav", "", ZEROS)
        reason = wav_fault(wavs[segment])
        file = _within(data_path, wavs[segment])
        return Problem(file, "", segment, "wav that cannot be used", reason, ZEROS) if reason else None

    with ThreadPoolExecutor() as pool:  # reading heads of files is waiting
        found = tqdm(pool.map(fault, ids), total=len(ids), desc="wavs", unit="file")
        problems += [problem for problem in found if problem]


def _repeated_files(data_path: Path, repeated: list[Path], ids: list[str], kind: str) -> list[Problem]:
    what, done, known = f"second {kind} of one id", "the first in alphabetical order is used", {*ids}
    return [Problem(_within(data_path, path), "", path.stem, what, "", done) for path in repeated if path.stem in known]


def _within(data_path: Path, path: Path) -> str:
    """`path` as it is called within the corpus folder."""
    return str(path.relative_to(data_path) if path.is_relative_to(data_path) else path)


# Annotation tables


def rating(cell: str) -> str:
    """A number from 1 to 5 in one spelling (`3.0` is `3`); raises `ValueError` otherwise."""
    if not AFFECT_RANGE[0] <= float(cell) <= AFFECT_RANGE[1]:
        raise ValueError(f"rating {cell!r}, expected 1 to 5")
    return f"{float(cell):.12g}"


def emotions(cell: str) -> str:
    """The label or labels of a cell in `constants.EMOTIONS`' spelling; raises `ValueError` otherwise."""
    return ";".join(dict.fromkeys(EMOTIONS[label] for label in parse_emotions(cell)))


def vote(cell: str) -> str:
    """The label of a rater, who has one vote; raises `ValueError` otherwise."""
    return EMOTIONS[emotion_index(cell)]


# What a cell that cannot be used is called; a row with such a total is left out of df_*.csv
UNUSABLE_TOTAL = {
    "Emotion": "total emotion that is none of the seven",
    "Valence": "total valence that is no number from 1 to 5",
    "Arousal": "total arousal that is no number from 1 to 5",
}
UNUSABLE_VOTE = {
    "Emotion": ("vote that is none of the seven emotions", "left out of the soft label"),
    "Valence": ("rater's valence that is no number from 1 to 5", "left blank"),
    "Arousal": ("rater's arousal that is no number from 1 to 5", "left blank"),
}


def read_table(path: Path, session: int, actor: str, problems: list[Problem]) -> list[dict[str, str | int]]:
    """Rows of `SessionNN_<F|M>_res.csv`, in the table's order, with labels in one spelling.

    A cell that cannot be used is left blank, a row whose id is none of this session left out; both are added to
    `problems`, as are labels in another spelling. A row also has the `file` and the `row` it stands in, and `usable`,
    which is False without a usable total or vote.

    Raises
    ------
    InputError : the table is not text, a row has too few columns, or more than a few ids are none of this session
    """
    file = f"{path.parent.name}/{path.name}"
    try:
        text = decode(read_bounded(path, MAX_TABLE_BYTES), path)
        lines = list(csv.reader(io.StringIO(text if "\n" in text else text.replace("\r", "\n"))))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise InputError(
            f"{path}: not readable as a CSV table ({error}); is a quote left open, or a carriage return in a row?"
        ) from error
    if any(SEGMENT_ID.fullmatch(cell.strip()) for cells in lines[:HEADER_ROWS] for cell in cells):
        raise InputError(
            f"{path}: its first two rows hold an utterance; expected two header rows, as ETRI's tables have"
        )
    rows, foreign = [], []
    for line, cells in enumerate(lines[HEADER_ROWS:], start=HEADER_ROWS + 1):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < N_COLUMNS:
            raise InputError(
                f"{path}, row {line}: {len(cells)} columns, expected {N_COLUMNS}, separated by commas; is it whole?"
            )
        segment = cells[SEGMENT].strip()
        match = SEGMENT_ID.fullmatch(segment)
        if match is None or int(match["session"]) != session:
            what = "segment id of another session than its table" if match else "segment id that cannot be parsed"
            foreign.append(Problem(file, line, segment, what, repr(segment), "row left out"))
            continue
        script, dialogue = match["script"], segment.rpartition("_")[0]
        row: dict[str, str | int] = {"start": cells[START].strip(), "end": cells[END].strip(), "Segment ID": segment}
        row |= {"file": file, "row": line}
        row |= {"speaker": match["speaker"], "role": "speaker" if match["speaker"] == actor else "listener"}
        row |= {"Session": session, "script": script, "sequence": int(match["sequence"]), "dialogue": dialogue}
        found = _read_ratings(cells, row)
        if cells[START].strip() and not _is_number(cells[START]):
            found.append(("start that is no number", repr(cells[START]), "its place in the table orders it"))
        problems += [Problem(file, line, segment, *problem) for problem in found]
        rows.append(row)
    if len(foreign) > max(1, MISSING_LIMIT * len(rows)):
        raise InputError(
            f"{path}, row {foreign[0].row}: segment id {foreign[0].found}, expected one such as "
            f"Sess{session:02d}_script01_F001; {len(foreign)} rows have no id of this session, is it another's table?"
        )
    problems += foreign
    if not rows:
        problems.append(Problem(file, "", "", "table without rows", "", "nothing is taken from it"))
    return rows


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _read_ratings(cells: list[str], row: dict[str, str | int]) -> list[tuple[str, str, str]]:
    """Put a table row's total and votes, and whether they are `usable`, into `row`; return what, found, done."""
    problems = []
    left_out = f"row left out of df_{row['role']}.csv"
    row["usable"] = True
    for rater in range(N_RATERS + 1):  # 0 is the total
        readers = {"Emotion": vote if rater else emotions, "Valence": rating, "Arousal": rating}
        for offset, (name, read) in enumerate(readers.items()):
            cell, column = cells[TOTAL + 3 * rater + offset], f"{name}.{rater}" if rater else name
            try:
                row[column] = read(cell)
            except ValueError:
                row[column] = ""
                if rater == 0:
                    row["usable"] = False
                what, done = UNUSABLE_VOTE[name] if rater else (UNUSABLE_TOTAL[name], left_out)
                if rater and not cell.strip():
                    what = f"rater's {name.lower()} that is blank"
                problems.append((what, repr(cell), done))
            else:
                if name == "Emotion" and row[column] != cell:
                    problems.append(("label in another spelling", repr(cell), "read as the label that is meant"))
    if not any(row[f"Emotion.{rater}"] for rater in range(1, N_RATERS + 1)):
        row["usable"] = False
        problems.append(("row without a usable vote", "", left_out))
    return problems


def read_annotation_tables(data_path: Path, problems: list[Problem]) -> pd.DataFrame:
    """All rows of all annotation tables, in time order within a dialogue, dialogues in the corpus's order.

    Has the columns `COLUMNS` but for `text`, and `file`, `row` and `usable` (see `read_table`). What is wrong with the
    tables is added to `problems`, also a session with one table and an utterance that is in one of its two only.

    Raises
    ------
    InputError : there is no table, or one cannot be read
    """
    import pandas as pd

    folder = data_path / "annotation"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [(path, match) for path in files if (match := TABLE.fullmatch(path.name))]
    for path in {path for path in files if path.suffix.lower() == ".csv"} - {path for path, _ in paths}:
        what, done = "table whose name is not such as Session01_F_res.csv", "not read"
        problems.append(Problem(_within(data_path, path), "", "", what, "", done))
    if not paths:
        raise InputError(
            f"{folder}: no table such as Session01_F_res.csv; --data_path is the folder that holds annotation/ and wav/"
        )
    of_session = {}
    for path, match in paths:
        other = of_session.setdefault((match["session"], match["actor"].upper()), path)
        if other != path:
            raise InputError(f"{path}: {other.name} is there as well; take one of them away")
    tables = [
        pd.DataFrame(read_table(path, int(match["session"]), match["actor"].upper(), problems)) for path, match in paths
    ]
    filled = [t.assign(table=i, position=range(len(t))) for i, t in enumerate(tables) if len(t)]
    if not filled:
        raise InputError(f"{folder}: its {len(paths)} tables hold no row")
    table = pd.concat(filled, ignore_index=True)
    for session in sorted({match["session"] for _, match in paths}):
        pair = {path: t for t, (path, match) in zip(tables, paths, strict=True) if match["session"] == session}
        problems += half_rated(pair)
    table["start"], table["end"] = (pd.to_numeric(table[name], errors="coerce") for name in ("start", "end"))
    # Each of a session's two tables holds all its utterances in time order. So a start that is blank is taken from the
    # other table, or from the utterance before, behind which the row's position puts it
    table["dialogue_number"] = pd.factorize(table["dialogue"])[0]
    table["time"] = table.groupby("Segment ID")["start"].transform("first")
    table["time"] = table.groupby(["table", "dialogue"])["time"].ffill()
    order = ["dialogue_number", "time", "position"]
    return (
        table.sort_values(order, kind="stable", na_position="first")
        .drop(columns=["table", *order])
        .reset_index(drop=True)
    )


def half_rated(tables: dict[Path, pd.DataFrame]) -> list[Problem]:
    """A session's one table of two, or the utterances that only one of its two tables holds."""
    files = [f"{path.parent.name}/{path.name}" for path in tables]
    if len(tables) < 2:
        what, done = "session with one table of two", "half of its speaker and of its listener rows are lacking"
        return [Problem(files[0], "", "", what, "", done)]
    ids = [dict.fromkeys(table["Segment ID"]) if len(table) else {} for table in tables.values()]
    what, done = "utterance that only one of its session's two tables holds", "it has a row of one role only"
    return [
        Problem(file, "", segment, what, "", done)
        for file, own, other in zip(files, ids, reversed(ids), strict=True)
        for segment in own
        if segment not in other
    ]


def rows_of_role(annotation: pd.DataFrame, role: str, problems: list[Problem]) -> pd.DataFrame:
    """The usable rows of `role`, each id once.

    An id that occurs several times is kept once if its ratings agree and left out altogether if they do not; either is
    added to `problems`.
    """
    rows = annotation[(annotation["role"] == role) & annotation["usable"]]
    distinct = rows.drop_duplicates([column for column in COLUMNS if column not in ("start", "end", "text")])
    conflicting = distinct["Segment ID"].duplicated(keep=False)
    conflicts = {*distinct["Segment ID"][conflicting]}
    for segment, repeated in rows[rows["Segment ID"].duplicated(keep=False)].groupby("Segment ID", sort=False):
        agree, done = ("different", "all left out") if segment in conflicts else ("equal", "one kept")
        what = f"{role} rows of one id with {agree} ratings"
        first, found = repeated.iloc[0], f"{len(repeated)} rows"
        problems.append(Problem(first["file"], int(first["row"]), segment, what, found, done))
    return distinct[~conflicting]


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
        device = pick_device(gpu_id)
        vectors = embed_sentences(list(transcripts.values()), tokenizer, model, batch_size, device, cache=cache)
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
