"""Several labels for a text, or none. How it answers: a logit a label → those that are likelier than their thresholds.

    task = MultiLabel(labels=("anger", "joy", "love"))
    task.answers(task.settled(logits_NC, {"threshold joy": 0.3}), items, Options(top_k=2))[0].labels       # ("joy", "love")

What is fitted is a threshold a label: the probability from which on it is given, a half without one. A settled output holds
the logits and, below them, by how much the log-odds are above the threshold's. N items, C labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.tasks.protocol import Explained, Fitted, Item, Output, Outputs, View
from serve.tasks.shared.labels import LOGITS, THRESHOLD, LabelledTask, label_evidence
from serve.tasks.shared.probabilities import LabelProbability, log_odds, ranked, sigmoid

NONE_OF_THEM = "no label"
"""How a text without any is told of."""
MARGINS = 1
"""The row of a settled output that says by how much a label is above its threshold."""


@dataclass(frozen=True, slots=True)
class LabelsAnswer:
    """The labels that a text is given, the most probable first, and the most probable ones, given or not."""

    labels: tuple[str, ...]
    probabilities: tuple[LabelProbability, ...]


class LabelsOptions(BaseModel):
    """What may be asked of the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    top_k: Annotated[int, Field(strict=True, ge=1)] = 5
    """How many labels to list with their probability for each text, the most probable first; all when the model has fewer.
    Those that a text is given are all named, whatever this is."""


@dataclass(frozen=True, slots=True)
class WholeLabel:
    """The label that is explained, its probability, and whether the text is given it."""

    label: str
    probability: float
    given: bool


