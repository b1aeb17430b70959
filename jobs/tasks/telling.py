"""What a person must know of a model that was trained or compressed, told as the step ends, in its manifest and in the report.

details |= told_of_model(spec, metrics)                # {"doubtful": "…"}, and the same on the console
"""

from collections.abc import Iterable, Mapping

from jobs.tasks import learning_of
from serve.tasks.protocol import Task

DOUBTFUL = "doubtful"
"""Where a manifest's details have it."""
TEXTS_CUT = "train_texts_cut"
"""The figure that says which share of the training texts was not read to its end."""


def told_of_model(spec: Task, figures: Mapping[str, float], variants: Iterable[str] = ()) -> dict[str, str]:
    """Details for the manifest, none where there is nothing to tell: texts that were cut, and what the kind says of what was
    fitted for the model as it was trained and for its variants. `figures` are the step's."""
    told = []
    if cut := figures.get(TEXTS_CUT, 0.0):
        told.append(f"{cut:.1%} of the training texts are longer than max_length: their rest is not read")
    told += learning_of(spec.kind).doubtful(spec, figures)
    for name in variants:
        told += [f"{name}: {one}" for one in learning_of(spec.kind).doubtful(spec, figures, f"{name}_")]
    for line in told:
        print(line, flush=True)
    return {DOUBTFUL: "; ".join(told)} if told else {}
