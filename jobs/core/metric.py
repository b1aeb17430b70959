"""A figure by which models are compared: its name, whether more of it is better, and what it means to keep some of it.

RANK = Metric("mean_rank", mode="min")
RANK.kept(1.5, reference=1.2)          # 0.8
"""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Metric:
    """A figure of a task or an objective."""

    name: str
    mode: Mode = "max"
    """Whether more of it is better, or less."""
    short: str = ""
    """How it is called where there is little room; its name by default."""
    highest: float = float("inf")
    """What it cannot be above."""
    lowest: float = 0.0
    """What it cannot be below."""

    @property
    def sign(self) -> int:
        """What a value is multiplied with so that more is better."""
        return 1 if self.mode == "max" else -1

    def kept(self, score: float, reference: float) -> float:
        """The share of a reference's quality that a score keeps, from 0 on: of errors, how many of them the reference has.

        1 where both are alike, above 1 where the score is the better one: of errors by the share of them that are gone, so
        that none at all keep 2. 0 where the reference has nothing to keep.
        """
        if score == reference:
            return 1.0 if score or self.mode == "min" else 0.0
        if self.mode == "min":
            return reference / score if score > reference else 2 - score / reference
        return max(0.0, score / reference) if reference > 0 else 0.0

    def keeping(self, share: float, reference: float) -> float:
        """The score that keeps this share of a reference's quality; 0 where none does."""
        if self.mode == "max" or share > 1:
            return reference * (share if self.mode == "max" else 2 - share)
        return reference / share if share else 0.0
