"""Neurons and heads: which rows and columns of which matrices are one unit, and taking units out.

    for group in feed_forward_groups(model, layout):
        group.keep(chosen)                     # the matrices really shrink

U units of a group, F rows or columns of a matrix.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from jobs.architectures.layout import Attention, Layout, head_size, key_value_groups, part, queries_per_group, stacks_of

MATRICES = (nn.Linear, Conv1D)


@dataclass(frozen=True)
class UnitOutputs:
    """A matrix whose outputs are the units': so many outputs each, in so many runs through all units."""

    matrix: nn.Module
    each: int = 1
    runs: int = 1


@dataclass(frozen=True)
class UnitGroup:
    """Units among which some are chosen to stay."""

    units: int
    producers: tuple[UnitOutputs, ...]
    consumers: tuple[nn.Module, ...]
    """The matrices whose inputs the units are."""
    each: int = 1
    """Inputs that each unit is there."""
    counted: tuple[nn.Module, ...] = ()
    """Modules that know the number of their heads."""

    def keep(self, chosen_U: Tensor) -> None:
        """Take out all other units, in place."""
        for outputs in self.producers:
            _keep_outputs(outputs.matrix, _places(chosen_U, outputs.each, outputs.runs, self.units))
        for matrix in self.consumers:
            _keep_inputs(matrix, _places(chosen_U, self.each, 1, self.units))
        for module in self.counted:
            module.n_heads, module.inner_dim = len(chosen_U), len(chosen_U) * self.each  # type: ignore[assignment]

    def magnitude(self) -> Tensor:
        """length_U: the length of all weights that would go with each unit."""
        squares_U = torch.zeros(self.units)
        for outputs in self.producers:
            weight, bias = outputs.matrix.weight, getattr(outputs.matrix, "bias", None)
            own = [_squares(weight, output_dimension(outputs.matrix)), *([] if bias is None else [_squares(bias, 0)])]
            squares_U += sum(squares_F.view(outputs.runs, self.units, outputs.each).sum((0, 2)) for squares_F in own)
        for matrix in self.consumers:
            squares_U += _squares(matrix.weight, 1 - output_dimension(matrix)).view(self.units, self.each).sum(1)
        return squares_U.sqrt()


def feed_forward_groups(model: PreTrainedModel, layout: Layout) -> list[UnitGroup]:
    """Each layer's neurons."""
    groups = []
    for _, layers in stacks_of(model, layout):
        for layer in layers:
            made = [part(layer, path) for path in layout.up_projections]
            read = part(layer, layout.down_projection)
            width = read.weight.shape[1 - output_dimension(read)]
            groups.append(
                UnitGroup(width, tuple(UnitOutputs(one, runs=layout.halves) for one in made if one is not None), (read,))
            )
    return groups


def head_groups(model: PreTrainedModel, layout: Layout) -> list[UnitGroup]:
    """Each attention's groups of heads that share keys and values; T5's stacks choose once for all their layers.

    T5 computes a position bias for each head in a stack's first layer and hands it to the others: head 3 must be the same
    head in all of them. Attention to the encoder has no bias, so there each layer chooses by itself.
    """
    attention = layout.attention
    assert attention is not None
    groups = []
    for _, layers in stacks_of(model, layout):
        for path in attention.modules:
            modules = [module for layer in layers if (module := part(layer, path)) is not None]
            tables = [table for one in modules if attention.shared_bias and (table := part(one, attention.shared_bias))]
            for chosen_once in [modules] if tables else [[module] for module in modules]:
                groups.append(_head_group(chosen_once, tables, model, attention))
    return groups


def _head_group(modules: list[nn.Module], tables: list[nn.Module], model: PreTrainedModel, attention: Attention) -> UnitGroup:
    size, queries = head_size(model, attention), queries_per_group(model, attention)
    made = [UnitOutputs(table) for table in tables]
    for module in modules:
        made.append(UnitOutputs(part(module, attention.query), size * queries))
        made += [UnitOutputs(part(module, path), size) for path in (attention.key, attention.value)]
    read = tuple(part(module, attention.output) for module in modules)
    counted = tuple(module for module in modules if hasattr(module, "inner_dim"))
    return UnitGroup(key_value_groups(model, attention), tuple(made), read, size * queries, counted)


def output_dimension(matrix: nn.Module) -> int:
    """Which dimension of the weight is the output's: GPT-2's Conv1D and embeddings have it last."""
    return 0 if isinstance(matrix, nn.Linear) else 1


def _places(chosen_U: Tensor, each: int, runs: int, units: int) -> Tensor:
    """places_F of the chosen units' rows."""
    run_F = (chosen_U[:, None] * each + torch.arange(each, device=chosen_U.device)).flatten()
    return torch.cat([run_F + number * units * each for number in range(runs)])


def _keep_outputs(matrix: nn.Module, places_F: Tensor) -> None:
    _cut(matrix, "weight", output_dimension(matrix), places_F)
    if getattr(matrix, "bias", None) is not None:
        _cut(matrix, "bias", 0, places_F)


def _keep_inputs(matrix: nn.Module, places_F: Tensor) -> None:
    _cut(matrix, "weight", 1 - output_dimension(matrix), places_F)


def _cut(matrix: Any, name: str, dimension: int, places_F: Tensor) -> None:
    old = getattr(matrix, name)
    kept = old.detach().index_select(dimension, places_F.to(old.device)).clone()
    setattr(matrix, name, nn.Parameter(kept, requires_grad=old.requires_grad))
    if isinstance(matrix, nn.Linear):
        matrix.out_features, matrix.in_features = matrix.weight.shape
    elif isinstance(matrix, nn.Embedding):
        matrix.embedding_dim = matrix.weight.shape[1]
    else:
        matrix.nx, matrix.nf = matrix.weight.shape


def _squares(weight: Any, dimension: int) -> Tensor:
    """The sum of squares of each slice along a dimension."""
    squares = weight.detach().float().cpu().square()
    return squares if squares.ndim == 1 else squares.movedim(dimension, 0).flatten(1).sum(1)
