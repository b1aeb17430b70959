"""What is trained, as a recipe says it: layers of a base, a student that looks into its teacher, one that has no layers.

problems = static_problems(step, config.student, config)       # by paths below the step
"""

from collections.abc import Iterator
from typing import Any

from jobs.architectures.settings import StaticStudent
from jobs.core.config import Problem
from jobs.core.recipe import Recipe, Step
from jobs.running.sizing import model_shape, named_shape
from jobs.training.static_settings import encoder_problems, spreading_problems


def static_problems(step: Step, student: StaticStudent, config: Any) -> Iterator[Problem]:
    """What a static student is given and cannot use."""
    yield from encoder_problems(student, config.model, step.inputs)
    yield from spreading_problems(step.resources)


def layer_problems(recipe: Recipe, step: Step, config: Any) -> Iterator[Problem]:
    """Layers that are named and not there."""
    chosen = getattr(config, "student", None)
    if config.freeze.layers == 0 and (chosen is None or chosen.layers is None):
        return
    names = step.inputs.get("init", ())
    shape = named_shape(config.model) if config.model else model_shape(recipe, recipe.steps[names[0]]) if names else None
    if shape is None:
        return
    count = shape.layers
    if chosen is not None and chosen.layers is not None:
        if chosen.layers[-1] >= count:
            reason = f"the base has {count} layers, 0 to {count - 1}"
            yield Problem("student.layers", list(chosen.layers), reason, "Name layers that are there.")
        count = len(chosen.layers)
    elif chosen is not None and chosen.every is not None:
        count = -(-count // chosen.every)
    if config.freeze.layers > count:
        yield Problem("freeze.layers", config.freeze.layers, f"the model has only {count} layers", "Lower it.")


def inner_state_problems(step: Step, config: Any) -> Iterator[Problem]:
    """What looks into a teacher, and a teacher that nothing looks into."""
    inside = step.inputs.get("teacher_model", ())
    if config.match and not inside:
        yield Problem("inputs.teacher_model", None, "match looks into the teacher", "Name the teacher's step.")
    if inside and not config.match:
        reason = "nothing is to match, so the teacher itself would not be used"
        yield Problem("inputs.teacher_model", inside[0], reason, "Leave it out, or add match.")
    if config.match and step.resources.parallel == "tensor" and step.resources.workers > 1:
        reason = "workers that compute each matrix together have parts of the states that match looks at"
        yield Problem("resources.parallel", "tensor", reason, "Use ddp or fsdp.")
