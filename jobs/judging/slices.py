"""Slices: parts of a split that are looked at by themselves, since a good average can hide a part that went bad.

    slices = slices_of(lengths, {"label spam": mask_N}, {"source": sources})  # and "1–24 characters": …, "source web": …
    goodness(slices, judged.goodness_N)                  # {"label spam": {"examples": 113, "goodness": 0.93}, …}

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
    lengths: Sequence[int],
    targets: Mapping[str, np.ndarray],
    columns: Mapping[str, Sequence[str | None]] | None = None,
) -> dict[str, np.ndarray]:
    """Which texts (a mask_N) have each kind of target, are of each quarter of lengths, have each value of these columns.

    `lengths` are in characters, `targets` what the task tells apart. Slices too small are left out.
    """
    found = dict(targets)
    lengths_N = np.array(lengths)
    bounds = np.unique(np.quantile(lengths_N, np.linspace(0, 1, LENGTHS + 1)[1:], method="inverted_cdf"))
    for low, high in zip([0, *bounds[:-1]], bounds, strict=True):
        found[f"{low + 1}–{high} characters"] = (lengths_N > low) & (lengths_N <= high)
    for column, values in (columns or {}).items():
        values_N = np.array(values, dtype=object)
        found |= {f"{column} {value}": values_N == value for value in sorted({value for value in values if value is not None})}
    return {name: mask_N for name, mask_N in found.items() if mask_N.sum() >= SMALLEST}


def goodness(slices: Mapping[str, np.ndarray], goodness_N: np.ndarray) -> dict[str, dict[str, Any]]:
    """How many examples each slice has, and how right they are answered on average; of one label this is its recall."""
    return {
        name: {"examples": int(mask_N.sum()), "goodness": float(goodness_N[mask_N].mean())} for name, mask_N in slices.items()
    }


def falls(candidate: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, float]:
    """By how much the answers of each slice are less right than the teacher's; negative where they are better."""
    return {name: teacher[name]["goodness"] - part["goodness"] for name, part in candidate.items()}
