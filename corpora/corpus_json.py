"""corpus.json: what a preprocessed corpus was made from, and the version of a raw corpus."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from utils import InputError, read_json

CORPUS_FILE = "corpus.json"
MARKER = "synthetic.json"  # written by data/make_sample.py into a corpus of synthetic speech
KINDS = {"corpus": str, "version": str, "synthetic": bool, "raw": str | None, "audio_path": str | None}
KINDS |= {"text_models": dict, "files": dict}


def read_corpus_json(data_path: Path) -> dict[str, Any] | None:
    """The content of `corpus.json`; None if it does not exist (published files, a raw corpus).

    `corpus`, `version`, `synthetic`; `raw`: the raw folder, None if it is the same; `audio_path`: folder of the wavs,
    if --audio_path was given; `text_models`: embedding file -> `features.text.describe` and its sha256; `files`:
    name -> SHA-256; for a manifest also `sessions`. Raises `InputError` if the file is damaged or was written by an
    earlier version of this program.
    """
    path = data_path / CORPUS_FILE
    if not path.exists():
        return None
    content = read_json(path)
    bad = [name for name, kind in KINDS.items() if not isinstance(content.get(name), kind)]
    if bad:
        found = f"{bad[0]} is {content.get(bad[0])!r}: damaged, or written by an earlier version"
        raise InputError(f"{path}: {found}; run preprocessing.py again with --overwrite")
    return content


def check_raw_tables(data_path: Path, content: dict[str, Any] | None) -> None:
    """Raise `InputError` if the raw tables, where they exist, have changed since preprocessing wrote `content`."""
    raw = Path((content and content["raw"]) or data_path)
    if content and raw_tables(raw) and corpus_version(raw) != content["version"]:
        raise InputError(f"{raw}: its tables have changed; run preprocessing.py again with --overwrite")


def is_synthetic(data_path: Path) -> bool:
    """Whether a raw corpus was made by `data/make_sample.py`."""
    return (data_path / MARKER).is_file()


def corpus_version(data_path: Path) -> str:
    """The version of a raw corpus: a digest of its tables, or the seed of the sample."""
    if is_synthetic(data_path):
        return f"sample, seed {read_json(data_path / MARKER).get('seed')}"
    content = hashlib.sha256()
    for path in raw_tables(data_path):
        content.update(path.name.encode())
        content.update(path.read_bytes())
    return f"tables {content.hexdigest()[:12]}"


def raw_tables(data_path: Path) -> list[Path]:
    """The manifest and its labels, or the annotation tables, of a raw corpus."""
    own = [path for path in (data_path / "manifest.csv", data_path / "labels.csv") if path.is_file()]
    return own or sorted((data_path / "annotation").glob("*.[cC][sS][vV]"))
