"""Training spread over workers: copies, shards, another number of workers after a death. Real processes over gloo.

pytest tests/jobs/test_training_parallel.py
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from cluster.store.artifact import open_artifact
from jobs.contracts.learning import Batch
from jobs.contracts.objective import Learner
from jobs.core.config import BadInput
from jobs.core.stage import Inputs
from jobs.pretrain import PretrainConfig, build
from jobs.training.checkpoint import Checkpoints
from jobs.training.hooks import RunHooks
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.language_runs import publish_language
from tests.jobs.tiny import MESSAGES, publish_examples, same_weights, supervised, tiny_tokenizer
from tests.jobs.training_runs import QUICK, Recorded, new_model
from tests.jobs.two_workers import together

PLAIN: dict[str, Any] = {**QUICK, "max_steps": 8, "epochs": 9, "batch_size": 15, "evaluations": 2}
# Adam divides by the gradient's size, so it makes much of rounding where a gradient is really zero.
PLAIN |= {"optimizer": {"name": "sgd", "learning_rate": 0.05}, "schedule": {"warmup": 0}}
SAVING: dict[str, Any] = {"checkpoint_steps": 3, "average": 0.9}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("parallel")
    tiny_tokenizer(place / "tokenizer")
    (place / "language").mkdir()
    publish_language(place / "language", "causal")
    publish_examples(place, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    return place


def made(root: Path, name: str) -> tuple[nn.Module, Learner, list[list[int]]]:
    """A run's model and objective, always the same, and the list that will say which examples its batches had."""
    torch.manual_seed(0)
    learner: Learner
    if name.startswith("tensor"):
        shape = {"architecture": "llama", "layers": 2, "hidden": 32, "heads": 2, "dropout": 0.0}
        config = PretrainConfig.model_validate({"objective": "causal", "model": shape})
        model, learner = build(config, Inputs(tokens=[open_artifact(str(root / "language" / "tokens"))]))
    else:
        tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
        model = new_model("classification", tokenizer, 0.0)
        learner = supervised(open_artifact(str(root / "examples")), tokenizer)
    order: list[list[int]] = []
    batch = learner.batch

    def watched(indices: Any, seed: int, step: int) -> Batch:
        order.append(indices.tolist())
        return batch(indices, seed, step)

    learner.batch = watched  # type: ignore[method-assign]
    return model, learner, order


RUNS: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp", "settings": {"freeze": {"gradual": 0.75}, "average": 0.9}},
    "fsdp": {"strategy": "fsdp", "settings": {"gradient_accumulation": 2, "average": 0.9}},
    "fsdp-frozen": {
        "strategy": "fsdp",
        "settings": {"freeze": {"layers": 1}, "keep": "last", "activation_checkpointing": True},
    },
    "ddp-dies": {"strategy": "ddp", "settings": SAVING, "dies_at": 5},
    "fsdp-dies": {"strategy": "fsdp", "settings": SAVING, "dies_at": 5},
    "tensor": {"strategy": "tensor", "settings": {"average": 0.9, "gradient_accumulation": 2}},
    # Shards that compute together may read what must not be cut: each of them reads all of it.
    "tensor-dies": {"strategy": "tensor", "settings": SAVING, "dies_at": 5, "splits": False},
    "alone-died": {"strategy": "fsdp", "settings": SAVING},
}


def train(root: Path, name: str, rank: int = 0, workers: int = 1, **changed: Any) -> dict[str, Any]:
    """One of the runs; with `dies_at` it ends there, having written its checkpoints, as one that was killed."""
    plan = {"dies_at": None, "splits": True, **RUNS[name], **changed}
    model, objective, order = made(root, name)
    objective.splits = plan["splits"]
    settings = Training.model_validate({**PLAIN, **plan["settings"]})
    with closing(Checkpoints(str(root / name), print)) as checkpoints:
        hooks = Mortal(lambda **_: None, checkpoints, rank, workers)
        hooks.dies_at = plan["dies_at"]
        try:
            fitted = fit(model, objective, settings, hooks, plan["strategy"])
        except KeyboardInterrupt:
            return {"order": order}
    weights = model.state_dict() if fitted.weights is None else fitted.weights
    return {"weights": weights, "metrics": fitted.metrics, "order": order}


class Mortal(RunHooks):
    """Hooks that can kill the run."""

    dies_at: int | None = None

    def progress(self, figures: dict[str, float]) -> None:
        if figures["step"] == self.dies_at:
            raise KeyboardInterrupt


def work(rank: int, root: str) -> None:
    """All runs with two workers, one after another."""
    with pytest.raises(BadInput, match=r"resources\.parallel = 'tensor': transformers has no tensor-parallel plan for Bert"):
        train(Path(root), "ddp", rank, 2, strategy="tensor")
    for name in ("ddp", "fsdp"):
        with pytest.raises(
            BadInput, match=r"resources\.workers = 2: .* cut into shares: .* Set it to 1, or resources\.parallel"
        ):
            train(Path(root), name, rank, 2, splits=False)
    for name in RUNS:
        torch.save(train(Path(root), name, rank, 2), f"{root}/{name}-{rank}.pt")


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    """Where the results of all runs with two workers lie."""
    train(root, "alone-died", dies_at=5)
    together("tests.jobs.test_training_parallel", "work", root=str(root))
    return root


def alone(root: Path, name: str) -> tuple[nn.Module, Any, list[list[int]]]:
    """The run with one worker and without a death."""
    model, objective, order = made(root, name)
    fitted = fit(model, objective, Training.model_validate({**PLAIN, **RUNS[name]["settings"]}), Recorded())
    return model, fitted, order


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp-frozen", "tensor"])
def test_two_workers_train_what_one_does(trained: Path, name: str) -> None:
    wanted, fitted, order = alone(trained, name)
    for rank in range(2):
        found = torch.load(trained / f"{name}-{rank}.pt", weights_only=True)
        assert found["order"] == order, "both read the same batches in the same order"
        assert same_weights(found["weights"], wanted.state_dict()) < 1e-5
        for figure in {"macro_f1", "validation_loss", "train_loss"} & fitted.metrics.keys():
            assert found["metrics"][figure] == pytest.approx(fitted.metrics[figure], abs=1e-4)


@pytest.mark.parametrize("name", ["ddp-dies", "fsdp-dies", "tensor-dies", "alone-died"])
def test_a_run_goes_on_with_another_number_of_workers(trained: Path, name: str) -> None:
    """From two workers to one and back. The checkpoint is whole whatever wrote it; the order goes on where it was."""
    wanted, _, order = alone(trained, name)
    found = torch.load(trained / f"{name}-0.pt", weights_only=True)
    if name != "alone-died":
        assert found["order"][:5] == order[:5]
        found = train(trained, name, dies_at=None)
    assert found["order"] == order[3:], "it went on after step 3"
    assert same_weights(found["weights"], wanted.state_dict()) < 1e-5
    assert found["metrics"]["steps"] == 8
