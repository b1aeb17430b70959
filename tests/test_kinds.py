"""No stage, route, page or report knows a kind of task: outside of a kind's own two files nothing names one.

By syntax tree, so that words such as "spans" may be used for what they mean. What is not found: a name put together at run
time, and a kind that went through a variable before it was compared.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spotting.installed import KIND
from tests.test_architecture import MODULES

HALVES = ("serve.tasks", "jobs.tasks")
ROOT = Path(__file__).resolve().parents[1]
OWN = {path.stem for path in (ROOT / "serve" / "tasks").glob("*.py")} - {"__init__", "protocol"}
KINDS = {*OWN, KIND}
OWN_FILES = {f"{half}.{kind}" for half in HALVES for kind in OWN}
WITHOUT_TASKS = "cluster"
"""It imports nothing that has one: what is compared there is kinds of artifacts."""


@pytest.mark.parametrize("name", MODULES)
def test_a_module_knows_no_kind_of_task(name: str) -> None:
    own = name.rpartition(".")[2] if name in OWN_FILES else None
    assert not list(known_kinds(MODULES[name].read_text(), name, own))


def test_each_kind_has_both_its_files() -> None:
    assert OWN
    assert not {one for one in OWN_FILES if one not in MODULES}


@pytest.mark.parametrize(
    "source",
    [
        'named = "classification"',
        f'named = {{"{KIND}": 1}}',
        'part = "serve.tasks.classification"',
        "from serve.tasks.classification import Classification",
        "from jobs.tasks import classification",
        "from .classification import softmax",
        "from . import protocol, classification",
        "import jobs.tasks.classification as one",
        f"import raystill_{KIND}.answer",
        "yes = task.kind == other.kind",
        "yes = card.task.kind in known",
        "yes = known != (spec.kind, 1)",
        "yes = task.kind.startswith('class')",
        "match task.kind:\n    case _: pass",
    ],
)
def test_a_module_that_knows_one_is_found(source: str) -> None:
    assert list(known_kinds(source, "jobs.tasks.supervised", None))


@pytest.mark.parametrize(
    "source",
    [
        '"""Of classification, or of spotting."""\nshown = "labels"',
        "yes = artifact.manifest.kind != Kind.MODEL",
        "yes = space.kind in ('choice', 'grid')",
        "learning = learning_of(task.kind)",
        "from jobs.tasks import learning_of, protocol",
    ],
)
def test_what_only_looks_like_one_is_not(source: str) -> None:
    assert not list(known_kinds(source, "jobs.tasks.supervised", None))


def test_a_kinds_own_files_may_name_it_and_no_other() -> None:
    source = "from serve.tasks.classification import Classification"
    assert not list(known_kinds(source, "jobs.tasks.classification", "classification"))
    assert list(known_kinds(f'named = "{KIND}"', "jobs.tasks.classification", "classification"))


def known_kinds(source: str, module: str, own: str | None) -> Iterator[str]:
    """Each place where a module's source knows a kind other than its own."""
    kinds = KINDS - {own}
    names = {*kinds, *(f"{half}.{kind}" for half in HALVES for kind in kinds)}
    for node in ast.walk(ast.parse(source)):
        place = f"{module}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Constant) and node.value in names:
            yield f"{place}: the string {node.value!r}"
        if imported := [name for name in _imported(node, module) if _leads_to(name, kinds)]:
            yield f"{place}: an import of {imported[0]}"
        if not module.startswith(WITHOUT_TASKS) and _branches(node):
            yield f"{place}: a branch on {ast.unparse(node).splitlines()[0]}"


def _imported(node: ast.AST, module: str) -> list[str]:
    """The full names of all that an import statement may import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    around = module.rsplit(".", node.level)[0] if node.level else ""
    origin = ".".join(filter(None, [around, node.module]))
    return [origin, *(f"{origin}.{alias.name}" for alias in node.names)]


def _leads_to(name: str, kinds: set[str]) -> bool:
    """Whether it is a module of one of these kinds, or in one."""
    own = {f"{half}.{kind}" for half in HALVES for kind in kinds}
    return any(f"{name}.".startswith(f"{one}.") for one in (*own, *(f"raystill_{kind}" for kind in kinds)))


def _branches(node: ast.AST) -> bool:
    """Whether something hangs on which kind a task is of.

    A constant that a `kind` is compared with is either a kind's name, which is found as such, or it is not about tasks:
    spaces of a search have a `kind` too, as have artifacts, whose are those of the enumeration Kind.
    """
    if isinstance(node, ast.Match):
        return _is_kind(node.subject)
    if isinstance(node, ast.Attribute):
        return _is_kind(node.value)
    if not isinstance(node, ast.Compare):
        return False
    sides = [part for side in (node.left, *node.comparators) for part in _parts(side)]
    others = [side for side in sides if not _is_kind(side)]
    return len(others) < len(sides) and not (others and all(map(_is_told, others)))


def _parts(side: ast.expr) -> list[ast.expr]:
    """What a tuple or the like has in it."""
    return list(side.elts) if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]


def _is_kind(node: ast.expr) -> bool:
    """An attribute of this name, whosever it is."""
    return isinstance(node, ast.Attribute) and node.attr == "kind"


def _is_told(node: ast.expr) -> bool:
    """A constant, or a member of the enumeration of artifacts' kinds."""
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id == "Kind"
    return isinstance(node, ast.Constant)
