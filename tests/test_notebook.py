"""The notebook runs from top to bottom on a raw corpus, and is committed with what its code shows on the sample."""

import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
from conftest import ROOT
from make_notebook import NOTEBOOK, code_digest
from nbclient import NotebookClient

from corpora.utterances import read_utterances

IMAGE, TABLE, AUDIO = "image", "table", "audio"
SHOWS = {"preprocess": [TABLE], "transcripts": [TABLE], "affect": [IMAGE], "sound": [IMAGE]}
SHOWS |= {name: [IMAGE, TABLE] for name in ("counts", "agreement", "durations")}


def code_cells(notebook: nbformat.NotebookNode) -> dict[str, nbformat.NotebookNode]:
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def shown(cell: nbformat.NotebookNode) -> list[str]:
    """The kinds of what a cell displayed, in order."""
    data = [output.get("data", {}) for output in cell.outputs]
    marks = {IMAGE: "image/png", TABLE: "<table", AUDIO: "<audio"}
    return [kind for content in data for kind, mark in marks.items() if mark in str(content)]


def test_the_notebook_runs_on_a_raw_corpus_with_damaged_files(sample, tmp_path, monkeypatch):
    for pattern in ("*.py", "[a-z]*/*.py"):
        for path in ROOT.glob(pattern):
            (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / path.relative_to(ROOT))
    corpus = Path(shutil.copytree(sample, tmp_path / "data" / "sample"))
    next(corpus.rglob("*.wav")).write_bytes(b"")
    next(corpus.rglob("*.txt")).write_bytes(b"\xff\xff\x80")
    for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))  # whatever kernels the user has
    monkeypatch.setenv("PYTHONPATH", "")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()

    cells = code_cells(notebook)
    assert {name: shown(cells[name]) for name in SHOWS} == SHOWS
    assert shown(cells["listen"]) == [AUDIO]
    printed = [output for cell in cells.values() for output in cell.outputs if output.get("name") == "stderr"]
    assert not re.search("warning|error|traceback", "".join(output.text for output in printed), re.IGNORECASE)


def test_the_figures_are_drawn_of_kemdy20(preprocessed20, monkeypatch):
    from reports import corpus_figures as figures

    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    table = figures.add_agreement(read_utterances(preprocessed20, "speaker"))
    assert figures.plot_counts({"speaker": table}).loc["all"].sum() == len(table)
    means = figures.plot_agreement({"speaker": table})
    assert means.loc["speaker", "angry"] == round(100 * table["agreement"][table["emotion"] == "angry"].mean(), 1)


def test_the_committed_outputs_are_those_of_the_code_and_name_no_path_of_a_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert notebook.metadata["outputs_of"] == code_digest(notebook), "call: python tests/make_notebook.py"
    cells = code_cells(notebook)
    assert {name: shown(cells[name]) for name in SHOWS} == SHOWS
    assert "KEMDy19: 461 utterances, 20 sessions\n" in [output.get("text") for output in cells["read"].outputs]
    for cell in notebook.cells:
        data = [output.get("data", {}) for output in cell.get("outputs", [])]
        texts = [str(value) for content in data for kind, value in content.items() if "image" not in kind]
        for text in [cell.source, *texts, *(output.get("text", "") for output in cell.get("outputs", []))]:
            assert not re.search(r"""(?:^|["'(= ]|file:)(?:~|/\w+)/\w|\b[A-Z]:\\""", text, re.MULTILINE), cell.id
