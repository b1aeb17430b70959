"""asha for a search that keeps several shapes: a trial is compared with those of its own shape alone.

Else the largest shape would win at every rung, and no small one would ever come to its end.
"""

import json
from collections.abc import Callable, Collection
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler


class ShapeWise(FIFOScheduler):
    """An asha for each shape; `keys` are the searched paths that make one."""

    def __init__(self, asha: Callable[[], ASHAScheduler], keys: Collection[str]) -> None:
        super().__init__()
        self.asha, self.keys = asha, sorted(keys)
        self.asked: dict[str, Any] = {}
        self.by_shape: dict[str, ASHAScheduler] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """What every asha is told when it begins."""
        self.asked = {"metric": metric, "mode": mode, **spec}
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A shape's first trial begins its asha."""
        shape = self._shape(trial)
        if shape not in self.by_shape:
            self.by_shape[shape] = self.asha()
            self.by_shape[shape].set_search_properties(**self.asked)
        self.by_shape[shape].on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        return self.by_shape[self._shape(trial)].on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Its last result counts at its rung too."""
        self.by_shape[self._shape(trial)].on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """It is compared no more."""
        self.by_shape[self._shape(trial)].on_trial_remove(tune_controller, trial)

    def _shape(self, trial: Trial) -> str:
        return json.dumps([trial.config.get(key) for key in self.keys])
