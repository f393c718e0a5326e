"""Raw KEMDy19 to the four files that training reads.

    python preprocessing.py --data_path data/KEMDy19

writes annotation.csv, df_speaker.csv, df_listener.csv and embedding_768.npy into data/KEMDy19. The wavs stay where
they are.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from constants import AFFECT_RANGE, EMOTIONS, N_RATERS, ROLES, SEGMENT_ID, TEXT_DIM
from corpus import decode, emotion_index, find_wavs, parse_emotions
from kobert import KOBERT, embed_sentences, load_text_model, save_embeddings
from utils import InputError, atomic_write, gpu, number, pick_device, run_command

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


def read_transcripts(data_path: Path, ids: list[str]) -> dict[str, str]:
    """Cleaned transcripts of the ids that have a `.txt` below `data_path/wav`."""
    from tqdm import tqdm

    paths = {path.stem: path for path in sorted((data_path / "wav").rglob("*.txt"))}
    present = [segment for segment in ids if segment in paths]
    return {
        segment: clean_transcript(decode(paths[segment].read_bytes(), paths[segment]))
        for segment in tqdm(present, desc="transcripts", unit="file")
    }


# Annotation tables


def rating(cell: str) -> str:
    """A number from 1 to 5 as it is written; raises `ValueError` otherwise."""
    if not AFFECT_RANGE[0] <= float(cell) <= AFFECT_RANGE[1]:
        raise ValueError(f"rating {cell!r}, expected 1 to 5")
    return cell.strip()


READERS = {
    "Emotion": lambda cell: ";".join(EMOTIONS[label] for label in parse_emotions(cell)),
    "Valence": rating,
    "Arousal": rating,
}


def read_table(path: Path, session: int, actor: str) -> list[dict[str, str | int]]:
    """Rows of `SessionNN_<F|M>_res.csv`, in the table's order, with labels in one spelling.

    A cell that cannot be used is left blank. A row without a usable total or without any usable vote says so in
    `problem`, which is empty otherwise.

    Raises
    ------
    InputError : the table is not text, or a row has too few columns or an id that cannot be parsed
    """
    try:
        lines = list(csv.reader(io.StringIO(decode(path.read_bytes(), path))))
    except csv.Error as error:
        raise InputError(f"{path}: not readable as a CSV table ({error}); is a quote left open?") from error
    if any(SEGMENT_ID.fullmatch(cell.strip()) for cells in lines[:HEADER_ROWS] for cell in cells):
        raise InputError(
            f"{path}: its first two rows hold an utterance; expected two header rows, as ETRI's tables have"
        )
    rows = []
    for line, cells in enumerate(lines[HEADER_ROWS:], start=HEADER_ROWS + 1):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < N_COLUMNS:
            raise InputError(f"{path}, row {line}: {len(cells)} columns, expected {N_COLUMNS}; is the file whole?")
        segment = cells[SEGMENT].strip()
        match = SEGMENT_ID.fullmatch(segment)
        if match is None or int(match["session"]) != session:
            raise InputError(
                f"{path}, row {line}: segment id {segment!r}, expected one such as Sess{session:02d}_script01_F001"
            )
        row: dict[str, str | int] = {"start": cells[START].strip(), "end": cells[END].strip(), "Segment ID": segment}
        row["problem"] = ""
        for rater in range(N_RATERS + 1):  # 0 is the total
            for offset, (name, read) in enumerate(READERS.items()):
                cell, column = cells[TOTAL + 3 * rater + offset], f"{name}.{rater}" if rater else name
                try:
                    if rater and name == "Emotion":
                        emotion_index(cell)  # a rater votes for one emotion
                    row[column] = read(cell)
                except ValueError as error:
                    row[column] = ""
                    if rater == 0:
                        row["problem"] = f"an unusable total ({error})"
        if not any(row[f"Emotion.{rater}"] for rater in range(1, N_RATERS + 1)):
            row["problem"] = row["problem"] or "no usable vote"
        script, dialogue = match["script"], segment.rpartition("_")[0]
        row |= {"speaker": match["speaker"], "role": "speaker" if match["speaker"] == actor else "listener"}
        row |= {"Session": session, "script": script, "sequence": int(match["sequence"]), "dialogue": dialogue}
        rows.append(row)
    return rows


def read_annotation_tables(data_path: Path) -> pd.DataFrame:
    """All rows of all annotation tables, in time order within a dialogue, dialogues in the corpus's order.

    Has the columns `COLUMNS` but for `text`, and `problem` (see `read_table`). Tables without a pair are warned of, and
    utterances that only one of a pair holds.

    Raises
    ------
    InputError : there is no table, or one cannot be read
    """
    import pandas as pd

    folder = data_path / "annotation"
    paths = sorted((path, match) for path in folder.glob("*") if (match := TABLE.fullmatch(path.name)))
    if not paths:
        raise InputError(
            f"{folder}: no table such as Session01_F_res.csv; --data_path is the folder that holds annotation/ and wav/"
        )
    tables = [pd.DataFrame(read_table(path, int(match["session"]), match["actor"].upper())) for path, match in paths]
    table = pd.concat([t.assign(table=i, position=range(len(t))) for i, t in enumerate(tables)], ignore_index=True)
    for session in sorted({match["session"] for _, match in paths}):
        pair = [t for t, (_, match) in zip(tables, paths, strict=True) if match["session"] == session]
        warn_of_half_rated(folder, session, pair)
    if table.empty:
        raise InputError(f"{folder}: its {len(paths)} tables hold no row")
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


def warn_of_half_rated(folder: Path, session: str, tables: list[pd.DataFrame]) -> None:
    """Warn when a session has one table only, or an utterance is in only one of its two."""
    if len(tables) < 2:
        warnings.warn(
            f"{folder}: session {session} has one table of two; half of its speaker and listener rows are lacking",
            stacklevel=2,
        )
        return
    first, second = ({*table["Segment ID"]} if len(table) else set() for table in tables)
    if first != second:
        warnings.warn(
            f"{folder}: {len(first ^ second)} utterances of session {session} are in only one of its two tables: "
            f"{shorten(sorted(first ^ second))}",
            stacklevel=2,
        )


def rows_of_role(annotation: pd.DataFrame, role: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The usable rows of `role`, each id once, and the ids of the dropped ones by reason.

    An id that occurs several times is kept once if its ratings agree and dropped altogether if they do not.
    """
    rows = annotation[annotation["role"] == role]
    dropped = {
        f"{role} rows with {problem}": unusable["Segment ID"].tolist()
        for problem, unusable in rows[rows["problem"] != ""].groupby("problem")
    }
    rows = rows[rows["problem"] == ""]
    rows = rows.drop_duplicates([column for column in COLUMNS if column not in ("start", "end", "text")])
    conflicting = rows["Segment ID"].duplicated(keep=False)
    if conflicting.any():
        dropped[f"{role} rows whose id occurs with different ratings"] = rows["Segment ID"][conflicting].tolist()
    return rows[~conflicting], dropped


