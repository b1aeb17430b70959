r"""floor: the cheapest MODEL of a task's kind, by which every other is measured: is a language model worth it here?

    ray job submit --working-dir . -- python -m jobs.floor jobs/recipes/spam.yaml --step floor

Words and characters in a row, counted by TF-IDF, under a linear model that is fitted by the kind's own loss, in seconds.
"""

import tempfile
from pathlib import Path

from cluster.store.artifact import Kind, upload
from jobs.architectures.settings import LinearFit
from jobs.core.config import BadInput, Problem
from jobs.core.stage import Completion, Context, Input, Inputs, Outcome, Searchable, Stage
from jobs.running.cli import main
from jobs.tasks import learning_of, spec_of
from jobs.tasks.floors import NO_FLOOR, has_floor, has_linear
from jobs.tasks.resolved import task_metrics


class FloorConfig(LinearFit):
    """How the cheapest model is made; nothing of it has to be said."""


def run(config: FloorConfig, inputs: Inputs, context: Context) -> Outcome:
    """Fit it, and publish it with its card."""
    from jobs.training.linear_model import linear_model

    spec = spec_of(inputs.one("examples"))
    if has_linear(spec.kind):
        return linear_model(config, inputs, context)
    if not has_floor(spec.kind):
        examples = inputs.one("examples").manifest.step
        raise BadInput([Problem("inputs.examples", examples, f"for {spec.kind}: {NO_FLOOR}", "Leave the step out.")])
    with tempfile.TemporaryDirectory() as directory:
        figures = learning_of(spec.kind).floor(spec, inputs.one("examples"), Path(directory))
        return Outcome(metrics=figures, files=upload(Path(directory), context.output))


STAGE = Stage(
    name="floor",
    purpose="make the cheapest model of the task's kind, a linear one, to measure the others by",
    config=FloorConfig,
    run=run,
    inputs={"examples": Input(Kind.EXAMPLES, "labelled rows from prepare")},
    output=Kind.MODEL,
    version=1,
    metrics=task_metrics,
    searchable=Searchable(()),
    completion=Completion(headline=("features",)),
)

if __name__ == "__main__":
    main(STAGE)
