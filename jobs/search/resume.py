"""Going on with a search whose driver was killed or stopped: Ray Tune's own snapshots of it, in the step's scratch.

Finished and stopped trials stay as they are; unfinished ones go on, and failed ones too: they failed often enough within
one run to be given up, but a new run may find a mended cluster. The algorithm and the scheduler go on with what they knew.
"""

import json
import os
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

from cluster.storage import delete, filesystem, is_local, join, list_files, read_bytes
from jobs.core.stage import Context

NAME = "tune"
TUNER = "tuner.pkl"
STATES = "experiment_state-"
SETTINGS = {
    # A trial that began after the last snapshot is not known to the search that goes on: the default is 10 s.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    # Tune's own answer to Ctrl-C is to end the search and return what there is, as if that were its result.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # CSV and TensorBoard files of each trial, which nobody reads here.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A snapshot for each three of pbt's checkpoints is what is wanted.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # The new output ignores verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
}


class Remember(tune.Callback):
    """Puts the scheduler's state into Tune's snapshots, which leave it out: asha's rungs would be empty after a restart."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self.scheduler = scheduler

    def get_state(self) -> dict[str, Any] | None:
        """All of the scheduler."""
        return dict(vars(self.scheduler))

    def set_state(self, state: dict[str, Any]) -> None:
        """Back into the scheduler of the new driver."""
        vars(self.scheduler).update(state)


def apply_settings() -> None:
    """Have Tune in this process keep to SETTINGS, unless the environment says otherwise."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def place_of(context: Context) -> str:
    """The URI where Tune keeps its snapshots of a step's search."""
    return join(context.scratch, NAME)


def restored(trainable: Any, context: Context) -> tune.Tuner | None:
    """The search that was stopped, ready to go on; None where there is none, or none that can be read."""
    place = place_of(context)
    if not _is_whole(place):
        delete(place)
        return None
    path = filesystem(place)[1]
    system = None if is_local(place) else filesystem(place)[0]
    return tune.Tuner.restore(path, trainable, resume_unfinished=True, resume_errored=True, storage_filesystem=system)


def _is_whole(place: str) -> bool:
    """Whether the newest snapshot can be read and holds trials.

    Tune would else begin anew with a single trial and say so only in its log.
    """
    names = [stat.path for stat in list_files(place) if "/" not in stat.path]
    states = [name for name in names if name.startswith(STATES)]
    if TUNER not in names or not states:
        return False
    try:
        return bool(json.loads(read_bytes(join(place, max(states))))["trial_data"])
    except ValueError:
        return False  # cut off in the middle of writing
