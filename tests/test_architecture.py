"""The architecture: the program's size, and which modules may import which."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

MAX_MODULE, MAX_MAIN, MAX_FUNCTION = 400, 300, 60  # lines
MAX_PROGRAM, MAX_MODULES, MAX_TESTS, MAX_PAGES = 9_699, 72, 9_220, 900

# From bottom to top. A module imports from the levels below it and from its own folder.
LEVELS = [
    {"constants", "utils"},
    {"corpora"},
    {"features"},
    {"dataset", "model", "loss", "metric"},
    {"training"},
    {"reports"},
    {"prediction"},
    {"main", "preprocessing", "predict", "export", "finetune"},
    {"sweeps"},
    {"experiments", "data", "tools"},
]
FOLDERS = ["corpora", "features", "training", "reports", "prediction", "sweeps"]
SCRIPTS = ["data", "tools"]  # folders of commands, whose modules import one another by name

PATHS = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
PATHS |= {
    f"{folder}.{path.stem}": path for folder in FOLDERS + SCRIPTS for path in sorted((ROOT / folder).glob("*.py"))
}


def parse(path: Path) -> ast.Module:
    """A module without what stands under `if TYPE_CHECKING:`, which is not executed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if "if TYPE_CHECKING" not in ast.unparse(node)]
    return tree


TREES = {module: parse(path) for module, path in PATHS.items()}


def n_lines(*paths: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def imported(tree: ast.Module) -> set[str]:
    """Names that a module imports: both `a.b` and `a.b.c` of `from a.b import c`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


IMPORTS = {module: imported(tree) & PATHS.keys() for module, tree in TREES.items()}


def part(module: str) -> str:
    """The folder of a module, or the module itself where it lies in none."""
    return module.partition(".")[0]


def level(module: str) -> int:
    (found,) = [number for number, parts in enumerate(LEVELS) if part(module) in parts]
    return found


def test_the_program_and_its_tests_are_small():
    assert n_lines(*PATHS.values()) <= MAX_PROGRAM
    assert len(PATHS) <= MAX_MODULES
    assert n_lines(*ROOT.glob("tests/*.py")) <= MAX_TESTS
    assert n_lines(*ROOT.glob("*/*.js"), *ROOT.glob("*/*.html")) <= MAX_PAGES


@pytest.mark.parametrize("module", PATHS)
def test_a_module_is_short_says_what_it_holds_and_has_its_imports_on_top(module):
    tree = TREES[module]
    assert n_lines(PATHS[module]) <= (MAX_MAIN if module == "main" else MAX_MODULE)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {function.name: function.end_lineno - function.lineno + 1 for function in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION} == {}
    assert (ast.get_docstring(tree) or "").partition("\n")[0].endswith(".")
    nested = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    nested = [line for line in nested if line not in {node.lineno for node in tree.body}]
    assert nested == [] or module == "main"  # which parses its options before it imports torch


def test_imports_go_down_and_in_no_circle():
    assert {part(module) for module in PATHS} == set.union(*LEVELS)
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError with the circle
    upwards = {
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if part(name) != part(module) and level(name) >= level(module)
    }
    assert upwards == set()
    assert {
        f"{m} imports training" for m in PATHS if part(m) == "reports" for n in IMPORTS[m] if "training" in n
    } == set()
    assert {name for module in ("model", "loss", "metric") for name in IMPORTS[module]} <= {"constants"}
    for module in ("training.options", "corpora.sessions"):  # --help must answer at once
        assert {"torch", "pandas", "numpy"} & imported(TREES[module]) == set()
