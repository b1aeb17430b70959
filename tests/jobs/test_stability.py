"""Steps that are thrown away, and the run that is stopped when they are too many. `pytest tests/jobs/test_stability.py`"""

import copy
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jobs.contracts.learning import Batch
from jobs.training.loop import fit
from jobs.training.settings import Training
from jobs.training.spike_guard import Diverged, SpikeGuard, StepSkipping
from tests.jobs.tiny import same_weights
from tests.jobs.training_runs import QUICK, Recorded, Scripted


@dataclass
class Poisoned(Scripted):
    """Batches that are multiplied by something in some steps."""

    factors: Sequence[tuple[int, float]] = ()

    def batch(self, indices: np.ndarray, seed: int, step: int) -> Batch:
        batch = super().batch(indices, seed, step)
        return batch | {"x": batch["x"] * dict(self.factors).get(step, 1.0)}


def run(
    factors: Sequence[tuple[int, float]], hooks: Recorded | None = None, **settings: Any
) -> tuple[nn.Linear, Any, Recorded]:
    torch.manual_seed(0)
    model, hooks = nn.Linear(4, 1), hooks or Recorded()
    plain = {**QUICK, "batch_size": 8, "epochs": 99, "keep": "last", "schedule": {"name": "constant", "warmup": 0}}
    fitted = fit(model, Poisoned(validation_size=0, factors=factors), Training.model_validate({**plain, **settings}), hooks)
    return model, fitted, hooks


@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_a_step_without_a_finite_gradient_changes_nothing(factor: float) -> None:
    before = copy.deepcopy(run([], max_steps=4)[0].state_dict())
    model, fitted, hooks = run([(4, factor)], max_steps=5)
    assert same_weights(before, model.state_dict()) == 0
    assert fitted.metrics["steps_skipped"] == 1 and fitted.metrics["steps"] == 5
    assert len(hooks.notes) == 1 and "step 4 skipped: the gradient's norm is" in hooks.notes[0]
    assert all(math.isfinite(point["loss"]) for point in fitted.curve), "no figure of the report is NaN"


def test_training_goes_on_after_a_skipped_step() -> None:
    """Adam's moments must not hold the poison either."""
    model, fitted, _ = run([(2, math.nan), (5, math.inf)], max_steps=60, optimizer={"learning_rate": 0.05})
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert fitted.metrics["steps_skipped"] == 2 and fitted.curve[-1]["loss"] < fitted.curve[0]["loss"] / 2


def test_past_the_limit_the_run_stops_and_names_step_examples_and_rate() -> None:
    factors = [(step, math.nan) for step in (3, 5, 7)]
    assert run(factors, max_steps=9, stability={"limit": 3})[1].metrics["steps_skipped"] == 3
    with pytest.raises(Diverged) as caught:
        run(factors, max_steps=9, stability={"limit": 2})
    told = str(caught.value)
    examples = next(indices for place, indices in enumerate(Scripted().epoch(1, 8, 0)) if place == 3)
    assert "step 7: the gradient's norm is nan (learning rate 0.003" in told
    assert f"training examples {', '.join(map(str, examples))})" in told, "step 7 is the fourth batch of the second epoch"
    assert "the last: [3, 5, 7]" in told and "stability.limit is 2" in told


def test_a_spike_is_skipped_by_the_running_mean() -> None:
    """Factor 100 makes the loss of step 20 far larger; without the key it is trained on."""
    spiky = [(20, 100.0)]
    plain, whole, _ = run(spiky, max_steps=21)
    guarded, fitted, hooks = run(spiky, max_steps=21, stability={"spike": 3, "window": 10})
    before = run([], max_steps=20)[0]
    assert whole.metrics["steps_skipped"] == 0 and same_weights(before.state_dict(), plain.state_dict()) > 0
    assert fitted.metrics["steps_skipped"] == 1 and same_weights(before.state_dict(), guarded.state_dict()) == 0
    assert "step 20 skipped: the loss" in hooks.notes[0] and "times the running mean" in hooks.notes[0]


def test_the_running_mean_by_hand() -> None:
    guard = SpikeGuard(StepSkipping(spike=2, window=2))
    assert [guard.refuses(step, loss, 1.0) for step, loss in enumerate((4.0, 2.0))] == [None, None]
    assert guard.mean == 3.0
    assert guard.refuses(2, 6.0, 1.0) is None, "exactly twice the mean is not more"
    assert guard.mean == 4.5
    assert guard.refuses(3, 9.1, 1.0) == "the loss 9.1 is 2.0 times the running mean 4.5"
    assert (guard.mean, guard.skipped) == (4.5, [3]), "a spike does not enter the mean"


def test_what_was_skipped_survives_a_death(tmp_path: Any) -> None:
    factors = [(3, math.nan), (12, math.nan)]
    settings: dict[str, Any] = {"max_steps": 14, "checkpoint_steps": 5, "stability": {"spike": 50, "window": 4}}
    whole, wanted, _ = run(factors, **settings)
    with pytest.raises(KeyboardInterrupt):
        run(factors, Recorded(tmp_path / "state", dies_at=9), **settings)
    shutil.copy(tmp_path / "state", tmp_path / "stricter")
    with pytest.raises(Diverged, match=r"the last: \[3, 12\]"):
        run(factors, Recorded(tmp_path / "stricter"), **{**settings, "stability": {"spike": 50, "window": 4, "limit": 1}})
    again, found, hooks = run(factors, Recorded(tmp_path / "state"), **settings)
    assert hooks.progressed[0]["step"] == 6 and same_weights(whole.state_dict(), again.state_dict()) == 0
    assert found.metrics["steps_skipped"] == wanted.metrics["steps_skipped"] == 2
