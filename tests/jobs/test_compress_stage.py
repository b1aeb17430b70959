"""The stage compress, all of it in one step, without Ray. `pytest tests/jobs/test_compress_stage.py`"""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cluster.artifact import Kind
from jobs.compress import CompressConfig, _compress
from jobs.core.stage import Context, Inputs, Outcome
from jobs.tasks.classification import save_classifier
from serve.card import read_card
from serve.engine import load_engine
from tests.jobs.small_models import parameters
from tests.jobs.tiny import LABELS, MAX_LENGTH, MESSAGES, publish_directory, publish_examples, tiny_classifier, tiny_tokenizer

CONFIG = {
    "vocabulary": "used",
    "prune": {"feed_forward": 0.5, "layers": 1, "steps": 2, "calibration_batches": 2},
    "factorize": {"energy": 0.6},
    "heal": {"epochs": 1, "evaluations": 1, "batch_size": 16, "precision": "fp32"},
    "max_length": MAX_LENGTH,
}


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, int]:
    """What the stage makes of a BERT of two layers, what it says of it, and the parameters before."""
    root = tmp_path_factory.mktemp("compress")
    tokenizer = tiny_tokenizer(root / "tokenizer")
    model = tiny_classifier("bert", 2, len(tokenizer))
    save_classifier(model, tokenizer, LABELS, MAX_LENGTH, root / "draft")
    # The last texts of each label have characters that others have not.
    splits = {"train": MESSAGES[:30], "validation": MESSAGES[30:44], "test": MESSAGES[44:]}
    inputs = Inputs(
        model=[publish_directory(root / "draft", root / "model", Kind.MODEL)], examples=[publish_examples(root, splits)]
    )
    context = Context(str(root), "recipe", "small", str(root / "small"), "1")
    return root / "small", _compress(CompressConfig.model_validate(CONFIG), inputs, context), parameters(model)


def test_what_is_left_is_a_stock_model_and_its_export_says_the_same(compressed: tuple[Path, Outcome, int]) -> None:
    place, outcome, before = compressed
    model = AutoModelForSequenceClassification.from_pretrained(place).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    config = model.config
    assert (config.intermediate_size, config.num_hidden_layers, config.vocab_size) == (32, 1, len(tokenizer))
    assert parameters(model) == read_card(place).parameters == outcome.metrics["parameters"] < before
    texts = [text for text, _ in MESSAGES]
    with torch.inference_mode():
        wanted_BC = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    for variant in ("torch", "onnx"):
        assert np.abs(load_engine(place, variant).logits(texts) - wanted_BC).max() < 1e-4
    tables = [
        tensor.dims for tensor in onnx.load(str(place / "onnx" / "model.onnx")).graph.initializer if len(tensor.dims) == 2
    ]
    thin = outcome.metrics["parameters_factorized"]
    assert sum(int(np.prod(dims)) for dims in tables) < thin < outcome.metrics["parameters_unfactorized"]


def test_its_figures_say_what_was_done(compressed: tuple[Path, Outcome, int]) -> None:
    _, outcome, _ = compressed
    figures = outcome.metrics
    assert (figures["feed_forward_before"], figures["feed_forward_kept"]) == (64, 32)
    assert (figures["layers_before"], figures["layers_kept"]) == (2, 1)
    assert figures["vocabulary_kept"] < figures["vocabulary_before"]
    assert 0 <= figures["vocabulary_test_changed"] <= 1
    assert figures["export_difference"] < 1e-4 and "macro_f1" in figures
    steps = [point["step"] for point in outcome.details["curve"]]
    assert steps == sorted(steps) and len(set(steps)) == len(steps), "one curve through all healing"
