"""Judging and choosing: scores, intervals, figures of candidates, the budget. `pytest tests/jobs/test_judging.py`"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from cluster.artifact import Artifact, Kind
from cluster.registry import RegistryError, read, verdicts
from jobs.calibration import calibration_error
from jobs.core.stage import Context, Inputs, Refused
from jobs.judging import (
    INTERVAL,
    Candidate,
    bootstrap,
    bootstrap_kept,
    judge_quality,
    macro_f1,
    measure_latency,
    measure_parity,
    measure_throughput,
    score_of,
)
from jobs.select import SelectConfig, read_verdict, run, settle, shortfalls
from jobs.tasks.classification import save_classifier, scores
from tests.jobs.tiny import LABELS, MAX_LENGTH, MESSAGES, publish_directory, tiny_classifier, tiny_tokenizer

TEXTS, TRUTH = [text for text, _ in MESSAGES], [label for _, label in MESSAGES]


def test_scores_of_confusions_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for classes in (2, 5):
        for _ in range(20):
            truth, predicted = generator.integers(classes, size=(2, 30))
            truth[truth == classes - 1] = 0  # a class that is in no text
            predicted[predicted == 1] = 0  # and one that is never answered
            confusion_CC = np.zeros((classes, classes), dtype=int)
            np.add.at(confusion_CC, (truth, predicted), 1)
            macro = f1_score(truth, predicted, labels=range(classes), average="macro", zero_division=0.0)
            assert score_of(confusion_CC, "macro_f1") == pytest.approx(macro)
            assert score_of(confusion_CC, "accuracy") == pytest.approx(accuracy_score(truth, predicted))
            found = scores(predicted, truth, classes)
            assert found["macro_f1"] == pytest.approx(macro), "training and judging must reckon alike"


@pytest.mark.parametrize(("metric", "truth_is"), [("accuracy", 0.85), ("macro_f1", 0.84878)])
def test_the_interval_covers_the_true_score_about_as_often_as_it_says(metric: str, truth_is: float) -> None:
    """A classifier with known error rates: of 95 % intervals from 200 samples, about 95 % hold its true score."""
    # F1 of class 0: 2 · 0.38 / (0.40 + 0.51), of class 1: 2 · 0.47 / (0.60 + 0.49).
    joint_CC = np.array([[0.38, 0.02], [0.13, 0.47]])
    assert score_of(joint_CC * 1e6, metric) == pytest.approx(truth_is, abs=1e-4)
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        cells = generator.choice(4, size=400, p=joint_CC.reshape(-1))
        low, high = np.percentile(bootstrap(cells // 2, cells % 2, 2, metric, 300), INTERVAL)
        covered += low <= truth_is <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_calibration_error_is_how_far_confidence_is_from_accuracy() -> None:
    generator = np.random.default_rng(0)
    sure_N = generator.uniform(0.5, 1.0, 20_000)
    probabilities_NC = np.stack([sure_N, 1 - sure_N], axis=1)
    honest_N = (generator.random(20_000) > sure_N).astype(int)
    assert calibration_error(probabilities_NC, honest_N) < 0.02
    boastful_NC = np.tile([0.99, 0.01], (1000, 1))
    assert calibration_error(boastful_NC, np.arange(1000) % 4 // 3) == pytest.approx(0.99 - 0.75)
    # By hand: one right at 0.9 and one wrong at 0.6, each alone in its bin.
    assert calibration_error(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1])) == pytest.approx((0.1 + 0.6) / 2)


def test_resamples_are_the_same_each_time_and_narrow_with_more_texts() -> None:
    truth = np.arange(400) % 2
    predicted = np.where(np.arange(400) % 10 == 0, 1 - truth, truth)
    widths = []
    for size in (40, 400):
        drawn = bootstrap(truth[:size], predicted[:size], 2, "accuracy", 500)
        assert (drawn == bootstrap(truth[:size], predicted[:size], 2, "accuracy", 500)).all()
        assert drawn.mean() == pytest.approx(0.9, abs=0.02)
        widths.append(np.subtract(*np.percentile(drawn, INTERVAL[::-1])))
    assert widths[0] / widths[1] == pytest.approx(10**0.5, rel=0.3)


def test_the_share_that_is_kept_is_measured_on_the_same_resamples() -> None:
    """A student that errs where its teacher errs, and once more in every twenty texts, surely keeps about 19 of 20."""
    truth_N = np.arange(400) % 2
    teacher_N = np.where(np.arange(400) % 5 == 0, 1 - truth_N, truth_N)
    student_N = np.where(np.arange(400) % 20 == 1, 1 - truth_N, teacher_N)
    low, high = np.percentile(bootstrap_kept(truth_N, student_N, teacher_N, 2, "accuracy", 500), INTERVAL)
    assert low < 0.75 / 0.8 < high and high - low < 0.06
    apart = bootstrap(truth_N, student_N, 2, "accuracy", 500) / 0.8
    assert high - low < np.subtract(*np.percentile(apart, INTERVAL[::-1])), "narrower than the student's own interval"
    assert (bootstrap_kept(truth_N, teacher_N, teacher_N, 2, "macro_f1", 50) == 1).all()


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Candidate, Candidate]:
    """A teacher and another model, published and loaded through the engine that serves."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer(root / "tokenizer")
    loaded = []
    for seed, name in enumerate(("teacher", "student")):
        draft = root / f"{name}-draft"
        model = tiny_classifier("bert", 2, len(tokenizer), seed=seed)
        with torch.inference_mode():
            logits_BC = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
            # So that each label is the answer to half of the texts.
            model.get_parameter("classifier.bias").sub_(logits_BC.median(dim=0).values)
        save_classifier(model, tokenizer, LABELS, MAX_LENGTH, draft)
        (draft / "notes.txt").write_text("not needed to serve it" * 1000)
        artifact = publish_directory(draft, root / name, Kind.MODEL, name)
        loaded.append(Candidate.load(artifact, "torch", threads=1, batch_size=8))
    return loaded[0], loaded[1]


