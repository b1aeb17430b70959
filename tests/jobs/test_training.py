"""Optimizers, schedules and the one training loop, on one process and on two. `pytest tests/jobs/test_training.py`"""

import copy
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from cluster.embedded import free_ports
from jobs.tasks.classification import Classification, save_classifier
from jobs.training.loop import Batch, Fitted, State, fit
from jobs.training.masked import MaskedModel, MaskedObjective
from jobs.training.models import Shape, load_classifier, new_masked_model
from jobs.training.optim import learning_rate_factor, make_optimizer
from jobs.training.settings import Optimizer, Schedule, Training
from tests.jobs.tiny import (
    LABELS,
    MAX_LENGTH,
    MESSAGES,
    publish_examples,
    publish_tokens,
    random_ids,
    same_weights,
    tiny_classifier,
    tiny_tokenizer,
)

QUICK: dict[str, Any] = {"precision": "fp32", "batch_size": 16, "optimizer": {"learning_rate": 3e-3}}
# Adam divides by the gradient's size, so it makes much of rounding where a gradient is really zero.
PLAIN: dict[str, Any] = {**QUICK, "optimizer": {"name": "sgd", "learning_rate": 0.05}, "max_steps": 6, "epochs": 9}


@dataclass
class Recorded:
    """Hooks that keep what the loop says; with a file they checkpoint as workers do, and one step can kill the run."""

    file: Path | None = None
    dies_at: int | None = None
    progressed: list[dict[str, float]] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    saves: int = 0

    def progress(self, figures: dict[str, float]) -> None:
        self.progressed.append(figures)
        if figures["step"] == self.dies_at:
            raise KeyboardInterrupt

    def evaluated(self, figures: dict[str, float]) -> None:
        self.scores.append(figures)

    def save(self, state: Callable[[], State]) -> None:
        self.saves += 1
        if self.file is not None:
            torch.save(state(), self.file)

    def restore(self) -> State | None:
        if self.file is None or not self.file.exists():
            return None
        return torch.load(self.file, weights_only=True)


@dataclass
class Scripted:
    """A linear model on fixed numbers, whose validation scores are given beforehand."""

    given: Sequence[float] = ()
    size: int = 32
    validation_size: int = 4
    lengths: Sequence[int] | None = None
    score: str = "grade"
    mode: str = "max"
    poison: int | None = None
    """The step whose batch holds what no model can bear."""
    asked: list[dict[str, Tensor]] = field(default_factory=list)

    def batch(self, indices: np.ndarray, seed: Sequence[int]) -> Batch:
        x_BD = torch.from_numpy(np.random.default_rng(0).normal(size=(self.size, 4)))[indices].float()
        if seed[1] == self.poison:
            x_BD = x_BD * math.inf
        return {"x": x_BD, "y": torch.from_numpy(indices % 3).float()}

    def count(self, batch: Batch) -> int:
        return len(batch["y"])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch["x"]).squeeze(-1) - batch["y"]).square().sum()

    def evaluate(self, model: nn.Module, indices: np.ndarray, device: torch.device) -> Any:
        self.asked.append(copy.deepcopy(model.state_dict()))
        return self.given[len(self.asked) - 1]

    def measure(self, parts: Sequence[Any]) -> dict[str, float]:
        return {"grade": float(parts[0])}


