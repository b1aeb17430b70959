"""Taking layers out of a model, so that stock `from_pretrained` loads what is left (Fan et al. 2020, Sajjad et al. 2023).

    remove_layers(model, layout, [importance_L], removed=2)

L layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from jobs.architectures.layout import Attention, Layout, part, set_config, stacks_of
from jobs.core.config import Problem


def removed_layers(depth: int, asked: float) -> int:
    """How many layers of a stack of this depth go: a number, or a share below 1."""
    return int(asked) if asked >= 1 else round(depth * asked)


def check_layers(model: PreTrainedModel, layout: Layout, asked: float) -> list[Problem]:
    """Why so many layers cannot be taken out, if they cannot."""
    kind, path = model.config.model_type, "prune.layers"
    if getattr(model.config, "scale_attn_by_inverse_layer_idx", False):
        reason = f"this {kind} scales attention by the layer's number, which would change for those that stay"
        return [Problem(path, asked, reason, "Leave layers out for this model.")]
    for stack, layers in stacks_of(model, layout):
        removed = removed_layers(len(layers), asked)
        if removed >= len(layers):
            reason = f"{kind} has {len(layers)} layers in {stack.path}, and one has to stay"
            return [Problem(path, asked, reason, f"Give {len(layers) - 1} or less.")]
        if removed == 0:
            reason = f"this share of the {len(layers)} layers in {stack.path} of {kind} is less than half a layer"
            return [Problem(path, asked, reason, "Give a number of layers, or leave it out.")]
    return []


def remove_layers(model: PreTrainedModel, layout: Layout, importance: Sequence[Tensor], removed: Sequence[int]) -> None:
    """Remove so many of each stack's least important layers, in place."""
    kept = []
    for score_L, count in zip(importance, removed, strict=True):
        score_L = score_L.clone()
        if layout.first_stays:
            score_L[0] = torch.inf
        kept.append(score_L.topk(len(score_L) - count).indices.sort().values.tolist())
    keep_layers(model, layout, kept)


def keep_layers(model: PreTrainedModel, layout: Layout, kept: Sequence[Sequence[int]]) -> None:
    """Keep these layers of each stack, counted from 0 at the bottom, and no others, in place."""
    for (stack, layers), chosen in zip(stacks_of(model, layout), kept, strict=True):
        staying = [layers[place] for place in chosen]
        if layout.attention is not None and chosen[0] != 0:
            _move_bias(layers[0], staying[0], layout.attention)
        _renumber(staying)
        owner_path, _, name = stack.path.rpartition(".")
        owner = part(model.base_model, owner_path) if owner_path else model.base_model
        setattr(owner, name, nn.ModuleList(staying))
        kinds = getattr(model.config, "layer_types", None)
        if kinds is not None and len(kinds) == len(layers):
            set_config(model, layer_types=[kinds[place] for place in chosen])
        setattr(model.config, stack.count, len(staying))
        if isinstance(owner, PreTrainedModel) and owner.config is not model.config:
            owner.config.num_hidden_layers = len(staying)


def _move_bias(old: nn.Module, new: nn.Module, attention: Attention) -> None:
    """The first layer computes the position bias for its stack: the one that becomes the first gets the table."""
    giving, taking = part(old, attention.modules[0]), part(new, attention.modules[0])
    if attention.shared_bias is not None and (table := part(giving, attention.shared_bias)) is not None:
        setattr(taking, attention.shared_bias, table)
        taking.has_relative_attention_bias = True


def _renumber(layers: Sequence[nn.Module]) -> None:
    """Each layer's place in the cache of keys and values."""
    for place, layer in enumerate(layers):
        for module in layer.modules():
            if getattr(module, "layer_idx", None) is not None:
                module.layer_idx = place  # type: ignore[assignment]
