"""New language models: an architecture and a size from the recipe, under the names that transformers has for them.

    model = new_model(NewModelConfig(architecture="gpt2", layers=4), "causal", tokenizer, max_length=128)

Importing it needs no torch: it is part of the recipe's types.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from jobs.architectures.language_models import AUTO_CLASSES
from jobs.architectures.models import training_attention
from jobs.architectures.positions import longest_of_config
from jobs.core.config import Config
from serve.engines.card import ObjectiveName

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Architecture = Literal["bert", "roberta", "distilbert", "electra", "modernbert", "gpt2", "llama", "qwen3", "t5"]

ENCODERS = ("bert", "roberta", "distilbert", "electra", "modernbert")
ARCHITECTURES_BY_OBJECTIVE: dict[str, tuple[str, ...]] = {
    "masked": ENCODERS,
    "masked_next_sentence": ("bert",),
    "masked_sentence_order": ("bert",),
    "causal": ("gpt2", "llama", "qwen3"),
    "span_corruption": ("t5",),
}
"""The architectures that a new model for each objective may have."""
ROBERTA_FIRST = 2
"""The number of a text's first token in the published RoBERTa, whose padding id is 1; for higher ones rows are added."""


class NewModelConfig(Config):
    """A new model's architecture and size."""

    architecture: Architecture = "bert"
    """The transformers architecture: bert, roberta, distilbert, electra, modernbert to predict hidden tokens; gpt2, llama,
    qwen3 the next one; t5 spans."""
    layers: int = Field(4, ge=1)
    """Transformer layers; t5 has so many in its encoder and as many in its decoder."""
    hidden: int = Field(256, ge=16)
    """Width of the hidden states."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide hidden."""
    feed_forward: int | None = Field(None, ge=16)
    """Width of the feed-forward layers (default: 4 × hidden)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of hidden states and attention; llama and qwen3 have it in attention alone."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "NewModelConfig":
        if self.hidden % self.heads:
            raise ValueError(f"{self.heads} heads do not divide hidden {self.hidden}")
        if self.architecture in ("modernbert", "llama", "qwen3") and self.hidden // self.heads % 2:
            raise ValueError(f"{self.architecture} turns pairs of a head's numbers: hidden / heads must be even")
        return self


def new_model(
    shape: NewModelConfig, objective: ObjectiveName, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> "PreTrainedModel":
    """A model with fresh weights and the objective's head; it can take rows of `max_length` tokens."""
    import transformers

    begin = _first(tokenizer.bos_token_id, tokenizer.cls_token_id)
    end = _first(tokenizer.eos_token_id, tokenizer.sep_token_id)
    named = _NAMES[shape.architecture](shape, shape.feed_forward or 4 * shape.hidden, max_length)
    if shape.architecture == "modernbert":
        named |= {"cls_token_id": begin, "sep_token_id": end}
    config = transformers.AutoConfig.for_model(
        shape.architecture,
        vocab_size=len(tokenizer),
        pad_token_id=_first(tokenizer.pad_token_id, end),
        bos_token_id=begin,
        eos_token_id=end,
        **named,
    )
    if shape.architecture == "roberta":
        config.max_position_embeddings += max(0, max_length - (longest_of_config(config) or max_length))
    if shape.architecture == "t5":
        config.decoder_start_token_id = config.pad_token_id
    made = getattr(transformers, AUTO_CLASSES[objective])
    return made.from_config(config, attn_implementation=training_attention())


def _first(*numbers: int | None) -> int | None:
    return next((number for number in numbers if number is not None), None)


def _bert(shape: NewModelConfig, feed_forward: int, positions: int) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": feed_forward,
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.dropout,
        "max_position_embeddings": positions,
    }


def _roberta(shape: NewModelConfig, feed_forward: int, positions: int) -> dict[str, Any]:
    return _bert(shape, feed_forward, positions + ROBERTA_FIRST) | {"type_vocab_size": 1}


def _electra(shape: NewModelConfig, feed_forward: int, positions: int) -> dict[str, Any]:
    return _bert(shape, feed_forward, positions) | {"embedding_size": shape.hidden}


def _distilbert(shape: NewModelConfig, feed_forward: int, positions: int) -> dict[str, Any]:
    return {
        "dim": shape.hidden,
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "hidden_dim": feed_forward,
        "dropout": shape.dropout,
        "attention_dropout": shape.dropout,
        "max_position_embeddings": positions,
    }


def _modernbert(shape: NewModelConfig, feed_forward: int, positions: int) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": feed_forward,
        "embedding_dropout": shape.dropout,
        "mlp_dropout": shape.dropout,
        "attention_dropout": shape.dropout,
        "max_position_embeddings": positions,
    }


def _gpt2(shape: NewModelConfig, feed_forward: int, positions: int) -> dict[str, Any]:
    return {
        "n_embd": shape.hidden,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_inner": feed_forward,
        "resid_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": shape.dropout,
        "n_positions": positions,
    }


def _llama(shape: NewModelConfig, feed_forward: int, positions: int) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.hidden // shape.heads,
        "intermediate_size": feed_forward,
        "attention_dropout": shape.dropout,
        "max_position_embeddings": positions,
        "tie_word_embeddings": True,  # in small models the vocabulary is much of the weight
    }


def _t5(shape: NewModelConfig, feed_forward: int, positions: int) -> dict[str, Any]:
    return {
        "d_model": shape.hidden,
        "num_layers": shape.layers,
        "num_decoder_layers": shape.layers,
        "num_heads": shape.heads,
        "d_kv": shape.hidden // shape.heads,
        "d_ff": feed_forward,
        "dropout_rate": shape.dropout,
    }


_NAMES: dict[str, Callable[[NewModelConfig, int, int], dict[str, Any]]] = {
    "bert": _bert,
    "roberta": _roberta,
    "electra": _electra,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    "gpt2": _gpt2,
    "llama": _llama,
    "qwen3": _llama,
    "t5": _t5,
}
