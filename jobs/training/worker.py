"""Where the loop runs: in Ray Train workers, or in this process (a trial of a search, healing after pruning).

    outcome = train(build, config, inputs, context)

`build(config, inputs)` makes the model and its objective; it is called in every worker.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from cluster.artifact import File, upload
from cluster.storage import filesystem, is_local
from jobs.core.stage import Context, Inputs, Outcome, Trial
from jobs.training.loop import Fitted, fit
from jobs.training.objective import Hooks, Objective, State
from jobs.training.settings import Training

PROGRESS_SECONDS = 2.0
CONTROLLER_FAILURES = 3


class Learner(Objective, Protocol):
    """An objective that also knows how its model is published."""

    def save(self, model: nn.Module, directory: Path) -> dict[str, float]:
        """Write the model's directory; returns figures about it (parameters)."""
        ...


Build = Callable[[Any, Inputs], tuple[nn.Module, Learner]]


def train(build: Build, config: Training, inputs: Inputs, context: Context) -> Outcome:
    """Train with Ray Train on the workers that the context asks for, or right here inside a search."""
    if context.trial is not None:
        return train_here(build, config, inputs, context)
    return _train_with_ray(build, config, inputs, context)


def train_here(build: Build, config: Training, inputs: Inputs, context: Context) -> Outcome:
    """Train in this process; the model is left in the context's directory."""
    torch.set_num_threads(max(1, int(context.resources.cpus)))
    model, learner = _seeded_build(build, config, inputs)
    fitted = fit(model, learner, config, HereHooks(context.report, context.trial))
    figures = learner.save(model, context.directory)
    return _outcome(fitted, figures, {})


def _seeded_build(build: Build, config: Training, inputs: Inputs) -> tuple[nn.Module, Learner]:
    torch.manual_seed(config.seed)
    return build(config, inputs)


def _outcome(fitted: Fitted, figures: dict[str, float], files: dict[str, File]) -> Outcome:
    details = {"curve": fitted.curve, "stopped_early": fitted.stopped_early}
    return Outcome(metrics={**fitted.metrics, **figures}, details=details, files=files)


@dataclass
class HereHooks:
    """Hooks of a run in this process: figures are reported, nothing is checkpointed."""

    report: Callable[..., None]
    trial: Trial | None = None
    spoken: float = 0.0

    def progress(self, figures: dict[str, float]) -> None:
        if time.monotonic() - self.spoken >= PROGRESS_SECONDS:
            self.report(**figures)
            self.spoken = time.monotonic()

    def evaluated(self, figures: dict[str, float], state: Callable[[], State]) -> None:
        self.report(**figures)
        if self.trial is not None:
            self.trial.evaluated(figures, state)

    def save(self, state: Callable[[], State]) -> None:
        """A run in this process starts again from its beginning: it is short, or its trial is run again."""

    def restore(self) -> State | None:
        return self.trial.start() if self.trial is not None else None


@dataclass
class RayTrainHooks:
    """Hooks of a Ray Train worker: rank 0 writes checkpoints, Ray keeps them in the run's storage."""

    report: Callable[..., None]
    rank: int
    spoken: float = 0.0

    def progress(self, figures: dict[str, float]) -> None:
        if self.rank == 0 and time.monotonic() - self.spoken >= PROGRESS_SECONDS:
            self.report(**figures)
            self.spoken = time.monotonic()

    def evaluated(self, figures: dict[str, float], state: Callable[[], State]) -> None:
        if self.rank == 0:
            self.report(**figures)

    def save(self, state: Callable[[], State]) -> None:
        import ray.train

        if self.rank != 0:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as directory:
            torch.save(state(), Path(directory) / "state.pt")
            ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(directory))

    def restore(self) -> State | None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as directory:
            return torch.load(Path(directory) / "state.pt", weights_only=True, map_location="cpu")


def _train_with_ray(build: Build, config: Training, inputs: Inputs, context: Context) -> Outcome:
    import ray.train
    from ray.train.torch import TorchTrainer

    train: Any = ray.train  # Ray's annotations are those of its older trainer

    resources = context.resources
    asked = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    trainer: Any = TorchTrainer(
        cast(Any, _worker),
        train_loop_config={"build": build, "config": config, "inputs": inputs, "context": context},
        scaling_config=train.ScalingConfig(
            num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=asked
        ),
        run_config=train.RunConfig(
            # The same step finds its own checkpoints again after its driver was killed.
            name="train",
            storage_path=context.scratch if is_local(context.scratch) else filesystem(context.scratch)[1],
            storage_filesystem=None if is_local(context.scratch) else filesystem(context.scratch)[0],
            failure_config=train.FailureConfig(
                max_failures=resources.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
        ),
    )
    outcome = trainer.fit().return_value
    assert isinstance(outcome, Outcome), "rank 0 returns the outcome"
    return outcome


def _worker(payload: dict[str, Any]) -> Outcome | None:
    """What each Ray Train worker does; rank 0 publishes the model and returns the outcome."""
    import ray.train

    context: Context = payload["context"]
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(max(1, int(context.resources.cpus)))
    os.environ.setdefault("ACCELERATE_USE_CPU", str(not torch.cuda.is_available()).lower())
    model, learner = _seeded_build(payload["build"], payload["config"], payload["inputs"])
    hooks: Hooks = RayTrainHooks(context.report, rank)
    fitted = fit(model, learner, payload["config"], hooks)
    if rank != 0:
        return None
    with tempfile.TemporaryDirectory() as directory:
        here = replace(context, directory=Path(directory))
        figures = learner.save(model, here.directory)
        return _outcome(fitted, figures, upload(here.directory, context.output))
