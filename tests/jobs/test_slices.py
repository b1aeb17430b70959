"""Slices of a split, by label and by length. `pytest tests/jobs/test_slices.py`"""

import numpy as np
import pytest

from jobs.slices import accuracies, falls, slices_of


def test_slices_by_label_and_by_quarters_of_the_lengths() -> None:
    """100 texts of 1 to 100 characters; one label has every fifth of them, one only three."""
    texts = ["x" * length for length in range(1, 101)]
    labels = ["rare" if n in (7, 8, 9) else "spam" if n % 5 == 0 else "ham" for n in range(100)]
    slices = slices_of(texts, labels)
    sizes = {name: int(mask.sum()) for name, mask in slices.items()}
    quarters = {"1–25 characters": 25, "26–50 characters": 25, "51–75 characters": 25, "76–100 characters": 25}
    assert sizes == {"label ham": 77, "label spam": 20, **quarters}, "three examples are no slice"
    assert slices["26–50 characters"][25:50].all()


def test_slices_by_columns_that_were_kept() -> None:
    columns: dict[str, list[str | None]] = {"source": ["web"] * 30 + ["post"] * 25 + [None] * 20, "country": ["NL"] * 75}
    slices = slices_of(["x"] * 75, ["a"] * 75, columns)
    assert {name: int(mask.sum()) for name, mask in slices.items() if not name.startswith(("label", "1"))} == {
        "source post": 25,
        "source web": 30,
        "country NL": 75,
    }


def test_texts_of_one_length_are_one_slice() -> None:
    assert {name: int(mask.sum()) for name, mask in slices_of(["你好"] * 30, ["a"] * 30).items()} == {
        "label a": 30,
        "1–2 characters": 30,
    }


def test_accuracy_of_a_slice_and_what_it_lost() -> None:
    slices = {"first": np.array([True] * 4 + [False] * 4), "last": np.array([False] * 4 + [True] * 4)}
    teacher = accuracies(slices, np.array([True] * 7 + [False]))
    student = accuracies(slices, np.array([True, True, False, False] + [True] * 4))
    assert teacher == {"first": {"examples": 4, "accuracy": 1.0}, "last": {"examples": 4, "accuracy": 0.75}}
    assert falls(student, teacher) == pytest.approx({"first": 0.5, "last": -0.25})
