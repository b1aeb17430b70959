"""The house rules that a machine can hold: imports run down the order of rooms, no circles, short files, short functions.

An import counts wherever it stands, inside functions too; what only a type checker sees (`if TYPE_CHECKING:`) does not.
"""

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from jobs.core.stage import STAGES

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    *("cluster.moved", "cluster.ray_private", "cluster.store", "cluster.connection", "cluster.fleet", "cluster.health"),
    *("cluster", "serve.cleaning", "serve.tasks", "serve.engines", "serve.settings", "serve.keys", "serve.generation"),
    *("serve.models", "serve.watch", "serve.page", "serve.http", "serve.deployment", "serve"),
    *("jobs.core", "jobs.data", "jobs.contracts", "jobs.losses", "jobs.architectures", "jobs.tasks", "jobs.objectives"),
    *("jobs.training", "jobs.compression", "jobs.judging", "jobs.search", "jobs.running", "jobs.deploying", "jobs.offline"),
    *("jobs.report", "jobs", "jobs.pipeline", "jobs.demo"),
)
"""Rooms and single modules from the ground up; a floor's own name stands for what lies at its top and is not named."""
FLOORS = ("cluster", "serve", "jobs")
SHARED = {"LEARNING", "LOGGER", "ROOT", "STAGE", "T", "TASK", "Problem"}
"""Names of several modules: each has its own logger, root or stage, each kind its halves; type variables; problems of recipes
and those of HTTP."""
RAY_PRIVATE = "cluster.ray_private"
PRIVATE = re.compile(r"ray\.(dashboard\b|(\w+\.)*_(?!_))\S*")
"""Names of Ray's that are its own business: with a part that begins with one underscore, or of the dashboard."""
FILE_LINES, FUNCTION_LINES = 400, 50
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for floor in FLOORS
    for path in sorted((ROOT / floor).rglob("*.py"))
}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes but for what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        seen_by_checkers_alone = isinstance(child, ast.If) and ast.unparse(child.test).split(".")[-1] == "TYPE_CHECKING"
        for part in child.orelse if seen_by_checkers_alone else (child,):  # type: ignore[attr-defined]  # it is an If
            yield part
            yield from executed(part)


def imported(source: str) -> set[str]:
    """The project's own modules that a source imports."""
    names: set[str] = set()
    for node in executed(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            # A package gives its own names too: then it is the package that is imported.
            names |= whole if whole <= set(MODULES) else whole | {node.module}
    return names & set(MODULES)


def defined(source: str) -> Iterator[str]:
    """The public classes and constants at the top of a module."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [node.name] if isinstance(node, ast.ClassDef) else [one.id for one in targets if isinstance(one, ast.Name)]
        yield from (name for name in names if not name.startswith("_"))


def room(module: str) -> str:
    """The room that a module is in, or its own name where the order names it."""
    parts = module.split(".")
    return next(name for count in range(len(parts), 0, -1) if (name := ".".join(parts[:count])) in ORDER)


def upward(module: str, source: str) -> list[str]:
    """What a module imports that stands above it."""
    own = ORDER.index(room(module))
    return sorted(other for other in imported(source) if ORDER.index(room(other)) > own)


def circle(sources: Mapping[str, str]) -> list[str]:
    """A circle of imports among these modules; empty where there is none."""
    try:
        TopologicalSorter({name: imported(source) - {name} for name, source in sources.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("name", MODULES)
def test_file_and_functions_are_short(name: str) -> None:
    text = MODULES[name].read_text()
    assert text.count("\n") <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, f"{name}.{node.name} is too long"


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_down(name: str) -> None:
    assert not upward(name, MODULES[name].read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other(stage: str) -> None:
    assert not imported(MODULES[f"jobs.{stage}"].read_text()) & {f"jobs.{other}" for other in STAGES if other != stage}


def test_no_import_circle() -> None:
    assert not circle({name: path.read_text() for name, path in MODULES.items()})


def test_a_class_or_constant_has_its_name_to_itself() -> None:
    owners: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for name in defined(path.read_text()):
            owners.setdefault(name, set()).add(module)
    assert {name: modules for name, modules in owners.items() if len(modules) > 1 and name not in SHARED} == {}


def test_each_room_is_in_the_order() -> None:
    there = {".".join(name.split(".")[:2]) for name, path in MODULES.items() if path.name == "__init__.py"}
    assert there <= set(ORDER), "a new room has a place in the order"
    assert set(ORDER) <= set(MODULES), "nothing is named that is not there"


def test_readme_shows_each_room_in_its_order() -> None:
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2].splitlines()
    for floor in FLOORS:
        begins = next(number for number, line in enumerate(tree) if line.startswith(f"    {floor}/"))
        below = list(itertools.takewhile(lambda line: line.startswith("      "), tree[begins + 1 :]))
        shown = [line.split("/")[0].strip() for line in below if re.match(r"      [a-z]+/ ", line)]
        rooms = [name for name in ORDER if name.startswith(f"{floor}.") and MODULES[name].name == "__init__.py"]
        assert [f"{floor}.{name}" for name in shown if f"{floor}.{name}" in MODULES] == rooms
        files = [file for line in below if re.match(r"      [a-z_]+\.py ", line) for file in re.findall(r"[a-z_]+\.py", line)]
        assert [file for file in files if not (ROOT / floor / file).is_file()] == [], "a file is named that is not there"


@pytest.mark.parametrize(
    ("module", "source", "above"),
    [
        ("serve.tasks.protocol", "from serve.engines.card import Card", ["serve.engines.card"]),
        ("jobs.core.recipe", "def load():\n    from jobs.data import rows\n", ["jobs.data.rows"]),
        ("cluster.gc", "try:\n    import serve.app\nexcept ImportError:\n    pass\n", ["serve.app"]),
        ("jobs.tasks.supervised", "import jobs.training.loop as loop", ["jobs.training.loop"]),
        (
            "jobs.core.recipe",
            "if TYPE_CHECKING:\n    from jobs.data import rows\nelse:\n    import jobs.demo\n",
            ["jobs.demo"],
        ),
        ("jobs.core.recipe", "if typing.TYPE_CHECKING:\n    from jobs.data import rows\n", []),
        ("jobs.finetune", "from jobs.training.loop import fit\nfrom serve.app import build\nimport cluster.gc", []),
    ],
)
def test_what_stands_above_is_found(module: str, source: str, above: list[str]) -> None:
    assert upward(module, source) == above


def test_a_circle_is_found_inside_functions() -> None:
    one, two = "def late():\n    from jobs.data.pack import pack\n", "import jobs.data.rows\n"
    assert circle({"jobs.data.rows": one, "jobs.data.pack": two})
    assert not circle({"jobs.data.rows": one, "jobs.data.pack": ""})


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
