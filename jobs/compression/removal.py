"""What a recipe says of taking things out of a model; no torch in here.

prune: {feed_forward: 0.33, layers: 2, steps: 3}
vocabulary: used
factorize: {energy: 0.9}
"""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from jobs.core.config import Config

Measure = Literal["taylor", "magnitude"]
ROUNDED_TO = 16
"""Kept neurons are a multiple of this: matrix kernels work in blocks."""


def kept_neurons(width: int, share_removed: float) -> int:
    """How many of a layer's neurons stay."""
    return min(width, max(ROUNDED_TO, round(width * (1 - share_removed) / ROUNDED_TO) * ROUNDED_TO))


class Prune(Config):
    """What is taken out. Feed-forward neurons, heads and layers really go: what is left is a smaller stock model."""

    feed_forward: float = Field(0.0, ge=0, lt=1)
    """Share of each layer's feed-forward neurons to remove, the least important ones."""
    heads: float = Field(0.0, ge=0, lt=1)
    """Share of each attention's heads to remove, where the architecture's config can say it (llama, mistral, qwen2, qwen3, t5,
    mt5); heads that share keys and values go together."""
    layers: float = Field(0.0, ge=0)
    """Layers to remove, the least important ones: a number, or a share below 1. t5 loses so many in each of its stacks."""
    weights: float = Field(0.0, ge=0, lt=1)
    """Share of the weights of each matrix in the layers to set to 0, the smallest ones (unstructured). Smaller only after
    compression (gzip), not in memory, and no faster."""
    importance: Measure = "taylor"
    """taylor: how much the loss would rise without it, to first order (Molchanov et al. 2017); magnitude: the length of its
    weights, which needs no data. Single weights always go by magnitude."""
    steps: int = Field(1, ge=1)
    """Remove in so many steps, each followed by healing: equal parts, but weights by the cubic schedule (Zhu & Gupta 2017)."""
    calibration_batches: int = Field(16, ge=1)
    """Training batches over which importance is measured, at each step."""

    @field_validator("layers")
    @classmethod
    def _whole_number(cls, layers: float) -> float:
        if layers >= 1 and not layers.is_integer():
            raise ValueError("a number of layers is whole, and a share of them is below 1")
        return layers

    @model_validator(mode="after")
    def _something_in_steps(self) -> "Prune":
        if self.steps > 1 and not self.asked:
            raise ValueError("steps are for something to remove: give feed_forward, heads, layers or weights")
        return self

    @property
    def asked(self) -> bool:
        """Whether anything is to be taken out."""
        return max(self.feed_forward, self.heads, self.layers, self.weights) > 0


class Factorize(Config):
    """Matrices of the layers become products of two thin ones (singular value decomposition), in the exported variants."""

    energy: float = Field(0.9, gt=0, lt=1)
    """Each matrix keeps as many singular values as hold this share of the sum of their squares; a matrix that two would not
    make smaller stays."""
