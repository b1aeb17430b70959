"""The service beside the usual ways, on this machine: make bench BENCH=serve. Needs wrk (apt-get install wrk).

Load comes from wrk, a second process; the sides of each comparison take turns in short runs, with the same texts. Every
server has one process with one thread for the model. Models are MiniLM with a random head, and two of its layers.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from cluster.connection.embedded import free_ports
from serve.app import deployment_config
from serve.settings import Arguments
from tests.benchmarks.peers import figure, printed
from tests.benchmarks.serve_bento import bento
from tests.benchmarks.serve_load import Load, load
from tests.benchmarks.serve_memory import memory
from tests.benchmarks.serve_peers import peer
from tests.benchmarks.served_models import publish_models, texts
from tests.serve.running import Server, running

ROUNDS, SECONDS = 2, 4
CONNECTIONS = (1, 16, 64)
TEXTS = texts()[:1984]
ONE = [{"inputs": text} for text in TEXTS]
LISTS_OF_ONE = [{"inputs": [text]} for text in TEXTS]
MANY = [{"inputs": TEXTS[start : start + 32]} for start in range(0, len(TEXTS), 32)]
ECHO = {"name": "echo", "route_prefix": "/echo", "import_path": "tests.benchmarks.serve_echo:application"}
INGRESSES = {
    "default proxy": {"RAY_SERVE_ENABLE_HA_PROXY": "0"},
    "default proxy, throughput optimized": {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "HAProxy, two event loops": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1"},
    "HAProxy": {},
}
Measure = dict[str, Any]
Target = tuple[str, list[dict[str, Any]]]
"""A URL and what is asked of it."""


def measures() -> Iterator[Measure]:
    """Every comparison, one after the other."""
    with tempfile.TemporaryDirectory(prefix="raystill-bench-") as name:
        models = Path(name)
        publish_models(models)
        yield _path(models)
        applications = [ECHO, *(_application(models, which) for which in ("winner", "teacher"))]
        with running(applications) as server:
            ours = f"{server.address}/winner/v1/predict"
            yield from _usual_way(ours, f"{server.address}/teacher/v1/predict", models)
            yield from _plain_loop(ours, models)
            yield from _added_latency(ours, f"{server.address}/echo", models)
            yield from _other_servers(ours, f"{server.address}/echo", models)
            yield _memory(server, ours)
    yield from _ingresses()


def _application(models: Path, which: str) -> dict[str, Any]:
    return deployment_config(which, Arguments(model=str(models / which), variant="int8", cpus=0), f"/{which}")


def _path(models: Path) -> Measure:
    told = printed("tests.benchmarks.serve_path", str(models / "winner"))
    value = told["concurrency 16"]["loop"]
    return _measure("serve_path", value, None, "lower", "µs of the event loop's CPU a request at concurrency 16", **told)


def _usual_way(winner: str, teacher: str, models: Path) -> Iterator[Measure]:
    with peer("pipeline", models / "teacher", free_ports(1)[0]) as pipeline:
        runs = _turns({"pipeline": (pipeline, ONE), "winner": (winner, ONE), "teacher": (teacher, ONE)}, 16)
    usual = runs["pipeline"]
    for which, goal in (("winner", 10.0), ("teacher", 3.0)):
        detail = {"ours": _told(runs[which]), "usual": _told(usual), "concurrency": 16}
        ratio = _rate(runs[which]) / _rate(usual)
        yield _measure(f"serve_{which}_int8_over_pipeline", ratio, goal, "higher", "ratio of requests/s", **detail)
        ratio = _p99(runs[which]) / _p99(usual)
        yield _measure(f"serve_{which}_int8_p99_over_pipeline", ratio, 1.0, "lower", "ratio of p99", **detail)


def _plain_loop(ours: str, models: Path) -> Iterator[Measure]:
    load(ours, MANY, 2, 2)
    bare, served = [], []
    for _ in range(ROUNDS + 1):
        bare.append(figure("tests.benchmarks.serve_peers", "loop", str(models / "winner"), "32"))
        served.append(load(ours, MANY, 4, SECONDS).per_second * 32)
    detail = {"loop": [round(rate) for rate in bare], "served": [round(rate) for rate in served]}
    ratio = median(rate / limit for rate, limit in zip(served, bare, strict=True))
    yield _measure("serve_lists_over_engine_loop", ratio, 0.85, "higher", "ratio of texts/s, 32 a request", **detail)


def _added_latency(ours: str, echo: str, models: Path) -> Iterator[Measure]:
    alone_ms = 1e3 / figure("tests.benchmarks.serve_peers", "loop", str(models / "winner"), "1")
    runs = _turns({"ours": (ours, ONE), "echo": (echo, ONE)}, 1)
    mean_ms = {name: 1e3 / _rate(told) for name, told in runs.items()}
    detail = {"engine_ms": round(alone_ms, 2), "served_ms": round(mean_ms["ours"], 2), "echo_ms": round(mean_ms["echo"], 2)}
    yield _measure("serve_added_latency", mean_ms["ours"] - alone_ms, None, "lower", "ms a request at concurrency 1", **detail)


def _other_servers(ours: str, echo: str, models: Path) -> Iterator[Measure]:
    first, second = free_ports(2)
    with ExitStack() as stack:
        targets: dict[str, Target] = {"ours": (ours, ONE), "echo": (echo, ONE)}
        targets["litserve"] = (stack.enter_context(peer("litserve", models / "winner", first)), ONE)
        targets["bentoml"] = (stack.enter_context(bento(models / "winner", second)), LISTS_OF_ONE)
        for connections in CONNECTIONS:
            runs = _turns(targets, connections)
            for name in ("litserve", "bentoml"):
                detail = {"ours": _told(runs["ours"]), name: _told(runs[name]), "echo": _told(runs["echo"])}
                ratio = _rate(runs["ours"]) / _rate(runs[name])
                yield _measure(f"serve_over_{name}_{connections}", ratio, 1.0, "higher", "ratio of requests/s", **detail)
                ratio = _p99(runs["ours"]) / _p99(runs[name])
                yield _measure(f"serve_p99_over_{name}_{connections}", ratio, 1.0, "lower", "ratio of p99", **detail)


def _memory(server: Server, ours: str) -> Measure:
    told = memory(server.process.pid, ours, ONE, "winner")
    growth = max(after - before for before, after in told["MB"].values())
    return _measure(
        "serve_memory_growth", growth, 10.0, "lower", "MB over 100,000 requests, of the process that grew most", **told
    )


def _ingresses() -> Iterator[Measure]:
    """Ray Serve's ways to a replica, with its own echo. The replicas' own ports are the limit of all of them."""
    for name, environment in INGRESSES.items():
        port = free_ports(1)[0]
        # The first port is the one replica's.
        ports = {f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT": str(port + more) for end, more in (("MIN", 0), ("MAX", 100))}
        with running([ECHO], **environment, **ports) as server:
            yield _echoes(name, f"{server.address}/echo")
            if name == "HAProxy":
                yield _echoes("replica's own port", f"http://127.0.0.1:{port}/echo")


def _echoes(name: str, url: str) -> Measure:
    load(url, ONE, 16, 2)
    told = {f"concurrency {number}": _told([load(url, ONE, number, SECONDS)]) for number in CONNECTIONS}
    return _measure(f"serve_echo, {name}", told["concurrency 16"]["per_second"], None, "higher", "requests/s", **told)


def _turns(targets: Mapping[str, Target], connections: int) -> dict[str, list[Load]]:
    """Load on each in turns, after a warm-up."""
    for url, bodies in targets.values():
        load(url, bodies, connections, 1)
    runs: dict[str, list[Load]] = {name: [] for name in targets}
    for _ in range(ROUNDS):
        for name, (url, bodies) in targets.items():
            runs[name].append(load(url, bodies, connections, SECONDS))
    return runs


def _rate(runs: list[Load]) -> float:
    return median(run.per_second for run in runs)


def _p99(runs: list[Load]) -> float:
    return median(run.p99_ms for run in runs)


def _told(runs: list[Load]) -> dict[str, float]:
    figures: dict[str, Callable[[Load], float]] = {
        "per_second": lambda run: run.per_second,
        "p50_ms": lambda run: run.p50_ms,
        "p99_ms": lambda run: run.p99_ms,
    }
    return {name: round(median(map(get, runs)), 2) for name, get in figures.items()}


def _measure(name: str, value: float, goal: float | None, better: str, unit: str, **detail: Any) -> Measure:
    detail["load_average"] = round(os.getloadavg()[0], 1)
    return {"name": name, "value": round(value, 3), "goal": goal, "better": better, "unit": unit, "detail": detail}
