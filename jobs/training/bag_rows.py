"""The rows of EXAMPLES as a bag of features reads them: whole texts, one window each, with targets and teachers' answers.

    rows = BagRows.read(examples, "train", spec, unlabelled=True)
    rows.targets()                                     # as the kind's criterion takes them, along the first axis the items

K teachers, N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.store.artifact import Artifact
from jobs.contracts.learning import Learning, Truth, targets_at
from jobs.tasks import learning_of
from jobs.tasks.learned_items import learned_items
from serve.tasks.protocol import Item, Task

if TYPE_CHECKING:
    from torch import Tensor

WINDOW: Any = (None,)
"""The windows of an item: one, of which no kind whose output is a row of numbers asks anything."""


@dataclass(frozen=True)
class BagRows:
    """Items of one split."""

    spec: Task
    keys: Sequence[str]
    items: Sequence[Item]
    truth: Truth

    @classmethod
    def read(cls, examples: Artifact, split: str, spec: Task, unlabelled: bool = False) -> "BagRows":
        """Those that are trained on or judged by; ones without a target only where asked for."""
        return cls(spec, *learned_items(examples, split, learning_of(spec.kind), spec, unlabelled))

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def learning(self) -> Learning:
        """How such a task is learned."""
        return learning_of(self.spec.kind)

    @property
    def characters(self) -> int:
        """Of all texts together."""
        return sum(item.characters for item in self.items)

    def at(self, places: Sequence[int]) -> "BagRows":
        """The rows at these places."""
        return BagRows(
            self.spec,
            [self.keys[place] for place in places],
            [self.items[place] for place in places],
            targets_at(self.truth, places),
        )

    def targets(self) -> "Tensor":
        """The targets, MISSING where there is none."""
        from jobs.tasks.windows import stacked_targets

        each = zip(self.truth, self.items, strict=True)
        return stacked_targets([self.learning.window_targets(self.spec, *one, WINDOW)[0] for one in each], None)

    def teachers(self, predictions: Sequence[Artifact]) -> "Tensor":
        """What each teacher says of each item: NK…; BadInput where one has not answered for all of them."""
        import torch

        from jobs.tasks.soft_labels import SoftLabels

        said_K = []
        for one in predictions:
            soft = SoftLabels(one, self.keys, self.spec)
            said_K.append(torch.from_numpy(np.stack([np.asarray(soft[place]) for place in range(len(self))])))
        return torch.stack(said_K, dim=1)
