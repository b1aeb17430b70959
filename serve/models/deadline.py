"""How much time the request that is being answered has left: its client may have asked for little (X-Request-Timeout).

    with deadline_in(2.5):
        left()                    # 2.25, and less and less

It travels with the request's own task, so whatever stands between request and model may ask.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

MARGIN = 0.1
"""The share of a request's time that is kept back, to send an answer that is there."""

NEVER = 1e12
"""When a request without a deadline ends: finite, for parts of the time that is left are reckoned with."""
_ends_at: ContextVar[float] = ContextVar("ends_at", default=NEVER)


@contextlib.contextmanager
def deadline_in(seconds: float) -> Iterator[None]:
    """What runs inside has so much time."""
    token = _ends_at.set(asyncio.get_running_loop().time() + (1 - MARGIN) * seconds)
    try:
        yield
    finally:
        _ends_at.reset(token)


def left() -> float:
    """Seconds until the deadline of the request that is being answered, without the margin; very many where there is none."""
    return _ends_at.get() - asyncio.get_running_loop().time()
