"""Dialogues: the page of the predictions for each utterance, beside the raters' labels; and how pages are written.

Pages are opened from the disk and fetch nothing. The page of dialogues contains the transcripts but no audio: it plays
the audio files from where they are. Every page is in English and Korean; korean.json has the Korean of the labels.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from constants import EMOTIONS
from corpora.utterances import SHARES
from metric import AFFECT, PROBABILITIES
from utils import atomic_write

FOLDER = Path(__file__).parent
KOREAN = json.loads((FOLDER / "korean.json").read_text("utf-8"))


def write_dialogues_page(
    path: Path, rows: pd.DataFrame, audio: Mapping[str, Path], *, recording: bool = False, **words: Any
) -> None:
    """Write the page of the dialogues in rows of predictions.csv, whose true labels may be empty.

    Columns of the raters' shares (`SHARES`) and of standard deviations between runs (`p_disgust_sd`, ...) are shown, if
    any. `audio` has by its id the file of each utterance that is to be played, if `recording` one of a whole dialogue,
    of which an utterance is `start` to `end` (s). `words` are those of the template: `title`, `role` (whose emotion is
    predicted, "speaker" or "listener"), and if there are any `run` (name of a tested run), `notes` and `warnings`
    (lists of sentences).
    """
    paths = {name: os.path.relpath(file.absolute(), path.absolute().parent) for name, file in audio.items()}
    urls = {name: quote(os.fsencode(relative)) for name, relative in paths.items()}
    dialogues = [
        {"name": str(name), "utterances": [_utterance(row, urls) for row in own.to_dict("records")]}
        for name, own in rows.groupby("dialogue", sort=False, dropna=False)
    ]
    korean = {name: KOREAN[name] for name in (*EMOTIONS, *AFFECT)}
    data = {"emotions": EMOTIONS, "recording": recording, "dialogues": dialogues, "korean": korean}
    write_page(path, "dialogues.html", "dialogues.js", {**words, "data": data})


def say(english: str, korean: str | None = None) -> Markup:
    """A text in both languages; without `korean` by korean.json, also the parts of `NAME: TEXT` and `session 13`."""
    parts = re.split(r"(: | (?=\d))", english)
    if not korean and {english, *parts} & KOREAN.keys():
        korean = KOREAN.get(english) or "".join(KOREAN.get(part, part) for part in parts)
    spans = Markup('<span class="en" lang="en">{}</span><span class="ko" lang="ko">{}</span>')
    return spans.format(english, korean) if korean else escape(english)


def attribute(name: str, english: str, korean: str | None = None) -> Markup:
    """An attribute in both languages, such as `aria-label`."""
    text = Markup('{0}="{1}" data-attribute="{0}" data-en="{1}" data-ko="{2}"')
    return text.format(name, english, korean or KOREAN.get(english, english))


def write_page(path: Path, template: str, script: str, parts: Mapping[str, Any]) -> None:
    """Write a page from a template and a script beside this module; language.js is before the script.

    The page's content security policy admits the script by its hash.
    """
    code = "".join((FOLDER / name).read_text("utf-8") for name in ("language.js", script))
    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"say": say, "attribute": attribute, "korean": KOREAN}
    # `tojson` escapes < > & ', so that no text can end the script element that holds it
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    with atomic_write(path) as file:
        file.write(environment.get_template(template).render(parts, script=Markup(code), digest=digest))


def _utterance(row: Mapping[str, Any], urls: Mapping[str, str]) -> dict[str, Any]:
    """An utterance as the page's JSON has it."""

    def shares(names: Sequence[str]) -> list[float]:
        return [round(float(row[name]), 4) for name in names]

    def affect(pattern: str) -> dict[str, float]:
        values = {name: float(row[pattern.format(name)]) for name in AFFECT}
        return {name: round(value, 3) for name, value in values.items() if value == value}  # a corpus may have none

    found = {name: None if pd.isna(row[name]) else row[name] for name in ("speaker", "start", "end", "text")}
    found |= {"sound": urls.get(row["segment_id"]), "label": EMOTIONS.index(row["pred_emotion"])}
    found |= {"p": shares(PROBABILITIES)} | affect("pred_{}")
    if f"{PROBABILITIES[0]}_sd" in row:
        found["sd"] = {"p": shares([f"{name}_sd" for name in PROBABILITIES])} | affect("pred_{}_sd")
    if not pd.isna(row["true_emotion"]):
        labels = [EMOTIONS.index(name) for name in row["true_emotion"].split(";")]
        found["truth"] = {"labels": labels} | affect("true_{}")
        if SHARES[0] in row:
            found["truth"]["shares"] = shares(SHARES)
    return found
