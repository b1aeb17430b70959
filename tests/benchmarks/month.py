"""The same recipe when its source has grown by a twentieth: seconds of prepare and predict, from zero and with what is kept.

make bench BENCH=month                     some minutes: 100,000 documents of 500 characters, then 5,000 more
ROWS=20000 make bench BENCH=month          fewer
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.store.artifact import Artifact
from jobs.core.recipe import Recipe, parse_recipe
from jobs.running.execute import execute
from serve.engines.processor import described
from tests.benchmarks.prepare_texts import documents

ROWS = int(os.environ.get("ROWS", "100000"))
GROWN = 0.05
CPUS = 2
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "personal": {"personal": {"email": "mask", "phone": "mask"}},
    "filtered": {"filters": {"boilerplate": True, "quality": {"min_words": 5}}},
}
"""How rows are cleaned."""


def measures() -> Iterator[dict[str, Any]]:
    """All of them."""
    import ray

    ray.init(num_cpus=CPUS, logging_level=logging.WARNING, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as directory:
            yield from _measured(Path(directory))
    finally:
        ray.shutdown()


def _measured(directory: Path) -> Iterator[dict[str, Any]]:
    from tests.story.tiny_world import write_base

    rows = [text for texts in documents(int(ROWS * (1 + GROWN) * 520)) for text in texts][: int(ROWS * (1 + GROWN))]
    write_base(directory / "base", rows[:2_000])
    first, storage = ROWS, str(directory / "runs")
    for name, more in WAYS.items():
        recipe = _recipe(directory, name, more)
        _write(directory / "rows.jsonl", rows[:first])
        steps = ("rows", "teacher", "soft") if name == "plain" else ("rows",)
        for step in steps:
            execute(recipe, step, storage)
        _write(directory / "rows.jsonl", rows)
        for step in ("rows", "soft"):
            if step in steps:
                yield _compared(recipe, step, name, directory, storage)


def _compared(recipe: Recipe, step: str, name: str, directory: Path, storage: str) -> dict[str, Any]:
    kept, own = _timed(recipe, step, storage)
    metrics = own.manifest.metrics
    if step == "rows":
        zero, other = _timed(recipe, step, str(directory / f"zero-{name}"))
        assert other.fingerprint == own.fingerprint, "what is kept decides nothing"
        counts = {key: metrics[key] for key in ("new_rows", "reused_rows")}
    else:
        # The same step over the same rows, whose answers nothing keeps: another precision is another question.
        zero, _ = _timed(_recipe(directory, name, {}, batch_size=63, precision="auto"), step, storage)
        counts = {key: metrics[key] for key in ("answers_new", "answers_reused")}
    seconds = {"from_zero": round(zero, 1), "with_what_is_kept": round(kept, 1)}
    detail = {"seconds": seconds, **counts, "cpu": described(), "cores": CPUS}
    shown = {"rows": f"prepare_{name}", "soft": "predict"}[step]
    figure = {"name": f"month_{shown}", "value": round(zero / kept, 2), "goal": 1, "better": "higher"}
    return {**figure, "unit": "ratio of seconds from zero to seconds with what is kept", "detail": detail}


def _timed(recipe: Recipe, step: str, storage: str) -> tuple[float, Artifact]:
    began = time.monotonic()
    made = execute(recipe, step, storage)
    return time.monotonic() - began, made


def _recipe(directory: Path, name: str, more: dict[str, Any], **asked: Any) -> Recipe:
    examples = {"examples": "rows"}
    steps = {
        "rows": {"stage": "prepare", "source": str(directory / "rows.jsonl"), "task": {"kind": "classification"}, **more},
        "teacher": {"stage": "finetune", "inputs": examples, "once": True, "model": str(directory / "base"), "max_length": 64}
        | {"max_steps": 20, "evaluations": 1},
        "soft": {"stage": "predict", "inputs": {**examples, "model": "teacher"}, "precision": "fp32", **asked},
    }
    return parse_recipe({"name": f"month-{name}", "steps": steps})


def _write(file: Path, rows: list[str]) -> None:
    lines = (json.dumps({"text": text, "label": "ab"[number % 2]}) for number, text in enumerate(rows))
    file.write_text("\n".join(lines) + "\n")