def test_the_figures_of_a_candidate(candidates: tuple[Candidate, Candidate]) -> None:
    teacher, student = candidates
    for candidate in candidates:
        judge_quality(candidate, TEXTS, TRUTH, teacher, "macro_f1", 200)
    measure_latency(candidates, TEXTS, count=20, rounds=4)
    measure_throughput(candidates, TEXTS, batch_size=8, rounds=3)
    row, yardstick = student.row(teacher), teacher.row(teacher)

    predicted = [LABELS[number] for number in student.predicted]
    wanted = f1_score(TRUTH, predicted, labels=LABELS, average="macro")
    assert row["score"] == row["macro_f1"] == pytest.approx(wanted)
    assert row["accuracy"] == pytest.approx(accuracy_score(TRUTH, predicted))
    assert row["interval"][0] <= row["score"] <= row["interval"][1]
    assert row["kept_interval"][0] <= row["kept"] <= row["kept_interval"][1]
    assert np.sum(row["confusion"]) == len(TEXTS)
    assert np.sum(row["confusion"], axis=1).tolist() == [40, 40], "rows of the confusion are the true labels"
    assert macro_f1(student.engine, TEXTS, TRUTH) == pytest.approx(wanted)
    assert 0 <= row["calibration_error"] <= 1
    assert 0 < row["agreement"] == np.mean(student.predicted == teacher.predicted) < 1
    assert row["kept"] == pytest.approx(row["score"] / yardstick["score"])
    assert (yardstick["kept"], yardstick["agreement"], yardstick["size_ratio"]) == (1, 1, 1)
    assert yardstick["speedup"] == pytest.approx(1)
    assert len(student.seconds) == 20 and len(student.rates) == 3
    assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"] < 10_000
    measure_parity(candidates)
    assert student.figures["parity_change"] == student.figures["parity_flips"] == 0, "both are torch"
    directory = student.artifact.local()
    served = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "raystill.json")
    assert row["bytes"] == sum((directory / name).stat().st_size for name in served), "what serving needs, no more"
    json.dumps(row)


