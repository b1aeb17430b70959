"""What every request passes on its way in and out: request id, API key, deadline; then the access log and the metrics.

    application = Gate(inner, request_timeout_seconds=30, guard=Guard(keys), finished=(log.note, metrics.note))

One ASGI layer, for each costs time. A client asks for less time by X-Request-Timeout (seconds) and names its request by
X-Request-Id, which comes back.
"""

import asyncio
import logging
import random
import re
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.auth import Guard
from serve.models.deadline import deadline_in
from serve.models.exchange import KEY, Exchange
from serve.models.problems import FieldError, Problem, Refusal, problem_response

LOGGER = logging.getLogger("ray.serve")
ID_HEADER, TIMEOUT_HEADER = b"x-request-id", b"x-request-timeout"
ID_LENGTH = 128
UNSOUND = re.compile(r"[^\x21-\x7e]")
CLIENT_LEFT = 499
FAILED = Problem(title="The server failed on this request; its log has the reason under this X-Request-Id", status=500)
LATE = Problem(title="The answer took longer than allowed", status=504)


class Gate:
    """The ASGI layer around the HTTP application."""

    def __init__(
        self, inner: ASGIApp, request_timeout_seconds: float, guard: Guard, finished: Sequence[Callable[[Exchange], None]] = ()
    ) -> None:
        self.inner, self.timeout, self.guard, self.finished = inner, request_timeout_seconds, guard, finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        headers = dict(scope["headers"])
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/")) or "/"
        exchange = scope[KEY] = Exchange(_request_id(headers), scope["method"], path)
        try:
            await self._answer(headers, scope, receive, send, exchange)
        finally:
            exchange.status = exchange.status or CLIENT_LEFT
            for note in self.finished:
                note(exchange)

    async def _answer(
        self, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send, exchange: Exchange
    ) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            await send(message)

        try:
            exchange.key = self.guard.admit(headers, exchange.path)
            seconds = self._seconds(headers)
            with deadline_in(seconds):
                async with asyncio.timeout(seconds):
                    await self.inner(scope, receive, answer)
        except Refusal as refusal:
            await problem_response(refusal.problem, refusal.headers)(scope, receive, answer)
        except TimeoutError:
            if exchange.status:
                raise
            await problem_response(LATE)(scope, receive, answer)
        except Exception:  # noqa: BLE001  whatever it is, the client gets an answer and the log the reason
            LOGGER.exception(f"request {exchange.request_id} to {exchange.path} failed")
            if not exchange.status:
                await problem_response(FAILED)(scope, receive, answer)

    def _seconds(self, headers: dict[bytes, bytes]) -> float:
        """How long this request may take."""
        wanted = headers.get(TIMEOUT_HEADER)
        if wanted is None:
            return self.timeout
        try:
            seconds = float(wanted)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            message = "Give the seconds that the answer may take, such as 2.5"
            raise Refusal(400, "A header does not fit", [FieldError(field="X-Request-Timeout", message=message)])
        return min(seconds, self.timeout)


def sound_id(given: bytes) -> str:
    """A request's id as it is known here, whatever a client has sent for one."""
    return UNSOUND.sub("?", given.decode("latin-1"))[:ID_LENGTH]


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The client's own, fit to be written into logs. Serve gives one to a request without, and sends it back in the reply."""
    given = headers.get(ID_HEADER)
    # No secret, so no call to the system for it: the engine's thread would take the interpreter meanwhile.
    return sound_id(given) if given else f"{random.getrandbits(128):032x}"
