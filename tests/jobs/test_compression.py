"""Pruned models stay stock models, exported ones say what torch says. `pytest tests/jobs/test_compression.py`"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from jobs.compression.export import ExportError, check_parity, export_onnx
from jobs.compression.prune import feed_forward_layers, kept_neurons, neuron_importance, prune_feed_forward
from jobs.compression.quantize import quantize_dynamic_int8
from jobs.tasks.classification import Classification
from tests.jobs.tiny import LABELS, MAX_LENGTH, MESSAGES, publish_examples, random_ids, tiny_classifier

VOCABULARY = 200
HIDDEN, WIDTH, LAYERS = 32, 64, 2


def logits(model: PreTrainedModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids_BT, attention_mask=mask_BT).logits


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of rows of different lengths."""
    ids_BT = random_ids(6, 20, VOCABULARY)
    mask_BT = (torch.arange(20)[None] < torch.tensor([20, 3, 11, 20, 1, 8])[:, None]).long()
    return ids_BT, mask_BT


def importances(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(WIDTH, generator=generator) for _ in range(LAYERS)]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra"])
def test_pruning_takes_exactly_the_least_important_neurons(architecture: str, tmp_path: Path) -> None:
    model = tiny_classifier(architecture, 3, VOCABULARY)
    scores = importances()
    silenced = copy.deepcopy(model)
    for (up, down), score in zip(feed_forward_layers(silenced), scores, strict=True):
        gone = score.argsort()[: WIDTH - 48]
        with torch.no_grad():
            down.weight[:, gone] = 0
            up.weight[gone] = 7.0  # whatever they say, nobody listens
    before = sum(weight.numel() for weight in model.parameters())
    assert prune_feed_forward(model, scores, 0.25) == 48

    # A neuron has its row of the first matrix, its bias, and its column of the second.
    after = sum(weight.numel() for weight in model.parameters())
    assert before - after == LAYERS * 16 * (HIDDEN + 1 + HIDDEN)
    ids_BT, mask_BT = padded()
    wanted_BC = logits(silenced, ids_BT, mask_BT)
    assert (logits(model, ids_BT, mask_BT) - wanted_BC).abs().max() < 1e-5
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.intermediate_size == 48
    assert sum(weight.numel() for weight in loaded.parameters()) == after
    assert (logits(loaded, ids_BT, mask_BT) - wanted_BC).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("width", "share", "kept"), [(1024, 0.33, 688), (64, 0.25, 48), (64, 0.99, 16), (64, 0.0, 64), (1024, 0.5, 512)]
)
def test_kept_neurons_are_whole_blocks(width: int, share: float, kept: int) -> None:
    assert kept_neurons(width, share) == kept


def test_a_layer_narrower_than_a_block_stays() -> None:
    model = tiny_classifier("bert", 2, VOCABULARY)
    prune_feed_forward(model, importances(), 0.9)
    assert prune_feed_forward(model, [scores[:16] for scores in importances()], 0.9) == 16


def test_pruning_twice_goes_on_from_the_smaller_model() -> None:
    model = tiny_classifier("bert", 2, VOCABULARY)
    assert [prune_feed_forward(model, importances(), 0.5), model.config.intermediate_size] == [32, 32]
    assert prune_feed_forward(model, [scores[:32] for scores in importances()], 0.5) == 16


