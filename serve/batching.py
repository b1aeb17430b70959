"""Texts that wait at the same time are run together, in batches of like length; the same text is run once.

    batcher = Batcher(tokenise, run, Budget(texts=32, tokens=4096), executor)
    values_BC, requests = await batcher(["Win a prize now"])

Fair: each request's texts stand in a line of their own, and all lines move together, so that a single text does not wait
behind the whole of a long list. Shapes: B texts, C columns of a result.
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

from serve.lengths import Budget, gather

# Texts that are tokenised ahead, to choose a batch of like length from.
WINDOW_BATCHES = 8


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
    done: "asyncio.Future[None]"
    missing: int = 0
    shared: int = 1


@dataclass(eq=False, slots=True)
class _Text:
    """A text that waits or is being run, and the places of requests that want its result."""

    text: str
    turn: float
    number: int
    since: float
    wanted: list[tuple[_Request, int]] = field(default_factory=list)
    encoding: Encoding | None = None

    def __lt__(self, other: "_Text") -> bool:
        return (self.turn, self.number) < (other.turn, other.number)

    @property
    def alive(self) -> bool:
        """Whether any request still waits for it."""
        return any(not request.done.done() for request, _ in self.wanted)

    def __len__(self) -> int:
        return 0 if self.encoding is None else len(self.encoding)


class Batcher:
    """Collects texts from the calls of one event loop, and runs them on an executor of one thread."""

    def __init__(
        self,
        tokenise: Callable[[list[str]], list[Encoding]],
        run: Callable[[list[Encoding]], np.ndarray],
        budget: Budget,
        executor: Executor,
        wait_seconds: float = 0.0,
        cache_texts: int = 0,
        max_waiting: int = 1 << 20,
        observe: Callable[[list[int], np.ndarray], None] | None = None,
    ) -> None:
        self.tokenise, self.run, self.budget, self.executor = tokenise, run, budget, executor
        self.wait_seconds, self.cache_texts, self.max_waiting = wait_seconds, cache_texts, max_waiting
        self.observe = observe
        self.counts = Counts()
        self._sizes: deque[int] = deque(maxlen=10_000)
        self._cache: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._pending: dict[str, _Text] = {}
        self._line: list[_Text] = []
        self._window: list[_Text] = []
        self._numbers = count()
        self._turn = 0.0
        self._enough = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Texts that wait or are being run."""
        return len(self._pending)

    def take_sizes(self) -> list[int]:
        """Texts in each forward pass since the last call."""
        sizes = list(self._sizes)
        self._sizes.clear()
        return sizes

    async def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """One row a text, and how many requests at most shared a batch with it. Full when too many texts wait already."""
        if len(self._pending) + len(texts) > self.max_waiting:
            raise Full
        loop = asyncio.get_running_loop()
        request = _Request([None] * len(texts), loop.create_future())
        for place, text in enumerate(texts):
            self._want(request, place, text)
        if request.missing:
            if len(self._pending) >= self.budget.texts:
                self._enough.set()
            if self._pump is None or self._pump.done():
                self._pump = loop.create_task(self._run_all())
            await request.done
        return np.stack([row for row in request.rows if row is not None]), request.shared

    def _want(self, request: _Request, place: int, text: str) -> None:
        if self.cache_texts and (known := self._cache.get(_key(text))) is not None:
            self._cache.move_to_end(_key(text))
            request.rows[place] = known
            self.counts.cached += 1
            return
        waiting = self._pending.get(text)
        if waiting is None:
            # The turn of the text served last, plus its place in the request: no line is ahead of another.
            waiting = _Text(text, self._turn + request.missing, next(self._numbers), time.monotonic())
            self._pending[text] = waiting
            heapq.heappush(self._line, waiting)
        else:
            self.counts.joined += 1
        waiting.wanted.append((request, place))
        request.missing += 1

    async def _run_all(self) -> None:
        """Run batch after batch until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._pending:
            if self.wait_seconds:
                await self._wait_for_more()
            fresh = self._refill()
            if not self._window:
                continue
            batch, values_BC, error = await loop.run_in_executor(self.executor, self._step, fresh)
            self._deliver(batch, values_BC, error)

    async def _wait_for_more(self) -> None:
        """Until a batch is full, or its first text has waited long enough."""
        self._enough.clear()
        if len(self._pending) < self.budget.texts:
            first = min(text.since for text in self._pending.values())
            left = first + self.wait_seconds - time.monotonic()
            if left > 0:
                try:
                    await asyncio.wait_for(self._enough.wait(), left)
                except TimeoutError:
                    return

    def _refill(self) -> list[_Text]:
        """Forget texts that nobody waits for any more, and fill the window; returns what is not tokenised yet."""
        for text in [text for text in self._window if not text.alive]:
            self._window.remove(text)
            del self._pending[text.text]
        fresh = []
        while self._line and len(self._window) < WINDOW_BATCHES * self.budget.texts:
            text = heapq.heappop(self._line)
            if text.alive:
                self._window.append(text)
                fresh.append(text)
            else:
                del self._pending[text.text]
        return fresh

    def _step(self, fresh: list[_Text]) -> tuple[list[_Text], np.ndarray | None, Exception | None]:
        """On the executor: tokenise what came, choose a batch around the text whose turn it is, run it."""
        batch = fresh
        try:
            for text, encoding in zip(fresh, self.tokenise([text.text for text in fresh]) if fresh else [], strict=True):
                text.encoding = encoding
            batch = gather(self._window, min(self._window), self.budget)
            return batch, self.run([text.encoding for text in batch if text.encoding is not None]), None
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the requests of this batch
            return batch, None, error

    def _deliver(self, batch: list[_Text], values_BC: np.ndarray | None, error: Exception | None) -> None:
        chosen = set(batch)
        self._window = [text for text in self._window if text not in chosen]
        self._turn = max(self._turn, min(batch).turn)
        requests = {request for text in batch for request, _ in text.wanted}
        for row, text in enumerate(batch):
            del self._pending[text.text]
            for request, place in text.wanted:
                if request.done.done():
                    continue
                if values_BC is None:
                    request.done.set_exception(error or RuntimeError("a batch without a result"))
                    continue
                request.rows[place] = values_BC[row]
                request.shared = max(request.shared, len(requests))
                request.missing -= 1
                if not request.missing:
                    request.done.set_result(None)
        if values_BC is not None:
            self._note(batch, values_BC)

    def _note(self, batch: list[_Text], values_BC: np.ndarray) -> None:
        lengths = [len(text) for text in batch]
        self._sizes.append(len(batch))
        self.counts.batches += 1
        self.counts.texts += len(batch)
        self.counts.tokens += sum(lengths)
        self.counts.padded_tokens += len(batch) * max(lengths)
        if self.observe is not None:
            self.observe(lengths, values_BC)
        if self.cache_texts:
            for text, row in zip(batch, values_BC, strict=True):
                self._cache[_key(text.text)] = row.copy()
            while len(self._cache) > self.cache_texts:
                self._cache.popitem(last=False)


def _key(text: str) -> bytes:
    """The cache keeps no text, and its size does not depend on their lengths."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
