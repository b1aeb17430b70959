"""Items of several windows and outputs of several lengths: batches, cache, joining, parts of long lists, HTTP, errors."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Encoding

from serve import tasks
from serve.app import build
from serve.engines.base import Engine
from serve.engines.card import EngineError
from serve.engines.lengths import BatchBudget
from serve.models.batching import Batcher, Work
from serve.models.local import LocalModel
from serve.models.model import ServedModel
from serve.models.rollout.canary import Canary
from serve.models.rollout.shadow import Shadow
from serve.models.spread import Spread
from serve.settings import Arguments, CanarySettings, CascadeSettings, ModelSettings, ShadowSettings
from serve.tasks.protocol import Item, Outputs
from serve.watch.drift import DriftWindow
from tests.serve.faces import asked, face_of
from tests.serve.windowed import ITEMS, LONG, QUESTION, TASK, publish_windowed, windowed_engine


@pytest.fixture(scope="module", autouse=True)
def _known() -> Any:
    """The kind of these tests, as a package of another's would bring it."""
    with pytest.MonkeyPatch.context() as patch:
        known = {**tasks.kinds(), "windowed": "tests.serve.windowed"}
        patch.setattr(tasks, "kinds", lambda: known)
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, _known: None) -> Path:
    place = tmp_path_factory.mktemp("windowed") / "tiny"
    publish_windowed(place)
    return place


@pytest.fixture(scope="module")
def engine(directory: Path) -> Engine:
    return windowed_engine(directory)


def local(engine: Engine, cache_texts: int = 0) -> LocalModel:
    served = ServedModel(name="tiny", fingerprint="0" * 64, variant="onnx")
    return LocalModel(engine, served, ModelSettings(model="/m", cache_texts=cache_texts))


