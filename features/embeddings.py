"""Embedding files: the cache of sentence embeddings, and the published .npy file with its safe reader."""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from utils import InputError, atomic_write, check_archive, read_bounded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from features.text import Tokenizer


# The cache: what an interrupted run had computed, and what a later run with the same encoder need not compute again

SAVE_SECONDS = 30.0  # what a process that is killed loses at most


def digest_of(text: str) -> bytes:
    """SHA-256 of a sentence."""
    return hashlib.sha256(text.encode()).digest()


def fingerprint_of(tokenizer: Tokenizer, model: PreTrainedModel) -> str:
    """SHA-256 of everything that a text model's embeddings depend on: its tokenizer and its weights; under a second.

    The pooling layer is left out: it is not used, and drawn at random if the encoder's file has none.
    """
    content = hashlib.sha256(tokenizer.fingerprint())
    for name, tensor in model.state_dict().items():
        if not name.startswith("pooler."):
            content.update(name.encode())
            content.update(tensor.detach().cpu().contiguous().view(-1).numpy().data)
    return content.hexdigest()


class EmbeddingCache:
    """Sentence embeddings of one text model by the SHA-256 of the sentence, in an `.npz` file of plain arrays.

    A file that is missing, damaged, or of another text model counts as an empty cache.

    Parameters
    ----------
    path : the file
    tokenizer, model : the text model

    Attributes
    ----------
    text_model : its fingerprint
    embeddings : dict of 32 bytes -> float32, shape = (hidden size,)
    fault : why the file is damaged, or None
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, model: PreTrainedModel) -> None:
        self.path = path
        self.text_model = fingerprint_of(tokenizer, model)
        self.embeddings: dict[bytes, np.ndarray] = {}
        self.fault: str | None = None
        self.saved_at, self.changed = time.monotonic(), False
        if path.exists():
            self.embeddings = self._read(model.config.hidden_size)

    def _read(self, dimension: int) -> dict[bytes, np.ndarray]:
        try:
            check_archive(self.path)
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if str(arrays["text_model"]) != self.text_model:
                    return {}
                digest, embedding = arrays["sha256"], arrays["embedding"]
            if digest.shape != (len(digest), 32) or embedding.shape != (len(digest), dimension):
                raise ValueError(f"arrays of shape {digest.shape} and {embedding.shape}")
            if (digest.dtype, embedding.dtype) != (np.uint8, np.float32) or not np.isfinite(embedding).all():
                raise ValueError("other values than digests and finite embeddings")
        except Exception as error:  # readers raise almost anything for damaged bytes
            self.fault = str(error)
            return {}
        return {key.tobytes(): vector for key, vector in zip(digest, embedding, strict=True)}

    def add(self, embeddings: dict[bytes, np.ndarray]) -> None:
        """Add embeddings, and save if the last time was more than half a minute ago."""
        self.embeddings |= embeddings
        self.changed = True
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()

    def keep(self, digests: Iterable[bytes]) -> None:
        """Forget all sentences but these."""
        kept = {digest: self.embeddings[digest] for digest in digests if digest in self.embeddings}
        self.changed |= len(kept) < len(self.embeddings)
        self.embeddings = kept

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.changed:
            with atomic_write(self.path, "wb") as file:
                np.savez(
                    file,
                    text_model=np.array(self.text_model),
                    sha256=np.frombuffer(b"".join(self.embeddings), dtype=np.uint8).reshape(-1, 32),
                    embedding=np.stack(list(self.embeddings.values())),
                )
        self.saved_at, self.changed = time.monotonic(), False


# The embedding file: numpy.save of a dict "<segment id>.txt" -> float32 (text_dim,), the published format. That is a
# pickle, and a pickle calls what it names. Only the names of numpy's constructors are admitted, and they stand for the
# classes below: numpy's own constructors can be made to read memory that is not theirs.


class _DType:
    """`numpy.dtype(code, align, copy)` and its state, whose second item is the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in {"f2", "f4", "f8", "O", "O8"}:
            raise pickle.UnpicklingError(f"it holds values of type {code!r}, expected floating point")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")

    def __str__(self) -> str:
        return self.order + self.code


