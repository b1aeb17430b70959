"""Every kind of quantisation: the file, the answers, batch mates. `pytest tests/jobs/test_quantize.py`"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Kind
from jobs.compress import CompressConfig, _compress
from jobs.compression.quantize import (
    POWERS,
    Feeds,
    quantize_dynamic_int8,
    quantize_static_int8,
    to_powers_of_two,
)
from jobs.compression.settings import Quantization
from jobs.compression.variants import NAMES, Material, write_variants
from jobs.core.metric import Metric
from jobs.core.stage import Context, Inputs
from jobs.judging.quality import Candidate, measure_batch_mates
from serve.engines.base import Engine
from serve.engines.card import read_card
from serve.engines.engine import load_engine
from serve.tasks.protocol import Item
from serve.tasks.shared.probabilities import softmax
from tests.jobs.tiny import (
    LABELS,
    MAX_LENGTH,
    MESSAGES,
    classification,
    items_of,
    publish_classifier,
    publish_directory,
    publish_examples,
    save_classifier,
    tiny_classifier,
)

TEXTS = [text for text, _ in MESSAGES]
ITEMS = items_of(TEXTS)
KINDS = ("dynamic", "rowwise", "reduced_range", "unsigned", "blockwise", "static", "int4", "power_of_two", "fp16")
ONE_SCALE = ("int8", "int8_reduced", "int8_unsigned", "pow2")


def feeds_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Feeds]:
    """Each text as a batch of its own."""
    return [
        {name: np.array([encoded[name]]) for name in ("input_ids", "attention_mask")}
        for encoded in (tokenizer(text, truncation=True, max_length=MAX_LENGTH) for text in texts)
    ]


def made(directory: Path, tokenizer: PreTrainedTokenizerBase, config: Quantization) -> Path:
    """A published random model with the variants that the config asks for."""
    model = tiny_classifier("bert", 2, len(tokenizer))
    save_classifier(model, tokenizer, LABELS, directory)

    def unused(engine: Engine) -> float:
        raise AssertionError("nothing is judged without an allowance")

    material = Material(feeds_of(tokenizer, TEXTS[:40]), unused, Metric("macro_f1"), lambda: model)
    figures, details = write_variants(model, directory, config, material)
    assert figures["export_difference"] < 1e-4 and details == {}
    return directory


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    return made(tmp_path_factory.mktemp("everything") / "model", tokenizer, Quantization(quantize=KINDS))


@pytest.fixture(scope="module")
def engines(everything: Path) -> dict[str, Engine]:
    return {name: load_engine(everything, name, max_batch=16) for name in read_card(everything).variants}


def test_each_kind_is_a_variant_of_its_own(everything: Path, engines: dict[str, Engine]) -> None:
    card = read_card(everything)
    assert list(card.variants) == ["torch", "onnx", *(NAMES[kind] for kind in KINDS)]  # type: ignore[index]
    assert card.default == "int8"
    products = {name: variant.products for name, variant in card.variants.items() if variant.products != "wide"}
    assert products == {"int8_row": "narrow", "int8_reduced": "narrow", "int8_unsigned": "unsigned"}
    precisions = {name: variant.precision for name, variant in card.variants.items()}
    assert precisions["int4"] == "int4" and precisions["fp16"] == "fp16" and precisions["int8_row"] == "int8"
    assert precisions["int8_static"] == precisions["pow2"] == "int8"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_the_numbers_a_little_and_shrinks_the_file(
    everything: Path, engines: dict[str, Engine], kind: str
) -> None:
    name, exact_NC = NAMES[kind], np.asarray(engines["onnx"].outputs(ITEMS))  # type: ignore[index]
    size = {name: (everything / variant.file).stat().st_size for name, variant in read_card(everything).variants.items()}
    found_NC = engines[name].outputs(ITEMS)
    apart = np.abs(found_NC - exact_NC).mean() / exact_NC.std()
    assert {"fp16": 1e-6}.get(kind, 1e-4) < apart < {"int4": 0.3, "power_of_two": 0.8, "fp16": 1e-3}.get(kind, 0.1)
    assert size[name] < size["onnx"]


def test_scales_for_blocks_are_nearer_to_float_than_scales_for_all(engines: dict[str, Engine]) -> None:
    exact_NC = np.asarray(engines["onnx"].outputs(ITEMS))
    apart = {name: np.abs(engines[name].outputs(ITEMS) - exact_NC).mean() for name in ("int8", "int8_block", "int8_row")}
    assert apart["int8_block"] < apart["int8"] / 2, apart
    assert apart["int8_row"] < apart["int8"], "though a row has 7 bits"


def test_batch_mates_move_dynamic_int8_and_nothing_else(engines: dict[str, Engine], everything: Path) -> None:
    """A longer or louder mate changes the scales of a whole batch; padding alone changes nothing."""
    change = {name: _figures(everything, name)["batch_change"] for name in engines}
    assert min(change.pop(name) for name in ONE_SCALE) > 1e-3
    assert max(change.values()) < 1e-4, change


def test_the_setting_keeps_answers_the_same(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    directory = made(tmp_path / "model", tokenizer, Quantization(quantize=("dynamic", "static"), batching="same"))
    batching = {name: variant.batching for name, variant in read_card(directory).variants.items()}
    assert batching == {"torch": "free", "onnx": "free", "int8": "alone", "int8_static": "free"}
    figures = _figures(directory, "int8")
    assert figures["batch_change"] < 1e-6 and figures["batch_flips"] == 0


def _figures(directory: Path, variant: str) -> dict[str, float]:
    artifact = publish_directory(directory, directory, Kind.MODEL)
    candidate = Candidate.load(artifact, variant, threads=1, batch_size=16)
    measure_batch_mates(candidate, ITEMS, batch_size=16, count=48, rounds=2)
    return candidate.figures


def test_changed_labels_are_counted(everything: Path) -> None:
    """An engine whose answers in a batch are those of the batch's first text."""

    class Swayed:
        task = classification()

        def settled(self, items: Sequence[Item]) -> np.ndarray:
            first = float(items[0] in ITEMS[::2])
            return np.tile([[10.0 * first, 5.0]], (len(items), 1))

    artifact = publish_directory(everything, everything, Kind.MODEL)
    candidate = Candidate(
        "swayed",
        artifact,
        "int8",
        Swayed(),  # type: ignore[arg-type]
        0,
    )
    measure_batch_mates(candidate, ITEMS, batch_size=4, count=80, rounds=3)
    high, low = softmax(np.array([[10.0, 5.0], [0.0, 5.0]]))[:, 0]
    assert candidate.figures["batch_change"] == pytest.approx(high - low)
    assert 0.2 < candidate.figures["batch_flips"] < 0.5, "mates of the other half turn the label of about 3 texts in 8"


