"""Cards that older code has written are read as what they mean, and wrong ones are told of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.engines.card import CARD, Card, EngineError, Language, read_card, write_card
from serve.engines.engine import load_engine
from serve.tasks.classification import Classification
from tests.serve.tiny_model import LABELS, TEXTS, publish_tiny, texts_as_items

ONNX = {"backend": "onnx", "file": "onnx/model.onnx", "precision": "fp32"}
BEFORE: dict[str, Any] = {
    "task": "classification",
    "labels": list(LABELS),
    "max_length": 24,
    "variants": {
        "torch": {
            "backend": "torch",
            "file": "model.safetensors",
            "encoder": None,
            "precision": "fp32",
            "batching": "free",
            "temperature": 1.0,
            "hidden_states": False,
        },
        "onnx": {**ONNX, "encoder": None, "batching": "alone", "temperature": 2.5, "hidden_states": False},
    },
    "default": "onnx",
    "parameters": 12345,
    "training": {"labels": {"ham": 1.0}, "length_edges": [5], "length_shares": [0.5, 0.5]},
}


def written(directory: Path, **changes: Any) -> Path:
    """A directory with a card as it was before."""
    directory.mkdir(exist_ok=True)
    (directory / CARD).write_text(json.dumps({**BEFORE, **changes}))
    return directory


def test_a_card_of_before_says_what_it_said(tmp_path: Path) -> None:
    card = read_card(written(tmp_path))
    assert card.task == Classification(labels=LABELS) and card.language is None
    assert (card.variants["onnx"].fitted, card.variants["onnx"].batching) == ({"temperature": 2.5}, "alone")
    assert card.training is not None and card.training.labels == {"ham": 1.0}
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card
    written_again = json.loads((tmp_path / CARD).read_text())["task"]
    assert written_again == Classification(labels=LABELS).model_dump(mode="json")
    assert {key: written_again[key] for key in ("kind", "labels", "pairs", "long")} == {
        "kind": "classification",
        "labels": list(LABELS),
        "pairs": False,
        "long": "cut",
    }


def test_a_model_of_before_answers_with_its_temperature(tmp_path: Path) -> None:
    publish_tiny(tmp_path)
    new = load_engine(tmp_path, "onnx")
    old = load_engine(written(tmp_path), "onnx")
    items = texts_as_items(TEXTS)
    np.testing.assert_allclose(np.asarray(old.outputs(items)), np.asarray(new.outputs(items)), atol=1e-4)
    np.testing.assert_allclose(np.asarray(old.settled(items)), np.asarray(new.outputs(items)) / 2.5, atol=1e-4)


def test_a_language_model_of_before_still_writes(tmp_path: Path) -> None:
    variants = {"onnx": {**ONNX, "temperature": 1.0}}
    card = read_card(written(tmp_path, task="generation", labels=[], variants=variants, training=None))
    assert card.task is None and card.language is not None and card.language.writes
    with pytest.raises(EngineError, match="answers for no task"):
        load_engine(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["ham"]}, "at least 2 items"),
        ({"task": "generation", "variants": [ONNX]}, "variants: Input should be"),
        ({"task": "generation", "variants": {"onnx": 5}}, "variants.onnx: "),
        ({"task": "generation", "variants": None}, "variants: Input should be"),
        ({"labels": ["ham", "ham"]}, "two columns of the logits have the same label"),
        ({"task": "tagging"}, "tagging is no kind of task here; there are classification"),
        (
            {"task": {"kind": "classification", "labels": ["a", "b"], "scale": 3}, "labels": None},
            "task.scale: Extra inputs are not permitted",
        ),
        ({"variants": {"onnx": {**ONNX, "temperature": 0.0}}}, "its temperature is 0, which is not above 0"),
        ({"variants": {"onnx": {**ONNX, "fitted": {"bias": 1.0}}}}, "bias is none of what is fitted for it"),
        ({"default": "int4"}, "the default variant int4 is not one of"),
        ({"task": None}, "labels"),
    ],
)
def test_a_wrong_card_is_told_of(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        read_card(written(tmp_path, **changes))


def test_a_model_answers_for_a_task_or_is_a_language_model() -> None:
    rest: dict[str, Any] = {"max_length": 24, "variants": {"onnx": ONNX}, "default": "onnx", "parameters": 1}
    task = Classification(labels=LABELS)
    assert Card(language=Language(objective="masked"), **rest).task is None
    for both in ({}, {"task": task, "language": Language(objective="masked")}):
        with pytest.raises(ValueError, match="give one of task and language"):
            Card(**both, **rest)
