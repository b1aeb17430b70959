"""Which label is answered, where that is not just the most probable one: mistakes that cost more than others, labels that are
held to a precision or a recall, and texts that are none of these.

    task.worths(logits_NC, {"threshold spam": 0.97})         # worths_NK: the answer is the highest of a row

In this order: the label of the least expected cost (Elkan 2001); labels held to a recall wherever they are as likely as their
threshold, labels held to a precision nowhere else; and none of them where the most probable one is less likely than the
threshold of being in scope (Hendrycks and Gimpel 2017). Thresholds are fitted on validation (jobs/tasks/label_thresholds.py).

N items, C labels, K = C columns of what may be answered: with `none` one more, the last.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.tasks.protocol import Fitted, Outputs, Task
from serve.tasks.shared.labels import THRESHOLD, OneLabelTask
from serve.tasks.shared.probabilities import softmax

NONE_OF_THESE = "none of these"
LAST_RESORT = -1e30
"""What it is worth to answer none of these where nothing speaks for it: more than a label that may not be answered."""


class Requirement(BaseModel):
    """What answers of one label must keep; give one of the two."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    precision: float | None = Field(None, gt=0, le=1)
    """The share of the texts given this label that have it: it is given only where it is likely enough for that."""
    recall: float | None = Field(None, gt=0, le=1)
    """The share of the texts that have this label that are given it: it is given wherever it is as likely as that takes."""
    sure: float | None = Field(None, ge=0.5, lt=1)
    """How sure that must be from the validation rows: the lower end of the one-sided interval must keep it (Clopper and
    Pearson 1934), e.g. 0.95. Without it the share itself must."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if (self.precision is None) == (self.recall is None):
            both = "one threshold moves both, one up and the other down" if self.recall is not None else "neither is given"
            raise ValueError(f"{both}: give precision or recall")
        return self

    @property
    def rate(self) -> str:
        """Which of the two."""
        return "precision" if self.precision is not None else "recall"

    @property
    def least(self) -> float:
        """How much of it."""
        return float(self.precision if self.precision is not None else self.recall or 0.0)


class NoneOfThese(BaseModel):
    """Texts of no label are told from others by how likely their most probable label is."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    keep: float = Field(0.95, gt=0, lt=1)
    """The share of validation texts with a label that are still given one."""
    label: str = Field(NONE_OF_THESE, min_length=1)
    """What is answered, and how such rows are labelled where there are some: nothing is learned from them, and they count
    where models are judged."""


