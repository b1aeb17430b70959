"""The canary: which requests it takes, that its failures are not the client's, and what is counted. Without Ray."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from serve.models.local import LocalModel
from serve.models.model import Model, ModelOutcome
from serve.models.problems import Refusal
from serve.models.rollout.canary import Canary
from serve.models.rollout.shares import chosen, key_of
from serve.settings import CanarySettings
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item
from tests.serve.faces import local_model
from tests.serve.tiny_model import LABELS, texts_as_items

REQUESTS = [texts_as_items([f"text {number}", "the same"]) for number in range(40)]
HALF = CanarySettings(model="candidate", share=0.5)
TAKEN = [items for items in REQUESTS if chosen(key_of(items), 0.5, "canary")]


class Candidate:
    """The torch variant with its columns the other way round, and what happens before it answers."""

    def __init__(self, directory: Path, error: Exception | None = None, wait: bool = False) -> None:
        self.model, self.error, self.there = local_model(directory, "candidate", "torch"), error, asyncio.Event()
        if not wait:
            self.there.set()
        self.served, self.task, self.embeds = self.model.served, Classification(labels=LABELS[::-1]), True
        self.cleaning = None

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        await self.there.wait()
        if self.error is not None:
            raise self.error
        outcome = await self.model.predict(items)
        return ModelOutcome(np.asarray(outcome.outputs)[:, ::-1], self.served)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        raise AssertionError("vectors of two models do not compare")

    async def answerers(self, item: Item) -> Sequence[Model]:
        return [self]


@pytest.fixture(scope="module")
def stable(model_directory: Path) -> LocalModel:
    return local_model(model_directory, "tiny", "onnx")


def test_each_request_has_its_version_and_the_labels_keep_their_columns(stable: LocalModel, model_directory: Path) -> None:
    async def run() -> None:
        canary = Canary(stable, Candidate(model_directory), HALF)
        await canary.candidate.look()
        assert 10 < len(TAKEN) < 30
        for _ in range(2):
            for items in REQUESTS:
                outcome = await canary.predict(items)
                assert outcome.model.name == ("candidate" if items in TAKEN else "tiny")
                np.testing.assert_allclose(outcome.outputs, (await stable.predict(items)).outputs, atol=1e-4)
        seen = canary.seen
        assert (seen.candidate.requests, seen.stable.requests) == (2 * len(TAKEN), 2 * (40 - len(TAKEN)))
        assert (seen.candidate.failed, seen.stable.failed) == (0, 0)
        assert len(seen.candidate.seconds) == seen.candidate.requests and min(seen.candidate.seconds) > 0

    asyncio.run(run())


@pytest.mark.parametrize("error", [RuntimeError("no memory"), Refusal(503, "Too many requests wait")])
def test_what_the_candidate_fails_is_answered_by_the_stable_version(
    stable: LocalModel, model_directory: Path, error: Exception
) -> None:
    async def run() -> None:
        canary = Canary(stable, Candidate(model_directory, error), HALF)
        await canary.candidate.look()
        names = {(await canary.predict(items)).model.name for items in REQUESTS}
        assert names == {"tiny"}
        assert (canary.seen.candidate.requests, canary.seen.candidate.failed) == (len(TAKEN), len(TAKEN))
        assert (canary.seen.stable.requests, canary.seen.stable.failed) == (40, 0)

    asyncio.run(run())


def test_a_candidate_that_is_not_there_is_asked_nothing_and_one_that_goes_costs_one_time_out(
    stable: LocalModel, model_directory: Path
) -> None:
    async def run() -> None:
        candidate = Candidate(model_directory, wait=True)
        canary = Canary(stable, candidate, HALF.model_copy(update={"timeout_seconds": 0.2}))

        async def names() -> list[str]:
            async with asyncio.timeout(10):
                return [(await canary.predict(items)).model.name for items in TAKEN[:5]]

        assert await names() == ["tiny"] * 5
        assert (canary.seen.candidate.requests, canary.seen.stable.requests) == (0, 5)
        candidate.there.set()
        await canary.candidate.look()
        assert await names() == ["candidate"] * 5
        candidate.there.clear()
        assert await names() == ["tiny"] * 5
        assert (canary.seen.candidate.requests, canary.seen.candidate.failed) == (6, 1)

    asyncio.run(run())


def test_an_answer_past_the_deadline_is_a_failure_and_a_wrong_request_is_none(
    stable: LocalModel, model_directory: Path
) -> None:
    async def run() -> None:
        candidate = Candidate(model_directory)
        late = Canary(stable, candidate, HALF)
        await late.candidate.look()
        candidate.there.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await late.predict(TAKEN[0])
        assert (late.seen.candidate.requests, late.seen.candidate.failed) == (1, 1)
        refusing = Canary(stable, Candidate(model_directory, Refusal(409, "Not so")), HALF)
        await refusing.candidate.look()
        with pytest.raises(Refusal):
            await refusing.predict(TAKEN[0])
        assert (refusing.seen.candidate.requests, refusing.seen.candidate.failed) == (1, 0)

    asyncio.run(run())
