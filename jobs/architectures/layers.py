"""Where a weight stands in a model: 0 for embeddings, 1 to L for its layers from the bottom, L + 1 for the head.

    depths(model)      # {"bert.embeddings.word_embeddings.weight": 0, …, "classifier.bias": 7}

Freezing, gradual unfreezing and layer-wise learning rates all speak of it.
"""

import re
from collections.abc import Iterable

from torch import nn

from jobs.core.config import BadInput, Problem

LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
"""How transformers' architectures name the members of their stack of layers."""
STACK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)$")
EMBEDDING = re.compile(r"(?:^|\.)(?:\w*embed\w*|wte|wpe|shared)\.")


def depths(model: nn.Module) -> dict[str, int]:
    """Each weight's depth, by name; BadInput where the layers of the architecture are not known."""
    names = [_plain(name) for name, _ in model.named_parameters()]
    head = layer_count(names) + 1
    return {name: _depth(_plain(name), head) for name, _ in model.named_parameters()}


def layer_count(names: Iterable[str]) -> int:
    """How many layers the weights of these names stand in."""
    numbers = [int(found.group(1)) for name in names if (found := LAYER.search(name))]
    if not numbers:
        reason = "this architecture's layers are not known here"
        raise BadInput([Problem("freeze, optimizer.layer_decay", None, reason, "Leave them out for this model.")])
    return max(numbers) + 1


def layer_modules(model: nn.Module) -> list[nn.Module]:
    """The layers themselves, from the bottom; both stacks where there are an encoder and a decoder."""
    stacks = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and STACK.search(name) and not LAYER.search(f"{_plain(name)}.")
    ]
    return [layer for stack in stacks for layer in stack]


def _plain(name: str) -> str:
    """The name without what torch.compile puts in."""
    return name.replace("_orig_mod.", "")


def _depth(name: str, head: int) -> int:
    found = LAYER.search(name)
    if found is not None:
        return int(found.group(1)) + 1
    return 0 if EMBEDDING.search(name) else head
