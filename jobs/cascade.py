"""What a cascade brings: quality and cost over thresholds, and the threshold that reaches a wanted quality at the least cost.

    small, large = Answers(probabilities_NC, p50_ms), Answers(of_teacher_NC, teacher_ms)
    found = fit(small, large, truth_N, "macro_f1", kept=0.99)          # on validation
    curve(small, large, truth_N, "macro_f1", [found["threshold"]])     # what it is worth on test

The small model answers; texts whose highest probability is below the threshold go on to the teacher. N texts, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.figures import score_of
from jobs.judging import Candidate, columns_of
from serve.answers import softmax
from serve.rollout.cascade import unsure

POINTS = 25
"""Thresholds of a curve: each passes about the same number of texts more to the teacher than the one before."""

Point = dict[str, float]
"""threshold, asked (share of the texts that the teacher answers), score, ms (of one text: the small model's median, and the
teacher's for the share that it is asked)."""


@dataclass(frozen=True)
class Answers:
    """What a model says of the texts of a split, and how long one takes."""

    probabilities_NC: np.ndarray
    p50_ms: float


def cascades_of(
    candidates: Sequence[Candidate], splits: Sequence[tuple[list[str], list[str]]], metric: str, kept: float
) -> list[dict[str, Any]]:
    """What each candidate but the first, the teacher, is worth with the teacher behind it.

    `splits`: texts and labels of validation, on which the threshold is fitted, and of the judged split.
    """
    teacher, *others = candidates
    order = teacher.engine.card.labels
    truths = [np.array([order.index(label) for label in labels]) for _, labels in splits]
    large = [answers_of(teacher, texts, order) for texts, _ in splits]
    found = []
    for other in others:
        small = [answers_of(other, texts, order) for texts, _ in splits]
        validation, judged = zip(small, large, truths, strict=True)
        fitted = fit(*validation, metric, kept)
        (reached,) = curve(*judged, metric, [fitted["threshold"]])
        over = curve(*judged, metric, thresholds_of(judged[0].probabilities_NC))
        found.append({"kept": kept, "threshold": fitted["threshold"], "validation": fitted, "judged": reached, "curve": over})
    return found


def answers_of(candidate: Candidate, texts: Sequence[str], order: Sequence[str]) -> Answers:
    """Its probabilities as it serves them, of the labels in this order, and the median latency that was measured of it."""
    probabilities_NC = softmax(candidate.engine.scaled_logits(texts))[:, columns_of(candidate, order)]
    return Answers(probabilities_NC, 1e3 * float(np.median(candidate.seconds)))


def curve(small: Answers, large: Answers, truth_N: np.ndarray, metric: str, thresholds: Sequence[float]) -> list[Point]:
    """The point of each threshold."""
    own_N, other_N = small.probabilities_NC.argmax(-1), large.probabilities_NC.argmax(-1)
    points = []
    for threshold in thresholds:
        asked_N = unsure(small.probabilities_NC, threshold)
        predicted_N = np.where(asked_N, other_N, own_N)
        score = score_of(metric, truth_N, predicted_N)
        asked = float(asked_N.mean())
        points.append({"threshold": threshold, "asked": asked, "score": score, "ms": small.p50_ms + asked * large.p50_ms})
    return points


def thresholds_of(probabilities_NC: np.ndarray, count: int = POINTS) -> list[float]:
    """From 0 (the small model alone) to above 1 (the teacher alone), in between at quantiles of the confidence."""
    quantiles = np.quantile(probabilities_NC.max(-1), np.linspace(0, 1, count)[1:-1])
    return [0.0, *sorted({float(value) for value in quantiles}), 1.01]


def fit(small: Answers, large: Answers, truth_N: np.ndarray, metric: str, kept: float) -> Point:
    """The lowest threshold with at least this share of the teacher's score; asking the teacher for all has it for certain."""
    points = curve(small, large, truth_N, metric, thresholds_of(small.probabilities_NC))
    wanted = kept * points[-1]["score"]
    return next((point for point in points if point["score"] >= wanted), points[-1])
