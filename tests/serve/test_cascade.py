"""The cascade: which texts go on to the large model, and what happens where it does not answer.

Without Ray; test_service.py has it with.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from serve.models.local import LocalModel, overloaded
from serve.models.model import Model, ModelOutcome
from serve.models.rollout.cascade import Cascade
from serve.models.rollout.fallible_model import PROBE
from serve.settings import CascadeSettings
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item
from serve.tasks.shared.probabilities import softmax
from tests.serve.faces import local_model
from tests.serve.tiny_model import LABELS, TEXTS, texts_as_items

ITEMS = texts_as_items(TEXTS)


class Large:
    """The model with every logit negated and its columns the other way round, that notes what it is asked."""

    def __init__(self, model: LocalModel, error: Exception | None = None, wait: bool = False) -> None:
        self.model, self.error, self.wait, self.asked = model, error, wait, list[Item]()
        self.served, self.task, self.embeds = model.served, Classification(labels=LABELS[::-1]), False
        self.cleaning = None

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        self.asked += items
        if self.wait:
            await asyncio.sleep(60)
        if self.error is not None:
            raise self.error
        outcome = await self.model.predict(items)
        return ModelOutcome(-np.asarray(outcome.outputs)[:, ::-1], self.served)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        return await self.model.embeddings(items)

    async def answerers(self, item: Item) -> Sequence[Model]:
        return [self]


@pytest.fixture(scope="module")
def small(model_directory: Path) -> LocalModel:
    return local_model(model_directory, "tiny", "onnx")


@pytest.mark.parametrize("error", [None, overloaded(), RuntimeError("no memory")], ids=["well", "busy", "broken"])
def test_unsure_texts_alone_go_on_and_a_teacher_that_fails_costs_no_answer(
    small: LocalModel, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        own = np.asarray((await small.predict(ITEMS)).outputs)
        sureness = softmax(own).max(axis=-1)
        threshold = float(np.median(sureness))
        large = Large(small, error)
        cascade = Cascade(small, large, CascadeSettings(model="teacher", threshold=threshold))
        await cascade.large.look()
        large.asked.clear()
        given = (await cascade.predict(ITEMS)).outputs
        unsure = sureness < threshold
        assert 0 < unsure.sum() < len(TEXTS)
        assert large.asked == [item for item, goes in zip(ITEMS, unsure, strict=True) if goes]
        expected = own if error else np.where(unsure[:, None], -own, own)
        np.testing.assert_allclose(given, expected, atol=1e-4)
        passed = int(unsure.sum())
        became = (len(TEXTS) - passed, 0, passed) if error else (len(TEXTS) - passed, passed, 0)
        assert (cascade.counts.sure, cascade.counts.passed_on, cascade.counts.unanswered) == became
        await cascade.predict(ITEMS)

    asyncio.run(run())
    assert len(caplog.records) == isinstance(error, RuntimeError), "told once, not for each request; busy is no error"


def test_nobody_is_asked_where_all_is_sure(small: LocalModel) -> None:
    async def run() -> None:
        large = Large(small)
        cascade = Cascade(small, large, CascadeSettings(model="teacher", threshold=0.0))
        await cascade.large.look()
        outcome = await cascade.predict(ITEMS)
        assert large.asked == texts_as_items([PROBE])
        np.testing.assert_array_equal(outcome.outputs, (await small.predict(ITEMS)).outputs)

    asyncio.run(run())


def test_a_teacher_that_is_not_there_is_not_waited_for(small: LocalModel) -> None:
    async def run() -> None:
        large = Large(small, wait=True)
        cascade = Cascade(small, large, CascadeSettings(model="teacher", threshold=1.1, timeout_seconds=60))
        async with asyncio.timeout(10):
            given = (await cascade.predict(ITEMS)).outputs
        np.testing.assert_allclose(given, (await small.predict(ITEMS)).outputs, atol=1e-4)
        assert (cascade.counts.passed_on, cascade.counts.unanswered) == (0, len(TEXTS))
        assert large.asked == texts_as_items([PROBE])

    asyncio.run(run())