class DecidingTask(OneLabelTask):
    """A task of one label a text, whose answer may be another one than the most probable."""

    require: dict[str, Requirement] = {}
    """Labels that are held to a precision or a recall."""
    costs: dict[str, dict[str, float]] = {}
    """What it costs to call a text of the first label the second one; 1 where nothing is said."""
    none: NoneOfThese | None = None
    """Texts may be of none of the labels."""

    @model_validator(mode="after")
    def _of_its_labels(self) -> Self:
        answers = {*self.labels, *([] if self.none is None else [self.none.label])}
        named = [*self.require, *self.costs, *(label for own in self.costs.values() for label in own)]
        if unknown := [label for label in named if label not in answers]:
            raise ValueError(f"{unknown[0]!r} is none of its labels")
        if self.none is not None and self.none.label in self.labels:
            raise ValueError(f"{self.none.label!r} is what texts of no label are told of as; rename this label")
        if self.none is not None and self.none.label in self.require:
            raise ValueError(f"{self.none.label!r} is held to nothing but its own `keep`")
        if self.none is None and all(self._held(label, "precision") for label in self.labels):
            raise ValueError("each label is held to a precision, and there is none to give where all are too unlikely")
        return self

    @property
    def decides(self) -> bool:
        """Whether its answer may be another one than the most probable label: then settled outputs say which."""
        return bool(self.require or self.costs or self.none)

    @property
    def sayings(self) -> tuple[str, ...]:
        """The labels, and that there is none."""
        return self.labels if self.none is None else (*self.labels, self.none.label)

    @property
    def thresholds(self) -> tuple[str, ...]:
        """The names of what may be fitted for its decisions."""
        return tuple(f"{THRESHOLD}{label}" for label in self.sayings if label in self.require or label not in self.labels)

    @property
    def cost_KK(self) -> np.ndarray:
        """What it costs to call a text of the row's label the column's; also of texts of none of them."""
        names = self.sayings
        made_KK = 1.0 - np.eye(len(names))
        for label, own in self.costs.items():
            for said, cost in own.items():
                made_KK[names.index(label), names.index(said)] = cost
        return made_KK

    def worths(self, logits_NC: np.ndarray, fitted: Fitted) -> np.ndarray:
        """worths_NK: what is answered has the highest of its row, of equals the first."""
        probability_NC = softmax(logits_NC)
        worth_NK = -(probability_NC @ self.cost_KK[: len(self.labels)]) if self.costs else logits_NC.astype(np.float64)
        worth_NC = worth_NK[:, : len(self.labels)]
        self._hold(worth_NC, probability_NC, fitted)
        if self.none is None:
            return worth_NC
        none_N = worth_NK[:, -1] if self.costs else np.full(len(logits_NC), LAST_RESORT)
        below_N = scope(probability_NC) < fitted.get(f"{THRESHOLD}{self.none.label}", 0.0)
        return np.concatenate([worth_NC, np.where(below_N, np.inf, none_N)[:, None]], axis=1)

    def _hold(self, worth_NC: np.ndarray, probability_NC: np.ndarray, fitted: Fitted) -> None:
        """Labels that are held to a recall come before others, those held to a precision after all where they are unlikely."""
        above_N = worth_NC.max(axis=1) + 1
        for label, required in self.require.items():
            column, threshold = self.labels.index(label), fitted.get(f"{THRESHOLD}{label}")
            if threshold is None:
                continue
            likely_N = probability_NC[:, column] >= threshold
            if required.precision is not None:
                worth_NC[~likely_N, column] = -np.inf
            else:
                worth_NC[likely_N, column] = (above_N + probability_NC[:, column])[likely_N]

    def wrong_threshold(self, fitted: Fitted) -> str | None:
        """Why no such threshold can have been fitted; None where all can."""
        known = self.thresholds
        if unknown := sorted(name for name in fitted if name.startswith(THRESHOLD) and name not in known):
            return f"{unknown[0]} is none of what is fitted for it: {', '.join(known) or 'no threshold'}"
        outside = [f"the {name} is {fitted[name]:g}" for name in known if not 0 <= fitted.get(name, 0.0) <= 1]
        return f"{outside[0]}, which is not between 0 and 1" if outside else None

    def unlike(self, other: Task) -> str | None:
        """Those that decide otherwise say other things of the same logits."""
        if isinstance(other, DecidingTask):
            for key in ("require", "costs", "none"):
                if getattr(self, key) != getattr(other, key):
                    return f"their {key!r} are not the same, so that they answer the same probabilities otherwise"
        return super().unlike(other)

    def aligned(self, outputs: Outputs, other: Task) -> Outputs:
        """The columns in the order of this task's labels; that of none of them stays the last."""
        assert isinstance(other, DecidingTask)
        if self.labels == other.labels:
            return outputs
        found = np.asarray(outputs)
        order = [other.labels.index(label) for label in self.labels]
        return found[..., [*order, *range(len(order), found.shape[-1])]]

    def _held(self, label: str, rate: str) -> bool:
        return label in self.require and self.require[label].rate == rate


def scope(probability_NC: np.ndarray) -> np.ndarray:
    """How sure it is that a text is of one of the labels: the probability of the most probable one."""
    return np.asarray(probability_NC.max(axis=-1))


def check_costs(costs: Mapping[str, Mapping[str, float]]) -> None:
    """ValueError for costs below 0, and for answers that are right and cost something."""
    for label, own in costs.items():
        for said, cost in own.items():
            if not 0 <= cost < np.inf:
                raise ValueError(f"calling {label} {said} costs {cost:g}, and costs are numbers from 0 on")
            if said == label and cost:
                raise ValueError(f"calling {label} {said} is right, and costs nothing")
