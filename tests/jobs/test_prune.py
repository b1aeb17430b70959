"""Pruned models are what is left of the whole one, and stay stock models. `pytest tests/jobs/test_prune.py`"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from jobs.architectures.layout import LAYOUTS, layout_of, stacks_of
from jobs.compression import prune
from jobs.compression.importance import gated, taylor
from jobs.compression.prune import Pruner
from jobs.compression.pruning_units import UnitGroup, feed_forward_groups, head_groups
from jobs.compression.settings import Prune, kept_neurons
from tests.jobs.small_models import (
    HEAD,
    HIDDEN,
    SIZES,
    SQUARES,
    logits,
    padded,
    parameters,
    reloaded,
    small_model,
    squares_batches,
)

HEADED = [name for name in SIZES if LAYOUTS[name.removesuffix("-gated")].attention is not None]
NEURON = {
    **dict.fromkeys(SIZES, HIDDEN + 1 + HIDDEN),
    **dict.fromkeys(("modernbert", "llama", "mistral", "qwen2", "qwen3", "t5-gated", "mt5"), 3 * HIDDEN),
    "t5": 2 * HIDDEN,
}
"""Numbers that go with a neuron: its rows and biases of the matrices that make it, its column of the one that reads it."""
LAYERS = {**dict.fromkeys(SIZES, 3), "modernbert": 4, **dict.fromkeys(("t5", "t5-gated", "mt5"), 5)}
BUCKETS = 32
T5_HEAD = 7 * 4 * HEAD * HIDDEN + 2 * BUCKETS  # three attentions in the encoder, four in the decoder, two tables of biases
HEADS = {
    "llama": (2, 3 * (2 * 2 + 2) * HEAD * HIDDEN),
    "mistral": (4, 3 * (2 * 2 + 2) * HEAD * HIDDEN),
    "qwen2": (3, 3 * (2 + 2) * HEAD * HIDDEN + 3 * 3 * HEAD),  # queries, keys and values have biases
    "qwen3": (4, 3 * (2 * 2 + 2) * HEAD * HIDDEN),
    **dict.fromkeys(("t5", "t5-gated", "mt5"), (3, T5_HEAD)),
}
"""Heads that a third less leaves, and the numbers that go."""


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Importance drawn at random in place of the measured one; the list holds what was drawn."""
    drawn: list[Any] = []

    def draw(groups: list[UnitGroup], layers: Any = ()) -> Any:
        generator = torch.Generator().manual_seed(1)
        drawn.append(
            ([torch.rand(group.units, generator=generator) for group in groups], torch.rand(len(layers), generator=generator))
        )
        return drawn[-1]

    monkeypatch.setattr(prune, "magnitude", draw)
    yield drawn


def pruned(model: PreTrainedModel, **settings: Any) -> Pruner:
    """Take out in one step what the settings say."""
    pruner = Pruner(model, Prune(importance="magnitude", **settings))
    (goal,) = pruner.goals
    pruner.remove(goal, SQUARES, ())
    return pruner


def left(score: torch.Tensor, count: int) -> torch.Tensor:
    """A gate of 1 for the highest scores, 0 for the others."""
    gate = torch.zeros_like(score)
    gate[score.argsort(descending=True)[:count]] = 1
    return gate


ASKED: dict[str, dict[str, float]] = {"neurons": {"feed_forward": 0.5}, "heads": {"heads": 0.3}, "layers": {"layers": 1}}


