r"""finetune: a base MODEL and EXAMPLES become a MODEL of a task.

    ray job submit --working-dir . -- \
        python -m jobs.finetune jobs/recipes/spam.yaml --step teacher optimizer.learning_rate=1e-4

The base is another step's model (`inputs.init`) or one from outside (`model:`).
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from cluster.store.artifact import Artifact, Kind
from jobs.architectures.models import length_of, padding_told
from jobs.core.config import BadInput, Problem
from jobs.core.idle import Rule
from jobs.core.stage import CHANGEABLE, Completion, Context, Input, Inputs, Outcome, Preflight, Searchable, Stage
from jobs.data.clean import value_names
from jobs.running.cli import main
from jobs.tasks import cleaning_of, learning_of, spec_of
from jobs.tasks.heads import inputs_of
from jobs.tasks.resolved import task_metrics
from jobs.tasks.telling import told_of_model
from jobs.training.task_config import TASK_RULES, TaskConfig, adapted, base_model, base_origin, check, shape, sources
from serve.tasks.protocol import Task

if TYPE_CHECKING:
    from torch import nn

    from jobs.contracts.objective import Learner


class FinetuneConfig(TaskConfig):
    """What is fine-tuned."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all labels (Szegedy et al. 2016)."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """What an example of a label counts; balanced: inversely to how often the label is there. Labels not named count 1. With
    inputs.auxiliary a label counts so in each task that has it."""
    loss: dict[str, Any] = {}
    """What else the kind of task has to set of its loss."""
    sampling_temperature: float = Field(2.0, ge=1)
    """With inputs.auxiliary: a task is drawn for each step with a chance that grows with its examples to the power of 1 /
    temperature (1: by size, high: all alike)."""

    _as_read = field_validator("class_weights")(value_names)


def build(config: FinetuneConfig, inputs: Inputs) -> tuple["nn.Module", "Learner"]:
    """The base with a head for the task, and the task's objective; with auxiliary tasks, a head for each."""
    from jobs.tasks.multitask import Multitask, MultitaskModel
    from jobs.tasks.supervised import Supervised

    def task(examples: Artifact) -> Supervised:
        spec = spec_of(examples)
        return Supervised(examples, tokenizer, spec, length, inputs_of(model, spec), loss_settings(config, spec))

    examples, length = inputs.one("examples"), length_of(base_origin(config, inputs), config.max_length)
    model, tokenizer = base_model(config, inputs, spec_of(examples))
    others = inputs.get("auxiliary", [])
    if not others:
        return adapted(config, model), task(examples)
    heads = [base_model(config, inputs, spec_of(other))[0] for other in others]
    tasks = {other.manifest.step: task(other) for other in others}
    main = adapted(config, model)
    return MultitaskModel(main, heads), Multitask(task(examples), tasks, config.sampling_temperature)


def loss_settings(config: FinetuneConfig, spec: Task) -> dict[str, Any]:
    """What the recipe says of the loss, as far as the task's kind has it; weights of other tasks' labels are left out."""
    own, weights = learning_of(spec.kind).loss_of(spec).model_fields, config.class_weights
    if isinstance(weights, dict):
        weights = {label: weight for label, weight in weights.items() if label in spec.sayings} or None
    shared = {"label_smoothing": config.label_smoothing, "class_weights": weights}
    return {key: value for key, value in {**shared, **config.loss}.items() if key in own}


def run(config: FinetuneConfig, inputs: Inputs, context: Context) -> Outcome:
    """Train, and publish the model with its tokenizer and card."""
    from jobs.training.ray_train import train

    base = base_origin(config, inputs)
    length_of(base, config.max_length)  # refused here, before any worker starts
    _check_labels(config, inputs)
    told = padding_told(base) | _cleaned_otherwise(inputs)
    outcome = train(build, config, inputs, context)
    told |= told_of_model(spec_of(inputs.one("examples")), outcome.metrics)
    return replace(outcome, details={**outcome.details, **told})


def _cleaned_otherwise(inputs: Inputs) -> dict[str, str]:
    """For the manifest, and said here: auxiliary tasks whose texts were not cleaned as the model will clean."""
    main, told = inputs.one("examples"), list[str]()
    own = cleaning_of(main)
    for other in inputs.get("auxiliary", []):
        theirs = cleaning_of(other)
        if own is not None and theirs is not None and (apart := own.apart(theirs)):
            told.append(f"{other.manifest.step} was cleaned otherwise ({apart}); the model cleans as {main.manifest.step} was")
    if not told:
        return {}
    print("\n".join(told), flush=True)
    return {"cleaned_otherwise": "; ".join(told)}


def _check_labels(config: FinetuneConfig, inputs: Inputs) -> None:
    """BadInput with each label that has a weight and that no task has."""
    if not isinstance(config.class_weights, dict):
        return
    given = [*inputs["examples"], *inputs.get("auxiliary", [])]
    known = {label for examples in given for label in spec_of(examples).sayings}
    named, remedy = config.class_weights.items(), f"Labels: {', '.join(sorted(known))}."
    problems = [
        Problem(f"class_weights.{label}", weight, "no such label", remedy) for label, weight in named if label not in known
    ]
    if problems:
        raise BadInput(problems)


FINETUNE_RULES = (
    *TASK_RULES,
    Rule(
        "sampling_temperature",
        (),
        lambda _, inputs: "auxiliary" in inputs,
        "there is one task, which every step belongs to",
        "Leave it out, or name others in inputs.auxiliary.",
    ),
)
"""What keys need to do something."""

STAGE = Stage(
    name="finetune",
    purpose="fine-tune a model on a task with Ray Train",
    config=FinetuneConfig,
    run=run,
    inputs={
        "examples": Input(Kind.EXAMPLES, "labelled rows from prepare"),
        "init": Input(Kind.MODEL, "the base, where model does not name one", optional=True),
        "auxiliary": Input(Kind.EXAMPLES, "other tasks that train the same encoder", many=True, optional=True),
    },
    output=Kind.MODEL,
    version=4,
    metrics=task_metrics,
    preflight=Preflight(sources, check, FINETUNE_RULES),
    searchable=Searchable((*CHANGEABLE, "dropout"), shaped_by=("model",), shape=shape),
    completion=Completion(headline=("steps_per_second",)),
)

if __name__ == "__main__":
    main(STAGE)
