"""distill: a student MODEL learns from the labels and from the teacher's soft labels, which were made once.

ray job submit --working-dir . -- python -m jobs.distill jobs/recipes/spam.yaml --step student temperature=4
"""

from typing import TYPE_CHECKING

from pydantic import Field

from cluster.artifact import Kind
from jobs.core.cli import main
from jobs.core.stage import CHANGEABLE, Context, Input, Inputs, Outcome, Stage
from jobs.finetune import TaskConfig, adapted, base_model, check, labels_of, origin, sources
from jobs.training.models import check_length

if TYPE_CHECKING:
    from torch import nn

    from jobs.training.worker import Learner


class DistillConfig(TaskConfig):
    """How the student learns from the teacher."""

    temperature: float = Field(2.0, gt=0, le=100)
    """Both sides' logits are divided by it before they are compared; higher shows more of the unlikely labels."""
    alpha: float = Field(0.9, ge=0, le=1)
    """Weight of the teacher's answers; the labels have the rest."""


def build(config: DistillConfig, inputs: Inputs) -> tuple["nn.Module", "Learner"]:
    """The student with a head for the task, and the mixed objective."""
    from jobs.tasks.distillation import DistilledClassification

    examples = inputs.one("examples")
    labels = labels_of(examples)
    model, tokenizer = base_model(config, inputs, labels)
    learner = DistilledClassification(
        examples, tokenizer, labels, config.max_length, inputs.one("teacher"), config.temperature, config.alpha
    )
    return adapted(config, model), learner


def run(config: DistillConfig, inputs: Inputs, context: Context) -> Outcome:
    """Train the student, and publish it with its tokenizer and card."""
    from jobs.training.worker import train

    check_length(origin(config, inputs), config.max_length)
    return train(build, config, inputs, context)


STAGE = Stage(
    name="distill",
    purpose="train a student on the teacher's soft labels",
    config=DistillConfig,
    run=run,
    inputs={
        "examples": Input(Kind.EXAMPLES, "labelled rows from prepare"),
        "teacher": Input(Kind.PREDICTIONS, "the teacher's soft labels from predict"),
        "init": Input(Kind.MODEL, "the student's base, where model does not name one", optional=True),
    },
    output=Kind.MODEL,
    version=2,
    headline=("macro_f1", "accuracy", "steps_per_second"),
    sources=sources,
    check=check,
    score="macro_f1",
    changeable=(*CHANGEABLE, "dropout", "temperature", "alpha"),
)

if __name__ == "__main__":
    main(STAGE)
