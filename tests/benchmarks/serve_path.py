"""What a request costs in Python: the whole HTTP application over the winner, called in this process without sockets and Ray.

    python -m tests.benchmarks.serve_path MODEL        # a JSON object: microseconds of CPU by concurrency

`loop` is the CPU time of the event loop's thread: everything but tokenising, forming batches and the forward pass. It depends
far less on what else the machine does than requests a second do.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp, Message

from serve.http.application import build_application
from serve.http.auth import Guard
from serve.http.example import example_of
from serve.http.gate import Gate
from serve.models.exchange import Exchange
from serve.models.model import Models
from serve.watch.access_log import AccessLog
from serve.watch.drift import DriftWindow, note_asked
from tests.benchmarks.served_models import texts
from tests.serve.faces import REQUEST_TIMEOUT_SECONDS, local_model

REQUESTS = 800
CONCURRENCY = (1, 16, 64)
PATH = "/v1/predict"


def costs(directory: Path) -> dict[str, dict[str, int]]:
    """Microseconds of CPU a request, by concurrency: of the event loop's thread, and of the whole process."""
    bodies = [json.dumps({"inputs": text}).encode() for text in texts()[: 2 * REQUESTS]]
    told = {}
    for concurrency in CONCURRENCY:
        loop, process = asyncio.run(_measure(directory, bodies, concurrency))
        told[f"concurrency {concurrency}"] = {"loop": round(loop), "process": round(process)}
    return told


async def _measure(directory: Path, bodies: Sequence[bytes], concurrency: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as place:
        application = _application(directory, Path(place))
        await _drive(application, iter(bodies[:REQUESTS:8]), concurrency)
        began = time.thread_time(), time.process_time()
        await _drive(application, iter(bodies[REQUESTS:]), concurrency)
        loop, process = time.thread_time() - began[0], time.process_time() - began[1]
    count = len(bodies) - REQUESTS
    return loop / count * 1e6, process / count * 1e6


def _application(directory: Path, logs: Path) -> ASGIApp:
    model = local_model(directory, "winner", "int8")
    drift_windows = {"winner": DriftWindow(model.task, model.engine.card.training)}
    application = build_application(
        Models({"winner": model}, "winner"), example_of(model.engine), drift_windows["winner"].report
    )
    finished: list[Callable[[Exchange], None]] = [AccessLog(logs / "access.jsonl").note, partial(note_asked, drift_windows)]
    return Gate(application, REQUEST_TIMEOUT_SECONDS, Guard(None), finished)


async def _drive(application: ASGIApp, bodies: Iterator[bytes], concurrency: int) -> None:
    """So many clients, each with the next body as soon as it has its answer."""

    async def client() -> None:
        for body in bodies:
            await _ask(application, body)

    await asyncio.gather(*(client() for _ in range(concurrency)))


async def _ask(application: ASGIApp, body: bytes) -> None:
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    where = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": PATH, "query_string": b""}
    await application({**where, "raw_path": PATH.encode(), "root_path": "", "headers": headers}, receive, send)
    if statuses != [200]:
        raise SystemExit(f"a request was answered with {statuses}, not once with 200")


if __name__ == "__main__":
    print(json.dumps(costs(Path(sys.argv[1]))))
