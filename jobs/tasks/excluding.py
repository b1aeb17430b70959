"""What takes out of a step the texts that others test and validate on: `inputs: {exclude: messages}` in a prepare step.

Reading(…, sieves=excluding(inputs["exclude"]))
"""

from collections.abc import Iterator, Sequence

from cluster.store.artifact import Artifact
from jobs.core.config import BadInput, Problem
from jobs.data.decontamination import StoredSieve, held_out
from jobs.data.rows import Sieve
from jobs.data.training_rows import read_examples
from jobs.tasks import spec_of


def excluding(steps: Sequence[Artifact]) -> list[Sieve]:
    """The sieve, or none where there are no steps; BadInput where one of them holds no text out."""
    texts = {examples.manifest.step: list(_held_texts(examples)) for examples in steps}
    for step, found in texts.items():
        if not found:
            remedy = "Give it one (split.test, split.validation), or leave it out here."
            raise BadInput([Problem("inputs.exclude", step, "it has neither a test nor a validation text", remedy)])
    return [StoredSieve.put(held_out(texts))] if texts else []


def _held_texts(examples: Artifact) -> Iterator[str]:
    """All texts of the items that test or validate."""
    for split in ("test", "validation"):
        rows = read_examples(examples, split)
        for name in spec_of(examples).fields:
            yield from rows[name].to_pylist()
