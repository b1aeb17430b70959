"""How long a model's texts may be: what its own embedding of positions holds, and what it has learned to read.

longest_text(model)                    # of a model that is there
longest_of_config(config)              # the same without its weights
Reach("base", longest_of_config(config), trained=128).length(None)
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.architectures.padding import has_embedding
from jobs.core.config import BadInput, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


LENGTH = 128
"""Tokens at which texts are cut where neither the recipe nor the model says how many."""


@dataclass(frozen=True)
class Reach:
    """How far a model can read; None where nothing bounds it, or it is not known yet."""

    named: str
    positions: int | None = None
    """The tokens that it can number, at most."""
    trained: int | None = None
    """The tokens of the longest texts that it has learned from."""
    answers: bool = True
    """Whether it answers for a task, about texts of that length."""

    @property
    def usual(self) -> int:
        """At how many tokens texts are cut for a model made from it, where nobody says."""
        wanted = self.trained or LENGTH
        return wanted if self.positions is None else min(wanted, self.positions)

    def length(self, asked: int | None) -> int:
        """At how many tokens they are cut where so many are asked for; BadInput for more than it can number."""
        if asked is None:
            return self.usual
        if (problem := self.too_long(asked)) is not None:
            raise BadInput([problem])
        return asked

    def too_long(self, asked: int) -> Problem | None:
        """Texts would have more tokens than their model can number."""
        if self.positions is None or asked <= self.positions:
            return None
        reason = f"the base, {self.named}, has {self.positions} positions"
        return Problem("max_length", asked, reason, f"Lower it to {self.positions}, or pretrain on longer rows.")

    def beyond_training(self, asked: int) -> Problem | None:
        """A model that answers would be published for longer texts than it has learned to read."""
        if not self.answers or self.trained is None or asked <= self.trained:
            return None
        reason = f"{self.named} was trained on texts of {self.trained} tokens at the most, and would be served for longer ones"
        return Problem("max_length", asked, reason, f"Leave it out, or train {self.named} with max_length: {asked}.")


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
