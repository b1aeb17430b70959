"""What sets of labels are worth: F1 of all decisions, by label and by text; and the thresholds at which it is highest.

Each figure takes weights_N, how often each text counts, as those of jobs/tasks/figures.py do. They are scikit-learn's of the
same names, where nothing to divide by counts 0; but a text that has no label and is given none is right, so its own F1 is 1.
N texts, C labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jobs.tasks.label_rates import rates_by_label
from serve.tasks.shared.probabilities import sigmoid


class JudgedSets:
    """Labels that were given (bool_NC) against the truth (1 or 0, NC)."""

    def __init__(self, truth_NC: np.ndarray, given_NC: np.ndarray) -> None:
        self.truth_NC, self.given_NC = truth_NC == 1, given_NC.astype(bool)
        self.right_NC = self.truth_NC & self.given_NC
        self.goodness_N = _f1(self.right_NC.sum(1), self.truth_NC.sum(1) + self.given_NC.sum(1), empty=1.0)

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """macro_f1, micro_f1, sample_f1, exact_match or hamming_loss; 0 of no texts."""
        if not len(self.truth_NC):
            return 0.0
        weights_N = np.ones(len(self.truth_NC)) if weights_N is None else weights_N
        if metric == "sample_f1":
            return float(np.average(self.goodness_N, weights=weights_N))
        if metric == "exact_match":
            return float(np.average((self.truth_NC == self.given_NC).all(1), weights=weights_N))
        if metric == "hamming_loss":
            return float(np.average((self.truth_NC != self.given_NC).mean(1), weights=weights_N))
        right_C, both_C = weights_N @ self.right_NC, weights_N @ self.truth_NC + weights_N @ self.given_NC
        return float({"macro_f1": _f1(right_C, both_C).mean(), "micro_f1": _f1(right_C.sum(), both_C.sum())}[metric])


def rates_of_sets(labels: Sequence[str], truth_NC: np.ndarray, given_NC: np.ndarray) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each label."""
    judged = JudgedSets(truth_NC, given_NC)
    return rates_by_label(labels, *(array.sum(0) for array in (judged.right_NC, judged.truth_NC, judged.given_NC)))


def best_thresholds(logits_NC: np.ndarray, truth_NC: np.ndarray) -> list[float | None]:
    """For each label the probability from which on giving it has the highest F1, halfway between two texts; of equal ones that
    which is nearest to a half. None for a label that no text has: nothing can be fitted for it."""
    return [_best_threshold(sigmoid(logits_NC[:, label]), truth_NC[:, label] == 1) for label in range(truth_NC.shape[1])]


def _best_threshold(probability_N: np.ndarray, truth_N: np.ndarray) -> float | None:
    if not truth_N.any():
        return None
    order_N = np.argsort(-probability_N, kind="stable")
    sorted_N = probability_N[order_N]
    right_N, given_N = truth_N[order_N].cumsum(), np.arange(1, len(order_N) + 1)
    f1_N = _f1(right_N, given_N + truth_N.sum())
    below_N = np.append(sorted_N[1:], 0.0)
    # Texts of one probability are given a label all or none.
    f1_N = np.where(below_N < sorted_N, f1_N, -1.0)
    between_N = np.clip((sorted_N + below_N) / 2, 1e-6, 1 - 1e-6)
    best = np.flatnonzero(f1_N >= f1_N.max() - 1e-12)
    return float(between_N[best[np.abs(between_N[best] - 0.5).argmin()]])


def _f1(right: Any, both: Any, empty: float = 0.0) -> Any:
    """2 · right / (true + given); `empty` where there is neither."""
    return np.where(np.asarray(both) > 0, 2 * np.asarray(right) / np.maximum(both, 1), empty)
