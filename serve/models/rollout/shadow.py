"""A second model sees a share of the traffic after the answers went out, and how often it disagrees is counted.

    shadow = Shadow(models.get("teacher"), models.get(None), settings, timeout_seconds=30)
    gate = Gate(application, 30, guard, finished=[shadow.note])       # called once the answer is out
    shadow.report().disagreement

No request waits for it: items wait in a queue of its own, and are dropped and counted where that is full.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from serve.models.exchange import Exchange
from serve.models.model import Model
from serve.models.rollout.shares import chosen
from serve.settings import ShadowSettings
from serve.tasks.protocol import Item, Output, Outputs

LOGGER = logging.getLogger("ray.serve")
COMPARED_AT_ONCE = 32


@dataclass(slots=True)
class ShadowCounts:
    """Texts by what became of them."""

    agreed: int = 0
    disagreed: int = 0
    dropped: int = 0
    """Too many waited."""
    failed: int = 0
    """The shadow gave no answer."""


@dataclass(frozen=True)
class Disagreement:
    """How far the shadow is from the default model, in this replica since it started."""

    model: str
    """The shadow's name."""
    share: float
    agreed: int
    disagreed: int
    dropped: int
    failed: int
    disagreement: float | None
    """Share of the compared texts with another answer; None before the first one."""
    mean_gap: float | None
    """Mean difference in what the default model says, such as the probability of its label."""
    changes: dict[str, dict[str, int]]
    """Texts by the default model's answer, such as a label, and then by the shadow's, where the two differ."""


class Shadow:
    """A model that is asked what the default model was asked; made on a running event loop."""

    def __init__(self, model: Model, default: Model, settings: ShadowSettings, timeout_seconds: float) -> None:
        self.model, self.default, self.settings, self.timeout = model, default, settings, timeout_seconds
        self.counts = ShadowCounts()
        self._changes: Counter[tuple[str, str]] = Counter()
        self._gaps = 0.0
        self._waiting: asyncio.Queue[tuple[Item, Output]] = asyncio.Queue(settings.max_waiting_texts)
        self._failing = False
        self._work = asyncio.get_running_loop().create_task(self._compare_what_waits())

    def note(self, exchange: Exchange) -> None:
        """Take in a request that the default model has answered."""
        outcome = exchange.outcome
        if outcome is None or outcome.model != self.default.served:
            return
        for item, output in zip(exchange.items, outcome.outputs, strict=True):
            if not chosen(item.key, self.settings.share, "shadow"):
                continue
            if self._waiting.full():
                self.counts.dropped += 1
            else:
                self._waiting.put_nowait((item, output))

    def report(self) -> Disagreement:
        """What was seen until now."""
        now = self.counts
        compared = now.agreed + now.disagreed
        changes: dict[str, dict[str, int]] = {}
        for (given, other), count in self._changes.most_common():
            changes.setdefault(given, {})[other] = count
        return Disagreement(
            self.settings.model,
            self.settings.share,
            now.agreed,
            now.disagreed,
            now.dropped,
            now.failed,
            now.disagreed / compared if compared else None,
            self._gaps / compared if compared else None,
            changes,
        )

    async def _compare_what_waits(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < COMPARED_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            task = self.default.task
            try:
                async with asyncio.timeout(self.timeout):
                    outcome = await self.model.predict([item for item, _ in batch])
                given = task.stacked([output for _, output in batch])
                self._compare(given, task.aligned(outcome.outputs, self.model.task))
                self._failing = False
            except Exception:  # noqa: BLE001  whatever it is, the shadow must not end, and no client is told
                self.counts.failed += len(batch)
                if not self._failing:
                    LOGGER.exception(f"The shadow {self.settings.model} does not answer; GET /v1/shadow counts how often")
                self._failing = True

    def _compare(self, given: Outputs, others: Outputs) -> None:
        task = self.default.task
        self._gaps += float(task.gap(given, others).sum())
        for same, said, other in zip(task.same(given, others), task.said(given), task.said(others), strict=True):
            if same:
                self.counts.agreed += 1
            else:
                self.counts.disagreed += 1
                self._changes[said, other] += 1
