"""Texts that wait at the same time are run together, in batches of like length; the same text is run once.

    batcher = Batcher(tokenise, run, Budget(texts=32, tokens=4096), executor)
    values_BC, requests = await batcher(["Win a prize now"])

Fair: each request's texts stand in a line of their own, and all lines move together, so that a single text does not wait
behind the whole of a long list. Texts are taken from the line in rounds, and each round is cut into batches: a text that came
later overtakes nobody for being as long as the one whose turn it is. Shapes: B texts, C columns of a result.
"""

import asyncio
import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import count

import numpy as np
from tokenizers import Encoding

from serve.lengths import Budget, batches


class Full(Exception):
    """More texts wait than may."""


@dataclass(slots=True)
class Counts:
    """What a batcher has done so far."""

    batches: int = 0
    texts: int = 0
    """Texts run."""
    tokens: int = 0
    """Tokens run, without padding."""
    padded_tokens: int = 0
    """Tokens run, padding included."""
    joined: int = 0
    """Texts that were in work already for another place or request."""
    cached: int = 0
    """Texts answered from the cache."""

    def copy(self) -> "Counts":
        """As they are now."""
        return replace(self)


@dataclass(eq=False, slots=True)
class _Request:
    """One call, and what it waits for."""

    rows: list[np.ndarray | None]
    lengths: list[int]
    """Of each text, in tokens."""
    done: "asyncio.Future[None]"
    missing: int = 0
    shared: int = 1


@dataclass(eq=False, slots=True)
class _Text:
    """A text that waits or is being run, and the places of requests that want its result."""

    text: str
    order: tuple[float, int]
    """Its turn, then its number: who is served first."""
    since: float
    wanted: list[tuple[_Request, int]] = field(default_factory=list)
    encoding: Encoding | None = None
    length: int = 0
    """In tokens."""

    @property
    def alive(self) -> bool:
        """Whether any request still waits for it."""
        return any(not request.done.done() for request, _ in self.wanted)


@dataclass(slots=True)
class _Step:
    """What the engine's thread gives back: a batch with its result or its error, and texts that nobody waits for."""

    batch: list[_Text]
    values_BC: np.ndarray | None = None
    error: Exception | None = None
    dropped: list[_Text] = field(default_factory=list)
    goes_on: bool = False
    """Whether its thread has begun the next step by itself."""


