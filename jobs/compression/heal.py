"""Healing: training after something was taken out of a model, to win back what that lost.

    healing = Healing(config.heal, learner, context)
    metrics = healing.heal(model)             # healing.curve goes on from one to the next

Each training keeps its checkpoints below the step's scratch, under its number. A run that was killed takes out the same again,
and finds what was trained already: weights, order and random choices are those of a run that was not killed.
"""

from contextlib import closing
from typing import TYPE_CHECKING

from cluster.store.storage import join
from jobs.compression.fake_quantized import fake_quantized
from jobs.compression.settings import Heal
from jobs.core.stage import Context
from jobs.training.checkpoint import Checkpoints
from jobs.training.hooks import RunHooks
from jobs.training.loop import TrainingResult, fit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jobs.contracts.objective import Learner


class Healing:
    """The trainings of one run of compress, in their order."""

    def __init__(self, settings: Heal, learner: "Learner", context: Context) -> None:
        self.settings, self.learner, self.context = settings, learner, context
        self.curve: list[dict[str, float]] = []
        self.trainings = 0

    def heal(self, model: "PreTrainedModel") -> dict[str, float]:
        """Train the model in place; returns its figures."""
        done = self.curve[-1]["step"] if self.curve else 0
        fitted = self._fit(model)
        self.curve += [{**point, "step": point["step"] + done} for point in fitted.curve]
        return fitted.metrics

    def heal_rounded(self, model: "PreTrainedModel") -> None:
        """Train the model in place while it computes with int8's rounding."""
        with fake_quantized(model):
            self._fit(model)

    def _fit(self, model: "PreTrainedModel") -> TrainingResult:
        self.trainings += 1
        place = join(self.context.scratch, "healing", str(self.trainings))
        with closing(Checkpoints(place, print)) as checkpoints:
            return fit(model, self.learner, self.settings, RunHooks(self.context.report, checkpoints))