# The four files


def output_files(data_path: Path, text_dim: int) -> dict[str, Path]:
    """Paths of the files that preprocessing writes."""
    names = ("annotation.csv", "df_speaker.csv", "df_listener.csv", f"embedding_{text_dim}.npy")
    return {name: data_path / name for name in names}


def preprocess(
    data_path: Path,
    text_model: str = KOBERT,
    text_dim: int = TEXT_DIM,
    batch_size: int = 64,
    gpu_id: str | None = None,
    overwrite: bool = False,
) -> str:
    """Write `annotation.csv`, `df_speaker.csv`, `df_listener.csv` and `embedding_<text_dim>.npy` into `data_path`.

    Returns
    -------
    str : the summary that the command prints

    Raises
    ------
    InputError : the corpus or the text model cannot be used, or a file is there already and `overwrite` is not set
    """
    if not data_path.is_dir():
        raise InputError(f"{data_path}: no such folder; put KEMDy19 there, data/README.md says how")
    files = output_files(data_path, text_dim)
    there = [str(path) for path in files.values() if path.exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]}: exists already; pass --overwrite to write {', '.join(files)} anew")

    annotation = read_annotation_tables(data_path)
    ids = annotation["Segment ID"].drop_duplicates().tolist()
    transcripts = read_transcripts(data_path, ids)
    if not transcripts:
        raise InputError(f"{data_path / 'wav'}: holds no .txt of the {len(ids)} utterances; is the corpus whole?")
    annotation["text"] = annotation["Segment ID"].map(transcripts)
    roles, dropped = {}, {}
    for role in ROLES:
        roles[role], dropped_of_role = rows_of_role(annotation, role)
        dropped |= dropped_of_role

    tokenizer, model = load_text_model(text_model, text_dim)
    vectors = embed_sentences(list(transcripts.values()), tokenizer, model, batch_size, pick_device(gpu_id))
    embeddings = {f"{segment}.txt": vector for segment, vector in zip(transcripts, vectors, strict=True)}

    with contextlib.ExitStack() as stack:  # all four are written before the first takes its place
        *tables, embedding = [
            stack.enter_context(atomic_write(path, "wb" if path.suffix == ".npy" else "w")) for path in files.values()
        ]
        for file, table in zip(tables, (annotation, *roles.values()), strict=True):
            table[COLUMNS].to_csv(file, index=False)
        save_embeddings(embedding, embeddings)
    return describe(data_path, annotation, roles, transcripts, dropped)