def test_a_split_of_few_texts_can_be_judged(candidates: tuple[Candidate, Candidate]) -> None:
    before = len(candidates[0].seconds)
    measure_latency(candidates, TEXTS[:3], count=200, rounds=10)
    measure_throughput(candidates, TEXTS[:3], batch_size=8, rounds=1)
    assert len(candidates[0].seconds) - before == 3


def candidate_row(name: str, kept: float, p50: float, size: int = 1_000_000, speedup: float = 5.0) -> dict[str, Any]:
    return {
        "candidate": name, "variant": "int8", "uri": f"/runs/{name}", "fingerprint": name, "score": 0.9 * kept, "kept": kept,
        "latency_p50_ms": p50, "latency_p95_ms": 1.5 * p50, "bytes": size, "speedup": speedup, "size_ratio": 4.0,
        "agreement": 0.96, "calibration_error": 0.04, "kept_interval": [kept - 0.03, kept + 0.03],
        "parity_change": 0.02, "parity_flips": 0.01, "memory_bytes": 200_000_000,
        "slices": {name: {"examples": 50, "accuracy": 0.9 * kept} for name in ("label ham", "label spam")},
    }  # fmt: skip


def report(root: Path, *rows: dict[str, Any]) -> Artifact:
    (root / "report-draft").mkdir()
    everything = {"metric": "macro_f1", "rows": [candidate_row("teacher", 1.0, 10.0, speedup=1.0), *rows]}
    (root / "report-draft" / "report.json").write_text(json.dumps(everything))
    return publish_directory(root / "report-draft", root / "report", Kind.REPORT)


@pytest.mark.parametrize(
    ("budget", "parts"),
    [
        ({"minimum_kept": 0.97}, ["keeps 94.0%", "97.0% are asked", "3 points"]),
        ({"minimum_kept": 0.94004}, ["keeps 94.0%", "94.0% are asked", "0.004 points"]),
        ({"minimum_kept": 0, "maximum_p95_ms": 2}, ["p95 is 3.00 ms", "allowed are 2", "1 less"]),
        ({"minimum_kept": 0, "maximum_bytes": 999_000}, ["1,000,000 bytes", "allowed are 999,000", "1,000 less"]),
        ({"minimum_kept": 0, "minimum_speedup": 6.5}, ["5.0 times", "6.5 are asked", "1.5 more"]),
        ({"minimum_kept": 0, "minimum_agreement": 0.97}, ["agrees", "96.0%", "97.0% are asked", "1 points"]),
        ({"minimum_kept": 0, "maximum_calibration_error": 0.03}, ["calibration error is 0.040", "0.03", "0.01 less"]),
        (
            {"minimum_kept": 0, "minimum_kept_low": 0.93},
            ["between 91.0% and 97.0%", "93.0% are asked of its lower end", "2 points"],
        ),
        ({"minimum_kept": 0, "maximum_parity_change": 0.005}, ["is 0.02 from the torch model's", "0.005", "0.015 less"]),
        ({"minimum_kept": 0, "maximum_parity_flips": 0.005}, ["1.0% of its labels", "0.5%", "0.5 points less"]),
        ({"minimum_kept": 0, "maximum_memory": 150_000_000}, ["200,000,000 bytes of memory", "50,000,000 less"]),
    ],
)
def test_what_keeps_a_candidate_from_the_budget_is_told_with_by_how_much(budget: dict[str, Any], parts: list[str]) -> None:
    row, teacher = candidate_row("student", kept=0.94, p50=2.0), candidate_row("teacher", kept=1, p50=10)
    (told,) = shortfalls(row, teacher, SelectConfig.model_validate(budget))
    assert all(part in told for part in parts), told


def test_limits_themselves_are_within_the_budget_and_all_shortfalls_are_told() -> None:
    row = candidate_row("student", kept=0.97, p50=2.0)
    exact = SelectConfig(minimum_kept=0.97, maximum_p95_ms=3, maximum_bytes=1_000_000, minimum_speedup=5)
    assert shortfalls(row, row, exact) == []
    strict = SelectConfig(minimum_kept=0.98, maximum_p95_ms=2.9, maximum_bytes=999_999, minimum_speedup=5.1)
    assert len(shortfalls(row, row, strict)) == 4


