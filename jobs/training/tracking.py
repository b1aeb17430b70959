"""Tracking: what rank 0 knows of a run, sent to TensorBoard, MLflow and Weights & Biases.

    run = Run.of(context, config)
    with open_trackers(context.tracking, run, resume_step=0) as trackers:
        trackers.log(10, {"loss": 0.7, "learning_rate": 1e-4})
        trackers.flush()                       # before a checkpoint: what it skips must be on record

A run that was killed and goes on from a checkpoint stays one run everywhere. Each tracker works in a thread of its own:
one that hangs or fails costs its own points and one warning, never the training.
"""

import contextlib
import logging
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from pydantic import BaseModel

from cluster.store.storage import exists, join, read_bytes, write_bytes
from jobs.core.stage import Context
from jobs.core.tracking import Tracking

QUEUED_POINTS = 10_000
FLUSH_SECONDS = 15.0
CLOSE_SECONDS = 30.0
RETRY_SECONDS = 60.0

LOG = logging.getLogger(__name__)


class Tracker(Protocol):
    """One place where a run can be watched."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures at a step, which is the number of updates done."""
        ...

    def flush(self) -> None:
        """Bring what was logged to safety."""
        ...

    def close(self, failed: bool = False) -> None:
        """The run has ended."""
        ...


@dataclass(frozen=True)
class Run:
    """What is watched: a step of a recipe, or one trial of its search."""

    directory: str
    """A URI of the run's own below the storage's .tracking: TensorBoard's files, and the run's names elsewhere."""
    name: str
    """The step with its hash, e.g. teacher-1a2b3c4d, and the trial where there is one."""
    recipe: str
    step: str
    artifact: str
    """The URI that the step's artifact will have."""
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, context: Context, config: BaseModel, trial: str = "") -> "Run":
        """The run that a context stands for."""
        name = "/".join(part for part in (context.output.rstrip("/").rsplit("/", 1)[-1], trial) if part)
        directory = join(context.storage, ".tracking", context.recipe, name)
        return cls(directory, name, context.recipe, context.step, context.output, config.model_dump(mode="json"))

    def parameters(self) -> dict[str, Any]:
        """The config's leaves by dotted path."""
        return _flatten(self.config)

    def known_as(self, service: str) -> str:
        """The name that a service knows this run by: drawn at random once, kept in the run's directory."""
        # Not the step's hash: two storages may hold the same step, and each has a run of its own on a shared server.
        uri = join(self.directory, f"{service}.id")
        if not exists(uri):
            write_bytes(uri, f"{self.step}-{uuid.uuid4().hex[:12]}".encode())
        return read_bytes(uri).decode()


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def open_trackers(settings: Tracking, run: Run, resume_step: int = 0) -> "Trackers":
    """The trackers that the settings name. Rank 0 alone calls this; other ranks have `Trackers()`.

    resume_step: the step of the checkpoint that the run goes on from. Points beyond it are made again, so earlier ones
    give way.
    """
    openers: dict[str, Callable[[], Tracker]] = {}
    if settings.tensorboard:
        openers["tensorboard"] = lambda: _tensorboard(run, resume_step)
    if settings.mlflow is not None:
        openers["mlflow"] = lambda: _mlflow(settings, run)
    if settings.wandb is not None and settings.wandb.mode != "disabled":
        openers["wandb"] = lambda: _wandb(settings, run)
    return Trackers(Background(name, opener) for name, opener in openers.items())


def _tensorboard(run: Run, resume_step: int) -> Tracker:
    from jobs.training.tracking_files import TensorBoardTracker

    return TensorBoardTracker(run, resume_step)


def _mlflow(settings: Tracking, run: Run) -> Tracker:
    from jobs.training.tracking_services import MlflowTracker

    assert settings.mlflow is not None
    return MlflowTracker(settings.mlflow, run)


def _wandb(settings: Tracking, run: Run) -> Tracker:
    from jobs.training.tracking_services import WandbTracker

    assert settings.wandb is not None
    return WandbTracker(settings.wandb, run)


class Trackers:
    """All trackers of a run as one; leaving the block closes them, as failed if by an error."""

    def __init__(self, trackers: Iterable["Background"] = ()) -> None:
        self._trackers = list(trackers)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send the figures at a step; returns at once."""
        for tracker in self._trackers:
            tracker.log(step, figures)

    def flush(self) -> None:
        """Wait until what was logged is on record, but not for long."""
        for tracker in self._trackers:
            tracker.flush()

    def close(self, failed: bool = False) -> None:
        """End the run everywhere; a second call does nothing."""
        trackers, self._trackers = self._trackers, []
        for tracker in trackers:
            tracker.finish(failed)
        for tracker in trackers:
            tracker.join()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A search ends a trial that it has seen enough of with sys.exit(0).
        stopped = isinstance(error, SystemExit) and not error.code
        self.close(failed=error is not None and not stopped)


class Background:
    """A tracker in a thread of its own. What goes wrong in it is told once, by its name and with the reason."""

    def __init__(self, name: str, opener: Callable[[], Tracker], retry_seconds: float = RETRY_SECONDS) -> None:
        self.name, self.lost = name, 0
        self._opener, self._retry_seconds = opener, retry_seconds
        self._tracker: Tracker | None = None
        self._failing, self._behind, self._warned, self._next_try = False, False, False, 0.0
        self._queue: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(QUEUED_POINTS)
        self._thread = threading.Thread(target=self._work, name=f"tracking-{name}", daemon=True)
        # Open now, not at the first point: a run shows up where people look for it as soon as it starts.
        self._put(lambda tracker: None)
        self._thread.start()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        kept = dict(figures)
        self._put(lambda tracker: tracker.log(step, kept))

    def flush(self) -> None:
        """Wait for the points so far; not again for one that was waited for in vain, until it has caught up."""
        if self._failing or self._behind:
            return
        done = threading.Event()

        def mark(tracker: Tracker) -> None:
            tracker.flush()
            self._behind = False
            done.set()

        self._put(mark)
        deadline = time.monotonic() + FLUSH_SECONDS
        while not done.wait(0.02) and not self._failing:
            if time.monotonic() > deadline:
                self._behind = True
                return

    def finish(self, failed: bool) -> None:
        """Have the thread close the tracker once all points are sent; `join` waits for it."""

        def end(tracker: Tracker) -> None:
            tracker.close(failed)

        self._put(end)
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._deadline = time.monotonic() + CLOSE_SECONDS

    def join(self) -> None:
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"it did not end within {CLOSE_SECONDS:.0f} s")
        if self.lost:
            LOG.warning("tracking: %s misses %d points of this run", self.name, self.lost)

    def _put(self, item: Callable[[Tracker], None]) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.lost += 1
            self._warn(f"it is {QUEUED_POINTS} points behind")

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failing and time.monotonic() < self._next_try:
                self.lost += 1
                continue
            try:
                if self._tracker is None:
                    self._tracker = self._opener()
                item(self._tracker)
                self._failing = False
            except Exception as error:  # noqa: BLE001 - whatever a service does, the training goes on
                self.lost += 1
                self._failing, self._next_try = True, time.monotonic() + self._retry_seconds
                self._warn(f"{type(error).__name__}: {error}")

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            shown = re.sub(r"://[^/@\s]+@", "://***@", " ".join(reason.split()))[:500]
            LOG.warning(
                "tracking: %s failed (%s); training goes on, and it is tried again every %.0f s",
                self.name,
                shown,
                self._retry_seconds,
            )
