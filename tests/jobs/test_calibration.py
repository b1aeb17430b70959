"""Temperatures: fitted on validation, kept in the card, applied to every answer. `pytest tests/jobs/test_calibration.py`"""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from cluster.store.artifact import Kind
from jobs.core.metric import Metric
from jobs.judging.calibration import calibrate_variants
from jobs.judging.quality import Candidate, Rows, judge_quality
from jobs.tasks.temperature import calibration_error, fit_temperature
from serve.engines.card import read_card
from serve.engines.engine import load_engine
from serve.http.schema import ServedModel
from serve.models.local import LocalModel
from serve.settings import ModelSettings
from serve.tasks.protocol import Item
from serve.tasks.shared.probabilities import softmax
from tests.jobs.tiny import (
    LABELS,
    MESSAGES,
    publish_directory,
    publish_examples,
    save_classifier,
    supervised,
    tiny_classifier,
)

TEXTS, TRUTH = [text for text, _ in MESSAGES], [label for _, label in MESSAGES]
ITEMS = [Item((text,)) for text in TEXTS]


def honest_logits(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the chance of each label, and labels drawn by it."""
    generator = np.random.default_rng(0)
    logits_NC = generator.normal(size=(count, classes)) * 2
    truth_N = np.array([generator.choice(classes, p=row) for row in softmax(logits_NC)])
    return logits_NC, truth_N


@pytest.mark.parametrize("factor", (0.25, 1.0, 5.0))
def test_the_temperature_undoes_too_much_and_too_little_confidence(factor: float) -> None:
    logits_NC, truth_N = honest_logits(4000, 3)
    assert fit_temperature(logits_NC * factor, truth_N) == pytest.approx(factor, rel=0.06)
    scaled_NC = logits_NC * factor / fit_temperature(logits_NC * factor, truth_N)
    assert calibration_error(softmax(scaled_NC), truth_N) < 0.03


def test_two_texts_by_hand() -> None:
    """Logits ±1, one of two right with a third text's right: confidence is to be the smoothed share (3 + 1) / (4 + 2)."""
    logits_NC = np.array([[1.0, 0.0]] * 4)
    temperature = fit_temperature(logits_NC, np.array([0, 0, 0, 1]))
    # Smoothed: each right target is 5/6, each wrong 1/6, so the mean is (3 · 5 + 1) / 24 = 2/3, and log(2) = 1 / T.
    assert temperature == pytest.approx(1 / np.log(2))


def test_texts_that_are_all_right_do_not_make_it_boundlessly_sure() -> None:
    logits_NC = np.array([[2.0, -2.0], [-2.0, 2.0]] * 10)
    confidence = softmax(logits_NC / fit_temperature(logits_NC, np.array([0, 1] * 10))).max(axis=1)
    assert np.allclose(confidence, 21 / 22), "(N + 1) / (N + C)"
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int)) == 1.0


def test_a_published_classifier_answers_with_the_temperature_of_its_validation_split(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """A random model is sure of itself and often wrong; what is served and what is judged are the same."""
    examples = publish_examples(tmp_path, {"train": MESSAGES[:40], "validation": MESSAGES[40:]})
    objective = supervised(examples, tokenizer)
    draft = tmp_path / "draft"
    figures = objective.save(tiny_classifier("bert", 2, len(tokenizer)), draft)
    temperature = read_card(draft).variants["torch"].fitted["temperature"]
    assert figures["temperature"] == temperature > 1.5
    assert figures["calibration_error"] < figures["calibration_error_unscaled"]

    engine = load_engine(draft)
    settled_NC, raw_NC = np.asarray(engine.settled(ITEMS)), np.asarray(engine.outputs(ITEMS))
    assert np.allclose(settled_NC * temperature, raw_NC, atol=1e-4)
    raw_NC = softmax(raw_NC)
    answers = engine.answers(ITEMS)
    assert [answer.label for answer in answers] == [LABELS[row.argmax()] for row in raw_NC], "no label changes"
    assert all(answer.probability < row.max() for answer, row in zip(answers, raw_NC, strict=True))
    settings = ModelSettings(model=str(draft))
    served = LocalModel(engine, ServedModel(name="spam", fingerprint="1", variant="torch"), settings)
    values_NC = np.asarray(asyncio.run(served.predict(ITEMS)).outputs)
    assert np.allclose(values_NC, settled_NC, atol=1e-4), "the service answers with it too"
    candidate = Candidate.load(publish_directory(draft, tmp_path / "model", Kind.MODEL), "torch", 1, 8)
    rows = Rows(ITEMS, np.array([LABELS.index(label) for label in TRUTH]))
    judge_quality(candidate, rows, candidate, Metric("accuracy"), 100)
    assert candidate.figures["calibration_error"] < candidate.figures["calibration_error_unscaled"]


def test_each_variant_has_a_temperature_of_its_own(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    save_classifier(tiny_classifier("bert", 2, len(tokenizer)), tokenizer, LABELS, tmp_path)
    figures = calibrate_variants(tmp_path, ["torch"], ITEMS, np.array([LABELS.index(label) for label in TRUTH]))
    assert figures["torch_temperature"] == read_card(tmp_path).variants["torch"].fitted["temperature"] > 1.5
    assert figures["torch_calibration_error"] < figures["torch_calibration_error_unscaled"]
