"""What Ray Train costs: the step loop in its workers against two plain processes, and the seconds around the loop, there and
in the task of a step that has one worker.

Both sides run `fit` with the same model, data and batch, two workers of one thread each over gloo. They run in turns of a
few seconds, one side stopped with all its processes while the other has the machine: whatever else goes on falls on both.

python -m tests.benchmarks.ray_overhead plain|ray|task DIRECTORY STEPS NOTES   one side; ray and task print the seconds around
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.benchmarks import masked_rows
from tests.benchmarks.peers import PAIRS, ratio

WORKERS, WARM_UP = 2, 10
STEPS, SHORT_STEPS = 999, 12
"""Of the sides in turns, which are not to come to their end, and of those whose seconds around the loop are taken."""
TURN_SECONDS, TURNS = 12.0, 6
BATCH = 16
SHAPE = {"layers": 4, "hidden": 256, "heads": 4}


def measures() -> Iterator[dict[str, Any]]:
    """The ratio of steps a second, and the overhead in seconds."""
    with tempfile.TemporaryDirectory() as directory:
        masked_rows.publish_rows(f"{directory}/tokens")
        pairs = _in_turns(directory)
        names = ("ray", "task")
        around = [[json.loads(_Side(name, directory, SHORT_STEPS).finish()) for name in names] for _ in range(PAIRS)]
    yield ratio("ray_train_against_plain_processes", 0.97, "steps/s", pairs, workers=WORKERS, seconds_a_turn=TURN_SECONDS)
    for name, seconds in zip(("ray_train", "one_worker"), zip(*around, strict=True), strict=True):
        yield {
            "name": f"{name}_seconds_around_the_loop",
            "value": round(median(seconds), 1),
            "goal": None,
            "better": "lower",
            "unit": "s",
            "detail": {
                "rounds": [round(each, 1) for each in seconds],
                "from": "train() called to outcome, less the loop's own time",
            },
        }


def _in_turns(directory: str) -> list[tuple[float, float]]:
    """Steps a second of Ray's side and of the plain one, a pair for each turn that both had."""
    sides = [_Side("ray", directory, STEPS), _Side("plain", directory, STEPS)]
    try:
        for side in sides:
            side.wait_until_warm()
            side.stop()
        return [(sides[0].turn(), sides[1].turn()) for _ in range(TURNS)]
    finally:
        for side in sides:
            side.kill()


@dataclass
class _Side:
    """A process that trains, with all that it has started."""

    name: str
    directory: str
    steps: int

    def __post_init__(self) -> None:
        self.notes = Path(self.directory, f"{self.name}-{time.time_ns()}.jsonl")
        command = [sys.executable, "-m", "tests.benchmarks.ray_overhead", self.name, self.directory]
        command += [str(self.steps), str(self.notes)]
        # Ray's workers are nicer than others by default; here other programs would then slow down one side alone.
        environment = {**os.environ, "RAY_worker_niceness": "0"}
        self.errors = self.notes.with_suffix(".err").open("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment)

    def told(self) -> list[tuple[float, int]]:
        """When a step was done, and which: the loop tells of one every two seconds."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [(when, step) for when, step in map(json.loads, lines)]

    def wait_until_warm(self) -> None:
        while not (told := self.told()) or told[-1][1] < WARM_UP:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} failed:\n{self._complaint()}")
            time.sleep(0.2)

    def turn(self) -> float:
        """Steps a second while it alone runs, between the first and the last step that it tells of."""
        self._signal(signal.SIGCONT)
        began = time.time()
        time.sleep(TURN_SECONDS)
        self.stop()
        told = [(when, step) for when, step in self.told() if when > began]
        if len(told) < 2:
            raise RuntimeError(f"{self.name} told of {len(told)} steps in {TURN_SECONDS} s:\n{self._complaint()}")
        return (told[-1][1] - told[0][1]) / (told[-1][0] - told[0][0])

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def finish(self) -> str:
        """Let it come to its end; returns what it printed last."""
        told, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"{self.name} failed:\n{self._complaint()}")
        return str(told.splitlines()[-1])

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.communicate()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            for process in [top, *top.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def _complaint(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-2000:]


def _config(steps: int) -> Any:
    from jobs.pretrain import PretrainConfig

    asked = {"model": SHAPE, "epochs": 99, "max_steps": steps, "batch_size": BATCH, "checkpoint_seconds": 600}
    return PretrainConfig.model_validate(asked)


def _inputs(directory: str) -> Any:
    from cluster.store.artifact import open_artifact
    from jobs.core.stage import Inputs

    return Inputs(tokens=[open_artifact(f"{directory}/tokens")])


def note(file: str, **figures: float) -> None:
    """What becomes of the loop's figures on both sides: when each step that is told was done."""
    with open(file, "a") as notes:
        print(json.dumps([time.time(), figures["step"]]), file=notes)


def plain_worker(rank: int, directory: str, steps: int, notes: str) -> None:
    """One of two plain processes."""
    import torch

    from jobs.pretrain import build
    from jobs.training.checkpoint import Checkpoints
    from jobs.training.hooks import RunHooks
    from jobs.training.loop import fit

    torch.set_num_threads(1)
    config = _config(steps)
    torch.manual_seed(config.seed)
    model, learner = build(config, _inputs(directory))
    with closing(Checkpoints(f"{directory}/plain-{time.time_ns()}", print)) as checkpoints:
        fit(model, learner, config, RunHooks(partial(note, notes), checkpoints, rank, WORKERS))


def _plain(directory: str, steps: int, notes: str) -> None:
    from tests.jobs.two_workers import together

    arguments = {"directory": directory, "steps": steps, "notes": notes}
    together("tests.benchmarks.ray_overhead", "plain_worker", WORKERS, patience=1800, **arguments)


def _ray(workers: int, directory: str, steps: int, notes: str) -> None:
    import ray

    from cluster.connection.connect import attach_or_start
    from jobs.core.stage import Context, Resources
    from jobs.core.tracking_settings import Tracking
    from jobs.pretrain import STAGE

    with attach_or_start("local", cpus=WORKERS) as cluster:
        ray.init(cluster.address, log_to_driver=False)
        stamp = str(time.time_ns())
        context = Context(directory, "bench", "base", f"{directory}/base-{stamp}", stamp, Resources(workers=workers))
        # Neither side writes TensorBoard's files.
        context = replace(context, report=partial(note, notes), tracking=Tracking(tensorboard=False))
        began = time.monotonic()
        outcome = STAGE.run(_config(steps), _inputs(directory), context)
        print(json.dumps(time.monotonic() - began - outcome.metrics["steps"] / outcome.metrics["steps_per_second"]))
        ray.shutdown()


if __name__ == "__main__":
    sides: dict[str, Callable[[str, int, str], None]] = {
        "plain": _plain,
        "ray": partial(_ray, WORKERS),
        "task": partial(_ray, 1),
    }
    sides[sys.argv[1]](sys.argv[2], int(sys.argv[3]), sys.argv[4])
