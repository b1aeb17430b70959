"""Labels that look wrong, by a linear model and confident learning. `pytest tests/jobs/test_confident_learning.py`"""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contracts.learning import Learning
from jobs.tasks import learning_of, linear
from jobs.tasks.confident_learning import doubtful, wrong_labels
from jobs.tasks.linear import FOLDS, affordable, folds, out_of_fold
from serve.tasks.classification import Classification

ENGLISH = (
    (("invoice", "payment", "refund", "charged", "card"), ("my", "the", "was", "please", "again", "twice", "today")),
    (("parcel", "courier", "delivery", "late", "address"), ("my", "the", "was", "please", "again", "still", "today")),
)
CHINESE = (
    (("退款", "扣费", "发票", "账单", "付款"), ("我的", "请问", "今天", "已经", "了", "怎么")),
    (("快递", "包裹", "物流", "地址", "派送"), ("我的", "请问", "今天", "还没", "到", "怎么")),
)


def planted(
    kinds: tuple[tuple[tuple[str, ...], ...], ...], gap: str, rows: int, flipped: int
) -> tuple[list[str], np.ndarray, set[int]]:
    """Texts of two labels, told by words, and the places of those whose label is the other one's."""
    rng = random.Random(1)
    true_N = np.array([number % 2 for number in range(rows)])
    texts = []
    for label in true_N:
        telling, common = kinds[label]
        words = rng.sample(telling, 2) + rng.choices(common, k=rng.randint(3, 7))
        rng.shuffle(words)
        texts.append(gap.join(words))
    places = set(rng.sample(range(rows), flipped))
    return texts, np.array([1 - label if place in places else label for place, label in enumerate(true_N)]), places


@pytest.mark.parametrize(("kinds", "gap"), [(ENGLISH, " "), (CHINESE, "")], ids=["English", "Chinese"])
def test_planted_labels_are_found(kinds: tuple[tuple[tuple[str, ...], ...], ...], gap: str) -> None:
    texts, given_N, places = planted(kinds, gap, rows=400, flipped=12)
    spec = Classification(labels=("money", "parcel"))
    columns = {"text": texts, "label": [spec.labels[label] for label in given_N]}
    found = learning_of("classification").suspicious(spec, columns, 50)
    assert found is not None and found.looked_at == 400
    assert {row.place for row in found.rows[:12]} == places and 8 <= found.found <= 12
    for row in found.rows[:12]:
        assert row.given == columns["label"][row.place] != row.likely
        assert row.given_probability < row.likely_probability <= 1


def test_of_pairs_both_texts_tell() -> None:
    told, given_N, places = planted(ENGLISH, " ", rows=300, flipped=6)
    spec = Classification(labels=("a", "b"), pairs=True)
    columns = {"text": ["the same for all"] * 300, "pair": told, "label": [spec.labels[label] for label in given_N]}
    found = learning_of("classification").suspicious(spec, columns, 6)
    assert found is not None and {row.place for row in found.rows} == places


def test_rows_without_a_label_and_rare_labels_are_left_out() -> None:
    texts, given_N, places = planted(ENGLISH, " ", rows=200, flipped=4)
    labels: list[str | None] = [("a", "b")[label] for label in given_N]
    spec = Classification(labels=("a", "b", "rare"))
    columns: dict[str, Sequence[str | None]] = {
        "text": ["nobody knows what this is", *texts, *["a rare one indeed"] * (FOLDS - 1)],
        "label": [None, *labels, *["rare"] * (FOLDS - 1)],
    }
    found = learning_of("classification").suspicious(spec, columns, 4)
    assert found is not None and found.looked_at == 200
    assert {row.place - 1 for row in found.rows} == places


@pytest.mark.parametrize("labels", [[0] * 30, [0, 1] * (FOLDS - 1), [0] * 30 + [1] * (FOLDS - 1), []])
def test_with_fewer_than_two_labels_to_learn_nothing_is_looked_at(labels: list[int]) -> None:
    items = [(f"text {place}",) for place in range(len(labels))]
    found = wrong_labels(items, np.array(labels, dtype=np.int64), ("a", "b"), 50)
    assert (found.rows, found.found, found.looked_at) == ((), 0, 0)


def test_texts_that_share_nothing_make_no_one_suspicious() -> None:
    items = [(chr(0x4E00 + place),) for place in range(40)]
    found = wrong_labels(items, np.arange(40) % 2, ("a", "b"), 50)
    assert (found.found, found.looked_at) == (0, 40)


def test_a_kind_that_has_no_such_model_says_nothing() -> None:
    assert Learning().suspicious(None, {}, 50) is None


def test_what_is_learned_from_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [("word " * 1_000,)] * 20
    assert affordable(items, 2) == 20, "of a long text the beginning counts"
    monkeypatch.setattr(linear, "CHARACTERS", 7_500)
    assert affordable(items, 2) == 7
    monkeypatch.setattr(linear, "CHARACTERS_TIMES_MODELS", 25_000)
    assert (affordable(items, 5), affordable(items, 10), affordable(items[:1], 10)) == (5, 2, 1)


def test_no_item_is_told_by_a_model_that_has_seen_it() -> None:
    # Each text has a word of its own and nothing else to tell its label: whoever has seen it would know.
    items = [(f"word{place} word{place}x",) for place in range(200)]
    given_N = np.random.default_rng(0).integers(0, 2, 200)
    told_N = out_of_fold(items, given_N, 2).argmax(1)
    assert (told_N == given_N).mean() < 0.6


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_each_part_has_as_many_of_each_label(labels: list[int]) -> None:
    labels_N = np.array(labels)
    fold_N = folds(labels_N)
    for label in set(labels):
        counts = np.bincount(fold_N[labels_N == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1


def by_the_book(probabilities: list[list[float]], labels: list[int]) -> list[int]:
    """The off-diagonal of the confident joint, one item after another, ranked by normalised margin (Northcutt et al. 2021)."""
    classes = range(len(probabilities[0]))
    thresholds = {}
    for label in set(labels):
        own = [told[label] for told, bears in zip(probabilities, labels, strict=True) if bears == label]
        thresholds[label] = sum(own) / len(own)
    found = []
    for place, (told, label) in enumerate(zip(probabilities, labels, strict=True)):
        passed = [other for other in classes if other in thresholds and told[other] >= thresholds[other]]
        margin = told[label] - max(told[other] for other in classes if other != label)
        if passed and max(passed, key=lambda other: told[other]) != label and margin < 0:
            found.append((margin, place))
    return [place for _, place in sorted(found)]


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(10, 80))
def test_the_order_is_that_of_a_plain_reference(seed: int, classes: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    given_N = generator.integers(0, classes, rows)
    probabilities_NC = generator.dirichlet(np.full(classes, 0.6), rows)
    places, found = doubtful(probabilities_NC, given_N)
    assert places[:found].tolist() == by_the_book(probabilities_NC.tolist(), given_N.tolist())
    others = places[found:]
    assert all(probabilities_NC[place].argmax() != given_N[place] for place in others)
    assert len(places) == (probabilities_NC.argmax(1) != given_N).sum()
