"""Which tasks have a floor: a cheapest model, by which all others are measured.

has_floor("classification")            # known from the kind alone, so a recipe can be checked by it
"""

from jobs.contracts.learning import Learning
from jobs.tasks import learning_of
from serve.tasks import task_type
from serve.tasks.protocol import Task

NO_FLOOR = "what its model gives is not one row of numbers for each text, and the kind brings no cheapest model of its own"
"""Why a task has none."""


def has_floor(kind: str) -> bool:
    """Whether tasks of this kind have one: a linear model where they have a `width`, else the kind's own."""
    return task_type(kind).width is not Task.width or type(learning_of(kind)).floor is not Learning.floor
