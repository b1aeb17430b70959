"""Seconds until a step has the first rows of a large parent: all of it hashed before that, as it was, and beside the work.

SIZE_GB=10 .venv/bin/python -m tests.benchmarks.parents       # 2 GB unless it says otherwise; needs as much of the disk
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from cluster.store.artifact import Artifact, open_artifact
from cluster.store.verifying import Verifying
from jobs.data.training_rows import TokenRows
from serve.engines.processor import described
from tests.benchmarks.data import publish_tokens
from tests.benchmarks.peers import ratio

ROUNDS = 3


def measures() -> Iterator[dict[str, Any]]:
    """How many times sooner the first rows are there; nothing is remembered of the files, as on a host that is new."""
    size = float(os.environ.get("SIZE_GB", "2"))
    with tempfile.TemporaryDirectory() as directory:
        publish_tokens(directory, int(size * 1e9))
        tokens = open_artifact(directory)
        rounds = [_seconds(tokens) for _ in range(ROUNDS)]
    unit = "seconds, hashed before to hashed beside"
    yield ratio("first_work_with_large_parents", 10, unit, rounds, gigabytes=size, cpu=described())


def _seconds(tokens: Artifact) -> tuple[float, float]:
    """Until the first rows are there: all hashed by one thread before, as it was; and hashed beside the work."""
    began = time.perf_counter()
    tokens.verify()
    _first_rows(tokens)
    before = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as cache:
        os.environ["RAYSTILL_CACHE"] = cache
        began = time.perf_counter()
        with Verifying([tokens]):
            _first_rows(tokens)
            beside = time.perf_counter() - began
    return before, beside


def _first_rows(tokens: Artifact) -> None:
    rows = TokenRows(tokens, "train")
    rows.rows(np.random.default_rng(0).integers(len(rows), size=64))


def main() -> None:
    """Print the measure."""
    for measure in measures():
        print(json.dumps(measure), flush=True)


if __name__ == "__main__":
    main()