def scripted(objective: Scripted, **settings: Any) -> tuple[nn.Linear, Fitted, Recorded]:
    torch.manual_seed(0)
    model, hooks = nn.Linear(4, 1), Recorded()
    fitted = fit(model, objective, Training.model_validate({**QUICK, "batch_size": 8, **settings}), hooks)
    return model, fitted, hooks


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Classification:
    root = tmp_path_factory.mktemp("classification")
    examples = publish_examples(root, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    return Classification(examples, tokenizer, LABELS, MAX_LENGTH)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> MaskedObjective:
    return MaskedObjective(publish_tokens(tmp_path_factory.mktemp("masked"), tokenizer), tokenizer, 0.15)


def new_model(kind: str, tokenizer: PreTrainedTokenizerBase, dropout: float) -> nn.Module:
    if kind == "classification":
        return tiny_classifier("bert", len(LABELS), len(tokenizer), dropout)
    torch.manual_seed(0)
    return MaskedModel(new_masked_model(Shape(layers=2, hidden=32, heads=2, dropout=dropout), tokenizer, 16))


# Optimizers and schedules


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
    _, fitted, _ = scripted(Scripted([0]), max_steps=4, evaluations=1, schedule={"warmup": 0.5}, optimizer={"learning_rate": 0.1})
    assert [point["learning_rate"] for point in fitted.curve] == pytest.approx([0.05, 0.1, 0.1, 0.05])


# What a run comes to


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_falls_and_a_separable_task_is_learned(
    classification: Classification, tokenizer: PreTrainedTokenizerBase, precision: str
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
    classification: Classification, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Export and quality checks take the very object that was trained."""
    model = new_model("classification", tokenizer, 0.0)
    fit(model, classification, Training.model_validate({**QUICK, "precision": "bf16", "max_steps": 2}), Recorded())
    save_classifier(model, tokenizer, LABELS, MAX_LENGTH, tmp_path)  # type: ignore[arg-type]
    loaded = load_classifier(str(tmp_path), LABELS)[0].eval()
    ids_BT = random_ids(4, 9, len(tokenizer))
    with torch.inference_mode():
        assert torch.equal(model.eval()(input_ids=ids_BT).logits, loaded(input_ids=ids_BT).logits)


@pytest.mark.parametrize("kind", ["classification", "masked"])
def test_gradient_accumulation_changes_nothing(kind: str, request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> None:
    ends = []
    for parts in (1, 4):
        model = new_model(kind, tokenizer, dropout=0.0)
        settings = Training.model_validate({**PLAIN, "gradient_accumulation": parts, "keep": "last"})
        fit(model, request.getfixturevalue(kind), settings, hooks := Recorded())
        ends.append((model.state_dict(), [figures["loss"] for figures in hooks.progressed]))
    assert same_weights(ends[0][0], ends[1][0]) < 1e-5
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-5)


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


def test_lengths_of_runs() -> None:
    assert scripted(Scripted([0] * 3), epochs=0.5)[1].metrics["steps"] == 2
    assert scripted(Scripted([0] * 3), epochs=3, max_steps=5)[1].metrics["steps"] == 5
    assert scripted(Scripted([0] * 3, size=5), epochs=2, batch_size=64)[1].metrics["steps"] == 2, "a batch larger than the data"
    assert scripted(Scripted([0] * 3), epochs=1, checkpoint_steps=1)[2].saves == 4


def test_a_loss_that_is_no_number_ends_the_run_with_step_and_rate() -> None:
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 3 \(learning rate 0\.003\); lower it"):
        scripted(Scripted(poison=2, validation_size=0), max_steps=5, schedule={"name": "constant", "warmup": 0})


# Going on after a death


@pytest.mark.parametrize("kind", ["classification", "masked"])
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    kind: str, request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """With dropout, masks and order drawn anew; the checkpoint lies in the middle of an epoch, before the death."""
    objective = request.getfixturevalue(kind)
    settings = Training.model_validate({**QUICK, "max_steps": 14, "epochs": 90, "checkpoint_steps": 5, "evaluations": 4})
    whole = new_model(kind, tokenizer, dropout=0.2)
    wanted = fit(whole, objective, settings, Recorded())

    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(new_model(kind, tokenizer, dropout=0.2), objective, settings, Recorded(file, dies_at=12))
    again = new_model(kind, tokenizer, dropout=0.2)
    for weight in again.parameters():
        nn.init.normal_(weight)
    found = fit(again, objective, settings, hooks := Recorded(file))
    assert hooks.progressed[0]["step"] == 11, "it goes on from the checkpoint, not from the beginning"
    assert same_weights(whole.state_dict(), again.state_dict()) == 0
    assert [timeless(point) for point in found.curve] == [timeless(point) for point in wanted.curve]
    assert timeless(found.metrics) == timeless(wanted.metrics)


def timeless(figures: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in figures.items() if "second" not in key}


@pytest.mark.parametrize("patience", [None, 2])
def test_a_run_that_dies_after_its_last_step_is_not_trained_on(patience: int | None, tmp_path: Path) -> None:
    objective = Scripted([0.9, 0.5, 0.4, 1.0, 1.0, 1.0])
    settings = Training.model_validate({**QUICK, "batch_size": 8, "epochs": 6, "evaluations": 6, "patience": patience})
    torch.manual_seed(0)
    model, hooks = nn.Linear(4, 1), Recorded(tmp_path / "state.pt")
    wanted = fit(model, objective, settings, hooks)
    again = nn.Linear(4, 1)
    found = fit(again, objective, settings, later := Recorded(tmp_path / "state.pt"))
    assert later.progressed == [] and len(objective.asked) == (6 if patience is None else 3)
    assert same_weights(model.state_dict(), again.state_dict()) == 0
    assert (found.metrics["grade"], found.stopped_early) == (wanted.metrics["grade"], wanted.stopped_early)
    assert found.metrics["train_loss"] == wanted.metrics["train_loss"]


# Two workers


WORKERS = """
import os, sys, torch
from pathlib import Path
from torch import multiprocessing
from transformers import AutoTokenizer
from cluster.artifact import open_artifact
from jobs.tasks.classification import Classification
from jobs.training.loop import fit
from jobs.training.masked import MaskedObjective
from jobs.training.settings import Training
from tests.jobs.test_training import Recorded, new_model
from tests.jobs.tiny import LABELS, MAX_LENGTH

root, settings = Path(sys.argv[1]), Training.model_validate_json(sys.argv[2])

def work(rank):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.distributed.init_process_group("gloo")
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    for kind, objective in (
        ("classification", Classification(open_artifact(str(root / "examples")), tokenizer, LABELS, MAX_LENGTH)),
        ("masked", MaskedObjective(open_artifact(str(root / "tokens")), tokenizer, 0.15)),
    ):
        model = new_model(kind, tokenizer, 0.0)
        fitted = fit(model, objective, settings, Recorded())
        torch.save({"weights": model.state_dict(), "metrics": fitted.metrics}, root / f"{kind}-{rank}.pt")
    torch.distributed.destroy_process_group()

# Forked, so that the libraries are imported once.
multiprocessing.start_processes(work, nprocs=2, start_method="fork")
"""


def test_two_workers_train_what_one_does(tmp_path: Path) -> None:
    """Real processes over gloo on loopback; odd batches, accumulation, evaluation shared out."""
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    examples = publish_examples(tmp_path, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    tokens = publish_tokens(tmp_path, tokenizer)
    settings = Training.model_validate({**PLAIN, "batch_size": 15, "gradient_accumulation": 2})
    port = free_ports(1)[0]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", WORKERS, str(tmp_path), settings.model_dump_json()]
    environment = {**os.environ, **shared}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as workers:
        try:
            _, told = workers.communicate(timeout=120)
            assert workers.returncode == 0, told[-2000:]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(workers.pid, signal.SIGKILL)

    for kind, objective in (
        ("classification", Classification(examples, tokenizer, LABELS, MAX_LENGTH)),
        ("masked", MaskedObjective(tokens, tokenizer, 0.15)),
    ):
        alone = new_model(kind, tokenizer, 0.0)
        fitted = fit(alone, objective, settings, Recorded())
        first, second = (torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2))
        assert same_weights(first["weights"], second["weights"]) == 0
        assert same_weights(first["weights"], alone.state_dict()) < 1e-5
        wanted = timeless(fitted.metrics)
        assert timeless(first["metrics"]) == pytest.approx(wanted, abs=1e-4)
        assert timeless(second["metrics"]) == pytest.approx(wanted, abs=1e-4)
