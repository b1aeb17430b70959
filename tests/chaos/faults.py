"""What the tests of faults share: waiting, killing, looking for what is left behind, and the table that they print.

note("a worker", "Ray Train starts the workers again", 18.2)      # a row of the table; several times make a median
note_load("a replica", "Serve starts another", 9000, {"503": 2}, 12.1)      # a row of the other one
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import psutil
from ray.util.state import list_actors, list_placement_groups

from cluster.connection.connect import Cluster

ROUNDS = int(os.environ.get("RAYSTILL_CHAOS_ROUNDS", "1"))
"""`make chaos` has several: then what takes long is run too, and faults come at other moments."""
HELD = ("PENDING", "CREATED", "RESCHEDULING")
_seen: dict[tuple[str, str], list[float]] = {}
_loads: list[str] = []


def note(fault: str, happens: str, seconds: float) -> None:
    """Remember how long a fault was felt."""
    _seen.setdefault((fault, happens), []).append(seconds)


def note_load(fault: str, happens: str, requests: int, failures: Mapping[str, int], p99_ms: float) -> None:
    """Remember what clients under load saw of a fault: how many first tries failed, and by what."""
    count = sum(failures.values())
    kinds = ", ".join(f"{number} × {kind}" for kind, number in failures.items())
    share = f"{count / requests:.2%} ({kinds})" if count else "none"
    _loads.append(f"| {fault} | {happens} | {requests:,} | {share} | {p99_ms:.0f} |")


def table() -> list[str]:
    """In Markdown: fault, what happens, seconds to recover (the median, and the longest of several); and of load."""
    rows = [f"| {fault} | {happens} | {_seconds(times)} |" for (fault, happens), times in _seen.items()]
    lines = ["| fault | what happens | seconds to recover |", "|---|---|---|", *rows] if rows else []
    if _loads:
        heads = ("fault", "what happens", "requests", "failed without a retry", "p99 in ms, retries included")
        lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *_loads]
    return lines


def _seconds(times: list[float]) -> str:
    return f"{median(times):.0f}" + (f" (at most {max(times):.0f}, {len(times)} times)" if len(times) > 1 else "")


def wait(condition: Callable[[], Any], seconds: float = 120) -> float:
    """Wait until it holds; returns how long that was."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, "it did not come to that"
        time.sleep(0.02)
    return time.monotonic() - began


def processes(cluster: Cluster, word: str, *words: str) -> list[psutil.Process]:
    """Those of the cluster whose command line has all of these."""
    assert cluster._embedded is not None
    return [process for process in cluster._embedded.processes if all(w in _title(process) for w in (word, *words))]


def kill(cluster: Cluster, word: str, *words: str) -> None:
    """kill -9 of them all; there must be one."""
    found = processes(cluster, word, *words)
    assert found, (word, *words)
    for process in found:
        os.kill(process.pid, signal.SIGKILL)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def nothing_is_left(cluster: Cluster, storage: str) -> None:
    """No placement group, no actor that holds resources, no process of a job over this storage, within a few seconds.

    This process must be connected to the cluster.
    """

    def left() -> list[Any]:
        groups = [group.placement_group_id for group in list_placement_groups(limit=10_000) if group.state in HELD]
        actors = [a.class_name for a in list_actors(detail=True, limit=10_000) if a.state != "DEAD" and a.required_resources]
        return [*groups, *actors, *processes(cluster, storage)]

    deadline = time.monotonic() + 30
    while found := left():
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
