"""Distilling a task, whatever its kind: its own loss mixed with how far the answers are from those of one teacher or several.

    objective = Distilled(Supervised(…, unlabelled=True), [soft], Mix(temperature=4))

Rows without a target teach too: the teachers have answered for them.

B batch, C columns of an output, K teachers, T tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.store.artifact import Artifact
from jobs.contracts.learning import Batch
from jobs.contracts.objective import Wrapping
from jobs.core.config import BadInput, Problem
from jobs.losses.settings import Mix, annealed
from jobs.tasks.soft_labels import SoftLabels
from jobs.tasks.supervised import Supervised
from jobs.tasks.windows import stacked_targets


class Distilled(Wrapping):
    """loss = alpha · loss of the answers + (1 − alpha) · the task's own (Hinton et al. 2015)."""

    def __init__(
        self, task: Supervised, teachers: Sequence[Artifact], mix: Mix, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(task)
        self.task, self.mix, self.steps = task, mix, 1
        weights_K = teacher_shares(weights, len(teachers))
        chosen = mix.model_copy(update={"loss": mix.loss or task.learning.soft_losses_of(task.spec)[0]})
        self.compare = task.learning.soft_criterion(task.spec, chosen, weights_K)
        self.soft_K = [SoftLabels(teacher, task.train.keys, task.spec) for teacher in teachers]

    def begin(self, steps: int) -> None:
        """What moves over the run ends at its last step."""
        self.steps = steps

    def progress(self, step: int) -> float:
        """How far the run is, 0 at its first step and 1 at its last."""
        return step / (self.steps - 1) if self.steps > 1 else 0.0

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        """The windows with the teachers' outputs beside them, and the step's temperature and alpha beside each."""
        mix, progress = self.mix, self.progress(step)
        now = {
            "temperature": annealed(mix.temperature, mix.temperature_end, mix.annealing, progress),
            "alpha": annealed(mix.alpha, mix.alpha_end, mix.annealing, progress),
        }
        beside = {key: torch.full((len(indices),), value) for key, value in now.items()}
        rows = self.task.batch(indices, seed, step)
        return {**rows, **beside, "teacher": self._teachers(indices, rows["input_ids"].shape[1])}

    def _teachers(self, chosen: np.ndarray, longest: int) -> Tensor:
        """What the teachers say of these windows: BK…, filled up with 0 where it runs over tokens."""
        train, said = self.task.train, []
        for soft in self.soft_K:
            found = []
            for window in chosen:
                item = int(train.owners[window])
                if train.encodings is None:
                    found.append(soft[item])
                    continue
                windows = train.encodings[item]
                parts = self.task.learning.window_soft(self.task.spec, soft[item], train.items[item], windows)
                found.append(parts[int(window) - int(train.starts[item])])
            said.append(stacked_targets(found, longest if self.task.spec.per_token else None, 0))
        return torch.stack(said, dim=1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mixed loss, summed over the batch."""
        return self.of_answers(self.task.forward(model, batch), batch)

    def of_answers(self, outputs: Any, batch: Batch) -> Tensor:
        """The mixed loss of the student's answers."""
        temperature, alpha = batch["temperature"][0], batch["alpha"][0]
        soft = self.compare.loss(outputs, batch, temperature)
        return alpha * soft + (1 - alpha) * self.task.criterion.loss(outputs, batch)


def teacher_shares(weights: Sequence[float] | None, teachers: int) -> Tensor:
    """The teachers' weights, together 1; BadInput unless there is one for each."""
    if weights is None:
        return torch.full((teachers,), 1 / teachers)
    if len(weights) != teachers:
        reason = f"{len(weights)} weights for {teachers} teachers in inputs.teacher"
        raise BadInput([Problem("teacher_weights", list(weights), reason, "Give one for each, in their order.")])
    return torch.tensor(weights) / sum(weights)
