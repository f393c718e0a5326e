"""Manifest: a user's own corpus, as manifest.csv with one row per utterance and an optional labels.csv.

Its rows become df_speaker.csv, which training reads as for the known corpora.
"""

from __future__ import annotations

import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from constants import AFFECT_RANGE, EMOTION_ALIASES, EMOTIONS
from corpora.corpus import MANIFEST
from corpora.problems import COUNTS_AS_ZEROS, file_problems, row_problems
from corpora.sessions import MAX_SESSION
from corpora.tables import PART_COLUMNS, VOTE_COUNTS, check_share_of_invalid, in_time_order, majority_labels, multi_hot
from corpora.transcripts import clean_transcript
from corpora.utterances import read_cells
from corpora.wavs import PARTS_OF_WAVS, is_part, read_channels, wav_problems
from utils import InputError

LABELS = "labels.csv"
LEFT_OUT = "-"  # in labels.csv: rows and votes with this label are left out
# Columns of df_speaker.csv: `first` and `last` are times in the wav; `start` and `end` in a dialogue of a single wav
NAMES = {"id": "Segment ID", "start": "first", "end": "last", "arousal": "Arousal", "valence": "Valence"}
NAMES |= {name: name for name in ("wav", "channel", "session", "dialogue", "speaker", "text", "emotion")}
COLUMNS = ["start", "end", "Segment ID", "wav", "first", "last", "channel", "Emotion", "Valence", "Arousal"]
COLUMNS += [*VOTE_COUNTS, *PART_COLUMNS, "groups"]
N_GROUPS = 10  # sessions if the manifest names none: groups of speakers or dialogues


