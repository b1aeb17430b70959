"""Items that wait at the same time are run together, in batches of like length; the same item is run once.

    batcher = Batcher(Work(engine.tokenise, engine.run, engine.joined), BatchBudget(texts=32, tokens=4096), executor)
    outputs, requests, lengths = await batcher([Item(("Win a prize now",))])

Fair: each request's items stand in a line of their own, and all lines move together, so that a single item does not wait
behind the whole of a long list. Items are taken from the line in rounds, and the windows of each round are cut into batches:
an item that came later overtakes nobody for being as long as the one whose turn it is. An item is answered once all its
windows were run.
"""

import asyncio
import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import count

from tokenizers import Encoding

from serve.engines.lengths import BatchBudget, batches
from serve.tasks.protocol import Item, Output, Outputs


class Full(Exception):
    """More items wait than may."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with items: cut into windows, these run in batches, and joined again."""

    tokenise: Callable[[Sequence[Item]], list[list[Encoding]]]
    run: Callable[[Sequence[Encoding]], Outputs]
    joined: Callable[[Item, Sequence[Encoding], Sequence[Output]], Output]


@dataclass(slots=True)
class BatchCounts:
    """What a batcher has done so far."""

    batches: int = 0
    texts: int = 0
    """Items' windows run."""
    tokens: int = 0
    """Tokens run, without padding."""
    padded_tokens: int = 0
    """Tokens run, padding included."""
    joined: int = 0
    """Items that were in work already for another place or request."""
    cached: int = 0
    """Items answered from the cache."""

    def copy(self) -> "BatchCounts":
        """As they are now."""
        return replace(self)


@dataclass(eq=False, slots=True)
class _Request:
    """One call, and what it waits for."""

    outputs: list[Output]
    lengths: list[int]
    """Of each item, in tokens."""
    done: "asyncio.Future[None]"
    missing: int = 0
    shared: int = 1


@dataclass(eq=False, slots=True)
class _Waiting:
    """An item that waits or is being run, and the places of requests that want its output."""

    item: Item
    order: tuple[float, int]
    """Its turn, then its number: who is served first."""
    since: float
    wanted: list[tuple[_Request, int]] = field(default_factory=list)
    windows: list[Encoding] = field(default_factory=list)
    said: list[Output] = field(default_factory=list)
    """Of each window that was run, in the order of the windows."""
    unread: int = 0
    """Windows that are still to be run."""
    output: Output = None
    length: int = 0
    """In tokens."""

    @property
    def alive(self) -> bool:
        """Whether any request still waits for it."""
        return any(not request.done.done() for request, _ in self.wanted)


_Window = tuple[_Waiting, int]
"""One of an item's windows, by its number."""


@dataclass(slots=True)
class _Step:
    """What the engine's thread gives back: a batch that was run, the items that it brought to their end, and those that nobody
    waits for."""

    batch: list[_Window]
    done: list[_Waiting] = field(default_factory=list)
    error: Exception | None = None
    dropped: list[_Waiting] = field(default_factory=list)
    goes_on: bool = False
    """Whether its thread has begun the next step by itself."""


