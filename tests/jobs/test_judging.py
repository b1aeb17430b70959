"""Judging and choosing: scores, intervals, figures of candidates, the budget. `pytest tests/jobs/test_judging.py`"""

import json
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cluster.store.artifact import Artifact, Kind
from cluster.store.registry import RegistryError, read, verdicts
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs, Refused
from jobs.judging.quality import (
    Candidate,
    Rows,
    as_trained,
    check_tasks,
    judge_quality,
    measure_latency,
    measure_parity,
    measure_throughput,
)
from jobs.judging.results import read_verdict
from jobs.select import SelectConfig, run, settle, shortfalls
from jobs.tasks.classification import LEARNING
from jobs.tasks.figures import accuracy, bootstrap, bootstrap_interval, macro_f1
from jobs.tasks.temperature import calibration_error
from serve.engines.card import Variant
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item
from tests.jobs.tiny import (
    LABELS,
    MESSAGES,
    classification,
    publish_directory,
    save_classifier,
    tiny_classifier,
    tiny_tokenizer,
)

TEXTS, TRUTH = [text for text, _ in MESSAGES], [label for _, label in MESSAGES]
ITEMS = [Item((text,)) for text in TEXTS]
ROWS = Rows(ITEMS, np.array([LABELS.index(label) for label in TRUTH]))
MACRO_F1, ACCURACY = LEARNING.metrics
FIGURES = {"macro_f1": macro_f1, "accuracy": accuracy}


def test_scores_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for classes in (2, 5):
        for _ in range(20):
            truth, predicted = generator.integers(classes, size=(2, 30))
            truth[truth == classes - 1] = 0  # a class that is in no text
            predicted[predicted == 1] = 0  # and one that is never answered
            there = np.union1d(truth, predicted)
            macro = f1_score(truth, predicted, labels=there, average="macro", zero_division=0.0)
            assert macro_f1(truth, predicted) == pytest.approx(macro)
            assert accuracy(truth, predicted) == pytest.approx(accuracy_score(truth, predicted))
            found = measured(truth, predicted, classes)
            wanted = {"macro_f1": macro_f1(truth, predicted), "accuracy": accuracy(truth, predicted)}
            assert found == wanted, "training and judging must reckon alike"
            # A weight is how often a text is there.
            weights = generator.integers(3, size=30)
            drawn = np.repeat(truth, weights), np.repeat(predicted, weights)
            for figure in (macro_f1, accuracy):
                assert figure(truth, predicted, weights) == pytest.approx(figure(*drawn))


