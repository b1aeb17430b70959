"""What moves and what stays: freezing, layer-wise rates, L1, averages. `pytest tests/jobs/test_what_trains.py`"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from jobs.architectures.layers import depths, layer_modules
from jobs.contracts.objective import State
from jobs.core.config import BadInput
from jobs.tasks.supervised import Supervised
from jobs.training.loop import fit
from jobs.training.optim import make_optimizer, set_learning_rate, shrink
from jobs.training.settings import Optimizer, Training
from tests.jobs.tiny import same_weights
from tests.jobs.training_runs import QUICK, Recorded, Scripted, new_model, scripted

SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64},
    "electra": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "embedding_size": 16},
    "modernbert": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2},
    "llama": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64},
    "t5": {"d_model": 32, "num_layers": 3, "num_heads": 2, "d_ff": 64, "d_kv": 16},
}


@pytest.mark.parametrize("architecture", SIZES)
def test_each_architectures_weights_have_the_depth_of_their_layer(architecture: str) -> None:
    config = AutoConfig.for_model(architecture, vocab_size=50, **SIZES[architecture])
    auto = AutoModelForCausalLM if architecture == "llama" else AutoModelForSequenceClassification
    model = auto.from_config(config)
    depth = depths(model)
    stacks = 2 if architecture == "t5" else 1
    layers = layer_modules(model)
    assert len(layers) == 3 * stacks and set(depth.values()) == {0, 1, 2, 3, 4}
    places = {id(weight): depth[name] for name, weight in model.named_parameters()}
    for number, layer in enumerate(layers):
        assert {places[id(weight)] for weight in layer.parameters()} == {number % 3 + 1}
    embedding = next(name for name, weight in model.named_parameters() if weight is model.get_input_embeddings().weight)
    assert depth[embedding] == 0
    heads = [name for name in depth if "classif" in name or "score" in name]
    assert all(depth[name] == 4 for name in heads) and (heads or architecture == "llama")


def test_layers_that_are_not_known_are_refused() -> None:
    with pytest.raises(BadInput, match="layers are not known"):
        depths(nn.Linear(2, 2))


@dataclass
class Watched(Recorded):
    """Hooks that keep the weights after each step."""

    weights: list[dict[str, Tensor]] = field(default_factory=list)

    def save(self, state: Callable[[], State]) -> None:
        self.weights.append({name: value.clone() for name, value in state()["model"].items()})


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """The parts of a two-layer BERT that differ."""
    parts = {"embeddings": "embeddings", "0": "encoder.layer.0", "1": "encoder.layer.1", "head": "classifier"}
    return {
        part
        for part, inside in parts.items()
        for name in before
        if inside in name and not torch.equal(before[name], after[name])
    }


def trained(classification: Supervised, tokenizer: PreTrainedTokenizerBase, **settings: Any) -> list[set[str]]:
    """What moved in each step."""
    model, hooks = new_model("classification", tokenizer, 0.0), Watched()
    # A batch of the longest texts: every position's embedding has a gradient somewhere.
    start = {name: value.clone() for name, value in model.state_dict().items()}
    plain = {**QUICK, "checkpoint_steps": 1, "keep": "last", "evaluations": 1, "epochs": 9, "schedule": {"warmup": 0}}
    fit(model, classification, Training.model_validate({**plain, **settings}), hooks)
    states = [start, *hooks.weights]
    return [moved(before, after) for before, after in zip(states, states[1:], strict=False)]


@pytest.mark.parametrize(
    ("freeze", "moving"),
    [
        ({}, {"embeddings", "0", "1", "head"}),
        ({"embeddings": True}, {"0", "1", "head"}),
        ({"layers": 1}, {"1", "head"}),
        ({"layers": 2}, {"head"}),
    ],
)
def test_frozen_parts_stay(
    classification: Supervised, tokenizer: PreTrainedTokenizerBase, freeze: dict[str, Any], moving: set[str]
) -> None:
    assert trained(classification, tokenizer, max_steps=2, freeze=freeze) == [moving, moving]


def test_layers_are_freed_from_the_top(classification: Supervised, tokenizer: PreTrainedTokenizerBase) -> None:
    """8 steps, freed within the first 6: the top layer at step 2, the one below at 4, the embeddings at 6."""
    steps = trained(classification, tokenizer, max_steps=8, freeze={"gradual": 0.75})
    wanted = [{"head"}] * 2 + [{"head", "1"}] * 2 + [{"head", "1", "0"}] * 2 + [{"head", "1", "0", "embeddings"}] * 2
    assert steps == wanted
    steps = trained(classification, tokenizer, max_steps=4, freeze={"gradual": 0.5, "layers": 1})
    assert steps == [{"head"}] * 2 + [{"head", "1"}] * 2, "what is frozen for good is not freed"


def test_more_frozen_layers_than_there_are_is_refused(classification: Supervised, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(BadInput, match=r"freeze\.layers = 3: the model has only 2 layers"):
        trained(classification, tokenizer, max_steps=1, freeze={"layers": 3})


def test_a_run_that_goes_on_frees_at_the_same_steps(
    classification: Supervised, tokenizer: PreTrainedTokenizerBase, tmp_path: Any
) -> None:
    settings = Training.model_validate(
        {**QUICK, "max_steps": 8, "epochs": 9, "checkpoint_steps": 3, "freeze": {"gradual": 0.75}, "average": 0.9}
    )
    whole = new_model("classification", tokenizer, 0.2)
    fit(whole, classification, settings, Recorded())
    with pytest.raises(KeyboardInterrupt):
        fit(new_model("classification", tokenizer, 0.2), classification, settings, Recorded(tmp_path / "state", dies_at=5))
    again = new_model("classification", tokenizer, 0.2)
    fit(again, classification, settings, hooks := Recorded(tmp_path / "state"))
    assert hooks.progressed[0]["step"] == 4 and same_weights(whole.state_dict(), again.state_dict()) == 0


def test_each_layer_has_its_share_of_the_rate(tokenizer: PreTrainedTokenizerBase) -> None:
    model = new_model("classification", tokenizer, 0.0)
    optimizer = make_optimizer(model, Optimizer(name="sgd", momentum=0, weight_decay=0, learning_rate=1.0, layer_decay=0.5))
    set_learning_rate(optimizer, 0.8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    steps = {name: float((before[name] - value.detach()).mean()) for name, value in model.named_parameters()}
    wanted = {"classifier": 0.8, "encoder.layer.1": 0.4, "encoder.layer.0": 0.2, "embeddings": 0.1}
    for part, step in wanted.items():
        assert {round(found, 5) for name, found in steps.items() if part in name} == {step}, part


def test_l1_draws_matrices_to_zero_and_leaves_vectors() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -0.5], [0.01, -0.01]]))
        model.bias.fill_(0.01)
    optimizer = make_optimizer(model, Optimizer(name="sgd", weight_decay=0, learning_rate=0.1, l1=0.2))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    shrink(optimizer.param_groups)
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.48, -0.48], [0.0, 0.0]]))
    assert torch.equal(model.bias.detach(), torch.full((2,), 0.01))


def test_l1_makes_a_trained_model_sparse() -> None:
    zeros = [
        int(
            (
                scripted(Scripted([0]), max_steps=40, epochs=99, evaluations=1, optimizer={"learning_rate": 0.05, "l1": l1})[
                    0
                ].weight
                == 0
            ).sum()
        )
        for l1 in (0.0, 1.0)
    ]
    assert zeros[0] == 0 < zeros[1]


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_decay_is_decoupled_in_adamw_alone(name: str) -> None:
    """By hand: one step from weight 1 with a small gradient, rate 0.1, decay 0.2. Adam's first step is ± the rate."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = make_optimizer(model, Optimizer.model_validate({"name": name, "learning_rate": 0.1, "weight_decay": 0.2}))
    model.weight.grad = torch.full((1, 1), -0.1)
    optimizer.step()
    # Coupled: −0.1 + 0.2 · 1 > 0, so the weight falls. Decoupled: 1 · (1 − 0.1 · 0.2) + 0.1, so it rises.
    assert float(model.weight) == pytest.approx({"adam": 0.9, "adamw": 1.08}[name], abs=1e-4)


