"""The engine: both backends, order and batches, what it imports, and what it says of a broken model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from serve.engines.base import Engine
from serve.engines.card import CARD, Card, EngineError, read_card, variant_files, write_card
from serve.engines.engine import TransformerEngine, load_engine
from serve.tasks.classification import Classification, Options
from tests.serve.tiny_model import LABELS, TEXTS, texts_as_items

REPOSITORY = Path(__file__).parents[2]


def logits_of(engine: Engine, texts: Sequence[str]) -> np.ndarray:
    """What the engine says of texts."""
    return np.asarray(engine.outputs(texts_as_items(texts)))


def reference_logits(directory: Path) -> np.ndarray:
    """Each text alone through transformers' own tokenizer and model."""
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    length = read_card(directory).max_length
    cut = partial(tokenizer, truncation=True, max_length=length, split_special_tokens=True, return_tensors="pt")
    rows = [model(**cut(text)).logits for text in TEXTS]
    return np.concatenate([row.detach().numpy() for row in rows])


@pytest.mark.parametrize("variant", ["torch", "onnx"])
@pytest.mark.parametrize("max_batch", [1, 3, 32])
def test_logits_are_those_of_transformers_alone_and_in_batches_of_any_order(
    model_directory: Path, variant: str, max_batch: int
) -> None:
    engine = load_engine(model_directory, variant, max_batch=max_batch)
    expected = reference_logits(model_directory)
    assert np.ptp(expected, axis=0).min() > 0.1, "the texts must have different answers for this test to mean anything"
    logits = logits_of(engine, TEXTS)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    np.testing.assert_allclose(logits_of(engine, [TEXTS[index] for index in order]), expected[order], atol=1e-4)


def test_many_texts_come_back_in_their_order(model_directory: Path) -> None:
    engine = load_engine(model_directory, "onnx", max_batch=2)
    expected = logits_of(engine, TEXTS)
    # Longer than one window of 64 batches.
    np.testing.assert_allclose(logits_of(engine, TEXTS * 40), np.tile(expected, (40, 1)), atol=1e-4)
    assert logits_of(engine, []).shape == (0, len(LABELS))


def test_predict_ranks_the_labels(model_directory: Path) -> None:
    engine = load_engine(model_directory)
    assert engine.variant == "onnx"
    items = texts_as_items(TEXTS)
    answers = engine.answers(items)
    for answer, row in zip(answers, logits_of(engine, TEXTS), strict=True):
        assert answer.label == LABELS[int(row.argmax())]
        assert sum(item.probability for item in answer.probabilities) == pytest.approx(1)
        assert [item.probability for item in answer.probabilities] == sorted(
            (item.probability for item in answer.probabilities), reverse=True
        )
    assert [len(answer.probabilities) for answer in engine.answers(items, Options(top_k=2))] == [2] * len(TEXTS)


def test_onnx_variant_imports_no_torch(model_directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from serve.engines.engine import load_engine\n"
        "from serve.tasks.protocol import Item\n"
        f"print(load_engine(Path({str(model_directory)!r}), 'onnx').answers([Item(('a',))])[0].label)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    label, loaded = done.stdout.split("\n")[:2]
    assert label in LABELS
    assert loaded == "[]"


def test_variant_files_are_what_serving_needs_and_no_more(model_directory: Path, tmp_path: Path) -> None:
    card = read_card(model_directory)
    for variant in card.variants:
        place = tmp_path / variant
        for file in variant_files(model_directory, card, variant):
            target = place / file.relative_to(model_directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        alone = load_engine(place, variant)
        np.testing.assert_array_equal(logits_of(alone, TEXTS), logits_of(load_engine(model_directory, variant), TEXTS))
    assert not (tmp_path / "onnx" / "model.safetensors").exists()
    assert not list((tmp_path / "torch").rglob("*.onnx*"))


def break_weights(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"\0" * 64)
    (directory / "onnx" / "model.onnx").write_bytes(b"\0" * 64)


def drop_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "onnx" / "model.onnx").unlink()


def break_card(directory: Path) -> None:
    (directory / CARD).write_text('{"task": "classification"')


def raise_max_length(directory: Path) -> None:
    change_card(directory, max_length=1000)


def drop_label(directory: Path) -> None:
    change_card(directory, task=Classification(labels=LABELS[:2]).model_dump())


def change_card(directory: Path, **changes: object) -> None:
    tree = json.loads((directory / CARD).read_text())
    write_card(directory, Card.model_validate({**tree, **changes}))


@pytest.mark.parametrize("variant", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_weights, "not there, and the variant"),
        (break_weights, "cannot load it"),
        (break_card, "raystill.json is damaged"),
        (lambda directory: (directory / CARD).unlink(), "is no published model"),
        (lambda directory: (directory / "tokenizer.json").write_text("{}"), "not a tokenizer"),
        (raise_max_length, "fails on a text of 1000 tokens"),
        (drop_label, "the task has 2 labels"),
    ],
)
def test_a_broken_model_is_refused_with_its_reason(
    model_directory: Path, tmp_path: Path, variant: str, damage: object, message: str
) -> None:
    directory = tmp_path / "broken"
    shutil.copytree(model_directory, directory)
    assert callable(damage)
    damage(directory)
    with pytest.raises(EngineError, match=message):
        load_engine(directory, variant)


def test_weights_without_a_head_are_refused(model_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "headless"
    shutil.copytree(model_directory, directory)
    AutoModelForSequenceClassification.from_pretrained(directory).bert.save_pretrained(directory)
    shutil.copy(model_directory / "config.json", directory)
    with pytest.raises(EngineError, match="classifier"):
        load_engine(directory, "torch")


def test_unknown_variant_names_the_known_ones(model_directory: Path) -> None:
    with pytest.raises(EngineError, match="no variant int4; it has onnx, torch"):
        load_engine(model_directory, "int4")


def test_a_variant_that_says_so_is_run_one_text_at_a_time(model_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "alone"
    shutil.copytree(model_directory, directory)
    variants = json.loads((directory / CARD).read_text())["variants"]
    change_card(directory, variants={**variants, "onnx": {**variants["onnx"], "batching": "alone"}})
    engine, run = load_engine(directory, "onnx"), []
    assert isinstance(engine, TransformerEngine)
    backend = engine.backend

    def counted(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        run.append(feeds["attention_mask"])
        return backend(feeds)

    counted.inputs = backend.inputs  # type: ignore[attr-defined]
    engine.backend = counted  # type: ignore[assignment]
    np.testing.assert_allclose(logits_of(engine, TEXTS), logits_of(load_engine(model_directory, "onnx"), TEXTS), atol=1e-4)
    assert len(run) == len(TEXTS) and all(mask_BT.shape[0] == 1 and mask_BT.all() for mask_BT in run)