def read_manifest(data_path: Path, audio_path: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of df_speaker.csv, and the problems of the manifest and its wavs (in `audio_path` or `data_path`).

    Raises `InputError` if it cannot be read, has unknown labels, or over 5% of its rows are invalid.
    """
    path = data_path / MANIFEST
    cells = read_cells(path, ())
    cells.columns = cells.columns.str.strip().str.lower()
    votes = [name for name in cells if name.startswith("votes_")]
    for names in (["id"], ["wav", "text"], ["emotion", *votes]):
        if cells.columns.intersection(names).empty or cells.columns.has_duplicates:
            found = f"no column {' or '.join(names[:2])}, or a duplicate column, in {', '.join(cells.columns)}"
            raise InputError(f"{path}: {found}; see docs/data.md for the columns")
    cells = cells.reindex(columns=[*NAMES, *votes], fill_value="").apply(lambda column: column.str.strip())
    rows = cells.rename(columns=NAMES)[[*NAMES.values()]].assign(file=MANIFEST, row=cells.index + 2)
    rows, problems = _usable_rows(data_path, rows.join(_read_labels(data_path, cells), how="inner"))
    if (rows["text"] != "").any():
        cleaned = rows["text"].map(clean_transcript)
        what, done = "transcript empty after cleaning", "embedded as an empty sentence"
        problems = pd.concat([problems, row_problems(rows[cleaned == ""], what, rows["text"].map(repr), done)])
        rows["text"] = cleaned
    if (rows["wav"] != "").any():
        ids, folder = rows["Segment ID"], audio_path or data_path
        wavs = {segment: folder / wav for segment, wav in zip(ids, rows["wav"], strict=True)}
        parts = rows[["first", "last", "channel"]].replace("", "0").astype(float).to_numpy()
        of_wavs = file_problems(folder, wav_problems(wavs, ids, folder, dict(zip(ids, parts, strict=True))))
        row_of_id = of_wavs["id"].map(rows.set_index("Segment ID")["row"])
        problems = pd.concat([problems, of_wavs.assign(file=MANIFEST, row=row_of_id)])
    rows["dialogue"] = rows["dialogue"].where(rows["dialogue"] != "", rows["Segment ID"])
    if rows.groupby("dialogue")["session"].nunique().max() > 1:  # dialogue names repeat across sessions
        rows["dialogue"] = rows["session"] + "_" + rows["dialogue"]
    rows["Session"], rows["groups"] = number_sessions(rows)
    is_one_wav = rows.groupby("dialogue")["wav"].transform("nunique") == 1
    times = rows[["first", "last"]].apply(pd.to_numeric).where(is_one_wav).set_axis(["start", "end"], axis=1)
    rows = in_time_order(rows.join(times)).sort_values("Session", kind="stable")
    rows = rows.assign(role="speaker", script="", sequence=rows.groupby("dialogue").cumcount() + 1)
    return rows[COLUMNS].reset_index(drop=True), problems.sort_values("row", kind="stable")


def _read_labels(data_path: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """`Emotion` and `VOTE_COUNTS` (NaN if invalid) of the rows that labels.csv does not leave out.

    A row without votes gets one vote for each of its labels; a row without a label gets the majority of its votes.
    """
    names, path = {name: name for name in EMOTIONS} | EMOTION_ALIASES, data_path / LABELS

    def key(label: str) -> str:
        return unicodedata.normalize("NFC", label).strip().lower()

    if path.exists():
        table = read_cells(path, ("label", "emotion"))
        names |= dict(zip(table["label"].map(key), table["emotion"].map(key), strict=True))
        if bad := sorted({*names.values()} - {*EMOTIONS, LEFT_OUT}):
            raise InputError(f"{path}: emotion is {bad[0]!r}, expected one of {', '.join(EMOTIONS)} or {LEFT_OUT}")
    votes = cells.filter(regex="^votes_")
    votes.columns = votes.columns.str.removeprefix("votes_").map(key)
    labels = cells["emotion"].str.split(";").explode().map(key)
    labels = labels[labels != ""]
    found = pd.concat([labels, *(pd.Series(name, votes.index[votes[name] != ""]) for name in votes)])
    if unknown := [f"{name} {n}" for name, n in found[~found.isin(names.keys())].value_counts().items()]:
        todo = f"map them to emotions in {path} (columns label,emotion; {LEFT_OUT} leaves rows out)"
        raise InputError(f"{data_path / MANIFEST}: unknown labels with their counts: {', '.join(unknown)}; {todo}")
    labels = labels.map(names)
    emotion = labels[labels != LEFT_OUT].groupby(level=0).unique().str.join(";").reindex(cells.index, fill_value="")
    counts = pd.DataFrame(0.0, cells.index, [*EMOTIONS, LEFT_OUT])
    for name in votes:
        numbers = pd.to_numeric(votes[name].replace("", "0"), errors="coerce")
        counts[names[name]] += numbers.where(numbers.between(0, 1e6))
    n_left_out = counts.pop(LEFT_OUT)
    emotion = emotion.where(cells["emotion"] != "", majority_labels(counts))
    counts = counts.where(counts.sum(axis=1, skipna=False) != 0, multi_hot(emotion))
    is_left_out = (emotion == "") & ((cells["emotion"] != "") | (n_left_out > 0))
    if is_left_out.all():
        raise InputError(f"{path}: leaves out all rows of {MANIFEST}; map at least one label to an emotion")
    return counts.set_axis(VOTE_COUNTS, axis=1).assign(Emotion=emotion)[~is_left_out]


def _usable_rows(data_path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The valid rows, and the problems of the others; `InputError` if over 5% are invalid."""
    ids, has = rows["Segment ID"], (rows != "").any()
    first, last = (pd.to_numeric(rows[name], errors="coerce") for name in ("first", "last"))
    bad_time = (first.isna() & (rows["first"] != "")) | (last.isna() & (rows["last"] != ""))
    bad_time |= (first < 0) | (last.fillna(np.inf) <= first.fillna(0))
    faults = {
        "id missing or not usable as a file name": (~ids.str.fullmatch(r"[^/\\\x00-\x1f]+"), ids),
        "duplicate id": (ids.duplicated(), ids),
        "missing emotion": (rows["Emotion"] == "", ""),
        "invalid vote count": (rows[VOTE_COUNTS].isna().any(axis=1), ""),
        "neither wav nor text": ((rows[["wav", "text"]] == "").all(axis=1), ""),
        "missing session": ((rows["session"] == "") & has["session"], ""),
        "invalid start or end (expected seconds, start before end)": (bad_time, rows["first"] + " to " + rows["last"]),
        "invalid channel (expected 1, 2, ...)": (~rows["channel"].str.fullmatch("|[1-9][0-9]?"), rows["channel"]),
    }
    for name in ("Arousal", "Valence"):
        is_rating = pd.to_numeric(rows[name], errors="coerce").between(*AFFECT_RANGE)
        faults[f"{name.lower()} not a number from 1 to 5"] = (~is_rating & has[name], rows[name])
    problems = pd.concat(row_problems(rows[bad], what, found, "row left out") for what, (bad, found) in faults.items())
    is_lost = rows["row"].isin(problems["row"])
    check_share_of_invalid(data_path, rows, is_lost, problems)
    return rows[~is_lost], problems


def number_sessions(rows: pd.DataFrame) -> tuple[np.ndarray, str]:
    """The session number of each row, and a note if sessions are groups of speakers or dialogues.

    Speakers who talk to one another are in the same group, so that no speaker is in both training and test.
    """
    n, speaker, dialogue = len(rows), *(pd.factorize(rows[name])[0] for name in ("speaker", "dialogue"))
    links = coo_array((np.ones(n), (speaker, n + dialogue)), (2 * n, 2 * n))
    linked = connected_components(links, directed=False)[1][speaker]
    if rows["session"].nunique() > 1:
        is_number = rows["session"].str.fullmatch("[1-9][0-9]{0,2}").all()
        numbers = rows["session"].astype(int) if is_number else pd.factorize(rows["session"])[0] % MAX_SESSION + 1
        return numbers, ""
    groups, names = ("speakers", linked) if linked.any() else ("dialogues", rows["dialogue"])
    return pd.factorize(names)[0] % N_GROUPS + 1, f" (a session is a group of {groups})"


def write_parts(rows: pd.DataFrame, problems: pd.DataFrame, folder: Path, out: Path) -> None:
    """Write each utterance that is a part or a channel of a wav in `folder` as its own wav below `out`."""
    shutil.rmtree(out / PARTS_OF_WAVS, ignore_errors=True)
    unusable = problems.loc[problems["done"] == COUNTS_AS_ZEROS, "id"]
    parts = rows[is_part(rows) & ~rows["Segment ID"].isin(unusable)]
    if len(parts):
        (out / PARTS_OF_WAVS).mkdir()

    def write(row: tuple) -> None:
        segment, wav, first, last, channel = row
        part = float(first or 0), float(last or "inf"), int(channel) - 1 if channel else None
        samples, rate = read_channels(folder / wav, *part)
        soundfile.write(out / PARTS_OF_WAVS / f"{segment}.wav", samples, rate, "FLOAT")  # lossless

    with ThreadPoolExecutor() as pool:
        cells = parts[["Segment ID", "wav", "first", "last", "channel"]].itertuples(index=False)
        list(tqdm(pool.map(write, cells), "cutting wavs", len(parts), disable=parts.empty))