def test_weights_become_powers_of_two() -> None:
    weight_KN = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    weight_KN[0, 0] = 100.0
    rounded_KN = to_powers_of_two(weight_KN)
    scale_N = np.abs(weight_KN).max(axis=0)
    powers = np.log2(np.abs(rounded_KN / scale_N)[rounded_KN != 0])
    assert np.allclose(powers, powers.round(), atol=1e-5) and powers.min() == -(POWERS - 1) and powers.max() == 0
    assert ((np.sign(rounded_KN) == np.sign(weight_KN)) | (rounded_KN == 0)).all()
    kept = (rounded_KN != 0) & (np.abs(weight_KN) > scale_N / 2 ** (POWERS - 1))
    assert (np.abs(rounded_KN / weight_KN)[kept] < 1.4143).all() and (np.abs(rounded_KN / weight_KN)[kept] > 0.7071).all()
    assert (rounded_KN[1:, 0] == 0).sum() > 30, "what is far below its column's largest weight is 0"


def test_static_scales_come_from_the_examples(everything: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    source = everything / "onnx" / "model.onnx"
    scales = []
    for name, texts in (("short", ["see"]), ("all", TEXTS), ("again", TEXTS)):
        quantize_static_int8(source, tmp_path / f"{name}.onnx", feeds_of(tokenizer, texts))
        graph = onnx.load(str(tmp_path / f"{name}.onnx")).graph
        scales.append(
            {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("_scale") and not t.dims}
        )
    assert scales[0].keys() == scales[1].keys() and len(scales[0]) > 10
    assert all(scales[1][name] == scales[2][name] for name in scales[0])
    assert sum(scales[1][name] > scales[0][name] for name in scales[0]) > 5, "more texts have a wider range"


def test_nodes_that_are_excluded_stay_float(everything: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    source = everything / "onnx" / "model.onnx"
    constant = {tensor.name for tensor in onnx.load(str(source)).graph.initializer}
    nodes = [node for node in onnx.load(str(source)).graph.node if set(node.input) & constant]
    chosen = [next(node for node in nodes if node.op_type == kind) for kind in ("MatMul", "Gemm", "Gather")]
    names = [node.name for node in chosen]
    quantize_dynamic_int8(source, tmp_path / "dynamic.onnx", names)
    quantize_static_int8(source, tmp_path / "static.onnx", feeds_of(tokenizer, TEXTS[:4]), exclude=names)
    matrices = {name for node in chosen for name in node.input if name in constant}
    for file in ("dynamic.onnx", "static.onnx"):
        kept = {t.name: t.data_type for t in onnx.load(str(tmp_path / file)).graph.initializer if t.name in matrices}
        assert kept and set(kept.values()) == {onnx.TensorProto.FLOAT}, file


def test_what_a_recipe_may_say() -> None:
    assert CompressConfig().quantize == ("dynamic",)
    assert CompressConfig.model_validate({"quantize": "none"}).quantize == ()
    assert CompressConfig.model_validate({"quantize": ["static", "int4"]}).quantize == ("static", "int4")
    for wrong in ({"quantize": "int3"}, {"quantize": ["int4", "int4"]}, {"quantize": "static", "allowed_loss": 1}):
        with pytest.raises(ValidationError):
            CompressConfig.model_validate(wrong)


def test_the_stage_makes_every_variant_and_records_what_it_tried(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = publish_classifier(tmp_path, tokenizer)
    examples = publish_examples(tmp_path, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
    asked = {"quantize": ["dynamic", "static"], "allowed_loss": 60, "calibration": {"examples": 8, "method": "entropy"}}
    config = CompressConfig.model_validate({**asked, "max_length": MAX_LENGTH, "heal": {"batch_size": 8}})
    context = Context(str(tmp_path), "spam", "small", str(tmp_path / "small"), "1", directory=tmp_path)
    outcome = _compress(config, Inputs(model=[model], examples=[examples]), context)
    (tried,) = outcome.details["int8_tries"]
    assert tried["kind"] == "dynamic" and tried["kept"] and 0 <= tried["score"] <= 1 and tried["loss"] <= 60
    assert {f"onnx/model.{name}.onnx" for name in ("int8", "int8_static")} <= outcome.files.keys()
    assert set(read_card(tmp_path / "small").variants) == {"torch", "onnx", "int8", "int8_static"}
