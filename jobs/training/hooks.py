"""What becomes of a run's figures and checkpoints: told, tracked, kept, and handed to the search that the run is in."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from torch import distributed as dist

from jobs.contracts.objective import State
from jobs.core.stage import Trial
from jobs.training.checkpoint import Checkpoints
from jobs.training.tracking import Trackers

REPORT_SECONDS = 2.0


@dataclass
class RunHooks:
    """Hooks of a run in one or more workers; the first alone speaks and writes."""

    report: Callable[..., None]
    checkpoints: Checkpoints | None = None
    rank: int = 0
    world_size: int = 1
    trial: Trial | None = None
    track: Callable[[int], Trackers] | None = None
    """Opens the trackers of a run that goes on from a step; the first worker calls it."""
    preemption: Callable[[], bool] = lambda: False
    """Whether the cluster has given notice that it takes a node of this run away; every worker calls it alike."""
    spoken: float = field(default=0.0, init=False)
    trackers: Trackers = field(default_factory=Trackers, init=False)

    def progress(self, figures: dict[str, float]) -> None:
        """To the trackers; and a line for people, not too often."""
        self._log(figures)
        if self.rank == 0 and time.monotonic() - self.spoken >= REPORT_SECONDS:
            self.report(**figures)
            self.spoken = time.monotonic()

    def note(self, text: str) -> None:
        """Said at once."""
        if self.rank == 0:
            print(text, flush=True)

    def evaluated(self, figures: dict[str, float], state: Callable[[], State]) -> None:
        """Told to the trackers, to people and to the search."""
        self._log(figures)
        if self.rank == 0:
            self.report(**figures)
        if self.trial is not None:
            self.trial.evaluated(figures, state)

    def save(self, state: Callable[[], State]) -> None:
        """Every worker gathers the state, since shards are gathered together; the first writes it."""
        whole = state()
        if self.rank == 0 and self.checkpoints is not None:
            self.trackers.flush()  # What a checkpoint has passed is not made again.
            self.checkpoints.save(whole["run"]["step"], whole)

    def preempted(self) -> bool:
        """Whether notice was given."""
        return self.preemption()

    def __enter__(self) -> "RunHooks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.trackers.__exit__(kind, error, trace)

    def _log(self, figures: dict[str, float]) -> None:
        self.trackers.log(int(figures["step"]), {key: value for key, value in figures.items() if key not in ("step", "steps")})

    def restore(self) -> State | None:
        """The state to go on from, and the trackers opened there."""
        state = self._restore()
        if self.rank == 0 and self.track is not None:
            self.trackers = self.track(state["run"]["step"] if state is not None else 0)
        return state

    def _restore(self) -> State | None:
        """What the search hands over, else the newest sound checkpoint: the one that the first worker chose."""
        given = self.trial.start() if self.trial is not None else None
        if given is not None or self.checkpoints is None:
            return given
        found = self.checkpoints.latest() if self.rank == 0 else None
        names = [found[0] if found else None]
        if self.world_size > 1:
            dist.broadcast_object_list(names, 0)
        if names[0] is None:
            return None
        state = found[1] if found else self.checkpoints.load(names[0])
        self.note(f"going on from checkpoint {names[0]}")
        return state
