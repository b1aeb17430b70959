"""Which tasks have a linear model, and which a floor: a cheapest model, by which all others are measured.

has_floor("classification")            # known from the kind alone, so that a recipe can be checked by it
row_width(spec)                        # how many outputs a linear model of this task has
"""

from jobs.contracts.learning import Learning
from jobs.tasks import learning_of
from serve.tasks import task_type
from serve.tasks.protocol import Task

NO_ROW = "what its model gives is not one row of numbers for each text"
"""Why a task has no linear model."""
NO_FLOOR = f"{NO_ROW}, and the kind brings no cheapest model of its own"
"""Why a task has no floor."""


def has_floor(kind: str) -> bool:
    """Whether tasks of this kind have one: a linear model, else the kind's own."""
    return has_linear(kind) or type(learning_of(kind)).floor is not Learning.floor


def has_linear(kind: str) -> bool:
    """Whether a linear model can answer for them: their losses take a row of numbers for each text."""
    task = task_type(kind)
    rows = task.width is not Task.width or task.graph_parts is not Task.graph_parts
    return rows and type(learning_of(kind)).forward is Learning.forward


def row_width(task: Task) -> int | None:
    """How many numbers an output is, of several answers together; None where it is no row of numbers."""
    return task.width if task.width is not None else sum(columns for _, columns in task.graph_parts) or None
