"""Each kind of task on public data: against the plain loop of an example script, and its winner against its own teacher.

    DATA=DIRECTORY SET=banking77 make bench BENCH=kinds              # kinds_sets.py says which sets there are
    DATA=DIRECTORY SET=banking77 LIMIT=500 make bench BENCH=kinds    # so many rows of a split, 4 steps: to see that it runs

Both sides have the same initial weights, order of examples, steps, rates, length and precision; each cuts texts and computes
its loss by itself, and what they answer is judged by scikit-learn alone (kinds_scores.py). After the JSON lines a table of
them is written to stderr.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.kinds_sets import SETS, DataSet, Unfit


def measures() -> Iterator[dict[str, Any]]:
    """The lines of the set that is asked for."""
    asked = os.environ.get("SET", "")
    if "DATA" not in os.environ or asked not in SETS:
        told = f"SET={asked or '…'} DATA=DIRECTORY: SET is one of {', '.join(SETS)}, DATA the directory of its files"
        print(f"kinds: {told}; nothing was measured", file=sys.stderr)
        return
    yield from with_table("kinds", _of_set(asked, SETS[asked]))


def with_table(group: str, found: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines as they come; then a table of them, and why there are no more where files are missing, on stderr."""
    lines = []
    try:
        for line in found:
            lines.append(line)
            yield line
    except Unfit as unfit:
        print(f"{group}: {unfit}; nothing was measured", file=sys.stderr)
    print(table(lines), file=sys.stderr)


def _of_set(name: str, found: DataSet) -> Iterator[dict[str, Any]]:
    from serve.engines.processor import described
    from tests.benchmarks.kinds_against_loop import against_loop
    from tests.benchmarks.kinds_heads import heads
    from tests.benchmarks.kinds_none import none_of_these
    from tests.benchmarks.kinds_road import Run

    parts: dict[str, Callable[[Run], Iterator[dict[str, Any]]]] = {
        "against_loop": against_loop,
        "winner": Run.winner,
        "none_of_these": none_of_these,
        "heads": heads,
    }
    limit = int(os.environ["LIMIT"]) if "LIMIT" in os.environ else None
    with tempfile.TemporaryDirectory() as place:
        source = found.write(Path(os.environ["DATA"]), Path(place), limit)
        with cluster():
            run = Run.of(name, found if limit is None else found.tried(), source, place)
            shared = {"set": name, "kind": found.kind, "cpu": described(), **run.stated()}
            shared |= {"note": found.note} if found.note else {}
            for part in found.parts:
                for line in parts[part](run):
                    yield {**line, "detail": {**shared, **line["detail"]}}


@contextmanager
def cluster() -> Iterator[None]:
    """This process connected to a cluster of its own."""
    import ray

    from cluster.connection.connect import attach_or_start
    from tests.benchmarks.kinds_road import THREADS

    with attach_or_start("local", cpus=THREADS) as cluster:
        ray.init(cluster.address, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    rows = [
        f"| {line['name']} | {line['value']:g} {line['unit']} | {_goal(line)} | {json.dumps(line['detail'].get('interval'))} |"
        for line in lines
    ]
    return "\n".join(["| measure | value | goal | 95 % interval |", "|---|---|---|---|", *rows])


def _goal(line: dict[str, Any]) -> str:
    sign = "at least" if line["better"] == "higher" else "at most"
    return "" if line["goal"] is None else f"{sign} {line['goal']:g}"