@pytest.mark.parametrize(
    ("what", "architecture"),
    [("neurons", name) for name in SIZES] + [("heads", name) for name in HEADED] + [("layers", name) for name in SIZES],
)
def test_a_model_without_them_is_the_whole_one_with_them_silenced(
    what: str, architecture: str, scores: list[Any], tmp_path: Path
) -> None:
    model = small_model(architecture)
    whole, before = copy.deepcopy(model), parameters(model)
    figures = pruned(model, **ASKED[what]).finish()
    (drawn, score_L), layout = scores[0], layout_of(whole, "", None)
    groups, gates, flat, gate_L = [], [], [], torch.zeros(0)
    if what == "neurons":
        groups, gone = feed_forward_groups(whole, layout), LAYERS[architecture] * 32 * NEURON[architecture]
        assert figures == {"feed_forward_before": 64, "feed_forward_kept": 32} and len(groups) == LAYERS[architecture]
        gates = [left(score, 32) for score in drawn]
    elif what == "heads":
        (kept, gone), groups = HEADS[architecture], head_groups(whole, layout)
        assert figures == {"heads_before": whole.config.num_attention_heads, "heads_kept": kept}
        gates = [left(score, kept // (whole.config.num_attention_heads // groups[0].units)) for score in drawn]
    else:
        stacks = [list(layers) for _, layers in stacks_of(whole, layout)]
        parts = [score.clone() for score in score_L.split([len(layers) for layers in stacks])]
        if architecture == "modernbert":
            parts[0][0] = 2.0  # it has no norm before its attention, and none can take its place
        gate_L = torch.cat([left(part, len(part) - 1) for part in parts])
        flat = [layer for layers in stacks for layer in layers]
        gone = sum(parameters(layers[1]) for layers in stacks)  # T5's first ones keep their table of biases
    assert before - parameters(model) == gone
    check_same(model, whole, groups, gates, flat, architecture, tmp_path, gate_L)


def test_the_first_layer_can_go_where_others_can_take_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for architecture in ("t5", "gpt2"):
        model = small_model(architecture)
        whole = copy.deepcopy(model)
        stacks = [list(layers) for _, layers in stacks_of(whole, layout_of(whole, "", None))]
        score_L = torch.cat([torch.arange(len(layers)).float() for layers in stacks])
        monkeypatch.setattr(prune, "magnitude", lambda groups, layers, score_L=score_L: ([], score_L))
        pruned(model, layers=1)
        flat = [layer for layers in stacks for layer in layers]
        check_same(model, whole, [], [], flat, architecture, tmp_path / architecture, (score_L > 0).float())


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "t5"])
def test_everything_at_once(architecture: str, scores: list[Any], tmp_path: Path) -> None:
    model = small_model(architecture)
    whole = copy.deepcopy(model)
    figures = pruned(model, feed_forward=0.5, heads=0.3, layers=1).finish()
    assert figures["layers_kept"] == LAYERS[architecture] - (2 if architecture == "t5" else 1)

    layout = layout_of(whole, "", None)
    groups = [*feed_forward_groups(whole, layout), *head_groups(whole, layout)]
    drawn, score_L = scores[0]
    per_group = whole.config.num_attention_heads // groups[-1].units
    counts = [32 if group.units == 64 else HEADS[architecture][0] // per_group for group in groups]
    gates = [left(score, count) for score, count in zip(drawn, counts, strict=True)]
    stacks = [list(layers) for _, layers in stacks_of(whole, layout)]
    parts = score_L.split([len(layers) for layers in stacks])
    gate_L = torch.cat([left(part, len(part) - 1) for part in parts])
    flat = [layer for layers in stacks for layer in layers]
    check_same(model, whole, groups, gates, flat, architecture, tmp_path, gate_L)


def check_same(
    model: PreTrainedModel,
    whole: PreTrainedModel,
    groups: list[UnitGroup],
    gates: list[torch.Tensor],
    layers: list[nn.Module],
    architecture: str,
    place: Path,
    gate_L: torch.Tensor | None = None,
) -> None:
    """The pruned model, what stock transformers loads of it, and the whole one behind its gates say the same."""
    ids_BT, mask_BT = padded()
    with torch.inference_mode():
        whole_BC = logits(whole, ids_BT, mask_BT)
        with gated(groups, gates, layers, torch.zeros(0) if gate_L is None else gate_L):
            wanted_BC = logits(whole, ids_BT, mask_BT)
        assert (wanted_BC - whole_BC).abs().max() > 1e-3, "what went mattered"
        assert (logits(model, ids_BT, mask_BT) - wanted_BC).abs().max() < 1e-5
        loaded = reloaded(model, architecture, place)
        assert parameters(loaded) == parameters(model)
        assert (logits(loaded, ids_BT, mask_BT) - wanted_BC).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_language_model_writes_on_with_its_cache_after_losing_layers(architecture: str, tmp_path: Path) -> None:
    model: Any = small_model(architecture, "CausalLM")
    pruned(model, layers=1)
    prompt = torch.tensor([[5, 6, 7]])
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(prompt, **settings)
    loaded: Any = reloaded(model, architecture, tmp_path, "CausalLM")
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **settings))
    assert torch.equal(cached, loaded.generate(prompt, **settings))


def test_gpt2_without_a_width_of_its_own_gets_one(tmp_path: Path) -> None:
    model = small_model("gpt2", n_inner=None)
    pruned(model, feed_forward=0.25)
    assert model.config.n_inner == 96 and reloaded(model, "gpt2", tmp_path).config.n_inner == 96