def alike(given: Outputs, expected: Outputs) -> None:
    """Outputs have the same lengths and the same figures."""
    assert [one.shape for one in given] == [one.shape for one in expected]
    for one, other in zip(given, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def by_hand(engine: Engine, item: Item) -> np.ndarray:
    """Each window alone, and what was fitted."""
    (windows,) = engine.tokenise([item])
    return np.concatenate([np.asarray(engine.forward([window])) for window in windows]) + 0.5


@pytest.mark.parametrize("max_batch", [1, 3, 32])
def test_the_engine_joins_the_windows_of_each_item(directory: Path, engine: Engine, max_batch: int) -> None:
    lengths = [len(windows) for windows in engine.tokenise(ITEMS)]
    assert lengths[0] == 1 and lengths[1] > 2 and len(set(lengths)) > 2, "of several lengths, or this says nothing"
    alike(windowed_engine(directory, max_batch).settled(ITEMS), [by_hand(engine, item) for item in ITEMS])
    alike(engine.settled(ITEMS * 700)[-4:], [by_hand(engine, item) for item in ITEMS])
    assert engine.outputs([]) == [] and engine.answers([]) == []


def test_requests_that_come_together_get_their_own_items(engine: Engine) -> None:
    expected = engine.settled(ITEMS)

    async def run() -> None:
        model = local(engine)
        turns = [[*range(turn, 4), *range(turn)] for turn in range(4)]
        outcomes = await asyncio.gather(*(model.predict([ITEMS[place] for place in turn]) for turn in turns))
        for turn, outcome in zip(turns, outcomes, strict=True):
            alike(outcome.outputs, [expected[place] for place in turn])
            windows = engine.tokenise([ITEMS[place] for place in turn])
            assert outcome.lengths == [sum(map(len, own)) for own in windows], "all its windows' tokens"
        assert model.outputs_batcher.waiting == 0
        alike(await spread(model), [expected[number % 4] for number in range(120)])

    async def spread(model: LocalModel) -> Outputs:
        return (await Spread(model, local(engine), lambda: 3).predict(ITEMS * 30)).outputs

    asyncio.run(run())


def test_the_same_item_in_flight_is_run_once_and_kept_whole(engine: Engine) -> None:
    async def run() -> None:
        model, item = local(engine, cache_texts=8), ITEMS[3]
        (windows,) = engine.tokenise([item])
        outcomes = await asyncio.gather(*(model.predict([item, item]) for _ in range(8)))
        counts = model.outputs_batcher.counts
        assert (counts.texts, counts.joined, counts.cached) == (len(windows), 15, 0)
        kept = await model.predict([item])
        assert (counts.texts, counts.cached) == (len(windows), 1)
        alike([*kept.outputs, *outcomes[5].outputs], [by_hand(engine, item)] * 3)
        assert kept.lengths == [sum(map(len, windows))]

    asyncio.run(run())


def test_an_item_whose_one_window_fails_fails_once_and_the_others_are_answered(engine: Engine) -> None:
    (windows,) = engine.tokenise([ITEMS[3]])
    bad, ran = windows[1].ids, list[list[int]]()

    def run_or_fail(batch: Sequence[Encoding]) -> Outputs:
        ran.extend(window.ids for window in batch)
        if any(window.ids == bad for window in batch):
            raise RuntimeError("the engine fails on this window")
        return engine.run(batch)

    async def run() -> None:
        work = Work(engine.tokenise, run_or_fail, engine.joined)
        batcher = Batcher(work, BatchBudget(1, 4096), ThreadPoolExecutor(1))
        asks = [batcher([ITEMS[0]]), batcher([ITEMS[3], ITEMS[0]]), batcher([ITEMS[3]]), batcher([ITEMS[2]])]
        first, both, alone, other = await asyncio.gather(*asks, return_exceptions=True)
        assert isinstance(both, RuntimeError) and isinstance(alone, RuntimeError)
        assert not isinstance(first, BaseException) and not isinstance(other, BaseException)
        alike([*first[0], *other[0]], engine.settled([ITEMS[0], ITEMS[2]]))
        own = [window.ids for window in windows]
        assert ran.count(bad) == 1 and sum(ids in own for ids in ran) < len(own), "its other windows are not run any more"
        async with asyncio.timeout(10):
            while batcher.waiting:
                await asyncio.sleep(0.001)
        alike((await batcher([ITEMS[2]]))[0], engine.settled([ITEMS[2]]))

    asyncio.run(run())


@pytest.mark.parametrize("wait_seconds", [0.0, 0.01])
@pytest.mark.parametrize("refused", [False, True])
def test_an_item_without_windows_is_at_its_end_and_in_nobodys_way(engine: Engine, wait_seconds: float, refused: bool) -> None:
    def tokenise(items: Sequence[Item]) -> list[list[Encoding]]:
        return [[] if item.values[0] == "" else windows for item, windows in zip(items, engine.tokenise(items), strict=True)]

    def joined(item: Item, windows: Sequence[Encoding], outputs: Sequence[Any]) -> Any:
        if windows:
            return engine.joined(item, windows, outputs)
        if refused:
            raise ValueError("it says nothing")
        return np.zeros(0, np.float32)

    async def ask() -> tuple[list[Any], int]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(Work(tokenise, engine.run, joined), BatchBudget(4, 4096), executor, wait_seconds)
            calls = [batcher([Item(("", QUESTION))]), batcher(ITEMS)]
            return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30), batcher.waiting

    (empty, others), waiting = asyncio.run(ask())
    assert waiting == 0
    alike(others[0], engine.settled(ITEMS))
    if refused:
        assert str(empty) == "it says nothing"
    else:
        assert empty[0][0].shape == (0,) and empty[2] == [0]


def test_a_caller_who_left_leaves_with_all_windows(engine: Engine) -> None:
    async def run() -> None:
        batcher = Batcher(Work(engine.tokenise, engine.run, engine.joined), BatchBudget(2, 64), ThreadPoolExecutor(1))
        left = asyncio.create_task(batcher([Item((QUESTION, f"{LONG} {number}")) for number in range(60)]))
        await asyncio.sleep(0.02)
        left.cancel()
        outputs, *_ = await batcher(ITEMS)
        alike(outputs, engine.settled(ITEMS))
        async with asyncio.timeout(10):
            while batcher.waiting:
                await asyncio.sleep(0.001)

    asyncio.run(run())


