"""Dialogues: the page that shows, utterance by utterance, what was predicted, beside what is true where that is known.

The page is opened from the disk and asks no host for anything. Sound and text of a corpus stay where they lie, since
its licence forbids to hand them on. A page from the disk may play such files, and it may load scripts and styles, but a
browser lets it read no other file. So the texts stand beside the corpus in a stylesheet, `transcripts_<role>.css`, as
values of custom properties: it is read like data, and unlike a script it can run nothing.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from constants import EMOTIONS
from corpora.annotation import read_annotation, read_table
from corpora.registry import by_corpus, dialogue_of, parse_id
from corpora.wavs import find_wavs
from reports.runs import AFFECT_COLUMNS, read_columns
from utils import InputError, atomic_write

AFFECT = ("arousal", "valence")


class Shown(NamedTuple):
    """An utterance on the page.

    emotion : seven probabilities
    start, end : s, in its dialogue
    text : None where a stylesheet has it
    sound : URL of its wav
    spread : `emotion`, `arousal` and `valence`: standard deviations between runs
    truth : of `corpus_truths`
    """

    emotion: Sequence[float]
    arousal: float
    valence: float
    identifier: str = ""
    speaker: str = ""
    start: float | None = None
    end: float | None = None
    text: str | None = None
    sound: str | None = None
    spread: Mapping[str, Any] | None = None
    truth: Mapping[str, Any] | None = None

    @property
    def record(self) -> dict[str, Any]:
        """It as the page's JSON holds it."""
        arousal, valence = rounded([self.arousal, self.valence], 3)
        record: dict[str, Any] = {"id": self.identifier, "speaker": self.speaker, "start": self.start, "end": self.end}
        record |= {"p": rounded(self.emotion), "arousal": arousal, "valence": valence}
        record |= {name: value for name, value in (("text", self.text), ("sound", self.sound)) if value is not None}
        if self.spread is not None:
            affect = {name: rounded([self.spread[name]], 3)[0] for name in AFFECT}
            record["sd"] = {"p": rounded(self.spread["emotion"])} | affect
        if self.truth is not None:
            record["truth"] = {name: self.truth[name] for name in ("labels", "shares", *AFFECT)}
        return record


class Dialogue(NamedTuple):
    """A dialogue on the page, its utterances in the order of time.

    sound : URL of its recording, relative to the page; None where each utterance has a wav of its own
    """

    name: str
    utterances: Sequence[Shown]
    sound: str | None = None


class Page(NamedTuple):
    """The content of the page.

    role : whose emotion is predicted
    notes : sentences below the title
    transcripts : URLs of the stylesheets with the texts, relative to the page; none where the page has them itself
    """

    title: str
    role: str
    notes: list[str]
    dialogues: list[Dialogue]
    transcripts: Sequence[str] = ()


def relative_url(path: Path, page: Path) -> str:
    """URL of a file as the page at `page` names it."""
    return quote(os.fsencode(os.path.relpath(path.absolute(), page.absolute().parent)))


def rounded(values: Iterable[float], digits: int = 4) -> list[float]:
    """Numbers as the page's JSON holds them."""
    return [round(float(value), digits) for value in values]


