"""A client that waits for little: what stands between it and an answer that is there asks no longer than that. Without Ray."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from serve.models.local import LocalModel
from serve.models.model import Model, ModelOutcome
from serve.models.rollout.canary import Canary
from serve.models.rollout.cascade import Cascade
from serve.models.rollout.shares import chosen
from serve.settings import CanarySettings, CascadeSettings
from serve.tasks.protocol import Item
from serve.tasks.shared.probabilities import softmax
from tests.serve.faces import asked, face_of, local_model
from tests.serve.tiny_model import LABELS, TEXTS, texts_as_items

PREDICT = "/v1/predict"
UNSURE = CascadeSettings(model="teacher", threshold=1.1, timeout_seconds=5)


class Slow:
    """A model that takes so long for each call."""

    def __init__(self, model: LocalModel, seconds: float = 0.0) -> None:
        self.model, self.seconds, self.calls = model, seconds, 0
        self.served = model.served.model_copy(update={"name": "slow"})
        self.task, self.embeds = model.task, model.embeds
        self.cleaning = None

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        return ModelOutcome((await self.model.predict(items)).outputs, self.served)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        raise AssertionError("nobody asks for embeddings here")

    async def answerers(self, item: Item) -> Sequence[Model]:
        return [self]


@pytest.fixture(scope="module")
def small(model_directory: Path) -> LocalModel:
    return local_model(model_directory, "tiny", "onnx")


def test_the_small_models_answer_stands_where_the_client_does_not_wait_for_the_teacher(small: LocalModel) -> None:
    async def run() -> None:
        slow = Slow(small)
        cascade = Cascade(small, slow, UNSURE)
        await cascade.large.look()
        face = face_of({"tiny": cascade}, small)
        slow.seconds = 60
        began = time.monotonic()
        status, reply = await asked(face, PREDICT, {"inputs": TEXTS}, x_request_timeout="2")
        assert status == 200 and 1 < time.monotonic() - began < 2
        own = softmax(np.asarray((await small.predict(texts_as_items(TEXTS))).outputs)).max(axis=-1)
        np.testing.assert_allclose([answer["probability"] for answer in reply["answers"]], own, atol=1e-4)
        assert (cascade.counts.passed_on, cascade.counts.unanswered) == (0, len(TEXTS))
        assert cascade.large.there, "one client in a hurry takes the teacher from nobody"

    asyncio.run(run())


def test_a_teacher_that_is_silent_for_its_time_out_is_asked_no_more_however_short_the_deadlines(small: LocalModel) -> None:
    async def run() -> None:
        slow = Slow(small)
        cascade = Cascade(small, slow, UNSURE.model_copy(update={"timeout_seconds": 1.5}))
        await cascade.large.look()
        face = face_of({"tiny": cascade}, small)
        slow.seconds = 60
        for _ in range(8):
            status, _reply = await asked(face, PREDICT, {"inputs": "a"}, x_request_timeout="1")
            assert status == 200
        assert not cascade.large.there
        assert slow.calls <= 4, "once before, twice until it had been silent for so long, and once to see whether it is back"

    asyncio.run(run())


@pytest.mark.parametrize("steady", [0.0, 0.3])
def test_a_canary_leaves_the_stable_version_its_time(small: LocalModel, steady: float) -> None:
    async def run() -> None:
        stable, candidate = Slow(small, steady), Slow(small)
        canary = Canary(stable, candidate, CanarySettings(model="candidate", share=0.5, timeout_seconds=5))
        await canary.candidate.look()
        face = face_of({"tiny": canary}, small)
        items = texts_as_items([f"text {number}" for number in range(100)])
        taken = next(item for item in items if chosen(item.key, 0.5, "canary")).values[0]
        other = next(item for item in items if not chosen(item.key, 0.5, "canary")).values[0]
        assert (await asked(face, PREDICT, {"inputs": other}))[0] == 200
        candidate.seconds = 60
        status, reply = await asked(face, PREDICT, {"inputs": taken}, x_request_timeout="2")
        assert (status, len(reply["answers"])) == (200, 1)
        assert (canary.seen.candidate.requests, canary.seen.candidate.failed) == (1, 1)
        assert (canary.seen.stable.requests, canary.seen.stable.failed) == (2, 0)

    asyncio.run(run())


def test_without_a_short_deadline_a_slow_teacher_answers(small: LocalModel) -> None:
    async def run() -> None:
        cascade = Cascade(small, Slow(small, 0.5), UNSURE)
        await cascade.large.look()
        assert (await asked(face_of({"tiny": cascade}, small), PREDICT, {"inputs": TEXTS}))[0] == 200
        assert cascade.counts.passed_on == len(TEXTS)
        assert small.task.sayings == LABELS

    asyncio.run(run())
