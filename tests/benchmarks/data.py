"""Reading packed tokens: how long the loop waits for data, and what the loader holds in memory, at 10 MB and at 1 GB.

python -m tests.benchmarks.data DIRECTORY      read batches from all over an epoch there; prints the memory that it took
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.benchmarks import masked_rows
from tests.benchmarks.peers import figure

SIZES = {"10 MB": 10_000_000, "1 GB": 1_000_000_000}
LENGTH, BATCH, BATCHES, PART_ROWS = 128, 32, 2000, 500_000


def measures() -> Iterator[dict[str, Any]]:
    """The share of time spent waiting, and the growth of memory."""
    with tempfile.TemporaryDirectory() as directory:
        masked_rows.publish_rows(directory)
        waited = figure("tests.benchmarks.masked_loop", directory, "waited")
    shared = {"better": "lower"}
    yield {
        "name": "waiting_for_data",
        "value": waited,
        "goal": 0.01,
        "unit": "share of the loop's time",
        **shared,
        "detail": {},
    }
    held = {}
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as directory:
            publish_tokens(directory, size)
            held[name] = round(figure("tests.benchmarks.data", directory) / 1e6, 1)
    grown = round(held["1 GB"] - held["10 MB"], 1)
    yield {"name": "loader_memory_growth_10mb_to_1gb", "value": grown, "goal": 8, "unit": "MB", **shared, "detail": held}


def publish_tokens(directory: str, size: int) -> None:
    """TOKENS of so many bytes."""
    from cluster.store.artifact import Kind, publish

    generator, rows = np.random.default_rng(0), size // (2 * LENGTH)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "train").mkdir()
        for number, start in enumerate(range(0, rows, PART_ROWS)):
            shape = (min(PART_ROWS, rows - start), LENGTH)
            np.save(Path(scratch) / f"train/{number:04d}.npy", generator.integers(5, 30_000, shape, dtype=np.uint16))
        made = {"kind": Kind.TOKENS, "step": "rows", "stage": "prepare", "stage_version": 1, "config": {}, "seconds": 0.0}
        publish(Path(scratch), directory, made | {"created": datetime.now(UTC)})


def private_bytes() -> int:
    """Memory of this process alone; pages of mapped files are the system's to take back."""
    return int(psutil.Process().memory_full_info().uss) - _mapped()


def _mapped() -> int:
    """Clean pages of the mapped rows that no other process has."""
    found = 0
    for line in Path("/proc/self/smaps").read_text().split("\n"):
        words = line.split()
        if len(words) > 5 and "-" in words[0]:
            inside = words[-1].endswith(".npy")
        elif words and words[0] == "Private_Clean:" and inside:
            found += int(words[1]) * 1024
    return found


def main() -> None:
    """Print the bytes that opening the tokens and reading batches from all over them took."""
    from cluster.store.artifact import open_artifact
    from jobs.data.training_rows import TokenRows, epoch_batches

    tokens = open_artifact(sys.argv[1])
    before = private_bytes()
    rows = TokenRows(tokens, "train")
    for indices in islice(epoch_batches(len(rows), BATCH, 0, 0), BATCHES):
        rows.rows(indices)
    print(json.dumps(private_bytes() - before))


if __name__ == "__main__":
    main()
