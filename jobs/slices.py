"""Slices: parts of a split that are looked at by themselves, since a good average can hide a part that went bad.

    slices = slices_of(texts, labels, {"source": sources})  # {"label spam": …, "1–24 characters": …, "source web": …}
    accuracies(slices, predicted == truth)                  # {"label spam": {"examples": 113, "accuracy": 0.93}, …}

N texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SMALLEST = 20
"""A slice of fewer examples says nothing: one of them is more than five points."""
LENGTHS = 4
"""Slices by length: quarters of the texts."""


def slices_of(
    texts: Sequence[str], labels: Sequence[str], columns: Mapping[str, Sequence[str | None]] | None = None
) -> dict[str, np.ndarray]:
    """Which texts (a mask_N) have each label, are of each quarter of lengths, have each value of these columns.

    Slices too small are left out.
    """
    labels_N = np.array(labels, dtype=object)
    found = {f"label {label}": labels_N == label for label in sorted(set(labels))}
    lengths_N = np.array([len(text) for text in texts])
    bounds = np.unique(np.quantile(lengths_N, np.linspace(0, 1, LENGTHS + 1)[1:], method="inverted_cdf"))
    for low, high in zip([0, *bounds[:-1]], bounds, strict=True):
        found[f"{low + 1}–{high} characters"] = (lengths_N > low) & (lengths_N <= high)
    for column, values in (columns or {}).items():
        values_N = np.array(values, dtype=object)
        found |= {f"{column} {value}": values_N == value for value in sorted({value for value in values if value is not None})}
    return {name: mask_N for name, mask_N in found.items() if mask_N.sum() >= SMALLEST}


def accuracies(slices: Mapping[str, np.ndarray], right_N: np.ndarray) -> dict[str, dict[str, Any]]:
    """How many examples each slice has and the share of them that is right; by label this is the label's recall."""
    return {
        name: {"examples": int(mask_N.sum()), "accuracy": float(right_N[mask_N].mean())} for name, mask_N in slices.items()
    }


def falls(candidate: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, float]:
    """By how much each slice's accuracy is below the teacher's; negative where it is above."""
    return {name: teacher[name]["accuracy"] - part["accuracy"] for name, part in candidate.items()}
