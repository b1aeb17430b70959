"""Logits → answers, in numpy alone: the same code judges a candidate and answers for it.

    classify(logits_BC, ("ham", "spam"), top_k=1)[0].label

Shapes: B batch, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class LabelProbability:
    """A label and its probability."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The most probable label of a text, and the most probable ones, the first first."""

    label: str
    probability: float
    probabilities: tuple[LabelProbability, ...]


def softmax(logits_BC: np.ndarray) -> np.ndarray:
    """Probabilities of each class, float64, each row summing to 1."""
    shifted_BC = logits_BC.astype(np.float64) - logits_BC.max(axis=-1, keepdims=True)
    powers_BC = np.exp(shifted_BC)
    return powers_BC / powers_BC.sum(axis=-1, keepdims=True)


def classify(logits_BC: np.ndarray, labels: Sequence[str], top_k: int | None = None) -> list[Answer]:
    """One answer a row, with its top_k labels (all when None or when there are fewer); of equals the first column wins."""
    if logits_BC.ndim != 2 or logits_BC.shape[1] != len(labels):
        raise ValueError(f"logits of shape {logits_BC.shape} do not fit {len(labels)} labels; give one column a label")
    if not len(logits_BC):
        return []
    return [_answer(row, labels, top_k) for row in softmax(logits_BC).tolist()]


def _answer(probabilities: list[float], labels: Sequence[str], top_k: int | None) -> Answer:
    # Plain lists: on rows as short as these numpy costs more, and its argsort hands the interpreter to other threads.
    # Sorted in reverse, equals keep their order.
    columns = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)[:top_k]
    ranked = tuple(LabelProbability(labels[column], probabilities[column]) for column in columns)
    return Answer(ranked[0].label, ranked[0].probability, ranked)
