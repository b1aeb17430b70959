"""One trial of a search, inside its own process: it runs the stage there, tells Ray Tune, leaves its model and its record.

    tune.Tuner(trial_function(step, inputs, context), …)

A trial's directory, {scratch}/trials/{name}, outlives its process: `record.json` is what came to pass so far, `outcome.json`
is written last and says that the model beside it is whole. A trial that has it is never run again.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.artifact import upload
from cluster.storage import delete, exists, join, read_bytes, write_bytes
from jobs.core.config import BadInput
from jobs.core.recipe import Step
from jobs.core.stage import Context, Inputs, Outcome
from jobs.search.plan import EVALUATION, TURN
from jobs.search.rungs import rungs
from jobs.training.stability import Diverged

OUTCOME = "outcome.json"
RECORD = "record.json"
MODEL = "model"
STATE = "state.pt"
PATIENCE_SECONDS = "600"
HOPELESS = (BadInput, Diverged, FloatingPointError)
"""Errors that another try of the same values would only repeat."""


def trial_place(context: Context, name: str) -> str:
    """The URI of a trial's directory."""
    return join(context.scratch, "trials", name)


def trial_function(step: Step, inputs: Inputs, context: Context) -> Callable[[dict[str, Any]], None]:
    """The function that a trial's process runs."""

    def trial(values: dict[str, Any]) -> None:
        from ray import tune

        # Tune gives a trial a working directory of its own, where relative paths of the recipe mean nothing.
        os.chdir(os.environ.get("TUNE_ORIG_WORKING_DIR", os.getcwd()))
        # A trial that is stopped still writes its last checkpoint; the next one in this process waits so long, then fails.
        os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", PATIENCE_SECONDS)
        name = tune.get_context().get_trial_id()
        place = trial_place(context, name)
        if exists(join(place, OUTCOME)):
            # The search's driver ended before it had taken note.
            tune.report(json.loads(read_bytes(join(place, OUTCOME)))["told"])
            return
        _run(step, inputs, context, _Trial(step, name, place, step.spread(values)))

    return trial


def _run(step: Step, inputs: Inputs, context: Context, trial: "_Trial") -> None:
    from ray import tune

    def report(**figures: Any) -> None:
        context.report(**figures, trial=trial.name)

    trial.note()
    with tempfile.TemporaryDirectory() as directory:
        inside = replace(context, directory=Path(directory), report=report, trial=trial)
        try:
            outcome = step.stage.run(step.configure(trial.values), inputs, inside)
        except HOPELESS as error:
            trial.note(error=f"{type(error).__name__}: {error}")
            return
        upload(Path(directory), join(trial.place, MODEL))
    told = trial.finish(outcome)
    tune.report(told)


@dataclass
class _Trial:
    """What the training tells its search, and the record that is kept of it."""

    step: Step
    name: str
    place: str
    values: dict[str, Any]
    path: list[dict[str, Any]] = field(default_factory=list)
    """Evaluation by evaluation, under which values and in which trial the weights were trained: pbt's are others' too."""
    born: float = field(default_factory=time.time)
    """When the trial first began; this process is not always its first."""
    earlier: float = 0.0
    began: float = field(default_factory=time.monotonic)
    checkpoints: str = ""

    def __post_init__(self) -> None:
        self.checkpoints = join(self.place, "checkpoints")
        before = read_record(self.place)
        self.born, self.earlier = before.get("born", self.born), before.get("seconds", 0.0)
        self.path = before.get("path", [])

    def evaluated(self, figures: Mapping[str, float], state: Callable[[], Any]) -> None:
        from ray import tune

        share = figures["step"] / figures["steps"]
        evaluation = round(share * self._evaluations)
        self._went(evaluation, figures[self._score])
        # The last evaluation is told to the search only when the model is safe: it may end the trial.
        if share >= 1:
            return
        told = {self._score: figures[self._score], EVALUATION: evaluation, TURN: evaluation}
        if not self._may_pause(evaluation):
            tune.report(told)
            return
        with tempfile.TemporaryDirectory() as directory:
            _save({"state": state(), "path": self.path}, directory)
            tune.report(told, checkpoint=tune.Checkpoint.from_directory(directory))

    def start(self) -> Any | None:
        from ray import tune

        checkpoint = tune.get_checkpoint()
        if checkpoint is None:
            return None
        try:
            with checkpoint.as_directory() as directory:
                kept = _load(directory)
        except FileNotFoundError:
            # A killed search may remember a state that its donor has dropped since; what else is here led elsewhere.
            print(f"trial {self.name}: its state is gone, it begins anew", flush=True)
            delete(self.checkpoints)
            self.path = []
            return None
        self.path = kept["path"]
        return kept["state"]

    def finish(self, outcome: Outcome) -> dict[str, float]:
        """Leave the outcome beside the model, last of all; returns what is to be told to the search."""
        # On pbt's clock no turn is due at 0: a trial that has ended is not to take over another's weights.
        told = {self._score: outcome.metrics[self._score], EVALUATION: self._evaluations, TURN: 0}
        self.note()
        kept = {"metrics": dict(outcome.metrics), "details": dict(outcome.details), "told": told}
        write_bytes(join(self.place, OUTCOME), json.dumps(kept).encode())
        return told

    def note(self, **more: Any) -> None:
        """Write the record as it stands."""
        seconds = round(self.earlier + time.monotonic() - self.began, 2)
        record = {"values": self.values, "born": self.born, "seconds": seconds, "path": self.path, **more}
        write_bytes(join(self.place, RECORD), json.dumps(record).encode())

    def _may_pause(self, evaluation: int) -> bool:
        """Whether the trial may have to wait here, and go on in another process."""
        settings = self.step.tune
        return settings.scheduler == "pbt" or (
            settings.scheduler == "halving" and evaluation in rungs(settings, self._evaluations)
        )

    def _went(self, evaluation: int, score: float) -> None:
        stretch = {"evaluation": evaluation, "trial": self.name, "values": self.values, "score": score}
        self.path = [earlier for earlier in self.path if earlier["evaluation"] < evaluation] + [stretch]
        self.note()

    @property
    def _score(self) -> str:
        assert self.step.stage.score is not None
        return self.step.stage.score

    @property
    def _evaluations(self) -> int:
        return int(self.step.configure(self.values).model_dump().get("evaluations", 1))


def read_record(place: str) -> dict[str, Any]:
    """What a trial's record says; empty where it has not begun."""
    file = join(place, RECORD)
    record: dict[str, Any] = json.loads(read_bytes(file)) if exists(file) else {}
    return record


def _save(kept: Any, directory: str) -> None:
    import torch

    torch.save(kept, Path(directory, STATE))


def _load(directory: str) -> Any:
    import torch

    return torch.load(Path(directory, STATE), weights_only=True, map_location="cpu")
