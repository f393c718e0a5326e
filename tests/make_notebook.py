"""The notebook with its outputs: preprocessing.ipynb is executed on the sample corpus, which `make train` makes.

python tests/make_notebook.py
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "preprocessing.ipynb"
FIGURES = ROOT / "reports" / "corpus_figures.py"  # what draws them


def code_digest(notebook: Any) -> str:
    """SHA-256 of the code that the outputs come from, which `metadata.outputs_of` holds."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n".join([*sources, FIGURES.read_text(encoding="utf-8")]).encode()).hexdigest()


def keep_outputs(notebook: Any) -> None:
    """Leave of the outputs what a reader looks at: no progress bars, no times, and no sounds, which take a megabyte."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in outputs if "<audio" not in output.get("data", {}).get("text/html", "")]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "outputs_of": code_digest(notebook),
    }


def main() -> int:
    if not (ROOT / "data" / "sample" / "embedding_768.npy").exists():
        print("error: data/sample: not preprocessed; call make train first", file=sys.stderr)
        return 2
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    keep_outputs(notebook)
    nbformat.write(notebook, NOTEBOOK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
