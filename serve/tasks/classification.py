"""Classification: one label for a text, or for two texts together. How it answers: logits → labels with probabilities.

    task = Classification(labels=("ham", "spam"))
    task.answers(task.settled(logits_NC, {"temperature": 1.3}), items, Options(top_k=1))[0].label

What is fitted is a temperature: logits are divided by it before they become probabilities, so that those hold (Guo et al.
2017). N items, C classes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel

from serve.tasks.protocol import Explained, Fitted, Item, Output, Outputs
from serve.tasks.shared.labels import Answer, OneLabelTask, Options, label_evidence
from serve.tasks.shared.probabilities import TEMPERATURE, ranked, softmax, wrong_temperature
from serve.tasks.shared.two_texts import TwoTextTask


class Classification(TwoTextTask, OneLabelTask):
    """One label for a text, or for a pair of texts."""

    kind: Literal["classification"] = "classification"

    summary: ClassVar[str] = "Classify texts"

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
        return wrong_temperature(fitted)

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

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        """By how much the label's log-odds fall where a part is left out."""
        logits_NC = np.asarray(outputs)
        column = self.explained_column(target, logits_NC[0])
        probability_N = softmax(logits_NC)[:, column]
        whole = {"label": self.labels[column], "probability": float(probability_N[0])}
        return Explained(whole, label_evidence(probability_N))


TASK = Classification


def _answer(probabilities: list[float], labels: Sequence[str], top_k: int | None) -> Answer:
    listed = ranked(probabilities, labels, top_k)
    return Answer(listed[0].label, listed[0].probability, listed)
