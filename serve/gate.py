"""What every request passes on its way in and out: request id, deadline.

    application = Gate(face, request_timeout_seconds=30)

One ASGI layer, for each costs time. A client asks for less time by X-Request-Timeout (seconds) and names its request by
X-Request-Id, which comes back.
"""

import asyncio
import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.exchange import KEY, Exchange
from serve.problems import FieldError, Problem, Refusal, problem_response

ID_HEADER, TIMEOUT_HEADER = b"x-request-id", b"x-request-timeout"
SOUND_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gate:
    """The ASGI layer around the face."""

    def __init__(self, inner: ASGIApp, request_timeout_seconds: float) -> None:
        self.inner = inner
        self.timeout = request_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        headers = dict(scope["headers"])
        exchange = Exchange(_request_id(headers), scope["method"], scope["path"])
        scope[KEY] = exchange
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (ID_HEADER, exchange.request_id.encode())]
            await send(message)

        try:
            async with asyncio.timeout(self._seconds(headers)):
                await self.inner(scope, receive, answer)
        except Refusal as refusal:
            await problem_response(refusal.problem, refusal.headers)(scope, receive, answer)
        except TimeoutError:
            if started:
                raise
            await problem_response(Problem(title="The answer took longer than allowed", status=504))(scope, receive, answer)

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


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The client's own where it gave a sound one: it is written into logs."""
    given = headers.get(ID_HEADER, b"").decode("latin-1")
    return given if SOUND_ID.fullmatch(given) else uuid.uuid4().hex
