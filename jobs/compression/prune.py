"""Structured pruning of feed-forward neurons: the matrices really shrink, and stock `from_pretrained` loads the result.

The same share goes from every layer, because stock configs have one width for all layers.

B batch, T tokens, F feed-forward neurons.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from jobs.training.objective import Batch, Objective

ROUNDED_TO = 16
"""Kept neurons are a multiple of this: matrix kernels work in blocks."""
SUPPORTED = ("bert", "roberta", "electra")


def feed_forward_layers(model: PreTrainedModel) -> list[tuple[nn.Linear, nn.Linear]]:
    """The two matrices of each layer's feed-forward part; TypeError for architectures that are laid out otherwise."""
    if model.config.model_type not in SUPPORTED:
        known = ", ".join(SUPPORTED)
        raise TypeError(f"feed-forward pruning does not know {model.config.model_type}; it knows {known}")
    encoder: Any = model.base_model.encoder
    return [(layer.intermediate.dense, layer.output.dense) for layer in encoder.layer]


def kept_neurons(width: int, share_removed: float) -> int:
    """How many of a layer's neurons stay."""
    return max(ROUNDED_TO, round(width * (1 - share_removed) / ROUNDED_TO) * ROUNDED_TO)


def neuron_importance(model: PreTrainedModel, objective: Objective, batches: Iterable[Batch]) -> list[Tensor]:
    """First-order Taylor importance_F of each layer's neurons: |activation · gradient|, summed over the batches.

    It estimates how much the loss would rise without the neuron (Molchanov et al. 2017).
    """
    layers = feed_forward_layers(model)
    gates = [torch.ones(up.out_features, requires_grad=True) for up, _ in layers]
    handles = [
        down.register_forward_pre_hook(lambda module, inputs, gate=gate: (inputs[0] * gate,))
        for (_, down), gate in zip(layers, gates, strict=True)
    ]
    model.eval()
    importance = [torch.zeros_like(gate) for gate in gates]
    try:
        for batch in batches:
            loss = objective.loss(model, batch)
            for total, gradient in zip(importance, torch.autograd.grad(loss, gates), strict=True):
                total += gradient.abs()
    finally:
        for handle in handles:
            handle.remove()
    return [total.detach() for total in importance]


def prune_feed_forward(model: PreTrainedModel, importance: list[Tensor], share_removed: float) -> int:
    """Remove each layer's least important neurons in place; returns how many stay in a layer."""
    layers = feed_forward_layers(model)
    kept = kept_neurons(layers[0][0].out_features, share_removed)
    for (up, down), scores in zip(layers, importance, strict=True):
        chosen = scores.topk(min(kept, len(scores))).indices.sort().values
        up.weight = nn.Parameter(up.weight.detach()[chosen].clone())
        up.bias = nn.Parameter(up.bias.detach()[chosen].clone())
        down.weight = nn.Parameter(down.weight.detach()[:, chosen].clone())
        up.out_features = down.in_features = len(chosen)
    model.config.intermediate_size = layers[0][0].out_features
    return layers[0][0].out_features