class _Array:
    """`numpy.ndarray` as `_reconstruct` makes it: its state is (version, shape, dtype, Fortran order, content)."""

    value: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        self.fill(content, dtype, shape, "F" if fortran else "C")

    def fill(self, content: Any, dtype: _DType, shape: tuple, order: str) -> _Array:
        """A 0-dimensional array of one object, or floating-point values."""
        if dtype.code.startswith("O"):
            (self.value,) = content
        else:
            self.value = np.frombuffer(content, dtype=str(dtype)).reshape(shape, order=order)
        return self


MAX_EMBEDDING_BYTES = 2**30  # KEMDy19's has 32 MB

_ADMITTED = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _DType}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = lambda *arguments: _Array().fill(*arguments)


class _ArrayUnpickler(pickle.Unpickler):
    """Makes only the stand-ins above.

    It encodes no more text than the file holds: a file could have one text encoded again and again.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.left = len(file.getbuffer())

    def encode(self, text: str, _encoding: str) -> bytes:
        """`codecs.encode` for bytes as protocol 2 writes them."""
        self.left -= len(text)
        if self.left < 0:
            raise pickle.UnpicklingError("it holds more text than its size")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is none of numpy's array constructors")
        return _ADMITTED[module, name]


def save_embeddings(file: IO[bytes], embeddings: dict[str, np.ndarray]) -> None:
    """Write `"<segment id>.txt" -> float32 (text_dim,)` in the published format."""
    np.save(file, np.array(embeddings, dtype=object), allow_pickle=True)


def load_embeddings(path: str | Path, text_dim: int) -> dict[str, np.ndarray]:
    """Read an embedding file without running anything it may hold.

    Returns
    -------
    dict of "<segment id>.txt" -> float32, shape = (text_dim,)

    Raises
    ------
    InputError : it is missing, damaged, of another dimension, or names a callable other than numpy's constructors
    """
    path = Path(path)
    size, embeddings = _read_pickle(path)
    if not isinstance(embeddings, dict):
        raise InputError(f"{path}: holds a {type(embeddings).__name__}, expected a dict of segment ids and vectors")
    if len(embeddings) * text_dim > size:
        raise InputError(
            f"{path}: {size} bytes for {len(embeddings)} vectors, expected {text_dim} numbers in each (--text_dim "
            f"{text_dim})"
        )
    for key in embeddings:
        if not isinstance(key, str):
            raise InputError(f"{path}: a key is a {type(key).__name__}, expected one such as Sess01_script01_F001.txt")
    return {key: _vector(path, key, value, text_dim) for key, value in embeddings.items()}


def _read_pickle(path: Path) -> tuple[int, Any]:
    """Size of an embedding file in bytes, and what it holds, with `_Array` in place of numpy's arrays."""
    try:
        raw = read_bounded(path, MAX_EMBEDDING_BYTES)
        content = io.BytesIO(raw)
        major, _ = np.lib.format.read_magic(content)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        read_header(content)
        start = content.tell()
        for opcode, argument, _ in pickletools.genops(content):  # the unpickler's table of places may fill memory
            if "PUT" in opcode.name and argument > len(raw):
                raise pickle.UnpicklingError(f"it keeps an object at place {argument}")
        content.seek(start)
        found = _ArrayUnpickler(content).load()
    except FileNotFoundError as error:
        others = sorted(other.name for other in path.parent.glob("embedding_*.npy"))
        todo = "run preprocessing.py first"
        if others:
            there = f"{', '.join(others)} is there"
            todo = f"{there}: give its --text_dim, or pre-process with a text model of this dimension"
        raise InputError(f"{path}: not found; {todo}") from error
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused, {error}") from error
    except Exception as error:  # readers raise almost anything for damaged bytes
        raise InputError(f"{path}: not an embedding file of preprocessing.py ({error})") from error
    # np.save pickles a 0-dimensional array around the dict
    return len(raw), found.value if isinstance(found, _Array) else found


def _vector(path: Path, key: str, value: Any, text_dim: int) -> np.ndarray:
    """The vector that an embedding file holds for `key`, float32, shape = (text_dim,)."""
    vector = getattr(value, "value", None)
    if not isinstance(vector, np.ndarray) or vector.size != text_dim or not np.isfinite(vector).all():
        found = f"an array of shape {vector.shape}" if isinstance(vector, np.ndarray) else f"a {type(value).__name__}"
        expected = f"{text_dim} finite numbers (--text_dim {text_dim})"
        raise InputError(f"{path}: {key[:80]} holds {found}, expected {expected}")
    return vector.astype(np.float32).reshape(text_dim)
