"""Exported models say what torch says. `pytest tests/jobs/test_compression.py`"""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import PreTrainedModel

from jobs.compression.export import ExportError, check_parity, export_onnx
from jobs.compression.prune import Pruner
from jobs.compression.quantize import quantize_dynamic_int8
from jobs.compression.settings import Prune
from serve.engines.backends import open_session
from tests.jobs.small_models import SQUARES
from tests.jobs.tiny import random_ids, tiny_classifier

VOCABULARY = 200


def logits(model: PreTrainedModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids_BT, attention_mask=mask_BT).logits


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    """A pruned BERT and its ONNX file."""
    model = tiny_classifier("bert", 3, 2000)
    pruner = Pruner(model, Prune(feed_forward=0.25, importance="magnitude"))
    pruner.remove(pruner.goals[0], SQUARES, ())
    file = tmp_path_factory.mktemp("exported") / "onnx" / "model.onnx"
    assert export_onnx(model, file) < 1e-4
    return model, file


def answer(file: Path, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> np.ndarray:
    session = open_session(file, 1, "cpu")
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
    with pytest.raises(ExportError, match=r"wrong\.onnx: its outputs differ from torch by 0\.\d+, allowed are 0\.001"):
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
