"""Batches whose rows are compared with each other are trained on whole, or not at all.

pytest tests/jobs/test_whole_batches.py; of two workers, and of shards that all read the whole batch, test_training_parallel.py
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.contracts.learning import Batch
from jobs.core.config import BadInput
from jobs.tasks.multitask import Multitask
from jobs.tasks.supervised import Supervised
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.tiny import same_weights
from tests.jobs.training_runs import QUICK, Recorded, Scripted

SETTINGS: dict[str, Any] = {**QUICK, "batch_size": 8, "max_steps": 3, "epochs": 9, "keep": "last"}


@dataclass
class Contrastive(Scripted):
    """Each row is to be told, with some noise, from the other rows of its batch (InfoNCE, van den Oord et al. 2018)."""

    splits: bool = False
    validation_size: int = 0
    seen: list[int] = field(default_factory=list)
    """The rows of each batch that a loss was asked of."""

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        one = super().batch(indices, seed, step)
        noise_BD = torch.from_numpy(np.random.default_rng([seed, step, 1]).normal(scale=0.1, size=one["x"].shape)).float()
        return {**one, "other": one["x"] + noise_BD}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.seen.append(len(batch["y"]))
        alike_BB = model(batch["x"]) @ model(batch["other"]).T
        return functional.cross_entropy(alike_BB, torch.arange(len(alike_BB)), reduction="sum")


def trained(objective: Contrastive, **settings: Any) -> tuple[nn.Module, Recorded]:
    torch.manual_seed(0)
    model, hooks = nn.Linear(4, 3), Recorded()
    fit(model, objective, Training.model_validate({**SETTINGS, **settings}), hooks)
    return model, hooks


def test_a_batch_that_must_not_be_cut_is_refused_in_parts_before_the_first_step() -> None:
    whole, hooks = trained(objective := Contrastive())
    assert objective.seen == [8, 8, 8], "no batch is cut"
    cut, others = trained(Contrastive(splits=True), gradient_accumulation=4)
    losses = [[figures["loss"] for figures in one.progressed] for one in (hooks, others)]
    assert losses[1][0] < 0.6 * losses[0][0], "to tell a row from one other is easier than from seven"
    assert same_weights(whole.state_dict(), cut.state_dict()) > 1e-3, "the test is of no use where parts come to the same"

    objective = Contrastive()
    with pytest.raises(BadInput) as refused:
        trained(objective, gradient_accumulation=4)
    assert objective.seen == [] and [problem.path for problem in refused.value.problems] == ["gradient_accumulation"]
    told = str(refused.value)
    assert told.startswith(
        "gradient_accumulation = 4: a row's loss depends on the other rows of its batch, which would be cut"
    )
    assert told.endswith("Set it to 1; less memory takes a lower batch_size, or activation_checkpointing.")


def test_several_tasks_are_cut_if_each_of_them_may_be(classification: Supervised) -> None:
    other = copy.copy(classification)
    assert Multitask(classification, {"other": other}, 1.0).splits
    other.splits = False
    assert not Multitask(classification, {"other": other}, 1.0).splits
