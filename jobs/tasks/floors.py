"""Which tasks have a floor: a cheapest model, by which all others are measured.

has_floor("classification")            # known from the kind alone, so that a recipe can be checked by it
row_width(spec)                        # how many outputs a linear model of this task has
"""

from jobs.contracts.learning import Learning
from jobs.tasks import learning_of
from serve.tasks import task_type
from serve.tasks.protocol import Task

NO_FLOOR = "what its model gives is not one row of numbers for each text, and the kind brings no cheapest model of its own"
"""Why a task has none."""


def has_floor(kind: str) -> bool:
    """Whether tasks of this kind have one: a linear model where an output is a row of numbers, else the kind's own."""
    task, learning = task_type(kind), type(learning_of(kind))
    rows = task.width is not Task.width or task.graph_parts is not Task.graph_parts
    return (rows and learning.forward is Learning.forward) or learning.floor is not Learning.floor


def row_width(task: Task) -> int | None:
    """How many numbers an output is, of several answers together; None where it is no row of numbers."""
    return task.width if task.width is not None else sum(columns for _, columns in task.graph_parts) or None
