"""What a search's trials have left of themselves, each in its own directory: enough to go on with, whatever Tune remembers.

    known = records(context)                       # the trials that have begun, the first first
    DrawnBefore(known, spaces, sampler=…)          # proposes them again, by their names, and new ones after them

{scratch}/trials/{name} holds `record.json` (values, evaluations so far), `outcome.json` once its model is whole, its
checkpoints, and the states that it may have to wait in.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from cluster.store.storage import exists, join, list_directories, read_bytes
from jobs.core.spaces import Space
from jobs.core.stage import Context

TRIALS = "trials"
RECORD_FILE = "record.json"
TRIAL_NAME = "__trial__"
"""The key beside a trial's values that names it, where it is not named by Tune's own number."""


@dataclass(frozen=True)
class Record:
    """A trial that has begun."""

    name: str
    drawn: Mapping[str, Any]
    """What the algorithm drew, by the paths of the search spaces."""
    born: float


def trials_place(context: Context) -> str:
    """The URI below which each trial has its directory."""
    return join(context.scratch, TRIALS)


def read_record(place: str) -> dict[str, Any]:
    """What a trial's record says; empty where it has not begun."""
    file = join(place, RECORD_FILE)
    record: dict[str, Any] = json.loads(read_bytes(file)) if exists(file) else {}
    return record


def records(context: Context) -> list[Record]:
    """All trials that have begun, in that order."""
    root = trials_place(context)
    found = [(name, read_record(join(root, name))) for name in (list_directories(root) if exists(root) else [])]
    known = [Record(name, record["drawn"], record["born"]) for name, record in found if "drawn" in record]
    return sorted(known, key=lambda record: record.born)


class DrawnBefore(OptunaSearch):
    """Optuna, which first proposes again what was drawn before, under the names of then.

    It draws by itself all the same: what comes after is what it would have been, as far as results come in the same order.
    """

    def __init__(self, known: Sequence[Record], spaces: Mapping[str, Space], **settings: Any) -> None:
        super().__init__(**settings)
        self.known = [(one.name, {path: _as_asked(spaces[path], drawn) for path, drawn in one.drawn.items()}) for one in known]

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next values; those that were drawn before with their trial's name."""
        values: dict[str, Any] | None = super().suggest(trial_id)
        if not values or not self.known:
            return values
        name, before = self.known.pop(0)
        if values != before:
            # Of Ray's private parts: see cluster/ray_private.py.
            assert self._ot_study is not None, "it has just been asked"
            self._ot_study.tell(self._ot_trials.pop(trial_id), state=TrialState.FAIL)
            self._ot_study.enqueue_trial(before)
            values = super().suggest(trial_id)
        return {**(values or {}), TRIAL_NAME: name}


def _as_asked(space: Space, value: Any) -> Any:
    """A value as it stands in its space: JSON makes lists of tuples."""
    alike = (one for one in space.values if json.dumps(one) == json.dumps(value))
    return next(alike, value) if space.kind == "choice" else value
