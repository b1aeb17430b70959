"""Where the loop runs: in Ray Train's workers, in one task where one worker is asked for, or in this process (a trial of a
search, healing after pruning).

    outcome = train(build, config, inputs, context)

`build(config, inputs)` makes the model and its objective; it is called in every worker.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from cluster.connection.follow import in_a_line
from cluster.ray_private import draining
from cluster.store.artifact import File, upload
from cluster.store.storage import filesystem, is_local, join
from jobs.contracts.objective import Learner, Preempted
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs, Outcome
from jobs.training.checkpoint import Checkpoints
from jobs.training.hooks import RunHooks
from jobs.training.loop import TrainingResult, fit
from jobs.training.settings import Training
from jobs.training.spike_guard import Diverged
from jobs.training.trackers import WatchedRun
from jobs.training.tracking import Trackers, open_trackers

CHECKPOINTS = "checkpoints"
CONTROLLER_FAILURES = 3


Build = Callable[[Any, Inputs], tuple[nn.Module, Learner]]


def train(build: Build, config: Training, inputs: Inputs, context: Context) -> Outcome:
    """Train on the workers that the context asks for, or right here inside a search."""
    if context.trial is not None:
        return train_in_process(build, config, inputs, context)
    payload = {"build": build, "config": config, "inputs": inputs, "context": context}
    start = partial(_in_task, payload) if context.resources.workers == 1 else partial(_in_group, payload)
    return _until_trained(start)


def train_in_process(build: Build, config: Training, inputs: Inputs, context: Context) -> Outcome:
    """Train in this process; the model is left in the context's directory."""
    torch.set_num_threads(max(1, int(context.resources.cpus)))
    model, learner = _seeded_build(build, config, inputs)
    place = context.trial.checkpoints if context.trial is not None else join(context.scratch, CHECKPOINTS)
    with (
        closing(Checkpoints(place, print)) as checkpoints,
        RunHooks(context.report, checkpoints, trial=context.trial, track=trackers_opener(context, config)) as hooks,
    ):
        fitted = fit(model, learner, config, hooks)
    return _outcome(fitted, learner.save(model, context.directory), {})


def trackers_opener(context: Context, config: Training) -> Callable[[int], Trackers]:
    """What opens the run's trackers once it is known where it goes on."""
    trial = context.trial.checkpoints.rstrip("/").split("/")[-2] if context.trial is not None else ""
    run = WatchedRun.of(context, config, trial)
    return lambda step: open_trackers(context.tracking, run, step)


def _seeded_build(build: Build, config: Training, inputs: Inputs) -> tuple[nn.Module, Learner]:
    torch.manual_seed(config.seed)
    return build(config, inputs)


def _outcome(fitted: TrainingResult, figures: dict[str, float], files: dict[str, File]) -> Outcome:
    details = {"curve": fitted.curve, "stopped_early": fitted.stopped_early}
    return Outcome(metrics={**fitted.metrics, **figures}, details=details, files=files)


def _until_trained(start: Callable[[int], Outcome | Exception]) -> Outcome:
    """One run after another, by number, until one ends otherwise than by a notice that a node will be taken away."""
    for number in count():
        outcome = start(number)
        if isinstance(outcome, Preempted):
            print(f"a node is about to be taken away ({outcome}); going on elsewhere", flush=True)
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            return outcome
    raise AssertionError("numbers do not end")


def _in_group(payload: dict[str, Any], number: int) -> Outcome | Exception:
    """A run of Ray Train's: several workers that find each other, and start together again where one is lost."""
    outcome = _trainer(payload, f"train-{payload['context'].attempt}-{number}").fit().return_value
    assert isinstance(outcome, Outcome | Exception), "the first worker returns the outcome"
    return outcome


