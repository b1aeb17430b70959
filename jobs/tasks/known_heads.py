"""The heads of a task of several, one by one: how each is learned, and what it has of items whose targets it knows.

    for name, learning, task in each_head(spec): …
    for own in known_heads(spec, truth, outputs): own.learning.judged(own.task, own.outputs[0], own.truth)

A truth has a field a head, and under HEADS_KNOWN of which heads there is a target. N items, H heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from jobs.contracts.learning import Learning, Truth
from jobs.tasks import learning_of
from jobs.tasks.head_losses import HeadPlace
from serve.tasks.protocol import Item, Outputs
from serve.tasks.shared.by_head import OF

HEADS_KNOWN = OF
"""The field of a truth that says of which heads there is a target; no head has such a name."""


@dataclass(frozen=True)
class KnownHead:
    """A head, with what it has of those items that have a target of it."""

    name: str
    learning: Learning
    task: Any
    known_N: np.ndarray
    """Which of all items these are."""
    truth: np.ndarray
    outputs: Sequence[np.ndarray]


def each_head(spec: Any) -> Iterator[tuple[str, Learning, Any]]:
    """Name, how it is learned, and its own task."""
    for name, task in spec.named_tasks.items():
        yield name, learning_of(task.kind), task


def known_heads(spec: Any, truth: Truth, *outputs: Outputs) -> Iterator[KnownHead]:
    """Each head with its own of what is given."""
    given = np.asarray(truth)
    parted = [[own for _, _, own in spec.parted(said)] for said in outputs]
    for place, (name, learning, task) in enumerate(each_head(spec)):
        known_N = given[HEADS_KNOWN][:, place]
        yield KnownHead(name, learning, task, known_N, given[name][known_N], [said[place][known_N] for said in parted])


def head_places(spec: Any, missing: np.ndarray) -> Iterator[HeadPlace]:
    """Where each head is in a batch; `missing` is a target of the whole task that is not there."""
    start = 0
    for name, task, columns in spec.cuts:
        (own,) = trained_on(learning_of(task.kind), task, missing[name][None])
        yield HeadPlace(columns, slice(start, start := start + own.size), np.asarray(own))


def trained_on(learning: Learning, task: Any, truth: np.ndarray) -> np.ndarray:
    """The targets of a head as its loss takes them: those of the only window of each item."""
    item, windows = Item(("",) * len(task.fields)), cast(Any, [None])
    return np.array([learning.window_targets(task, target, item, windows)[0] for target in truth])
