"""Provenance: what the files of a pre-processed corpus were made from, as `corpus.json` beside them says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from utils import InputError, read_json

CORPUS_FILE = "corpus.json"
MARKER = "synthetic.json"  # data/make_sample.py leaves it in a corpus of computer speech
UNKNOWN = "unknown, published files"  # in place of the text model, where no corpus.json says it
RELEASE = re.compile(r"v(\d+)[_.](\d+)", re.IGNORECASE)  # in the name of a corpus's folder, such as KEMDy19_v1_3


def read_corpus_file(data_path: Path) -> dict[str, Any] | None:
    """The content of `corpus.json`; None where there is none, beside published files or in a raw corpus.

    Raises
    ------
    InputError : it is damaged
    """
    path = data_path / CORPUS_FILE
    if not path.exists():
        return None
    content = read_json(path)
    kinds = {"corpus": str, "version": str, "synthetic": bool, "text_model": dict, "files": dict}
    kinds |= {"raw": str | None, "audio_path": str | None}  # of --out
    bad = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    entries = content.setdefault("other_embeddings", {})
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
        bad.append("other_embeddings")
    if bad:
        raise InputError(
            f"{path}: {bad[0]} is {content.get(bad[0])!r}, not as preprocessing.py writes it; run that again with "
            "--overwrite, or take the file away: what the others were made from counts as unknown then"
        )
    return content


def _is_entry(value: Any) -> bool:
    """Whether a JSON value is one of `describe_embeddings`."""
    return isinstance(value, dict) and isinstance(value.get("text_model"), dict) and "sha256" in value


def describe_embeddings(data_path: Path) -> dict[str, dict[str, Any]]:
    """Digest and text model of every embedding file that `corpus.json` knows, by name.

    A second encoder of another dimension leaves the first one's file where it is.
    """
    content = read_corpus_file(data_path)
    if content is None:
        return {}
    newest = {name: digest for name, digest in content["files"].items() if name.startswith("embedding_")}
    entries = {name: {"sha256": digest, "text_model": content["text_model"]} for name, digest in newest.items()}
    return content["other_embeddings"] | entries


class Source(NamedTuple):
    """Where the wavs and transcripts of a pre-processed folder lie.

    raw : the corpus folder, with `wav/`
    audio_path : of the wavs, if they are not in there
    """

    raw: Path
    audio_path: Path | None = None


def source_of(data_path: Path) -> Source:
    """The raw corpus of a folder: itself, or the one from which `preprocessing.py --out` wrote into it.

    Raises
    ------
    InputError : its `corpus.json`, which should say it, is damaged
    """
    content = None if (data_path / "wav").is_dir() else read_corpus_file(data_path)
    if content is None or content.get("raw") is None:
        return Source(data_path)
    return Source(Path(content["raw"]), Path(content["audio_path"]) if content.get("audio_path") else None)


def is_synthetic(data_path: Path) -> bool:
    """Whether a raw corpus is one of `data/make_sample.py`."""
    return (data_path / MARKER).is_file()


def corpus_version(data_path: Path) -> str:
    """Which copy of a corpus a raw folder holds: `1.3` where its name says so, else a digest of its tables.

    The sample's is the seed that it was made with.
    """
    if is_synthetic(data_path):
        return f"sample, seed {read_json(data_path / MARKER).get('seed')}"
    if release := RELEASE.search(data_path.resolve().name):
        return ".".join(release.groups())
    content = hashlib.sha256()
    for path in sorted((data_path / "annotation").glob("*.[cC][sS][vV]")):
        content.update(path.name.encode())
        content.update(path.read_bytes())
    return f"tables {content.hexdigest()[:12]}"
