"""Figures of single labels are scikit-learn's, and a weight is a row so often; their names are read before anything runs.

pytest tests/jobs/test_label_figures.py
"""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from jobs.tasks.classification import LEARNING, ClassificationSettings
from jobs.tasks.label_figures import JudgedLabels, named_metric
from jobs.tasks.label_rates import averages, rates_by_label
from serve.tasks.classification import Classification
from serve.tasks.shared.decisions import NoneOfThese
from serve.tasks.shared.probabilities import softmax

CASES = 100
"""Of a thousand all hold too, in minutes: it is scikit-learn that takes them."""
LABELS = ("a", "b", "c", "d", "e", "f", "g")
NAMES = (
    "weighted_f1",
    "mcc",
    "auc",
    "log_loss",
    "f2",
    "f0.5",
    "top_1",
    "top_2",
    "precision b",
    "recall b",
    "f1 b",
    "macro_f1",
)


def drawn(seed: int) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Labels, truth_N and logits_NC: some labels are not there, and many logits are equal."""
    draw = np.random.default_rng(seed)
    classes, texts = int(draw.integers(2, 8)), int(draw.integers(1, 60))
    there = draw.permutation(classes)[: draw.integers(1, classes + 1)]
    logits_NC = np.round(draw.normal(size=(texts, classes)) * draw.choice([0.5, 1, 4]), draw.choice([0, 1, 6]))
    return LABELS[:classes], draw.choice(there, size=texts), logits_NC


def expected(labels: tuple[str, ...], truth_N: np.ndarray, logits_NC: np.ndarray, weights_N: np.ndarray) -> dict[str, float]:
    """The same figures by scikit-learn."""
    probability_NC, places = softmax(logits_NC), list(range(len(labels)))
    predicted_N = logits_NC.argmax(1)
    kept = {"sample_weight": weights_N, "zero_division": 0.0}
    # Labels that no text of any weight has or was given are none of its.
    seen = sorted({*truth_N[weights_N > 0].tolist(), *predicted_N[weights_N > 0].tolist()})
    found: dict[str, Any] = {
        "macro_f1": metrics.f1_score(truth_N, predicted_N, average="macro", labels=seen, **kept),
        "weighted_f1": metrics.f1_score(truth_N, predicted_N, average="weighted", **kept),
        "mcc": metrics.matthews_corrcoef(truth_N, predicted_N, sample_weight=weights_N),
        "log_loss": metrics.log_loss(truth_N, probability_NC, sample_weight=weights_N, labels=places),
    }
    for beta in (2, 0.5):
        found[f"f{beta:g}"] = metrics.fbeta_score(truth_N, predicted_N, beta=beta, average="macro", labels=seen, **kept)
    for rate, figure in (("precision", metrics.precision_score), ("recall", metrics.recall_score), ("f1", metrics.f1_score)):
        found[f"{rate} b"] = figure(truth_N, predicted_N, labels=[1], average="macro", **kept)
    for most in (1, 2):
        if most < len(labels) and len(labels) > 2:
            # scikit-learn takes the last of equal columns, answers the first: so the columns are turned round.
            turned = {"labels": places, "k": most, "sample_weight": weights_N}
            found[f"top_{most}"] = metrics.top_k_accuracy_score(len(labels) - 1 - truth_N, probability_NC[:, ::-1], **turned)
    own = [1] if len(labels) == 2 else places
    both = [label for label in own if 0 < weights_N[truth_N == label].sum() < weights_N.sum()]
    areas = [metrics.roc_auc_score(truth_N == label, probability_NC[:, label], sample_weight=weights_N) for label in both]
    found["auc"] = np.mean(areas) if areas else 0.5
    return found


def test_figures_are_those_of_scikit_learn() -> None:
    compared = 0
    for seed in range(CASES):
        labels, truth_N, logits_NC = drawn(seed)
        weights_N = np.random.default_rng(seed).integers(0, 4, size=len(truth_N))
        weights_N = weights_N if seed % 2 and weights_N.any() else np.ones(len(truth_N), dtype=np.int64)
        judged = JudgedLabels(labels, truth_N, logits_NC.argmax(1), logits_NC)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels that are not there
            wanted = expected(labels, truth_N, logits_NC, weights_N)
        for name, value in wanted.items():
            assert judged.figure(name, weights_N) == pytest.approx(value, abs=1e-12), (seed, name)
            compared += 1
    assert compared > 11 * CASES


def test_the_area_is_scikit_learns_of_one_label_against_the_rest() -> None:
    draw = np.random.default_rng(3)
    logits_NC, truth_N = np.round(draw.normal(size=(200, 4)), 1), draw.integers(0, 4, size=200)
    wanted = metrics.roc_auc_score(truth_N, softmax(logits_NC), multi_class="ovr", average="macro")
    judged = JudgedLabels(LABELS[:4], truth_N, logits_NC.argmax(1), logits_NC)
    assert judged.figure("auc") == pytest.approx(wanted, abs=1e-12)


def test_a_weight_counts_a_text_so_often() -> None:
    for seed in range(60):
        labels, truth_N, logits_NC = drawn(seed)
        weights_N = np.random.default_rng(seed + 1).integers(0, 3, size=len(truth_N))
        cost_KK = np.random.default_rng(seed).integers(0, 5, size=(len(labels), len(labels)))
        one = JudgedLabels(labels, truth_N, logits_NC.argmax(1), logits_NC, cost_KK)
        rows = np.repeat(np.arange(len(truth_N)), weights_N)
        again = JudgedLabels(labels, truth_N[rows], logits_NC[rows].argmax(1), logits_NC[rows], cost_KK)
        for name in (*NAMES, "accuracy", "cost", "answered", "answered_accuracy"):
            if len(rows):
                assert one.figure(name, weights_N) == pytest.approx(again.figure(name), abs=1e-12), (seed, name)


def test_texts_out_of_scope_count_as_one_label_more_and_have_no_probability() -> None:
    truth_N, answered_N = np.array([0, 0, 1, 2, 2]), np.array([0, 2, 1, 2, 0])
    logits_NC = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.5, 0.0], [4.0, 0.0]])
    judged = JudgedLabels(("a", "b"), truth_N, answered_N, logits_NC)
    assert judged.figure("accuracy") == 3 / 5 and judged.figure("answered") == 3 / 5
    assert judged.figure("answered_accuracy") == pytest.approx(2 / 3)
    assert judged.figure("macro_f1") == pytest.approx(metrics.f1_score(truth_N, answered_N, average="macro"))
    known = JudgedLabels(("a", "b"), truth_N[:3], answered_N[:3], logits_NC[:3])
    for name in ("auc", "log_loss", "top_1"):
        assert judged.figure(name) == known.figure(name), name
    assert judged.figure("answered_accuracy", np.array([0, 1, 0, 1, 0])) == 0.0, "none is answered"


def test_rates_by_label_and_their_averages_are_the_report_of_scikit_learn() -> None:
    for seed in range(40):
        labels, truth_N, logits_NC = drawn(seed)
        judged = JudgedLabels(labels, truth_N, logits_NC.argmax(1))
        rates = rates_by_label(labels, *(count_K[: len(labels)] for count_K in judged.counts()))
        seen = sorted({*truth_N.tolist(), *logits_NC.argmax(1).tolist()})
        told = metrics.classification_report(
            truth_N,
            logits_NC.argmax(1),
            labels=seen,
            target_names=[labels[one] for one in seen],
            output_dict=True,
            zero_division=0,
        )
        for own in (*(rates[one] for one in seen), *averages(rates)):
            other = told[own["label"].replace("average", "avg")]
            assert (own["precision"], own["recall"], own["f1"], own["support"]) == pytest.approx(
                (other["precision"], other["recall"], other["f1-score"], other["support"])
            ), (seed, own["label"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("top_0", "at least one label"),
        ("top_3", "of 3 labels it is always 1"),
        ("top_99", "of 3 labels it is always 1"),
        ("f0", "beta is above 0"),
        ("f-1", "no such figure"),
        ("f", "no such figure"),
        ("micro_f1", "no such figure"),
        ("recall d", "no label 'd'"),
        ("support a", "no such figure"),
    ],
)
def test_a_name_that_means_nothing_is_refused_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        named_metric(name, LABELS[:3])
    with pytest.raises(KeyError, match=reason):
        LEARNING.metric(Classification(labels=LABELS[:3]), name)


def test_which_figures_there_are_depends_on_what_is_asked() -> None:
    plain = Classification(labels=("a", "b"))
    assert [one.name for one in LEARNING.metrics_of(plain)] == ["macro_f1", "accuracy"]
    asked = Classification(labels=("a", "b"), costs={"a": {"b": 2.0}}, none=NoneOfThese())
    named = [one.name for one in LEARNING.metrics_of(asked)]
    assert named == ["macro_f1", "accuracy", "cost", "answered", "answered_accuracy"]
    settings = ClassificationSettings(costs={"a": {"b": 2.0}}, none=NoneOfThese())
    assert [one.name for one in LEARNING.metrics_in(settings)] == named
    assert LEARNING.metric(plain, None).name == "macro_f1" and LEARNING.metric(plain, "log_loss").mode == "min"
    assert LEARNING.metric(plain, "mcc").lowest == -1 and LEARNING.metric_in(settings, "recall whatever").mode == "max"
    with pytest.raises(KeyError):
        LEARNING.metric(plain, "cost")
