"""int8 within an allowance: what is tried, in which order. `pytest tests/jobs/test_quantize_accuracy.py`"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jobs.compression.export import export_onnx
from jobs.compression.fake_quantized import fake_quantized, rounded_activation, rounded_weight
from jobs.compression.quantize import quantize_dynamic_int8
from jobs.compression.variants import int8_within
from jobs.compression.worst_nodes import worst_nodes
from jobs.tasks.supervised import Supervised
from jobs.training.hooks import RunHooks
from jobs.training.loop import fit
from jobs.training.settings import Optimizer, Training
from serve.engines.backends import open_session
from serve.engines.card import Variant, read_card, write_card
from serve.engines.engine import load_engine
from tests.jobs.test_quantize import TEXTS, feeds_of
from tests.jobs.tiny import LABELS, items_of, save_classifier, tiny_classifier

LOUD = 1000.0


def plant_outlier(model: PreTrainedModel, layer: int, value: float = LOUD) -> None:
    """One neuron of a layer's feed-forward part is always loud and is not listened to: float answers stay the same."""
    one = model.base_model.get_submodule(f"encoder.layer.{layer}")
    up, down = one.get_submodule("intermediate.dense"), one.get_submodule("output.dense")
    assert isinstance(up, nn.Linear) and isinstance(down, nn.Linear)
    with torch.no_grad():
        up.weight[0], up.bias[0], down.weight[:, 0] = 0, value, 0


def scorer(directory: Path, labels: dict[str, int]) -> Callable[[Path], float]:
    """Share of the texts whose label a file gives, through the engine."""

    def score(file: Path) -> float:
        card = read_card(directory)
        tried = Variant(backend="onnx", file=file.relative_to(directory).as_posix(), precision="int8")
        write_card(directory, card.model_copy(update={"variants": {**card.variants, "tried": tried}}))
        found = np.asarray(load_engine(directory, "tried").outputs(items_of(list(labels)))).argmax(-1)
        return float((found == list(labels.values())).mean())

    return score


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> tuple[Path, dict[str, int], str]:
    """A published model with an outlier in its second layer, what float is sure of, and the node that the outlier comes to."""
    directory = tmp_path_factory.mktemp("planted") / "model"
    model = tiny_classifier("bert", 2, len(tokenizer))
    plant_outlier(model, 1)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits_BC = model(**inputs).logits
        model.get_parameter("classifier.bias").sub_(logits_BC.median(dim=0).values)
        sure_B = model(**inputs).logits @ torch.tensor([-1.0, 1.0])
    half = sure_B.abs() > sure_B.abs().median()
    labels = {text: int(sure > 0) for text, sure, kept in zip(TEXTS, sure_B, half, strict=True) if kept}
    save_classifier(model, tokenizer, LABELS, directory)
    export_onnx(model, directory / "onnx" / "model.onnx")
    graph = onnx.load(str(directory / "onnx" / "model.onnx")).graph
    wide = {tensor.name for tensor in graph.initializer if list(tensor.dims) == [64, 32]}
    return directory, labels, [n.name for n in graph.node if n.op_type == "MatMul" and set(n.input) & wide][1]


def test_the_node_that_int8_destroys_is_found_and_kept_in_float(
    planted: tuple[Path, dict[str, int], str], tokenizer: PreTrainedTokenizerBase
) -> None:
    directory, labels, loud = planted
    source, target = directory / "onnx" / "model.onnx", directory / "onnx" / "model.int8.onnx"
    feeds, score = feeds_of(tokenizer, TEXTS[::4]), scorer(directory, labels)
    assert score(source) == 1
    assert worst_nodes(source, feeds)[0] == loud
    tries = int8_within(5, source, target, score, feeds, "minmax")
    assert [(one.kind, one.excluded, one.kept) for one in tries] == [("dynamic", (), False), ("dynamic", (loud,), True)]
    assert tries[0].loss > 10 and tries[1].loss <= 5 and score(target) == tries[1].score
    assert loud in str(tries[1]) and tries[1].details()["excluded"] == [loud]


