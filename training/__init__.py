"""Training: options and record of a run, the training step, and checkpoints.

A command imports this package first: it sets two variables that torch reads when it is imported, and stops with one
line if torch is not installed.
"""

import importlib.util
import os
import sys
from pathlib import Path

# OpenMP threads spin only briefly: 4% slower on an idle machine, but 1.6 times as fast beside other programs
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes LSTMs on a GPU deterministic

ROOT = Path(__file__).resolve().parent.parent  # of this program

if importlib.util.find_spec("torch") is None:
    todo = "activate the environment (source .venv/bin/activate), or pip install -r requirements.txt"
    print(f"error: torch is not installed: {todo}", file=sys.stderr)
    raise SystemExit(2)
