"""What kinds whose outputs have a column a label say alike: which labels there are, in which order, and why one is likely; and
how a text that is longer than the model reads at once is read whole, in windows.

W windows, C labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Encoding, Tokenizer

from serve.tasks.protocol import Evidence, Item, Output, Outputs, Task, View
from serve.tasks.shared.probabilities import LabelProbability, log_odds

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

    @property
    def width(self) -> int:
        """A column a label."""
        return len(self.labels)

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

    def known_label(self, said: Any, known: Sequence[str] = ()) -> str:
        """A label that somebody names, one of the task's or of what is `known` instead; ValueError names those that there
        are."""
        known = known or self.labels
        if isinstance(said, str) and said in known:
            return said
        raise ValueError(f"The model has no label {said!r}; it has {', '.join(known)}")

    def explained_column(self, target: BaseModel, usual: int) -> int:
        """The column of the label that is asked for, or the usual one."""
        label = target.label if isinstance(target, Target) else None
        return usual if label is None else self.labels.index(label)


@dataclass(frozen=True, slots=True)
class Answer:
    """The label of a text with its probability, and the most probable ones, the first first."""

    label: str
    probability: float
    probabilities: tuple[LabelProbability, ...]


class Options(BaseModel):
    """What may be asked of the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    top_k: Annotated[int, Field(strict=True, ge=1)] = 5
    """How many labels to list for each text, the most probable first; all when the model has fewer."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The label that is explained, and its probability."""

    label: str
    probability: float


class OneLabelTask(LabelledTask):
    """A task whose answers are one label each."""

    Options: ClassVar = Options
    Answer: ClassVar = Answer
    Whole: ClassVar = Whole
    view: ClassVar[View] = "labels"

    @property
    def sayings(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    @property
    def choices(self) -> tuple[str, ...]:
        """All that may be answered."""
        return self.sayings

    def right_example(self) -> str:
        """A label."""
        return self.labels[0]

    def right(self, said: Any) -> dict[str, Any]:
        """The label."""
        return {"label": self.known_label(said, self.choices)}

    def goodness(self, answer: Mapping[str, Any], right: Mapping[str, Any]) -> float:
        """Whether it is the label."""
        return float(answer["label"] == right["label"])

    def columns(self, wide: bool) -> dict[str, type]:
        """The label and its probability; with `wide` each label's."""
        each = {f"probability_{label}": float for label in self.labels} if wide else {}
        return {"predicted": str, "probability": float, **each}

    def cells(self, answer: Any, wide: bool) -> dict[str, Any]:
        """As the columns say."""
        each = {f"probability_{one.label}": one.probability for one in answer.probabilities} if wide else {}
        return {"predicted": answer.label, "probability": answer.probability, **each}

    def told(self, answer: Mapping[str, Any]) -> str:
        """The label, and how sure it is."""
        return f"{answer['label']} ({answer['probability']:.1%})"


def label_evidence(probability_N: np.ndarray) -> Sequence[LabelEvidence]:
    """What each part does for a label, from its probability for the whole item, then without each part."""
    odds_N = log_odds(probability_N)
    fell_N = odds_N[0] - odds_N[1:]
    return [LabelEvidence(float(fell), float(left)) for fell, left in zip(fell_N, probability_N[1:], strict=True)]
