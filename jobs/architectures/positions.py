"""How long a text a model can read: what its own embedding of positions holds.

longest_text(model)                    # of a model that is there
longest_of_config(config)              # the same without its weights
"""

import copy
from typing import TYPE_CHECKING

from jobs.architectures.padding import has_embedding

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def first_position(model: "PreTrainedModel") -> int:
    """The number of a text's first token: RoBERTa and its kin, by whatever name, count on from their padding token's id."""
    from torch import nn

    embeddings = getattr(model.base_model, "embeddings", None)
    # XLM calls its table of words `embeddings`; the padding in that says nothing of positions.
    padding = None if isinstance(embeddings, nn.Embedding) else getattr(embeddings, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def longest_text(model: "PreTrainedModel") -> int | None:
    """How many tokens the model can number; None where their number is not bounded."""
    named = named_positions(model.config)
    return None if named is None else named - first_position(model)


def longest_of_config(config: "PreTrainedConfig") -> int | None:
    """The same of a model with this config, which is built without weights: only its code knows where it counts from."""
    import torch
    from transformers import AutoModel

    if named_positions(config) is None:
        return None
    config = copy.deepcopy(config)
    if not has_embedding(config.pad_token_id, config):
        config.pad_token_id = None
    with torch.device("meta"):
        return longest_text(AutoModel.from_config(config))


def named_positions(config: "PreTrainedConfig") -> int | None:
    """The positions that the config names, those included that no text gets."""
    named = getattr(config, "max_position_embeddings", None)
    return int(named) if named is not None and named > 0 else None
