"""The architecture: how long modules and functions may be, and which modules may import which."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60

# From bottom to top. A module imports from the levels below it and from its own folder.
LEVELS = [
    {"constants"},
    {"utils"},
    {"corpora"},
    {"features"},
    {"dataset", "model", "loss", "metric"},
    {"training"},
    {"reports"},
    {"prediction"},
    {"main", "preprocessing", "benchmark", "predict", "export"},
    {"sweeps"},
    {"experiments"},
]
FOLDERS = ["corpora", "features", "training", "reports", "prediction", "sweeps"]

MATHEMATICS = {"model", "loss", "metric"}  # imports constants alone

PATHS = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
PATHS |= {f"{folder}.{path.stem}": path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def executed_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A node and everything in it, except what stands under `if TYPE_CHECKING:`."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from executed_nodes(child)


def imported_names(tree: ast.Module) -> Iterator[str]:
    """Names that a module imports, also inside functions: both `a.b` and `a.b.c` of `from a.b import c`."""
    for node in executed_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


IMPORTS = {module: {*imported_names(parse(path))} & PATHS.keys() for module, path in PATHS.items()}


def part(module: str) -> str:
    """The folder of a module in one, the module itself on top."""
    return module.partition(".")[0]


def level(module: str) -> int:
    (found,) = [number for number, parts in enumerate(LEVELS) if part(module) in parts]
    return found


@pytest.mark.parametrize("module", PATHS)
def test_modules_and_functions_are_short_and_say_what_they_own(module):
    text, tree = PATHS[module].read_text(encoding="utf-8"), parse(PATHS[module])
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {function.name: function.end_lineno - function.lineno + 1 for function in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}
    first_line = (ast.get_docstring(tree) or "").partition("\n")[0]
    assert first_line.endswith(".")


def test_every_module_has_a_level():
    assert {part(module) for module in PATHS} == set.union(*LEVELS)
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == {*FOLDERS}


def test_imports_go_down_and_in_no_circle():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError with the circle
    upwards = {
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if part(name) != part(module) and level(name) >= level(module)
    }
    assert upwards == set()


def test_the_mathematics_imports_constants_alone():
    assert set.union(*(IMPORTS[module] for module in MATHEMATICS)) == {"constants"}


def test_reports_import_no_training():
    names = set.union(*(IMPORTS[module] for module in PATHS if part(module) == "reports"))
    assert "training" not in {part(name) for name in names}
