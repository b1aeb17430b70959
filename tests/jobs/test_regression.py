"""A number for a text or a pair: figures are scikit-learn's and scipy's, the scale the training split's, bad numbers are told.

pytest tests/jobs/test_regression.py
"""

import gzip
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from sklearn import metrics
from torch.nn import functional

from jobs.contracts.learning import Targets
from jobs.core.config import BadInput
from jobs.tasks.number_figures import JudgedNumbers, errors_by_range
from jobs.tasks.number_targets import number_of
from jobs.tasks.regression import LEARNING, NumberCriterion, RegressionLoss, RegressionSettings, TeachersNumbers
from serve.tasks import task_of
from serve.tasks.multi_label import MultiLabel
from serve.tasks.protocol import Item, NoOptions
from serve.tasks.regression import Regression
from tests.jobs.tiny import source_problems

STARS = Regression(mean=3.5, deviation=1.0, least=1.0, greatest=5.0)
FREE = Regression(mean=-20.0, deviation=4.0)


def settings_of(**keys: Any) -> RegressionSettings:
    return RegressionSettings(kind="regression", **keys)


def random_numbers(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, answers and how often each row counts; with ties, and some of them are all the same."""
    draw = np.random.default_rng(seed)
    count, digits = int(draw.integers(3, 60)), int(draw.integers(0, 4))
    truth_N = np.round(draw.normal(0, 10.0 ** draw.integers(-2, 4), count), digits)
    said_N = np.round(truth_N * draw.choice([-1, 0, 0.5, 1]) + draw.normal(size=count), digits)
    if seed % 10 == 0:
        (truth_N if seed % 20 else said_N).fill(0.1)
    weights_N = draw.integers(0, 4, size=count)
    weights_N[:2] = 1
    return truth_N, said_N, weights_N


def test_figures_are_those_of_scikit_learn_and_scipy_on_a_thousand_random_cases() -> None:
    constant = 0
    for seed in range(1000):
        truth_N, said_N, weights_N = random_numbers(seed)
        weights = weights_N if seed % 2 else None
        again = weights_N if seed % 2 else np.ones(len(truth_N), dtype=int)
        true_M, said_M = np.repeat(truth_N, again), np.repeat(said_N, again)
        expected = {
            "rmse": metrics.root_mean_squared_error(truth_N, said_N, sample_weight=weights),
            "mae": metrics.mean_absolute_error(truth_N, said_N, sample_weight=weights),
        }
        if np.ptp(true_M) and np.ptp(said_M):
            expected |= {"pearson": stats.pearsonr(true_M, said_M)[0], "spearman": stats.spearmanr(true_M, said_M)[0]}
        else:
            constant += 1
            expected |= {"pearson": 0.0, "spearman": 0.0}
        judged = JudgedNumbers(truth_N, said_N, 1.0)
        for name, value in expected.items():
            assert judged.figure(name, weights) == pytest.approx(value, rel=1e-12, abs=1e-12), (seed, name)
    assert constant >= 100


def test_figures_of_nothing_and_of_one_row() -> None:
    nothing, one = JudgedNumbers(np.zeros(0), np.zeros(0), 1.0), JudgedNumbers(np.ones(1), np.full(1, 3.0), 1.0)
    assert [nothing.figure(metric.name) for metric in LEARNING.metrics] == [0, 0, 0, 0]
    assert [one.figure(metric.name) for metric in LEARNING.metrics] == [2, 2, 0, 0]
    assert one.goodness_N.tolist() == pytest.approx([1 / 3])


def test_answers_are_in_the_users_units_and_cut_to_the_bounds() -> None:
    raw_N1 = np.array([[0.0], [-1.25], [9.0], [-9.0]], dtype=np.float32)
    items = [Item((str(number),)) for number in range(4)]
    assert [answer.value for answer in STARS.answers(STARS.settled(raw_N1, {}), items)] == [3.5, 2.25, 5.0, 1.0]
    assert [answer.value for answer in FREE.answers(raw_N1, items)] == [-20.0, -25.0, 16.0, -56.0]
    assert STARS.answers(STARS.stacked([]), []) == [] and STARS.confidence(raw_N1) is None
    assert STARS.wrong_output(raw_N1[0]) is None and STARS.wrong_output(np.zeros(2)) is not None
    assert STARS.told({"value": 3.4567}) == "3.46" and FREE.told({"value": -0.001}) == "0.00"
    assert Regression(mean=0, deviation=1234.5).told({"value": 98765.4321}) == "98765"
    answer = STARS.answers(raw_N1[:1], items[:1])[0]
    assert STARS.cells(answer, wide=True) == {"predicted": 3.5} and STARS.columns(True) == {"predicted": float}


def test_what_is_the_same_and_how_far_apart_is_counted_in_deviations() -> None:
    left, right = np.array([[0.0], [0.0], [9.0]]), np.array([[0.09], [0.5], [7.0]])
    assert FREE.same(left, right).tolist() == [True, False, False]
    assert FREE.distance(left, right).tolist() == pytest.approx([0.09, 0.5, 2.0])
    assert STARS.same(left, right).tolist() == [True, False, True], "both are cut to the greatest"


@settings(max_examples=200, deadline=None)
@given(
    mean=st.floats(-1e9, 1e9),
    size=st.floats(-6, 9),
    bounds=st.one_of(st.none(), st.tuples(st.floats(-3, -0.1), st.floats(0.1, 3))),
    raw=st.lists(st.floats(-4, 4), min_size=1, max_size=9),
)
def test_each_number_is_in_the_range_that_says_so(
    mean: float, size: float, bounds: tuple[float, float] | None, raw: list[float]
) -> None:
    deviation = 10.0**size
    low, high = (None, None) if bounds is None else (mean + bounds[0] * deviation, mean + bounds[1] * deviation)
    task = Regression(mean=mean, deviation=deviation, least=low, greatest=high)
    outputs = np.array(raw)[:, None]
    assert len(set(task.sayings)) == len(task.sayings) <= 10
    for value, said in zip(task.values(outputs).tolist(), task.said(outputs), strict=True):
        assert said in task.sayings
        words = said.split()
        if words[0] == "below":
            assert value < float(words[1])
        elif words[-1] == "more":
            assert value >= float(words[0])
        elif words[1] == "to":
            assert float(words[0]) <= value < float(words[2])


def test_ranges_have_a_tenth_each_of_a_normal_distribution() -> None:
    raw_N = np.random.default_rng(0).normal(size=20_000)
    shares = [FREE.said(raw_N[:, None]).count(name) / 20_000 for name in FREE.sayings]
    assert len(shares) == 10 and shares == pytest.approx([0.1] * 10, abs=0.02)


def test_another_scale_of_the_same_numbers_is_brought_to_this_one() -> None:
    other = Regression(mean=3.0, deviation=0.5, least=1.0, greatest=5.0)
    raw_N1 = np.array([[0.0], [2.0]], dtype=np.float32)
    assert STARS.unlike(other) is None
    assert STARS.values(STARS.aligned(raw_N1, other)).tolist() == pytest.approx(other.values(raw_N1).tolist())
    assert "1 and 5" in str(STARS.unlike(Regression(mean=3.5, deviation=1.0)))
    assert STARS.unlike(STARS.model_copy(update={"pairs": True})) is not None
    assert STARS.unlike(MultiLabel(labels=("a", "b"))) is not None
    assert task_of(STARS.model_dump(mode="json")) == STARS
    with pytest.raises(ValidationError, match="not below greatest"):
        Regression(mean=0, deviation=1, least=2, greatest=2)


def test_what_a_part_does_is_told_in_the_users_units() -> None:
    outputs = np.array([[1.0], [0.5], [1.25]])
    explained = FREE.evidence(outputs, [], NoOptions())
    assert explained.whole == {"value": -16.0}
    assert [(part.attribution, part.value_without) for part in explained.parts] == [(2.0, -18.0), (-1.0, -15.0)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("4.5", 4.5),
        (" 4.5 ", 4.5),
        ("－４．５", -4.5),
        ("３", 3.0),
        ("\N{MINUS SIGN}2", -2.0),
        ("1e3", 1000.0),
        (7, 7.0),
        (Decimal("0.25"), 0.25),
        ("", None),
        ("  ", None),
        ("nan", None),
        (math.nan, None),
        (None, None),
    ],
)
def test_numbers_as_people_write_them(value: Any, number: float | None) -> None:
    assert number_of(value) == number


NO_NUMBERS = ("abc", "3,5", "1,234.5", "inf", "-Infinity", math.inf, "1_000", "5²", "½", "12%", "true", "1e200")


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match="is no .*number") as told:
        number_of(value)
    assert str(value) in str(told.value)
    if value == "3,5":
        assert "write 3.5" in str(told.value)


def test_rows_outside_of_the_bounds_are_wrong() -> None:
    frame = pd.DataFrame({"score": ["3", "0.5", "7", "", "x"]})
    found: Targets = LEARNING.targets(settings_of(value="score", least=1, greatest=5), frame)
    assert found.columns == {"value": [3.0, None, None, None, None]}
    assert set(found.wrong) == {1, 2, 4} and "below least: 1" in found.wrong[1] and "above greatest: 5" in found.wrong[2]
    with pytest.raises(ValidationError, match="not below greatest"):
        settings_of(least=5, greatest=1)


def test_a_wrong_number_is_told_by_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,score\r\nfine,4.5\r\nso so,\r\nbad,three\r\nworse,１．５\r\n")
    (problem,) = source_problems({"train": str(tmp_path / "rows.csv")}, {"kind": "regression", "value": "score"})
    assert (problem.path, problem.value) == ("task.value", "score")
    assert "row 3 of" in problem.reason and "rows.csv" in problem.reason and "'three' is no number" in problem.reason
    (tmp_path / "rows.csv").write_text("text,score\nfine,4.5\nso so,4.5\n")
    (problem,) = source_problems({"train": str(tmp_path / "rows.csv")}, {"kind": "regression", "value": "score"})
    assert problem.path == "task.value" and "all about 4.5" in problem.reason


def test_tables_with_line_ends_of_windows_and_packed_are_read(tmp_path: Path) -> None:
    rows = "one\ttwo\trelated\r\na man runs\ta man walks\t3.7\r\na dog\ta cat\t1\r\n"
    (tmp_path / "rows.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    task = {"kind": "regression", "value": "related", "pair": "two"}
    assert source_problems({"train": str(tmp_path / "rows.tsv.gz")}, task, text="one") == []


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e8])
def test_the_scale_comes_from_sums_of_parts_in_any_order(offset: float) -> None:
    values_N = np.random.default_rng(3).normal(offset, 10 + abs(offset) / 1e3, 3000)
    specs = []
    for parts in (1, 7, 300):
        sums: dict[str, float] = {}
        for part in np.array_split(np.random.default_rng(parts).permutation(values_N), parts):
            for name, value in LEARNING.statistics(settings_of(), {"value": [*part.tolist(), None]}).items():
                sums[name] = sums.get(name, 0) + value
        specs.append(LEARNING.spec(settings_of(pair="b"), {"train": sums}))
    assert len(set(specs)) == 1 and specs[0].pairs
    assert specs[0].mean == pytest.approx(values_N.mean(), abs=1e-4 * values_N.std())
    assert specs[0].deviation == pytest.approx(values_N.std(), rel=1e-4)
    assert LEARNING.summary(None, sums)["numbers"] == 3000


@pytest.mark.parametrize("values", [[0.1] * 900, [1e8 + 1e-3, 1e8], [5.0]])
def test_numbers_that_are_all_alike_make_no_task(values: list[float]) -> None:
    sums = LEARNING.statistics(settings_of(), {"value": values})
    with pytest.raises(BadInput, match="all about"):
        LEARNING.spec(settings_of(), {"train": sums})
    with pytest.raises(BadInput, match="no row of the training split has a number"):
        LEARNING.spec(settings_of(), {"test": sums})


def test_truth_may_be_any_number_and_is_learned_standardised() -> None:
    truth_N = LEARNING.truth(FREE, {"value": [-100.0, None, -20.0]})
    assert LEARNING.known(truth_N).tolist() == [True, False, True], "-100 is a number like others"
    windows: Any = [None]
    standardised = [LEARNING.window_targets(FREE, target, Item(("a",)), windows)[0] for target in truth_N]
    labels_B = torch.from_numpy(np.stack(standardised))
    outputs = torch.tensor([[-19.0], [0.5], [1.0]])
    batch = {"labels": labels_B}
    assert float(NumberCriterion().loss(outputs, batch)) == pytest.approx(2.0) and NumberCriterion().count(batch) == 3
    huber = functional.huber_loss(torch.tensor([1.0, 1.0]), torch.zeros(2), reduction="sum", delta=0.5)
    torch.testing.assert_close(NumberCriterion(0.5).loss(outputs, batch), huber)
    assert LEARNING.criterion(FREE, RegressionLoss(huber_delta=0.5), truth_N).huber_delta == 0.5
    assert LEARNING.training_answers(FREE, truth_N) == [FREE.sayings[0], FREE.sayings[5]]
    assert float(LEARNING.losses(FREE, outputs.numpy()[:1], truth_N[:1])[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_students_learn_the_mean_of_their_teachers(loss: str) -> None:
    teachers_BK1, weights_K = torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]]), torch.tensor([0.25, 0.75])
    outputs = torch.tensor([[0.5], [0.2]])
    found = TeachersNumbers(loss, weights_K).loss(outputs, {"teacher": teachers_BK1}, torch.tensor(2.0))
    usual = functional.mse_loss if loss == "mse" else functional.huber_loss
    torch.testing.assert_close(found, usual(outputs[:, 0], torch.tensor([2.5, 0.0]), reduction="sum"))


def test_errors_by_range_and_what_is_right() -> None:
    truth_N, said_N = np.array([1.0, 1.5, 3.5, 5.0]), np.array([2.0, 1.5, 3.0, 4.5])
    raw = ((said_N - STARS.mean) / STARS.deviation)[:, None]
    judged = LEARNING.judged(STARS, raw, truth_N)
    rows = errors_by_range(judged, STARS.ranges(truth_N), STARS.sayings)
    told = [(row["examples"], row["mean_error"], row["mae"]) for row in rows]
    assert told == [(2, 0.5, 0.5), (1, -0.5, 0.5), (1, -0.5, 0.5)]
    assert rows == LEARNING.further(STARS, raw, raw, truth_N)["by_range"]
    assert sum(mask_N.sum() for mask_N in LEARNING.slices(STARS, truth_N).values()) == 4
    assert LEARNING.is_right(STARS, {"value": 3.0}, 3.4) and not LEARNING.is_right(STARS, {"value": 3.0}, 3.6)
    assert LEARNING.expected(STARS, np.float64(3.456)) == "3.46"
    assert LEARNING.questions(STARS, np.array([5.0, 1.0, 2.0, 4.0, 3.0]), 3) == [1, 4, 0]
    assert LEARNING.questions(STARS, truth_N, 9) == [0, 1, 2, 3]


def test_what_people_say_is_right_is_a_number_within_the_bounds() -> None:
    spec = Regression(mean=3.0, deviation=2.0, least=1.0, greatest=5.0)
    assert spec.right(4) == {"value": 4.0} and spec.right(spec.right_example())["value"] == 3.0
    assert [spec.goodness({"value": 4.0}, spec.right(right)) for right in (4.0, 2.0)] == [1.0, 0.5]
    for said, told in (
        ("4", "Give a number"),
        (True, "Give a number"),
        (math.nan, "Give a number"),
        (0.5, "least number, 1"),
        (6, "greatest"),
    ):
        with pytest.raises(ValueError, match=told):
            spec.right(said)
