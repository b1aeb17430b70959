"""Requests at a steady rate while something breaks, each answer checked: what a client without and with retries sees.

load = SteadyLoad(url, right)             # right: the answers by the model's fingerprint and the text
load.start()
…                                         # break something
seen = load.stop()
"""

import asyncio
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

PER_SECOND = 50
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.25
CLOSE = 1e-4
"""How far a probability may be from the engine's own: batch mates change the rounding."""
Right = Mapping[str, Mapping[str, tuple[str, float]]]


@dataclass
class Seen:
    """What the clients saw."""

    requests: int = 0
    first_failures: Counter[str] = field(default_factory=Counter)
    """Requests whose first try failed, by what it met."""
    lost: list[str] = field(default_factory=list)
    """What the last try met, of requests that a client with retries had to give up."""
    wrong: list[str] = field(default_factory=list)
    """Answers that are not the model's."""
    versions: set[str] = field(default_factory=set)
    """Fingerprints of the models that answered."""
    milliseconds: list[float] = field(default_factory=list)
    """From the first try to the answer."""

    def p99(self) -> float:
        """Of the time from the first try to the answer, in ms."""
        return sorted(self.milliseconds)[math.ceil(0.99 * len(self.milliseconds)) - 1]


class SteadyLoad(threading.Thread):
    """Asks for one text after the other, at PER_SECOND whether or not answers come back.

    A client tries again on 503 and where its connection is refused or breaks, and on nothing else.
    """

    def __init__(self, url: str, texts: Sequence[str], right: Right) -> None:
        super().__init__()
        self._url, self._texts, self._right = url, texts, right
        self._ended = threading.Event()
        self._seen = Seen()

    def stop(self) -> Seen:
        """Begin no more requests, wait for those that are under way, and tell what was seen."""
        self._ended.set()
        self.join()
        return self._seen

    def run(self) -> None:
        asyncio.run(self._ask_steadily())

    async def _ask_steadily(self) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as requests:
            began = time.monotonic()
            for number in itertools.count():
                await asyncio.sleep(began + number / PER_SECOND - time.monotonic())
                if self._ended.is_set():
                    return
                requests.create_task(self._ask(session, self._texts[number % len(self._texts)]))

    async def _ask(self, session: aiohttp.ClientSession, text: str) -> None:
        began = time.monotonic()
        self._seen.requests += 1
        for attempt in itertools.count():
            met, may_try_again, reply = await self._try(session, text)
            if reply is not None:
                self._seen.milliseconds.append((time.monotonic() - began) * 1e3)
                self._check(text, reply)
                return
            if attempt == 0:
                self._seen.first_failures[met] += 1
            if not may_try_again or time.monotonic() > began + PATIENCE_SECONDS:
                self._seen.lost.append(met)
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def _try(self, session: aiohttp.ClientSession, text: str) -> tuple[str, bool, Any]:
        """What was met, whether a client asks again then, and the reply where there is one."""
        try:
            async with session.post(self._url, json={"inputs": text}) as response:
                if response.status == 200:
                    return "200", False, await response.json()
                return str(response.status), response.status == 503, None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            return type(error).__name__, True, None
        except TimeoutError:
            return "no answer", False, None

    def _check(self, text: str, reply: Any) -> None:
        version, answer = reply["model"]["fingerprint"], reply["answers"][0]
        self._seen.versions.add(version)
        label, probability = self._right[version][text]
        if answer["label"] != label or abs(answer["probability"] - probability) > CLOSE:
            self._seen.wrong.append(f"{text!r}: {answer['label']} {answer['probability']}, not {label} {probability}")
