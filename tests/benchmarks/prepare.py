"""prepare: rows a second with near duplicates, memory and disk by the size of the text, what is found of planted duplicates.

make bench BENCH=prepare                                   some minutes: the memory at 200 MB of text against 20 MB
BYTES=2e9 make bench BENCH=prepare                         at 2 GB against 0.2 GB: a quarter of an hour more
python -m tests.benchmarks.prepare rows FILE               seconds of reading, cleaning and near duplicates, and what stays
python -m tests.benchmarks.prepare memory FILE             the whole step: the most memory that it took, what was spilled
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from jobs.data.near_duplicates import NearDuplicates
from serve.engines.processor import described
from tests.benchmarks import label_noise, parents
from tests.benchmarks.peers import printed, ratio
from tests.benchmarks.prepare_texts import planted, write_csv

CPUS = 2
ROWS_BYTES, ROUNDS = 20_000_000, 2
BYTES = float(os.environ.get("BYTES", "2e8"))
STORE_BYTES = 2_000_000_000
THRESHOLD = 0.8
PLANTED = 2_000
EVERY = 0.5
"""Seconds from one look at the memory to the next."""


def measures() -> Iterator[dict[str, Any]]:
    """All of them."""
    yield _rows()
    yield from _memory()
    yield from _found()
    yield from parents.measures()
    yield from label_noise.measures()


def _rows() -> dict[str, Any]:
    bands, rows = NearDuplicates(threshold=THRESHOLD).bands()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "rows.csv")
        count, pairs, stays = write_csv(file, ROWS_BYTES), [], []
        for _ in range(ROUNDS):
            ours = printed("tests.benchmarks.prepare", "rows", str(file))
            theirs = printed("tests.benchmarks.prepare_script", str(file), str(bands), str(rows), str(THRESHOLD))
            pairs.append((count / ours["seconds"], count / theirs["seconds"]))
            stays = [ours["kept"], theirs["kept"]]
    peers = {name: version(name) for name in ("datasets", "datasketch")}
    detail = {"rows": count, "megabytes": ROWS_BYTES / 1e6, "stay": stays, "bands": [bands, rows], **peers, **_machine()}
    return ratio("prepare_near_duplicates_against_datasets_and_datasketch", 1.5, "rows/s", pairs, **detail)


def _memory() -> Iterator[dict[str, Any]]:
    found = {}
    for size in (BYTES / 10, BYTES):
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "rows.csv")
            rows = write_csv(file, int(size))
            name = f"{size / 1e9:g} GB"
            found[name] = printed("tests.benchmarks.prepare", "memory", str(file)) | {"rows": rows}
    less, more = (one["memory"] for one in found.values())
    shared = {"better": "lower", "detail": found | _machine()}
    grown, spilled = more / less, found[f"{BYTES / 1e9:g} GB"]["spilled"] / BYTES
    yield {"name": "prepare_memory_by_ten_times_the_text", "value": round(grown, 3), "goal": 1.2, "unit": "ratio", **shared}
    yield {"name": "prepare_spilled", "value": round(spilled, 3), "goal": 1.5, "unit": "share of the text", **shared}


def _found() -> Iterator[dict[str, Any]]:
    for script in ("english", "chinese"):
        pairs = planted(script, PLANTED)
        gone = _gone(pairs)
        shares: dict[str, list[bool]] = {"from 0.9": [], "0.8 to 0.9": [], "below 0.8": []}
        for number, (one, other) in enumerate(pairs):
            similar = _plain_jaccard(one, other, script)
            name = "from 0.9" if similar >= 0.9 else "0.8 to 0.9" if similar >= THRESHOLD else "below 0.8"
            shares[name].append(number in gone)
        for (name, found), goal in zip(shares.items(), (0.95, 0.85, 0.0), strict=True):
            yield {
                "name": f"near_duplicates_found_{script}_{name.replace(' ', '_')}",
                "value": round(sum(found) / len(found), 4),
                "goal": goal,
                "better": "higher" if goal else "lower",
                "unit": "share of the pairs",
                "detail": {"pairs": len(found), "threshold": THRESHOLD},
            }


def _gone(pairs: list[tuple[str, str]]) -> set[int]:
    """The numbers of the pairs of which one text goes."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "rows.jsonl")
        lines = [{"text": text, "label": "ab"[place]} for pair in pairs for place, text in enumerate(pair)]
        file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        kept = set(printed("tests.benchmarks.prepare", "texts", str(file)))
    return {number for number, pair in enumerate(pairs) if not set(pair) <= kept}


