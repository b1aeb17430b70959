r"""finetune: a base MODEL and EXAMPLES become a MODEL of a task.

    ray job submit --working-dir . -- \
        python -m jobs.finetune jobs/recipes/spam.yaml --step teacher optimizer.learning_rate=1e-4

The base is another step's model (`inputs.init`) or one from outside (`model:`).
"""

import json
from typing import TYPE_CHECKING

from pydantic import Field

from cluster.artifact import Artifact, Kind
from jobs.core.cli import main
from jobs.core.config import BadInput, Problem
from jobs.core.stage import Context, Input, Inputs, Outcome, Stage
from jobs.data.sources import model_fingerprint
from jobs.training.models import check_length, check_model
from jobs.training.settings import Training

if TYPE_CHECKING:
    from torch import nn

    from jobs.training.worker import Learner


class FinetuneConfig(Training):
    """What is fine-tuned."""

    model: str | None = None
    """The base: sample:NAME, a directory or a hub's name; leave it out where inputs.init names a step."""
    max_length: int = Field(128, ge=8)
    """Longer texts are cut to so many tokens."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout in place of the base's own."""


def sources(config: FinetuneConfig) -> dict[str, str]:
    """The fingerprint of the model from outside."""
    return {} if config.model is None else {"model": model_fingerprint(config.model)}


def check(config: FinetuneConfig) -> list[Problem]:
    """A model that is not there or has no weights."""
    return [] if config.model is None else check_model(config.model, "model")


def origin(config: FinetuneConfig, inputs: Inputs) -> str | Artifact:
    """Where the base comes from; BadInput unless exactly one is given."""
    base = inputs.maybe("init")
    if (base is None) == (config.model is None):
        raise BadInput([Problem("model", config.model, "a base comes from model or from inputs.init", "Give one of them.")])
    return base if base is not None else str(config.model)


def labels_of(examples: Artifact) -> list[str]:
    """The labels of a task, in the order of the model's outputs."""
    return list(json.loads((examples.local(["task.json"]) / "task.json").read_text())["labels"])


def build(config: FinetuneConfig, inputs: Inputs) -> tuple["nn.Module", "Learner"]:
    """The base with a head for the task, and the task's objective."""
    from jobs.tasks.classification import Classification
    from jobs.training.models import load_classifier

    examples = inputs.one("examples")
    labels = labels_of(examples)
    model, tokenizer = load_classifier(origin(config, inputs), labels, config.dropout)
    return model, Classification(examples, tokenizer, labels, config.max_length)


def run(config: FinetuneConfig, inputs: Inputs, context: Context) -> Outcome:
    """Train, and publish the model with its tokenizer and card."""
    from jobs.training.worker import train

    check_length(origin(config, inputs), config.max_length)
    return train(build, config, inputs, context)


STAGE = Stage(
    name="finetune",
    purpose="fine-tune a model on a task with Ray Train",
    config=FinetuneConfig,
    run=run,
    inputs={
        "examples": Input(Kind.EXAMPLES, "labelled rows from prepare"),
        "init": Input(Kind.MODEL, "the base, where model does not name one", optional=True),
    },
    output=Kind.MODEL,
    version=1,
    headline=("macro_f1", "accuracy", "steps_per_second"),
    sources=sources,
    check=check,
    score="macro_f1",
)

if __name__ == "__main__":
    main(STAGE)
