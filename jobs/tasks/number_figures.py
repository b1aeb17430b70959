"""What numbers are worth: how far they are off, and whether they rise and fall with the truth; by ranges of the truth too.

    JudgedNumbers(truth_N, said_N, unit=1.0).figure("spearman", weights_N)

Each figure takes weights_N, how often each item counts, as those of jobs/tasks/figures.py do. They are scikit-learn's and
scipy's of the rows repeated so often. A correlation with what is always the same is 0: it tells nothing apart. N items.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


class JudgedNumbers:
    """Numbers that were said against the truth, both in the user's units; `unit` is how large an error has to be that a model
    is no better for having read the text: the standard deviation of the training numbers."""

    def __init__(self, truth_N: np.ndarray, said_N: np.ndarray, unit: float) -> None:
        self.truth_N, self.said_N = truth_N, said_N
        self.errors_N = said_N - truth_N
        self.goodness_N = 1 / (1 + np.abs(self.errors_N) / unit)
        """1 without an error, a half at an error of a standard deviation."""
        self._places = [np.unique(one_N, return_inverse=True)[1] for one_N in (truth_N, said_N)]

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """rmse, mae, pearson or spearman; 0 of no items."""
        if not len(self.truth_N):
            return 0.0
        weights_N = np.ones(len(self.truth_N)) if weights_N is None else weights_N
        if metric == "rmse":
            return float(np.sqrt(np.average(self.errors_N**2, weights=weights_N)))
        if metric == "mae":
            return float(np.average(np.abs(self.errors_N), weights=weights_N))
        if metric == "pearson":
            return _correlation(self.truth_N, self.said_N, weights_N)
        truth_N, said_N = (_ranks(places_N, weights_N) for places_N in self._places)
        return {"spearman": _correlation(truth_N, said_N, weights_N)}[metric]


def errors_by_range(judged: JudgedNumbers, ranges: Sequence[str], ordered: Sequence[str]) -> list[dict[str, Any]]:
    """Of the items whose truth is in each range: how many, the mean of their errors, which is above 0 where too much is said,
    and of their sizes."""
    ranges_N, rows = np.array(ranges, dtype=object), []
    for name in ordered:
        own_N = judged.errors_N[ranges_N == name]
        if len(own_N):
            figures = {"mean_error": float(own_N.mean()), "mae": float(np.abs(own_N).mean())}
            rows.append({"range": name, "examples": len(own_N), **figures})
    return rows


def _ranks(places_N: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
    """Ranks of values that stand at these places of their order, each counted so often; equals share their middle."""
    counts_K = np.bincount(places_N, weights_N)
    return np.asarray((counts_K.cumsum() - (counts_K - 1) / 2)[places_N])


def _correlation(left_N: np.ndarray, right_N: np.ndarray, weights_N: np.ndarray) -> float:
    """Pearson's."""
    there_N = weights_N > 0
    parts = []
    for one_N in (left_N, right_N):
        if np.ptp(one_N[there_N]) == 0:
            return 0.0
        apart_N = one_N - np.average(one_N, weights=weights_N)
        parts.append(apart_N / np.sqrt((weights_N * apart_N**2).sum()))
    return float(np.clip((weights_N * parts[0] * parts[1]).sum(), -1, 1))
