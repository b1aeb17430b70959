"""Optimizers, schedules and what a run of the training loop comes to. `pytest tests/jobs/test_training.py`"""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from jobs.core.config import BadInput
from jobs.objectives.masked import MaskedObjective
from jobs.tasks.supervised import Supervised
from jobs.training.loop import fit
from jobs.training.optim import learning_rate_factor, make_optimizer
from jobs.training.settings import Optimizer, Schedule, Training
from tests.jobs.tiny import LABELS, load_classifier, random_ids, same_weights, save_classifier
from tests.jobs.training_runs import QUICK, Recorded, Scripted, new_model, scripted


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adagrad"])
def test_each_optimizer_moves_all_weights_and_decays_matrices_only(name: str) -> None:
    settings = Optimizer.model_validate({"name": name, "learning_rate": 0.1, "weight_decay": 0.5})
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    model.register_parameter("frozen", frozen)
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(model, settings)

    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    optimizer.step()
    decayed = {key: value.abs().sum() < before[key].abs().sum() for key, value in model.state_dict().items()}
    assert decayed == {"0.weight": True, "0.bias": False, "1.weight": False, "1.bias": False, "frozen": False}
    assert torch.equal(model.state_dict()["1.weight"], before["1.weight"]), "a norm must not decay"

    before = copy.deepcopy(model.state_dict())
    (model(torch.randn(8, 3)) * torch.tensor([1.0, 2.0, 3.0])).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(value, before[key]) for key, value in model.state_dict().items() if key != "frozen")
    assert torch.equal(frozen, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        # 10 steps: two of warm-up, then 8 that go down.
        ("linear", 0.2, {0: 0.5, 1: 1.0, 2: 1.0, 6: 0.5, 9: 0.125}),
        ("cosine", 0.2, {0: 0.5, 1: 1.0, 2: 1.0, 4: 0.5 * (1 + math.cos(math.pi / 4)), 6: 0.5}),
        ("constant", 0.2, {0: 0.5, 1: 1.0, 9: 1.0}),
        ("linear", 0.0, {0: 1.0, 5: 0.5}),
        ("linear", 0.15, {0: 0.5, 1: 1.0, 2: 1.0}),
    ],
)
def test_schedules_at_points_reckoned_by_hand(name: str, warmup: float, expected: dict[int, float]) -> None:
    schedule = Schedule.model_validate({"name": name, "warmup": warmup})
    found = {step: learning_rate_factor(step, 10, schedule) for step in expected}
    assert found == pytest.approx(expected)
    assert all(0 < learning_rate_factor(step, 10, schedule) <= 1 for step in range(10)), "no step is for nothing"


def test_the_loop_follows_the_schedule() -> None:
    _, fitted, _ = scripted(
        Scripted([0]), max_steps=4, evaluations=1, schedule={"warmup": 0.5}, optimizer={"learning_rate": 0.1}
    )
    assert [point["learning_rate"] for point in fitted.curve] == pytest.approx([0.05, 0.1, 0.1, 0.05])


