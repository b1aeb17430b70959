"""Answering for files beside the bare engine, each on one core: make bench BENCH=offline.

Both sides have the same int8 model (served_models.py: the winner), one thread and the same texts, and take turns. The bare
engine has the texts in memory and throws its answers away; `python -m jobs.predict` has one worker, which reads a CSV file and
writes one. Its rate is that of its own summary, from the first piece's begin to the last one's end, reading and writing too.
What the command takes besides (a cluster of its own, imports, loading the model) is stated apart.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from serve.engines.engine import load_engine
from serve.settings import MAX_CHARACTERS
from serve.tasks.protocol import Item
from tests.benchmarks.peers import PAIRS, figure, ratio
from tests.benchmarks.serve_peers import THREADS
from tests.benchmarks.served_models import publish_models, texts

ROWS = 32_768
VARIANT = "int8"


def measures() -> Iterator[dict[str, Any]]:
    """The ratio of the two rates."""
    with tempfile.TemporaryDirectory(prefix="raystill-bench-") as name:
        place = Path(name)
        publish_models(place)
        model, rows = place / "winner", place / "rows.csv"
        answerable = [text for text in texts() if len(text) <= MAX_CHARACTERS]
        with open(rows, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text"])
            writer.writerows(enumerate(islice(cycle(answerable), ROWS)))
        pairs, besides = [], []
        for turn in range(PAIRS):
            bare = figure("tests.benchmarks.offline", str(model), str(rows))
            rate, seconds = predict(model, rows, place / f"answers-{turn}")
            pairs.append((rate, bare))
            besides.append(round(seconds, 1))
        yield ratio("offline_over_engine", 0.90, "texts/s per core", pairs, rows=ROWS, seconds_besides=besides)


def predict(model: Path, rows: Path, output: Path) -> tuple[float, float]:
    """Rows a second while it answers, and the seconds that the command takes besides."""
    options = {"model": model, "variant": VARIANT, "input": rows, "output": output, "workers": 1, "cpus": THREADS}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    without_cluster = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    began = time.perf_counter()
    command = [sys.executable, "-m", "jobs.predict", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=without_cluster)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"jobs.predict failed:\n{done.stderr[-2000:]}")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["answered"] == ROWS, summary
    rate: float = summary["rows_per_second"]
    return rate, seconds - ROWS / rate


def bare(model: str, rows: str) -> None:
    """Print the bare engine's texts a second."""
    engine = load_engine(Path(model), VARIANT, threads=THREADS)
    with open(rows, encoding="utf-8", newline="") as file:
        asked = [Item((row["text"],)) for row in csv.DictReader(file)]
    began = time.perf_counter()
    engine.settled(asked)
    print(json.dumps(len(asked) / (time.perf_counter() - began)))


if __name__ == "__main__":
    bare(*sys.argv[1:])
