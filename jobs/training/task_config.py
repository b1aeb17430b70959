"""What is trained on a task, whatever teaches it: its settings, its base with a head, and the same with random weights.

model, tokenizer = base_model(config, inputs, spec_of(inputs.one("examples")))
model = adapted(config, model)                  # with adapters, where the recipe asks for them
"""

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from cluster.store.artifact import Artifact
from jobs.architectures.models import check_model, check_tokenizer
from jobs.architectures.settings import Adapter
from jobs.core.config import BadInput, Problem
from jobs.core.idle import Rule
from jobs.core.stage import Inputs
from jobs.data.sources import model_fingerprint
from jobs.tasks import spec_of
from jobs.tasks.heads import load_head, new_head
from jobs.training.settings import RULES, Freeze, Training
from serve.tasks.protocol import Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TaskConfig(Training):
    """What is trained on a task; distillation shares it."""

    model: str | None = None
    """The base: sample:NAME, a directory or a hub's name; leave it out where inputs.init names a step."""
    max_length: int | None = Field(None, ge=8)
    """Longer texts are cut to so many tokens (default: as many as the base was trained with; 128 at most where it comes from
    outside and does not say)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout in place of the base's own, everywhere in it."""
    adapter: Adapter | None = None
    """Train low-rank adapters (LoRA) and the head instead of all weights."""

    @model_validator(mode="after")
    def _one_way_of_freezing(self) -> "TaskConfig":
        if self.adapter is not None and self.freeze != Freeze():
            raise ValueError("adapter freezes all weights of the base: leave out freeze")
        return self


TASK_RULES = (
    *RULES,
    Rule("model", (), lambda _, inputs: "init" not in inputs, "inputs.init names the base already", "Leave out one of them."),
)
"""What keys of `TaskConfig` need to do something."""


def sources(config: TaskConfig) -> dict[str, str]:
    """The fingerprint of the model from outside."""
    return {} if config.model is None else {"model": model_fingerprint(config.model)}


def check(config: TaskConfig) -> list[Problem]:
    """A model that is not there, has no weights, or nothing to fill short rows with."""
    if config.model is None:
        return []
    return check_model(config.model, "model") or check_tokenizer(config.model, "model")


def base_origin(config: TaskConfig, inputs: Inputs) -> str | Artifact:
    """Where the base comes from; BadInput unless exactly one is given."""
    base = inputs.maybe("init")
    if (base is None) == (config.model is None):
        raise BadInput([Problem("model", config.model, "a base comes from model or from inputs.init", "Give one of them.")])
    return base if base is not None else str(config.model)


def base_model(config: TaskConfig, inputs: Inputs, spec: Task) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The base with a head for this task, and its tokenizer."""
    return load_head(base_origin(config, inputs), spec, config.dropout)


def adapted(config: TaskConfig, model: "PreTrainedModel") -> "nn.Module":
    """The model with adapters, where the recipe asks for them."""
    if config.adapter is None:
        return model
    from jobs.architectures.adapter import add_adapter

    return add_adapter(model, config.adapter)


def shape(config: TaskConfig, inputs: Inputs) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The base with random weights."""
    return new_head(base_origin(config, inputs), spec_of(inputs.one("examples")))
