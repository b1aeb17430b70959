"""An existing model with a head for a task: with its weights, or with random ones.

model, tokenizer = load_head("sample:minilm_l6", spec)
inputs_of(model, spec)                    # what it is to read of its tokens
"""

import inspect
from typing import TYPE_CHECKING, Any

from cluster.store.artifact import Artifact
from jobs.architectures.models import READ, base_in, directory_of, set_dropout, training_attention
from jobs.tasks import learning_of
from serve.tasks.protocol import Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_head(
    origin: str | Artifact, spec: Task, dropout: float | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A model with a head for this task, and its tokenizer. The head is a new one unless it was trained for the same."""
    directory = directory_of(origin)
    config, tokenizer, known = _plan(origin, directory, spec)
    if dropout is not None:
        set_dropout(config, dropout)
    model: Any = _loader(spec).from_pretrained(
        directory,
        config=config,
        ignore_mismatched_sizes=True,
        dtype="float32",
        attn_implementation=training_attention(),
    )
    if not known:
        for part in model.children():
            if part is not model.base_model:
                # One of the same size may mean something else, and would be a wrong start.
                for weight in part.parameters():
                    weight._is_hf_initialized = False
                part.apply(model._init_weights)
    return model, tokenizer


def new_head(origin: str | Artifact, spec: Task) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The same model with random weights; the origin's are not even read."""
    config, tokenizer, _ = _plan(origin, directory_of(origin), spec)
    return _loader(spec).from_config(config).eval(), tokenizer


def inputs_of(model: "nn.Module", spec: Task) -> tuple[str, ...]:
    """What a model is to read of its tokens: of several texts also which each belongs to, where it has learned to tell."""
    config: Any = getattr(model, "config", None)
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    if len(spec.fields) > 1 and takes and (getattr(config, "type_vocab_size", 0) or 0) > 1:
        return (*READ, "token_type_ids")
    return READ


def _loader(spec: Task) -> Any:
    import transformers

    return getattr(transformers, spec.auto_class)


def _plan(origin: str | Artifact, directory: str, spec: Task) -> tuple["PreTrainedConfig", "PreTrainedTokenizerBase", bool]:
    """The config for this task, the tokenizer, and whether the model was trained for just this task."""
    base, learning = base_in(origin, directory), learning_of(spec.kind)
    config = base.config
    task = base.learned.task
    known = learning.knows(spec, config) if task is None else task == spec
    for key, value in learning.head(spec).items():
        setattr(config, key, value)
    return config, base.tokenizer, known
