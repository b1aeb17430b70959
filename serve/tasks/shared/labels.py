"""What kinds whose outputs have a column a label say alike: which labels there are, in which order, and why one is likely."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.tasks.protocol import Evidence, Item, Outputs, Task
from serve.tasks.shared.probabilities import log_odds


class Target(BaseModel):
    """What of an answer is explained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    label: str | None = None
    """The label that is explained; by default the most probable one."""


@dataclass(frozen=True, slots=True)
class LabelEvidence(Evidence):
    """What a part does for the label: by how much its log-odds fall without it."""

    probability_without: float
    """The label's probability without it."""


class LabelledTask(Task):
    """A task whose outputs have a column a label."""

    labels: tuple[str, ...] = Field(min_length=2)
    """The label of each column of the logits, in their order."""

    Target: ClassVar = Target
    Evidence: ClassVar = LabelEvidence

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two columns of the logits have the same label")
        return self

    def unlike(self, other: Task) -> str | None:
        """The same labels may stand in another order."""
        if not isinstance(other, type(self)) or other.fields != self.fields:
            return super().unlike(other)
        apart = sorted(set(self.labels) ^ set(other.labels))
        return f"only one of them has the label {apart[0]!r}" if apart else None

    def aligned(self, outputs: Outputs, other: Task) -> Outputs:
        """The columns in the order of this task's labels."""
        assert isinstance(other, LabelledTask)
        if self.labels == other.labels:
            return outputs
        return np.asarray(outputs)[..., [other.labels.index(label) for label in self.labels]]

    def wrong_target(self, target: BaseModel, item: Item) -> tuple[str, str] | None:
        """A label that the model does not have."""
        label = target.label if isinstance(target, Target) else None
        if label is None:
            return None
        try:
            self.known_label(label)
        except ValueError as error:
            return "label", str(error)
        return None

    @property
    def choices(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    def known_label(self, said: Any) -> str:
        """A label that somebody names; ValueError names those that there are."""
        if isinstance(said, str) and said in self.labels:
            return said
        raise ValueError(f"The model has no label {said!r}; it has {', '.join(self.labels)}")

    def explained_column(self, target: BaseModel, logits_C: np.ndarray) -> int:
        """The column of the label that is asked for, or of the most probable one."""
        label = target.label if isinstance(target, Target) else None
        return int(logits_C.argmax()) if label is None else self.labels.index(label)


def label_evidence(probability_N: np.ndarray) -> Sequence[LabelEvidence]:
    """What each part does for a label, from its probability for the whole item, then without each part."""
    odds_N = log_odds(probability_N)
    fell_N = odds_N[0] - odds_N[1:]
    return [LabelEvidence(float(fell), float(left)) for fell, left in zip(fell_N, probability_N[1:], strict=True)]
