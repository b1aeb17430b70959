"""Batches: by length, fair, each text once, bounded; and what becomes of errors and of callers who leave."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Encoding

from serve.engines.base import Engine
from serve.engines.engine import load_engine
from serve.engines.lengths import BatchBudget, batches
from serve.models.batching import Batcher, Full, Work
from serve.tasks.protocol import Output, Outputs
from tests.serve.tiny_model import TEXTS, texts_as_items

FOUR = BatchBudget(4, 4096)


class Recorder:
    """The tiny engine, which notes what is run, takes its time, and fails on one text."""

    def __init__(
        self, engine: Engine, budget: BatchBudget = FOUR, cache_texts: int = 0, max_waiting: int = 1000, seconds: float = 0.0
    ) -> None:
        self.engine, self.seconds, self.ran = engine, seconds, list[list[list[int]]]()
        work = Work(engine.tokenise, self.run, engine.joined)
        self.batcher = Batcher(work, budget, ThreadPoolExecutor(1), 0.0, cache_texts, max_waiting)

    async def __call__(self, texts: list[str]) -> tuple[list[Output], int, list[int]]:
        """What the batcher says of texts."""
        return await self.batcher(texts_as_items(texts))

    def run(self, windows: Sequence[Encoding]) -> Outputs:
        self.ran.append([window.ids for window in windows])
        time.sleep(self.seconds)
        if ids_of(self.engine, "keys film") in self.ran[-1]:
            raise RuntimeError("the engine fails on this text")
        return self.engine.forward(windows)


def ids_of(engine: Engine, text: str) -> list[int]:
    """The tokens of a text."""
    (windows,) = engine.tokenise(texts_as_items([text]))
    return windows[0].ids


def logits_of(engine: Engine, texts: list[str]) -> np.ndarray:
    """What the engine says of texts by itself."""
    return np.asarray(engine.outputs(texts_as_items(texts)))


@pytest.fixture(scope="module")
def engine(model_directory: Path) -> Engine:
    return load_engine(model_directory)


def test_batches_hold_every_text_once_within_the_budget_and_pad_little() -> None:
    lengths = np.random.default_rng(0).integers(1, 129, 500).tolist()
    made = batches(lengths, BatchBudget(texts=16, tokens=512))
    assert sorted(index for rows in made for index in rows) == list(range(500))
    for rows in made:
        longest = max(lengths[index] for index in rows)
        assert len(rows) <= 16 and (len(rows) == 1 or len(rows) * longest <= 512)
    padded = sum(len(rows) * max(lengths[index] for index in rows) for rows in made)
    assert padded < 1.1 * sum(lengths)
    assert batches([600, 3], BatchBudget(16, 512)) == [[1], [0]], "a text over the budget is run alone"


def test_rows_come_back_to_their_texts(engine: Engine) -> None:
    async def ask() -> list[tuple[list[Output], int, list[int]]]:
        recorder = Recorder(engine)
        return await asyncio.gather(*(recorder(TEXTS[turn:] + TEXTS[:turn]) for turn in range(5)))

    for turn, (outputs, *_) in enumerate(asyncio.run(ask())):
        np.testing.assert_allclose(outputs, logits_of(engine, TEXTS[turn:] + TEXTS[:turn]), atol=1e-4)


def test_the_same_text_in_flight_is_run_once_and_an_answer_may_be_kept(engine: Engine) -> None:
    async def ask(cache: int) -> tuple[int, int, int]:
        recorder = Recorder(engine, cache_texts=cache)
        await asyncio.gather(*(recorder(["see you", "see you"]) for _ in range(8)))
        assert [sum(map(len, recorder.ran)), recorder.batcher.counts.joined] == [1, 15]
        await recorder(["see you"])
        await recorder(["at the station"])
        outputs, *_ = await recorder(["see you"])
        np.testing.assert_allclose(outputs, logits_of(engine, ["see you"]), atol=1e-4)
        return sum(map(len, recorder.ran)), recorder.batcher.counts.cached, recorder.batcher.waiting

    assert asyncio.run(ask(cache=0)) == (4, 0, 0)
    assert asyncio.run(ask(cache=8)) == (2, 2, 0)
    # Of two texts the older one had to go.
    assert asyncio.run(ask(cache=1)) == (3, 1, 0)


def test_a_single_text_does_not_wait_behind_a_long_list(engine: Engine) -> None:
    async def ask() -> list[str]:
        recorder, done = Recorder(engine, BatchBudget(2, 4096), seconds=0.02), list[str]()

        async def one(name: str, texts: list[str]) -> None:
            await recorder(texts)
            done.append(name)

        long = asyncio.create_task(one("long", [f"prize {number}" for number in range(100)]))
        await asyncio.sleep(0)
        await one("short", ["see you at the station"])
        assert len(recorder.ran) < 10
        await long
        return done

    assert asyncio.run(ask()) == ["short", "long"]


def test_no_text_is_overtaken_by_a_later_one_of_fitting_length(engine: Engine) -> None:
    short, long = ["keys", "prize", "film"], "see you at the station, bring the keys, bring the film"

    async def ask() -> list[list[list[int]]]:
        recorder = Recorder(engine, BatchBudget(2, 4096), seconds=0.2)
        first = asyncio.create_task(recorder(["a"]))
        while not recorder.ran:
            await asyncio.sleep(0.001)
        await asyncio.gather(first, *(recorder([text]) for text in (short[0], long, *short[1:])))
        return recorder.ran

    encoded = {text: ids_of(engine, text) for text in (*short, long)}
    assert asyncio.run(ask())[1:] == [[encoded[short[0]]], [encoded[long]], [encoded[short[1]], encoded[short[2]]]]


def test_too_many_waiting_texts_are_refused_at_once(engine: Engine) -> None:
    async def ask() -> None:
        batcher = Recorder(engine, max_waiting=10)
        first = asyncio.create_task(batcher([f"text {number}" for number in range(8)]))
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await batcher(["a", "b", "c"])
        assert len((await first)[0]) == 8
        assert len((await batcher(["a", "b", "c"]))[0]) == 3

    asyncio.run(ask())


def test_an_error_meets_its_own_batch_alone(engine: Engine) -> None:
    async def ask() -> None:
        recorder = Recorder(engine, BatchBudget(1, 4096))
        outcomes = await asyncio.gather(
            *(recorder([text]) for text in ("see you", "keys film", "prize")), return_exceptions=True
        )
        assert [isinstance(outcome, RuntimeError) for outcome in outcomes] == [False, True, False]
        assert recorder.batcher.waiting == 0
        assert len((await recorder(["see you"]))[0]) == 1

    asyncio.run(ask())


def test_texts_of_a_caller_who_left_are_not_run(engine: Engine) -> None:
    async def ask() -> int:
        recorder = Recorder(engine, BatchBudget(1, 4096), seconds=0.02)
        left = asyncio.create_task(recorder([f"prize {number}" for number in range(50)]))
        await asyncio.sleep(0)
        await recorder(["see you"])
        left.cancel()
        await recorder(["see you at six"])
        # Theirs leave the line when their turn comes, behind the answer that was waited for.
        async with asyncio.timeout(10):
            while recorder.batcher.waiting:
                await asyncio.sleep(0.001)
        return len(recorder.ran)

    assert asyncio.run(ask()) < 25


def test_a_batch_waits_for_more_until_its_deadline_or_until_it_is_full(engine: Engine) -> None:
    async def ask() -> tuple[float, float, int]:
        recorder = Recorder(engine, BatchBudget(4, 4096))
        recorder.batcher.wait_seconds = 0.2
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(recorder(["see you"]), recorder(["at six"]))
        alone = loop.time() - began
        began = loop.time()
        await recorder(["a", "b", "c", "d"])
        return alone, loop.time() - began, len(recorder.ran)

    alone, full, ran = asyncio.run(ask())
    assert alone >= 0.2 > full
    assert ran == 2
