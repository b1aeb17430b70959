"""With how many threads and in what batches a candidate runs best: measured for those on the front, and told with them.

    points = measure_operating_points(candidates, items, threads=(1, 2), batch_sizes=(8, 32), count=200, rounds=10)
    best = fastest_point(points["small:int8"])        # {"threads": 2, "batch_size": 8}

ONNX candidates alone: torch has one number of threads for the whole process.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jobs.judging.quality import Candidate, measure_latency, measure_throughput
from serve.engines.base import Engine
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item


@dataclass
class OperatingPoint:
    """A candidate with so many threads, as it takes its turns."""

    name: str
    threads: int
    engine: Engine
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def measure_operating_points(
    candidates: Sequence[Candidate],
    items: Sequence[Item],
    threads: Sequence[int],
    batch_sizes: Sequence[int],
    count: int,
    rounds: int,
) -> dict[str, list[dict[str, Any]]]:
    """For each candidate a row for each number of threads: latencies of single items, and items a second by batch size."""
    shown = [candidate for candidate in candidates if candidate.engine.card.variants[candidate.variant].backend == "onnx"]
    points = [
        OperatingPoint(
            one.name, number, load_engine(one.artifact.local(), one.variant, threads=number, max_batch=max(batch_sizes))
        )
        for one in shown
        for number in threads
    ]
    measure_latency(points, items, count, rounds)
    rates: dict[int, list[float]] = {}
    for size in batch_sizes:
        for point in points:
            point.rates.clear()
        measure_throughput(points, items, size, rounds)
        rates[size] = [float(np.median(point.rates)) for point in points]
    found: dict[str, list[dict[str, Any]]] = {one.name: [] for one in shown}
    for number, point in enumerate(points):
        p50, p95 = (float(figure) * 1e3 for figure in np.percentile(point.seconds, [50, 95]))
        by_batch = {str(size): rates[size][number] for size in batch_sizes}
        row = {"threads": point.threads, "latency_p50_ms": p50, "latency_p95_ms": p95, "texts_per_second": by_batch}
        found[point.name].append(row)
    return found


def fastest_point(points: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The threads of the lowest p95 latency, and with them the batch size of most texts a second."""
    best = min(points, key=lambda point: point["latency_p95_ms"])
    rates: dict[str, float] = best["texts_per_second"]
    return {"threads": int(best["threads"]), "batch_size": int(max(rates, key=lambda size: rates[size]))}
