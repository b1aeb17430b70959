"""Models: new ones from a shape in the recipe, and existing ones from a name, a directory or a step."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from cluster import storage
from cluster.artifact import Artifact
from jobs.core.config import BadInput, Config, Problem
from jobs.data.samples import find_sample
from jobs.data.sources import model_directory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROBERTA_OFFSET = 2
"""RoBERTa's first positions are never used: it counts from its padding id on."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class Shape(Config):
    """A new model's architecture and size."""

    architecture: Literal["bert", "roberta"] = "bert"
    """The transformers architecture."""
    layers: int = Field(4, ge=1)
    """Transformer layers."""
    hidden: int = Field(256, ge=16)
    """Width of the hidden states."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide hidden."""
    feed_forward: int | None = Field(None, ge=16)
    """Width of the feed-forward layers (default: 4 × hidden)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of hidden states and attention."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "Shape":
        if self.hidden % self.heads:
            raise ValueError(f"{self.heads} heads do not divide hidden {self.hidden}")
        return self


def new_masked_model(shape: Shape, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> "PreTrainedModel":
    """A masked language model with fresh weights."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    offset = ROBERTA_OFFSET if shape.architecture == "roberta" else 0
    config = AutoConfig.for_model(
        shape.architecture,
        vocab_size=len(tokenizer),
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward or 4 * shape.hidden,
        hidden_dropout_prob=shape.dropout,
        attention_probs_dropout_prob=shape.dropout,
        max_position_embeddings=max_length + offset,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=2 if shape.architecture == "bert" else 1,
    )
    return AutoModelForMaskedLM.from_config(config, attn_implementation=training_attention())


def training_attention() -> str:
    """The attention that trains fastest here: on CPUs the fused one's backward pass is the slower of the two."""
    import torch

    return "sdpa" if torch.cuda.is_available() else "eager"


def load_classifier(
    origin: str | Artifact, labels: Sequence[str], dropout: float | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A model with a classification head for these labels (new unless it was trained for them), and its tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = str(origin.local()) if isinstance(origin, Artifact) else model_directory(origin)
    changed = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = AutoModelForSequenceClassification.from_pretrained(
        directory,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        ignore_mismatched_sizes=True,
        dtype="float32",
        attn_implementation=training_attention(),
        **changed,
    )
    return model, AutoTokenizer.from_pretrained(directory)


def check_length(origin: str | Artifact, max_length: int) -> None:
    """BadInput where texts may have more tokens than the model has positions; no weights are loaded."""
    from transformers import AutoConfig

    place = str(origin.local(["config.json"])) if isinstance(origin, Artifact) else model_directory(origin)
    config = AutoConfig.from_pretrained(place)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and "roberta" in config.model_type:
        positions -= ROBERTA_OFFSET
    if positions is not None and max_length > positions:
        reason = f"the base, {origin.manifest.step if isinstance(origin, Artifact) else origin}, has {positions} positions"
        raise BadInput([Problem("max_length", max_length, reason, f"Lower it to {positions}, or pretrain on longer rows.")])


def check_model(model: str, path: str) -> list[Problem]:
    """What is wrong with a model named in a recipe; a hub's name is only known when it is fetched."""
    if model.startswith("sample:"):
        try:
            find_sample(model.removeprefix("sample:"))
        except BadInput as error:
            return [Problem(path, model, p.reason, p.remedy) for p in error.problems]
        return []
    if not _is_directory_name(model):
        return []
    if not storage.is_local(model):
        return [Problem(path, model, "a model is loaded from a local directory or a hub", "Copy it to the nodes' disks.")]
    if not storage.exists(model):
        return [Problem(path, model, "no such directory", "Check the path, or give a hub's name or sample:NAME.")]
    names = {stat.path for stat in storage.list_files(model)}
    if "config.json" not in names:
        return [Problem(path, model, "the directory has no config.json", "Give a directory that save_pretrained wrote.")]
    if not names & set(WEIGHTS):
        return [Problem(path, model, f"the directory has no weights ({WEIGHTS[0]})", "Save the model with its weights.")]
    return []


def _is_directory_name(model: str) -> bool:
    """Hub names are `name` or `owner/name`; everything else, and whatever exists here, is a path."""
    return model.startswith((".", "/", "~")) or "://" in model or model.count("/") > 1 or Path(model).exists()
