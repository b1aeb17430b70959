"""Labels with an order: figures are scikit-learn's, probabilities fall from step to step, labels without a place are told.

pytest tests/jobs/test_ordinal.py
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn import metrics
from torch.nn import functional

from jobs.contracts.learning import MISSING
from jobs.core.config import BadInput
from jobs.tasks.ordinal import LEARNING, OrdinalSettings
from jobs.tasks.rank_figures import JudgedRanks
from serve.tasks.ordinal import Ordinal
from serve.tasks.protocol import Item
from serve.tasks.shared.labels import Options, Target
from serve.tasks.shared.probabilities import sigmoid
from tests.jobs.tiny import source_problems

GRADES = Ordinal(labels=("bad", "fair", "good"))
ITEMS = [Item((str(number),)) for number in range(9)]


def settings_of(**keys: Any) -> OrdinalSettings:
    return OrdinalSettings(kind="ordinal", **keys)


def test_figures_are_those_of_scikit_learn_on_a_thousand_random_cases() -> None:
    undefined = 0
    for seed in range(1000):
        draw = np.random.default_rng(seed)
        count, classes = int(draw.integers(1, 50)), int(draw.integers(2, 8))
        truth_N = draw.integers(0, draw.integers(1, classes + 1), size=count)
        said_N = np.where(draw.random(count) < draw.random(), truth_N, draw.integers(0, classes, size=count))
        draws = draw.integers(0, 4, size=count)
        weights_N = draws if draws.any() else np.ones(count, dtype=int)
        weights = weights_N if seed % 2 else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kappa = metrics.cohen_kappa_score(
                truth_N, said_N, labels=range(classes), weights="quadratic", sample_weight=weights
            )
        undefined += bool(np.isnan(kappa))
        steps_N = np.abs(truth_N - said_N)
        expected = {
            "quadratic_weighted_kappa": 0.0 if np.isnan(kappa) else kappa,
            "accuracy": metrics.accuracy_score(truth_N, said_N, sample_weight=weights),
            "within_one": metrics.accuracy_score(np.zeros(count), np.maximum(steps_N - 1, 0), sample_weight=weights),
            "rank_mae": metrics.mean_absolute_error(truth_N, said_N, sample_weight=weights),
        }
        judged = JudgedRanks(truth_N, said_N, classes)
        again = weights_N if seed % 2 else np.ones(count, dtype=int)
        repeated = JudgedRanks(np.repeat(truth_N, again), np.repeat(said_N, again), classes)
        for name, value in expected.items():
            assert judged.figure(name, weights) == pytest.approx(value, abs=1e-12), (seed, name)
            assert repeated.figure(name) == pytest.approx(value, abs=1e-12), (seed, name)
    assert undefined, "a single label that is always given is among them"


def test_figures_of_nothing() -> None:
    nothing = JudgedRanks(np.zeros(0, int), np.zeros(0, int), 3)
    assert [nothing.figure(metric.name) for metric in LEARNING.metrics] == [0, 0, 0, 0]
    assert JudgedRanks(np.array([0, 0, 2]), np.array([0, 1, 0]), 3).goodness_N.tolist() == [1, 0.5, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=7), st.floats(0.05, 20))
def test_probabilities_are_of_one_distribution_and_the_answer_is_its_median(logits: list[float], temperature: float) -> None:
    task = Ordinal(labels=tuple(f"label {number}" for number in range(len(logits) + 1)))
    raw = np.array([logits], dtype=np.float32)
    settled = task.settled(raw, {"temperature": temperature})
    (probability_C,) = task.probabilities(settled)
    assert probability_C.min() >= 0 and probability_C.sum() == pytest.approx(1)
    (place,) = task.places(settled).tolist()
    assert place == task.places(raw)[0] == sum(logit > 0 for logit in raw[0]), "neither order nor temperature moves it"
    assert probability_C[place:].sum() >= 0.5 - 1e-9 and probability_C[place + 1 :].sum() <= 0.5 + 1e-9
    assert task.confidence(settled)[0] == pytest.approx(probability_C[place])
    assert task.distance(raw, task.settled(raw, {}))[0] == pytest.approx(0, abs=1e-9), "what is not settled yet is read alike"


def test_steps_that_are_in_order_are_what_the_model_says() -> None:
    logits_NR = np.array([[2.0, -1.0], [-1.0, 2.0], [0.5, 0.25]], dtype=np.float32)
    above_NR = sigmoid(np.array([[2.0, -1.0], [2.0, -1.0], [0.5, 0.25]]))
    expected = np.stack([1 - above_NR[:, 0], above_NR[:, 0] - above_NR[:, 1], above_NR[:, 1]], axis=1)
    np.testing.assert_allclose(GRADES.probabilities(logits_NR), expected, atol=1e-7)
    answers = GRADES.answers(GRADES.settled(logits_NR, {}), ITEMS[:3], Options(top_k=2))
    assert [answer.label for answer in answers] == ["fair", "fair", "good"] == GRADES.said(logits_NR)
    assert [len(answer.probabilities) for answer in answers] == [2, 2, 2]
    assert answers[0].probability == pytest.approx(expected[0, 1]) and answers[0].probabilities[0].label == "fair"
    assert GRADES.same(logits_NR[:2], logits_NR[1:]).tolist() == [True, False]
    assert GRADES.answers(GRADES.stacked([]), []) == [] and len(GRADES.confidence(GRADES.stacked([]))) == 0
    explained = GRADES.evidence(logits_NR, ITEMS[:3], Target())
    assert explained.whole == {"label": "fair", "probability": pytest.approx(expected[0, 1])} and len(explained.parts) == 2
    assert GRADES.evidence(logits_NR, ITEMS[:3], Target(label="good")).whole["label"] == "good"
    assert GRADES.wrong_output(logits_NR[0]) is None and "2 steps" in str(GRADES.wrong_output(np.zeros(3)))
    assert GRADES.wrong_fitted({"temperature": 2.0}) is None and GRADES.wrong_fitted({"threshold bad": 0.5}) is not None


def test_another_order_is_another_task() -> None:
    assert "another order" in str(GRADES.unlike(Ordinal(labels=("good", "fair", "bad"))))
    assert "'good'" in str(GRADES.unlike(Ordinal(labels=("bad", "fair", "great"))))
    assert GRADES.unlike(Ordinal(labels=("bad", "fair", "good"))) is None


def targets(values: list[Any], **keys: Any) -> tuple[list[Any], dict[int, str]]:
    found = LEARNING.targets(settings_of(**keys), pd.DataFrame({"label": pd.Series(values, dtype=object)}))
    return found.columns["label"], found.wrong


def test_labels_find_their_place() -> None:
    order = ["bad", "fair", "good"]
    assert targets(["good", " bad ", "", None, "fair"], order=order) == (["good", "bad", None, None, "fair"], {})
    made, wrong = targets(["good", "awful"], order=order)
    assert made == ["good", None] and list(wrong) == [1]
    assert "'awful' is not in order: [bad, fair, good]" in wrong[1] and "names" in wrong[1]
    assert targets(["0", 2.0, "awful"], names={0: "bad", 2: "good", "awful": "bad"}, order=order) == (
        ["bad", "good", "bad"],
        {},
    )
    assert targets([1, 5.0, "3.0", "０４", "-1"]) == (["1", "5", "3", "4", "-1"], {})
    assert targets(["1.0", 2], order=[1, 2, 3]) == (["1", "2"], {})
    made, wrong = targets(["1", "2.5", "good"])
    assert made == ["1", None, None] and set(wrong) == {1, 2} and "write order:" in wrong[2]


@pytest.mark.parametrize("order", [["bad"], ["bad", "good", "bad"], ["bad", ""], [1, "1"], [["bad"], "good"], "bad"])
def test_an_order_names_each_label_once(order: Any) -> None:
    with pytest.raises(ValidationError):
        settings_of(order=order)


def test_the_task_has_the_labels_in_their_order() -> None:
    counts = {"train": {"10": 3.0, "2": 4.0, "-1": 1.0}, "test": {"2": 9.0}}
    assert LEARNING.spec(settings_of(), counts) == Ordinal(labels=("-1", "2", "10"))
    named = settings_of(order=["bad", "fair", "good"], pair="other")
    spec = LEARNING.spec(named, {"train": {"good": 3.0, "bad": 1.0}, "test": {"fair": 1.0}})
    assert spec == Ordinal(labels=("bad", "fair", "good"), pairs=True), "fair is in no training row, and has its place"
    with pytest.raises(BadInput, match="not in the training set"):
        LEARNING.spec(settings_of(), {**counts, "test": {"3": 1.0}})
    with pytest.raises(BadInput, match="fewer than two labels"):
        LEARNING.spec(named, {"train": {"good": 3.0}})
    truth_N = LEARNING.truth(spec, {"label": ["good", None, "bad"]})
    assert truth_N.tolist() == [2, MISSING, 0] and LEARNING.known(truth_N).tolist() == [True, False, True]
    assert LEARNING.training_answers(spec, truth_N) == ["good", "bad"]
    assert LEARNING.questions(spec, np.array([2, 2, 0, 1, 0]), 4) == [2, 3, 0, 4]
    assert LEARNING.expected(spec, np.int64(2)) == "good" and LEARNING.is_right(spec, {"label": "good"}, np.int64(2))


@pytest.mark.parametrize(("task", "told"), [({"order": ["bad", "good"]}, "not in order"), ({}, "no whole number")])
def test_a_label_without_a_place_is_told_by_file_and_row(tmp_path: Path, task: dict[str, Any], told: str) -> None:
    (tmp_path / "rows.csv").write_text("text,grade\n" + "".join(f"t{n},{label}\n" for n, label in enumerate(["bad", "fair"])))
    problems = source_problems(str(tmp_path / "rows.csv"), {"kind": "ordinal", "label": "grade", **task})
    assert [problem.path for problem in problems] == ["task.label"]
    (reason,) = (problem.reason for problem in problems)
    assert told in reason and f"row {2 if task else 1} of" in reason and "rows.csv" in reason


def test_labels_that_train_lacks_are_told_where_no_order_names_them(tmp_path: Path) -> None:
    for name, labels in {"train": (1, 2, 5), "test": (1, 3)}.items():
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"{name} {one},{one}\n" for one in labels))
    source = {name: str(tmp_path / f"{name}.csv") for name in ("train", "test")}
    (problem,) = source_problems(source, {"kind": "ordinal"})
    assert (problem.path, problem.value) == ("source.test", "3")
    assert source_problems(source, {"kind": "ordinal", "order": [1, 2, 3, 4, 5]}) == []


def test_each_step_is_a_yes_or_no() -> None:
    windows: Any = [None]
    targets_R = [LEARNING.window_targets(GRADES, np.int64(place), ITEMS[0], windows)[0] for place in (0, 1, 2, MISSING)]
    assert [one.tolist() for one in targets_R] == [[0, 0], [1, 0], [1, 1], [MISSING, MISSING]]
    logits_BR = torch.randn((4, 2), generator=torch.Generator().manual_seed(0))
    batch = {"labels": torch.from_numpy(np.stack(targets_R))}
    criterion = LEARNING.criterion(GRADES, LEARNING.Loss(), np.zeros(0))
    expected = functional.binary_cross_entropy_with_logits(logits_BR[:3], batch["labels"][:3].float(), reduction="sum")
    torch.testing.assert_close(criterion.loss(logits_BR, batch), expected)
    losses_N = LEARNING.losses(GRADES, logits_BR.numpy()[:3], np.array([0, 1, 2]))
    assert losses_N.sum() == pytest.approx(float(expected) / 2, rel=1e-6)
    assert LEARNING.head(GRADES)["id2label"] == {0: "above bad", 1: "above fair"}


def test_the_temperature_is_that_of_the_yes_and_no_of_each_step() -> None:
    draw = np.random.default_rng(0)
    logits_NR = draw.normal(0, 2, (4000, 2))
    logits_NR = -np.sort(-logits_NR, axis=1)
    # Labels drawn by these probabilities; the model says three times as much.
    reached = GRADES.probabilities(logits_NR).cumsum(axis=1)
    truth_N = (draw.random((4000, 1)) > reached[:, :-1]).sum(axis=1)
    fitted, figures = LEARNING.fit(GRADES, (3 * logits_NR).astype(np.float32), truth_N)
    assert fitted == {"temperature": pytest.approx(3.0, rel=0.1)}
    assert figures["calibration_error"] < 0.03 < figures["calibration_error_unscaled"]
    settled = GRADES.settled(3 * logits_NR, fitted)
    further = LEARNING.further(GRADES, 3 * logits_NR, settled, truth_N)
    assert further["calibration_error"] == pytest.approx(figures["calibration_error"], abs=1e-4)
    assert np.array(further["confusion"]).sum() == 4000 and np.array(further["confusion"]).shape == (3, 3)


def test_what_people_say_is_right_counts_by_the_steps_between() -> None:
    assert GRADES.right("fair") == {"label": "fair"} and GRADES.choices == GRADES.labels
    answer = {"label": "bad"}
    assert [GRADES.goodness(answer, GRADES.right(label)) for label in GRADES.labels] == [1.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="it has bad, fair, good"):
        GRADES.right("better")


def test_long_texts_may_be_read_whole() -> None:
    spec = LEARNING.spec(settings_of(long="windows"), {"train": {"1": 3, "2": 4, "3": 2}})
    assert spec.windows and not GRADES.windows
    pooled = spec.combine([[0] * 30, [0] * 10], [np.array([2.0, -1.0]), np.array([0.0, 1.0])], ITEMS[0])  # type: ignore[list-item]
    np.testing.assert_allclose(pooled, [1.5, -0.5])
    with pytest.raises(ValidationError, match="leave long out"):
        settings_of(long="windows", pair="b")
