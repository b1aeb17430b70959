"""Losses of kinds whose outputs are decisions: a yes or no a column, whether by targets or by teachers.

    criterion = EachDecision()
    criterion.loss(logits_BC, {"labels": truth_BC}) / criterion.count({"labels": truth_BC})

B batch, C columns, K teachers, N items.
"""

from typing import TYPE_CHECKING

import numpy as np

from jobs.contracts.learning import MISSING, Batch

if TYPE_CHECKING:
    from torch import Tensor

SOFT_DECISIONS = ("sigmoid_kl", "mse")
"""How decisions of student and teachers may be compared, the usual way first."""


class EachDecision:
    """Binary cross-entropy a column, a mean over items and columns, as the usual example script has it."""

    splits = True

    def __init__(self, label_smoothing: float = 0.0, weights_C: "Tensor | None" = None) -> None:
        self.label_smoothing, self.weights_C = label_smoothing, weights_C

    def loss(self, outputs: "Tensor", batch: Batch) -> "Tensor":
        """Summed over columns and batch; rows without a target have none."""
        from torch.nn import functional

        from jobs.losses.answers import in_full

        known_B = batch["labels"][:, 0] != MISSING
        logits_BC = in_full(outputs)[known_B]
        wanted_BC = batch["labels"][known_B].to(logits_BC.dtype)
        wanted_BC = wanted_BC * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights_C = None if self.weights_C is None else self.weights_C.to(logits_BC.device)
        return functional.binary_cross_entropy_with_logits(logits_BC, wanted_BC, reduction="sum", pos_weight=weights_C)

    def count(self, batch: Batch) -> float:
        """A target an item and column."""
        return float(batch["labels"].numel())


class SigmoidCriterion:
    """How far the student's yes and no of each column are from the teachers'."""

    def __init__(self, loss: str, weights_K: "Tensor") -> None:
        self.by_logits, self.weights_K = loss == "mse", weights_K

    def loss(self, outputs: "Tensor", batch: Batch, temperature: "Tensor") -> "Tensor":
        """Summed over columns and batch; the teachers' logits are BKC."""
        from jobs.losses.answers import sigmoid_kl, sigmoid_mixture, sigmoid_mse

        teachers_BKC, weights_K = batch["teacher"], self.weights_K.to(batch["teacher"].device)
        if self.by_logits:
            return sigmoid_mse(outputs, (teachers_BKC * weights_K[:, None]).sum(1))
        return sigmoid_kl(outputs, sigmoid_mixture(teachers_BKC, weights_K, temperature), temperature)


def decision_losses(logits_NC: np.ndarray, truth_NC: np.ndarray) -> np.ndarray:
    """Binary cross-entropy of each item, a mean over columns."""
    import torch
    from torch.nn import functional

    if not len(logits_NC):
        return np.zeros(0, dtype=np.float32)
    logits, wanted = (torch.from_numpy(np.asarray(one, dtype=np.float32)) for one in (logits_NC, truth_NC))
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(-1).numpy()
