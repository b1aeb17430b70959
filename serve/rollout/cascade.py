"""A small model answers, and the texts that it is unsure of go on to a large one.

    model = Cascade(small, teacher, CascadeSettings(model="teacher", threshold=0.9))
    model.counts                                       # texts by who answered them

The threshold is fitted on validation (jobs/cascade.py). Where the large model gives no answer, the small one's stands.
Shapes: B texts, C classes, U unsure texts.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from serve.answers import softmax
from serve.models import Model, Outcome
from serve.problems import Refusal
from serve.rollout.second import Second
from serve.settings import CascadeSettings

LOGGER = logging.getLogger("ray.serve")


@dataclass(slots=True)
class Counts:
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
        self.large = Second(large, settings.timeout_seconds)
        self.served, self.labels, self.embeds = small.served, small.labels, small.embeds
        self.counts = Counts()
        self._columns = [large.labels.index(label) for label in small.labels]
        self._failing = False

    async def logits(self, texts: Sequence[str]) -> Outcome:
        """As Model.logits; the rows of unsure texts are the large model's."""
        outcome = await self.small.logits(texts)
        unsure_U = np.flatnonzero(unsure(softmax(outcome.values), self.settings.threshold))
        self.counts.sure += len(texts) - len(unsure_U)
        if not len(unsure_U):
            return outcome
        if not self.large.there:
            self.counts.unanswered += len(unsure_U)
            return outcome
        try:
            better = await self.large.logits([texts[int(place)] for place in unsure_U])
            self._failing = False
        except Exception as error:  # noqa: BLE001  whatever it is, there is an answer, and no client is told
            self.counts.unanswered += len(unsure_U)
            if not self._failing and not isinstance(error, Refusal):
                self._failing = True
                LOGGER.exception(f"{self.settings.model} does not answer; unsure texts keep the small model's answers")
            return outcome
        self.counts.passed_on += len(unsure_U)
        values_BC = outcome.values.copy()
        values_BC[unsure_U] = better.values[:, self._columns]
        return replace(outcome, values=values_BC)

    async def embeddings(self, texts: Sequence[str]) -> Outcome:
        """As Model.embeddings, of the small model."""
        return await self.small.embeddings(texts)

    async def answerers(self, text: str) -> Sequence[Model]:
        """As Model.answerers: the large model first, where the small one is unsure of the text."""
        outcome = await self.small.logits([text])
        small = await self.small.answerers(text)
        goes_on = unsure(softmax(outcome.values), self.settings.threshold)[0] and self.large.there
        return [self.large.model, *small] if goes_on else small


def unsure(probabilities_BC: np.ndarray, threshold: float) -> np.ndarray:
    """For each text whether it goes on: its highest probability is below the threshold."""
    return np.asarray(probabilities_BC.max(axis=-1) < threshold)
