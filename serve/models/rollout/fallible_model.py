"""A model that may fail, beside the default one: asked once it is there, and never for longer than it or the request has.

    candidate = FallibleModel(model, timeout_seconds=5)        # made on a running event loop
    if candidate.there:
        outcome = await candidate.predict(items)

Its replicas may still start while those of the default model take requests, or may have gone before them: Serve would
let a request wait for a replica until its deadline.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from serve.models.deadline import left
from serve.models.model import Model, ModelOutcome
from serve.tasks.protocol import Item

PROBE = "."
"""The texts of what a model is asked to see whether it is there."""


class FallibleModel:
    """A canary's candidate, or the large model of a cascade."""

    def __init__(self, model: Model, timeout_seconds: float) -> None:
        self.model, self.timeout_seconds = model, timeout_seconds
        self._there, self._answered_at = False, 0.0
        self._looking: asyncio.Task[None] | None = None
        self.look()

    @property
    def there(self) -> bool:
        """Whether it has answered, if only by an error, and has not been too late since. Where not, it is looked for again."""
        if not self._there:
            self.look()
        return self._there

    def look(self) -> "asyncio.Task[None]":
        """Ask it, with all the time that it needs; done once it is there."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return self._looking

    async def predict(self, items: Sequence[Item], spare: float = 0.0) -> ModelOutcome:
        """As Model.predict; TimeoutError where it is too late, be it that the request has only `spare` seconds left."""
        seconds = min(self.timeout_seconds, left() - spare)
        if seconds <= 0:
            raise TimeoutError
        try:
            async with asyncio.timeout(seconds):
                outcome = await self.model.predict(items)
        except TimeoutError:
            # A client in a hurry does not make it too late for the others.
            silent = asyncio.get_running_loop().time() - self._answered_at
            if max(seconds, silent) >= self.timeout_seconds:
                self._there = False
            raise
        self._answered_at = asyncio.get_running_loop().time()
        return outcome

    async def _look(self) -> None:
        # Who asks it for an answer counts and logs what it fails.
        with contextlib.suppress(Exception):
            await self.model.predict([Item((PROBE,) * len(self.model.task.fields))])
        self._there, self._answered_at = True, asyncio.get_running_loop().time()
