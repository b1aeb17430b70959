"""Going on with a search whose driver was killed or stopped: Ray Tune's own snapshots of it, in the step's scratch.

Finished and stopped trials stay as they are; unfinished ones go on, and failed ones too: they failed often enough within
one run to be given up, but a new run may find a mended cluster. The algorithm and the scheduler go on with what they knew.

A snapshot is written now and then, and not in the moment of a kill. Where there is none, or it is cut off, or of code that is
no more, or lacks a trial that has begun, the search begins anew from the trials' own records (records.py): each trial goes on
from what it left.
"""

import json
import os
import pickle
from collections.abc import Sequence
from typing import Any

from ray import cloudpickle, tune
from ray.tune.schedulers import TrialScheduler

from cluster.store.artifact import digest
from cluster.store.storage import delete, filesystem, is_local, join, list_files, read_bytes
from jobs.core.stage import Context
from jobs.search.records import TRIAL_NAME, Record

TUNER = "tuner.pkl"
SNAPSHOT_PREFIX = "experiment_state-"
TUNE_ENVIRONMENT = {
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
    """Have Tune in this process keep to TUNE_ENVIRONMENT, unless the environment says otherwise."""
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def place_of(context: Context) -> str:
    """The URI where Tune keeps its snapshots of a step's search.

    On the driver's host Tune gathers them by this name and the second in which it began: it is one of the step's own, or two
    searches might take each other's.
    """
    return join(context.scratch, f"tune-{digest({'scratch': context.scratch})[:8]}")


def restored(trainable: Any, context: Context, known: Sequence[Record]) -> tune.Tuner | None:
    """The search that was stopped, ready to go on; None where there is no whole snapshot that has all of these trials."""
    place = place_of(context)
    names = _trials(place)
    if not names or not names >= {record.name for record in known}:
        delete(place)
        return None
    path = filesystem(place)[1]
    system = None if is_local(place) else filesystem(place)[0]
    return tune.Tuner.restore(path, trainable, resume_unfinished=True, resume_errored=True, storage_filesystem=system)


def _trials(place: str) -> set[str]:
    """The trials in the newest snapshot; none where a file of it cannot be read.

    Tune copies a snapshot over the one before, file by file: a kill may leave any of them cut off. It would then fail, or
    begin anew with a single trial and say so only in its log.
    """
    files = {stat.path: read_bytes(join(place, stat.path)) for stat in list_files(place) if "/" not in stat.path}
    states = [name for name in files if name.startswith(SNAPSHOT_PREFIX)]
    if TUNER not in files or not states or not all(_is_whole(content) for content in files.values()):
        return set()
    trials = [json.loads(trial) for trial, _ in json.loads(files[max(states)])["trial_data"]]
    return {trial["config"].get(TRIAL_NAME, trial["trial_id"]) for trial in trials}


def _is_whole(content: bytes) -> bool:
    """Whether it is JSON, or what Tune has pickled here before."""
    try:
        json.loads(content)
    except ValueError:
        try:
            cloudpickle.loads(content)
        except (EOFError, pickle.UnpicklingError):
            return False
        except (AttributeError, ImportError) as error:
            print(f"the snapshot is of another version of this code ({error}): the trials' own records count", flush=True)
            return False
    return True
