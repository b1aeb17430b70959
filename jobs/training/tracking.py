"""Tracking: what rank 0 knows of a run, sent to TensorBoard, MLflow and Weights & Biases.

    run = WatchedRun.of(context, config)
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
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType

from jobs.core.tracking_settings import Tracking
from jobs.training.trackers import MlflowTracker, TensorBoardTracker, Tracker, WandbTracker, WatchedRun

QUEUED_POINTS = 10_000
TRACKER_FLUSH_SECONDS = 15.0
CLOSE_SECONDS = 30.0
RETRY_SECONDS = 60.0

LOGGER = logging.getLogger(__name__)


def open_trackers(settings: Tracking, run: WatchedRun, resume_step: int = 0) -> "Trackers":
    """The trackers that the settings name. Rank 0 alone calls this; other ranks have `Trackers()`.

    resume_step: the step of the checkpoint that the run goes on from. Points beyond it are made again, so earlier ones
    give way.
    """
    openers: dict[str, Callable[[], Tracker]] = {}
    if settings.tensorboard:
        openers["tensorboard"] = partial(TensorBoardTracker, run, resume_step)
    if settings.mlflow is not None:
        openers["mlflow"] = partial(MlflowTracker, settings.mlflow, run)
    if settings.wandb is not None and settings.wandb.mode != "disabled":
        openers["wandb"] = partial(WandbTracker, settings.wandb, run)
    return Trackers(Background(name, opener) for name, opener in openers.items())


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
        deadline = time.monotonic() + TRACKER_FLUSH_SECONDS
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
            LOGGER.warning("tracking: %s misses %d points of this run", self.name, self.lost)

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
            LOGGER.warning(
                "tracking: %s failed (%s); training goes on, and it is tried again every %.0f s",
                self.name,
                shown,
                self._retry_seconds,
            )