def describe(
    data_path: Path,
    annotation: pd.DataFrame,
    roles: dict[str, pd.DataFrame],
    transcripts: dict[str, str],
    dropped: dict[str, list[str]],
) -> str:
    """Counts of what was found, what is missing and what was dropped and why, a line each."""
    ids = annotation["Segment ID"].drop_duplicates().tolist()
    wavs, where = find_wavs(data_path)
    lines = [
        f"{data_path}: {len(ids)} utterances, {annotation['Session'].nunique()} sessions, "
        f"{annotation['dialogue'].nunique()} dialogues"
    ]
    for role, table in roles.items():
        single = Counter(label for label in table["Emotion"] if ";" not in label)
        counts = ", ".join(f"{emotion} {single[emotion]}" for emotion in EMOTIONS)
        ties = len(table) - sum(single.values())
        lines.append(f"{role}: {len(table)} rows; single majority labels: {counts}; ties: {ties}")
    without = {
        f"without a wav in {where}": [segment for segment in ids if segment not in wavs],
        "without a transcript": [segment for segment in ids if segment not in transcripts],
        "with a transcript that is empty once cleaned": [s for s, text in transcripts.items() if not text],
    }
    lines += [f"{len(found)} utterances {what}: {shorten(found)}" for what, found in without.items() if found]
    lines += [f"dropped {len(found)} {reason}: {shorten(found)}" for reason, found in dropped.items()]
    return "\n".join(lines)


def shorten(ids: list[str], most: int = 20) -> str:
    """The ids joined, the first `most` of them where there are more."""
    distinct = list(dict.fromkeys(ids))
    more = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return ", ".join(distinct[:most]) + more


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Make annotation.csv, df_speaker.csv, df_listener.csv and the sentence embeddings of a raw corpus.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data_path",
        type=Path,
        default=Path("data/KEMDy19"),
        help="corpus folder, with annotation/ and wav/ (%(default)s)",
    )
    add("--text_model", default=KOBERT, help="hub name or folder of the sentence encoder (%(default)s)")
    add("--text_dim", type=number(int, 1), default=TEXT_DIM, help="length of its embeddings (%(default)s)")
    add("--batch_size", type=number(int, 1), default=64, help="sentences at once (%(default)s)")
    add("--gpu_id", type=gpu, help="a GPU's number, or cpu (the best there is)")
    add("--overwrite", action="store_true", help="replace files that an earlier run made")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = get_args_parser().parse_args(argv)
    return run_command(
        lambda: print(
            preprocess(args.data_path, args.text_model, args.text_dim, args.batch_size, args.gpu_id, args.overwrite)
        )
    )


if __name__ == "__main__":
    sys.exit(main())
