"""The other side of the search: each trial runs the teacher on every batch, and every trial trains to its end.

    inside = execute(recipe(load_recipe(…), "searched"), STEP, storage)

The same stage, spaces, seed and cores as the search that it is held against; the teacher computes in the same precision.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cluster.store.artifact import Kind
from jobs.core.recipe import Recipe
from jobs.core.stage import Context, Input, Inputs, Outcome
from jobs.distill import DistillConfig, build
from jobs.tasks.distilled import Distilled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from jobs.contracts.learning import Batch
    from jobs.contracts.objective import Learner

STEP = "inside"


class TeacherInside(Distilled):
    """The soft labels come from the teacher, batch by batch, in place of those that were made before."""

    def taught_by(self, teacher: "nn.Module") -> "TeacherInside":
        """Give it the teacher."""
        self.teacher = teacher.eval()
        return self

    def loss(self, model: "nn.Module", batch: "Batch") -> "Tensor":
        """The same loss, after a forward pass of the teacher."""
        with torch.no_grad():
            teacher_BC = self.task.forward(self.teacher, batch)
        return super().loss(model, {**batch, "teacher": teacher_BC.float()[:, None]})


def build_inside(config: DistillConfig, inputs: Inputs) -> "tuple[nn.Module, Learner]":
    """The same student, and the objective with the teacher in it."""
    from jobs.tasks.heads import load_head

    model, learner = build(config, inputs)
    assert isinstance(learner, Distilled)
    teacher, _ = load_head(inputs.one("teacher_model"), learner.task.spec)
    return model, TeacherInside(learner.task, inputs["teacher"], config).taught_by(teacher)


def run(config: DistillConfig, inputs: Inputs, context: Context) -> Outcome:
    """Train one trial."""
    from jobs.training.ray_train import train

    return train(build_inside, config, inputs, context)


def recipe(whole: Recipe, search: str) -> Recipe:
    """The recipe with a step that does what the search does, the teacher inside and nothing stopped early."""
    step = whole.steps[search]
    stage = replace(step.stage, run=run, inputs={**step.stage.inputs, "teacher_model": Input(Kind.MODEL, "the teacher")})
    inside = replace(
        step,
        name=STEP,
        stage=stage,
        inputs={**step.inputs, "teacher_model": ("teacher",)},
        tune=step.tune.model_copy(update={"scheduler": "none"}),
    )
    return Recipe(whole.name, {**whole.steps, STEP: inside})
