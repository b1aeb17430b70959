"""Regression: a number for a text, or for two texts together. How it answers: a standardised number → one in the user's units.

    task = Regression(mean=3.5, deviation=1.0, least=1.0, greatest=5.0)
    task.answers(task.settled(raw_N1, {}), items)[0].value                # 3.5 + 1.0 · raw, cut to 1 and 5

What a model gives is how many standard deviations of the training numbers a text is above their mean. So distances are in
standard deviations too, whatever is measured. N items.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, model_validator

from serve.tasks.protocol import Evidence, Explained, Item, Output, Outputs, Task, View
from serve.tasks.shared.two_texts import TwoTextTask

SAME = 0.1
"""Two numbers say the same where they are no more than so many standard deviations apart."""
DECILES = (-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816)
"""Where a normal distribution is cut into ten equal parts, in standard deviations."""


@dataclass(frozen=True, slots=True)
class NumberAnswer:
    """The number of a text."""

    value: float


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """The number that is explained."""

    value: float


@dataclass(frozen=True, slots=True)
class NumberEvidence(Evidence):
    """What a part does for the number: by how much it falls without the part."""

    value_without: float
    """The number without it."""


class Regression(TwoTextTask):
    """A number for a text, or for a pair of texts."""

    kind: Literal["regression"] = "regression"
    mean: FiniteFloat
    """Of the training numbers: what an output of 0 means."""
    deviation: FiniteFloat = Field(gt=0)
    """Their standard deviation: what an output of 1 is above that."""
    least: FiniteFloat | None = None
    """No answer is below it."""
    greatest: FiniteFloat | None = None
    """No answer is above it."""

    Answer: ClassVar = NumberAnswer
    Whole: ClassVar = WholeNumber
    Evidence: ClassVar = NumberEvidence
    view: ClassVar[View] = "number"
    summary: ClassVar[str] = "Give texts their numbers"

    @model_validator(mode="after")
    def _bounds_apart(self) -> Self:
        check_bounds(self.least, self.greatest)
        return self

    @property
    def width(self) -> int:
        """A single number."""
        return 1

    def values(self, outputs: Outputs) -> np.ndarray:
        """values_N in the user's units, float64, from outputs_N1."""
        raw_N = np.asarray(outputs, dtype=np.float64).reshape(-1)
        return np.clip(self.mean + self.deviation * raw_N, self.least, self.greatest)

    def written(self, value: float) -> str:
        """A number as a person would say it: to a hundredth of a standard deviation or finer."""
        decimals = max(0, self._decimals(2))
        return f"{round(value, decimals) + 0.0:.{decimals}f}"

    def wrong_output(self, output: Output) -> str | None:
        """A single number."""
        return None if output.shape == (1,) else f"it has the shape {output.shape}, and the task has one number a text"

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """The numbers."""
        return [NumberAnswer(value) for value in self.values(outputs).tolist()]

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        """Whether they are within a tenth of a standard deviation."""
        return np.asarray(self.distance(left, right) <= SAME)

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        """In standard deviations."""
        return np.abs(self.values(left) - self.values(right)) / self.deviation

    def said(self, outputs: Outputs) -> list[str]:
        """The range that the number is in."""
        return self.ranges(self.values(outputs))

    def ranges(self, values_N: np.ndarray) -> list[str]:
        """The range that each number is in, by what `sayings` has; an edge belongs to the range above it."""
        sayings = self.sayings
        edges = [edge for edge, _ in self._edges()]
        return [sayings[place] for place in np.searchsorted(edges, values_N, side="right").tolist()]

    @property
    def sayings(self) -> tuple[str, ...]:
        """Ten ranges, each of which would have a tenth of the training numbers if these were normally distributed; fewer where
        some are outside of the bounds."""
        names = [name for _, name in self._edges()]
        if not names:
            return ("any number",)
        between = [f"{low} to {high}" for low, high in zip(names, names[1:], strict=False)]
        return (f"below {names[0]}", *between, f"{names[-1]} and more")

    def unlike(self, other: Task) -> str | None:
        """Another mean and deviation are another scale of the same numbers; other bounds are not."""
        if not isinstance(other, Regression) or other.fields != self.fields:
            return super().unlike(other)
        if (self.least, self.greatest) == (other.least, other.greatest):
            return None
        return f"the bounds of the one are {self._bounds()}, and those of the other {other._bounds()}"

    def aligned(self, outputs: Outputs, other: Task) -> Outputs:
        """The same numbers by this task's mean and deviation."""
        assert isinstance(other, Regression)
        if self == other:
            return outputs
        return (np.asarray(outputs) * other.deviation + (other.mean - self.mean)) / self.deviation

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        """By how much the number falls where a part is left out."""
        whole, *left = self.values(outputs).tolist()
        return Explained({"value": whole}, [NumberEvidence(whole - value, value) for value in left])

    def right_example(self) -> float:
        """A number."""
        return float(self.written(float(np.clip(self.mean, self.least, self.greatest))))

    def right(self, said: Any) -> dict[str, Any]:
        """The number, which is not outside of the bounds."""
        if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
            raise ValueError("Give a number")
        if self.least is not None and said < self.least:
            raise ValueError(f"{said:g} is below the least number, {self.least:g}")
        if self.greatest is not None and said > self.greatest:
            raise ValueError(f"{said:g} is above the greatest number, {self.greatest:g}")
        return {"value": float(said)}

    def goodness(self, answer: Mapping[str, Any], right: Mapping[str, Any]) -> float:
        """1 without an error, a half at an error of a standard deviation."""
        return 1 / (1 + abs(answer["value"] - right["value"]) / self.deviation)

    def columns(self, wide: bool) -> dict[str, type]:
        """The number."""
        return {"predicted": float}

    def cells(self, answer: Any, wide: bool) -> dict[str, Any]:
        """As the columns say."""
        return {"predicted": answer.value}

    def told(self, answer: Mapping[str, Any]) -> str:
        """The number."""
        return self.written(answer["value"])

    def _edges(self) -> list[tuple[float, str]]:
        """Those of the ranges, rounded to what their names say, which are apart by more than that."""
        decimals, low, high = self._decimals(1), self.least, self.greatest
        edges = [round(self.mean + place * self.deviation, decimals) + 0.0 for place in DECILES]
        inside = [edge for edge in edges if (low is None or low < edge) and (high is None or edge < high)]
        return [(edge, f"{edge:.{max(0, decimals)}f}") for edge in inside]

    def _decimals(self, digits: int) -> int:
        """Behind the point, for so many digits of the deviation or one more; below 0 before it."""
        return digits - math.floor(math.log10(self.deviation))

    def _bounds(self) -> str:
        named = ("none" if one is None else f"{one:g}" for one in (self.least, self.greatest))
        return " and ".join(named)


TASK = Regression


def check_bounds(least: float | None, greatest: float | None) -> None:
    """ValueError where both are given and leave no number between them."""
    if least is not None and greatest is not None and least >= greatest:
        raise ValueError(f"least is {least:g}, which is not below greatest, {greatest:g}")
