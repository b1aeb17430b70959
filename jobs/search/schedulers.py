"""Schedulers that compare trials at rungs: in step, or each shape for itself.

rungs(Tune(scheduler="halving", reduction_factor=4), evaluations=8)      # [1, 4]: evaluations after which some are stopped
"""

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler

from cluster.ray_private import halvings_left, hyperband_bracket
from jobs.core.spaces import Tune

if TYPE_CHECKING:
    from cluster.ray_private import Bracket


def rungs(settings: Tune, evaluations: int) -> list[int]:
    """The evaluations after which trials are compared; the last one of all is none."""
    found, rung = [], settings.grace_reports
    while rung < evaluations:
        found.append(rung)
        rung *= settings.reduction_factor
    return found


class Halving(HyperBandScheduler):
    """Successive halving in step (Jamieson & Talwalkar 2016): Ray's HyperBand, all trials in its one bracket.

    A trial that has come to a rung pauses until all have, so what asha spends on whoever comes first is saved; who is
    paused must leave its state. `trials` is how many there will be. What is overridden here is private to Ray: see
    cluster/ray_private.py.
    """

    def __init__(self, settings: Tune, trials: int, evaluations: int, time_attr: str) -> None:
        factor = settings.reduction_factor
        super().__init__(time_attr=time_attr, max_t=evaluations, reduction_factor=factor, stop_last_trials=False)
        self.trials, self.grace, self.halvings = trials, settings.grace_reports, len(rungs(settings, evaluations))

    def _create_bracket(self, s: int) -> "Bracket":
        return hyperband_bracket(
            self._time_attr, self.trials, self.grace, self._max_t_attr, self._eta, self.halvings, self._stop_last_trials
        )

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial that had ended before a search was killed is compared no more."""
        if not trial.is_finished():
            super().on_trial_add(tune_controller, trial)

    def _process_bracket(self, tune_controller: Any, bracket: "Bracket") -> str:
        if len(tune_controller.get_trials()) < self.trials:
            return str(self.PAUSE)  # The others have not even been drawn.
        action = self._halve(tune_controller, bracket)
        # After a restart trials may be beyond the next rung already: Ray would leave them paused.
        while halvings_left(bracket) > 0 and bracket.current_trials() and bracket.cur_iter_done():
            again = self._halve(tune_controller, bracket)
            action = action if action == self.STOP else again
        return action

    def _halve(self, tune_controller: Any, bracket: "Bracket") -> str:
        try:
            return str(super()._process_bracket(tune_controller, bracket))
        finally:
            # Ray leaves it set, and a trial that fails at a later rung would have the others wait for ever.
            bracket.is_being_processed = False


class ShapeWise(FIFOScheduler):
    """An asha for each shape; `keys` are the searched paths that make one.

    Else the largest shape would win at every rung, and no small one would ever come to its end.
    """

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
