"""Small models of every architecture that can be pruned, with weights that differ everywhere; and what they say.

model = small_model("gpt2")
logits(model, *padded())
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from jobs.contracts.learning import Batch
from tests.jobs.tiny import random_ids

VOCABULARY, HIDDEN, WIDTH, HEAD = 120, 32, 64, 8
_BERT: dict[str, Any] = {
    "hidden_size": HIDDEN, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": WIDTH,
    "max_position_embeddings": 64,
}  # fmt: skip
_LLAMA: dict[str, Any] = {**_BERT, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": HEAD}
_T5: dict[str, Any] = {
    "d_model": HIDDEN, "d_kv": HEAD, "d_ff": WIDTH, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": {**_BERT, "embedding_size": 16},
    "distilbert": {"dim": HIDDEN, "n_layers": 3, "n_heads": 4, "hidden_dim": WIDTH, "max_position_embeddings": 64},
    "modernbert": {
        **_BERT, "num_hidden_layers": 4, "local_attention": 4, "cls_token_id": 1, "sep_token_id": 2,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    },
    "gpt2": {"n_embd": HIDDEN, "n_layer": 3, "n_head": 4, "n_inner": WIDTH, "n_positions": 64},
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "num_attention_heads": 6, "num_key_value_heads": 3},
    "qwen2": {key: value for key, value in _LLAMA.items() if key != "head_dim"} | {"num_key_value_heads": 4},
    "qwen3": {
        **_LLAMA, "num_attention_heads": 6, "num_key_value_heads": 3, "use_sliding_window": True, "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "t5": _T5,
    "t5-gated": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu"},
}  # fmt: skip
SEQ2SEQ = ("t5", "t5-gated", "mt5")


def auto_class(architecture: str, task: str = "SequenceClassification") -> Any:
    """transformers' own loader for this kind of model."""
    return getattr(transformers, f"AutoModelFor{'Seq2SeqLM' if architecture in SEQ2SEQ else task}")


def small_model(architecture: str, task: str = "SequenceClassification", **more: Any) -> PreTrainedModel:
    """A model with no weight at its initial 0 or 1, so that a bias or a norm that is cut wrongly shows."""
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": VOCABULARY, "num_labels": 3, **special, **SIZES[architecture], **more}
    config = AutoConfig.for_model(architecture.removesuffix("-gated"), **sizes)
    model = auto_class(architecture, task).from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn_like(weight) * 0.1
    return model


def padded(vocabulary: int = VOCABULARY) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of rows of different lengths."""
    ids_BT = random_ids(5, 12, vocabulary)
    mask_BT = (torch.arange(12)[None] < torch.tensor([12, 3, 7, 1, 12])[:, None]).long()
    return ids_BT.where(mask_BT.bool(), torch.tensor(0)), mask_BT


def logits(model: PreTrainedModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """What the model says; an encoder-decoder reads the same on both sides."""
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids_BT
    return model(**inputs).logits


def reloaded(model: PreTrainedModel, architecture: str, place: Path, task: str = "SequenceClassification") -> PreTrainedModel:
    """What stock `from_pretrained` makes of the model; it must find exactly the weights that it wants."""
    model.save_pretrained(place)
    loaded, found = auto_class(architecture, task).from_pretrained(
        place, attn_implementation="eager", output_loading_info=True
    )
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    return loaded.eval()


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


class Squares:
    """A loss without labels: the logits' squares."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        assert isinstance(model, PreTrainedModel)
        return logits(model, batch["input_ids"], batch["attention_mask"]).square().sum()


SQUARES: Any = Squares()
"""As much of an objective as importance needs."""


def squares_batches() -> list[Batch]:
    ids_BT, mask_BT = padded()
    return [{"input_ids": ids_BT[:3], "attention_mask": mask_BT[:3]}, {"input_ids": ids_BT[3:], "attention_mask": mask_BT[3:]}]
