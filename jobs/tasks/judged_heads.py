"""What several heads of one model are worth: each by its own figures, and all by the mean of their scores.

    judged = JudgedHeads({"topic": JudgedHead(score, own, known_N), …}, items=len(truth))
    judged.figure("mean_score"); judged.figure("topic.macro_f1", weights_N)

Items without a target of a head do not count for it. N items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jobs.contracts.learning import Judged
from jobs.core.metric import Metric
from serve.tasks.shared.by_head import OF

MEAN_SCORE = "mean_score"
"""The mean of the heads' scores. One of which less is better, from 0 on, counts as 1 / (1 + score)."""


def heads_metrics(each: Mapping[str, Sequence[Metric]]) -> tuple[Metric, ...]:
    """The figures of heads, from those of each: their mean score, and each head's own behind its name."""
    scores = [own[0] for own in each.values()]
    highest = float(np.mean([1.0 if score.mode == "min" else score.highest for score in scores]))
    of_each = [behind_head(metric, name) for name, own in each.items() for metric in own]
    return (Metric(MEAN_SCORE, short="mean", highest=highest), *of_each)


def behind_head(metric: Metric, name: str) -> Metric:
    """A head's own figure, behind its name."""
    return replace(metric, name=f"{name}{OF}{metric.name}", short=f"{name}{OF}{metric.short or metric.name}")


def mean_score(scores: Sequence[tuple[Metric, float]]) -> float:
    """The mean of heads' scores; 0 of none."""
    worth = [1 / (1 + max(0.0, score)) if metric.mode == "min" else score for metric, score in scores]
    return float(np.mean(worth)) if worth else 0.0


@dataclass(frozen=True)
class JudgedHead:
    """One head, judged by the items that have a target of it."""

    score: Metric
    judged: Judged
    known_N: np.ndarray

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """One of its own; in a resample without any of its items, that of all of them."""
        if not self.known_N.any():
            return 0.0
        own = None if weights_N is None else weights_N[self.known_N]
        return self.judged.figure(metric, None if own is not None and not own.any() else own)


class JudgedHeads:
    """Several heads, judged."""

    def __init__(self, heads: Mapping[str, JudgedHead], items: int) -> None:
        self.heads = heads
        right_N, known_N = np.zeros(items), np.zeros(items)
        for head in heads.values():
            right_N[head.known_N] += head.judged.goodness_N
            known_N += head.known_N
        self.goodness_N = right_N / np.maximum(known_N, 1)
        """The mean over the heads that an item has a target of."""

    def figure(self, metric: str, weights_N: np.ndarray | None = None) -> float:
        """The mean score, or a head's own figure."""
        if metric != MEAN_SCORE:
            name, _, own = metric.partition(OF)
            return self.heads[name].figure(own, weights_N)
        judged = [head for head in self.heads.values() if head.known_N.any()]
        return mean_score([(head.score, head.figure(head.score.name, weights_N)) for head in judged])
