"""What a recipe says of a model that is there already: a part of it, adapters beside its weights. No torch in here."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from jobs.core.config import Config


class Adapter(Config):
    """Low-rank adapters (LoRA) that learn in place of the weights, and are merged into them when published."""

    rank: int = Field(8, ge=1)
    """Rank of the learned difference of each weight matrix."""
    alpha: float | None = Field(None, gt=0)
    """The difference is scaled by alpha / rank (default: 2 × rank)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapters."""
    targets: Literal["attention", "all"] | tuple[str, ...] = "attention"
    """attention: the projections that are usual for the architecture; all: every linear layer; or names of layers."""


class StudentInitialisation(Config):
    """What of a base makes the student."""

    every: int | None = Field(None, ge=2)
    """Every so many layers: 0, every, 2 × every, …"""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Or these, counted from 0 at the bottom; all of them where neither is given."""
    feed_forward: float = Field(0.0, ge=0, lt=1)
    """Share of each layer's feed-forward neurons that are taken out before training, those that the loss would miss least
    (first order, as prune in compress)."""
    weights: Literal["copied", "random"] = "copied"
    """random: a new model of this shape, the control that shows what the base's pretraining is worth."""

    @model_validator(mode="after")
    def _one_way(self) -> "StudentInitialisation":
        if self.every is not None and self.layers is not None:
            raise ValueError("give either every or layers")
        if not (self.every or self.layers or self.feed_forward or self.weights == "random"):
            raise ValueError("give every, layers, feed_forward or weights: else the student is the base itself")
        if self.layers is not None and (self.layers[0] < 0 or any(a >= b for a, b in pairwise(self.layers))):
            raise ValueError("layers are counted from 0 at the bottom and named in their order, each once")
        return self
