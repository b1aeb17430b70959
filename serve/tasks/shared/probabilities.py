"""From logits to probabilities, and the labels that they belong to. N rows, C classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_PROBABILITY = 1e-9
TEMPERATURE = "temperature"
"""The name of what is fitted for a variant whose logits are divided before they become probabilities (Guo et al. 2017)."""


@dataclass(frozen=True, slots=True)
class LabelProbability:
    """A label and its probability."""

    label: str
    probability: float


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Probabilities of each class, float64, each row summing to 1."""
    shifted_NC = logits_NC.astype(np.float64) - logits_NC.max(axis=-1, keepdims=True)
    powers_NC = np.exp(shifted_NC)
    return powers_NC / powers_NC.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The probability of each yes, float64."""
    # Of numbers below 0 alone: no power of e is too large.
    powers = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1.0, powers) / (1 + powers)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), finite at 0 and at 1 too."""
    bounded = probabilities.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(np.log(bounded / (1 - bounded)))


def wrong_temperature(fitted: Mapping[str, float]) -> str | None:
    """Why this is not what is fitted for a model with a temperature and nothing else; None where it is."""
    if unknown := sorted(set(fitted) - {TEMPERATURE}):
        return f"{unknown[0]} is none of what is fitted for it: {TEMPERATURE}"
    return None if fitted.get(TEMPERATURE, 1.0) > 0 else f"its temperature is {fitted[TEMPERATURE]:g}, which is not above 0"


def ranked(probabilities: Sequence[float], labels: Sequence[str], most: int | None) -> tuple[LabelProbability, ...]:
    """The most probable labels, the first first; of equals the first column's."""
    # Plain lists: on rows as short as these numpy costs more, and its argsort hands the interpreter to other threads.
    # Sorted in reverse, equals keep their order.
    columns = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)[:most]
    return tuple(LabelProbability(labels[column], probabilities[column]) for column in columns)
