"""Existing models, from a name, a directory or a step (new ones: jobs/objectives/architectures.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster import storage
from cluster.artifact import Artifact
from jobs.core.config import BadInput, Problem
from jobs.data.samples import find_sample
from jobs.data.sources import model_directory

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ROBERTA_OFFSET = 2
"""RoBERTa's first positions are never used: it counts from its padding id on."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def training_attention() -> str:
    """The attention that trains fastest here: on CPUs the fused one's backward pass is the slower of the two."""
    import torch

    return "sdpa" if torch.cuda.is_available() else "eager"


def load_classifier(
    origin: str | Artifact, labels: Sequence[str], dropout: float | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A model with a head for these labels, and its tokenizer. The head is a new one unless it was trained for them."""
    from transformers import AutoModelForSequenceClassification

    directory = _directory_of(origin)
    config, tokenizer, known = _plan(directory, labels)
    if dropout is not None:
        set_dropout(config, dropout)
    model = AutoModelForSequenceClassification.from_pretrained(
        directory,
        config=config,
        ignore_mismatched_sizes=True,
        dtype="float32",
        attn_implementation=training_attention(),
    )
    if not known:
        for part in model.children():
            if part is not model.base_model:
                # As many labels may mean others: their head would be a wrong start.
                for weight in part.parameters():
                    weight._is_hf_initialized = False
                part.apply(model._init_weights)
    return model, tokenizer


def new_classifier(origin: str | Artifact, labels: Sequence[str]) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The same model with random weights; the origin's are not even read."""
    from transformers import AutoModelForSequenceClassification

    config, tokenizer, _ = _plan(_directory_of(origin), labels)
    return AutoModelForSequenceClassification.from_config(config).eval(), tokenizer


def _directory_of(origin: str | Artifact) -> str:
    return str(origin.local()) if isinstance(origin, Artifact) else model_directory(origin)


def _plan(directory: str, labels: Sequence[str]) -> tuple["PreTrainedConfig", "PreTrainedTokenizerBase", bool]:
    """The config for these labels, the tokenizer, and whether the model was trained for just these labels."""
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    known = list(config.id2label.values()) == list(labels)
    config.id2label, config.label2id = dict(enumerate(labels)), {label: number for number, label in enumerate(labels)}
    config.pad_token_id = tokenizer.pad_token_id
    return config, tokenizer, known


def language_kind(config: "PreTrainedConfig") -> Literal["causal", "span_corruption"] | None:
    """Whether a model of this config writes text, by the objective that it learned; None where it does not."""
    from transformers.models.auto import modeling_auto as auto

    made = set(getattr(config, "architectures", None) or ())
    if made & set(auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values()):
        return "span_corruption"
    return "causal" if made & set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) else None


def set_dropout(config: "PreTrainedConfig", dropout: float) -> None:
    """The same dropout for each kind of it that the architecture has, whatever its key is called."""
    for key, value in config.to_dict().items():
        if "drop" in key and "layer" not in key and "path" not in key and isinstance(value, int | float):
            setattr(config, key, dropout)


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
