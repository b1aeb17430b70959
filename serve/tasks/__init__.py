"""How each kind of task answers: one file a kind. What a model says becomes answers here, without torch and without Ray.

    task = task_of({"kind": "…", …})          # what a card holds, as the kind's own type
    kinds()                                   # {"…": "serve.tasks.…", …}: names, and the modules that answer for them

A kind is two files: here how it answers, in jobs/tasks how it is learned. Kinds of other packages come by entry points of the
group `raystill.tasks`: the name is the kind's, the value a package with the modules `answer` and `learn`. A broken one
is told of where its kind is asked for, and is in nobody else's way.
"""

import warnings
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any

from serve.tasks.protocol import Task

GROUP = "raystill.tasks"
ANSWER = "answer"
PROTOCOL = "protocol"


@cache
def kinds() -> Mapping[str, str]:
    """The module that answers for each kind, by the kind's name; nothing is imported."""
    own = (module.name for module in iter_modules(__path__) if module.name != PROTOCOL and not module.ispkg)
    found = {name: f"{__name__}.{name}" for name in own}
    for point in entry_points(group=GROUP):
        answering = f"{point.value}.{ANSWER}"
        if found.setdefault(point.name, answering) != answering:
            told = f"{found[point.name]} has a kind of task called {point.name} too: that of {point.value} is not used"
            warnings.warn(told, stacklevel=2)
    return found


@cache
def task_type(kind: str) -> type[Task]:
    """The type of a kind's tasks; ValueError names the kinds that there are, or says why its package cannot be loaded."""
    if kind not in kinds():
        known = ", ".join(sorted(kinds()))
        raise ValueError(f"{kind} is no kind of task here; there are {known}. Install the package that has it")
    found: type[Task] = half_of(kind, kinds()[kind], "TASK")
    return found


def half_of(kind: str, module: str, name: str) -> Any:
    """What a kind's module has under a name; ValueError where it cannot be loaded."""
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # whatever another package does wrong
        reason = f"{module} cannot be loaded ({type(error).__name__}: {error})"
        raise ValueError(f"the kind of task {kind} is broken: {reason}. Mend or remove its package") from error


def task_of(described: Any) -> Task:
    """A task as its kind's own type, from what `model_dump` made of it; ValueError where it is none."""
    if isinstance(described, Task):
        return described
    if not isinstance(described, Mapping) or not isinstance(described.get("kind"), str):
        raise ValueError("a task is described by its kind and what that kind's answers mean")
    return task_type(described["kind"]).model_validate(described)
