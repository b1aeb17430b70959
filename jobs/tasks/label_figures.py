"""What single labels are worth: the figures by which answers of one label a text are compared, each by its name.

    judged = JudgedLabels(("ham", "spam"), truth_N, predicted_N, logits_NC)
    judged.figure("macro_f1", weights_N)
    named_metric("recall spam", ("ham", "spam"))          # a Metric; ValueError says why there is none such

Each figure is scikit-learn's of the same name, over labels that some text has or was given; where there is nothing to divide
by it is 0. Weights are whole numbers, how often each text counts.

Texts may be out of scope, of no label: their number is C. They, and answers that say so, count as one label more wherever
labels are counted; figures of probabilities (auc, log_loss, top_k) are over the other texts, as no probability speaks of
these. N texts, C labels, K = C + 1 with that one.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np

from jobs.core.metric import Metric
from jobs.tasks.figures import accuracy, macro_f1
from jobs.tasks.label_rates import divided
from serve.tasks.shared.probabilities import softmax

USUAL = (Metric("macro_f1", highest=1.0), Metric("accuracy", short="acc", highest=1.0))
"""In every report."""
COST = Metric("cost", mode="min")
"""What an answer costs in the mean, where mistakes have costs."""
ANSWERED = (
    Metric("answered", highest=1.0),
    Metric("answered_accuracy", short="acc answered", highest=1.0),
)
"""The share of texts that are given a label, and how many of these are right, where texts may be out of scope."""
SIMPLE = {
    "weighted_f1": Metric("weighted_f1", highest=1.0),
    "mcc": Metric("mcc", lowest=-1.0, highest=1.0),
    "auc": Metric("auc", highest=1.0),
    "log_loss": Metric("log_loss", mode="min"),
}
BY_REQUEST = (*SIMPLE, "f2", "top_2", "precision LABEL", "recall LABEL", "f1 LABEL")
"""Names, or how they are made, of figures that are in a report only where it is asked for them."""
_BETA = re.compile(r"f(\d+(?:\.\d+)?)")
_TOP = re.compile(r"top_(\d+)")
_OF_A_LABEL = re.compile(r"(precision|recall|f1) (.+)")


def named_metric(name: str, labels: Sequence[str] | None) -> Metric:
    """The metric of a name that is not among the usual ones; ValueError says why there is none such. Labels that are not known
    yet are taken to be there."""
    if name in SIMPLE:
        return SIMPLE[name]
    if found := _BETA.fullmatch(name):
        if float(found[1]) == 0:
            raise ValueError("beta is above 0")
        return Metric(name, highest=1.0)
    if found := _TOP.fullmatch(name):
        most = int(found[1])
        if most < 1 or labels is not None and most >= len(labels):
            reason = "at least one label is looked at" if most < 1 else f"of {len(labels or ())} labels it is always 1"
            raise ValueError(reason)
        return Metric(name, highest=1.0)
    if found := _OF_A_LABEL.fullmatch(name):
        if labels is not None and found[2] not in labels:
            raise ValueError(f"there is no label {found[2]!r}")
        return Metric(name, highest=1.0)
    raise ValueError("this task has no such figure")


class JudgedLabels:
    """Labels against the truth; figures of probabilities ask for logits, `cost` for cost_KK (truth, answer)."""

    def __init__(
        self,
        labels: Sequence[str],
        truth_N: np.ndarray,
        predicted_N: np.ndarray,
        logits_NC: np.ndarray | None = None,
        cost_KK: np.ndarray | None = None,
    ) -> None:
        self.labels, self.truth_N, self.predicted_N = labels, truth_N, predicted_N
        self.logits_NC, self.cost_KK = logits_NC, cost_KK
        self.right_N = truth_N == predicted_N
        self.goodness_N = self.right_N.astype(np.float64)

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """A figure by its name; 0 of no texts."""
        if not len(self.truth_N):
            return 0.0
        weights_N = np.ones(len(self.truth_N)) if weights_N is None else weights_N
        return self._figure(metric)(weights_N)

    def _figure(self, metric: str) -> Callable[[np.ndarray], float]:
        plain: dict[str, Callable[[np.ndarray], float]] = {
            "macro_f1": partial(macro_f1, self.truth_N, self.predicted_N),
            "accuracy": partial(accuracy, self.truth_N, self.predicted_N),
            "weighted_f1": self._weighted_f1,
            "mcc": self._mcc,
            "auc": self._auc,
            "log_loss": lambda weights_N: _average(self._losses_N, weights_N[self._known_N]),
            "cost": lambda weights_N: _average(self._costs_N, weights_N),
            "answered": lambda weights_N: _average(self._answered_N, weights_N),
            "answered_accuracy": self._answered_accuracy,
        }
        if metric in plain:
            return plain[metric]
        if found := _BETA.fullmatch(metric):
            return partial(self._f_beta, float(found[1]))
        if found := _TOP.fullmatch(metric):
            within_N = self._places_N < int(found[1])
            return lambda weights_N: _average(within_N, weights_N[self._known_N])
        found = _OF_A_LABEL.fullmatch(metric)
        if found is None:
            raise KeyError(metric)
        return partial(self._of_a_label, found[1], self.labels.index(found[2]))

    def counts(self, weights_N: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """right_K, true_K, given_K: how often each label was given rightly, is true, and was given."""
        size, right_N = len(self.labels) + 1, self.right_N
        own_N = None if weights_N is None else weights_N[right_N]
        return (
            np.bincount(self.truth_N[right_N], own_N, minlength=size),
            np.bincount(self.truth_N, weights_N, minlength=size),
            np.bincount(self.predicted_N, weights_N, minlength=size),
        )

    def _f_beta(self, beta: float, weights_N: np.ndarray) -> float:
        right_K, true_K, given_K = self.counts(weights_N)
        both_K = beta**2 * true_K + given_K
        return float(divided((1 + beta**2) * right_K, both_K).sum() / max(1, (both_K > 0).sum()))

    def _weighted_f1(self, weights_N: np.ndarray) -> float:
        right_K, true_K, given_K = self.counts(weights_N)
        return _average(divided(2 * right_K, true_K + given_K), true_K)

    def _mcc(self, weights_N: np.ndarray) -> float:
        """Matthews' correlation, of several labels (Gorodkin 2004); 0 where all are, or are given, one label."""
        right_K, true_K, given_K = (count_K.astype(np.float64) for count_K in self.counts(weights_N))
        total = true_K.sum()
        spread = (total**2 - true_K @ true_K) * (total**2 - given_K @ given_K)
        return float((right_K.sum() * total - true_K @ given_K) / np.sqrt(spread)) if spread > 0 else 0.0

    def _of_a_label(self, rate: str, label: int, weights_N: np.ndarray) -> float:
        right, true, given = (count_K[label] for count_K in self.counts(weights_N))
        whole = {"precision": given, "recall": true, "f1": (true + given) / 2}[rate]
        return float(right / whole) if whole else 0.0

    def _answered_accuracy(self, weights_N: np.ndarray) -> float:
        return _average(self.right_N[self._answered_N], weights_N[self._answered_N])

    def _auc(self, weights_N: np.ndarray) -> float:
        """The chance that a text of a label has a higher probability of it than one of another (of equal ones a half), a mean
        over labels of which there are both; of two labels that of the second. A half where there are none such."""
        own_N = weights_N[self._known_N].astype(np.float64)
        truth_N, each = self.truth_N[self._known_N], []
        for label in [1] if len(self.labels) == 2 else range(len(self.labels)):
            with_N = own_N * (truth_N == label)
            ranks_N = self._ranks[label]
            with_R, without_R = np.bincount(ranks_N, with_N), np.bincount(ranks_N, own_N - with_N)
            pairs = with_R.sum() * without_R.sum()
            if pairs > 0:
                each.append(float(with_R @ (without_R.cumsum() - without_R / 2)) / pairs)
        return float(np.mean(each)) if each else 0.5

    @cached_property
    def _known_N(self) -> np.ndarray:
        return self.truth_N < len(self.labels)

    @cached_property
    def _answered_N(self) -> np.ndarray:
        return self.predicted_N < len(self.labels)

    @cached_property
    def _costs_N(self) -> np.ndarray:
        assert self.cost_KK is not None, "`cost` is a figure of tasks that have costs"
        return self.cost_KK[self.truth_N, self.predicted_N]

    @cached_property
    def _probability_NC(self) -> np.ndarray:
        """Of texts that have a label."""
        assert self.logits_NC is not None, "training measures no figure of probabilities"
        return softmax(self.logits_NC[self._known_N])

    @cached_property
    def _losses_N(self) -> np.ndarray:
        own_N1 = np.take_along_axis(self._probability_NC, self.truth_N[self._known_N, None], axis=1)
        return -np.log(np.clip(own_N1[:, 0], np.finfo(np.float64).eps, 1.0))

    @cached_property
    def _places_N(self) -> np.ndarray:
        """How many labels come before the right one; of equals the first column, as answers have it."""
        columns_N1 = self.truth_N[self._known_N, None]
        own_N1 = np.take_along_axis(self._probability_NC, columns_N1, axis=1)
        earlier_NC = np.arange(len(self.labels)) < columns_N1
        return np.asarray(((self._probability_NC > own_N1) | (self._probability_NC == own_N1) & earlier_NC).sum(1))

    @cached_property
    def _ranks(self) -> list[np.ndarray]:
        """For each label the rank of each text's probability of it; equals share one."""
        return [np.unique(column_N, return_inverse=True)[1] for column_N in self._probability_NC.T]


def _average(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(values, weights=weights)) if weights.sum() else 0.0
