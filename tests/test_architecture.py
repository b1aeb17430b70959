"""The house rules that a machine can hold: imports run down, no circles, Ray's private parts in one place, short files."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"cluster": 1, "serve": 2, "jobs": 3}
RAY_PRIVATE = "cluster.ray_private"
PRIVATE = re.compile(r"ray\.(dashboard\b|(\w+\.)*_(?!_))\S*")
"""Names of Ray's that are its own business: with a part that begins with one underscore, or of the dashboard."""
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


@pytest.mark.parametrize("name", sorted(set(MODULES) - {RAY_PRIVATE}))
def test_private_parts_of_ray_are_used_in_one_module(name: str) -> None:
    assert not list(private_to_ray(MODULES[name].read_text())), f"import it in {RAY_PRIVATE}, with a reason"


@pytest.mark.parametrize(
    "source",
    [
        "import ray._raylet",
        "import ray.dashboard.utils as utils",
        "from ray import _private",
        "from ray.serve._private.logging_utils import get_serve_logs_dir",
        "from ray.serve.context import _get_global_client",
        "from ray.dashboard.modules.serve.sdk import ServeSubmissionClient",
        "def later():\n    from ray._private import ray_constants",
        "import ray\nray._private.state.state.get_cluster_config()",
        "import ray.data as data\nyes = data._internal.plan",
        "from ray import tune\nyes = tune.search._uuid_prefix()",
        "noisy = 'ray._private.runtime_env.packaging'",
        "noisy = ['ray.dashboard.modules.dashboard_sdk']",
    ],
)
def test_a_private_part_of_ray_is_found(source: str) -> None:
    assert list(private_to_ray(source))


@pytest.mark.parametrize(
    "source",
    [
        "import ray.data\nfrom ray import tune\nyes = ray.__version__, tune.search.__name__",
        "from ray.job_submission import JobSubmissionClient as _Client",
        "from rayon.dashboard import _private",
        "import torch\nyes = torch._dynamo",
        "logger = 'ray.serve'",
    ],
)
def test_what_ray_offers_is_none(source: str) -> None:
    assert not list(private_to_ray(source))


def private_to_ray(source: str) -> Iterator[str]:
    """Private names of Ray that a module imports, comes to by attributes of what it has imported, or has as a string."""
    tree, origins, found = ast.parse(source), dict[str, str](), list[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                origins[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
            origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            found.append(f"{origins.get(first, '')}.{rest}")
    return (name for name in found if PRIVATE.fullmatch(name))


def test_recipes_need_no_torch() -> None:
    """Checking a recipe and showing help must be fast: no stage imports torch before it runs."""
    import subprocess
    import sys

    code = "import sys; from jobs.core.stage import *; [load_stage(n) for n in STAGES]; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
