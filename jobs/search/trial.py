"""One trial of a search, inside its own process: it runs the stage there, tells Ray Tune, leaves its model and its record.

    tune.Tuner(trial_function(step, inputs, context), …)

A trial's directory, {scratch}/trials/{name}, outlives its process: `record.json` is what came to pass so far, `outcome.json`
is written last and says that the model beside it is whole. A trial that has it is never run again.

Where trials wait for each other, the state of each lies there too, and Tune's checkpoint only says where. So a search that was
killed before Tune had written anything goes on all the same: a trial that is drawn again tells once more how it has fared, and
is compared as it was.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.store.artifact import upload
from cluster.store.storage import copy_file, delete, exists, join, list_files, read_bytes, write_bytes
from jobs.core.config import BadInput
from jobs.core.recipe import Step
from jobs.core.stage import Context, Inputs, Outcome
from jobs.search.records import RECORD_FILE, TRIAL_NAME, read_record, trials_place
from jobs.search.schedulers import rungs
from jobs.search.setup import EVALUATION, TURN
from jobs.training.spike_guard import Diverged

OUTCOME = "outcome.json"
MODEL = "model"
STATES = "states"
POINTER = "state.json"
KEPT_STATES = 3
"""States kept of each trial. One that is taken over must be there until its taker has had a place to start."""
PATIENCE_SECONDS = "600"
HOPELESS = (BadInput, Diverged, FloatingPointError)
"""Errors that another try of the same values would only repeat."""


def trial_place(context: Context, name: str) -> str:
    """The URI of a trial's directory."""
    return join(trials_place(context), name)


