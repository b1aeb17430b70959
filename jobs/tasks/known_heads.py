"""The heads of a task of several, one by one: how each is learned, and what it has of items whose targets it knows.

    for name, learning, task in each_head(spec): …
    for own in known_heads(spec, truth, outputs): own.learning.judged(own.task, own.outputs[0], own.truth)

A truth has a field a head, and under HEADS_KNOWN of which heads there is a target. N items, H heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.contracts.learning import Learning, Truth
from jobs.tasks import learning_of
from jobs.tasks.head_losses import HeadPlace
from serve.tasks.protocol import Item, Outputs
from serve.tasks.shared.by_head import OF

NOTHING = Item(())
"""Heads whose targets hang on the text have a model to themselves."""
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


def asked_of(learning: Learning, task: Any, truth: np.ndarray) -> np.ndarray:
    """Targets of a head as its loss takes them, those of a text that is read as a whole."""
    whole: Any = (None,)
    each = [learning.window_targets(task, target, NOTHING, whole)[0] for target in truth]
    return np.stack(each) if each else np.zeros((0, 1))


def asked_of_heads(spec: Any, target: Any, missing: np.ndarray) -> Iterator[np.ndarray]:
    """The same of an item for each head; of one that has no target, or one that nothing is learned of, what is `missing`."""
    for name, learning, task in each_head(spec):
        own = target[name] if learning.taught(task, target[name][None])[0] else missing[name]
        yield asked_of(learning, task, own[None])[0]


def head_places(spec: Any, missing: np.ndarray) -> Iterator[HeadPlace]:
    """Where each head is in a batch; `missing` is a target of the whole task that is not there."""
    start = 0
    for (_, _, columns), own in zip(spec.cuts, asked_of_heads(spec, missing, missing), strict=True):
        yield HeadPlace(columns, slice(start, start := start + own.size), own)
