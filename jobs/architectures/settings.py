"""What a recipe says of a model's shape: a part of one that is there already, adapters beside its weights, or a bag of
features that is no transformer. No torch in here."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

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


class LinearFit(Config):
    """How a linear model of words and characters is fitted."""

    strength: float | None = Field(None, gt=0)
    """The inverse of the regularisation, as scikit-learn's C (default: the best of a few on the validation split)."""
    megabytes: float = Field(20.0, gt=0)
    """What the published model may take at most; of more features those stay along which the loss falls steepest."""


class LinearStudent(LinearFit):
    """A student that is a linear model of words and characters."""

    kind: Literal["linear"]
    """linear: weights for words and characters in a row, and nothing else."""


class StaticStudent(Config):
    """A student that has a vector a token and a small head."""

    kind: Literal["static"]
    """static: a vector a token, whose mean a small head reads."""


BAG_STUDENTS = (LinearStudent, StaticStudent)
"""Students that are bags of features, and no transformers."""
PART = "part"


def _student_kind(raw: Any) -> Any:
    """A part of a base names no kind."""
    return raw.get("kind", PART) if isinstance(raw, Mapping) else getattr(raw, "kind", PART)


Student = Annotated[
    Annotated[StudentInitialisation, Tag(PART)]
    | Annotated[LinearStudent, Tag("linear")]
    | Annotated[StaticStudent, Tag("static")],
    Discriminator(
        _student_kind,
        custom_error_type="kind",
        custom_error_message="There is no such kind of student. Known here: linear, static; a part of a base names none",
    ),
]
"""What a student may be: told apart by `kind`."""
