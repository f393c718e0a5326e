"""Embedding file: the text embeddings of a corpus in the published format, and a safe reader for it.

The format is `numpy.save` of a dict "<segment id>.txt" -> float32 (text_dim,), which is a pickle. A pickle can call any
function that it names. The reader allows only the names of NumPy's array constructors and maps them to the classes
below, because NumPy's own constructors can be misused to read foreign memory.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils import InputError, atomic_write, first_line

MAX_VALUE = 1e6  # of embeddings; real values are far below, larger ones overflow in a model


def is_embedding(vector: np.ndarray, text_dim: int) -> bool:
    """Whether an array can be a text embedding: of this length, with finite values of at most `MAX_VALUE`."""
    return vector.size == text_dim and bool(np.abs(vector).max() <= MAX_VALUE)  # False for NaN


class _DType:
    """`numpy.dtype(code, align, copy)` and its state, whose second item is the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in {"f2", "f4", "f8", "O8"}:
            raise pickle.UnpicklingError("it contains values that are not floating-point numbers")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.code = {"<": "<", ">": ">"}.get(state[1], "=") + self.code


class _Array:
    """`numpy.ndarray` as made by `_reconstruct`; its state is (version, shape, dtype, Fortran order, content).

    `value` is the object in a 0-dimensional array of one object, or a vector of the floating-point values.
    """

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple) -> None:
        _, _, dtype, _, content = state
        self.value = content[0] if dtype.code.endswith("O8") else np.frombuffer(content, dtype.code)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that calls only the classes above."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "numpy", "dtype":
                return _DType
            case ("numpy", "ndarray") | ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return _Array  # of NumPy 1 and 2
            case "_codecs", "encode":  # used by NumPy before 1.17 to write bytes
                return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed in an embedding file")


def save_embeddings(path: Path, embeddings: Mapping[str, np.ndarray]) -> None:
    """Write `"<segment id>.txt" -> float32 (text_dim,)` in the published format."""
    with atomic_write(path, "wb") as file:
        np.save(file, np.array(dict(embeddings), dtype=object), allow_pickle=True)


def load_embeddings(path: Path, text_dim: int) -> dict[str, np.ndarray]:
    """Read `"<segment id>.txt" -> float32 (text_dim,)` without running code from the file.

    Raises `InputError` if the file is missing, damaged, of another dimension, or refers to another callable.
    """
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("its header is not of version 1.0")
            file.seek(int.from_bytes(file.read(2), "little"), os.SEEK_CUR)  # skip the header: the pickle has all data
            arrays = _ArrayUnpickler(file).load().value.items()  # a 0-dimensional array holds the dict
    except FileNotFoundError as error:
        others = ", ".join(sorted(other.name for other in path.parent.glob("embedding_*.npy"))) or "none"
        todo = "run preprocessing.py, or select another encoder with --text_model"
        raise InputError(f"{path}: not found; {todo} (embedding files found: {others})") from error
    except Exception as error:  # damaged files raise errors of many kinds
        raise InputError(f"{path}: not an embedding file of preprocessing.py ({first_line(error, path)})") from error
    vectors = {}
    for key, array in arrays:
        vector = getattr(array, "value", None)
        if not (isinstance(key, str) and isinstance(vector, np.ndarray) and is_embedding(vector, text_dim)):
            found = f"{key!r} with {getattr(vector, 'size', 'no')} values"
            expected = f"'<segment id>.txt' with {text_dim} finite values up to {MAX_VALUE:.0e} (--text_dim)"
            raise InputError(f"{path}: {found}, expected {expected}")
        vectors[key] = vector.astype(np.float32)
    return vectors
