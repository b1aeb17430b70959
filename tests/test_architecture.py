"""The house rules that a machine can hold: imports run down, no circles, short files, short functions."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"cluster": 1, "serve": 2, "jobs": 3}
FILE_LINES, FUNCTION_LINES = 400, 50
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for floor in FLOORS
    for path in sorted((ROOT / floor).rglob("*.py"))
}


def imported(nodes: list[ast.stmt] | list[ast.AST]) -> set[str]:
    """The project's own modules that import statements among these nodes name."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names & set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_file_and_functions_are_short(name: str) -> None:
    text = MODULES[name].read_text()
    assert text.count("\n") <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, f"{name}.{node.name} is too long"


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_down(name: str) -> None:
    own = FLOORS[name.split(".")[0]]
    everything = imported(list(ast.walk(ast.parse(MODULES[name].read_text()))))
    assert not [other for other in everything if FLOORS[other.split(".")[0]] > own]


def test_no_import_circle() -> None:
    graph = {name: imported(ast.parse(path.read_text()).body) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_recipes_need_no_torch() -> None:
    """Checking a recipe and showing help must be fast: no stage imports torch before it runs."""
    import subprocess
    import sys

    code = "import sys; from jobs.core.stage import *; [load_stage(n) for n in STAGES]; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
