"""Ordinal: one of several labels that have an order, for a text or for two texts together. How it answers: logits → a label.

    task = Ordinal(labels=("bad", "fair", "good"))
    task.answers(task.settled(logits_NR, {"temperature": 1.3}), items)[0].label

There is a logit for each step from a label to the next one: whether the text is above it (cumulative logits, McCullagh 1980;
each by an output of its own, Frank & Hall 2001, Niu et al. 2016). So a head of one output fewer than there are labels is all
that a model needs. Nothing keeps what it says of a higher step from being the likelier: the probabilities are put into order
(rearrangement; Chernozhukov, Fernández-Val & Galichon 2010: what is estimated is never further from the truth for it), so that
no label's own, the difference of two of them, is below 0.

What is answered is the highest label that the text more likely than not has reached: the median, which of all labels is the
fewest steps off on average. It need not be the most probable one. What is fitted is a temperature: logits are divided by it
(Guo et al. 2017), and no answer is another for that. N items, C labels, R = C − 1 steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel

from serve.tasks.protocol import Explained, Fitted, Item, Output, Outputs, Task
from serve.tasks.shared.labels import Answer, OneLabelTask, Options, label_evidence
from serve.tasks.shared.probabilities import TEMPERATURE, ranked, sigmoid, wrong_temperature
from serve.tasks.shared.two_texts import TwoTextTask


class Ordinal(TwoTextTask, OneLabelTask):
    """One of several labels that have an order, for a text or a pair of texts; `labels` has them from the lowest on."""

    kind: Literal["ordinal"] = "ordinal"

    summary: ClassVar[str] = "Place texts on a scale"

    @property
    def steps(self) -> int:
        """From a label to the next one."""
        return len(self.labels) - 1

    @property
    def width(self) -> int:
        """A column a step."""
        return self.steps

    def stacked(self, outputs: Sequence[Output]) -> Outputs:
        """logits_NR, be N 0."""
        return np.stack(outputs) if len(outputs) else np.zeros((0, self.steps), np.float32)

    def wrong_output(self, output: Output) -> str | None:
        """Logits have a column a step."""
        if output.shape != (self.steps,):
            return f"it has the shape {output.shape}, and the task has {len(self.labels)} labels, which are {self.steps} steps"
        return None

    def wrong_fitted(self, fitted: Fitted) -> str | None:
        """A temperature above 0 may be."""
        return wrong_temperature(fitted)

    def settled(self, outputs: Outputs, fitted: Fitted) -> Outputs:
        """Logits that fall from step to step, by the temperature."""
        return _ordered(outputs) / np.float32(fitted.get(TEMPERATURE, 1.0))

    def probabilities(self, outputs: Outputs) -> np.ndarray:
        """probability_NC of each label, of settled outputs and of those that are not yet."""
        above_NR = sigmoid(_ordered(outputs))
        ends = np.ones((len(above_NR), 1)), np.zeros((len(above_NR), 1))
        return -np.diff(np.concatenate([ends[0], above_NR, ends[1]], axis=1), axis=1)

    def places(self, outputs: Outputs) -> np.ndarray:
        """places_N of the labels that are answered, from 0."""
        return np.asarray((np.asarray(outputs) > 0).sum(axis=-1))

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """The median label of each."""
        if not len(outputs):
            return []
        top_k = options.top_k if isinstance(options, Options) else None
        both = zip(self.probabilities(outputs).tolist(), self.places(outputs).tolist(), strict=True)
        return [Answer(self.labels[place], row[place], ranked(row, self.labels, top_k)) for row, place in both]

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """The probability of the label that is answered."""
        if not len(outputs):
            return np.zeros(0)
        return np.take_along_axis(self.probabilities(outputs), self.places(outputs)[:, None], axis=-1)[:, 0]

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        """Whether the label is the same."""
        return np.asarray(self.places(left) == self.places(right))

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        """The largest change of a probability."""
        return np.abs(self.probabilities(left) - self.probabilities(right)).max(axis=-1, initial=0.0)

    def said(self, outputs: Outputs) -> list[str]:
        """The label."""
        return [self.labels[place] for place in self.places(outputs).tolist()] if len(outputs) else []

    def unlike(self, other: Task) -> str | None:
        """The same labels in another order are another task."""
        reason = super().unlike(other)
        if reason is None and isinstance(other, Ordinal) and other.labels != self.labels:
            return "they have the same labels in another order"
        return reason

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        """By how much the label's log-odds fall where a part is left out."""
        column = self.explained_column(target, int(self.places(outputs)[0]))
        probability_N = self.probabilities(outputs)[:, column]
        return Explained({"label": self.labels[column], "probability": float(probability_N[0])}, label_evidence(probability_N))

    def goodness(self, answer: Mapping[str, Any], right: Mapping[str, Any]) -> float:
        """1 for the label, 0 from one end of the order to the other."""
        said, wanted = (self.labels.index(one["label"]) for one in (answer, right))
        return 1 - abs(said - wanted) / self.steps


TASK = Ordinal


def _ordered(outputs: Outputs) -> np.ndarray:
    """logits_NR, from the highest on."""
    logits_NR = np.asarray(outputs)
    return -np.sort(-logits_NR, axis=-1) if len(logits_NR) else logits_NR
