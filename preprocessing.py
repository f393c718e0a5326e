"""Raw KEMDy19 to the four files that training reads.

    python preprocessing.py --data_path data/KEMDy19

writes annotation.csv, df_speaker.csv, df_listener.csv and embedding_768.npy into data/KEMDy19. The wavs stay where
they are.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from constants import AFFECT_RANGE, EMOTION_ALIASES, EMOTIONS, N_RATERS, SEGMENT_PATTERN, TEXT_DIM
from kobert import KOBERT
from utils import InputError, atomic_write, run_command

if TYPE_CHECKING:
    import pandas as pd

TABLE = re.compile(r"Session(?P<session>\d{2})_(?P<actor>[FM])_res\.csv", re.IGNORECASE)
SEGMENT = re.compile(SEGMENT_PATTERN)
HEADER_ROWS = 2
START, END, SEGMENT_ID, TOTAL = 1, 2, 9, 10  # positions of columns in an annotation table
N_COLUMNS = 13 + 3 * N_RATERS
RATINGS = ["Emotion", "Valence", "Arousal"]
COLUMNS = [
    *("start", "end", "Segment ID"),
    *RATINGS,
    *(f"{name}.{rater}" for rater in range(1, N_RATERS + 1) for name in RATINGS),
    *("speaker", "text", "role", "Session", "script", "sequence", "dialogue"),
]

# Transcripts

_MARKS = "blnoucsN"  # breath, laughter, noise, others, unintelligible, ...
_MARK = re.compile(rf"(?<![A-Za-z0-9])[{_MARKS}]/|/[{_MARKS}](?![A-Za-z0-9])")
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


def decode(content: bytes, path: Path) -> str:
    """Text of a file in UTF-8 (with or without a byte order mark) or CP949."""
    for encoding in ("utf-8-sig", "cp949"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError(f"{path}: neither UTF-8 nor CP949 text; save it as UTF-8")


def read_transcripts(data_path: Path, ids: list[str]) -> dict[str, str]:
    """Cleaned transcripts of the ids that have a `.txt` under `data_path/wav` (a `Path.rglob`, any depth)."""
    from tqdm import tqdm

    paths = {path.stem: path for path in sorted((data_path / "wav").rglob("*.txt"))}
    present = [segment for segment in ids if segment in paths]
    return {
        segment: clean_transcript(decode(paths[segment].read_bytes(), paths[segment]))
        for segment in tqdm(present, desc="transcripts", unit="file")
    }


# Annotation tables


@dataclass
class Summary:
    """What preprocessing found, for its closing lines."""

    dropped: Counter[str] = field(default_factory=Counter)  # reason -> rows
    listed: dict[str, list[str]] = field(default_factory=dict)  # reason -> ids

    def drop(self, reason: str, segment: str) -> None:
        self.dropped[reason] += 1
        self.listed.setdefault(reason, []).append(segment)


def emotion_label(cell: str) -> str:
    """A label in the seven emotions' spelling; raises `ValueError` when it is none of them."""
    label = cell.strip().lower()
    label = EMOTION_ALIASES.get(label, label)
    if label not in EMOTIONS:
        raise ValueError(f"emotion {cell!r}")
    return label


def rating(cell: str) -> str:
    """A number from 1 to 5 as it is written; raises `ValueError` otherwise."""
    if not AFFECT_RANGE[0] <= float(cell) <= AFFECT_RANGE[1]:
        raise ValueError(f"rating {cell!r}")
    return cell.strip()


def read_table(path: Path, session: int, actor: str, summary: Summary) -> list[dict[str, str | int]]:
    """Rows of `SessionNN_<F|M>_res.csv`, in the table's order, with labels in one spelling.

    A row whose total emotion, valence or arousal cannot be used is dropped and counted in `summary`; a rater's vote
    that cannot be used is left blank.

    Raises
    ------
    InputError : the table is not text, or a row has too few columns or an id that cannot be parsed
    """
    lines = list(csv.reader(io.StringIO(decode(path.read_bytes(), path))))
    rows = []
    for number, cells in enumerate(lines[HEADER_ROWS:], start=HEADER_ROWS + 1):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < N_COLUMNS:
            raise InputError(f"{path}, row {number}: {len(cells)} columns, expected {N_COLUMNS}; is the file whole?")
        segment = cells[SEGMENT_ID].strip()
        match = SEGMENT.fullmatch(segment)
        if match is None or int(match["session"]) != session:
            raise InputError(
                f"{path}, row {number}: segment id {segment!r}, expected one such as Sess{session:02d}_script01_F001"
            )
        role = "speaker" if match["speaker"] == actor else "listener"
        row: dict[str, str | int] = {"start": cells[START].strip(), "end": cells[END].strip(), "Segment ID": segment}
        try:
            row["Emotion"] = ";".join(emotion_label(label) for label in cells[TOTAL].split(";"))
            row["Valence"], row["Arousal"] = rating(cells[TOTAL + 1]), rating(cells[TOTAL + 2])
        except ValueError as error:
            summary.drop(f"{role} rows with an unusable total ({error})", segment)
            continue
        for rater in range(1, N_RATERS + 1):
            for name, cell, read in zip(
                RATINGS, cells[TOTAL + 3 * rater :], (emotion_label, rating, rating), strict=False
            ):
                try:
                    row[f"{name}.{rater}"] = read(cell)
                except ValueError:
                    row[f"{name}.{rater}"] = ""
        if not any(row[f"Emotion.{rater}"] for rater in range(1, N_RATERS + 1)):
            summary.drop(f"{role} rows without a usable vote", segment)
            continue
        script = match["script"]
        row |= {"speaker": match["speaker"], "role": role, "Session": session, "script": script}
        row |= {"sequence": int(match["sequence"]), "dialogue": f"Sess{session:02d}_{script}"}
        rows.append(row)
    return rows


