"""Batches of texts of like length, so that little of a batch is padding.

    for rows in batches([12, 3, 128, 4], BatchBudget(texts=32, tokens=4096)):      # [1, 3], [0], [2]

A batch costs as much as its longest text, times its texts. So a text joins others only while the padding that this brings
costs less than a forward pass of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# What starting one more forward pass costs, in tokens of a small int8 graph.
CALL_TOKENS = 8


@dataclass(frozen=True, slots=True)
class BatchBudget:
    """How much goes into one forward pass."""

    texts: int
    """Texts at most."""
    tokens: int
    """Tokens at most, padding included; a single text may have more."""
    padded: bool = True
    """Whether texts of a batch are filled up to the longest; else only `texts` bounds it."""


def batches(lengths: Sequence[int], budget: BatchBudget) -> list[list[int]]:
    """The indices of all texts, in batches, short texts first."""
    made: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if made and _joins(len(made[-1]), lengths[made[-1][-1]], lengths[index], budget):
            made[-1].append(index)
        else:
            made.append([index])
    return made


def _joins(texts: int, longest: int, longer: int, budget: BatchBudget) -> bool:
    """Whether one more, longer text goes into a batch of so many texts: all of them are padded to it then."""
    if not budget.padded:
        return texts < budget.texts
    return texts * (longer - longest) <= CALL_TOKENS and _fits(texts + 1, longer, budget)


def _fits(texts: int, longest: int, budget: BatchBudget) -> bool:
    return texts <= budget.texts and texts * longest <= budget.tokens