def write_page(path: Path, page: Page) -> None:
    """Write the page; raises `InputError` when it cannot be written."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    # `tojson` escapes < > & ', so that no text can end the script element that holds it
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    script = (folder / "dialogues.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    dialogues = [d._asdict() | {"utterances": [shown.record for shown in d.utterances]} for d in page.dialogues]
    data = page._asdict() | {"emotions": EMOTIONS, "dialogues": dialogues}
    template = environment.get_template("dialogues.html")
    text = template.render(page=page, data=data, emotions=EMOTIONS, script=Markup(script), digest=digest)
    with atomic_write(path) as file:
        file.write(text)


# A corpus's dialogues


def corpus_truths(data_path: Path, role: str) -> dict[str, dict[str, Any]]:
    """What `df_<role>.csv` says of each utterance, by segment id.

    Returns
    -------
    dict of `labels` (label indices), `shares` (of the raters' votes, seven), `arousal`, `valence`, `start` and `end`
    (s, or None), `text` (or None)
    """
    path = data_path / f"df_{role}.csv"
    annotation, table = read_annotation(path), read_table(path)
    times = {name: pd.to_numeric(table.get(name), errors="coerce") for name in ("start", "end") if name in table}
    texts = table["text"].tolist() if "text" in table else [None] * len(table)
    truths = {}
    for row, segment in enumerate(annotation.ids):
        truths[segment] = {
            "labels": np.flatnonzero(annotation.majority[row]).tolist(),
            "shares": rounded(annotation.soft[row]),
            "arousal": rounded([annotation.arousal[row]], 3)[0],
            "valence": rounded([annotation.valence[row]], 3)[0],
            "text": texts[row],
        } | {name: finite(times[name].iloc[row]) if name in times else None for name in ("start", "end")}
    return truths


def finite(value: float) -> float | None:
    """The value; None for NaN."""
    return float(value) if np.isfinite(value) else None


def write_transcripts(data_path: Path, role: str, truths: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the texts beside the corpus, where the page reads them, unless they stand there already.

    A folder that cannot be written to is a warning: the page then says that the texts are not there.
    """
    path = data_path / f"transcripts_{role}.css"
    lines = [f"--{segment}: {css_string(truth['text'])};" for segment, truth in truths.items() if truth["text"]]
    content = "\n".join(['@charset "utf-8";', "#transcripts {", *lines, "}", ""])
    try:
        if not path.is_file() or path.read_text("utf-8") != content:
            with atomic_write(path) as file:
                file.write(content)
    except (OSError, ValueError, InputError) as error:
        warnings.warn(f"{path}: cannot be written, so dialogues.html shows no texts ({error})", stacklevel=2)
    return path


def css_string(text: str) -> str:
    """A text as a string of a stylesheet, with percent signs for what could end it: the page decodes it as a URL's."""
    return '"' + re.sub(r'[%"\\\x00-\x1f\x7f]', lambda match: quote(match[0]), text) + '"'


def write_test_page(folder: Path, data_paths: Sequence[Path], role: str, audio_path: Path | None = None) -> None:
    """Write `dialogues.html` of a tested run into its folder, from its `predictions.csv` and the corpora's tables.

    Raises
    ------
    InputError : one of the tables cannot be read, or the page cannot be written
    """
    page = folder / "dialogues.html"
    probabilities = [f"p_{emotion}" for emotion in EMOTIONS]
    table = read_columns(folder / "predictions.csv", [*probabilities, *AFFECT_COLUMNS], texts=["segment_id"])
    truths: dict[str, dict[str, Any]] = {}
    wavs, transcripts = {}, []
    for data_path in data_paths:
        own = corpus_truths(data_path, role)
        truths |= own
        wavs |= find_wavs(data_path, audio_path)[0]
        transcripts.append(relative_url(write_transcripts(data_path, role, own), page))
    several = len(by_corpus(table["segment_id"])) > 1
    dialogues: dict[str, list[Shown]] = {}
    for row in table.to_dict("records"):
        segment = row["segment_id"]
        truth, parts = truths[segment], parse_id(segment)
        shown = Shown(
            [row[name] for name in probabilities],
            row["arousal_pred"],
            row["valence_pred"],
            identifier=segment,
            speaker=parts.speaker,
            start=truth["start"],
            end=truth["end"],
            sound=relative_url(wavs[segment], page) if segment in wavs else None,
            truth=truth,
        )
        name = dialogue_of(segment) if several else parts.dialogue
        dialogues.setdefault(name, []).append(shown)
    notes = [f"Run {folder.absolute().name}: {len(table)} tested utterances of {len(dialogues)} dialogues."]
    found = [Dialogue(name, utterances) for name, utterances in dialogues.items()]
    write_page(page, Page("Tested dialogues", role, notes, found, transcripts))
