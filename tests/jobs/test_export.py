"""Which architectures are exported, each checked against torch. `pytest tests/jobs/test_export.py`"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from jobs.architectures.models import READ
from jobs.compression.export import ExportError, Signature, check_parity, export_onnx
from serve.engines.backends import HIDDEN
from tests.jobs.tiny import tiny_classifier

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


def test_a_graph_reads_which_text_a_token_is_of_where_the_model_was_shown_it(tmp_path: Path) -> None:
    """Checked against torch with both values; a graph that does not take them cannot have read them."""
    model = tiny_classifier("bert", 3, 200)
    with torch.no_grad():
        model.get_parameter("bert.embeddings.token_type_embeddings.weight").mul_(5)
    pairs = Signature(inputs=(*READ, "token_type_ids"))
    assert export_onnx(model, tmp_path / "pairs.onnx", pairs) < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "pairs.onnx"), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    ids_BT = np.arange(5, 15).reshape(1, 10)
    feeds = {"input_ids": ids_BT, "attention_mask": np.ones_like(ids_BT)}
    said = [session.run(None, {**feeds, "token_type_ids": np.full_like(ids_BT, kind)})[0] for kind in (0, 1)]
    assert np.abs(said[0] - said[1]).max() > 0.01
    graph = onnx.load(str(tmp_path / "pairs.onnx"))
    zeros = onnx.helper.make_node("Sub", ["token_type_ids", "token_type_ids"], ["no_types"])
    for node in graph.graph.node:
        node.input[:] = ["no_types" if name == "token_type_ids" else name for name in node.input]
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([zeros, *nodes])
    onnx.save(graph, str(tmp_path / "blind.onnx"))
    with pytest.raises(ExportError, match="do not serve it"):
        check_parity(model, tmp_path / "blind.onnx", pairs)


@pytest.mark.parametrize("architecture", ["distilbert", "modernbert"])
def test_what_runs_over_tokens_has_the_length_as_an_axis_and_is_compared_without_padding(
    architecture: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SIZES[architecture])
    model = AutoModelForTokenClassification.from_config(config).eval()
    tags = Signature(per_token=True, hidden_states=True)
    assert export_onnx(model, tmp_path / "model.onnx", tags) < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    axes = {node.name: node.shape for node in session.get_outputs()}
    assert {name: [type(axis) for axis in shape] for name, shape in axes.items()} == {
        "logits": [str, str, int],
        HIDDEN: [str, str, int],
    }
    assert axes["logits"][1] == axes[HIDDEN][1] == session.get_inputs()[0].shape[1]


def test_several_outputs_are_there_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model("bert", **COMMON | {"num_labels": 2})).eval()
    spans = Signature((*READ, "token_type_ids"), ("start_logits", "end_logits"), per_token=True)
    assert export_onnx(model, tmp_path / "model.onnx", spans) < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_outputs()] == ["start_logits", "end_logits"]
    graph, other = onnx.load(str(tmp_path / "model.onnx")), {"start_logits": "end_logits", "end_logits": "start_logits"}
    for node in graph.graph.node:
        node.output[:] = [other.get(name, name) for name in node.output]
    onnx.save(graph, str(tmp_path / "swapped.onnx"))
    with pytest.raises(ExportError, match="differ from torch"):
        check_parity(model, tmp_path / "swapped.onnx", spans)


def test_what_torch_cannot_export_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("\n  a branch depends on data\n  long traceback")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        ExportError, match=r"cannot export a MPNetForSequenceClassification \(a branch depends on data\); serve the torch"
    ):
        export_onnx(classifier("mpnet"), tmp_path / "model.onnx")
