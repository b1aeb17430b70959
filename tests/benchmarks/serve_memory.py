"""Memory of the service's processes before and after many requests: it must not grow with them.

told = memory(server.process.pid, "http://127.0.0.1:8000/winner/v1/predict", bodies, "winner")
"""

from collections.abc import Callable, Sequence
from typing import Any

import psutil

from tests.benchmarks.serve_load import load

REQUESTS = 100_000
CONNECTIONS = 16
SECONDS = 10.0


def memory(server: int, url: str, bodies: Sequence[Any], application: str) -> dict[str, Any]:
    """MB of resident memory before and after so many requests, of replicas, HAProxy and Serve's own actors.

    `server` is the process that started Ray. What it answered before counts as its warm-up.
    """
    kinds: dict[str, Callable[[str], bool]] = {
        "replica": lambda title: f"ServeReplica:{application}:" in title,
        "haproxy": lambda title: title.split(" ")[0].endswith("haproxy"),
        "proxy actors": lambda title: "ray::HAProxyManager" in title or "ray::ProxyActor" in title,
        "controller": lambda title: "ray::ServeController" in title,
    }
    before = _megabytes(server, kinds)
    requests = 0
    while requests < REQUESTS:
        requests += load(url, bodies, CONNECTIONS, SECONDS).requests
    after = _megabytes(server, kinds)
    return {"requests": requests, "MB": {kind: [before[kind], after[kind]] for kind in kinds}}


def _megabytes(server: int, kinds: dict[str, Callable[[str], bool]]) -> dict[str, float]:
    found = dict.fromkeys(kinds, 0)
    for process in psutil.Process(server).children(recursive=True):
        title = " ".join(process.cmdline())
        for kind, fits in kinds.items():
            found[kind] += process.memory_info().rss if fits(title) else 0
    missing = [kind for kind, held in found.items() if not held]
    if missing:
        raise SystemExit(f"the server has no process of these kinds: {', '.join(missing)}")
    return {kind: round(held / 1e6, 1) for kind, held in found.items()}