class Batcher:
    """Collects texts from the calls of one event loop, and runs them on an executor of one thread.

    The line of those who wait belongs to the executor's thread, which goes from batch to batch by itself: the engine never
    waits for a busy event loop. What is asked and what is answered belongs to the event loop.
    """

    def __init__(
        self,
        tokenise: Callable[[list[str]], list[Encoding]],
        run: Callable[[list[Encoding]], np.ndarray],
        budget: Budget,
        executor: Executor,
        wait_seconds: float = 0.0,
        cache_texts: int = 0,
        max_waiting: int = 1 << 20,
    ) -> None:
        self.tokenise, self.run, self.budget, self.executor = tokenise, run, budget, executor
        self.wait_seconds, self.cache_texts, self.max_waiting = wait_seconds, cache_texts, max_waiting
        self.counts = Counts()
        self._sizes: deque[int] = deque(maxlen=10_000)
        self._cache: OrderedDict[bytes, tuple[np.ndarray, int]] = OrderedDict()
        self._pending: dict[str, _Text] = {}
        self._numbers = count()
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        # From the event loop to the executor's thread, which puts them into the line and from there into a round.
        self._came: deque[_Text] = deque()
        self._line: list[tuple[tuple[float, int], _Text]] = []
        # Its batches that are still to be run.
        self._round: list[list[_Text]] = []
        self._turn = 0.0

    @property
    def waiting(self) -> int:
        """Texts that wait or are being run."""
        return len(self._pending)

    def take_sizes(self) -> list[int]:
        """Texts in each forward pass since the last call."""
        sizes = list(self._sizes)
        self._sizes.clear()
        return sizes

    async def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, int, list[int]]:
        """One row a text, how many requests at most shared a batch with it, and the texts' lengths in tokens.

        Full when too many texts wait already.
        """
        if len(self._pending) + len(texts) > self.max_waiting:
            raise Full
        loop = asyncio.get_running_loop()
        request = _Request([None] * len(texts), [0] * len(texts), loop.create_future())
        for place, text in enumerate(texts):
            self._want(request, place, text)
        if request.missing:
            self._go_on(loop)
            await request.done
        return np.stack([row for row in request.rows if row is not None]), request.shared, request.lengths

    def _want(self, request: _Request, place: int, text: str) -> None:
        if self.cache_texts and (known := self._cache.get(_key(text))) is not None:
            self._cache.move_to_end(_key(text))
            request.rows[place], request.lengths[place] = known
            self.counts.cached += 1
            return
        waiting = self._pending.get(text)
        if waiting is None:
            # The turn of the text served last, plus its place in the request: no line is ahead of another.
            order = self._turn + request.missing, next(self._numbers)
            waiting = self._pending[text] = _Text(text, order, time.monotonic())
            self._came.append(waiting)
        else:
            self.counts.joined += 1
        waiting.wanted.append((request, place))
        request.missing += 1

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the next step, unless one runs; where batches wait for more, once one is full or has waited long enough."""
        if self._running or not self._pending:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.wait_seconds and len(self._pending) < self.budget.texts:
            first = min(text.since for text in self._pending.values())
            left = first + self.wait_seconds - time.monotonic()
            if left > 0:
                self._timer = loop.call_later(left, self._go_on, loop)
                return
        self._running = True
        self.executor.submit(self._step, loop)

    def _step(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the executor: run the next batch, of the next round where the last one is over, and begin the step after it."""
        step = _Step([])
        try:
            if not self._round:
                # Whose the error is, if they cannot be tokenised.
                step.batch = self._take(step)
                self._round, step.batch = self._cut(step.batch), []
            while self._round and not step.batch:
                step.batch = _alive(self._round.pop(0), step)
            if step.batch:
                self._turn = max(self._turn, _oldest(step.batch)[0])
                step.values_BC = self.run([text.encoding for text in step.batch if text.encoding is not None])
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the requests of this batch
            step.error = error
        step.goes_on = not self.wait_seconds and bool(self._round or self._line or self._came)
        if step.goes_on:
            # Behind what else waits for this thread: another batcher, a check of health.
            self.executor.submit(self._step, loop)
        loop.call_soon_threadsafe(self._deliver, loop, step)

    def _take(self, step: _Step) -> list[_Text]:
        """The texts of the next round: those whose turn it is, as many as fit into one batch."""
        while self._came:
            text = self._came.popleft()
            heapq.heappush(self._line, (text.order, text))
        taken: list[_Text] = []
        while self._line and len(taken) < self.budget.texts:
            taken += _alive([heapq.heappop(self._line)[1]], step)
        return taken

    def _cut(self, texts: list[_Text]) -> list[list[_Text]]:
        """Batches of like length, those first whose oldest text came first."""
        if not texts:
            return []
        for text, encoding in zip(texts, self.tokenise([text.text for text in texts]), strict=True):
            text.encoding, text.length = encoding, len(encoding)
        made = [[texts[row] for row in rows] for rows in batches([text.length for text in texts], self.budget)]
        return sorted(made, key=_oldest)

    def _deliver(self, loop: asyncio.AbstractEventLoop, step: _Step) -> None:
        """On the event loop: give the results to those who wait for them."""
        for text in step.dropped:
            if text.alive:  # somebody asked for it meanwhile
                self._came.append(text)
            else:
                del self._pending[text.text]
        requests = {request for text in step.batch for request, _ in text.wanted}
        for row, text in enumerate(step.batch):
            del self._pending[text.text]
            for request, place in text.wanted:
                if request.done.done():
                    continue
                if step.values_BC is None:
                    request.done.set_exception(step.error or RuntimeError("a batch without a result"))
                    continue
                request.rows[place], request.lengths[place] = step.values_BC[row], text.length
                request.shared = max(request.shared, len(requests))
                request.missing -= 1
                if not request.missing:
                    request.done.set_result(None)
        if step.values_BC is not None:
            self._note(step.batch, step.values_BC)
        self._running = step.goes_on
        self._go_on(loop)

    def _note(self, batch: list[_Text], values_BC: np.ndarray) -> None:
        lengths = [text.length for text in batch]
        self._sizes.append(len(batch))
        self.counts.batches += 1
        self.counts.texts += len(batch)
        self.counts.tokens += sum(lengths)
        self.counts.padded_tokens += len(batch) * max(lengths)
        if self.cache_texts:
            for text, row in zip(batch, values_BC, strict=True):
                self._cache[_key(text.text)] = row.copy(), text.length
            while len(self._cache) > self.cache_texts:
                self._cache.popitem(last=False)


def _alive(texts: list[_Text], step: _Step) -> list[_Text]:
    """Those that a request still waits for; the others are dropped. Asked once a text, for the event loop may change it."""
    kept: list[_Text] = []
    for text in texts:
        (kept if text.alive else step.dropped).append(text)
    return kept


def _oldest(batch: list[_Text]) -> tuple[float, int]:
    """The order of the text whose turn comes first."""
    return min(text.order for text in batch)


def _key(text: str) -> bytes:
    """The cache keeps no text, and its size does not depend on their lengths."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