def test_the_average_is_judged_and_published() -> None:
    """By hand: decay 0.5 is never larger than its warm-up from the 8th update on; before, (1 + n) / (10 + n)."""
    model, hooks = nn.Linear(4, 1), Watched()
    torch.manual_seed(0)
    nn.init.normal_(model.weight)
    objective = Scripted([0.1, 0.2])
    average = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {
        **QUICK,
        "batch_size": 8,
        "max_steps": 12,
        "epochs": 9,
        "evaluations": 2,
        "checkpoint_steps": 1,
        "average": 0.5,
        "optimizer": {"learning_rate": 0.1},
    }
    fit(model, objective, Training.model_validate({**settings, "keep": "last"}), hooks)
    for number, weights in enumerate(hooks.weights, 1):
        decay = min(0.5, (1 + number) / (10 + number))
        average = {name: decay * value + (1 - decay) * weights[name] for name, value in average.items()}
    assert len(hooks.weights) == 12
    assert same_weights(average, objective.asked[-1]) < 1e-6, "what was judged"
    assert same_weights(average, model.state_dict()) < 1e-6, "what is published"
    assert same_weights(average, hooks.weights[-1]) > 1e-3, "is not what was trained"


def test_best_and_patience_go_by_the_monitored_figure(classification: Supervised, tokenizer: PreTrainedTokenizerBase) -> None:
    def run(monitor: str) -> Recorded:
        settings = {**QUICK, "epochs": 4, "evaluations": 6, "monitor": monitor, "optimizer": {"learning_rate": 0.02}}
        found = fit(
            new_model("classification", tokenizer, 0.1), classification, Training.model_validate(settings), hooks := Recorded()
        )
        best = (min if monitor == "validation_loss" else max)(hooks.scores, key=lambda figures: figures[monitor])
        assert found.metrics[monitor] == best[monitor] and found.metrics["macro_f1"] == best["macro_f1"]
        return hooks

    run("validation_loss")
    run("accuracy")
    with pytest.raises(BadInput, match=r"monitor = 'bleu'.*macro_f1, accuracy, validation_loss"):
        run("bleu")
