"""What Ray Train costs: the step loop in its workers against two plain processes, and the seconds around the loop.

Both sides run `fit` with the same model, data and batch, two workers of one thread each over gloo.

python -m tests.benchmarks.ray_overhead plain|ray DIRECTORY      one side; prints steps a second (and for ray, seconds around)
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import masked_rows
from tests.benchmarks.peers import PAIRS, ratio

WORKERS, STEPS, WARM_UP = 2, 60, 10
BATCH = 16
SHAPE = {"layers": 4, "hidden": 256, "heads": 4}


def measures() -> Iterator[dict[str, Any]]:
    """The ratio of steps a second, and the overhead in seconds."""
    with tempfile.TemporaryDirectory() as directory:
        masked_rows.publish_rows(f"{directory}/tokens")
        rounds = [(_side("ray", directory), _side("plain", directory)) for _ in range(PAIRS)]
    pairs = [(ray["rate"], plain["rate"]) for ray, plain in rounds]
    yield ratio("ray_train_against_plain_processes", 0.97, "steps/s", pairs, workers=WORKERS)
    seconds = sorted(ray["around"] for ray, _ in rounds)
    yield {
        "name": "ray_train_seconds_around_the_loop",
        "value": round(seconds[len(seconds) // 2], 1),
        "goal": None,
        "better": "lower",
        "unit": "s",
        "detail": {
            "rounds": [round(each, 1) for each in seconds],
            "from": "train() called to outcome, less the loop's own time",
        },
    }


def _side(side: str, directory: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.ray_overhead", side, directory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _config() -> Any:
    from jobs.pretrain import PretrainConfig

    return PretrainConfig.model_validate({"model": SHAPE, "epochs": 99, "max_steps": STEPS, "batch_size": BATCH})


def _inputs(directory: str) -> Any:
    from cluster.artifact import open_artifact
    from jobs.core.stage import Inputs

    return Inputs(tokens=[open_artifact(f"{directory}/tokens")])


def note(file: str, **figures: float) -> None:
    """What becomes of the loop's figures on both sides: when each step that is told was done."""
    with open(file, "a") as notes:
        print(json.dumps([time.time(), figures["step"]]), file=notes)


def _rate(file: str) -> float:
    """Steps a second from the end of the warm-up to the last step."""
    told = [json.loads(line) for line in Path(file).read_text().splitlines()]
    steady = [(when, step) for when, step in told if step >= WARM_UP]
    (began, first), (ended, last) = steady[0], steady[-1]
    return float((last - first) / (ended - began))


def plain_worker(rank: int, directory: str) -> None:
    """One of two plain processes."""
    import torch

    from jobs.pretrain import build
    from jobs.training.checkpoint import Checkpoints
    from jobs.training.hooks import RunHooks
    from jobs.training.loop import fit

    torch.set_num_threads(1)
    config = _config()
    torch.manual_seed(config.seed)
    model, learner = build(config, _inputs(directory))
    with closing(Checkpoints(f"{directory}/plain-{time.time_ns()}", print)) as checkpoints:
        fit(model, learner, config, RunHooks(partial(note, f"{directory}/plain.jsonl"), checkpoints, rank, WORKERS))


def _plain(directory: str) -> dict[str, float]:
    from tests.jobs.two_workers import together

    Path(directory, "plain.jsonl").unlink(missing_ok=True)
    together("tests.benchmarks.ray_overhead", "plain_worker", WORKERS, directory=directory)
    return {"rate": _rate(f"{directory}/plain.jsonl")}


def _ray(directory: str) -> dict[str, float]:
    import ray

    from cluster.connect import attach_or_start
    from jobs.core.stage import Context, Resources
    from jobs.core.tracking import Tracking
    from jobs.pretrain import STAGE

    with attach_or_start("local", cpus=WORKERS) as cluster:
        ray.init(cluster.address, log_to_driver=False)
        file, stamp = f"{directory}/ray-{time.time_ns()}.jsonl", str(time.time_ns())
        context = Context(directory, "bench", "base", f"{directory}/base-{stamp}", stamp, Resources(workers=WORKERS))
        # Neither side writes TensorBoard's files.
        context = replace(context, report=partial(note, file), tracking=Tracking(tensorboard=False))
        began = time.monotonic()
        outcome = STAGE.run(_config(), _inputs(directory), context)
        around = time.monotonic() - began - outcome.metrics["steps"] / outcome.metrics["steps_per_second"]
        ray.shutdown()
    return {"rate": _rate(file), "around": around}


if __name__ == "__main__":
    print(json.dumps(_plain(sys.argv[2]) if sys.argv[1] == "plain" else _ray(sys.argv[2])))