def test_what_is_tried_and_in_which_order(
    planted: tuple[Path, dict[str, int], str], tokenizer: PreTrainedTokenizerBase
) -> None:
    directory, _, loud = planted
    source, target = directory / "onnx" / "model.onnx", directory / "onnx" / "model.never.onnx"
    scores = iter([1.0, *np.linspace(0.5, 0.6, 20)])
    tries = int8_within(1, source, target, lambda file: next(scores), feeds_of(tokenizer, TEXTS[:4]), "minmax", lambda: source)
    assert [one.kind for one in tries] == ["dynamic"] * 4 + ["rowwise", "blockwise"] + ["static"] * 2 + ["trained"]
    assert [len(one.excluded) for one in tries] == [0, 1, 2, 4, 0, 0, 0, 4, 0] and tries[1].excluded == (loud,)
    assert not any(one.kept for one in tries) and not target.exists(), "what costs too much is not left behind"


def test_nothing_more_is_tried_once_one_is_within(
    planted: tuple[Path, dict[str, int], str], tokenizer: PreTrainedTokenizerBase
) -> None:
    directory, _, _ = planted
    target = directory / "onnx" / "model.first.onnx"
    scores = iter([0.9, 0.895])

    def never() -> Path:
        raise AssertionError("training is the last resort")

    tries = int8_within(0.5, directory / "onnx" / "model.onnx", target, lambda file: next(scores), [], "minmax", never)
    assert len(tries) == 1 and tries[0].loss == pytest.approx(0.5) and target.exists()
    scores = iter([0.895, 0.9])
    tries = int8_within(
        0.5, directory / "onnx" / "model.onnx", target, lambda file: next(scores), [], "minmax", never, sign=-1
    )
    assert len(tries) == 1 and tries[0].loss == pytest.approx(0.5), "of an error more is lost where it is higher"


def test_training_for_int8_wins_back_what_int8_loses(
    classification: Supervised, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Outliers in both layers: int8 answers by chance, and no less so after as much training without rounding."""
    model = tiny_classifier("bert", 2, len(tokenizer))
    settings = Training(optimizer=Optimizer(learning_rate=1e-3), epochs=12, batch_size=16, evaluations=4, precision="fp32")
    fitted = fit(model, classification, settings, RunHooks(lambda **figures: None))
    assert fitted.metrics["accuracy"] > 0.95
    for layer in (0, 1):
        plant_outlier(model, layer)
    trained, control = copy.deepcopy(model), copy.deepcopy(model)
    with fake_quantized(trained):
        fit(trained, classification, settings, RunHooks(lambda **figures: None))
    fit(control, classification, settings, RunHooks(lambda **figures: None))
    plain, for_int8, without = (int8_accuracy(one, classification, tmp_path) for one in (model, trained, control))
    assert plain < 0.85 and for_int8 > plain + 0.1 and for_int8 > without


def int8_accuracy(model: PreTrainedModel, classification: Supervised, place: Path) -> float:
    """On all validation texts, each alone, through the exported and quantised file."""
    export_onnx(model, place / "model.onnx")
    quantize_dynamic_int8(place / "model.onnx", place / "int8.onnx")
    session = open_session(place / "int8.onnx", 1, "cpu")
    right = []
    for number in range(classification.validation_size):
        batch = classification.validation.batch(np.array([number]), classification.inputs)
        feeds = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
        right.append(session.run(["logits"], feeds)[0].argmax() == int(batch["labels"][0]))
    return float(np.mean(right))


def test_rounding_is_that_of_int8_and_its_gradient_passes_through() -> None:
    weight_OI = torch.randn(4, 16, requires_grad=True)
    rounded_OI = rounded_weight(weight_OI, per_row=True)
    levels_OI = rounded_OI / (weight_OI.abs().amax(1, keepdim=True) / 127)
    assert torch.allclose(levels_OI, levels_OI.round(), atol=1e-3) and levels_OI.abs().max() <= 127.01
    rounded_OI.sum().backward()
    assert weight_OI.grad is not None and torch.equal(weight_OI.grad, torch.ones(4, 16))
    activation = torch.cat([torch.linspace(0.5, 3.0, 100), torch.tensor([7.0])])
    rounded = rounded_activation(activation)
    assert (rounded - activation).abs().max() <= 7 / 255 / 2 + 1e-5, "the range includes 0"
    assert len(rounded_activation(torch.randn(10_000)).unique()) <= 256


def test_outside_the_context_the_model_is_as_it_was() -> None:
    model = tiny_classifier("bert", 2, 200)
    ids_BT, names = torch.arange(5, 17)[None], list(model.state_dict())
    before = model(input_ids=ids_BT).logits
    with fake_quantized(model):
        inside = model(input_ids=ids_BT).logits
        assert list(model.state_dict()) == names
    assert torch.equal(model(input_ids=ids_BT).logits, before)
    assert 1e-5 < (inside - before).abs().max() < 0.5 * before.abs().max()
