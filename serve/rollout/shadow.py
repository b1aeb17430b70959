"""A second model sees a share of the traffic after the answers went out, and how often it disagrees is counted.

    shadow = Shadow(models.get("teacher"), models.get(None), settings, timeout_seconds=30)
    gate = Gate(face, 30, guard, finished=[shadow.note])       # called once the answer is out
    shadow.report().disagreement

No request waits for it: texts wait in a queue of its own, and are dropped and counted where that is full.
Shapes: B texts, C classes.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np

from serve.answers import softmax
from serve.exchange import Exchange
from serve.models import Model
from serve.rollout.shares import chosen
from serve.settings import ShadowSettings

LOGGER = logging.getLogger("ray.serve")
BATCH_TEXTS = 32


@dataclass(slots=True)
class Counts:
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
    """Share of the compared texts with another label; None before the first one."""
    mean_gap: float | None
    """Mean difference of the probability of the default model's label."""
    changes: dict[str, dict[str, int]]
    """Texts by the default model's label and then by the shadow's, where the two differ."""


class Shadow:
    """A model that is asked what the default model was asked; made on a running event loop."""

    def __init__(self, model: Model, default: Model, settings: ShadowSettings, timeout_seconds: float) -> None:
        self.model, self.default, self.settings, self.timeout = model, default, settings, timeout_seconds
        self.counts = Counts()
        self._columns = [model.labels.index(label) for label in default.labels]
        self._changes: Counter[tuple[str, str]] = Counter()
        self._gaps = 0.0
        self._waiting: asyncio.Queue[tuple[str, np.ndarray]] = asyncio.Queue(settings.max_waiting_texts)
        self._failing = False
        self._work = asyncio.get_running_loop().create_task(self._compare_what_waits())

    def note(self, exchange: Exchange) -> None:
        """Take in a request that the default model has answered."""
        outcome = exchange.outcome
        if outcome is None or outcome.model != self.default.served:
            return
        for text, logits_C in zip(exchange.texts, outcome.values, strict=True):
            if not chosen(text, self.settings.share, "shadow"):
                continue
            if self._waiting.full():
                self.counts.dropped += 1
            else:
                self._waiting.put_nowait((text, logits_C))

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
            while len(batch) < BATCH_TEXTS and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            texts = [text for text, _ in batch]
            try:
                async with asyncio.timeout(self.timeout):
                    outcome = await self.model.logits(texts)
                self._compare(np.stack([logits_C for _, logits_C in batch]), outcome.values[:, self._columns])
                self._failing = False
            except Exception:  # noqa: BLE001  whatever it is, the shadow must not end, and no client is told
                self.counts.failed += len(batch)
                if not self._failing:
                    LOGGER.exception(f"The shadow {self.settings.model} does not answer; GET /v1/shadow counts how often")
                self._failing = True

    def _compare(self, given_BC: np.ndarray, others_BC: np.ndarray) -> None:
        probabilities_BC, of_other_BC = softmax(given_BC), softmax(others_BC)
        labels = self.default.labels
        for row, (column, other) in enumerate(zip(given_BC.argmax(axis=-1), others_BC.argmax(axis=-1), strict=True)):
            self._gaps += abs(float(probabilities_BC[row, column] - of_other_BC[row, column]))
            if column == other:
                self.counts.agreed += 1
            else:
                self.counts.disagreed += 1
                self._changes[labels[column], labels[other]] += 1
