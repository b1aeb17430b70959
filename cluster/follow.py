"""A job's log while the job runs, and whether it has ended.

for line in follow(client, job_id):
    print(line)
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import TYPE_CHECKING, cast

import aiohttp
import requests

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_SECONDS = 0.3
SECONDS_AWAY = 20.0
"""How long a dashboard may be away before its jobs count as lost."""


class SubmitError(Exception):
    """A job could not be submitted, followed or stopped; the message names it."""


class Lost(SubmitError):
    """A job's cluster went away, and the job with it; once its head is back the same command may be submitted again."""


def follow(client: "JobSubmissionClient", job_id: str) -> Iterator[str]:
    """The job's log, line by line as it comes (at most about a second late), until the job has ended."""
    seen = 0
    rest = ""
    # On Ctrl-C the runner cancels what it waits for, so that the connection is closed in order.
    with asyncio.Runner() as runner:
        stream = _tail(client, job_id)
        while (text := runner.run(_next(stream))) is not None:
            seen += len(text)
            *lines, rest = (rest + text).split("\n")
            yield from lines
    # The stream stops as soon as the job has: what it had not yet sent is in the log itself.
    rest += client.get_job_logs(job_id)[seen:]
    yield from rest.splitlines()


def has_ended(client: "JobSubmissionClient", job_id: str) -> bool:
    """Whether the job has ended; a dashboard that is away for a while is waited for."""
    deadline = time.monotonic() + SECONDS_AWAY
    while True:
        try:
            return bool(client.get_job_status(job_id).is_terminal())
        except requests.ConnectionError as error:
            if time.monotonic() > deadline:
                reason = f"its cluster has not answered for {SECONDS_AWAY:.0f} s ({error})"
                raise Lost(f"{job_id}: {reason}; when its head is back, submit the same command again") from error
            time.sleep(POLL_SECONDS)
        except RuntimeError as error:
            if "does not exist" in str(error):
                raise Lost(f"{job_id}: its cluster was started anew and does not know it; submit it again") from error
            raise SubmitError(f"{job_id}: the cluster does not tell its status: {error}") from error


async def _tail(client: "JobSubmissionClient", job_id: str) -> AsyncIterator[str]:
    """Pieces of the log until the job ends; the server alone would notice the end up to four seconds late."""
    seen = 0
    while not has_ended(client, job_id):
        skip = seen
        # A generator though Ray declares a mere iterator: closing it closes the connection.
        async with contextlib.aclosing(cast("AsyncGenerator[str, None]", client.tail_job_logs(job_id))) as source:
            while (text := await _next_piece(client, job_id, source)) is not None:
                fresh, skip = text[skip:], max(0, skip - len(text))
                seen += len(fresh)
                yield fresh
        # The connection ended before the job did (a restarted dashboard): open it again, and skip what was sent.
        await asyncio.sleep(POLL_SECONDS)


async def _next_piece(client: "JobSubmissionClient", job_id: str, source: AsyncIterator[str]) -> str | None:
    waiting = asyncio.create_task(_next(source))
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=POLL_SECONDS)
            if not waiting.done() and has_ended(client, job_id):
                return None
        return waiting.result()
    except (RuntimeError, aiohttp.ClientError) as error:
        print(f"{job_id}: the log's connection broke ({error}); opening it again", file=sys.stderr)
        return None
    finally:
        waiting.cancel()
        await asyncio.wait({waiting})


async def _next(stream: AsyncIterator[str]) -> str | None:
    return await anext(stream, None)
