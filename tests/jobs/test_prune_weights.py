"""Single weights at 0, and pruning in steps with healing between. `pytest tests/jobs/test_prune_weights.py`"""

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from jobs.compression.prune import Pruner
from jobs.compression.settings import Prune
from jobs.compression.sparsity import Sparsity, cubic, layer_matrices
from jobs.core.config import BadInput
from jobs.tasks.supervised import Supervised
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.jobs.small_models import SQUARES, parameters, small_model
from tests.jobs.tiny import tiny_classifier
from tests.jobs.training_runs import Recorded


def test_the_schedule_is_fast_at_first_and_ends_at_the_share() -> None:
    shares = [cubic(0.8, step, 4) for step in range(5)]
    assert shares == pytest.approx([0.0, 0.8 * 37 / 64, 0.8 * 56 / 64, 0.8 * 63 / 64, 0.8])


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "modernbert"])
def test_each_matrix_of_the_layers_loses_its_smallest_weights(architecture: str) -> None:
    model = small_model(architecture)
    before = copy.deepcopy(model.state_dict())
    sparse = Sparsity(model)
    sparse.raise_to(0.75)
    names = {f"{name}.weight" for name in layer_matrices(model)}
    assert names and not any("embed" in name or "classifier" in name or "score" in name for name in names)
    for name, weight in model.state_dict().items():
        if name not in names:
            assert torch.equal(weight, before[name])
            continue
        assert int((weight == 0).sum()) == round(0.75 * weight.numel())
        assert weight[weight != 0].abs().min() >= before[name][weight == 0].abs().max()
        assert torch.equal(weight[weight != 0], before[name][weight != 0])
    figures = sparse.metrics()
    assert figures["weights_zero"] == pytest.approx(0.75, abs=1e-3)
    assert figures["matrices_gzip_mb"] < 0.45 * figures["matrices_mb"]


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": {"learning_rate": 1e-2, "weight_decay": 0.1}},
        {"optimizer": {"name": "sgd", "learning_rate": 1e-2}, "average": 0.9},
        {"optimizer": {"name": "adam", "learning_rate": 1e-2, "l1": 0.1}, "gradient_accumulation": 2, "precision": "bf16"},
    ],
)
def test_zeros_stay_zeros_while_the_model_heals(classification: Supervised, more: dict[str, Any]) -> None:
    model = tiny_classifier("bert", 2, len(classification.tokenizer))
    pruner = Pruner(model, Prune(weights=0.6, steps=2))
    settings = Training.model_validate({"precision": "fp32", "batch_size": 16, "epochs": 1, **more})
    for goal in pruner.goals:
        pruner.remove(goal, classification, ())
        zero = {name: matrix.weight.detach() == 0 for name, matrix in layer_matrices(model).items()}
        before = copy.deepcopy(model.state_dict())
        fit(model, classification, settings, Recorded())
        for name, matrix in layer_matrices(model).items():
            weight: Any = matrix.weight
            assert (weight[zero[name]] == 0).all(), "what was 0 stays 0"
            assert not torch.equal(weight, before[f"{name}.weight"]), "the others learn"
        share = sum(int(gone.sum()) for gone in zero.values()) / sum(gone.numel() for gone in zero.values())
        assert share == pytest.approx(goal.zeros, abs=1e-3)
    assert [goal.zeros for goal in pruner.goals] == pytest.approx([0.6 * 7 / 8, 0.6])
    pruner.finish()
    assert not any(weight._backward_hooks for weight in model.parameters())


def test_steps_with_healing_end_at_a_stock_model(classification: Supervised, tmp_path: Any) -> None:
    model = tiny_classifier("bert", 2, len(classification.tokenizer))
    before = parameters(model)
    pruner = Pruner(model, Prune(feed_forward=0.5, layers=1, weights=0.5, steps=2))
    settings = Training.model_validate({"precision": "fp32", "batch_size": 16, "epochs": 1, "evaluations": 1})
    batches = [classification.batch(indices, 0, 0) for indices in classification.epoch(0, 16, 0)]
    scores = []
    for goal in pruner.goals:
        pruner.remove(goal, classification, batches)
        scores.append(fit(model, classification, settings, Recorded()).metrics["macro_f1"])
    figures = pruner.finish()
    assert len(scores) == 2 and parameters(model) < 0.8 * before
    assert {"feed_forward_kept": 32.0, "layers_kept": 1.0}.items() <= figures.items()
    assert figures["weights_zero"] == pytest.approx(0.5, abs=1e-3)
    classification.save(model, tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert len(loaded.bert.encoder.layer) == 1 and loaded.config.intermediate_size == 32


def test_a_model_whose_layers_are_not_known_is_refused() -> None:
    model = small_model("bert")
    setattr(model.base_model, "encoder", torch.nn.Module())  # noqa: B010
    with pytest.raises(BadInput, match=r"prune\.weights = 0\.5: it is not known where the layers of bert are"):
        Pruner(model, Prune(weights=0.5))


def test_single_weights_need_no_data() -> None:
    model = small_model("bert")
    pruner = Pruner(model, Prune(weights=0.5))
    pruner.remove(pruner.goals[0], SQUARES, iter(()))
    assert pruner.finish()["weights_zero"] == pytest.approx(0.5, abs=1e-3)
