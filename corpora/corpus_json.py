"""corpus.json: what the files of a pre-processed corpus were made from, and which copy of a corpus a folder holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from utils import InputError, read_json

CORPUS_FILE = "corpus.json"
MARKER = "synthetic.json"  # data/make_sample.py leaves it in a corpus of computer speech
KINDS = {"corpus": str, "version": str, "synthetic": bool, "raw": str | None, "audio_path": str | None}
KINDS |= {"text_models": dict, "files": dict}


def read_corpus_json(data_path: Path) -> dict[str, Any] | None:
    """The content of `corpus.json`; None where there is none, beside published files or in a raw corpus.

    `corpus`, `version`, `synthetic`; `raw`: the raw folder, None if it is the same; `audio_path`: of the wavs, if
    --audio_path was given; `text_models`: embedding file -> `features.text.describe` and its sha256; `files`:
    name -> SHA-256. Of a manifest also `sessions`. Raises `InputError` where it is damaged, or an earlier version of
    this program wrote it.
    """
    path = data_path / CORPUS_FILE
    if not path.exists():
        return None
    content = read_json(path)
    bad = [name for name, kind in KINDS.items() if not isinstance(content.get(name), kind)]
    if bad:
        found = f"{bad[0]} is {content.get(bad[0])!r}, as after damage or of an earlier version"
        raise InputError(f"{path}: {found}; run preprocessing.py again with --overwrite")
    return content


def is_synthetic(data_path: Path) -> bool:
    """Whether a raw corpus is one of `data/make_sample.py`."""
    return (data_path / MARKER).is_file()


def corpus_version(data_path: Path) -> str:
    """Which copy of a corpus a raw folder holds: a digest of its tables, or the seed that the sample was made with."""
    if is_synthetic(data_path):
        return f"sample, seed {read_json(data_path / MARKER).get('seed')}"
    content = hashlib.sha256()
    own = [path for path in (data_path / "manifest.csv", data_path / "labels.csv") if path.is_file()]
    for path in own or sorted((data_path / "annotation").glob("*.[cC][sS][vV]")):
        content.update(path.name.encode())
        content.update(path.read_bytes())
    return f"tables {content.hexdigest()[:12]}"