def test_over_http_with_an_explanation_of_both_fields_and_drift(engine: Engine) -> None:
    async def run() -> None:
        model = local(engine)
        drift_windows = {"tiny": DriftWindow(engine.task, None)}
        face = face_of({"tiny": model}, model, drift_windows=drift_windows)
        bodies = [engine.task.named(item) for item in ITEMS]
        status, reply = await asked(face, "/v1/predict", {"inputs": bodies})
        assert status == 200
        answers = engine.answers(ITEMS)
        assert [one["value"] for one in reply["answers"]] == pytest.approx([one.value for one in answers], abs=1e-4)
        assert [one["text"] for one in reply["answers"]] == [one.text for one in answers]
        said = engine.task.said(engine.settled(ITEMS))
        shares = {saying: said.count(saying) / len(said) for saying in engine.task.sayings}
        assert (await asked(face, "/v1/drift"))[1]["label_shares"] == shares
        status, explained = await asked(face, "/v1/explain", {"inputs": bodies[0]})
        assert status == 200 and explained["value"] == pytest.approx(answers[0].value, abs=1e-4)
        words = [(word["field"], word["text"]) for word in explained["words"]]
        assert words == [
            *(("question", text) for text in ["a", "prize"]),
            *(("context", text) for text in ["win", "a", "prize", "now"]),
        ]
        without = engine.answers([Item(("a prize", "a prize now"))])[0].value
        assert explained["words"][2]["attribution"] == pytest.approx(answers[0].value - without, abs=1e-4)
        assert set(explained["words"][0]) == {"field", "start", "end", "text", "attribution"}
        (listed,) = (await asked(face, "/v1/models"))[1]["models"]
        assert (listed["fields"], listed["view"], listed["labels"]) == (["question", "context"], "number", [])
        vectors = (await asked(face, "/openapi.json"))[1]["paths"]["/v1/predict"]["post"]
        assert vectors["summary"] == "Find the highest figure"
        refused = await asked(face, "/v1/predict", {"inputs": bodies[0], "top_k": 1})
        assert refused[0] == 422 and refused[1]["errors"][0]["field"] == "top_k"

    asyncio.run(run())


def test_vectors_of_several_windows_are_of_length_1(directory: Path) -> None:
    from serve.engines.engine import load_engine

    engine = load_engine(directory, "torch")

    async def run() -> None:
        vectors = (await local(engine).embeddings(ITEMS)).outputs
        np.testing.assert_allclose(np.linalg.norm(np.asarray(vectors), axis=1), 1, atol=1e-5)
        (windows,) = engine.tokenise([ITEMS[1]])
        lengths = np.array([len(window) for window in windows])
        mean = (lengths[:, None] * np.concatenate([engine.embed([window]) for window in windows])).sum(0)
        np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-4)

    asyncio.run(run())


def test_a_canary_and_a_shadow_pass_outputs_of_any_length_on(engine: Engine) -> None:
    async def run() -> None:
        model = local(engine)
        canary = Canary(model, local(engine), CanarySettings(model="second", share=0.99))
        await canary.candidate.look()
        outcome = await canary.predict(ITEMS)
        alike(outcome.outputs, engine.settled(ITEMS))
        shadow = Shadow(local(engine), model, ShadowSettings(model="second", share=1.0), 10)
        face = face_of({"tiny": model}, model)
        face.finished = [shadow.note]
        assert (await asked(face, "/v1/predict", {"inputs": [engine.task.named(item) for item in ITEMS]}))[0] == 200
        async with asyncio.timeout(10):
            while shadow.counts.agreed + shadow.counts.disagreed + shadow.counts.failed < len(ITEMS):
                await asyncio.sleep(0.01)
        assert (shadow.counts.agreed, shadow.report().mean_gap) == (4, pytest.approx(0, abs=1e-4))

    asyncio.run(run())


def test_a_cascade_is_refused_where_nothing_tells_how_sure_an_answer_is(directory: Path) -> None:
    large = ModelSettings(model=str(directory), variant="torch")
    arguments = Arguments(model=str(directory), others={"large": large}, cascade=CascadeSettings(model="large", threshold=0.9))
    with pytest.raises(EngineError, match="tiny does not say how sure its answers are"):
        build(arguments)


def test_a_kind_that_explains_nothing_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASK, "Whole", None)

    async def run() -> None:
        model = local(engine)
        face = face_of({"tiny": model}, model)
        status, reply = await asked(face, "/v1/explain", {"inputs": {"question": "a", "context": "b"}})
        assert (status, reply["errors"][0]["field"]) == (409, "model")
        assert "of a kind that is not explained" in reply["errors"][0]["message"]
        assert not (await asked(face, "/v1/models"))[1]["models"][0]["explains"]
        assert "409" in (await asked(face, "/openapi.json"))[1]["paths"]["/v1/explain"]["post"]["responses"]

    asyncio.run(run())
