"""The notebook runs from top to bottom on the sample corpus, and is committed with what its code shows there."""

import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from constants import EMOTIONS
from corpora.annotation import read_annotation
from features.embeddings import load_embeddings, save_embeddings

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "preprocessing.ipynb"
IMAGE, TABLE, AUDIO = "image", "table", "audio"
SHOWS = {
    "preprocess": [TABLE],
    "counts": [IMAGE, TABLE],
    "dialogue": [IMAGE, TABLE],
    "agreement": [IMAGE],
    "affect": [IMAGE],
    "durations": [IMAGE, TABLE],
    "transcripts": [TABLE],
    "examples": [IMAGE],
    "windows": [IMAGE],
    "embeddings": [IMAGE],
    "folds": [IMAGE, TABLE],
}


def read_notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def modified(folder: Path) -> dict[Path, int]:
    """When each file of `folder` was last written; caches, experiments and hidden folders aside."""
    times = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__")) and name != "exp"]
        times |= {path: path.stat().st_mtime_ns for path in (Path(parent, name) for name in files)}
    return times


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules, the notebook and data/*.py, without a corpus."""
    folder = tmp_path_factory.mktemp("notebook") / "copy"
    for pattern in ("*.py", "*.ipynb", "[a-z]*/*.py", "data/*.csv"):
        for path in ROOT.glob(pattern):
            (folder / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.relative_to(ROOT))
    return folder


@pytest.fixture
def execute(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Execute a notebook in `copy` with this interpreter, whatever kernels the user has, and leave no trace at home."""
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", "")

    def run(notebook: nbformat.NotebookNode) -> None:
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(copy)}}).execute()

    return run


def shown(cell: nbformat.NotebookNode) -> list[str]:
    """The kinds of what a cell displayed, in order."""
    kinds = []
    for output in cell.outputs:
        html = output.get("data", {}).get("text/html", "")
        kinds += [IMAGE] * ("image/png" in output.get("data", {}))
        kinds += [kind for kind in (TABLE, AUDIO) if f"<{kind}" in html]
    return kinds


def test_the_notebook_runs_on_the_sample(sample: Path, copy: Path, execute):
    shutil.copytree(sample, copy / "data" / "sample")
    next((copy / "data" / "sample").rglob("*.wav")).write_bytes(b"")
    next((copy / "data" / "sample").rglob("*.txt")).write_bytes(b"\xff\xff\x80")
    before, notebook = modified(ROOT), read_notebook()
    execute(notebook)
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}

    assert {name: shown(cells[name]) for name in SHOWS} == SHOWS
    speaker = read_annotation(copy / "data" / "sample" / "df_speaker.csv")
    present = speaker.majority[speaker.majority.sum(axis=1) == 1].any(axis=0)
    assert shown(cells["listen"]) == [AUDIO] * present.sum()
    listed = "".join(output.data.get("text/markdown", "") for output in cells["listen"].outputs)
    assert re.findall(r"\*\*(\w+)\*\*", listed) == [EMOTIONS[index] for index in present.nonzero()[0]]
    printed = [output for cell in cells.values() for output in cell.outputs if output.output_type == "stream"]
    assert "60 utterances, 6 sessions" in "".join(output.text for output in printed if output.name == "stdout")
    progress = "".join(output.text for output in printed if output.name == "stderr")
    assert not re.search("warning|error|traceback", progress, re.IGNORECASE), progress
    assert modified(ROOT) == before


def test_the_notebook_runs_on_kemdy20_and_on_embeddings_of_another_encoder(preprocessed20: Path, copy: Path, execute):
    corpus = Path(shutil.copytree(preprocessed20, copy / "data" / "KEMDy20"))
    embeddings = load_embeddings(corpus / "embedding_768.npy", 768)
    (corpus / "embedding_768.npy").unlink()
    with (corpus / "embedding_32.npy").open("wb") as file:
        save_embeddings(file, {key: vector[:32] for key, vector in embeddings.items()})
    notebook = read_notebook()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = first.source.replace('Path("data/sample")', 'Path("data/KEMDy20")')
    execute(notebook)
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert {name: shown(cells[name]) for name in SHOWS} == SHOWS
    folds = "".join(output.get("data", {}).get("text/html", "") for output in cells["folds"].outputs)
    assert re.findall(r"sessions \d+-\d+", folds) == [f"sessions {n}-{n + 7}" for n in range(1, 40, 8)]


def test_another_corpus_is_one_changed_path(execute):
    notebook = read_notebook()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = first.source.replace('Path("data/sample")', 'Path("data/absent")')
    with pytest.raises(CellExecutionError) as stopped:
        execute(notebook)
    assert stopped.value.ename == "InputError"
    assert stopped.value.evalue.startswith("data/absent: no such folder; put KEMDy19 or KEMDy20 there")


@pytest.fixture
def make_notebook(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_notebook

    return make_notebook


def test_the_committed_outputs_are_those_of_the_code(make_notebook):
    notebook = read_notebook()
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "outputs_of": make_notebook.code_digest(notebook),
    }, "call: python docs/make_notebook.py"
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert {name: shown(cells[name]) for name in SHOWS} == SHOWS
    assert [cell.execution_count for cell in cells.values()] == [*range(1, len(cells) + 1)]
    assert "KEMDy19: 461 utterances, 20 sessions\n" in [output.get("text") for output in cells["read"].outputs]


def test_the_outputs_follow_the_code_of_cells_and_figures(make_notebook, tmp_path, monkeypatch):
    notebook = read_notebook()
    before = make_notebook.code_digest(notebook)
    notebook.cells[0].source += "\ntext"
    assert make_notebook.code_digest(notebook) == before
    next(cell for cell in notebook.cells if cell.cell_type == "code").source += "\n1 + 1"
    assert make_notebook.code_digest(notebook) != before
    monkeypatch.setattr(make_notebook, "FIGURES", tmp_path / "figures.py")
    make_notebook.FIGURES.write_text("# other figures")
    assert make_notebook.code_digest(read_notebook()) != before


def test_the_committed_notebook_is_small_and_of_no_machine():
    notebook = read_notebook()
    assert NOTEBOOK.stat().st_size < 1_500_000
    for cell in notebook.cells:
        assert cell.metadata == {}, f"cell {cell.id} has metadata"
        outputs = cell.get("outputs", [])
        assert all(output.get("name") != "stderr" for output in outputs), f"cell {cell.id} has progress bars"
        shown_text = [str(value) for o in outputs for kind, value in o.get("data", {}).items() if "image" not in kind]
        for text in [cell.source, *shown_text, *(output.get("text", "") for output in outputs)]:
            found = re.search(r"""(?:^|["'(= ]|file:)(?:~|/\w+)/\w|\b[A-Z]:\\""", text, re.MULTILINE)
            assert not found, f"cell {cell.id} has a path of a machine: {found[0]}"


def test_headings_are_in_korean_and_english():
    markdown = "\n".join(cell.source for cell in read_notebook().cells if cell.cell_type == "markdown")
    headings = re.findall("^#+ (.*)$", markdown, re.MULTILINE)
    assert len(headings) > len(SHOWS)
    for heading in headings:
        assert re.fullmatch(r"[^/]*[가-힣][^/]* / [A-Z][\w ,]+", heading), heading
