"""Classification: one label for a text, or for two texts together. How it answers: logits → labels with probabilities.

    task = Classification(labels=("ham", "spam"))
    task.answers(task.settled(logits_NC, {"temperature": 1.3}), items, Options(top_k=1))[0].label

What is fitted is a temperature: logits are divided by it before they become probabilities, so that those hold (Guo et al.
2017); and the thresholds of what decides besides them (serve/tasks/shared/decisions.py). Where something does, a settled
output has a second row, the worths: what is answered has the highest. Otherwise it is the logits alone.

N items, C classes, K what may be answered: C, with `none` one more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel

from serve.tasks.protocol import Explained, Fitted, Item, Output, Outputs
from serve.tasks.shared.decisions import DecidingTask
from serve.tasks.shared.labels import LOGITS, THRESHOLD, Answer, Options, label_evidence
from serve.tasks.shared.probabilities import TEMPERATURE, LabelProbability, ranked, softmax, wrong_temperature
from serve.tasks.shared.two_texts import TwoTextTask

WORTHS = 1
"""The row of a settled output that says what is decided."""


@dataclass(frozen=True, slots=True)
class ScopedAnswer:
    """The label of a text or that it has none of them, and the most probable labels, the first first."""

    label: str
    """Of a text that is out of scope what such texts are told of as."""
    in_scope: bool
    """Whether it is given a label."""
    probability: float
    """Of the label; where none is given of the most probable one, which was not enough."""
    probabilities: tuple[LabelProbability, ...]


class Classification(TwoTextTask, DecidingTask):
    """One label for a text, or for a pair of texts."""

    kind: Literal["classification"] = "classification"

    summary: ClassVar[str] = "Classify texts"

    @property
    def Answer(self) -> type:  # type: ignore[override]  # noqa: N802  what tasks of this kind say depends on what they decide
        """What goes out."""
        return Answer if self.none is None else ScopedAnswer

    def stacked(self, outputs: Sequence[Output]) -> Outputs:
        """logits_NC, or settled_N2K; be N 0."""
        return np.stack(outputs) if len(outputs) else np.zeros((0, len(self.labels)), np.float32)

    def wrong_output(self, output: Output) -> str | None:
        """Logits have a column a label."""
        if output.shape != (len(self.labels),):
            return f"it has the shape {output.shape}, and the task has {len(self.labels)} labels"
        return None

    def wrong_fitted(self, fitted: Fitted) -> str | None:
        """A temperature above 0 may be, and thresholds."""
        others = {name: number for name, number in fitted.items() if not name.startswith(THRESHOLD)}
        return wrong_temperature(others) or self.wrong_threshold(fitted)

    def settled(self, outputs: Outputs, fitted: Fitted) -> Outputs:
        """Logits whose softmax is what is answered; where the task decides otherwise, settled_N2K."""
        logits_NC = np.asarray(outputs) / np.float32(fitted.get(TEMPERATURE, 1.0))
        if not self.decides:
            return logits_NC
        worths_NK = self.worths(logits_NC, fitted)
        missing_NX = np.full((len(logits_NC), worths_NK.shape[1] - logits_NC.shape[1]), -np.inf)
        return np.stack([np.concatenate([logits_NC, missing_NX], axis=1), worths_NK], axis=1)

    def decided(self, outputs: Outputs) -> np.ndarray:
        """The place of each answer among `sayings`; of outputs that are not settled, of the most probable label. Of equals the
        first one."""
        found = np.asarray(outputs)
        return np.asarray((found if found.ndim == 2 else found[:, WORTHS]).argmax(axis=-1))

    def logits(self, outputs: Outputs) -> np.ndarray:
        """logits_NC, of settled outputs and of those that are not yet."""
        found = np.asarray(outputs)
        return found if found.ndim == 2 else found[:, LOGITS, : len(self.labels)]

    def answers(self, outputs: Outputs, items: Sequence[Item], options: BaseModel | None = None) -> list[Any]:
        """The label of each."""
        if not len(outputs):
            return []
        top_k = options.top_k if isinstance(options, Options) else None
        each = zip(self._probabilities(outputs).tolist(), self.decided(outputs).tolist(), strict=True)
        return [self._answer(probabilities, place, top_k) for probabilities, place in each]

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """The probability of the label; where none is given, the highest one."""
        return np.take_along_axis(self._probabilities(outputs), self._columns(outputs), axis=-1)[:, 0]

    def same(self, left: Outputs, right: Outputs) -> np.ndarray:
        """Whether the label is the same."""
        return np.asarray(self.decided(left) == self.decided(right))

    def distance(self, left: Outputs, right: Outputs) -> np.ndarray:
        """The largest change of a probability."""
        return np.abs(self._probabilities(left) - self._probabilities(right)).max(axis=-1, initial=0.0)

    def gap(self, left: Outputs, right: Outputs) -> np.ndarray:
        """The change of the probability of the label that the first one gives."""
        moved_NC = self._probabilities(left) - self._probabilities(right)
        return np.abs(np.take_along_axis(moved_NC, self._columns(left), axis=-1))[:, 0]

    def said(self, outputs: Outputs) -> list[str]:
        """The label."""
        sayings = self.sayings
        return [sayings[place] for place in self.decided(outputs).tolist()]

    def evidence(self, outputs: Outputs, items: Sequence[Item], target: BaseModel) -> Explained:
        """By how much the label's log-odds fall where a part is left out."""
        column = self.explained_column(target, int(self._columns(outputs)[0, 0]))
        probability_N = self._probabilities(outputs)[:, column]
        whole = {"label": self.labels[column], "probability": float(probability_N[0])}
        return Explained(whole, label_evidence(probability_N))

    def told(self, answer: Mapping[str, Any]) -> str:
        """The label, and how sure it is."""
        return str(answer["label"]) if answer.get("in_scope") is False else super().told(answer)

    def _probabilities(self, outputs: Outputs) -> np.ndarray:
        return softmax(self.logits(outputs))

    def _columns(self, outputs: Outputs) -> np.ndarray:
        """columns_N1: that of each label, where none is given of the most probable one."""
        places_N = self.decided(outputs)
        likeliest_N = self.logits(outputs).argmax(axis=-1)
        return np.asarray(np.where(places_N < len(self.labels), places_N, likeliest_N))[:, None]

    def _answer(self, probabilities: list[float], place: int, top_k: int | None) -> Any:
        listed, given = ranked(probabilities, self.labels, top_k), place < len(self.labels)
        label, probability = self.sayings[place], probabilities[place] if given else listed[0].probability
        if self.none is None:
            return Answer(label, probability, listed)
        return ScopedAnswer(label, given, probability, listed)


TASK = Classification
