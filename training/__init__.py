"""Training: options and record of a run, the training step, and checkpoints.

A command imports this package before all others: it sets two variables that torch reads once, when it is imported, and
has a package that is not installed end the command in one line.
"""

import os
import sys
from pathlib import Path
from types import TracebackType

# OpenMP's threads spin for a short while only: 4% slower alone, but 1.6 times as fast beside other programs
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes LSTMs on a GPU deterministic

ROOT = Path(__file__).resolve().parent.parent  # of this program


def report_missing_package(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Of an exception that ends a command: one line and status 2 where a package is not installed."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package in {path.stem for path in ROOT.iterdir()}:
        return sys.__excepthook__(kind, error, trace)
    todo = "activate the environment (source .venv/bin/activate), or pip install -r requirements.txt"
    print(f"error: {error}: {todo}", file=sys.stderr)
    raise SystemExit(2)


if Path(sys.argv[0]).resolve().parent == ROOT:  # a command, not a notebook
    sys.excepthook = report_missing_package
