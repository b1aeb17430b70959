"""What a linear student learns from: its teachers' soft labels mixed with the labels, over all rows at once.

    linear_model(config.student, inputs, context, Taught(inputs["teacher"], mix, config.teacher_weights))

The mix is distillation's (jobs/tasks/distilled.py), and so are the losses; only nothing moves over a run, for there is none.
K teachers, N items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.store.artifact import Artifact
from jobs.losses.settings import Mix
from jobs.training.bag_rows import BagRows

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor"], "Tensor"]
"""What outputs_NK of all rows cost together."""


def of_labels(rows: BagRows) -> Loss:
    """The kind's own loss against the targets."""
    criterion = rows.learning.criterion(rows.spec, rows.learning.loss_of(rows.spec)(), rows.truth)
    targets = rows.targets()
    return lambda outputs: criterion.loss(outputs, {"labels": targets})


@dataclass(frozen=True)
class Taught:
    """alpha · how far the answers are from the teachers' + (1 − alpha) · the loss of the labels."""

    teachers: Sequence[Artifact]
    mix: Mix
    weights: Sequence[float] | None = None

    def __call__(self, rows: BagRows) -> Loss:
        """Over these rows, for which all teachers have answered."""
        import torch

        from jobs.tasks.distilled import teacher_shares

        mix = self.mix.model_copy(update={"loss": self.mix.loss or rows.learning.soft_losses_of(rows.spec)[0]})
        compare = rows.learning.soft_criterion(rows.spec, mix, teacher_shares(self.weights, len(self.teachers)))
        hard, temperature = of_labels(rows), torch.tensor(mix.temperature)
        batch = {"labels": rows.targets(), "teacher": rows.teachers(self.teachers)}

        def loss(outputs: "Tensor") -> "Tensor":
            return mix.alpha * compare.loss(outputs, batch, temperature) + (1 - mix.alpha) * hard(outputs)

        return loss
