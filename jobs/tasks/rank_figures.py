"""What labels with an order are worth: how far they are off in steps.

    JudgedRanks(truth_N, said_N, classes=5).figure("quadratic_weighted_kappa", weights_N)

Each figure takes weights_N, how often each item counts, as those of jobs/tasks/figures.py do. They are scikit-learn's of the
rows repeated so often. Kappa is 0 where all rows have one label and are given it: there is nothing to agree on.
N items, C labels.
"""

import numpy as np


class JudgedRanks:
    """Places of labels in their order, from 0: what was said against the truth."""

    def __init__(self, truth_N: np.ndarray, said_N: np.ndarray, classes: int) -> None:
        self.truth_N, self.said_N, self.classes = truth_N, said_N, classes
        self.steps_N = np.abs(said_N - truth_N)
        self.goodness_N = 1 - self.steps_N / (classes - 1)
        """1 for the right label, 0 from one end to the other."""

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """quadratic_weighted_kappa, accuracy, within_one or rank_mae; 0 of no items."""
        if not len(self.truth_N):
            return 0.0
        weights_N = np.ones(len(self.truth_N)) if weights_N is None else weights_N
        if metric == "quadratic_weighted_kappa":
            return self._kappa(weights_N)
        figures = {"accuracy": self.steps_N == 0, "within_one": self.steps_N <= 1, "rank_mae": self.steps_N}
        return float(np.average(figures[metric], weights=weights_N))

    def _kappa(self, weights_N: np.ndarray) -> float:
        """One less the squared steps by those that there would be if what is said hung on nothing (Cohen 1968)."""
        truth_C, said_C = (np.bincount(one_N, weights_N, self.classes) for one_N in (self.truth_N, self.said_N))
        places_C = np.arange(self.classes)
        squares_CC = (places_C[:, None] - places_C) ** 2
        by_chance = truth_C @ squares_CC @ said_C / weights_N.sum()
        return float(1 - weights_N @ self.steps_N**2 / by_chance) if by_chance else 0.0
