"""Why an evaluation has no floor, the cheapest model of its kind of task, known from the recipe alone.

no_floor(recipe.steps["judged"], recipe.steps)      # "gold has no labelled rows to learn from"; None where it has one
"""

from collections.abc import Mapping
from typing import Any

from jobs.core.recipe import Step
from jobs.tasks.floors import NO_FLOOR, has_floor
from jobs.tasks.resolved import task_settings


def no_floor(step: Step, steps: Mapping[str, Step]) -> str | None:
    """The reason in one line; None where the floor can be made."""
    settings, (examples, *_) = task_settings(step, steps), step.inputs["examples"]
    if settings is None:
        return f"{examples} has no task"
    if not has_floor(settings.kind):
        return f"of {settings.kind}, {NO_FLOOR}"
    prepared: Any = steps[examples].config
    # Where a column divides the rows, only the data says whether some are there to learn from.
    if not isinstance(prepared.source, str) and "train" not in prepared.source and prepared.split.by == "hash":
        return f"{examples} has no labelled rows to learn from"
    return None
