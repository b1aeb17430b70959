"""What kinds whose outputs have a column a label say alike: which labels there are, in which order, and why one is likely; and
how a text that is longer than the model reads at once is read whole, in windows.

W windows, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Encoding, Tokenizer

from serve.tasks.protocol import Evidence, Item, Output, Outputs, Task
from serve.tasks.shared.probabilities import log_odds

Long = Literal["cut", "windows"]
Pooling = Literal["mean", "max"]
LOGITS = 0
"""The row of a settled output that holds the logits, where another one says what is decided."""
THRESHOLD = "threshold "
"""What the names of fitted thresholds begin with; the label follows."""
OVERLAP = 8
"""Windows of a long text share one token in so many with the window before, so that no word loses all that stands beside
it."""


class Target(BaseModel):
    """What of an answer is explained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    label: str | None = None
    """The label that is explained; by default the one that is given, or the most probable one."""


@dataclass(frozen=True, slots=True)
class LabelEvidence(Evidence):
    """What a part does for the label: by how much its log-odds fall without it."""

    probability_without: float
    """The label's probability without it."""


class LabelledTask(Task):
    """A task whose outputs have a column a label."""

    labels: tuple[str, ...] = Field(min_length=2)
    """The label of each column of the logits, in their order."""
    long: Long = "cut"
    """What becomes of a text that is longer than the model reads at once. cut: its rest is not read. windows: all of it is
    read, in windows that overlap a little."""
    pooling: Pooling = "mean"
    """What a label's logit is of a text of several windows. mean: of theirs, each counted by its tokens. max: the highest."""

    Target: ClassVar = Target
    Evidence: ClassVar = LabelEvidence

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two columns of the logits have the same label")
        if self.long == "windows" and len(self.fields) > 1:
            raise ValueError("of several texts each window would have a part of one: they are cut")
        return self

    @property
    def windows(self) -> bool:  # type: ignore[override]  # of one kind some tasks read windows, others do not
        """Whether a text may have several windows."""
        return self.long == "windows"

    def cut(self, tokenizer: Tokenizer, max_length: int, direction: str) -> None:
        """To one window, or into several that overlap."""
        tokenizer.enable_truncation(max_length, stride=max_length // OVERLAP if self.windows else 0, direction=direction)

    def encode(self, tokenizer: Tokenizer, items: Sequence[Item]) -> list[list[Encoding]]:
        """A window, and those into which the rest of a long text goes."""
        encoded = super().encode(tokenizer, items)
        return [[window, *window.overflowing] for (window,) in encoded] if self.windows else encoded

    def combine(self, windows: Sequence[Encoding], outputs: Sequence[Output], item: Item) -> Output:
        """logits_C of a text from those of its windows."""
        logits_WC = np.stack(outputs)
        if self.pooling == "max" or len(logits_WC) == 1:
            return logits_WC.max(axis=0)
        pooled_C = np.average(logits_WC, axis=0, weights=[len(window) for window in windows])
        return pooled_C.astype(logits_WC.dtype)

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
        if label is None or label in self.labels:
            return None
        return "label", f"The model has no label {label!r}; it has {', '.join(self.labels)}"

    def explained_column(self, target: BaseModel, usual: int) -> int:
        """The column of the label that is asked for, or the usual one."""
        label = target.label if isinstance(target, Target) else None
        return usual if label is None else self.labels.index(label)


def label_evidence(probability_N: np.ndarray) -> Sequence[LabelEvidence]:
    """What each part does for a label, from its probability for the whole item, then without each part."""
    odds_N = log_odds(probability_N)
    fell_N = odds_N[0] - odds_N[1:]
    return [LabelEvidence(float(fell), float(left)) for fell, left in zip(fell_N, probability_N[1:], strict=True)]
