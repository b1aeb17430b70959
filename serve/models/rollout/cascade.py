"""A small model answers, and the texts that it is unsure of go on to a large one.

    model = Cascade(small, teacher, CascadeSettings(model="teacher", threshold=0.9))
    model.counts                                       # texts by who answered them

The threshold is fitted on validation (jobs/judging/cascade_threshold.py).
Where the large model gives no answer, the small one's stands.
N items, U of which the small model is unsure.
"""

import logging
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serve.models.model import Model, ModelOutcome
from serve.models.problems import Refusal
from serve.models.rollout.fallible_model import FallibleModel
from serve.settings import CascadeSettings
from serve.tasks.protocol import Item, Outputs

LOGGER = logging.getLogger("ray.serve")


@dataclass(slots=True)
class CascadeCounts:
    """Texts by who answered them."""

    sure: int = 0
    """The small model."""
    passed_on: int = 0
    """The large one."""
    unanswered: int = 0
    """The small model, though unsure: the large one was not there yet, too busy or too late, or failed."""


class Cascade:
    """The default model, with a larger one behind it."""

    def __init__(self, small: Model, large: Model, settings: CascadeSettings) -> None:
        self.small, self.settings = small, settings
        self.large = FallibleModel(large, settings.timeout_seconds)
        self.served, self.task = small.served, small.task
        self.cleaning, self.embeds = small.cleaning, small.embeds
        self.counts = CascadeCounts()
        self._failing = False

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.predict; the outputs of unsure items are the large model's."""
        outcome = await self.small.predict(items)
        unsure_U = np.flatnonzero(self._unsure(outcome.outputs)).tolist()
        self.counts.sure += len(items) - len(unsure_U)
        if not unsure_U:
            return outcome
        if not self.large.there:
            self.counts.unanswered += len(unsure_U)
            return outcome
        try:
            better = await self.large.predict([items[place] for place in unsure_U])
            self._failing = False
        except Exception as error:  # noqa: BLE001  whatever it is, there is an answer, and no client is told
            self.counts.unanswered += len(unsure_U)
            if not self._failing and not isinstance(error, Refusal):
                self._failing = True
                LOGGER.exception(f"{self.settings.model} does not answer; unsure texts keep the small model's answers")
            return outcome
        self.counts.passed_on += len(unsure_U)
        # An array of outputs or a list of them: the small model's own is left as it is.
        outputs: Any = copy(outcome.outputs)
        for place, output in zip(unsure_U, self.task.aligned(better.outputs, self.large.model.task), strict=True):
            outputs[place] = output
        return replace(outcome, outputs=outputs)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.embeddings, of the small model."""
        return await self.small.embeddings(items)

    async def answerers(self, item: Item) -> Sequence[Model]:
        """As Model.answerers: the large model first, where the small one is unsure of the item."""
        outcome = await self.small.predict([item])
        small = await self.small.answerers(item)
        return [self.large.model, *small] if self._unsure(outcome.outputs)[0] and self.large.there else small

    def _unsure(self, outputs: Outputs) -> np.ndarray:
        confidence_N = self.task.confidence(outputs)
        assert confidence_N is not None, "who builds the application has looked"
        return unsure(confidence_N, self.settings.threshold)


def unsure(confidence_N: np.ndarray, threshold: float) -> np.ndarray:
    """For each item whether it goes on: its confidence is below the threshold."""
    return np.asarray(confidence_N < threshold)
