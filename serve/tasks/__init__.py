"""How each kind of task answers: one file a kind. What a model says becomes answers here, without torch and without Ray.

    task = task_of({"kind": "…", …})          # what a card holds, as the kind's own type
    kinds()                                   # {"…": "serve.tasks.…", …}: names, and the modules that answer for them

A kind is two files: here how it answers, in jobs/tasks how it is learned. Kinds of other packages come by entry points of the
group `raystill.tasks`: the name is the kind's, the value a package with the modules `answer` and `learn`.
"""

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
    own = {module.name: f"{__name__}.{module.name}" for module in iter_modules(__path__) if module.name != PROTOCOL}
    others = {point.name: f"{point.value}.{ANSWER}" for point in entry_points(group=GROUP)}
    return {**others, **own}


@cache
def task_type(kind: str) -> type[Task]:
    """The type of a kind's tasks; ValueError names the kinds that there are."""
    if kind not in kinds():
        known = ", ".join(sorted(kinds()))
        raise ValueError(f"{kind} is no kind of task here; there are {known}. Install the package that has it")
    module = import_module(kinds()[kind])
    found: type[Task] = module.TASK
    return found


def task_of(described: Any) -> Task:
    """A task as its kind's own type, from what `model_dump` made of it; ValueError where it is none."""
    if isinstance(described, Task):
        return described
    if not isinstance(described, Mapping) or not isinstance(described.get("kind"), str):
        raise ValueError("a task is described by its kind and what that kind's answers mean")
    return task_type(described["kind"]).model_validate(described)