class Batcher:
    """Collects items from the calls of one event loop, and runs them on an executor of one thread.

    The line of those who wait belongs to the executor's thread, which goes from batch to batch by itself: the engine never
    waits for a busy event loop. What is asked and what is answered belongs to the event loop.
    """

    def __init__(
        self,
        work: Work,
        budget: BatchBudget,
        executor: Executor,
        wait_seconds: float = 0.0,
        cache_texts: int = 0,
        max_waiting: int = 1 << 20,
    ) -> None:
        self.work, self.budget, self.executor = work, budget, executor
        self.wait_seconds, self.cache_texts, self.max_waiting = wait_seconds, cache_texts, max_waiting
        self.counts = BatchCounts()
        self._sizes: deque[int] = deque(maxlen=10_000)
        self._cache: OrderedDict[bytes, tuple[Output, int]] = OrderedDict()
        self._pending: dict[Item, _Waiting] = {}
        self._numbers = count()
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        # From the event loop to the executor's thread, which puts them into the line and from there into a round.
        self._came: deque[_Waiting] = deque()
        self._line: list[tuple[tuple[float, int], _Waiting]] = []
        # Its batches that are still to be run.
        self._round: list[list[_Window]] = []
        self._turn = 0.0

    @property
    def waiting(self) -> int:
        """Items that wait or are being run."""
        return len(self._pending)

    def take_sizes(self) -> list[int]:
        """Windows in each forward pass since the last call."""
        sizes = list(self._sizes)
        self._sizes.clear()
        return sizes

    async def __call__(self, items: Sequence[Item]) -> tuple[list[Output], int, list[int]]:
        """One output an item, how many requests at most shared a batch with it, and the items' lengths in tokens.

        Full when too many items wait already.
        """
        if len(self._pending) + len(items) > self.max_waiting:
            raise Full
        loop = asyncio.get_running_loop()
        request = _Request([None] * len(items), [0] * len(items), loop.create_future())
        for place, item in enumerate(items):
            self._want(request, place, item)
        if request.missing:
            self._go_on(loop)
            await request.done
        return request.outputs, request.shared, request.lengths

    def _want(self, request: _Request, place: int, item: Item) -> None:
        if self.cache_texts and (known := self._cache.get(item.key)) is not None:
            self._cache.move_to_end(item.key)
            request.outputs[place], request.lengths[place] = known
            self.counts.cached += 1
            return
        waiting = self._pending.get(item)
        if waiting is None:
            # The turn of the item served last, plus its place in the request: no line is ahead of another.
            order = self._turn + request.missing, next(self._numbers)
            waiting = self._pending[item] = _Waiting(item, order, time.monotonic())
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
            first = min(waiting.since for waiting in self._pending.values())
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
                step.done = self._take(step)
                self._round, step.done = self._cut(step.done), [one for one in step.done if not one.windows]
                for waiting in step.done:  # without a window, at their end already
                    waiting.output = self.work.joined(waiting.item, [], [])
            while self._round and not step.batch and not step.done:
                step.batch = self._alive(self._round.pop(0), step)
            if step.batch:
                step.done = [waiting for waiting, _ in step.batch]
                self._turn = max(self._turn, _oldest(step.batch)[0])
                step.done = self._read(step.batch)
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the requests of this batch
            step.error = error
            self._forget(set(step.done))
        step.goes_on = not self.wait_seconds and bool(self._round or self._line or self._came)
        if step.goes_on:
            # Behind what else waits for this thread: another batcher, a check of health.
            self.executor.submit(self._step, loop)
        loop.call_soon_threadsafe(self._deliver, loop, step)

    def _take(self, step: _Step) -> list[_Waiting]:
        """The items of the next round: those whose turn it is, as many as fit into one batch."""
        while self._came:
            waiting = self._came.popleft()
            heapq.heappush(self._line, (waiting.order, waiting))
        taken: list[_Waiting] = []
        while self._line and len(taken) < self.budget.texts:
            waiting = heapq.heappop(self._line)[1]
            # Asked once, for the event loop may change it.
            (taken if waiting.alive else step.dropped).append(waiting)
        return taken

    def _cut(self, items: list[_Waiting]) -> list[list[_Window]]:
        """Batches of windows of like length, those first whose oldest item came first."""
        if not items:
            return []
        for waiting, windows in zip(items, self.work.tokenise([waiting.item for waiting in items]), strict=True):
            waiting.windows, waiting.said, waiting.unread = windows, [None] * len(windows), len(windows)
            waiting.length = sum(map(len, windows))
        flat = [(waiting, number) for waiting in items for number in range(len(waiting.windows))]
        lengths = [len(waiting.windows[number]) for waiting, number in flat]
        made = [[flat[row] for row in rows] for rows in batches(lengths, self.budget)]
        return sorted(made, key=_oldest)

    def _alive(self, batch: list[_Window], step: _Step) -> list[_Window]:
        """The windows of items that a request still waits for; the others leave the round with all their windows."""
        # Each asked once, for the event loop may change it.
        alive = {waiting: waiting.alive for waiting in dict.fromkeys(waiting for waiting, _ in batch)}
        gone = [waiting for waiting, wanted in alive.items() if not wanted]
        step.dropped += gone
        self._forget(set(gone))
        return [one for one in batch if alive[one[0]]]

    def _forget(self, items: set[_Waiting]) -> None:
        """Take the rest of their windows out of the round."""
        if items:
            self._round = [left for batch in self._round if (left := [one for one in batch if one[0] not in items])]

    def _read(self, batch: list[_Window]) -> list[_Waiting]:
        """Run a batch; returns the items of which this was the last of their windows, with their outputs."""
        outputs = self.work.run([waiting.windows[number] for waiting, number in batch])
        done = []
        for (waiting, number), output in zip(batch, outputs, strict=True):
            waiting.said[number] = output
            waiting.unread -= 1
            if not waiting.unread:
                waiting.output = self.work.joined(waiting.item, waiting.windows, waiting.said)
                done.append(waiting)
        return done

    def _deliver(self, loop: asyncio.AbstractEventLoop, step: _Step) -> None:
        """On the event loop: give the results to those who wait for them."""
        for waiting in step.dropped:
            if waiting.alive:  # somebody asked for it meanwhile
                self._came.append(waiting)
            else:
                del self._pending[waiting.item]
        sharing = len({request for waiting, _ in step.batch for request, _ in waiting.wanted})
        for waiting, _ in step.batch:
            for request, _ in waiting.wanted:
                request.shared = max(request.shared, sharing)
        for waiting in step.done:
            # An item that fails with one of its windows is told of once.
            if self._pending.pop(waiting.item, None) is not None:
                _hand_over(waiting, step.error)
        if step.error is None and step.batch:
            self._note(step.batch, step.done)
        self._running = step.goes_on
        self._go_on(loop)

    def _note(self, batch: list[_Window], done: list[_Waiting]) -> None:
        lengths = [len(waiting.windows[number]) for waiting, number in batch]
        self._sizes.append(len(batch))
        self.counts.batches += 1
        self.counts.texts += len(batch)
        self.counts.tokens += sum(lengths)
        self.counts.padded_tokens += len(batch) * max(lengths)
        if self.cache_texts:
            for waiting in done:
                self._cache[waiting.item.key] = _alone(waiting.output), waiting.length
            while len(self._cache) > self.cache_texts:
                self._cache.popitem(last=False)


def _hand_over(waiting: _Waiting, error: Exception | None) -> None:
    """Give an item's output, or its error, to the requests that want it."""
    for request, place in waiting.wanted:
        if request.done.done():
            continue
        if error is not None:
            request.done.set_exception(error)
            continue
        request.outputs[place], request.lengths[place] = waiting.output, waiting.length
        request.missing -= 1
        if not request.missing:
            request.done.set_result(None)


def _oldest(batch: list[_Window]) -> tuple[float, int]:
    """The order of the item whose turn comes first."""
    return min(waiting.order for waiting, _ in batch)


def _alone(output: Output) -> Output:
    """A copy: a row of a batch would keep the whole batch in memory."""
    return {name: array.copy() for name, array in output.items()} if isinstance(output, dict) else output.copy()
