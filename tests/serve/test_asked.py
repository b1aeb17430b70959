"""What a client asked, and what models run for it: an explanation rests on one model, drift counts each text asked once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from serve.models.local import LocalModel
from serve.models.model import Model, ModelOutcome
from serve.models.rollout.canary import Canary
from serve.models.rollout.cascade import Cascade
from serve.models.rollout.shares import chosen
from serve.models.spread import Bulk, Spread
from serve.settings import CanarySettings, CascadeSettings, ModelSettings
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item
from serve.tasks.shared.explain import split, without
from serve.tasks.shared.labels import Target
from serve.tasks.shared.probabilities import softmax
from serve.watch.drift import DriftWindow
from tests.serve.faces import asked, face_of, local_model
from tests.serve.tiny_model import LABELS, TEXTS, publish_tiny, texts_as_items

EXPLAIN, PREDICT = "/v1/explain", "/v1/predict"
LONG = "Win a prize now, see you at the station, bring the keys"


class Turned:
    """A teacher: another model, with its labels in another order; it may fail or hang."""

    def __init__(self, model: LocalModel) -> None:
        self.model, self.error, self.wait = model, False, False
        self.served, self.task, self.embeds = model.served, Classification(labels=LABELS[::-1]), False
        self.cleaning = None

    async def predict(self, items: Sequence[Item]) -> ModelOutcome:
        if self.error:
            raise RuntimeError("no memory")
        if self.wait:
            await asyncio.sleep(60)
        outcome = await self.model.predict(items)
        return ModelOutcome(np.asarray(outcome.outputs)[:, ::-1], self.served, 1, outcome.lengths)

    async def embeddings(self, items: Sequence[Item]) -> ModelOutcome:
        raise AssertionError("nobody asks for embeddings here")

    async def answerers(self, item: Item) -> Sequence[Model]:
        return [self]


@pytest.fixture(scope="module")
def small(model_directory: Path) -> LocalModel:
    return local_model(model_directory, "tiny", "onnx")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    directory = tmp_path_factory.mktemp("teacher") / "other"
    publish_tiny(directory, seed=1)
    return local_model(directory, "teacher", "onnx")


async def attributions(model: LocalModel, text: str) -> tuple[str, list[float]]:
    """The label that this model gives, and what it says of each word by itself."""
    explained = model.task.evidence(await shortened(model, text), [], Target())
    return explained.whole["label"], [one.attribution for one in explained.parts]


async def shortened(model: LocalModel, text: str) -> np.ndarray:
    """What this model says of the text and of it without each of its words."""
    return np.asarray((await model.predict(texts_as_items([text, *without(text, split(text))]))).outputs)


def told(reply: dict[str, object]) -> tuple[object, list[float]]:
    words = reply["words"]
    assert isinstance(words, list)
    return reply["label"], [word["attribution"] for word in words]


@pytest.mark.parametrize("text", [*TEXTS[:3], LONG])
def test_an_explanation_through_a_cascade_rests_on_the_model_that_answers_the_text(
    small: LocalModel, teacher: LocalModel, text: str
) -> None:
    async def run() -> None:
        parts = softmax(await shortened(small, text)).max(axis=-1)
        if text == LONG:
            assert (abs(parts[1:] - parts[0]) > 1e-3).any(), "both models would answer some"
        for threshold in (parts[0] + 1e-3, parts[0] - 1e-3):
            cascade = Cascade(small, Turned(teacher), CascadeSettings(model="teacher", threshold=float(threshold)))
            await cascade.large.look()
            status, reply = await asked(face_of({"tiny": cascade}, small), EXPLAIN, {"inputs": text})
            one = teacher if threshold > parts[0] else small
            assert (status, reply["model"]["name"]) == (200, one.served.name)
            label, expected = await attributions(one, text)
            given, found = told(reply)
            assert given == label
            np.testing.assert_allclose(found, expected, atol=1e-3)
            assert cascade.counts.sure == cascade.counts.passed_on == cascade.counts.unanswered == 0

    asyncio.run(run())


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_where_the_teacher_does_not_explain_the_small_model_explains_all(
    small: LocalModel, teacher: LocalModel, how: str
) -> None:
    async def run() -> None:
        turned = Turned(teacher)
        cascade = Cascade(small, turned, CascadeSettings(model="teacher", threshold=1.1))
        await cascade.large.look()
        turned.error, turned.wait = how == "fails", how == "hangs"
        status, reply = await asked(face_of({"tiny": cascade}, small), EXPLAIN, {"inputs": LONG}, x_request_timeout="2")
        assert (status, reply["model"]["name"]) == (200, "tiny")
        label, expected = await attributions(small, LONG)
        assert told(reply)[0] == label
        np.testing.assert_allclose(told(reply)[1], expected, atol=1e-3)

    asyncio.run(run())


def test_the_version_that_a_canary_has_answer_a_text_explains_it(small: LocalModel, teacher: LocalModel) -> None:
    async def run() -> None:
        canary = Canary(small, Turned(teacher), CanarySettings(model="candidate", share=0.5))
        await canary.candidate.look()
        face = face_of({"tiny": canary}, small)
        versions = set()
        for text in [f"{TEXTS[0]} {number}" for number in range(12)]:
            answered = (await asked(face, PREDICT, {"inputs": text}))[1]["model"]["name"]
            _, reply = await asked(face, EXPLAIN, {"inputs": text})
            assert answered == reply["model"]["name"] == ("teacher" if chosen(Item((text,)).key, 0.5, "canary") else "tiny")
            label, expected = await attributions(teacher if answered == "teacher" else small, text)
            assert told(reply)[0] == label
            np.testing.assert_allclose(told(reply)[1], expected, atol=1e-3)
            versions.add(answered)
        assert versions == {"tiny", "teacher"}
        assert canary.seen.candidate.requests + canary.seen.stable.requests == 12, "explanations judge no version"

    asyncio.run(run())


def test_other_hardware_does_not_explain_what_the_usual_replicas_answered(small: LocalModel, teacher: LocalModel) -> None:
    async def run() -> None:
        bulk = Bulk(Spread(small, small, lambda: 1), teacher, from_texts=2)
        status, reply = await asked(face_of({"tiny": bulk}, small), EXPLAIN, {"inputs": LONG})
        assert (status, reply["model"]["name"]) == (200, "tiny")

    asyncio.run(run())


def test_each_text_that_was_asked_counts_once_for_drift_and_nothing_else_does(
    model_directory: Path, teacher: LocalModel, tmp_path: Path
) -> None:
    publish_tiny(tmp_path / "cached")
    settings = ModelSettings(model=str(tmp_path / "cached"), cache_texts=100)
    plain = local_model(tmp_path / "cached", "tiny", "onnx")
    cached = LocalModel(plain.engine, plain.served, settings)

    async def run() -> None:
        siblings = local_model(model_directory, "tiny", "onnx")
        cascade = Cascade(
            Spread(cached, siblings, lambda: 3), Turned(teacher), CascadeSettings(model="teacher", threshold=0.9)
        )
        await cascade.large.look()
        drift_windows = {"tiny": DriftWindow(plain.task, None), "teacher": DriftWindow(Turned(teacher).task, None)}
        face = face_of({"tiny": cascade, "teacher": Turned(teacher)}, plain, drift_windows=drift_windows)
        given: list[str] = []

        async def ask(inputs: str | list[str], **more: str) -> None:
            status, reply = await asked(face, PREDICT, {"inputs": inputs, **more})
            assert status == 200
            if not more:
                given.extend(answer["label"] for answer in reply["answers"])

        await ask(TEXTS)
        await ask(TEXTS)  # from the cache
        await ask([TEXTS[0]] * 5)
        await asyncio.gather(*(ask("the same in flight") for _ in range(10)))
        await ask([f"{TEXTS[number % 7]} {number}" for number in range(100)])  # in three parts
        for _ in range(3):
            assert (await asked(face, EXPLAIN, {"inputs": LONG}))[0] == 200
        report = drift_windows["tiny"].report()
        assert report.texts == len(given) == 2 * len(TEXTS) + 5 + 10 + 100
        shares = {label: given.count(label) / len(given) for label in LABELS}
        assert report.label_shares == pytest.approx(shares), "as they were answered"
        lengths = [length for _, length in drift_windows["tiny"]._seen]
        own = [len(window) for (window,) in plain.engine.tokenise(texts_as_items(TEXTS))]
        assert lengths[: 2 * len(TEXTS)] == own * 2, "those from the cache too"
        assert min(lengths) > 0
        assert drift_windows["teacher"].report().texts == 0, "what was passed on was not asked of it"
        await ask(TEXTS, model="teacher")
        assert drift_windows["teacher"].report().texts == len(TEXTS)
        assert drift_windows["tiny"].report().texts == len(given)

    asyncio.run(run())