def test_a_candidate_with_one_bad_slice_is_refused_and_the_alias_stays(tmp_path: Path) -> None:
    """Its average is the teacher's; the rare label has paid for it."""
    lopsided = candidate_row("lopsided", kept=1.0, p50=2.0)
    lopsided["slices"] = {"label ham": {"examples": 500, "accuracy": 0.91}, "label spam": {"examples": 50, "accuracy": 0.8}}
    assert shortfalls(lopsided, candidate_row("teacher", 1.0, 10.0), SelectConfig()) == []
    with pytest.raises(Refused) as caught:
        select(tmp_path, report(tmp_path, lopsided), maximum_slice_loss=0.05)
    assert "lopsided: loses 10.0 points of accuracy in the slice 'label spam', allowed are 5 (5 less)" in str(caught.value)
    assert not (tmp_path / "out" / "verdict.json").exists()
    with pytest.raises(RegistryError, match="no alias spam/winner"):
        read(str(tmp_path / "runs"), "spam/winner")
    (verdict,) = verdicts(str(tmp_path / "runs"), "spam/winner")
    assert (verdict["moved"], verdict["winner"], verdict["budget"]["maximum_slice_loss"]) == (False, None, 0.05)
    ((said,),) = [one["reasons"] for one in verdict["verdicts"]]
    assert said.startswith("loses 10.0 points of accuracy in the slice 'label spam'")
    assert verdict["report"] == str(tmp_path / "report") and "this verdict is kept in" in str(caught.value)


def select(root: Path, made: Artifact, **budget: Any) -> tuple[Context, Any]:
    (root / "out").mkdir(exist_ok=True)
    context = Context(str(root / "runs"), "spam", "winner", str(root / "verdict"), "1", directory=root / "out")
    return context, run(SelectConfig.model_validate(budget), Inputs(report=[made]), context)


def test_the_fastest_within_the_budget_wins_and_the_alias_moves_once(tmp_path: Path) -> None:
    made = report(
        tmp_path, candidate_row("slow", 0.99, 5.0), candidate_row("weak", 0.90, 1.0), candidate_row("right", 0.975, 2.0)
    )
    context, outcome = select(tmp_path, made)
    assert outcome.details["winner"] == "right" and outcome.metrics["kept"] == 0.975
    assert [verdict["qualifies"] for verdict in outcome.details["verdicts"]] == [True, False, True]
    verdict = publish_directory(tmp_path / "out", tmp_path / "verdict", Kind.REPORT)
    assert read_verdict(verdict)["teacher"]["candidate"] == "teacher"
    for _ in range(2):
        settle(verdict, context)
    alias = read(context.storage, "spam/winner")
    (kept,) = verdicts(context.storage, "spam/winner")
    assert (kept["moved"], kept["winner"]) == (True, "right") and kept["verdicts"] == outcome.details["verdicts"]
    assert (alias.target.uri, alias.target.variant, len(alias.history)) == ("/runs/right", "int8", 1)


def test_nothing_moves_where_no_candidate_qualifies(tmp_path: Path) -> None:
    made = report(tmp_path, candidate_row("weak", 0.90, 1.0), candidate_row("poor", 0.80, 0.5))
    with pytest.raises(Refused, match=r"(?s)alias has not moved.*weak: keeps 90\.0%.*poor: keeps 80\.0%"):
        select(tmp_path, made)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(Refused):
        select(tmp_path, made)
    with pytest.raises(Refused):
        select(tmp_path, made, minimum_kept=0.95)
    kept = verdicts(str(tmp_path / "runs"), "spam/winner")
    assert [verdict["budget"]["minimum_kept"] for verdict in kept] == [0.97, 0.95], "the same verdict is kept once"
    files = sorted((tmp_path / "runs").rglob("*.json"))
    assert [file.parent for file in files] == [tmp_path / "runs/.verdicts/spam/winner"] * 2, "and there is no alias"