def read_annotation_tables(data_path: Path, summary: Summary) -> pd.DataFrame:
    """All annotation tables as one, in time order within a dialogue, dialogues in the corpus's order; no `text` yet.

    Raises
    ------
    InputError : there is no table, or one cannot be read
    """
    import pandas as pd

    folder = data_path / "annotation"
    tables = sorted((path, match) for path in folder.glob("*") if (match := TABLE.fullmatch(path.name)))
    if not tables:
        raise InputError(
            f"{folder}: no table such as Session01_F_res.csv; --data_path is the folder that holds annotation/ and wav/"
        )
    rows = []
    for path, match in tables:
        rows += read_table(path, int(match["session"]), match["actor"].upper(), summary)
    if not rows:
        raise InputError(f"{folder}: its {len(tables)} tables hold no usable row")
    table = pd.DataFrame(rows)
    table["start"], table["end"] = (pd.to_numeric(table[name], errors="coerce") for name in ("start", "end"))
    # Dialogues in order of first appearance; a row without a time keeps its place among its neighbours
    order = pd.DataFrame(
        {"dialogue": pd.factorize(table["dialogue"])[0], "start": table.groupby(["dialogue", "role"])["start"].ffill()}
    ).sort_values(["dialogue", "start"], kind="stable", na_position="first")
    return table.loc[order.index].reset_index(drop=True)


def rows_of_role(annotation: pd.DataFrame, role: str, summary: Summary) -> pd.DataFrame:
    """The rows of `role`; an id that occurs several times is kept once if its ratings agree and dropped if not."""
    rows = annotation[annotation["role"] == role]
    distinct = rows.drop_duplicates([c for c in COLUMNS if c not in ("start", "end", "text")])
    conflicting = distinct["Segment ID"].duplicated(keep=False)
    for segment in distinct["Segment ID"][conflicting]:
        summary.drop(f"{role} rows whose id occurs with different ratings", segment)
    return distinct[~conflicting]


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

    summary = Summary()
    annotation = read_annotation_tables(data_path, summary)
    ids = annotation["Segment ID"].drop_duplicates().tolist()
    transcripts = read_transcripts(data_path, ids)
    if not transcripts:
        raise InputError(f"{data_path / 'wav'}: holds no .txt of the {len(ids)} utterances; is the corpus whole?")
    annotation["text"] = annotation["Segment ID"].map(transcripts)
    annotation = annotation[COLUMNS]
    roles = {role: rows_of_role(annotation, role, summary) for role in ("speaker", "listener")}

    from kobert import embed_sentences, load_text_model, save_embeddings
    from utils import pick_device

    tokenizer, model = load_text_model(text_model, text_dim)
    vectors = embed_sentences(list(transcripts.values()), tokenizer, model, batch_size, pick_device(gpu_id))

    for name, table in zip(files, (annotation, *roles.values()), strict=False):
        with atomic_write(files[name]) as file:
            table.to_csv(file, index=False)
    save_embeddings(
        files[f"embedding_{text_dim}.npy"],
        {f"{segment}.txt": vector for segment, vector in zip(transcripts, vectors, strict=True)},
    )
    return describe(data_path, annotation, roles, transcripts, summary)


def describe(
    data_path: Path,
    annotation: pd.DataFrame,
    roles: dict[str, pd.DataFrame],
    transcripts: dict[str, str],
    summary: Summary,
) -> str:
    """Counts of what was found, what is missing and what was dropped and why, a line each."""
    from dataset import find_wavs

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
    lines += [f"dropped {n} {reason}: {shorten(summary.listed[reason])}" for reason, n in summary.dropped.items()]
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
    add("--text_dim", type=int, default=TEXT_DIM, help="length of its embeddings (%(default)s)")
    add("--batch_size", type=int, default=64, help="sentences at once (%(default)s)")
    add("--gpu_id", help="a GPU's number, or cpu (the best there is)")
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
