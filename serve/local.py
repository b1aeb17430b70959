"""A model in this very process: an engine, and what collects texts for it.

model = LocalModel(load_engine(directory, "int8"), ServedModel(name="spam", …), settings)
outcome = await model.logits(["Win a prize now"])
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from serve.batching import Batcher, Full
from serve.engine import Engine
from serve.models import Model, Outcome
from serve.problems import FieldError, Refusal
from serve.schema import ServedModel
from serve.settings import ModelSettings

RETRY_AFTER_SECONDS = 1


class LocalModel:
    """An engine that answers concurrent requests on one event loop."""

    def __init__(self, engine: Engine, served: ServedModel, settings: ModelSettings) -> None:
        self.engine, self.served, self.labels = engine, served, engine.card.labels
        self.embeds = engine.backend.embeds
        # One thread: a forward pass uses all the threads that it was given, and the event loop stays free meanwhile.
        self._executor = executor = ThreadPoolExecutor(1, thread_name_prefix="engine")
        waits = settings.batch_wait_seconds, settings.cache_texts, settings.max_waiting_texts
        self.logits_batcher = Batcher(engine.tokenise, engine.scaled_forward, engine.budget, executor, *waits)
        self.embeddings_batcher = Batcher(engine.tokenise, engine.embed, engine.budget, executor, *waits)

    async def logits(self, texts: Sequence[str]) -> Outcome:
        """As Model.logits; Refusal 503 when too many texts wait."""
        return await self._ask(self.logits_batcher, texts)

    async def embeddings(self, texts: Sequence[str]) -> Outcome:
        """As Model.embeddings; Refusal 409 where the variant gives no hidden states."""
        if not self.embeds:
            raise no_embeddings(self.served)
        return await self._ask(self.embeddings_batcher, texts)

    async def answerers(self, text: str) -> Sequence[Model]:
        """As Model.answerers."""
        return [self]

    async def check(self) -> None:
        """Run one text past everyone who waits, and leave no trace of it; raises what the engine raises."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self.engine.logits, ["a"])

    async def _ask(self, batcher: Batcher, texts: Sequence[str]) -> Outcome:
        try:
            values, requests, lengths = await batcher(texts)
        except Full:
            raise overloaded() from None
        return Outcome(values, self.served, requests, lengths)


def overloaded() -> Refusal:
    """The refusal of a request that finds the queue full."""
    return Refusal(503, "Too many requests wait; try again later", headers={"retry-after": str(RETRY_AFTER_SECONDS)})


def no_embeddings(served: ServedModel) -> Refusal:
    """The refusal of embeddings that a variant cannot give."""
    message = (
        f"The variant {served.variant} of {served.name} gives no hidden states; compress it with `embeddings: true`, or "
        "serve its torch variant"
    )
    return Refusal(409, "This model has no embeddings", [FieldError(field="model", message=message)])
