"""What a recipe asks for and will not get, though nothing is wrong with it: told in the plan and as the step begins."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.store.artifact import Artifact
from jobs.core.recipe import Step
from jobs.data.training_rows import steps_per_epoch
from jobs.training.settings import Training

DECIDING = ("epochs", "max_steps", "batch_size")


def remarks(step: Step, inputs: Mapping[str, Sequence[Artifact]]) -> list[str]:
    """Lines about a step whose parents are there: `max_steps` that `epochs` never lets it come to."""
    config: Any = step.config
    prefix, training = ("", config) if isinstance(config, Training) else ("heal.", getattr(config, "heal", None))
    if not isinstance(training, Training) or training.max_steps is None or set(step.spaces) & set(DECIDING):
        return []
    taught = step.stage.name == "distill" or prefix == "heal." and bool(inputs.get("teacher"))
    rows = [_rows(one, taught) for key in ("examples", "tokens", "auxiliary") for one in inputs.get(key, ())]
    if not rows or 0 in rows:
        return []
    batches = sum(steps_per_epoch(count, training.batch_size) for count in rows)
    steps = max(1, round(training.epochs * batches))
    if steps >= training.max_steps:
        return []
    passes = f"{prefix}epochs {training.epochs:g} over {sum(rows)} rows in batches of {training.batch_size}"
    return [
        f"{step.name}: {prefix}max_steps {training.max_steps} is more than {passes} come to, {steps} steps: epochs decides"
    ]


def _rows(given: Artifact, unlabelled: bool) -> int:
    """The rows of the training split, those without a label where they train too."""
    metrics = given.manifest.metrics
    return int(metrics.get("train_rows", 0) + (metrics.get("unlabelled_rows", 0) if unlabelled else 0))