# What a run comes to


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_falls_and_a_separable_task_is_learned(
    classification: Supervised, tokenizer: PreTrainedTokenizerBase, precision: str
) -> None:
    model = new_model("classification", tokenizer, 0.1)
    settings = Training.model_validate({**QUICK, "precision": precision, "epochs": 16})
    fitted = fit(model, classification, settings, hooks := Recorded())
    losses = [point["loss"] for point in fitted.curve if "loss" in point]
    assert np.mean(losses[:3]) > 0.5 > 0.2 > np.mean(losses[-3:])
    assert fitted.metrics["accuracy"] > 0.9 and fitted.metrics["macro_f1"] > 0.9
    assert fitted.metrics["steps"] == 16 * (58 // 16) == hooks.progressed[-1]["step"] == hooks.progressed[-1]["steps"]
    assert len(hooks.scores) == settings.evaluations and not fitted.stopped_early


def test_masked_modelling_learns_in_both_precisions(masked: MaskedObjective, tokenizer: PreTrainedTokenizerBase) -> None:
    for precision in ("fp32", "bf16"):
        model = new_model("masked", tokenizer, 0.0)
        settings = Training.model_validate({**QUICK, "precision": precision, "max_steps": 60, "epochs": 90})
        fitted = fit(model, masked, settings, hooks := Recorded())
        assert hooks.scores[-1]["validation_loss"] < hooks.scores[0]["validation_loss"] < math.log(len(tokenizer))
        assert fitted.metrics["perplexity"] == pytest.approx(math.exp(fitted.metrics["validation_loss"]))


def test_a_model_trained_in_bf16_answers_afterwards_as_the_one_that_is_loaded(
    classification: Supervised, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Export and quality checks take the very object that was trained."""
    model = new_model("classification", tokenizer, 0.0)
    fit(model, classification, Training.model_validate({**QUICK, "precision": "bf16", "max_steps": 2}), Recorded())
    save_classifier(model, tokenizer, LABELS, tmp_path)  # type: ignore[arg-type]
    loaded = load_classifier(str(tmp_path), LABELS)[0].eval()
    ids_BT = random_ids(4, 9, len(tokenizer))
    with torch.inference_mode():
        # Two implementations of attention; a model still wrapped for bf16 would be 0.02 off.
        torch.testing.assert_close(model.eval()(input_ids=ids_BT).logits, loaded(input_ids=ids_BT).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 2)])
def test_the_best_weights_are_published(mode: str, best: int) -> None:
    objective = Scripted([0.2, 0.9, 0.1, 0.5], mode=mode)
    model, fitted, _ = scripted(objective, epochs=4, evaluations=4)
    assert same_weights(model.state_dict(), objective.asked[best]) == 0 < same_weights(model.state_dict(), objective.asked[-1])
    assert fitted.metrics["grade"] == objective.given[best]

    objective = Scripted([0.2, 0.9, 0.1, 0.5], mode=mode)
    model, fitted, _ = scripted(objective, epochs=4, evaluations=4, keep="last")
    assert same_weights(model.state_dict(), objective.asked[-1]) == 0
    assert fitted.metrics["grade"] == 0.5


def test_patience_stops_a_run_that_gets_no_better() -> None:
    objective = Scripted([0.2, 0.9, 0.9, 0.8, 1.0, 1.0])
    model, fitted, hooks = scripted(objective, epochs=6, evaluations=6, patience=2)
    assert fitted.stopped_early and fitted.metrics["steps"] == 16 and len(hooks.scores) == 4
    assert fitted.metrics["grade"] == 0.9 and same_weights(model.state_dict(), objective.asked[1]) == 0


def test_without_a_validation_split_the_last_weights_stay() -> None:
    objective = Scripted(validation_size=0)
    _, fitted, hooks = scripted(objective, max_steps=3)
    assert hooks.scores == [] == objective.asked and hooks.saves == 1
    assert fitted.metrics["train_loss"] == pytest.approx(hooks.progressed[-1]["loss"])


def test_what_hangs_on_evaluations_is_refused_where_there_are_none() -> None:
    with pytest.raises(BadInput, match=r"patience = 2: there are no validation rows(.|\n)*monitor = 'grade': there are no"):
        scripted(Scripted(validation_size=0), patience=2, monitor="grade", evaluations=5)


def test_lengths_of_runs() -> None:
    assert scripted(Scripted([0] * 3), epochs=0.5)[1].metrics["steps"] == 2
    assert scripted(Scripted([0] * 3), epochs=3, max_steps=5)[1].metrics["steps"] == 5
    assert scripted(Scripted([0] * 3, size=5), epochs=2, batch_size=64)[1].metrics["steps"] == 2, (
        "a batch larger than the data"
    )
    assert scripted(Scripted([0] * 3), epochs=1, checkpoint_steps=1)[2].saves == 4


def test_a_compiled_model_trains_as_the_plain_one(classification: Supervised, tokenizer: PreTrainedTokenizerBase) -> None:
    # Adam would make much of rounding.
    plain: dict[str, Any] = {**QUICK, "optimizer": {"name": "sgd", "learning_rate": 0.05}, "max_steps": 2, "keep": "last"}
    ends = []
    for compiled in (False, True):
        model = new_model("classification", tokenizer, 0.0)
        settings = Training.model_validate({**plain, "evaluations": 1, "compile": compiled})
        fit(model, classification, settings, hooks := Recorded())
        ends.append(([figures["loss"] for figures in hooks.progressed], model.state_dict()))
    assert ends[0][0] == pytest.approx(ends[1][0], abs=1e-4) and same_weights(ends[0][1], ends[1][1]) < 1e-5