def trial_function(step: Step, inputs: Inputs, context: Context) -> Callable[[dict[str, Any]], None]:
    """The function that a trial's process runs."""

    def trial(values: dict[str, Any]) -> None:
        from ray import tune

        # Tune gives a trial a working directory of its own, where relative paths of the recipe mean nothing.
        os.chdir(os.environ.get("TUNE_ORIG_WORKING_DIR", os.getcwd()))
        # A trial that is stopped still writes its last checkpoint; the next one in this process waits so long, then fails.
        os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", PATIENCE_SECONDS)
        name = values.get(TRIAL_NAME) or tune.get_context().get_trial_id()
        place, drawn = trial_place(context, name), {path: value for path, value in values.items() if path != TRIAL_NAME}
        one = _Trial(step, name, place, step.spread(drawn), drawn)
        if exists(join(place, OUTCOME)):
            # The search's driver ended before it had taken note.
            one.tell_again()
            tune.report(json.loads(read_bytes(join(place, OUTCOME)))["told"])
            return
        _run(step, inputs, context, one)

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
    drawn: dict[str, Any] = field(default_factory=dict)
    """The values by the paths of the search spaces, as the algorithm drew them."""
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

        share = figures["step"] / figures["steps"]
        evaluation = round(share * self._evaluations)
        self._went(evaluation, figures[self._score])
        # The last evaluation is told to the search only when the model is safe: it may end the trial.
        if share < 1 and self._may_pause(evaluation):
            self._keep(state())
        self.note()  # After the state: a record that speaks of it must find it.
        if share < 1:
            self._tell(evaluation, figures[self._score])

    def start(self) -> Any | None:
        kept, waited = self._kept()
        waited = waited or any(self._may_pause(earlier["evaluation"]) for earlier in self.path)
        if kept is None and waited and self.step.tune.in_turns:
            # A killed search may remember a state that its donor has dropped since; what else is here led elsewhere.
            print(f"trial {self.name}: its state is gone, it begins anew", flush=True)
            delete(self.checkpoints)
            self.path = []
        elif kept is not None:
            self.path = kept["path"]
        self.tell_again()
        return kept["state"] if kept is not None else None

    def tell_again(self) -> None:
        """Tell the search of earlier evaluations that it may know nothing of; it may end or halt the trial at any of them."""
        told = self._pointer().get("told", 0)
        if self.step.tune.scheduler in ("asha", "halving"):
            for earlier in self.path:
                if told < earlier["evaluation"] < self._evaluations:
                    self._tell(earlier["evaluation"], earlier["score"])

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
        values = {"values": self.values, "drawn": self.drawn}
        record = {**values, "born": self.born, "seconds": seconds, "path": self.path, **more}
        write_bytes(join(self.place, RECORD_FILE), json.dumps(record).encode())

    def _tell(self, evaluation: int, score: float) -> None:
        from ray import tune

        told = {self._score: score, EVALUATION: evaluation, TURN: evaluation}
        if not self._may_pause(evaluation):
            tune.report(told)
            return
        states = self._states()
        pointer = {"state": states[-1] if states else None, "told": evaluation}
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, POINTER).write_text(json.dumps(pointer))
            tune.report(told, checkpoint=tune.Checkpoint.from_directory(directory))

    def _pointer(self) -> dict[str, Any]:
        """What Tune's checkpoint says: where a state is, and up to which evaluation the search knows of it."""
        from ray import tune

        checkpoint = tune.get_checkpoint()
        if checkpoint is None:
            return {}
        try:
            with checkpoint.as_directory() as directory:
                pointer: dict[str, Any] = json.loads(Path(directory, POINTER).read_text())
        except FileNotFoundError:
            return {"state": None}  # Tune keeps the last few alone.
        return pointer

    def _kept(self) -> tuple[Any | None, bool]:
        """The state to go on from, and whether the search has the trial go on from one.

        pbt may say another trial's; else the trial's own newest counts, which the search may not have heard of.
        """
        pointer = self._pointer()
        own = self._states()[-1:] if self.step.tune.in_turns else []
        named = [pointer["state"]] if pointer.get("state") else []
        found = own
        if self.step.tune.scheduler == "pbt" and pointer:
            # A snapshot may be so old that the trial has dropped the state since: then those that it has kept are later ones.
            found = [*named, *(own if any(uri.startswith(join(self.place, STATES) + "/") for uri in named) else [])]
        there = [uri for uri in found if exists(uri)]
        return (_load(there[0]) if there else None), bool(pointer)

    def _keep(self, state: Any) -> None:
        """Leave a state, and drop those that are too old."""
        states = self._states()
        number = int(states[-1].rsplit("/", 1)[1].partition(".")[0]) + 1 if states else 0
        _save({"state": state, "path": self.path}, join(self.place, STATES, f"{number:06d}.pt"))
        for old in states[: 1 - KEPT_STATES]:
            delete(old)

    def _states(self) -> list[str]:
        """The URIs of the trial's own states, the newest last."""
        root = join(self.place, STATES)
        return [join(root, stat.path) for stat in list_files(root)]

    def _may_pause(self, evaluation: int) -> bool:
        """Whether the trial may have to wait here, and go on in another process."""
        settings = self.step.tune
        return settings.scheduler == "pbt" or (
            settings.scheduler == "halving" and evaluation in rungs(settings, self._evaluations)
        )

    def _went(self, evaluation: int, score: float) -> None:
        stretch = {"evaluation": evaluation, "trial": self.name, "values": self.values, "score": score}
        self.path = [earlier for earlier in self.path if earlier["evaluation"] < evaluation] + [stretch]

    @property
    def _score(self) -> str:
        return self.step.score.name

    @property
    def _evaluations(self) -> int:
        return int(self.step.configure(self.values).model_dump().get("evaluations", 1))


def _save(kept: Any, uri: str) -> None:
    import torch

    with tempfile.NamedTemporaryFile() as file:
        torch.save(kept, file)
        file.flush()
        copy_file(file.name, uri)


def _load(uri: str) -> Any:
    import torch

    with tempfile.NamedTemporaryFile() as file:
        copy_file(uri, file.name)
        return torch.load(file.name, weights_only=True, map_location="cpu")
