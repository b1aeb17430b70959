"""Slices of a split, by target and by length. `pytest tests/jobs/test_slices.py`"""

import numpy as np
import pytest

from jobs.judging.slices import falls, goodness, slices_of
from jobs.tasks.classification import LEARNING
from tests.jobs.tiny import classification


def test_slices_by_target_and_by_quarters_of_the_lengths() -> None:
    """100 texts of 1 to 100 characters; one label has every fifth of them, one only three."""
    labels = ["rare" if n in (7, 8, 9) else "spam" if n % 5 == 0 else "ham" for n in range(100)]
    spec = classification(("spam", "ham", "rare"))
    slices = slices_of(range(1, 101), LEARNING.slices(spec, LEARNING.truth(spec, {"label": labels})))
    sizes = {name: int(mask.sum()) for name, mask in slices.items()}
    quarters = {"1–25 characters": 25, "26–50 characters": 25, "51–75 characters": 25, "76–100 characters": 25}
    assert sizes == {"label ham": 77, "label spam": 20, **quarters}, "three examples are no slice"
    assert list(sizes)[:2] == ["label ham", "label spam"] and slices["26–50 characters"][25:50].all()


def test_slices_by_columns_that_were_kept() -> None:
    columns: dict[str, list[str | None]] = {"source": ["web"] * 30 + ["post"] * 25 + [None] * 20, "country": ["NL"] * 75}
    slices = slices_of([1] * 75, {}, columns)
    assert {name: int(mask.sum()) for name, mask in slices.items() if not name.startswith("1")} == {
        "source post": 25,
        "source web": 30,
        "country NL": 75,
    }


def test_texts_of_one_length_are_one_slice() -> None:
    assert {name: int(mask.sum()) for name, mask in slices_of([2] * 30, {}).items()} == {"1–2 characters": 30}


def test_how_right_a_slice_is_and_what_it_lost() -> None:
    """Answers may be right in part."""
    slices = {"first": np.array([True] * 4 + [False] * 4), "last": np.array([False] * 4 + [True] * 4)}
    teacher = goodness(slices, np.array([1.0] * 7 + [0.0]))
    student = goodness(slices, np.array([1.0, 0.5, 0.5, 0.0] + [1.0] * 4))
    assert teacher == {"first": {"examples": 4, "goodness": 1.0}, "last": {"examples": 4, "goodness": 0.75}}
    assert falls(student, teacher) == pytest.approx({"first": 0.5, "last": -0.25})
