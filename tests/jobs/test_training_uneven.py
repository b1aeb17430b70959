"""Rows that do not divide among workers and parts: three workers train what one does. Real processes over gloo.

pytest tests/jobs/test_training_uneven.py
"""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from cluster.store.artifact import Kind, open_artifact
from jobs.contracts.objective import Objective
from jobs.core.stage import Inputs
from jobs.distill import DistillConfig
from jobs.distill import build as build_student
from jobs.finetune import FinetuneConfig
from jobs.finetune import build as build_classifier
from jobs.training.loop import fit
from jobs.training.parallel import Parallelism, Strategy
from jobs.training.settings import Training
from tests.jobs.language_runs import language_model, language_objective, publish_language
from tests.jobs.test_finetuning import saved
from tests.jobs.tiny import (
    LABELS,
    MAX_LENGTH,
    MESSAGES,
    publish_directory,
    publish_examples,
    publish_predictions,
    same_weights,
    tiny_tokenizer,
)
from tests.jobs.training_runs import QUICK, Recorded
from tests.jobs.two_workers import together

What = Literal["classifier", "tasks", "tasks_adapted", "matched", "language"]
WORKERS = 3
PLAIN: dict[str, Any] = {**QUICK, "max_steps": 6, "epochs": 9, "evaluations": 2, "schedule": {"warmup": 0}}
# Adam divides by the gradient's size, so it makes much of rounding where a gradient is really zero.
PLAIN |= {"optimizer": {"name": "sgd", "learning_rate": 0.05}}
RUNS: dict[What, dict[str, Any]] = {
    # 11, 11 and 10 rows, in parts of two: 6, 6 and 5 of them.
    "classifier": {"batch_size": 32, "gradient_accumulation": 8},
    # The other task has two rows in all, so the third worker has none of them.
    "tasks": {"batch_size": 7, "gradient_accumulation": 3, "sampling_temperature": 9.0},
    "tasks_adapted": {"batch_size": 7, "gradient_accumulation": 3, "sampling_temperature": 9.0, "adapter": {"rank": 2}},
    # 4, 3 and 3 rows.
    "matched": {"batch_size": 10, "gradient_accumulation": 8},
    "language": {"batch_size": 10, "gradient_accumulation": 3},
}
STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("uneven")
    tokenizer = tiny_tokenizer(place / "tokenizer")
    for name in ("language", "few"):
        (place / name).mkdir()
    publish_language(place / "language", "causal")
    # Fewer rows to judge than workers and batches have places for.
    publish_examples(place, {"train": MESSAGES[:58], "validation": MESSAGES[58:63]})
    few = [("anna comes", "anna"), ("boris goes home today", "boris")]
    publish_examples(place / "few", {"train": few, "validation": few}, ["anna", "boris"])
    publish_predictions(place, {text: [2.0, -1.0] if label == LABELS[0] else [-1.0, 2.0] for text, label in MESSAGES})
    for name in ("base", "teacher"):
        saved(place / f"{name}-draft", list(LABELS), tokenizer)
        publish_directory(place / f"{name}-draft", place / name, Kind.MODEL, step=name)
    return place


def made(root: Path, what: What) -> tuple[nn.Module, Objective, Training]:
    """A run's model, objective and settings, always the same."""
    torch.manual_seed(0)
    settings = {**PLAIN, **RUNS[what]}
    if what == "language":
        objective = language_objective("causal", open_artifact(str(root / "language" / "tokens")))
        return language_model("causal", objective.tokenizer, 0.0), objective, Training.model_validate(settings)
    inputs = Inputs(examples=[open_artifact(str(root / "examples"))], init=[open_artifact(str(root / "base"))])
    settings |= {"max_length": MAX_LENGTH, "dropout": 0.0}
    if what == "matched":
        inputs |= {
            "teacher": [open_artifact(str(root / "predictions"))],
            "teacher_model": [open_artifact(str(root / "teacher"))],
        }
        settings |= {"match": {"last": {"what": "hidden", "student": 0}, "values": {"what": "value_relation"}}}
        return *build_student(config := DistillConfig.model_validate(settings), inputs), config
    if what.startswith("tasks"):
        inputs |= {"auxiliary": [open_artifact(str(root / "few" / "examples"))]}
    return *build_classifier(tuning := FinetuneConfig.model_validate(settings), inputs), tuning


def train(root: Path, what: What, strategy: Strategy = "ddp") -> dict[str, Any]:
    """The weights and figures that a run ends with."""
    model, objective, settings = made(root, what)
    fitted = fit(model, objective, settings, Recorded(), strategy)
    weights = model.state_dict() if fitted.weights is None else fitted.weights
    return {"weights": weights, "metrics": fitted.metrics}


def work(rank: int, root: str, strategy: Strategy) -> None:
    """All runs, one after another."""
    for what in RUNS:
        torch.save(train(Path(root), what, strategy), f"{root}/{what}-{strategy}-{rank}.pt")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_three_workers_train_what_one_does_where_rows_do_not_divide(root: Path, strategy: Strategy) -> None:
    """Parts, whole steps and evaluations: workers with fewer rows than others, or with none, wait for nobody in vain."""
    together("tests.jobs.test_training_uneven", "work", workers=WORKERS, root=str(root), strategy=strategy)
    for what in RUNS:
        alone = train(root, what)
        for rank in range(WORKERS):
            found = torch.load(root / f"{what}-{strategy}-{rank}.pt", weights_only=True)
            assert same_weights(found["weights"], alone["weights"]) < 1e-5, what
            for figure in {"macro_f1", "validation_loss", "validation_loss.made", "train_loss"} & alone["metrics"].keys():
                assert found["metrics"][figure] == pytest.approx(alone["metrics"][figure], abs=1e-4), (what, figure)


@pytest.mark.parametrize(
    ("rows", "workers", "parts", "wanted"),
    [
        (32, 3, 8, [[2, 2, 2, 2, 2, 1], [2, 2, 2, 2, 2, 1], [2, 2, 2, 2, 2, 0]]),
        (33, 2, 16, [[2] * 8 + [1] + [0] * 7, [1] * 16]),  # fewer rows make more parts
        (2, 3, 4, [[1], [1], [0]]),
        (1, 1, 1, [[1]]),
        (12, 2, 3, [[2, 2, 2], [2, 2, 2]]),
    ],
)
def test_all_workers_have_as_many_parts_and_each_row_is_in_one(
    rows: int, workers: int, parts: int, wanted: list[list[int]]
) -> None:
    """Where rows divide, the parts are those that chunks make."""
    parallelism = Parallelism("ddp", Training(precision="fp32"), unused=False)
    batch = {"x": torch.arange(rows), "y": torch.ones(rows, 2)}
    parallelism.data_workers, seen = workers, []
    for parallelism.data_rank in range(workers):
        micro_batches = parallelism.micro_batches(batch, parts)
        assert [len(micro_batch["x"]) if counts else 0 for micro_batch, counts in micro_batches] == wanted[
            parallelism.data_rank
        ]
        assert all(len(micro_batch["x"]) == len(micro_batch["y"]) > 0 for micro_batch, _ in micro_batches), (
            "even what fills up goes through the model"
        )
        seen += [micro_batch["x"] for micro_batch, counts in micro_batches if counts]
    assert torch.cat(seen).sort().values.equal(batch["x"])
