"""What a cascade brings: quality and cost over thresholds, and the threshold that reaches a wanted quality at the least cost.

    small, large = Answers(outputs, confidence_N, p50_ms), Answers(of_teacher, its_confidence_N, teacher_ms)
    found = fit_threshold(small, large, worth, metric, kept=0.99)                # on validation
    threshold_curve(small, large, worth, [found["threshold"]])                   # what it is worth on test

The small model answers; items of which it is less sure than the threshold go on to the teacher. N items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.core.config import BadInput
from jobs.core.metric import Metric
from jobs.judging.quality import Candidate, Rows
from jobs.tasks.checks import unsure_of_nothing
from serve.models.rollout.cascade import unsure
from serve.tasks.protocol import Outputs, Task

POINTS = 25
"""Thresholds of a curve: each passes about the same number of items more to the teacher than the one before."""

ThresholdPoint = dict[str, float]
"""threshold, asked (share of the items that the teacher answers), score, ms (of one item: the small model's median, and the
teacher's for the share that it is asked)."""
Worth = Callable[[Outputs], float]
"""The score of settled outputs."""


@dataclass(frozen=True)
class Answers:
    """What a model says of the items of a split, and how long one takes."""

    outputs: Outputs
    """Settled, all of one task."""
    confidence_N: np.ndarray
    p50_ms: float


def cascades_of(
    candidates: Sequence[Candidate], validation: Rows, judged: Rows, metric: Metric, kept: float
) -> list[dict[str, Any]]:
    """What each candidate but the first, the teacher, is worth with the teacher behind it.

    The threshold is fitted on validation; for the judged rows all candidates have answered already.
    """
    teacher, *others = candidates
    worths = [_worth(teacher, rows, metric) for rows in (validation, judged)]
    large = [_answers(teacher, outputs, teacher.task) for outputs in _outputs(teacher, validation, teacher.task)]
    found = []
    for other in others:
        small = [_answers(other, outputs, teacher.task) for outputs in _outputs(other, validation, teacher.task)]
        fitted = fit_threshold(small[0], large[0], worths[0], metric, kept)
        (reached,) = threshold_curve(small[1], large[1], worths[1], [fitted["threshold"]])
        over = threshold_curve(small[1], large[1], worths[1], thresholds_of(small[1].confidence_N))
        found.append({"kept": kept, "threshold": fitted["threshold"], "validation": fitted, "judged": reached, "curve": over})
    return found


def threshold_curve(small: Answers, large: Answers, worth: Worth, thresholds: Sequence[float]) -> list[ThresholdPoint]:
    """The point of each threshold."""
    points = []
    for threshold in thresholds:
        asked_N = unsure(small.confidence_N, threshold)
        score, asked = worth(_mixed(small.outputs, large.outputs, asked_N)), float(asked_N.mean())
        points.append({"threshold": threshold, "asked": asked, "score": score, "ms": small.p50_ms + asked * large.p50_ms})
    return points


def thresholds_of(confidence_N: np.ndarray, count: int = POINTS) -> list[float]:
    """From 0 (the small model alone) to above 1 (the teacher alone), in between at quantiles of the confidence."""
    quantiles = np.quantile(confidence_N, np.linspace(0, 1, count)[1:-1])
    return [0.0, *sorted({float(value) for value in quantiles}), 1.01]


def fit_threshold(small: Answers, large: Answers, worth: Worth, metric: Metric, kept: float) -> ThresholdPoint:
    """The lowest threshold with at least this share of the teacher's score; asking the teacher for all has it for certain."""
    points = threshold_curve(small, large, worth, thresholds_of(small.confidence_N))
    reference = points[-1]["score"]
    return next((point for point in points if metric.kept(point["score"], reference) >= kept), points[-1])


def _worth(teacher: Candidate, rows: Rows, metric: Metric) -> Worth:
    return lambda outputs: teacher.learning.judged(teacher.task, outputs, rows.truth).figure(metric.name)


def _outputs(candidate: Candidate, validation: Rows, task: Task) -> tuple[Outputs, Outputs]:
    """Its settled outputs of validation, and of the judged rows."""
    return candidate.says(validation.items, task)[1], candidate.settled


def _answers(candidate: Candidate, outputs: Outputs, task: Task) -> Answers:
    """Outputs, how sure they are, and the median latency that was measured; BadInput where the task does not say how sure."""
    confidence_N = task.confidence(outputs)
    if confidence_N is None:
        raise BadInput([unsure_of_nothing(task.kind, None)])
    return Answers(outputs, confidence_N, 1e3 * float(np.median(candidate.seconds)))


def _mixed(small: Outputs, large: Outputs, asked_N: np.ndarray) -> Outputs:
    """The small model's outputs, but where the large one is asked its own."""
    if isinstance(small, np.ndarray):
        mixed = small.copy()
        mixed[asked_N] = np.asarray(large)[asked_N]
        return mixed
    return [theirs if asked else own for own, theirs, asked in zip(small, large, asked_N, strict=True)]
