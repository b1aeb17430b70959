"""A model in this very process: an engine, and what collects texts for it.

model = LocalModel(load_engine(directory, "int8"), ServedModel(name="spam", …), settings)
outcome = await model.predict([Item(("Win a prize now",))])
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from serve.engines.base import Engine
from serve.models.batching import Batcher, Full, Work
from serve.models.model import Model, ModelOutcome, ServedModel
from serve.models.problems import FieldError, Refusal
from serve.settings import ModelSettings
from serve.tasks.protocol import Item, Output

RETRY_AFTER_SECONDS = 1


class LocalModel:
    """An engine that answers concurrent requests on one event loop."""

    def __init__(self, engine: Engine, served: ServedModel, settings: ModelSettings) -> None:
        self.engine, self.served, self.task = engine, served, engine.task
        self.cleaning, self.embeds = engine.card.cleaning, engine.embeds
        # One thread: a forward pass uses all the threads that it was given, and the event loop stays free meanwhile.
        self._executor = executor = ThreadPoolExecutor(1, thread_name_prefix="engine")
        waits = settings.batch_wait_seconds, settings.cache_texts, settings.max_waiting_texts
        predict = Work(engine.tokenise, engine.run, engine.joined)
        embed = Work(engine.tokenise, engine.embed, engine.joined_vectors)
        self.outputs_batcher = Batcher(predict, engine.budget, executor, *waits)
        self.embeddings_batcher = Batcher(embed, engine.budget, executor, *waits)

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.predict; Refusal 503 when too many items wait."""
        outputs, requests, lengths = await self._ask(self.outputs_batcher, items)
        return ModelOutcome(self.task.stacked(outputs), self.served, requests, lengths)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.embeddings; Refusal 409 where the variant gives no hidden states."""
        if not self.embeds:
            raise no_embeddings(self.served, self.engine.card.is_bag)
        vectors, requests, lengths = await self._ask(self.embeddings_batcher, items)
        return ModelOutcome(np.stack(vectors), self.served, requests, lengths)

    async def answerers(self, item: Item) -> Sequence[Model]:
        """As Model.answerers."""
        return [self]

    async def check(self) -> None:
        """Run one item past everyone who waits, and leave no trace of it; raises what the engine raises."""
        probe = [Item(("a",) * len(self.task.fields))]
        await asyncio.get_running_loop().run_in_executor(self._executor, self.engine.outputs, probe)

    async def _ask(self, batcher: Batcher, items: Sequence[Item]) -> tuple[list[Output], int, list[int]]:
        try:
            return await batcher(items)
        except Full:
            raise overloaded() from None


def overloaded() -> Refusal:
    """The refusal of a request that finds the queue full."""
    return Refusal(503, "Too many requests wait; try again later", headers={"retry-after": str(RETRY_AFTER_SECONDS)})


def no_embeddings(served: ServedModel, is_bag: bool) -> Refusal:
    """The refusal of embeddings that a variant cannot give."""
    remedy = (
        "it is a model of words and their weights: serve a transformer beside it, and name that in `model`"
        if is_bag
        else "compress it with `embeddings: true`, or serve its torch variant"
    )
    message = f"The variant {served.variant} of {served.name} gives no hidden states; {remedy}"
    return Refusal(409, "This model has no embeddings", [FieldError(field="model", message=message)])
