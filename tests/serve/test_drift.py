"""Drift: the index, what the card keeps of training, and when there is an alarm."""

from pathlib import Path

import numpy as np
import pytest

from serve.engines.card import read_card, write_card
from serve.tasks.classification import Classification
from serve.watch.drift import ENOUGH_TEXTS, DriftWindow, stability_index, training_data
from tests.serve.tiny_model import publish_tiny

LABELS = ("ham", "spam")


def test_index_by_hand() -> None:
    # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5); smoothing vanishes with many texts.
    assert stability_index([0.5, 0.5], [800_000, 200_000]) == pytest.approx(0.3 * np.log(1.6) - 0.3 * np.log(0.4), abs=1e-4)
    assert stability_index([0.5, 0.5], [500, 500]) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(stability_index([1.0, 0.0], [0, 100])), "an empty bin is no infinity"


def asked(lengths: np.ndarray, spam: float, seed: int) -> tuple[list[int], np.ndarray]:
    random = np.random.default_rng(seed)
    logits = np.zeros((len(lengths), 2), dtype=np.float32)
    logits[random.random(len(lengths)) < spam, 1] = 1
    return lengths.tolist(), logits


def test_texts_like_those_of_training_raise_no_alarm_and_others_do() -> None:
    random = np.random.default_rng(0)
    lengths = random.geometric(0.05, 4000)
    training = training_data(["spam"] * 400 + ["ham"] * 3600, lengths.tolist())
    assert training.labels == {"ham": 0.9, "spam": 0.1}
    assert sum(training.length_shares) == pytest.approx(1)
    window = DriftWindow(Classification(labels=LABELS), training)
    window.note(*asked(random.geometric(0.05, ENOUGH_TEXTS - 1), 0.1, 1))
    assert window.report().labels is None, "too few texts to tell"
    window.note(*asked(random.geometric(0.05, 1500), 0.1, 2))
    alike = window.report()
    assert alike.labels is not None and alike.lengths is not None
    assert alike.labels < 0.05 and alike.lengths < 0.05 and not alike.alarm
    window.note(*asked(random.geometric(0.05, 2000), 0.6, 3))
    other = window.report()
    assert other.labels is not None and other.lengths is not None
    assert other.labels > 0.25 > other.lengths and other.alarm
    window.note(*asked(random.geometric(0.01, 2000), 0.1, 4))
    longer = window.report()
    assert longer.lengths is not None and longer.lengths > 0.25 and longer.alarm


def test_a_card_keeps_what_training_was_like(tmp_path: Path) -> None:
    publish_tiny(tmp_path)
    card = read_card(tmp_path).model_copy(update={"training": training_data(["ham", "spam"], [3, 9])})
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card
