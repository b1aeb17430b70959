"""A long list of texts over the replicas of its model: no single one makes its caller wait for all of it.

    model = Spread(local, siblings, replicas=lambda: 4)        # a part here, the others by siblings
    model = Bulk(model, gpu, from_texts=16)                    # long lists go to other hardware as a whole

Shapes: B texts.
"""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from serve.models import Model, Outcome

PART_TEXTS = 32
"""Fewer texts than that are not worth a hop to another replica."""


class Spread:
    """A model whose long lists are answered in parts, one here and the others by its siblings."""

    def __init__(self, here: Model, siblings: Model, replicas: Callable[[], int]) -> None:
        self.here, self.siblings, self.replicas = here, siblings, replicas
        self.served, self.labels, self.embeds = here.served, here.labels, here.embeds

    async def logits(self, texts: Sequence[str]) -> Outcome:
        """As Model.logits."""
        parts = self._parts(texts)
        return (
            await self.here.logits(texts)
            if len(parts) == 1
            else _joined(await asyncio.gather(self.here.logits(parts[0]), *map(self.siblings.logits, parts[1:])))
        )

    async def embeddings(self, texts: Sequence[str]) -> Outcome:
        """As Model.embeddings."""
        parts = self._parts(texts)
        return (
            await self.here.embeddings(texts)
            if len(parts) == 1
            else _joined(await asyncio.gather(self.here.embeddings(parts[0]), *map(self.siblings.embeddings, parts[1:])))
        )

    async def answerers(self, text: str) -> Sequence[Model]:
        """As Model.answerers."""
        return [self]

    def _parts(self, texts: Sequence[str]) -> list[Sequence[str]]:
        """As many parts of like size as there are replicas, or fewer."""
        count = max(1, min(self.replicas(), len(texts) // PART_TEXTS))
        edges = [len(texts) * number // count for number in range(count + 1)]
        return [texts[start:end] for start, end in zip(edges, edges[1:], strict=False)]


class Bulk:
    """A model with replicas on other hardware too, which long lists go to."""

    def __init__(self, usual: Model, bulk: Model, from_texts: int) -> None:
        self.usual, self.bulk, self.from_texts = usual, bulk, from_texts
        self.served, self.labels, self.embeds = usual.served, usual.labels, usual.embeds

    async def logits(self, texts: Sequence[str]) -> Outcome:
        """As Model.logits."""
        return await self._for(texts).logits(texts)

    async def embeddings(self, texts: Sequence[str]) -> Outcome:
        """As Model.embeddings."""
        return await self._for(texts).embeddings(texts)

    async def answerers(self, text: str) -> Sequence[Model]:
        """As Model.answerers: of a single text never the other hardware, whose variant may be another one."""
        return await self.usual.answerers(text)

    def _for(self, texts: Sequence[str]) -> Model:
        return self.bulk if len(texts) >= self.from_texts else self.usual


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    values = np.concatenate([outcome.values for outcome in outcomes])
    lengths = [length for outcome in outcomes for length in outcome.lengths]
    return Outcome(values, outcomes[0].model, max(outcome.batch_requests for outcome in outcomes), lengths)
