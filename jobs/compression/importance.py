"""What the loss would lose with a unit or a layer: first-order Taylor importance through gates, or the weights' length.

    units, layers = taylor(model, objective, batches, groups, layers)

B batch, T tokens, D hidden, U units of a group, L layers.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jobs.compression.pruning_units import UnitGroup
from jobs.contracts.learning import Batch
from jobs.contracts.objective import Objective


@contextmanager
def gated(groups: Sequence[UnitGroup], gates: Sequence[Tensor], layers: Sequence[nn.Module], gate_L: Tensor) -> Any:
    """While it holds, each unit is multiplied by its gate, and what a layer adds to its input by the layer's.

    All gates at 1 change nothing; a gate at 0 is the model without what it stands for.
    """
    with ExitStack() as hooks:
        for group, gate_U in zip(groups, gates, strict=True):
            for matrix in group.consumers:
                hooks.callback(matrix.register_forward_pre_hook(_unit_gate(gate_U, group.each)).remove)
        for number, layer in enumerate(layers):
            hooks.callback(layer.register_forward_hook(_layer_gate(gate_L, number), with_kwargs=True).remove)
        yield


def _unit_gate(gate_U: Tensor, each: int) -> Any:
    return lambda module, inputs: (inputs[0] * gate_U.repeat_interleave(each), *inputs[1:])


def _layer_gate(gate_L: Tensor, number: int) -> Any:
    def gate(module: nn.Module, inputs: Any, named: Any, output: Any) -> Any:
        given_BTD = inputs[0] if inputs else named["hidden_states"]
        made_BTD = output[0] if isinstance(output, tuple) else output
        mixed_BTD = given_BTD + gate_L[number] * (made_BTD - given_BTD)
        return (mixed_BTD, *output[1:]) if isinstance(output, tuple) else mixed_BTD

    return gate


def taylor(
    model: nn.Module,
    objective: Objective,
    batches: Iterable[Batch],
    groups: Sequence[UnitGroup],
    layers: Sequence[nn.Module] = (),
) -> tuple[list[Tensor], Tensor]:
    """(importance_U of each group, importance_L of the layers): |gradient of the gate|, summed over the batches.

    It estimates how much the loss would change without what stands behind the gate (Molchanov et al. 2017).
    """
    device = next(model.parameters()).device
    gates = [torch.ones(group.units, requires_grad=True, device=device) for group in groups]
    gate_L = torch.ones(len(layers), requires_grad=True, device=device)
    asked = [*gates, *([gate_L] if layers else [])]
    totals = [torch.zeros_like(gate) for gate in asked]
    model.eval()
    with gated(groups, gates, layers, gate_L):
        for batch in batches:
            loss = objective.loss(model, {key: value.to(device) for key, value in batch.items()})
            for total, gradient in zip(totals, torch.autograd.grad(loss, asked), strict=True):
                total += gradient.abs()
    found = [total.detach().cpu() for total in totals]
    return found[: len(groups)], found[-1] if layers else torch.zeros(0)


def magnitude(groups: Sequence[UnitGroup], layers: Sequence[nn.Module] = ()) -> tuple[list[Tensor], Tensor]:
    """The same by the length of the weights that would go (Li et al. 2017)."""
    lengths = [sum(float(weight.detach().float().square().sum()) for weight in layer.parameters()) ** 0.5 for layer in layers]
    return [group.magnitude() for group in groups], torch.tensor(lengths)
