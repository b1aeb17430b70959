"""A stage that costs nothing to search: a walker climbs, the faster the nearer its learning rate is to the best one.

    artifact = climb(str(tmp_path), {"scheduler": "pbt", "trials": 4})
    python -m tests.jobs.hill STORAGE '{"tune": {…}, "spaces": {…}, "resources": {…}, "config": {…}}'  # as a driver of its own

Each start of a trial leaves a file in `config.marks`, which says when it began, where and in which process.
"""

import json
import math
import os
import sys
import time
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cluster.store.artifact import Artifact, Kind
from jobs.core.config import SPEED_ONLY, Config
from jobs.core.metric import Metric
from jobs.core.recipe import Recipe, Step
from jobs.core.spaces import Tune, find_spaces
from jobs.core.stage import Context, Inputs, Outcome, Resources, Searchable, Stage
from jobs.running.cli import connect, guarded
from jobs.running.execute import execute

BEST = 1e-2
WIDE: dict[str, Any] = {"optimizer": {"learning_rate": {"loguniform": [1e-6, 1e-1]}}}


class Walking(Config):
    """The one number that counts."""

    learning_rate: float = BEST
    """The nearer to BEST, the faster."""


class Hill(Config):
    """How far and how fast."""

    optimizer: Walking = Walking()
    """What is searched."""
    width: int = 1
    """Has no effect."""
    evaluations: int = 3
    """Steps, each with its evaluation."""
    pause: float = Field(0.0, json_schema_extra=SPEED_ONLY)
    """Seconds that a step takes."""
    fails_above: float = math.inf
    """Learning rates above it diverge."""
    fails_after: int = 1
    """Steps before that."""
    breaks_above: float = math.inf
    """Learning rates above it raise an error of another kind, at once."""
    keep: Literal["best", "last"] = "last"
    """As training has it."""
    marks: str = ""
    """A directory for the marks; none by default."""


def gain(learning_rate: float) -> float:
    """What a step brings: 1 at the best learning rate, below 0 from two powers of ten away."""
    return 1 - abs(math.log10(learning_rate / BEST)) / 2


def run(config: Hill, inputs: Inputs, context: Context) -> Outcome:
    """Climb; the model is the height."""
    assert context.trial is not None
    name = context.trial.checkpoints.split("/")[-2]
    rate = config.optimizer.learning_rate
    if config.marks:
        mark = {"trial": name, "rate": rate, "width": config.width, "pid": os.getpid(), "time": time.time()}
        file = Path(config.marks) / f"{uuid.uuid4().hex}.json"
        file.with_suffix(".part").write_text(json.dumps(mark))
        file.with_suffix(".part").rename(file)  # Whoever counts marks meanwhile sees whole ones.
    state = context.trial.start() or {"step": 0, "height": 0.0}
    step, height = int(state["step"]), float(state["height"])
    while step < config.evaluations:
        time.sleep(config.pause)
        if rate > config.breaks_above:
            raise RuntimeError("a shoe broke")
        if rate > config.fails_above and step == config.fails_after:
            raise FloatingPointError(f"fell off at {rate:g}")
        step, height = step + 1, height + gain(rate)
        figures = {"step": step, "steps": config.evaluations, "height": height}
        context.trial.evaluated(figures, partial(dict, figures))
    (context.directory / "height.txt").write_text(f"{height:.6f} by {name}")
    return Outcome(metrics={"height": height}, details={"walker": name})


METRICS = (Metric("height"),)
STAGE = Stage("hill", "climb", Hill, run, Kind.MODEL, 1, metrics=METRICS, searchable=Searchable())


# CPUs of its own for each trial: two at once on the tests' cluster.
ALONE = Resources(cpus=1, max_failures=1)


def climb(
    storage: str,
    tune: Mapping[str, Any],
    spaces: Mapping[str, Any] = WIDE,
    resources: Resources = ALONE,
    **config: Any,
) -> Artifact:
    """Search the hill on the connected cluster."""
    return execute(Recipe("hill", {"walk": climbing(tune, spaces, resources, **config)}), "walk", storage)


def climbing(tune: Mapping[str, Any], spaces: Mapping[str, Any] = WIDE, resources: Resources = ALONE, **config: Any) -> Step:
    """The step of that search."""
    raw = {**config, **spaces}
    settings = Tune.model_validate(tune)
    return Step("walk", STAGE, raw, find_spaces(raw), {}, settings, resources, metrics=METRICS)


def marks(directory: Path) -> list[dict[str, Any]]:
    """The marks so far, oldest first."""
    return sorted((json.loads(file.read_text()) for file in directory.glob("*.json")), key=lambda mark: float(mark["time"]))


def main(storage: str, asked: str) -> int:
    """What a job runs."""
    connect()
    wanted = json.loads(asked)
    resources = ALONE.model_copy(update=wanted.get("resources", {}))
    print(climb(storage, wanted["tune"], wanted.get("spaces", WIDE), resources, **wanted["config"]).uri)
    return 0


if __name__ == "__main__":
    guarded(lambda: main(*sys.argv[1:]))
