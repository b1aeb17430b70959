"""Quantisation-aware training: the model computes with rounded weights and activations while it learns.

    with fake_quantized(model):
        fit(model, learner, settings, hooks)

What is rounded, and how, is what dynamic int8 does (jobs/compression/quantize.py), so the weights that come out of it lose
less when they are exported. Rounding has no useful gradient: it is passed straight through (Bengio et al. 2013; Jacob et
al. 2018).

O outputs, I inputs of a layer; V rows of a table.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.nn import functional


@contextmanager
def fake_quantized(model: nn.Module) -> Iterator[None]:
    """Inside, every linear layer and every embedding of the model computes as if it were int8; its weights stay float."""
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    tables = [layer for layer in model.modules() if isinstance(layer, nn.Embedding)]
    # On the instances alone: names of weights, and whoever wraps the model, see no difference.
    for layer in linear:
        layer.forward = partial(_linear, layer)  # type: ignore[method-assign]
    for table in tables:
        table.forward = partial(_embedding, table)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for changed in (*linear, *tables):
            del changed.forward


def rounded_weight(weight_OI: Tensor, per_row: bool) -> Tensor:
    """Signed 8 bits around 0, with one scale for each row or for all."""
    weight_OI = weight_OI.float()
    largest = weight_OI.detach().abs()
    scale = (largest.amax(dim=1, keepdim=True) if per_row else largest.max()).clamp(min=1e-12) / 127
    return _straight_through(weight_OI, (weight_OI / scale).round() * scale)


def rounded_activation(activation: Tensor) -> Tensor:
    """Unsigned 8 bits over the whole tensor's range, which includes 0, as DynamicQuantizeLinear does."""
    activation = activation.float()  # bf16 has fewer than the 8 bits that are rounded to
    low, high = activation.detach().amin().clamp(max=0), activation.detach().amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = (-low / scale).round()
    return _straight_through(activation, (((activation / scale).round() + zero).clamp(0, 255) - zero) * scale)


def _straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    return exact + (rounded - exact).detach()


def _linear(layer: nn.Linear, activation: Tensor) -> Tensor:
    return functional.linear(rounded_activation(activation), rounded_weight(layer.weight, per_row=True), layer.bias)


def _embedding(table: nn.Embedding, ids: Tensor) -> Tensor:
    return functional.embedding(ids, rounded_weight(table.weight, per_row=False), table.padding_idx)