def _in_task(payload: dict[str, Any], number: int) -> Outcome | Exception:
    """A run of one worker, which needs no group: controller and group of Ray Train take longer to start than a small step.

    Where its process or its node is lost, or it fails, it starts again from the newest checkpoint, as often as Train would.
    """
    import ray
    from ray.exceptions import RayError

    resources = payload["context"].resources
    # Ray's own retries would count neither errors nor workers that ran out of memory.
    task = ray.remote(_task).options(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)
    for left in reversed(range(resources.max_failures + 1)):
        try:
            outcome = ray.get(task.remote(payload))
            assert isinstance(outcome, Outcome | Exception), "the only worker returns the outcome"
            return outcome
        except RayError as error:
            if not left:
                raise
            print(f"the worker was lost, and is started again ({in_a_line(error)}); {left - 1} more may be lost", flush=True)
    raise AssertionError("the last failure is raised")


def _trainer(payload: dict[str, Any], name: str) -> Any:
    import ray.train
    from ray.train.torch import TorchTrainer

    train: Any = ray.train  # Ray's annotations are those of its older trainer
    context: Context = payload["context"]
    resources = context.resources
    asked = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    fewest = resources.min_workers
    workers = resources.workers if fewest is None else (min(fewest, resources.workers), resources.workers)
    return TorchTrainer(
        cast(Any, _worker),
        train_loop_config=payload,
        scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=resources.gpus > 0, resources_per_worker=asked),
        run_config=train.RunConfig(
            # Ray's own record of the run is not needed: the loop finds its checkpoints by itself.
            name=name,
            storage_path=context.scratch if is_local(context.scratch) else filesystem(context.scratch)[1],
            storage_filesystem=None if is_local(context.scratch) else filesystem(context.scratch)[0],
            failure_config=train.FailureConfig(
                max_failures=resources.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
        ),
    )


def _task(payload: dict[str, Any]) -> Outcome | Exception | None:
    """What the one worker does, in a task."""
    return _answered(partial(_train_in_worker, payload, 0, 1, draining))


def _worker(payload: dict[str, Any]) -> Outcome | Exception | None:
    """What each Ray Train worker does."""
    import ray.train

    place = ray.train.get_context()
    return _answered(partial(_train_in_worker, payload, place.get_world_rank(), place.get_world_size(), _preempted))


def _answered(work: Callable[[], Outcome | None]) -> Outcome | Exception | None:
    """What the work returns; errors that are not to be answered with another try are returned as well."""
    try:
        return work()
    except (BadInput, Diverged, Preempted) as error:
        return error


def _train_in_worker(payload: dict[str, Any], rank: int, workers: int, preemption: Callable[[], bool]) -> Outcome | None:
    """Train; the first worker publishes the model and returns the outcome."""
    context: Context = payload["context"]
    torch.set_num_threads(max(1, int(context.resources.cpus)))
    os.environ.setdefault("ACCELERATE_USE_CPU", str(not torch.cuda.is_available()).lower())
    model, learner = _seeded_build(payload["build"], payload["config"], payload["inputs"])
    track = trackers_opener(context, payload["config"])
    with (
        closing(Checkpoints(join(context.scratch, CHECKPOINTS), print)) as checkpoints,
        RunHooks(context.report, checkpoints, rank, workers, track=track, preemption=preemption) as hooks,
    ):
        fitted = fit(model, learner, payload["config"], hooks, context.resources.parallel)
    if rank != 0:
        return None
    if fitted.weights is not None:
        model, learner = _seeded_build(payload["build"], payload["config"], payload["inputs"])
        model.load_state_dict(fitted.weights)
    with tempfile.TemporaryDirectory() as directory:
        here = replace(context, directory=Path(directory))
        figures = learner.save(model, here.directory)
        return _outcome(fitted, figures, upload(here.directory, context.output))


def _preempted() -> bool:
    """Whether a node with a worker of this run drains (a spot node that its cloud wants back); waits for all workers."""
    import ray.train

    train: Any = ray.train  # as above
    return train.get_preemption_info() is not None
