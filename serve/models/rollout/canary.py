"""A share of the requests goes to a new version, and what becomes of them is counted (it is judged in jobs/deploying).

    model = Canary(stable, candidate, settings)       # a Model: each request goes one way or the other, by its hash
    model.seen                                        # requests, failures and seconds of each side

A request that the candidate fails is answered by the stable version, and so are all until it is there. Embeddings stay with
the stable version: vectors of two models do not compare.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from serve.models.deadline import NEVER, left
from serve.models.model import Model, ModelOutcome
from serve.models.problems import Refusal
from serve.models.rollout.fallible_model import FallibleModel
from serve.models.rollout.shares import chosen, key_of
from serve.settings import CanarySettings
from serve.tasks.protocol import Item

SECONDS_KEPT = 1000
SERVER_ERROR = 500


@dataclass
class Side:
    """What one version was asked."""

    requests: int = 0
    failed: int = 0
    """No answer: an error, or later than its own time-out or the request's deadline."""
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=SECONDS_KEPT))
    """Of the newest answers."""


@dataclass
class Seen:
    """Both versions, and how often they disagree about the same text."""

    stable: Side = field(default_factory=Side)
    candidate: Side = field(default_factory=Side)
    compared_texts: int = 0
    disagreed_texts: int = 0


class Canary:
    """The default model, while a candidate answers a share of its requests."""

    def __init__(self, stable: Model, candidate: Model, settings: CanarySettings) -> None:
        self.stable, self.settings = stable, settings
        self.candidate = FallibleModel(candidate, settings.timeout_seconds)
        self.served, self.task = stable.served, stable.task
        self.cleaning, self.embeds = stable.cleaning, stable.embeds
        self.seen = Seen()

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.predict; the outcome names the version that answered."""
        if self._takes(items):
            try:
                outcome = await _timed(self._ask_candidate, self.seen.candidate, items)
            except Refusal as refusal:
                if refusal.problem.status < SERVER_ERROR:
                    raise
            except Exception:  # noqa: BLE001  counted as failed; the request must not fail for it
                pass
            else:
                return replace(outcome, outputs=self.task.aligned(outcome.outputs, self.candidate.model.task))
        return await _timed(self.stable.predict, self.seen.stable, items)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        """As Model.embeddings, of the stable version."""
        return await self.stable.embeddings(items)

    async def answerers(self, item: Item) -> Sequence[Model]:
        """As Model.answerers: the candidate first, where a request with this item alone is one of its share."""
        stable = await self.stable.answerers(item)
        return [self.candidate.model, *stable] if self._takes([item]) else stable

    def _takes(self, items: Sequence[Item]) -> bool:
        return chosen(key_of(items), self.settings.share, "canary") and self.candidate.there

    async def _ask_candidate(self, items: Sequence[Item]) -> ModelOutcome:
        # Where it gives no answer, the stable version needs time for its own: as much as it has taken lately.
        needed = max(self.seen.stable.seconds, default=NEVER)
        return await self.candidate.predict(items, spare=min(needed, left() / 2))


async def _timed(ask: Callable[[Sequence[Item]], Awaitable[ModelOutcome]], side: Side, items: Sequence[Item]) -> ModelOutcome:
    began = time.perf_counter()
    side.requests += 1
    answered = False
    try:
        outcome = await ask(items)
        answered = True
    except Refusal as refusal:
        answered = refusal.problem.status < SERVER_ERROR
        raise
    finally:
        # A request past its deadline is cancelled, which is no Exception.
        side.failed += not answered
    side.seconds.append(time.perf_counter() - began)
    return outcome