def _plain_jaccard(one: str, other: str, script: str) -> float:
    """By the definition, with the shingles that prepare takes where nobody says which."""
    width = NearDuplicates().characters if script == "chinese" else NearDuplicates().words
    cut = [list(text) if script == "chinese" else text.split() for text in (one, other)]
    left, right = ({tuple(units[at : at + width]) for at in range(max(1, len(units) - width + 1))} for units in cut)
    return len(left & right) / len(left | right)


def _machine() -> dict[str, Any]:
    return {"cpu": described(), "cores": CPUS}


class Watch:
    """Looks at the memory of this process and all that it has started, and at the object store, until it is told to end."""

    def __init__(self) -> None:
        self.most = self.spilled = 0
        self.parts: dict[str, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> dict[str, Any]:
        """The most bytes at once, of what, and all that was spilled."""
        self._done.set()
        self._thread.join()
        return {"memory": self.most, "parts": self.parts, "spilled": self.spilled}

    def _look(self) -> None:
        import ray
        from ray._private.internal_api import node_stats

        (node,) = ray.nodes()
        while not self._done.wait(EVERY):
            store = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
            own = sum(map(_own_bytes, [psutil.Process(), *psutil.Process().children(recursive=True)]))
            self.spilled = store.spilled_bytes_total
            if own + store.object_store_bytes_used > self.most:
                self.most = own + store.object_store_bytes_used
                self.parts = {"processes": own, "object_store": store.object_store_bytes_used}


def _own_bytes(process: psutil.Process) -> int:
    """Pages that no other process has; of the object store's none, which are counted as what they hold."""
    try:
        found = inside = 0
        for line in Path(f"/proc/{process.pid}/smaps").read_text().split("\n"):
            words = line.split()
            if len(words) > 4 and "-" in words[0]:
                inside = "plasma" not in line and "/dev/shm" not in line
            elif inside and words and words[0] in ("Private_Clean:", "Private_Dirty:"):
                found += int(words[1]) * 1024
        return found
    except (OSError, psutil.Error):
        return 0  # It has just ended.


def _warm_up(directory: str) -> None:
    """Have the cluster start its processes, as it has where a pipeline's first step is done."""
    from jobs.data.loading import load_rows
    from jobs.prepare import PrepareConfig, reading_of

    for number in range(CPUS):
        write_csv(Path(directory, f"warm-{number}.csv"), 1)
    config = PrepareConfig.model_validate({"source": f"{directory}/warm-*.csv", "task": {}})
    load_rows(config.source, reading_of(config), f"{directory}/warm", near=NearDuplicates())


def main() -> None:
    """One side of a measure, in a process of its own."""
    import ray

    from jobs.core.stage import Context, Inputs
    from jobs.data.loading import load_rows
    from jobs.prepare import PrepareConfig, reading_of, run

    what, file = sys.argv[1:3]
    settings = {"source": file, "task": {}, "split": {"validation": 0.1}, "near_duplicates": THRESHOLD}
    config = PrepareConfig.model_validate(settings)
    ray.init(num_cpus=CPUS, object_store_memory=STORE_BYTES, log_to_driver=False, include_dashboard=False)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory, "made")
        place.mkdir()
        if what == "memory":
            watch, began = Watch(), time.perf_counter()
            context = Context(directory, "rows", "rows", f"{directory}/out", "a", directory=place)
            near = run(config, Inputs(), context).metrics["rows_near_duplicate"]
            told: Any = watch.end() | {"seconds": round(time.perf_counter() - began, 1), "near": near}
        else:
            _warm_up(directory)
            began = time.perf_counter()
            loaded = load_rows(file, reading_of(config), str(place), near=config.near_duplicates)
            told = {"seconds": time.perf_counter() - began, "kept": loaded.count}
            if what == "texts":
                told = [row["text"] for row in loaded.rows.take_all()]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
