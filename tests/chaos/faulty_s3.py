"""An S3 endpoint that fails when it is told to: a proxy before a real server, in a process of its own.

with faulty_s3("http://127.0.0.1:5000") as proxy:
    proxy.fail(30)         # a half of it 503 to every request, a half no connection at all
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from cluster.connection.embedded import free_ports

REFUSAL = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """The address of the endpoint, and its faults."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}"

    def fail(self, seconds: float) -> None:
        """Fail for so long from now on; returns at once."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)


@contextmanager
def faulty_s3(upstream: str) -> Iterator[Proxy]:
    """A proxy before the server at this URL."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "tests.chaos.faulty_s3", str(port), str(urlsplit(upstream).port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield Proxy(process, port)
    finally:
        process.kill()
        process.wait()


class _Endpoint:
    """The proxy itself."""

    def __init__(self, port: int, upstream: int) -> None:
        self.port, self.upstream = port, upstream
        self.refusing = False
        self.open: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        """Serve, and read from standard input for how long to fail."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        server = await self._listen()
        print("ready", flush=True)
        while line := await reader.readline():
            self.refusing = True
            self._break()
            await asyncio.sleep(float(line) / 2)
            server.close()
            self._break()
            await asyncio.sleep(float(line) / 2)
            self.refusing = False
            server = await self._listen()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._answer, "127.0.0.1", self.port)

    def _break(self) -> None:
        for writer in self.open:
            writer.transport.abort()
        self.open.clear()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            with suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(REFUSAL)
                await writer.drain()
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
        self.open |= {writer, back}
        await asyncio.gather(_pump(reader, back), _pump(there, writer))
        self.open -= {writer, back}


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(1 << 16):
            target.write(piece)
            await target.drain()
    target.close()


if __name__ == "__main__":
    asyncio.run(_Endpoint(*map(int, sys.argv[1:])).run())
