"""Classification: one label for a text, or for two texts together. How it answers: logits → labels with probabilities.

    task = Classification(labels=("ham", "spam"))
    task.answers(task.settled(logits_NC, {"temperature": 1.3}), items, Options(top_k=1))[0].label

What is fitted is a temperature: logits are divided by it before they become probabilities, so that those hold (Guo et al.
2017). N items, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serve.tasks.protocol import Explained, Fitted, Item, Output, Outputs, View
from serve.tasks.shared.labels import LabelledTask, label_evidence
from serve.tasks.shared.probabilities import LabelProbability, ranked, softmax

TEMPERATURE = "temperature"


@dataclass(frozen=True, slots=True)
class Answer:
    """The most probable label of a text, and the most probable ones, the first first."""

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


class Classification(LabelledTask):
    """One label for a text, or for a pair of texts."""

    kind: Literal["classification"] = "classification"
    pairs: bool = False
    """Whether an item has two texts."""

    Options: ClassVar = Options
    Answer: ClassVar = Answer
    Whole: ClassVar = Whole
    view: ClassVar[View] = "labels"
    summary: ClassVar[str] = "Classify texts"

    @property
    def fields(self) -> tuple[str, ...]:
        """text, and of pairs pair."""
        return ("text", "pair") if self.pairs else ("text",)

    def stacked(self, outputs: Sequence[Output]) -> Outputs:
        """logits_NC, be N 0."""
        return np.stack(outputs) if len(outputs) else np.zeros((0, len(self.labels)), np.float32)

    def wrong_output(self, output: Output) -> str | None:
        """Logits have a column a label."""
        if output.shape != (len(self.labels),):
            return f"it has the shape {output.shape}, and the task has {len(self.labels)} labels"
        return None

    def wrong_fitted(self, fitted: Fitted) -> str | None:
        """A temperature above 0 may be."""
        if unknown := sorted(set(fitted) - {TEMPERATURE}):
            return f"{unknown[0]} is none of what is fitted for it: {TEMPERATURE}"
        return (
            None if fitted.get(TEMPERATURE, 1.0) > 0 else f"its temperature is {fitted[TEMPERATURE]:g}, which is not above 0"
        )

    def settled(self, outputs: Outputs, fitted: Fitted) -> Outputs:
        """Logits whose softmax is what is answered."""
        return np.asarray(outputs) / np.float32(fitted.get(TEMPERATURE, 1.0))

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """The most probable label of each; of equals the first column wins."""
        if not len(outputs):
            return []
        top_k = options.top_k if isinstance(options, Options) else None
        return [_answer(row, self.labels, top_k) for row in softmax(np.asarray(outputs)).tolist()]

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """The highest probability."""
        return softmax(np.asarray(outputs)).max(axis=-1, initial=0.0)

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        """Whether the most probable label is the same."""
        return np.asarray(np.asarray(left).argmax(axis=-1) == np.asarray(right).argmax(axis=-1))

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        """The largest change of a probability."""
        return np.abs(softmax(np.asarray(left)) - softmax(np.asarray(right))).max(axis=-1, initial=0.0)

    def gap(self, left: Outputs, right: Outputs) -> np.ndarray:
        """The change of the probability of the label that the first one gives."""
        columns_N1 = np.asarray(left).argmax(axis=-1)[:, None]
        given_NC, other_NC = softmax(np.asarray(left)), softmax(np.asarray(right))
        return np.abs(np.take_along_axis(given_NC - other_NC, columns_N1, axis=-1))[:, 0]

    def said(self, outputs: Outputs) -> list[str]:
        """The most probable label."""
        return [self.labels[column] for column in np.asarray(outputs).argmax(axis=-1).tolist()]

    @property
    def sayings(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        """By how much the label's log-odds fall where a part is left out."""
        logits_NC = np.asarray(outputs)
        column = self.explained_column(target, logits_NC[0])
        probability_N = softmax(logits_NC)[:, column]
        whole = {"label": self.labels[column], "probability": float(probability_N[0])}
        return Explained(whole, label_evidence(probability_N))

    def right_example(self) -> str:
        """A label."""
        return self.labels[0]

    def right(self, said: Any) -> dict[str, Any]:
        """The label."""
        return {"label": self.known_label(said)}

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


TASK = Classification


def _answer(probabilities: list[float], labels: Sequence[str], top_k: int | None) -> Answer:
    listed = ranked(probabilities, labels, top_k)
    return Answer(listed[0].label, listed[0].probability, listed)
