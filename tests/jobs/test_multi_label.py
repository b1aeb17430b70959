"""Several labels for a text: figures are scikit-learn's, thresholds the best, the loss the usual script's.

pytest tests/jobs/test_multi_label.py
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn import metrics
from torch.nn import functional

from jobs.contracts.learning import MISSING
from jobs.core.config import BadInput
from jobs.losses.answers import sigmoid_kl, sigmoid_mixture
from jobs.tasks.label_sets import JudgedSets, best_thresholds, rates_of_sets
from jobs.tasks.multi_label import LEARNING, MultiLabelSettings
from jobs.tasks.yes_or_no import EachDecision, SigmoidCriterion
from serve.tasks.multi_label import NONE_OF_THEM, MultiLabel
from serve.tasks.protocol import Item
from serve.tasks.shared.probabilities import sigmoid
from tests.jobs.tiny import source_problems

TASK = MultiLabel(labels=("anger", "joy", "love"))


def random_sets(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """truth_NC and given_NC; some texts and labels are bare."""
    draw = np.random.default_rng(seed)
    shape = int(draw.integers(1, 40)), int(draw.integers(2, 9))
    share_C = draw.choice([0.0, 0.1, 0.5, 1.0], size=shape[1])
    return (draw.random(shape) < share_C).astype(np.int64), draw.random(shape) < draw.choice([0.0, 0.2, 0.6])


def test_figures_are_those_of_scikit_learn_on_a_thousand_random_cases() -> None:
    for seed in range(1000):
        truth_NC, given_NC = random_sets(seed)
        draws = np.random.default_rng(seed).integers(0, 4, size=len(truth_NC))
        weights_N = draws if draws.any() else np.ones(len(truth_NC))
        weights = weights_N if seed % 2 else None
        judged = JudgedSets(truth_NC, given_NC)
        # scikit-learn's sample F1 counts texts without labels as its zero_division says.
        empty = {"macro": 0.0, "micro": 0.0, "samples": 1.0}
        expected = {
            f"{average.removesuffix('s')}_f1": metrics.f1_score(
                truth_NC, given_NC, average=average, zero_division=as_one, sample_weight=weights
            )
            for average, as_one in empty.items()
        }
        expected["exact_match"] = metrics.accuracy_score(truth_NC, given_NC, sample_weight=weights)
        expected["hamming_loss"] = metrics.hamming_loss(truth_NC, given_NC, sample_weight=weights)
        for name, value in expected.items():
            assert judged.figure(name, weights) == pytest.approx(value, abs=1e-12), (seed, name)
        named = [str(label) for label in range(truth_NC.shape[1])]
        precision, recall, f1, support = metrics.precision_recall_fscore_support(truth_NC, given_NC, zero_division=0.0)
        for label, own in enumerate(rates_of_sets(named, truth_NC, given_NC)):
            assert (own["precision"], own["recall"], own["f1"], own["support"]) == pytest.approx(
                (precision[label], recall[label], f1[label], support[label]), abs=1e-12
            )


def test_a_weight_counts_a_text_so_often() -> None:
    truth_NC, given_NC = random_sets(5)
    weights_N = np.random.default_rng(0).integers(0, 3, size=len(truth_NC))
    again = JudgedSets(np.repeat(truth_NC, weights_N, axis=0), np.repeat(given_NC, weights_N, axis=0))
    for metric in LEARNING.metrics:
        weighted = JudgedSets(truth_NC, given_NC).figure(metric.name, weights_N)
        assert weighted == pytest.approx(again.figure(metric.name), abs=1e-12), metric.name


@settings(max_examples=60, deadline=None)
@drawn(st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=1, max_size=12))
def test_no_other_threshold_has_a_higher_f1(rows: list[tuple[int, bool]]) -> None:
    logits_N1 = np.array([[logit / 2] for logit, _ in rows])
    truth_N1 = np.array([[int(yes)] for _, yes in rows])
    (found,) = best_thresholds(logits_N1, truth_N1)
    if not truth_N1.any():
        assert found is None
        return
    assert found is not None and 0 < found < 1

    def f1(threshold: float) -> float:
        return JudgedSets(truth_N1, sigmoid(logits_N1) > threshold).figure("micro_f1")

    others = [f1(threshold) for threshold in np.linspace(1e-7, 1 - 1e-7, 400)]
    assert f1(found) == pytest.approx(max(others), abs=1e-12)


def test_what_was_fitted_decides_and_moves_no_probability() -> None:
    logits_NC = np.array([[0.0, -1.0, 2.0], [-3.0, -3.0, -3.0]], dtype=np.float32)
    items = [Item(("a",)), Item(("b",))]
    plain = TASK.settled(logits_NC, {})
    fitted = TASK.settled(logits_NC, {"threshold joy": 0.2, "threshold love": 0.95})
    before, after = TASK.answers(plain, items), TASK.answers(fitted, items)
    assert [answer.labels for answer in before] == [("love",), ()]
    assert [answer.labels for answer in after] == [("joy",), ()]
    assert [answer.probabilities for answer in before] == [answer.probabilities for answer in after]
    assert [one.label for one in before[0].probabilities] == ["love", "anger", "joy"]
    assert before[0].probabilities[0].probability == pytest.approx(1 / (1 + math.exp(-2)))
    assert TASK.same(plain, fitted).tolist() == [False, True]
    assert TASK.distance(plain, fitted).tolist() == [0, 0] and TASK.distance(logits_NC, logits_NC + 1).min() > 0
    assert TASK.said(fitted) == ["joy", NONE_OF_THEM] and set(TASK.said(plain)) <= set(TASK.sayings)
    assert TASK.wrong_fitted({"threshold joy": 1.0}) is not None and TASK.wrong_fitted({"threshold sorrow": 0.5}) is not None
    assert TASK.wrong_fitted({"threshold joy": 0.2}) is None
    sure = TASK.confidence(plain)
    assert sure[0] == pytest.approx(0.5) and sure[1] == pytest.approx(1 - 1 / (1 + math.exp(3)))


def test_another_order_of_the_same_labels_is_the_same_task() -> None:
    other = MultiLabel(labels=("love", "anger", "joy"))
    logits_NC = np.array([[1.0, 2.0, 3.0]])
    assert TASK.unlike(other) is None
    assert np.asarray(TASK.aligned(logits_NC, other)).tolist() == [[2.0, 3.0, 1.0]]
    settled = TASK.aligned(other.settled(logits_NC, {}), other)
    np.testing.assert_array_equal(np.asarray(settled), np.asarray(TASK.settled(TASK.aligned(logits_NC, other), {})))
    assert "love" in str(TASK.unlike(MultiLabel(labels=("anger", "joy", "sorrow"))))
    with pytest.raises(ValidationError, match="rename this label"):
        MultiLabel(labels=("joy", NONE_OF_THEM))


def targets(values: list[Any], **keys: Any) -> tuple[list[list[str]], dict[int, str]]:
    found = LEARNING.targets(
        MultiLabelSettings(kind="multi_label", **keys), pd.DataFrame({"labels": pd.Series(values, dtype=object)})
    )
    return found.columns["labels"], found.wrong


def test_labels_come_as_lists_and_as_texts() -> None:
    assert targets([["joy", "anger", "joy"], [], None, "love", [1, "é"]]) == (
        [["anger", "joy"], [], [], ["love"], ["1", "é"]],
        {},
    )
    assert targets(["joy; love", ";", "joy;joy", 3], separator=";")[0] == [["joy", "love"], [], ["joy"], ["3"]]
    assert targets([[0, 1.0], "0"], names={0: "joy", 1: "love"})[0] == [["joy", "love"], ["joy"]]
    assert targets(["物流、 价格", "、", "价格、价格", "客服 delivery"], separator="、")[0] == [
        ["价格", "物流"], [], ["价格"], ["客服 delivery"],
    ]  # fmt: skip
    assert targets([["质量", 5]], names={"质量": "quality", 5: "好评"})[0] == [["quality", "好评"]]
    assert targets([NONE_OF_THEM])[0] == [[]]
    made, wrong = targets([["joy"], [["joy"]]])
    assert made == [["joy"], []] and "['joy']" in wrong[1]


@pytest.mark.parametrize(
    ("keys", "rows", "told"),
    [
        ({}, ["joy;love", "joy", "love;anger", "anger"], "separator: ';'"),
        ({"separator": ","}, ["joy|love", "love|joy", "joy|anger", "anger"], "separator: '|'"),
        ({}, ["物流、价格", "价格", "物流、质量", "质量"], "separator: '、'"),
        ({"separator": ";"}, ["物流；价格", "价格；物流", "价格；质量", "质量"], "separator: '；'"),
        ({"separator": ";"}, ["joy;love", "either/or", "joy", "love"], None),
        ({}, ["joy", "love"], None),
    ],
)
def test_a_separator_that_is_missing_or_another_is_told(
    tmp_path: Path, keys: dict[str, str], rows: list[str], told: str | None
) -> None:
    columns = {"text": [f"text {number}" for number in range(len(rows))], "labels": rows}
    pd.DataFrame(columns).to_csv(tmp_path / "rows.csv", index=False)
    source = {"train": str(tmp_path / "rows.csv")}
    found = source_problems(source, {"kind": "multi_label", **keys})
    assert [(one.path, told in one.remedy) for one in found if told] == ([("task.separator", True)] if told else [])
    assert told is not None or not found


def test_labels_that_train_lacks_are_told(tmp_path: Path) -> None:
    for name, own in {"train": [["joy"], ["love"], []], "test": [["joy"], ["sorrow"], []]}.items():
        lines = [json.dumps({"text": f"{name} {number}", "labels": one}) for number, one in enumerate(own)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    source = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    (problem,) = source_problems(source, {"kind": "multi_label"})
    assert (problem.path, problem.value) == ("source.test", "sorrow")


def test_spec_and_truth() -> None:
    asked = MultiLabelSettings(kind="multi_label")
    counts = LEARNING.statistics(asked, {"labels": [["joy", "love"], [], ["joy"], None]})
    assert counts == {"joy": 2, "love": 1, NONE_OF_THEM: 1}
    spec = LEARNING.spec(asked, {"train": counts, "test": {NONE_OF_THEM: 3}})
    assert spec == MultiLabel(labels=("joy", "love"))
    truth_NC = LEARNING.truth(spec, {"labels": [["love"], [], None]})
    assert truth_NC.tolist() == [[0, 1], [0, 0], [MISSING, MISSING]]
    assert LEARNING.known(truth_NC).tolist() == [True, True, False], "rows without any label are rows"
    with pytest.raises(BadInput, match="fewer than two labels"):
        LEARNING.spec(asked, {"train": {"joy": 2, NONE_OF_THEM: 9}})
    assert LEARNING.training_answers(spec, truth_NC) == ["love", NONE_OF_THEM]
    assert LEARNING.expected(spec, truth_NC[1]) == NONE_OF_THEM
    assert LEARNING.is_right(spec, {"labels": ["love"]}, truth_NC[0])
    assert not LEARNING.is_right(spec, {"labels": ["love", "joy"]}, truth_NC[0])


def test_the_loss_is_that_of_the_usual_script() -> None:
    draw = torch.Generator().manual_seed(0)
    logits_BC, wanted_BC = torch.randn((5, 3), generator=draw), torch.randint(0, 2, (5, 3), generator=draw)
    batch = {"labels": wanted_BC}
    usual = functional.binary_cross_entropy_with_logits(logits_BC, wanted_BC.float())
    torch.testing.assert_close(EachDecision().loss(logits_BC, batch) / EachDecision().count(batch), usual)
    smooth = functional.binary_cross_entropy_with_logits(logits_BC, wanted_BC * 0.8 + 0.1)
    torch.testing.assert_close(EachDecision(0.2).loss(logits_BC, batch) / 15, smooth)
    weights_C = torch.tensor([1.0, 2.0, 5.0])
    weighed = functional.binary_cross_entropy_with_logits(logits_BC, wanted_BC.float(), pos_weight=weights_C)
    torch.testing.assert_close(EachDecision(0.0, weights_C).loss(logits_BC, batch) / 15, weighed)
    wanted_BC[2] = MISSING
    parts = [EachDecision().loss(logits_BC[[row]], {"labels": wanted_BC[[row]]}) for row in (0, 1, 3, 4)]
    torch.testing.assert_close(EachDecision().loss(logits_BC, {"labels": wanted_BC}), torch.stack(parts).sum())


def test_weights_of_labels() -> None:
    truth_NC = np.array([[1, 0], [1, 0], [1, 1], [0, 0], [MISSING, MISSING]])
    spec = MultiLabel(labels=("joy", "love"))
    balanced = LEARNING.criterion(spec, LEARNING.Loss(class_weights="balanced"), truth_NC)
    assert balanced.weights_C is not None and balanced.weights_C.tolist() == pytest.approx([1 / 3, 3.0])
    named = LEARNING.criterion(spec, LEARNING.Loss(class_weights={"love": 4.0}), truth_NC)
    assert named.weights_C is not None and named.weights_C.tolist() == [1.0, 4.0]
    with pytest.raises(BadInput, match="no such label"):
        LEARNING.criterion(spec, LEARNING.Loss(class_weights={"sorrow": 4.0}), truth_NC)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_several_teachers_are_mixed_by_their_probabilities(temperature: float) -> None:
    draw = torch.Generator().manual_seed(1)
    teachers_BKC, weights_K = torch.randn((4, 2, 3), generator=draw) * 4, torch.tensor([0.25, 0.75])
    mixed = (sigmoid_mixture(teachers_BKC, weights_K, temperature) / temperature).sigmoid()
    torch.testing.assert_close(mixed, ((teachers_BKC / temperature).sigmoid() * weights_K[:, None]).sum(1))
    student_BC = torch.randn((4, 3), generator=draw)
    alone = SigmoidCriterion("sigmoid_kl", torch.ones(1))
    batch = {"teacher": teachers_BKC[:, :1], "labels": torch.zeros((4, 3))}
    expected = sigmoid_kl(student_BC, teachers_BKC[:, 0], temperature)
    torch.testing.assert_close(alone.loss(student_BC, batch, torch.tensor(temperature)), expected)
    by_logits = SigmoidCriterion("mse", weights_K).loss(student_BC, {"teacher": teachers_BKC}, torch.tensor(temperature))
    mean_BC = (teachers_BKC * weights_K[:, None]).sum(1)
    torch.testing.assert_close(by_logits, (student_BC - mean_BC).square().sum())


def test_lists_of_labels_are_read_and_nested_ones_told(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "labels": [["joy", "love"], []]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert source_problems({"train": str(tmp_path / "rows.parquet")}, {"kind": "multi_label"}) == []
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "labels": ["joy"]}\n{"text": "b", "labels": [["joy"]]}\n')
    (problem,) = source_problems(str(tmp_path / "rows.jsonl"), {"kind": "multi_label"})
    assert problem.path == "task.labels" and "row 2" in problem.reason
