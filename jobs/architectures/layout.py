"""Where each architecture keeps what pruning takes out, and what its config calls their numbers.

layout = layout_of(model, "prune.feed_forward", 0.33)     # BadInput for architectures that are not in the table
for stack, layers in stacks_of(model, layout): ...
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from jobs.core.config import BadInput, Problem


@dataclass(frozen=True)
class Stack:
    """A list of layers below the base model, and the config's key of its length."""

    path: str
    count: str


@dataclass(frozen=True)
class Attention:
    """Attention whose number of heads does not follow from the hidden size: config keys, and matrices by their paths."""

    modules: tuple[str, ...]
    query: str
    key: str
    value: str
    output: str
    heads: str
    head_size: str
    key_value_heads: str | None = None
    divides_hidden: bool = False
    """Whether the config is only valid with a number of heads that divides the hidden size."""
    shared_bias: str | None = None
    """The table of position biases, a column a head, that a stack's first layer computes for all of them."""


@dataclass(frozen=True)
class Layout:
    """One architecture. Paths are within a layer; a matrix that a model does not have is passed over."""

    stacks: tuple[Stack, ...]
    up_projections: tuple[str, ...]
    """The matrices whose outputs are the feed-forward neurons."""
    down_projection: str
    """The matrix that reads them."""
    width: str
    """The config's key of their number."""
    halves: int = 1
    """How many runs of neurons stand in one up-projection (a gate and what it gates)."""
    attention: Attention | None = None
    first_stays: bool = False
    """Whether the first layer is built otherwise than the others, so that none of them can take its place."""


def _bert(path: str = "encoder.layer") -> Layout:
    return Layout((Stack(path, "num_hidden_layers"),), ("intermediate.dense",), "output.dense", "intermediate_size")


def _llama(divides_hidden: bool = False) -> Layout:
    attention = Attention(
        ("self_attn",),
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        heads="num_attention_heads",
        head_size="head_dim",
        key_value_heads="num_key_value_heads",
        divides_hidden=divides_hidden,
    )
    stacks = (Stack("layers", "num_hidden_layers"),)
    return Layout(stacks, ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "intermediate_size", attention=attention)


def _t5() -> Layout:
    inner = "layer.-1.DenseReluDense"
    attention = Attention(
        ("layer.0.SelfAttention", "layer.1.EncDecAttention"),
        *("q", "k", "v", "o"),
        heads="num_heads",
        head_size="d_kv",
        shared_bias="relative_attention_bias",
    )
    return Layout(
        (Stack("encoder.block", "num_layers"), Stack("decoder.block", "num_decoder_layers")),
        (f"{inner}.wi", f"{inner}.wi_0", f"{inner}.wi_1"),
        f"{inner}.wo",
        "d_ff",
        attention=attention,
    )


LAYOUTS: dict[str, Layout] = {
    "bert": _bert(),
    "roberta": _bert(),
    "xlm-roberta": _bert(),
    "electra": _bert(),
    "distilbert": Layout((Stack("transformer.layer", "n_layers"),), ("ffn.lin1",), "ffn.lin2", "hidden_dim"),
    "modernbert": Layout(
        (Stack("layers", "num_hidden_layers"),), ("mlp.Wi",), "mlp.Wo", "intermediate_size", halves=2, first_stays=True
    ),
    "gpt2": Layout((Stack("h", "n_layer"),), ("mlp.c_fc",), "mlp.c_proj", "n_inner"),
    "llama": _llama(divides_hidden=True),
    "mistral": _llama(),
    "qwen2": _llama(),
    "qwen3": _llama(),
    "t5": _t5(),
    "mt5": _t5(),
}


def layout_of(model: PreTrainedModel, path: str, value: Any) -> Layout:
    """The model's layout; BadInput, with the key that asked for it, where the architecture is not known."""
    kind = model.config.model_type
    if kind not in LAYOUTS:
        reason = f"it is not known where {kind} keeps what would go; known are {', '.join(LAYOUTS)}"
        raise BadInput([Problem(path, value, reason, "Leave it out for this model.")])
    return LAYOUTS[kind]


def stacks_of(model: PreTrainedModel, layout: Layout) -> Iterator[tuple[Stack, nn.ModuleList]]:
    """The model's stacks of layers; an encoder-decoder may be there without its decoder."""
    for stack in layout.stacks:
        layers = part(model.base_model, stack.path)
        if isinstance(layers, nn.ModuleList):
            yield stack, layers


def key_value_groups(model: PreTrainedModel, attention: Attention) -> int:
    """How many groups of heads share their keys and values (as many as heads, where none do)."""
    return int(getattr(model.config, attention.key_value_heads or attention.heads))


def queries_per_group(model: PreTrainedModel, attention: Attention) -> int:
    """How many heads a group has."""
    return int(getattr(model.config, attention.heads)) // key_value_groups(model, attention)


def head_size(model: PreTrainedModel, attention: Attention) -> int:
    """Numbers of a head; Qwen2's config need not name it."""
    named = getattr(model.config, attention.head_size, None)
    return int(named or model.config.hidden_size // getattr(model.config, attention.heads))


def part(module: nn.Module, path: str) -> Any:
    """What stands at a path of attributes and places in lists; None where the model does not have it."""
    found: Any = module
    for name in path.split("."):
        if name.lstrip("-").isdigit():
            found = found[int(name)] if -len(found) <= int(name) < len(found) else None
        else:
            found = getattr(found, name, None)
        if found is None:
            return None
    return found


def set_config(model: PreTrainedModel, **values: Any) -> None:
    """Write into the model's config, and into the copies that T5's stacks keep."""
    for config in _configs(model):
        for key, value in values.items():
            setattr(config, key, value)


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    found = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    return list({id(config): config for config in found}.values())