def measured(truth: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    """The figures of an evaluation in training, of two workers."""
    spec, logits_NC = classification([str(number) for number in range(classes)]), np.eye(classes)[predicted]
    parts = [LEARNING.part(spec, logits_NC[rank::2], truth[rank::2]) for rank in (0, 1)]
    return {name: value for name, value in LEARNING.measured(spec, parts).items() if name != "validation_loss"}


def test_labels_that_no_text_has_or_was_given_do_not_count() -> None:
    """Right throughout is 1, whatever other labels the model knows; one that was only given wrongly counts as 0."""
    truth = np.array([0, 0, 3, 3])
    assert macro_f1(truth, truth) == measured(truth, truth, 4)["macro_f1"] == 1.0
    assert macro_f1(truth, np.array([0, 0, 3, 1])) == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert macro_f1(truth[:0], truth[:0]) == 0.0


def answers_of(recall_C: np.ndarray, share_C: np.ndarray, texts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of labels by their shares, and what a classifier says of them: right as often as each recall, else any other."""
    generator, classes = np.random.default_rng(seed), len(share_C)
    truth = generator.choice(classes, texts, p=share_C)
    other = (truth + generator.integers(1, classes, texts)) % classes
    return truth, np.where(generator.random(texts) < recall_C[truth], truth, other)


def old_interval(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """As it was: labels that a resample has lost count as 0, and nothing is moved."""
    counts = np.bincount(truth * classes + predicted, minlength=classes**2)
    drawn = np.random.default_rng(0).multinomial(len(truth), counts / len(truth), size=300).reshape(300, classes, classes)
    both = drawn.sum(-1) + drawn.sum(-2)
    f1 = 2 * np.diagonal(drawn, axis1=1, axis2=2) / np.maximum(both, 1)
    return np.percentile(f1.mean(-1), (2.5, 97.5))


EVEN_2, EVEN_20, EVEN_50 = (np.full(classes, 1 / classes) for classes in (2, 20, 50))
FEW_OF_TWO = np.array([0.6, 0.37, 0.02, 0.01])
FALLING_20 = 1 / np.arange(1, 21) / (1 / np.arange(1, 21)).sum()


@pytest.mark.parametrize(
    ("share", "recall", "texts", "wanted", "before"),
    [
        pytest.param(EVEN_2, [0.95, 0.8], 400, (0.91, 0.99), 1.0, id="two labels of 200 texts"),
        pytest.param(EVEN_20, [0.95, 0.7], 200, (0.91, 0.99), 1.0, id="20 labels of 10 texts"),
        pytest.param(EVEN_20, [0.95, 0.7], 100, (0.89, 0.98), 0.85, id="20 labels of 5 texts"),
        pytest.param(FALLING_20, [0.95, 0.6], 400, (0.89, 0.98), 1.0, id="20 labels of 111 to 6 texts"),
        pytest.param(FEW_OF_TWO, [0.95, 0.7], 300, (0.86, 0.97), 1.0, id="two of 4 labels rare, 6 and 3 texts"),
        pytest.param(EVEN_50, [0.95, 0.7], 100, (0.65, 0.85), 0.02, id="50 labels of 2 texts: too few to tell"),
    ],
)
def test_the_interval_holds_the_true_macro_f1_about_as_often_as_it_says(
    share: np.ndarray, recall: list[float], texts: int, wanted: tuple[float, float], before: float
) -> None:
    """A classifier with known error rates: of the 95 % intervals from 200 samples so many hold its true score.

    `before` is the most that intervals held which counted labels that a resample lost as 0.
    """
    recall_C = np.linspace(recall[0], recall[1], len(share))
    true_score = macro_f1(*answers_of(recall_C, share, 2_000_000, seed=1))
    covered, covered_before = 0, 0
    for seed in range(200):
        truth, predicted = answers_of(recall_C, share, texts, seed)
        low, high = bootstrap_interval(*_resampled("macro_f1", truth, predicted, 300))
        covered += low <= true_score <= high
        low, high = old_interval(truth, predicted, len(share))
        covered_before += low <= true_score <= high
    assert wanted[0] <= covered / 200 <= wanted[1]
    assert covered_before / 200 <= before


def _resampled(metric: str, truth: np.ndarray, predicted: np.ndarray, resamples: int) -> tuple[np.ndarray, float]:
    figure = partial(FIGURES[metric], truth, predicted)
    return bootstrap(figure, len(truth), resamples), figure()


def test_the_interval_of_an_accuracy_holds_the_true_one() -> None:
    covered = 0
    for seed in range(200):
        answers = answers_of(np.array([0.95, 0.75]), EVEN_2, 400, seed)
        low, high = bootstrap_interval(*_resampled("accuracy", *answers, 300))
        covered += low <= 0.85 <= high
    assert 0.91 <= covered / 200 <= 0.99


def test_rare_labels_do_not_pull_the_interval_down() -> None:
    """Two texts a label: every seventh resample lacks one of them, which is no error of the classifier."""
    truth = np.arange(8) // 2
    drawn, score = _resampled("macro_f1", truth, truth, 1000)
    assert score == 1.0 and drawn.mean() == 1.0 and bootstrap_interval(drawn, score, highest=1.0) == [1.0, 1.0]
    truth, predicted = answers_of(np.full(20, 0.9), EVEN_20, 100, seed=0)
    drawn, score = _resampled("macro_f1", truth, predicted, 1000)
    low, high = bootstrap_interval(drawn, score, highest=1.0)
    assert low < score < high <= 1.0 and score - low == pytest.approx(high - score, rel=0.35)
    assert drawn.mean() == pytest.approx(score, abs=0.02)


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
        drawn, score = _resampled("accuracy", truth[:size], predicted[:size], 500)
        assert (drawn == _resampled("accuracy", truth[:size], predicted[:size], 500)[0]).all()
        assert drawn.mean() == pytest.approx(0.9, abs=0.02)
        low, high = bootstrap_interval(drawn, score)
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(10**0.5, rel=0.3)


class Told:
    """An engine that answers each text, a number, with the label of that place in a list."""

    fitted: dict[str, float] = {}  # noqa: RUF012  a temperature of 1

    def __init__(self, labels: tuple[str, ...], predicted_N: np.ndarray) -> None:
        self.task, self.predicted_N = classification(labels), predicted_N

    def outputs(self, items: list[Item]) -> np.ndarray:
        logits_NC = np.zeros((len(items), len(self.task.labels)), dtype=np.float32)
        logits_NC[np.arange(len(items)), self.predicted_N[[int(item.values[0]) for item in items]]] = 5.0
        return logits_NC


def told(labels: tuple[str, ...], predicted_N: np.ndarray) -> Candidate:
    return Candidate("told", cast(Any, None), "torch", cast(Any, Told(labels, predicted_N)), 0)


def judged(labels: tuple[str, ...], truth_N: np.ndarray, metric: str, *answers: np.ndarray) -> list[dict[str, Any]]:
    """The figures of candidates that answer so; the first is the teacher."""
    candidates = [told(labels, predicted_N) for predicted_N in answers]
    for candidate in candidates:
        rows = Rows([Item((str(number),)) for number in range(len(truth_N))], truth_N)
        judge_quality(candidate, rows, candidates[0], LEARNING.metric(candidates[0].task, metric), 1000)
    return [candidate.figures for candidate in candidates]


def test_the_share_that_is_kept_is_measured_on_the_same_resamples() -> None:
    """A student that errs where its teacher errs, and once more in every twenty texts, surely keeps about 19 of 20."""
    truth_N = np.arange(400) % 2
    teacher_N = np.where(np.arange(400) % 5 == 0, 1 - truth_N, truth_N)
    student_N = np.where(np.arange(400) % 20 == 1, 1 - truth_N, teacher_N)
    teacher, student = judged(LABELS, truth_N, "accuracy", teacher_N, student_N)
    low, high = student["kept_interval"]
    assert low < student["kept"] == 0.75 / 0.8 < high and high - low < 0.06
    alone = student["interval"]
    assert high - low < (alone[1] - alone[0]) / 0.8, "narrower than the student's own interval"
    assert teacher["kept_interval"] == [1, 1]


def test_a_perfect_model_has_a_perfect_score_whatever_labels_the_split_has() -> None:
    (figures,) = judged(("a", "b", "c"), np.arange(4) % 2, "macro_f1", np.arange(4) % 2)
    assert (figures["score"], figures["interval"], figures["kept_interval"]) == (1.0, [1.0, 1.0], [1.0, 1.0])
    assert figures["confusion"] == [[2, 0, 0], [0, 2, 0], [0, 0, 0]]


def test_a_thousand_labels_are_judged_within_a_gigabyte() -> None:
    labels = tuple(f"label {number}" for number in range(1000))
    truth_N, predicted_N = answers_of(np.full(1000, 0.9), np.full(1000, 1 / 1000), 20_000, seed=0)
    tracemalloc.start()
    try:
        _, student = judged(labels, truth_N, "macro_f1", truth_N, predicted_N)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e9, f"{peak:,} bytes"
    low, high = student["interval"]
    assert low < student["score"] < high and high - low < 0.02


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
        save_classifier(model, tokenizer, LABELS, draft)
        (draft / "notes.txt").write_text("not needed to serve it" * 1000)
        artifact = publish_directory(draft, root / name, Kind.MODEL, name)
        loaded.append(Candidate.load(artifact, "torch", threads=1, batch_size=8))
    return loaded[0], loaded[1]


def test_the_figures_of_a_candidate(candidates: tuple[Candidate, Candidate]) -> None:
    teacher, student = candidates
    for candidate in candidates:
        judge_quality(candidate, ROWS, teacher, MACRO_F1, 200)
    measure_latency(candidates, ITEMS, count=20, rounds=4)
    measure_throughput(candidates, ITEMS, batch_size=8, rounds=3)
    row, yardstick = student.row(teacher), teacher.row(teacher)

    predicted = student.task.said(student.settled)
    wanted = f1_score(TRUTH, predicted, labels=LABELS, average="macro")
    assert row["score"] == row["macro_f1"] == pytest.approx(wanted)
    assert row["accuracy"] == pytest.approx(accuracy_score(TRUTH, predicted))
    assert row["interval"][0] <= row["score"] <= row["interval"][1]
    assert row["kept_interval"][0] <= row["kept"] <= row["kept_interval"][1]
    assert np.sum(row["confusion"]) == len(TEXTS)
    assert np.sum(row["confusion"], axis=1).tolist() == [40, 40], "rows of the confusion are the true labels"
    assert 0 <= row["calibration_error"] <= 1
    both = zip(predicted, teacher.task.said(teacher.settled), strict=True)
    assert 0 < row["agreement"] == np.mean([left == right for left, right in both]) < 1
    assert (row["shape"], row["parameters"]) == ("2 × 32, 64 neurons", student.engine.card.parameters)
    assert row["kept"] == pytest.approx(row["score"] / yardstick["score"])
    assert (yardstick["kept"], yardstick["agreement"], yardstick["size_ratio"]) == (1, 1, 1)
    assert yardstick["speedup"] == pytest.approx(1)
    assert len(student.seconds) == 20 and len(student.rates) == 3
    assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"] < 10_000
    measure_parity(candidates)
    assert student.figures["parity_change"] == student.figures["parity_flips"] == 0, "both are as they were trained"
    assert (student.figures["parity_reference"], teacher.figures["parity_reference"]) == ("student", "teacher")
    directory = student.artifact.local()
    served = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "raystill.json")
    assert row["bytes"] == sum((directory / name).stat().st_size for name in served), "what serving needs, no more"
    json.dumps(row)


def test_models_that_number_their_labels_differently_are_compared_by_name(
    candidates: tuple[Candidate, Candidate], tmp_path: Path
) -> None:
    """The student again, with its two outputs the other way round, is the student."""
    teacher, student = candidates
    directory = student.artifact.local()
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    with torch.no_grad():
        for weight in (model.classifier.weight, model.classifier.bias):
            weight.copy_(weight.flip(0))
    save_classifier(model, AutoTokenizer.from_pretrained(directory), LABELS[::-1], tmp_path / "turned")
    artifact = publish_directory(tmp_path / "turned", tmp_path / "made", Kind.MODEL, "turned")
    turned = Candidate.load(artifact, "torch", threads=1, batch_size=8)
    for candidate in (teacher, student, turned):
        judge_quality(candidate, ROWS, teacher, MACRO_F1, 200)
    for key in ("score", "agreement", "kept", "interval", "kept_interval", "calibration_error"):
        assert turned.figures[key] == pytest.approx(student.figures[key]), key
    assert turned.figures["confusion"] == student.figures["confusion"]
    check_tasks([teacher, turned], classification())


def test_models_of_other_tasks_and_examples_of_another_are_refused_by_name() -> None:
    teacher, other, pairs = (told(labels, np.zeros(1)) for labels in (("ham", "spam"), ("ham", "junk"), ("ham", "spam")))
    other.name, pairs.name = "small", "pairs"
    pairs.engine.task = Classification(labels=("ham", "spam"), pairs=True)
    with pytest.raises(BadInput) as caught:
        check_tasks([teacher, other, pairs], classification(("ham", "news")))
    texts, *models = (str(problem) for problem in caught.value.problems)
    assert "inputs.examples: they are not for the task of the yardstick, told: only one of them has the label 'news'" in texts
    assert "inputs.candidates = 'small': its answers cannot be compared with those of told: only one of them" in models[0]
    assert "the label 'junk'" in models[0] and "'pairs': " in models[1] and "not of the same task" in models[1]


def test_the_variant_that_was_trained_is_torch_s_or_the_first(candidates: tuple[Candidate, Candidate]) -> None:
    card = candidates[0].engine.card
    small = Variant(backend="onnx", file="onnx/model.int8.onnx", precision="int8")
    both = card.model_copy(update={"variants": {"int8": small, **card.variants}, "default": "int8"})
    alone = card.model_copy(update={"variants": {"linear": small, "int8": small}, "default": "int8"})
    assert (as_trained(both), as_trained(alone)) == ("torch", "linear")


def test_a_split_of_few_texts_can_be_judged(candidates: tuple[Candidate, Candidate]) -> None:
    before = len(candidates[0].seconds)
    measure_latency(candidates, ITEMS[:3], count=200, rounds=10)
    measure_throughput(candidates, ITEMS[:3], batch_size=8, rounds=1)
    assert len(candidates[0].seconds) - before == 3


def candidate_row(name: str, kept: float, p50: float, size: int = 1_000_000, speedup: float = 5.0) -> dict[str, Any]:
    return {
        "candidate": name, "variant": "int8", "uri": f"/runs/{name}", "fingerprint": name, "score": 0.9 * kept, "kept": kept,
        "latency_p50_ms": p50, "latency_p95_ms": 1.5 * p50, "bytes": size, "speedup": speedup, "size_ratio": 4.0,
        "agreement": 0.96, "calibration_error": 0.04, "kept_interval": [kept - 0.03, kept + 0.03],
        "parity_reference": "small", "parity_change": 0.02, "parity_flips": 0.01, "memory_bytes": 200_000_000,
        "slices": {name: {"examples": 50, "goodness": 0.9 * kept} for name in ("label ham", "label spam")},
    }  # fmt: skip


def report(root: Path, *rows: dict[str, Any]) -> Artifact:
    (root / "report-draft").mkdir()
    judged = [candidate_row("teacher", 1.0, 10.0, speedup=1.0), *rows]
    everything = {"metric": "macro_f1", "conditions": {"processor": "avx2"}, "rows": judged}
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
        (
            {"minimum_kept": 0, "maximum_parity_change": 0.005},
            ["is 0.02 from that of small, ", "0.005", "0.015 less"],
        ),
        ({"minimum_kept": 0, "maximum_parity_flips": 0.005}, ["1.0% of its answers", "0.5%", "0.5 points less"]),
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
    lopsided["slices"] = {"label ham": {"examples": 500, "goodness": 0.91}, "label spam": {"examples": 50, "goodness": 0.8}}
    assert shortfalls(lopsided, candidate_row("teacher", 1.0, 10.0), SelectConfig()) == []
    with pytest.raises(Refused) as caught:
        select(tmp_path, report(tmp_path, lopsided), maximum_slice_loss=0.05)
    assert "lopsided: is 10.0 points less right in the slice 'label spam', allowed are 5 (5 less)" in str(caught.value)
    assert not (tmp_path / "out" / "verdict.json").exists()
    with pytest.raises(RegistryError, match="no alias spam/winner"):
        read(str(tmp_path / "runs"), "spam/winner")
    (verdict,) = verdicts(str(tmp_path / "runs"), "spam/winner")
    assert (verdict["moved"], verdict["winner"], verdict["budget"]["maximum_slice_loss"]) == (False, None, 0.05)
    ((said,),) = [one["reasons"] for one in verdict["verdicts"]]
    assert said.startswith("is 10.0 points less right in the slice 'label spam'")
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
