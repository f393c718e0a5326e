"""Dialogues: the page that shows, utterance by utterance, what was predicted, beside what is true where that is known.

The page is opened from the disk and asks no host for anything. It contains the texts, but no audio: it plays the files
where they are.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup

from constants import EMOTIONS
from corpora.utterances import SHARES
from metric import AFFECT, PROBABILITIES
from utils import atomic_write


def write_dialogues_page(
    path: Path, rows: pd.DataFrame, audio: Mapping[str, Path], *, recording: bool = False, **words: Any
) -> None:
    """Write the page of the dialogues in rows of predictions.csv, whose true labels may be empty.

    Columns of the raters' shares (`SHARES`) and of standard deviations between runs (`p_disgust_sd`, ...) are shown, if
    any. `audio` has by its id the file of each utterance that is to be played, if `recording` one of a whole dialogue,
    of which an utterance is `start` to `end` (s). `words` are those of the template: `title`, `role` (whose emotion is
    predicted, "speaker" or "listener"), and if there are any `notes` and `warnings`, lists of sentences.
    """
    paths = {name: os.path.relpath(file.absolute(), path.absolute().parent) for name, file in audio.items()}
    urls = {name: quote(os.fsencode(relative)) for name, relative in paths.items()}
    dialogues = [
        {"name": str(name), "utterances": [_utterance(row, urls) for row in own.to_dict("records")]}
        for name, own in rows.groupby("dialogue", sort=False, dropna=False)
    ]
    data = {"emotions": EMOTIONS, "recording": recording, "dialogues": dialogues}
    write_page(path, "dialogues.html", "dialogues.js", {**words, "emotions": EMOTIONS, "data": data})


def write_page(path: Path, template: str, script: str, parts: Mapping[str, Any]) -> None:
    """Write a page from a template and its only script, which lie beside this module.

    The page's content security policy admits the script by its hash.
    """
    folder = Path(__file__).parent
    loader, code = jinja2.FileSystemLoader(folder), (folder / script).read_text("utf-8")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
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
