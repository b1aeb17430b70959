"""A job's log while the job runs, and whether it has ended.

for line in follow(client, job_id):
    print(line)

A dashboard that answers late, wrongly or not at all is waited for: nothing here ends or stops a job.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, TypeVar

import aiohttp

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

POLL_SECONDS = 0.3
SECONDS_AWAY = 300.0
"""How long a dashboard may give no right answer before its jobs count as lost."""
REST_SECONDS = 10.0
"""How long the rest of an ended job's log may be on its way; Ray reads the file once a second."""
LONGEST_PAUSE = 300.0
"""Before a log's stream that breaks again and again without a new word is opened once more: Ray sends it from its start."""
LONGEST_LINE = 100_000
"""Characters; what is longer comes in pieces."""
LONGEST_ERROR = 240


class SubmitError(Exception):
    """A job could not be submitted, followed or stopped; the message names it."""


class Lost(SubmitError):
    """A job's cluster went away, and the job with it; once its head is back the same command may be submitted again."""


def follow(client: "JobSubmissionClient", job_id: str) -> Iterator[str]:
    """The job's log, line by line as it comes (at most about a second late), until the job has ended."""
    for lines, _ in watch(client, job_id):
        yield from lines


def watch(client: "JobSubmissionClient", job_id: str) -> Generator[tuple[list[str], bool], None, None]:
    """The lines that have come since the last time, and whether the job has ended; something every POLL_SECONDS.

    It goes on behind the job's end until the log has come to its own.
    """
    rest, ended, asked, heard = "", False, 0.0, 0.0
    # On Ctrl-C the runner cancels what it waits for, so that the connection is closed in order.
    with asyncio.Runner() as runner:
        log = _Log(client, job_id)
        while True:
            # Asked outside of the event loop, which would keep Ctrl-C waiting for the answer.
            if not ended and time.monotonic() - asked >= POLL_SECONDS:
                ended, asked = has_ended(client, job_id), time.monotonic()
                heard = asked
            text = runner.run(log.read(POLL_SECONDS))
            if text is None and (ended := ended or has_ended(client, job_id)):
                break
            if text:
                heard = time.monotonic()
            elif ended and time.monotonic() - heard > REST_SECONDS:
                print(f"{job_id}: the end of its log does not come", file=sys.stderr)
                break
            *lines, rest = (rest + (text or "")).split("\n")
            while len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest[:LONGEST_LINE]], rest[LONGEST_LINE:]
            yield lines, ended
    if rest:
        yield [rest], True


def has_ended(client: "JobSubmissionClient", job_id: str, seconds: float | None = None) -> bool:
    """Whether the job has ended; a dashboard that is away is waited for, for so long, then Lost."""
    return bool(patiently(lambda: client.get_job_status(job_id), job_id, seconds).is_terminal())


def patiently(ask: Callable[[], T], what: str, seconds: float | None = None) -> T:
    """The cluster's answer; while it fails (no connection, a server's error, no sense in it) it is asked again.

    Raises Lost where that goes on for so many seconds (SECONDS_AWAY), or where the cluster does not know the job.
    """
    seconds = SECONDS_AWAY if seconds is None else seconds
    since = None
    while True:
        try:
            return ask()
        except SubmitError:
            raise
        # Whatever else it is: it says nothing about the job.
        except Exception as error:
            if is_unknown(error):
                raise Lost(f"{what}: its cluster was started anew and does not know it; submit it again") from error
            said = in_a_line(error)
            if since is None:
                since = time.monotonic()
                print(f"{what}: no answer from its cluster ({said}); asking for {_words(seconds)} more", file=sys.stderr)
            if time.monotonic() - since > seconds:
                reason = f"its cluster has given no answer for {_words(seconds)} ({said})"
                raise Lost(f"{what}: {reason}; when its head is back, submit the same command again") from error
            time.sleep(POLL_SECONDS)


def is_unknown(error: Exception) -> bool:
    """Whether this is how Ray says that it has no such job."""
    return "status code 404" in str(error) and "does not exist" in str(error)


def in_a_line(error: Exception) -> str:
    """An error: an answer may be a page of HTML or a traceback."""
    lines = str(error).strip().splitlines() or [""]
    said = f"{type(error).__name__}: {lines[0]}{' … ' + lines[-1] if len(lines) > 1 else ''}"
    return said if len(said) <= LONGEST_ERROR else said[:LONGEST_ERROR] + "…"


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


class _Log:
    """The server's stream of a log: opened again where it broke, and gone on with behind what had come."""

    def __init__(self, client: "JobSubmissionClient", job_id: str) -> None:
        self.client, self.job_id = client, job_id
        self.stream: AsyncIterator[str] | None = None
        self.piece: asyncio.Task[str | None] | None = None
        self.seen, self.skip = 0, 0
        """Characters that have come, and those of them that an opened stream sends once more."""
        self.opens, self.pause, self.told = 0.0, POLL_SECONDS, ""

    async def read(self, seconds: float) -> str | None:
        """What has come within so many seconds, nothing too; None where the server has closed the stream in order."""
        if self.stream is None:
            if time.monotonic() < self.opens:
                await asyncio.sleep(seconds)
                return ""
            self.stream, self.skip = self.client.tail_job_logs(self.job_id), self.seen
        self.piece = self.piece or asyncio.create_task(_next(self.stream))
        await asyncio.wait({self.piece}, timeout=seconds)
        if not self.piece.done():
            return ""
        piece, self.piece = self.piece, None
        try:
            text = piece.result()
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            self._close(in_a_line(error))
            return ""
        if text is None:
            self._close()
            return None
        fresh, self.skip = text[self.skip :], max(0, self.skip - len(text))
        self.seen += len(fresh)
        self.pause = POLL_SECONDS if fresh else self.pause
        return fresh

    def _close(self, reason: str = "") -> None:
        if reason and reason != self.told:
            print(f"{self.job_id}: the log's connection broke ({reason}); opening it again", file=sys.stderr)
            self.told = reason
        self.stream, self.opens = None, time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)


async def _next(stream: AsyncIterator[str]) -> str | None:
    return await anext(stream, None)
