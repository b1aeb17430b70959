"""Quality and cost over thresholds, by hand, and the threshold that is fitted."""

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.connection.connect import Cluster
from cluster.store.artifact import Kind
from jobs.core.config import BadInput
from jobs.core.metric import Metric
from jobs.core.stage import Context, Inputs
from jobs.deploy import DeployConfig, behind
from jobs.evaluate import EvaluateConfig, run
from jobs.judging.cascade_threshold import Answers, fit_threshold, threshold_curve, thresholds_of
from jobs.tasks.figures import accuracy, macro_f1
from serve.engines.processor import kind
from serve.tasks.protocol import Outputs
from tests.jobs.tiny import (
    LABELS,
    MESSAGES,
    classification,
    publish_directory,
    publish_examples,
    save_classifier,
    tiny_classifier,
    tiny_tokenizer,
)

TRUTH = np.array([0, 0, 1, 1, 0, 1, 0, 1])
CONFIDENCE = np.array([0.95, 0.55, 0.9, 0.6, 0.85, 0.65, 0.8, 0.75])
RIGHT = np.array([True, False, True, False, True, True, True, False])


def answers(confidence: np.ndarray, right: np.ndarray, p50_ms: float) -> Answers:
    """Of two classes, with these confidences, right where it is said."""
    predicted = np.where(right, TRUTH, 1 - TRUTH)
    logits = np.log(np.where(np.arange(2) == predicted[:, None], confidence[:, None], 1 - confidence[:, None]))
    return Answers(logits, classification().confidence(logits), p50_ms)


def right(outputs: Outputs) -> float:
    """The share of them that is right."""
    return accuracy(TRUTH, np.asarray(outputs).argmax(-1))


SMALL = answers(CONFIDENCE, RIGHT, 2.0)
LARGE = answers(np.full(8, 0.99), np.array([True] * 7 + [False]), 10.0)


def test_the_curve_by_hand() -> None:
    alone, some, all_of_them = threshold_curve(SMALL, LARGE, right, [0.0, 0.7, 1.01])
    assert alone == {"threshold": 0.0, "asked": 0.0, "score": 5 / 8, "ms": 2.0}
    # 0.55, 0.60 and 0.65 go on; the teacher puts two of them right.
    assert some == pytest.approx({"threshold": 0.7, "asked": 3 / 8, "score": 7 / 8, "ms": 2 + 10 * 3 / 8})
    assert all_of_them == {"threshold": 1.01, "asked": 1.0, "score": 7 / 8, "ms": 12.0}


def test_the_fitted_threshold_is_the_cheapest_that_keeps_enough() -> None:
    assert fit_threshold(SMALL, LARGE, right, Metric("accuracy"), kept=5 / 7)["asked"] == 0, (
        "the small model is good enough alone"
    )
    found = fit_threshold(SMALL, LARGE, right, Metric("accuracy"), kept=1.0)
    assert (found["asked"], found["score"]) == (2 / 8, 7 / 8)
    assert 0.6 < found["threshold"] <= 0.65
    assert fit_threshold(SMALL, LARGE, right, Metric("accuracy"), kept=1.2)["asked"] == 1, (
        "more than the teacher has cannot be had"
    )


def test_thresholds_go_from_the_small_model_alone_to_the_teacher_alone() -> None:
    points = threshold_curve(
        SMALL, LARGE, lambda said: macro_f1(TRUTH, np.asarray(said).argmax(-1)), thresholds_of(SMALL.confidence_N)
    )
    asked = [point["asked"] for point in points]
    assert asked == sorted(asked) and asked[0] == 0 and asked[-1] == 1
    assert len(set(asked)) == 9, "each text goes on at a threshold of its own"


def test_outputs_of_different_lengths_are_mixed_too() -> None:
    """Of those that have no one shape, each is of the one who answers it."""
    own, theirs = [[np.full(1 + place % 3, who) for place in range(8)] for who in (0, 1)]
    small, large = Answers(own, CONFIDENCE, 2.0), Answers(theirs, CONFIDENCE, 10.0)
    said: list[list[int]] = []

    def worth(outputs: Outputs) -> float:
        said.append([int(one[0]) for one in outputs])
        return 0.0

    points = threshold_curve(small, large, worth, [0.7, 1.01])
    assert said == [[0, 1, 0, 1, 0, 1, 0, 0], [1] * 8] and [point["asked"] for point in points] == [3 / 8, 1.0]
    assert [len(one) for one in own] == [1, 2, 3, 1, 2, 3, 1, 2] and not any(one.any() for one in own), "left as they are"


def test_evaluate_fits_it_on_validation_and_deploy_puts_the_teacher_behind(ray_driver: Cluster, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    models = []
    for seed, name in enumerate(("teacher", "student")):
        save_classifier(tiny_classifier("bert", 2, len(tokenizer), seed=seed), tokenizer, LABELS, tmp_path / name)
        models.append(publish_directory(tmp_path / name, tmp_path / f"{name}-made", Kind.MODEL, name))
    examples = publish_examples(tmp_path, {"validation": MESSAGES[:40], "test": MESSAGES[40:]})
    inputs = Inputs(examples=[examples], teacher=models[:1], candidates=models[1:])
    context = Context(str(tmp_path), "tiny", "judged", str(tmp_path / "unused"), "1", directory=tmp_path / "report")
    context.directory.mkdir()
    run(EvaluateConfig(latency_texts=20, resamples=100, metric="accuracy", cascade=1.0), inputs, context)
    teacher, row = json.loads((context.directory / "report.json").read_text())["rows"]
    found, points = row["cascade"], row["cascade"]["curve"]
    assert "cascade" not in teacher
    assert (points[0]["asked"], points[0]["score"]) == (0, pytest.approx(row["score"]))
    assert (points[-1]["asked"], points[-1]["score"]) == (1, pytest.approx(teacher["score"]))
    assert points[0]["ms"] == pytest.approx(row["latency_p50_ms"])
    assert found["validation"]["threshold"] == found["judged"]["threshold"] == found["threshold"]
    verdict = {"row": row, "teacher": teacher, "judged_on": str(kind())}
    arguments = behind(verdict, DeployConfig(cascade=True, cpus=0))
    assert arguments["others"]["teacher"].judged_on is kind()
    assert arguments["cascade"].threshold == found["threshold"]
    assert (arguments["others"]["teacher"].model, arguments["others"]["teacher"].variant) == (models[0].uri, "torch")
    with pytest.raises(BadInput, match="evaluate has fitted no threshold"):
        behind({**verdict, "row": teacher}, DeployConfig(cascade=True))


def test_evaluate_refuses_a_model_of_other_labels_before_it_measures(ray_driver: Cluster, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    models = []
    for labels, name in ((LABELS, "teacher"), (("ham", "junk"), "student")):
        save_classifier(tiny_classifier("bert", 2, len(tokenizer)), tokenizer, labels, tmp_path / name)
        models.append(publish_directory(tmp_path / name, tmp_path / f"{name}-made", Kind.MODEL, name))
    examples = publish_examples(tmp_path, {"test": MESSAGES})
    inputs = Inputs(examples=[examples], teacher=models[:1], candidates=models[1:])
    context = Context(str(tmp_path), "tiny", "judged", str(tmp_path / "unused"), "1", directory=tmp_path)
    with pytest.raises(BadInput, match="inputs.candidates = 'student': .* of teacher: only one of them has the label 'junk'"):
        run(EvaluateConfig(latency_texts=20, resamples=100), inputs, context)
