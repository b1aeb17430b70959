"""What a recipe says of distillation: which losses, how they are weighed, how that changes over a run. No torch in here.

loss: forward_kl
temperature: 4
temperature_end: 1                                        # moves there over the run
match:
  last: {what: hidden, student: -1, teacher: -1}          # the last layers' hidden states
  values: {what: value_relation, relation_heads: 12, weight: 0.5}
"""

import math
from typing import Literal

from pydantic import Field, model_validator

from jobs.core.config import Config
from jobs.core.idle import Rule

What = Literal["hidden", "embedding", "attention", "query_key", "value_relation"]
Compared = Literal["mse", "cosine", "kl"]
Annealing = Literal["linear", "cosine"]

STATE_COMPARISONS: dict[str, tuple[Compared, ...]] = {
    "hidden": ("mse", "cosine"),
    "embedding": ("mse", "cosine"),
    "attention": ("mse", "kl"),
    "query_key": ("kl", "mse"),
    "value_relation": ("kl", "mse"),
}
"""What each kind of inner state may be compared by, its usual way first."""


class Mix(Config):
    """How the teacher's answers and the labels are weighed."""

    loss: str | None = None
    """How the answers are compared; each kind of task has its own ways, and a usual one. Of labels, forward_kl (usual): cover
    what the teacher holds likely. reverse_kl: avoid what it holds unlikely. symmetric_kl: both. skewed_kl and
    jensen_shannon: bounded ones. mse: of the logits, whatever the temperature. Of several labels a text and of
    labels in an order, sigmoid_kl (usual) and mse. Of numbers, mse (usual) and huber; no temperature softens these."""
    skew: float = Field(0.1, gt=0, lt=1)
    """skewed_kl: the teacher's share in what it is compared with."""
    temperature: float = Field(2.0, gt=0, le=100)
    """Both sides' logits are divided by it before they are compared; higher shows more of the unlikely labels."""
    temperature_end: float | None = Field(None, gt=0, le=100)
    """The temperature moves to this over the run (default: it stays)."""
    alpha: float = Field(0.9, ge=0, le=1)
    """Weight of the teacher's answers; the labels have the rest."""
    alpha_end: float | None = Field(None, ge=0, le=1)
    """Alpha moves to this over the run (default: it stays)."""
    annealing: Annealing = "linear"
    """How temperature, alpha and the weights of match move to their ends: in a line, or along half a cosine."""


MIX_RULES = (
    Rule(
        "skew",
        ("loss",),
        lambda config, _: config.loss == "skewed_kl",
        "only skewed_kl has it",
        "Leave it out, or use skewed_kl.",
    ),
    *(
        Rule(
            key,
            ("loss",),
            lambda config, _: config.loss != "mse",
            "mse compares the logits themselves, whatever the temperature",
            "Leave it out, or use another loss.",
        )
        for key in ("temperature", "temperature_end")
    ),
    Rule(
        "annealing",
        ("temperature_end", "alpha_end", "match"),
        lambda config, _: any(end is not None for end in _ends(config)),
        "nothing moves over the run",
        "Give temperature_end, alpha_end or a match's weight_end, or leave it out.",
    ),
)
"""What keys of `Mix` need to do something."""


def _ends(config: Mix) -> list[float | None]:
    matches: dict[str, Match] = getattr(config, "match", {})
    return [config.temperature_end, config.alpha_end, *(match.weight_end for match in matches.values())]


class TokenMix(Config):
    """How a language model's teacher and the text are weighed; the temperature is that at which the teacher was asked."""

    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the teacher's likeliest tokens; the text's own have the rest."""
    alpha_end: float | None = Field(None, ge=0, le=1)
    """Alpha moves to this over the run (default: it stays)."""
    annealing: Annealing = "linear"
    """How it moves: in a line, or along half a cosine."""


class Match(Config):
    """One inner state of the student that is to be like one of the teacher's."""

    what: What
    """hidden: a layer's output. embedding: what the first layer reads. attention: each head's scores. query_key and
    value_relation: scores of queries and keys, and of values among themselves, cut anew into relation heads (MiniLM)."""
    student: int = -1
    """The student's layer: 0 is the lowest, -1 the topmost; for embedding it has no meaning."""
    teacher: int = -1
    """The teacher's layer, counted alike."""
    loss: Compared | None = None
    """mse, cosine (hidden, embedding) or kl (attention, query_key, value_relation); default: mse, for query_key and
    value_relation kl."""
    weight: float = Field(1.0, ge=0)
    """What it counts beside the loss of the answers."""
    weight_end: float | None = Field(None, ge=0)
    """The weight moves to this over the run (default: it stays)."""
    relation_heads: int | None = Field(None, ge=1)
    """query_key, value_relation: heads that both sides are cut into (default: the teacher's own)."""

    @model_validator(mode="after")
    def _goes_together(self) -> "Match":
        if self.compared not in STATE_COMPARISONS[self.what]:
            raise ValueError(f"{self.what} is compared by {' or '.join(STATE_COMPARISONS[self.what])}, not by {self.compared}")
        if self.relation_heads is not None and self.what not in ("query_key", "value_relation"):
            raise ValueError(f"relation_heads is for query_key and value_relation; {self.what} has none")
        if self.what == "embedding" and (self.student, self.teacher) != (-1, -1):
            raise ValueError("a model has one embedding: leave out student and teacher")
        return self

    @property
    def compared(self) -> Compared:
        """The loss that is meant."""
        return self.loss or STATE_COMPARISONS[self.what][0]


def annealed(start: float, end: float | None, how: Annealing, progress: float) -> float:
    """A value on its way over a run: at progress 0 its start, at 1 its end; where it has no end, it stays."""
    if end is None:
        return start
    share = progress if how == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return start + (end - start) * share