@pytest.mark.parametrize(
    ("width", "share", "kept"),
    [(1024, 0.33, 688), (64, 0.25, 48), (64, 0.99, 16), (64, 0.0, 64), (1024, 0.5, 512), (8, 0.5, 8)],
)
def test_kept_neurons_are_whole_blocks(width: int, share: float, kept: int) -> None:
    assert kept_neurons(width, share) == kept


def test_steps_remove_in_equal_parts_and_pass_over_what_would_remove_nothing() -> None:
    model = small_model("llama")
    pruner = Pruner(model, Prune(feed_forward=0.75, layers=1, steps=4, importance="magnitude"))
    assert [(goal.neurons, goal.depths) for goal in pruner.goals] == [(48, (3,)), (32, (3,)), (32, (2,)), (16, (2,))]
    for goal in pruner.goals:
        pruner.remove(goal, SQUARES, ())
        assert model.config.intermediate_size == goal.neurons and model.config.num_hidden_layers == goal.depths[0]
    few = Pruner(small_model("bert"), Prune(layers=2, steps=4)).goals
    assert [goal.depths for goal in few] == [(2,), (1,)]


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "t5"])
def test_taylor_finds_what_the_loss_does_not_need(architecture: str) -> None:
    model = small_model(architecture)
    layout = layout_of(model, "", None)
    deaf = torch.arange(0, 64, 2)
    with torch.no_grad():
        for group in feed_forward_groups(model, layout):
            weight: Any = group.consumers[0].weight
            (weight if architecture == "gpt2" else weight.T)[deaf] = 0
    ids_BT, mask_BT = padded()
    with torch.inference_mode():
        before_BC = logits(model, ids_BT, mask_BT)
    pruner = Pruner(model, Prune(feed_forward=0.5))
    pruner.remove(pruner.goals[0], SQUARES, squares_batches())
    with torch.inference_mode():
        assert (logits(model, ids_BT, mask_BT) - before_BC).abs().max() < 1e-5, "hooks are gone, and only the deaf went"
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5-gated"])
def test_taylor_is_the_slope_of_the_loss_at_each_gate(architecture: str) -> None:
    model, objective, batches = small_model(architecture).double(), SQUARES, squares_batches()
    layout = layout_of(model, "", None)
    groups = [*feed_forward_groups(model, layout)[-1:], *(head_groups(model, layout)[:1] if layout.attention else [])]
    layers = [layer for _, stack in stacks_of(model, layout) for layer in stack]
    units, found_L = taylor(model, objective, batches[:1], groups, layers)
    gates, gate_L, step = [torch.ones(group.units).double() for group in groups], torch.ones(len(layers)).double(), 1e-2

    def loss() -> float:
        with torch.inference_mode(), gated(groups, gates, layers, gate_L):
            return float(objective.loss(model, batches[0]))

    whole = loss()
    for found, gate in [(found[:3], gate) for found, gate in zip(units, gates, strict=True)] + [(found_L, gate_L)]:
        for place, value in enumerate(found):
            gate[place] = 1 + step
            above = loss()
            gate[place] = 1 - step
            slope = abs(above - loss()) / (2 * step)
            gate[place] = 1
            assert float(value) == pytest.approx(slope, rel=2e-2, abs=1e-5 * whole)


def test_taylor_sums_over_all_batches() -> None:
    model, batches = small_model("bert"), squares_batches()
    groups = feed_forward_groups(model, layout_of(model, "", None))
    once, _ = taylor(model, SQUARES, batches[:1], groups)
    twice, _ = taylor(model, SQUARES, batches, groups)
    assert all((both >= first).all() and not torch.equal(both, first) for first, both in zip(once, twice, strict=True))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "modernbert", "qwen2", "t5"])
def test_magnitude_is_the_length_of_what_would_go(architecture: str) -> None:
    model = small_model(architecture)
    layout = layout_of(model, "", None)
    groups = [*feed_forward_groups(model, layout), *(head_groups(model, layout) if layout.attention else [])]

    def squares() -> float:
        return sum(float(weight.detach().double().square().sum()) for weight in model.parameters())

    for group in groups:
        length, before = float(group.magnitude()[1]), squares()
        group.keep(torch.tensor([unit for unit in range(group.units) if unit != 1]))
        assert length**2 == pytest.approx(before - squares(), rel=1e-3)
