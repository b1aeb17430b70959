"""A dashboard that answers late, wrongly or not at all when it is told to: a proxy on loopback before the real one.

with FlakyDashboard(cluster.dashboard) as flaky:
    client = Jobs(flaky.url)
    flaky.answers(500)          # from now on; open connections break
    flaky.answers(WELL)
"""

import asyncio
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

WELL, SILENT, CLOSED = "well", "silent", "closed"
HALF = '{"status": "RUNN'


def page(status: int, body: str) -> bytes:
    """An HTTP answer."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


WRONG = {
    "500": page(500, "Traceback (most recent call last):\n ray.exceptions.RpcError: GCS is not there"),
    "502": page(502, "<html>Bad Gateway</html>"),
    "half": page(200, HALF),
    "other": page(200, '["neither a job", "nor jobs"]'),
    "404": page(404, "<html>Not Found</html>"),
    "403": page(403, "Forbidden"),
}


class FlakyDashboard:
    """The proxy's address, its present manner, and what it was asked for."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).port
        self.manner = WELL
        self.asked: list[str] = []
        """The first line of every request."""
        self.open: set[asyncio.StreamWriter] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1"), self.loop).result()
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.server.close)
        self.answers(CLOSED)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def answers(self, manner: str) -> None:
        """Answer so from now on; what is open breaks."""
        self.manner = manner
        self.loop.call_soon_threadsafe(self._break)

    def _break(self) -> None:
        for writer in self.open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.split(b"\r\n")[0].decode())
            if self.manner == WELL:
                await self._pass_on(head, reader, writer)
            elif self.manner == SILENT:
                await reader.read()
            elif self.manner != CLOSED:
                writer.write(WRONG[self.manner])
                await writer.drain()
        self.open.discard(writer)
        writer.close()

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
        self.open.add(back)
        back.write(head)
        await asyncio.gather(_pump(reader, back), _pump(there, writer))
        self.open.discard(back)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(1 << 16):
            target.write(piece)
            await target.drain()
    target.close()
