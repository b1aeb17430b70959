"""What a transformer computes on its way: hidden states, queries, keys and values, whatever the architecture calls them.

    record_attention(model)                                        # once; refuses architectures that cannot be looked into
    output, inner = forward_with_states(model, input_ids=ids_BT, attention_mask=mask_BT)
    inner.hidden[-1], inner.heads[0].query

Attention is transformers' own, called through its registry of attention functions, where a copy of what it is given is kept.

B batch, H heads, T tokens, D width.
"""

import sys
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from jobs.core.config import BadInput, Problem

RECORDED = "recorded"
"""The name of our attention in transformers' registries; `save_pretrained` does not write it."""


class AttentionInputs(NamedTuple):
    """What one layer's attention reads, its heads side by side, BTD each; shared keys and values are repeated."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class InnerStates:
    """The states of one forward pass; layers from the bottom."""

    embedding: Tensor
    """What the first layer reads, BTD."""
    hidden: tuple[Tensor, ...]
    """Each layer's output, BTD; the last one's after the final norm, where there is one."""
    heads: tuple[AttentionInputs, ...]


_recording: ContextVar[list[AttentionInputs] | None] = ContextVar("recording", default=None)


def record_attention(model: PreTrainedModel) -> None:
    """Make the model's attention one that can be looked into; it computes what it did. BadInput where it cannot."""
    if not model._can_set_attn_implementation():
        reason = f"{type(model).__name__} does not call its attention through transformers' registry"
        raise BadInput([Problem("match", None, reason, "Match hidden states and embeddings alone.")])
    AttentionInterface.register(RECORDED, _attend)
    AttentionMaskInterface.register(RECORDED, eager_mask)
    model.set_attn_implementation(RECORDED)


def forward_with_states(model: nn.Module, **inputs: Tensor) -> tuple[Any, InnerStates]:
    """A forward pass: the model's output, and what it computed on the way (heads only where it was made to record them)."""
    heads: list[AttentionInputs] = []
    token = _recording.set(heads)
    try:
        output = model(**inputs, output_hidden_states=True)
    finally:
        _recording.reset(token)
    return output, InnerStates(output.hidden_states[0], tuple(output.hidden_states[1:]), tuple(heads))


def is_causal(model: nn.Module) -> bool:
    """Whether tokens read only what stands before them."""
    return any(getattr(part, "is_causal", False) is True for part in model.modules())


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any) -> Any:
    """The architecture's own eager attention; what it reads (BHTD) is kept while somebody looks."""
    heads = _recording.get()
    if heads is not None:
        shared = query.shape[1] // key.shape[1]
        heads.append(AttentionInputs(_side_by_side(query, 1), _side_by_side(key, shared), _side_by_side(value, shared)))
    return vars(sys.modules[type(module).__module__])["eager_attention_forward"](module, query, key, value, mask, **more)


def _side_by_side(parts_BHTD: Tensor, shared: int) -> Tensor:
    return parts_BHTD.repeat_interleave(shared, dim=1).transpose(1, 2).flatten(2)
