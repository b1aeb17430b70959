"""A long list of texts over the replicas of its model: no single one makes its caller wait for all of it.

model = Spread(local, siblings, replicas=lambda: 4)        # a part here, the others by siblings
model = Bulk(model, gpu, from_texts=16)                    # long lists go to other hardware as a whole
"""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from serve.models.model import Model, ModelOutcome
from serve.tasks.protocol import Item, Outputs

PART_TEXTS = 32
"""Fewer texts than that are not worth a hop to another replica."""


class Spread:
    """A model whose long lists are answered in parts, one here and the others by its siblings."""

    def __init__(self, here: Model, siblings: Model, replicas: Callable[[], int]) -> None:
        self.here, self.siblings, self.replicas = here, siblings, replicas
        self.served, self.task = here.served, here.task
        self.cleaning, self.embeds = here.cleaning, here.embeds

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.predict."""
        parts = self._parts(items)
        return (
            await self.here.predict(items)
            if len(parts) == 1
            else _joined(await asyncio.gather(self.here.predict(parts[0]), *map(self.siblings.predict, parts[1:])))
        )

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.embeddings."""
        parts = self._parts(items)
        return (
            await self.here.embeddings(items)
            if len(parts) == 1
            else _joined(await asyncio.gather(self.here.embeddings(parts[0]), *map(self.siblings.embeddings, parts[1:])))
        )

    async def answerers(self, item: Item) -> Sequence[Model]:
        """As Model.answerers."""
        return [self]

    def _parts(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """As many parts of like size as there are replicas, or fewer."""
        count = max(1, min(self.replicas(), len(items) // PART_TEXTS))
        edges = [len(items) * number // count for number in range(count + 1)]
        return [items[start:end] for start, end in zip(edges, edges[1:], strict=False)]


class Bulk:
    """A model with replicas on other hardware too, which long lists go to."""

    def __init__(self, usual: Model, bulk: Model, from_texts: int) -> None:
        self.usual, self.bulk, self.from_texts = usual, bulk, from_texts
        self.served, self.task = usual.served, usual.task
        self.cleaning, self.embeds = usual.cleaning, usual.embeds

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.predict."""
        return await self._for(items).predict(items)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.embeddings."""
        return await self._for(items).embeddings(items)

    async def answerers(self, item: Item) -> Sequence[Model]:
        """As Model.answerers: of a single text never the other hardware, whose variant may be another one."""
        return await self.usual.answerers(item)

    def _for(self, items: Sequence[Item]) -> Model:
        return self.bulk if len(items) >= self.from_texts else self.usual


def _joined(outcomes: Sequence[ModelOutcome]) -> ModelOutcome:
    parts = [outcome.outputs for outcome in outcomes]
    dense = isinstance(parts[0], np.ndarray)
    outputs: Outputs = np.concatenate(parts) if dense else [output for part in parts for output in part]
    lengths = [length for outcome in outcomes for length in outcome.lengths]
    return ModelOutcome(outputs, outcomes[0].model, max(outcome.batch_requests for outcome in outcomes), lengths)
