"""Steps of a recipe whose models are bags of features, and where a transformer is wanted in their place.

makes_bag(recipe.steps["floor"])            # known from the recipe alone
bag_problems(recipe, step)                  # what the step cannot do with one
"""

from collections.abc import Iterator
from typing import Any

from jobs.architectures.settings import BAG_STUDENTS, LinearStudent
from jobs.core.config import Problem
from jobs.core.recipe import Recipe, Step
from jobs.tasks.floors import NO_FLOOR, NO_ROW, has_floor, has_linear
from jobs.tasks.resolved import task_settings

NEEDS_LAYERS = {
    ("pretrain", "init"): "nothing can be pretrained further in it",
    ("finetune", "init"): "it has no layers to put a head on",
    ("distill", "init"): "it has no layers to make a student of",
    ("distill", "teacher_model"): "it has no inner states to match",
    ("compress", "model"): "there is nothing in it to prune or to export; its variants are there as it is made",
}
"""By stage and input, why a bag of features will not do."""


def makes_bag(step: Step) -> bool:
    """Whether a step's model is a bag of features."""
    return step.stage.name == "floor" or learns_bag(step.config)


def learns_bag(config: Any) -> bool:
    """Whether a config is of such a student."""
    return isinstance(getattr(config, "student", None), BAG_STUDENTS)


def bag_problems(recipe: Recipe, step: Step) -> Iterator[Problem]:
    """Bags that are given where a transformer is wanted; a floor of a task that has none."""
    for key, names in step.inputs.items():
        reason = NEEDS_LAYERS.get((step.stage.name, key))
        for name in names:
            if reason is not None and name in recipe.steps and makes_bag(recipe.steps[name]):
                told = f"{name} makes a model of words and their weights, no transformer: {reason}"
                yield Problem(f"inputs.{key}", name, told, "Name a step that makes a transformer.")
    settings = task_settings(step, recipe.steps)
    if settings is None:
        return
    if step.stage.name == "floor" and not has_floor(settings.kind):
        yield Problem("inputs.examples", step.inputs["examples"][0], f"for {settings.kind}: {NO_FLOOR}", "Leave the step out.")
    if isinstance(getattr(step.config, "student", None), LinearStudent) and not has_linear(settings.kind):
        yield Problem("student.kind", "linear", f"for {settings.kind}: {NO_ROW}", "Make a part of a base the student.")
