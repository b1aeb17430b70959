"""Costs, thresholds of labels and none of these: what is fitted keeps what is asked, what is settled decides, what is wrong is
refused.

pytest tests/jobs/test_label_decisions.py
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binomtest

from jobs.contracts.learning import MISSING
from jobs.core.config import BadInput
from jobs.judging.requirements import doubts
from jobs.report import sections
from jobs.select import SelectConfig
from jobs.tasks.classification import LEARNING, ClassificationSettings
from jobs.tasks.label_thresholds import fit_thresholds, keeping, lower_end, requirements_on, share_interval, told_of
from jobs.tasks.telling import told_of_model
from serve.tasks import task_of
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item
from serve.tasks.shared.decisions import NONE_OF_THESE, NoneOfThese, Requirement
from serve.tasks.shared.probabilities import softmax
from serve.watch.drift import training_data
from tests.jobs.tiny import source_problems

LABELS = ("ham", "news", "spam")
ITEMS = [Item(("a",)), Item(("b",))]
LOGITS_NC = np.array([[2.0, 0.0, 1.0], [0.1, 0.0, 0.05]], dtype=np.float32)


def task(**fields: Any) -> Classification:
    return Classification(labels=LABELS, **fields)


def rows(seed: int, count: int = 400, hard: float = 1.5, unknown: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """logits_NC that are right more often than not, and truth_N; some texts are of no label."""
    draw = np.random.default_rng(seed)
    truth_N = draw.integers(0, len(LABELS), size=count)
    logits_NC = draw.normal(size=(count, len(LABELS)))
    logits_NC[np.arange(count), truth_N] += hard * draw.random(count) * 2
    truth_N[:unknown] = len(LABELS)
    logits_NC[:unknown] = draw.normal(size=(unknown, len(LABELS))) * 0.3
    return logits_NC.astype(np.float32), truth_N


@pytest.mark.parametrize(
    ("right", "of", "key", "told"),
    [
        (78, 100, "requirements", "its precision of 'spam' is 0.780 of 100 texts (0.686 to 0.857), 0.97 are required"),
        (78, 100, "topic.requirements", "its precision of 'spam' of topic is 0.780"),
        (95, 100, "requirements", None),  # its interval holds what is required
        (0, 0, "requirements", None),
    ],
)
def test_a_winner_keeps_what_its_labels_are_held_to(right: int, of: int, key: str, told: str | None) -> None:
    spec = task(require={"spam": Requirement(precision=0.97)})
    truth_N, answered_N = np.array([2] * right + [0] * (of - right), dtype=np.int64), np.full(of, 2)
    row = {key: requirements_on(spec, answered_N, truth_N), "slices": {}}
    reasons = doubts(row, row, SelectConfig())
    assert reasons == [] if told is None else len(reasons) == 1 and reasons[0].startswith(told)
    assert doubts(row, row, SelectConfig(requirements_hold=False)) == []


def test_a_task_of_before_is_the_same_task_and_answers_by_its_logits_alone() -> None:
    old = task_of({"kind": "classification", "labels": list(LABELS), "pairs": False})
    assert old == task() and not task().decides and task().sayings == LABELS
    assert np.array_equal(task().settled(LOGITS_NC, {"temperature": 2.0}), LOGITS_NC / 2)
    (answer, _) = task().answers(task().settled(LOGITS_NC, {}), ITEMS)
    assert type(answer) is task().Answer and not hasattr(answer, "in_scope")


@settings(max_examples=60, deadline=None)
@drawn(st.integers(0, 10_000), st.booleans())
def test_the_answer_has_the_least_expected_cost(seed: int, none: bool) -> None:
    draw, (logits_NC, _) = np.random.default_rng(seed), rows(seed, 40)
    names = [*LABELS, *([NONE_OF_THESE] if none else [])]
    costs = {one: {other: float(draw.integers(0, 9)) for other in names if other != one} for one in LABELS[:2]}
    asked = task(costs=costs, none=NoneOfThese() if none else None)
    settled = asked.settled(logits_NC, {})
    for logits_C, said in zip(logits_NC, asked.said(settled), strict=True):
        expected = {
            name: sum(
                share * (0.0 if label == name else costs.get(label, {}).get(name, 1.0))
                for label, share in zip(LABELS, softmax(logits_C), strict=True)
            )
            for name in names
        }
        assert expected[said] == pytest.approx(min(expected.values()), abs=1e-12)


def test_costs_count_in_training_and_in_the_report() -> None:
    logits_NC, truth_N = rows(1)
    careful = task(costs={"ham": {"spam": 10.0}})
    assert careful.said(careful.settled(logits_NC, {})) != task().said(task().settled(logits_NC, {}))
    mean = {
        name: LEARNING.judged(careful, one.settled(logits_NC, {}), truth_N).figure("cost")
        for name, one in {"careful": careful, "plain": task()}.items()
    }
    assert mean["careful"] < mean["plain"]
    measured = LEARNING.measured(careful, [LEARNING.part(careful, logits_NC, truth_N)])
    assert measured["cost"] == pytest.approx(mean["careful"]) and set(measured) >= {"macro_f1", "validation_loss"}


@settings(max_examples=40, deadline=None)
@drawn(st.integers(0, 10_000), st.sampled_from(["precision", "recall"]), st.sampled_from([None, 0.9]), st.floats(0.3, 0.99))
def test_no_threshold_that_keeps_it_is_nearer(seed: int, rate: str, sure: float | None, least: float) -> None:
    """A required precision is kept on the most texts that can be given the label; a recall costs the fewest."""
    logits_NC, truth_N = rows(seed, 60)
    asked = task(require={"spam": Requirement.model_validate({rate: least, "sure": sure})})
    fitted, _ = fit_thresholds(asked, logits_NC, truth_N)
    column = LABELS.index("spam")

    def comes_to(threshold: float | None) -> tuple[float, int]:
        own = {} if threshold is None else {"threshold spam": threshold}
        given_N = np.asarray(asked.worths(logits_NC, own)).argmax(1) == column
        rows_N = given_N if rate == "precision" else truth_N == column
        right, count = int((given_N & (truth_N == column)).sum()), int(rows_N.sum())
        share = lower_end(right, count, sure) if sure else right / count if count else 0.0
        return share, int(given_N.sum())

    probabilities = np.unique(softmax(logits_NC)[:, column])
    others = [comes_to(None), *(comes_to(float(value)) for value in probabilities), comes_to(1.0)]
    reached, given = comes_to(fitted.get("threshold spam"))
    if best := [count for share, count in others if share >= least and (count or rate == "recall")]:
        assert reached >= least and given == (max(best) if rate == "precision" else min(best))
    elif rate == "recall":
        assert reached == pytest.approx(max(share for share, _ in others))


def test_what_validation_cannot_show_is_told_and_what_it_shows_is_not() -> None:
    logits_NC, truth_N = rows(2, 3000, hard=6.0)
    kept = task(require={"spam": Requirement(precision=0.97)})
    fitted, figures = LEARNING.fit(kept, logits_NC, truth_N)
    assert figures["precision spam"] >= 0.97 and 0 < fitted["threshold spam"] < 1
    (found,) = requirements_on(kept, kept.decided(kept.settled(logits_NC, fitted)), truth_N)
    assert found["holds"] and found["rows"] == figures["precision spam rows"] > 300
    low, high = found["interval"]
    exact = binomtest(round(found["reached"] * found["rows"]), found["rows"]).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high)) and low < found["low"] < found["reached"] < high
    sure = task(require={"spam": Requirement(precision=0.97, sure=0.95)})
    _, more = LEARNING.fit(sure, logits_NC, truth_N)
    assert more["precision spam low"] >= 0.97 and more["precision spam rows"] <= figures["precision spam rows"]
    assert told_of(sure, more) == []
    few = LEARNING.fit(kept, logits_NC[:50], truth_N[:50])[1]
    (told,) = LEARNING.doubtful(kept, {f"int8_{name}": value for name, value in few.items()}, "int8_")
    assert "too few to be sure" in told and f"on {few['precision spam rows']:.0f} validation rows" in told
    noise = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    _, hopeless = LEARNING.fit(sure, noise, np.arange(400) % 3)
    assert "no threshold keeps it" in told_of(sure, hopeless)[0]
    nothing = LEARNING.fit(kept, logits_NC[truth_N == 0] * 0 + [9.0, 0.0, 0.0], truth_N[truth_N == 0])[1]
    assert "no validation row says anything" in told_of(kept, nothing)[0]
    assert share_interval(0, 0) == (0.0, 1.0)


def test_several_labels_are_held_together() -> None:
    logits_NC, truth_N = rows(3, 2000, hard=3.0)
    least = {"spam": Requirement(precision=0.9), "news": Requirement(recall=0.9), "ham": Requirement(precision=0.85)}
    asked = task(require=least)
    fitted, figures = fit_thresholds(asked, logits_NC, truth_N)
    assert set(fitted) == {"threshold spam", "threshold news", "threshold ham"}
    assert figures["precision spam"] >= 0.9 and figures["recall news"] >= 0.9 and figures["precision ham"] >= 0.85
    assert asked.wrong_fitted(fitted) is None


@settings(max_examples=60, deadline=None)
@drawn(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.floats(0.05, 0.99))
def test_so_many_are_kept_and_no_more_than_that_takes(values: list[int], share: float) -> None:
    values_N = np.array(values) / 10
    threshold = keeping(values_N, share)
    kept = (values_N >= threshold).mean()
    assert kept >= share - 1e-9
    above = values_N[values_N > values_N[values_N >= threshold].min()]
    assert len(above) / len(values_N) < share, "a higher threshold would keep too few"


def test_texts_of_none_of_these_are_told_everywhere_and_teach_nothing() -> None:
    logits_NC, truth_N = rows(4, 1000, hard=4.0, unknown=200)
    scoped = task(none=NoneOfThese(keep=0.9))
    fitted, figures = LEARNING.fit(scoped, logits_NC, truth_N)
    known = truth_N < len(LABELS)
    settled = scoped.settled(logits_NC, fitted)
    said = np.array(scoped.said(settled))
    assert figures["answered"] == pytest.approx((said[known] != NONE_OF_THESE).mean()) == pytest.approx(0.9, abs=0.002)
    assert (said[~known] == NONE_OF_THESE).mean() > 0.6, "what is of none of them is less sure"
    alone, _ = LEARNING.fit(scoped, logits_NC[known], truth_N[known])
    assert alone == fitted, "rows of none of them are not needed, and move nothing"
    assert scoped.sayings == (*LABELS, NONE_OF_THESE)
    assert LEARNING.taught(scoped, truth_N).tolist() == known.tolist()
    assert len(LEARNING.losses(scoped, logits_NC, truth_N)) == known.sum()
    further = LEARNING.further(scoped, logits_NC, settled, truth_N)
    assert np.sum(further["confusion"]) == 1000 and len(further["confusion"]) == 4
    assert [one["label"] for one in further["by_label"]] == [*LABELS, NONE_OF_THESE]
    assert further["by_label"][-1]["support"] == 200
    judged = LEARNING.judged(scoped, settled, truth_N)
    assert judged.figure("answered") == (said != NONE_OF_THESE).mean()
    assert f"label {NONE_OF_THESE}" in LEARNING.slices(scoped, truth_N)
    assert LEARNING.expected(scoped, 3) == NONE_OF_THESE and LEARNING.is_right(scoped, {"label": NONE_OF_THESE}, 3)
    assert {*LEARNING.questions(scoped, truth_N, 8)} & set(np.flatnonzero(~known).tolist())


def test_an_answer_says_that_it_is_none_of_these() -> None:
    scoped = task(none=NoneOfThese())
    settled = scoped.settled(LOGITS_NC, {f"threshold {NONE_OF_THESE}": 0.5})
    one, other = scoped.answers(settled, ITEMS, scoped.Options(top_k=1))
    assert (one.label, one.in_scope) == ("ham", True) and (other.label, other.in_scope) == (NONE_OF_THESE, False)
    assert one.probability == pytest.approx(softmax(LOGITS_NC)[0, 0]) and other.probabilities[0].label == "ham"
    assert other.probability == other.probabilities[0].probability < 0.5
    plain = scoped.settled(LOGITS_NC, {})
    assert scoped.said(plain) == ["ham", "ham"] and scoped.same(plain, settled).tolist() == [True, False]
    assert scoped.distance(plain, settled).tolist() == [0, 0] and scoped.distance(LOGITS_NC, plain).max() < 1e-7
    assert scoped.cells(other, wide=False) == {"predicted": NONE_OF_THESE, "probability": other.probability}
    assert scoped.told({"label": NONE_OF_THESE, "in_scope": False, "probability": 0.4}) == NONE_OF_THESE
    explained = scoped.evidence(np.repeat(settled, [0, 3], axis=0), ITEMS, scoped.Target())
    assert explained.whole["label"] == "ham", "the label that was not enough is explained"
    shares = training_data(LEARNING.training_answers(scoped, np.arange(300) % 3), [1] * 300).labels
    assert shares[NONE_OF_THESE] == pytest.approx(0.05, abs=0.01), "drift expects those that `keep` does not keep"
    assert scoped.wrong_fitted({f"threshold {NONE_OF_THESE}": 1.5}) is not None
    for other in (scoped, task()):
        assert other.wrong_fitted({"threshold spam": 0.5}) is not None


def test_the_decision_is_the_same_in_another_order_of_the_labels() -> None:
    keys: dict[str, Any] = {"require": {"spam": Requirement(precision=0.9)}, "none": NoneOfThese()}
    keys |= {"costs": {"ham": {"news": 3.0}}}
    own, other = Classification(labels=LABELS, **keys), Classification(labels=LABELS[::-1], **keys)
    logits_NC, _ = rows(5, 50)
    fitted = {"threshold spam": 0.6, f"threshold {NONE_OF_THESE}": 0.45, "temperature": 1.2}
    assert own.unlike(other) is None
    theirs = other.settled(logits_NC[:, ::-1], fitted)
    np.testing.assert_allclose(own.aligned(theirs, other), own.settled(logits_NC, fitted))
    assert own.said(own.aligned(theirs, other)) == other.said(theirs)
    assert "'require' are not the same" in str(own.unlike(Classification(labels=LABELS)))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"require": {"spam": {"precision": 1.2}}}, "less than or equal to 1"),
        ({"require": {"spam": {"precision": 0}}}, "greater than 0"),
        ({"require": {"spam": {}}}, "neither is given"),
        ({"require": {"spam": {"precision": 0.9, "recall": 0.9}}}, "one threshold moves both"),
        ({"require": {"spam": {"f1": 0.9}}}, "Extra inputs"),
        ({"none": {"keep": 1}}, "less than 1"),
        ({"none": {"keep": 0.0}}, "greater than 0"),
        ({"costs": {"ham": {"spam": -1}}}, "costs -1"),
        ({"costs": {"ham": {"ham": 2}}}, "is right, and costs nothing"),
        ({"costs": {"ham": {"spam": float("inf")}}}, "costs inf"),
        ({"pooling": "max"}, "write long: windows"),
        ({"long": "windows", "pair": "other"}, "of several texts"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ClassificationSettings.model_validate(given)


def test_labels_that_are_not_there_are_named_before_anything_runs() -> None:
    asked = ClassificationSettings.model_validate(
        {"require": {"spma": {"recall": 0.9}}, "costs": {"ham": {"spa": 2}}, "none": {"label": "other"}}
    )
    seen = {"train": {"ham": 5.0, "spam": 4.0, "other": 2.0}, "test": {"other": 1.0}}
    told = [str(problem) for problem in LEARNING.check(asked, seen)]
    assert len(told) == 2 and "task.require.spma: there is no such label. Did you mean spam?" in told[0]
    assert "task.costs.ham.spa" in told[1]
    with pytest.raises(BadInput, match=r"task\.require\.spma"):
        LEARNING.spec(asked, seen)
    each = ClassificationSettings.model_validate({"require": {label: {"precision": 0.9} for label in ("ham", "spam")}})
    assert "none to give" in str(LEARNING.check(each, {"train": {"ham": 5.0, "spam": 4.0}})[0])
    fine = ClassificationSettings.model_validate({"require": {"1": {"recall": 0.9}}, "none": {}, "names": {"0": "ham"}})
    frame = pd.DataFrame({"label": [0, 1, NONE_OF_THESE, None]})
    labels = LEARNING.targets(fine, frame).columns
    assert LEARNING.check(fine, {"train": LEARNING.statistics(fine, labels)}) == []
    made = LEARNING.spec(fine, {"train": LEARNING.statistics(fine, labels)})
    assert made.labels == ("1", "ham") and LEARNING.truth(made, labels).tolist() == [1, 0, 2, MISSING]
    assert task_of(made.model_dump(mode="json")) == made


def test_the_check_of_a_single_file_reads_its_labels(tmp_path: Path) -> None:
    """Its rows are divided when all are read; which labels there are is known before."""
    rows = "".join(f"text number {number},{LABELS[number % 3]}\n" for number in range(60))
    (tmp_path / "rows.csv").write_text("text,kind\n" + rows)
    task = {"kind": "classification", "label": "kind"}
    assert source_problems(str(tmp_path / "rows.csv"), task) == []
    assert source_problems(str(tmp_path / "rows.csv"), {**task, "require": {"spam": {"recall": 0.9}}}) == []
    (told,) = source_problems(str(tmp_path / "rows.csv"), {**task, "require": {"spma": {"recall": 0.9}}})
    assert (told.path, told.remedy) == ("task.require.spma", "Did you mean spam?")


def test_a_task_that_means_nothing_cannot_be_made() -> None:
    for fields, reason in (
        ({"require": {"junk": Requirement(recall=0.5)}}, "none of its labels"),
        ({"none": NoneOfThese(label="ham")}, "rename this label"),
        ({"require": {label: Requirement(precision=0.5) for label in LABELS}}, "none to give"),
    ):
        with pytest.raises(ValidationError, match=reason):
            task(**fields)


def test_every_answer_is_one_of_its_sayings_whatever_is_fitted() -> None:
    logits_NC, _ = rows(6, 30)
    asked = task(require={label: Requirement(precision=0.9) for label in LABELS}, none=NoneOfThese())
    for high, low in product((0.0, 0.5, 1.0), repeat=2):
        fitted = {f"threshold {label}": high for label in LABELS} | {f"threshold {NONE_OF_THESE}": low}
        said = asked.said(asked.settled(logits_NC, fitted))
        assert set(said) <= set(asked.sayings)
        if high == 1.0:
            assert set(said) == {NONE_OF_THESE}, "where no label may be given there is still an answer"
    assert asked.said(asked.settled(logits_NC[:0], {})) == [] and asked.confidence(asked.settled(logits_NC[:0], {})).size == 0


def test_the_report_has_rates_by_label_and_says_what_holds() -> None:
    logits_NC, truth_N = rows(7, 300, hard=4.0, unknown=30)
    asked = task(require={"spam": Requirement(precision=0.99)}, none=NoneOfThese())
    fitted, figures = LEARNING.fit(asked, logits_NC, truth_N)
    found = LEARNING.further(asked, logits_NC, asked.settled(logits_NC, fitted), truth_N)
    report = {"labels": asked.sayings, "rows": [{"candidate": "teacher", **found}, {"candidate": "small", **found}]}
    confusion, first, second, held = LEARNING.sections(report, "small", sections)
    assert confusion is not None and "By label: teacher" in str(first) and "By label: small" in str(second)
    assert "macro average" in str(first) and "weighted average" in str(first) and NONE_OF_THESE in str(first)
    assert "What labels are held to" in str(held) and "precision 0.99" in str(held)
    plain = LEARNING.further(task(), logits_NC[30:], logits_NC[30:], truth_N[30:])
    *_, nothing = LEARNING.sections({"labels": LABELS, "rows": [{"candidate": "teacher", **plain}]}, None, sections)
    assert nothing is None
    told = told_of_model(asked, figures | {"train_texts_cut": 0.25})["doubtful"]
    assert told.startswith("25.0% of the training texts are longer than max_length") and "spam" in told
    assert told_of_model(task(), {}) == {}
