"""The items of a split that a model learns from or is judged by, whatever reads them.

keys, items, truth = learned_items(examples, "train", learning, spec, unlabelled=True)
"""

import numpy as np

from cluster.store.artifact import Artifact
from jobs.contracts.learning import Learning, Truth, targets_at
from jobs.data.training_rows import read_examples
from serve.tasks.protocol import Item, Task


def learned_items(
    examples: Artifact, split: str, learning: Learning, spec: Task, unlabelled: bool
) -> tuple[list[str], list[Item], Truth]:
    """Their keys, themselves and their targets, in the order of EXAMPLES; ones without a target only where asked for."""
    columns = read_examples(examples, split).to_pydict()
    truth = learning.truth(spec, columns)
    known = learning.known(truth)
    wanted = learning.taught(spec, truth) if split == "train" else known
    kept = np.flatnonzero(wanted | ~known if unlabelled else wanted).tolist()
    texts = [columns[name] for name in spec.fields]
    items = [Item(tuple(column[row] for column in texts)) for row in kept]
    return [columns["key"][row] for row in kept], items, targets_at(truth, kept)
