"""Losses of several heads of one model as one: each head's own over its columns, multiplied with a share.

    criterion = HeadsCriterion([HeadLoss(place, own_criterion, share), …])
    shares([2.0, 1.0], targets=[900, 300], rows=1000)

A head's share makes up for how many targets it has: so one that few rows have a target of counts no less than the others, and
the loss of a batch is the sum of those of its rows, however it is parted.

B batch, K columns of all heads, S numbers of all their targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from jobs.contracts.learning import Batch, Criterion, SoftCriterion

if TYPE_CHECKING:
    from torch import Tensor

C = TypeVar("C", Criterion, SoftCriterion)


@dataclass(frozen=True)
class HeadPlace:
    """Where a head is in what a batch has of all heads."""

    columns: slice
    """Of outputs_BK, and of the teachers'."""
    targets: slice
    """Of labels_BS."""
    missing: np.ndarray
    """A target of the head that is not there: all have its shape and type."""

    def own(self, batch: Batch) -> Batch:
        """The batch as this head alone would have it."""
        import torch

        whole = np.issubdtype(self.missing.dtype, np.integer)
        labels = batch["labels"][:, self.targets].reshape(-1, *self.missing.shape).to(torch.long if whole else torch.float32)
        teacher = {"teacher": batch["teacher"][..., self.columns]} if "teacher" in batch else {}
        return {**batch, **teacher, "labels": labels}


@dataclass(frozen=True)
class HeadLoss(Generic[C]):
    """A head's loss, and what it is multiplied with."""

    place: HeadPlace
    criterion: C
    share: float


class HeadsCriterion:
    """The sum of the heads' losses, each by its share; a row without a target of a head has none of it."""

    def __init__(self, heads: Sequence[HeadLoss[Criterion]]) -> None:
        self.heads, self.splits = heads, all(head.criterion.splits for head in heads)

    def loss(self, outputs: "Tensor", batch: Batch) -> "Tensor":
        """Summed over the batch."""
        import torch

        own = ((head, outputs[..., head.place.columns], head.place.own(batch)) for head in self.heads)
        return torch.stack([head.share * head.criterion.loss(said, asked) for head, said, asked in own]).sum()

    def count(self, batch: Batch) -> float:
        """Its rows: how many targets these have is in the shares."""
        return float(len(batch["labels"]))


class HeadsSoftCriterion:
    """The same of how far a student's answers are from its teachers', which have answered for each head."""

    def __init__(self, heads: Sequence[HeadLoss[SoftCriterion]]) -> None:
        self.heads = heads

    def loss(self, outputs: "Tensor", batch: Batch, temperature: "Tensor") -> "Tensor":
        """Summed over the batch."""
        import torch

        own = ((head, outputs[..., head.place.columns], head.place.own(batch)) for head in self.heads)
        return torch.stack([head.share * head.criterion.loss(said, asked, temperature) for head, said, asked in own]).sum()


def shares(weights: Sequence[float], targets: Sequence[float], rows: float) -> list[float]:
    """What each head's loss is multiplied with, of its weight and of how many targets it has in so many rows: then the mean of
    the losses of those rows is the mean of the heads' mean losses, by their weights."""
    each = zip(weights, targets, strict=True)
    return [weight / sum(weights) * rows / count if count else 0.0 for weight, count in each]


def counted(criterion: Criterion, targets: np.ndarray) -> float:
    """How many targets these are, as a head counts them."""
    import torch

    return criterion.count({"labels": torch.from_numpy(np.ascontiguousarray(targets))}) if len(targets) else 0.0
