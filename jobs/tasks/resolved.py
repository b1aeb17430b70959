"""Which task a step of a recipe is about, known from the recipe alone: its rows are prepared by a step that says so.

settings = task_settings(recipe.steps["teacher"], recipe.steps)        # what prepare has below `task`
"""

from collections.abc import Mapping

from jobs.contracts.learning import TaskSettings
from jobs.core.metric import Metric
from jobs.core.recipe import Step
from jobs.tasks import learning_of


def task_settings(step: Step, steps: Mapping[str, Step]) -> TaskSettings | None:
    """What the step that prepared its examples says below `task`; None where it has none."""
    own = getattr(step.config, "task", None)
    if isinstance(own, TaskSettings):
        return own
    names = step.inputs.get("examples", ())
    return task_settings(steps[names[0]], steps) if names else None


def task_metrics(step: Step, steps: Mapping[str, Step]) -> tuple[Metric, ...]:
    """The figures of a step's task."""
    settings = task_settings(step, steps)
    return () if settings is None else learning_of(settings.kind).metrics_in(settings)