@pytest.mark.parametrize("architecture", ["distilbert", "gpt2"])
def test_architectures_laid_out_otherwise_are_refused_by_name(architecture: str) -> None:
    sizes: dict[str, Any] = {"distilbert": {"dim": 32, "n_heads": 2, "hidden_dim": 64, "n_layers": 2}}.get(
        architecture, {"n_embd": 32, "n_head": 2, "n_layer": 2}
    )
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(architecture, vocab_size=VOCABULARY, **sizes))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TypeError, match=f"does not know {architecture}; it knows bert, roberta, electra"):
        prune_feed_forward(model, importances(), 0.5)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_importance_finds_the_neurons_that_matter(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    examples = publish_examples(tmp_path, {"train": MESSAGES, "validation": MESSAGES[:8]})
    objective = Classification(examples, tokenizer, LABELS, MAX_LENGTH)
    model = tiny_classifier("bert", 2, len(tokenizer))
    deaf = torch.arange(0, WIDTH, 2)
    with torch.no_grad():
        for _, down in feed_forward_layers(model):
            down.weight[:, deaf] = 0
    batches = [objective.batch(np.arange(start, start + 16), (0,)) for start in (0, 16)]
    once = neuron_importance(model, objective, batches[:1])
    twice = neuron_importance(model, objective, batches)
    for first, both in zip(once, twice, strict=True):
        assert (first[deaf] == 0).all() and (first[1::2] > 0).all()
        assert (both >= first).all() and not torch.equal(both, first), "all batches count"
    ids_BT, mask_BT = padded()
    ids_BT = ids_BT.clamp(max=len(tokenizer) - 1)
    before = logits(model, ids_BT, mask_BT)
    prune_feed_forward(model, twice, 0.5)
    assert (logits(model, ids_BT, mask_BT) - before).abs().max() < 1e-5, "hooks are gone, and only the deaf went"
    assert all(weight.grad is None for weight in model.parameters())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    """A pruned BERT and its ONNX file."""
    model = tiny_classifier("bert", 3, 2000)
    prune_feed_forward(model, importances(), 0.25)
    file = tmp_path_factory.mktemp("exported") / "onnx" / "model.onnx"
    assert export_onnx(model, file) < 1e-4
    return model, file


def answer(file: Path, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": ids_BT.numpy(), "attention_mask": mask_BT.numpy()})[0]


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 64), (5, 33)])
def test_an_exported_model_agrees_at_shapes_that_the_export_did_not_check(
    exported: tuple[PreTrainedModel, Path], batch: int, length: int
) -> None:
    model, file = exported
    ids_BT, mask_BT = random_ids(batch, length, 2000), torch.ones(batch, length, dtype=torch.int64)
    mask_BT[1:, length // 2 :] = 0
    wanted_BC = logits(model, ids_BT, mask_BT).numpy()
    assert np.abs(wanted_BC).max() > 0.1
    assert np.abs(answer(file, ids_BT, mask_BT) - wanted_BC).max() < 1e-4


def test_an_exported_file_tells_nothing_of_the_host_that_made_it(exported: tuple[PreTrainedModel, Path]) -> None:
    content = exported[1].read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content and b"stack_trace" not in content


def test_a_roberta_is_exported_too(tmp_path: Path) -> None:
    assert export_onnx(tiny_classifier("roberta", 2, VOCABULARY), tmp_path / "model.onnx") < 1e-4


def test_int8_is_smaller_and_near(exported: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    model, file = exported
    small = tmp_path / "model.int8.onnx"
    quantize_dynamic_int8(file, small)
    assert small.stat().st_size < 0.5 * file.stat().st_size
    ids_BT = random_ids(32, 12, 2000)
    mask_BT = torch.ones_like(ids_BT)
    wanted_BC, found_BC = logits(model, ids_BT, mask_BT).numpy(), answer(small, ids_BT, mask_BT)
    assert np.abs(found_BC - wanted_BC).max() > 1e-6, "nothing was quantised"
    assert np.abs(found_BC - wanted_BC).mean() < 0.1 * wanted_BC.std()
    assert (found_BC.argmax(-1) == wanted_BC.argmax(-1)).mean() > 0.9
    kinds = {tensor.data_type for tensor in onnx.load(str(small)).graph.initializer if np.prod(tensor.dims) >= 1000}
    assert kinds <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}, "tables that are looked up are quantised too"


def test_a_wrong_export_is_refused(exported: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    model, file = exported
    graph = onnx.load(str(file))
    (weight,) = (tensor for tensor in graph.graph.initializer if tensor.name.endswith("classifier.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.05), weight.name))
    wrong = tmp_path / "wrong.onnx"
    onnx.save(graph, str(wrong))
    with pytest.raises(ExportError, match=r"wrong\.onnx: its logits differ from torch by 0\.\d+, allowed are 0\.001"):
        check_parity(model, wrong)
    assert 0.001 < check_parity(model, wrong, tolerance=1.0) < 1.0


def test_an_export_that_reads_padding_is_refused(exported: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    """The same graph with its mask cut off: right for single texts, wrong in a batch."""
    model, file = exported
    graph = onnx.load(str(file))
    shape = onnx.helper.make_node("Shape", ["input_ids"], ["ids_shape"])
    one = numpy_helper.from_array(np.array([1], dtype=np.int64))
    ones = onnx.helper.make_node("ConstantOfShape", ["ids_shape"], ["no_mask"], value=one)
    for node in graph.graph.node:
        node.input[:] = ["no_mask" if name == "attention_mask" else name for name in node.input]
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([shape, ones, *nodes])
    blind = tmp_path / "blind.onnx"
    onnx.save(graph, str(blind))
    with pytest.raises(ExportError, match="do not serve it"):
        check_parity(model, blind)
