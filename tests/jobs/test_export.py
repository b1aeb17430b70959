"""Which architectures are exported, each checked against torch. `pytest tests/jobs/test_export.py`"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from jobs.compression.export import ExportError, Signature, export_onnx
from serve.backends import HIDDEN

COMMON: dict[str, Any] = {
    "vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 64, "initializer_range": 0.2, "num_labels": 3, "pad_token_id": 0,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "albert": COMMON | {"embedding_size": 16},
    "distilbert": {
        "vocab_size": 200, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64,
        "initializer_range": 0.2, "num_labels": 3, "pad_token_id": 0,
    },
    "modernbert": COMMON | {
        "global_attn_every_n_layers": 2, "local_attention": 8, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "deberta-v2": COMMON | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "type_vocab_size": 0, "position_biased_input": False,
    },
    "mpnet": COMMON,
    "gpt2": {
        "vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.2,
        "num_labels": 3, "pad_token_id": 0,
    },
}  # fmt: skip


def classifier(architecture: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SIZES[architecture])
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("architecture", SIZES)
def test_an_exported_classifier_agrees_with_torch_alone_and_in_padded_batches(architecture: str, tmp_path: Path) -> None:
    """A decoder too: it finds the end of a text by the padding."""
    assert export_onnx(classifier(architecture), tmp_path / "model.onnx") < 1e-4


@pytest.mark.parametrize("architecture", ["distilbert", "gpt2"])
def test_hidden_states_are_exported_too_and_agree_with_torch(architecture: str, tmp_path: Path) -> None:
    model = classifier(architecture)
    assert export_onnx(model, tmp_path / "model.onnx", Signature(hidden_states=True)) < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    ids_BT = np.arange(5, 15).reshape(2, 5)
    logits_BC, states_BTD = session.run(["logits", HIDDEN], {"input_ids": ids_BT, "attention_mask": np.ones_like(ids_BT)})
    assert (logits_BC.shape, states_BTD.shape) == ((2, 3), (2, 5, 32))


def test_what_torch_cannot_export_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("\n  a branch depends on data\n  long traceback")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        ExportError, match=r"cannot export a MPNetForSequenceClassification \(a branch depends on data\); serve the torch"
    ):
        export_onnx(classifier("mpnet"), tmp_path / "model.onnx")