class MultiLabel(LabelledTask):
    """Any number of labels for a text."""

    kind: Literal["multi_label"] = "multi_label"

    Options: ClassVar = LabelsOptions
    Answer: ClassVar = LabelsAnswer
    Whole: ClassVar = WholeLabel
    view: ClassVar[View] = "list"
    summary: ClassVar[str] = "Give texts their labels"

    @model_validator(mode="after")
    def _none_is_no_label(self) -> Self:
        if NONE_OF_THEM in self.labels:
            raise ValueError(f"{NONE_OF_THEM!r} is what a text without labels is told of as; rename this label")
        return self

    def stacked(self, outputs: Sequence[Output]) -> Outputs:
        """logits_NC, or settled_N2C; be N 0."""
        return np.stack(outputs) if len(outputs) else np.zeros((0, len(self.labels)), np.float32)

    def wrong_output(self, output: Output) -> str | None:
        """Logits have a column a label."""
        if output.shape != (len(self.labels),):
            return f"it has the shape {output.shape}, and the task has {len(self.labels)} labels"
        return None

    def wrong_fitted(self, fitted: Fitted) -> str | None:
        """Thresholds of its labels, between 0 and 1, may be."""
        known = {f"{THRESHOLD}{label}" for label in self.labels}
        if unknown := sorted(set(fitted) - known):
            return f"{unknown[0]} is none of what is fitted for it: thresholds of its labels"
        outside = [f"the {name} is {value:g}" for name, value in fitted.items() if not 0 < value < 1]
        return f"{outside[0]}, which is not between 0 and 1" if outside else None

    def settled(self, outputs: Outputs, fitted: Fitted) -> Outputs:
        """settled_N2C: the logits, and how far above its threshold each label is."""
        logits_NC = np.asarray(outputs)
        least_C = np.array([fitted.get(f"{THRESHOLD}{label}", 0.5) for label in self.labels])
        return np.stack([logits_NC, logits_NC - log_odds(least_C).astype(logits_NC.dtype)], axis=-2)

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """The labels of each, the most probable first."""
        if not len(outputs):
            return []
        top_k = options.top_k if isinstance(options, LabelsOptions) else None
        both = zip(self._probabilities(outputs).tolist(), given(outputs).tolist(), strict=True)
        return [self._answer(probabilities, chosen, top_k) for probabilities, chosen in both]

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """How sure the least sure of its decisions is, a label: given or not."""
        if not len(outputs):
            return np.zeros(0)
        probability_NC = self._probabilities(outputs)
        return np.asarray(np.where(given(outputs), probability_NC, 1 - probability_NC).min(axis=-1, initial=1.0))

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        """Whether all labels are the same."""
        return np.asarray((given(left) == given(right)).all(axis=-1))

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        """The largest change of a probability."""
        return np.abs(self._probabilities(left) - self._probabilities(right)).max(axis=-1, initial=0.0)

    def said(self, outputs: Outputs) -> list[str]:
        """The first label in the order of the task, so that each text counts once."""
        return [self.first(chosen) for chosen in given(outputs).tolist()] if len(outputs) else []

    def first(self, chosen_C: Sequence[Any]) -> str:
        """The first of the labels for which there is a yes."""
        return next((label for label, yes in zip(self.labels, chosen_C, strict=True) if yes), NONE_OF_THEM)

    @property
    def sayings(self) -> tuple[str, ...]:
        """The labels, and that there is none."""
        return (*self.labels, NONE_OF_THEM)

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        """By how much the label's log-odds fall where a part is left out."""
        logits_NC = np.asarray(outputs)[:, LOGITS]
        column = self.explained_column(target, int(logits_NC[0].argmax()))
        probability_N = sigmoid(logits_NC[:, column])
        whole = {
            "label": self.labels[column],
            "probability": float(probability_N[0]),
            "given": bool(given(outputs)[0, column]),
        }
        return Explained(whole, label_evidence(probability_N))

    def right_example(self) -> list[str]:
        """A label; others, or none, may be right."""
        return [self.labels[0]]

    def right(self, said: Any) -> dict[str, Any]:
        """The labels, each once, in the order of the task."""
        if not isinstance(said, list):
            raise ValueError(f"Give a list of labels, which may be empty; there are {', '.join(self.labels)}")
        named = {self.known_label(label) for label in said}
        return {"labels": [label for label in self.labels if label in named]}

    def goodness(self, answer: Mapping[str, Any], right: Mapping[str, Any]) -> float:
        """F1 of its labels; of none where none is right, 1."""
        both = len(set(answer["labels"]) & set(right["labels"]))
        count = len(answer["labels"]) + len(right["labels"])
        return 2 * both / count if count else 1.0

    def columns(self, wide: bool) -> dict[str, type]:
        """The labels; with `wide` each one's probability."""
        return {"predicted": list} | ({f"probability_{label}": float for label in self.labels} if wide else {})

    def cells(self, answer: Any, wide: bool) -> dict[str, Any]:
        """As the columns say."""
        each = {f"probability_{one.label}": one.probability for one in answer.probabilities} if wide else {}
        return {"predicted": list(answer.labels), **each}

    def brief(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The labels."""
        return {"labels": list(answer["labels"])}

    def told(self, answer: Mapping[str, Any]) -> str:
        """The labels."""
        return ", ".join(answer["labels"]) or NONE_OF_THEM

    def _probabilities(self, outputs: Outputs) -> np.ndarray:
        """probability_NC, of settled outputs and of those that are not yet."""
        found = np.asarray(outputs)
        return sigmoid(found if found.ndim == 2 else found[:, LOGITS])

    def _answer(self, probabilities: list[float], chosen: list[bool], top_k: int | None) -> LabelsAnswer:
        listed = ranked(probabilities, self.labels, None)
        yes = {label for label, one in zip(self.labels, chosen, strict=True) if one}
        return LabelsAnswer(tuple(one.label for one in listed if one.label in yes), listed[:top_k])


TASK = MultiLabel


def given(settled: Outputs) -> np.ndarray:
    """given_NC: whether each label is above its threshold."""
    return np.asarray(settled)[:, MARGINS] > 0
