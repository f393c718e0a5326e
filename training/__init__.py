"""Training: options and record of a run, the training step, and checkpoints.

Sets two variables that torch reads once, when it is imported: a program imports this package before torch.
"""

import os

# OpenMP's threads spin for a short while only: 4% slower alone, but 1.6 times as fast beside other programs
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes LSTMs on a GPU deterministic
