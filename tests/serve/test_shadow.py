"""The shadow: whom it sees, what it counts, and that nobody waits for it. Without Ray; test_service.py has it with."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from serve.models.exchange import Exchange
from serve.models.local import LocalModel
from serve.models.model import Model, ModelOutcome
from serve.models.rollout.shadow import Shadow
from serve.models.rollout.shares import chosen
from serve.settings import Arguments, ShadowSettings
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item
from tests.serve.faces import local_model
from tests.serve.tiny_model import LABELS, TEXTS, texts_as_items


class Changed:
    """The model with its labels in another order, or with other logits."""

    def __init__(
        self, model: LocalModel, change: Callable[[np.ndarray], Awaitable[np.ndarray]], labels: tuple[str, ...]
    ) -> None:
        self.model, self.change, self.task = model, change, Classification(labels=labels)
        self.served, self.embeds = model.served, model.embeds
        self.cleaning = None

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        outcome = await self.model.predict(items)
        return ModelOutcome(await self.change(np.asarray(outcome.outputs)), self.served)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        return await self.model.embeddings(items)

    async def answerers(self, item: Item) -> Sequence[Model]:
        return [self]


@pytest.fixture(scope="module")
def tiny(model_directory: Path) -> LocalModel:
    return local_model(model_directory, "tiny", "onnx")


async def answered(model: Model, texts: Sequence[str]) -> Exchange:
    """A request that the model has answered."""
    exchange = Exchange("1", "POST", "/v1/predict")
    exchange.note(model, texts_as_items(texts))
    exchange.outcome = await model.predict(exchange.items)
    return exchange


async def shown(shadow: Shadow, exchange: Exchange) -> None:
    """Show it, and wait until it was compared."""
    shadow.note(exchange)
    async with asyncio.timeout(10):
        while shadow.counts.agreed + shadow.counts.disagreed + shadow.counts.failed < len(exchange.items):
            await asyncio.sleep(0.01)


def test_a_share_is_the_same_texts_each_time_and_of_its_size() -> None:
    items = texts_as_items([f"text {number}" for number in range(4000)])
    tenth = [item for item in items if chosen(item.key, 0.1, "shadow")]
    assert 330 < len(tenth) < 470
    assert set(tenth) <= {item for item in items if chosen(item.key, 0.2, "shadow")}, "a larger share holds the smaller one"
    both = [item for item in tenth if chosen(item.key, 0.1, "canary")]
    assert len(both) < 80, "another purpose chooses other texts"
    assert all(chosen(item.key, 1.0, "shadow") for item in items)


def test_agreement_is_by_label_whatever_the_order_of_the_columns(tiny: LocalModel) -> None:
    async def reverse(values: np.ndarray) -> np.ndarray:
        return values[:, ::-1]

    async def run() -> None:
        shadow = Shadow(Changed(tiny, reverse, LABELS[::-1]), tiny, ShadowSettings(model="second", share=1.0), 10)
        await shown(shadow, await answered(tiny, TEXTS))
        report = shadow.report()
        assert (report.agreed, report.disagreed, report.disagreement) == (len(TEXTS), 0, 0.0)
        assert report.mean_gap == pytest.approx(0, abs=1e-9)

    asyncio.run(run())


def test_disagreement_is_counted_by_labels(tiny: LocalModel) -> None:
    async def negate(values: np.ndarray) -> np.ndarray:
        return -values

    async def run() -> None:
        shadow = Shadow(Changed(tiny, negate, LABELS), tiny, ShadowSettings(model="second", share=1.0), 10)
        exchange = await answered(tiny, TEXTS)
        await shown(shadow, exchange)
        assert exchange.outcome is not None
        expected: dict[tuple[str, str], int] = {}
        for row in exchange.outcome.outputs:
            pair = LABELS[row.argmax()], LABELS[row.argmin()]
            expected[pair] = expected.get(pair, 0) + 1
        report = shadow.report()
        assert {(given, other): n for given, others in report.changes.items() for other, n in others.items()} == expected
        assert report.disagreement == 1.0
        assert report.mean_gap is not None and report.mean_gap > 0

    asyncio.run(run())


def test_what_is_too_much_is_dropped_and_an_error_is_counted(tiny: LocalModel, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        free = asyncio.Event()

        async def fail_late(values: np.ndarray) -> np.ndarray:
            await free.wait()
            raise RuntimeError("no memory")

        settings = ShadowSettings(model="second", share=1.0, max_waiting_texts=5)
        shadow = Shadow(Changed(tiny, fail_late, LABELS), tiny, settings, 10)
        exchange = await answered(tiny, TEXTS[:5])
        shadow.note(exchange)
        await asyncio.sleep(0.05)
        shadow.note(exchange)
        shadow.note(exchange)
        assert shadow.counts.dropped == 5, "five are asked, five wait"
        free.set()
        async with asyncio.timeout(10):
            while shadow.counts.failed < 10:
                await asyncio.sleep(0.01)
        assert shadow.report().disagreement is None

    asyncio.run(run())
    assert len([one for one in caplog.records if "does not answer" in one.message]) == 1, "told once, not for each text"


def test_only_the_default_models_answers_are_shown(tiny: LocalModel, model_directory: Path) -> None:
    async def run() -> None:
        shadow = Shadow(tiny, tiny, ShadowSettings(model="second", share=1.0), 10)
        shadow.note(await answered(local_model(model_directory, "second", "torch"), TEXTS))
        await shown(shadow, await answered(tiny, TEXTS[:2]))
        assert shadow.counts.agreed == 2

    asyncio.run(run())


def test_a_shadow_that_is_no_model_of_the_application() -> None:
    with pytest.raises(ValidationError, match=r"teacher is none of others"):
        Arguments(model="/m", shadow=ShadowSettings(model="teacher"))
