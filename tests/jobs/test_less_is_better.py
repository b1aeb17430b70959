"""A task that is judged by errors, from judging to the report, and what a recipe asks of it in vain.

pytest tests/jobs/test_less_is_better.py
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml

from cluster.store.artifact import Artifact, Kind
from jobs.core.config import BadInput
from jobs.core.metric import Metric
from jobs.core.stage import Context, Inputs
from jobs.evaluate import EvaluateConfig, _metric
from jobs.judging.cascade_threshold import cascades_of
from jobs.judging.pareto import front_of, pareto_front
from jobs.judging.quality import Candidate, Rows, judge_quality, measure_batch_mates, measure_parity
from jobs.report.page import render_page
from jobs.report.tables import comparison_table
from jobs.search.setup import tune_config
from jobs.search.trial_results import kept_of
from jobs.select import SelectConfig, run, shortfalls
from jobs.tasks import learning_of
from jobs.tasks.figures import bootstrap_interval
from serve.engines.base import Engine
from serve.tasks import task_of
from serve.tasks.protocol import Item
from tests.jobs.hill import climbing
from tests.jobs.stars import NAME, installed, write_entry_point
from tests.jobs.tiny import publish_directory

ROOT = Path(__file__).parents[2]
TRUTH = np.arange(400) % 5 + 1.0
ROWS = Rows([Item((str(number),)) for number in range(400)], TRUTH, {"shop": ["web", "market"] * 200})


@pytest.fixture(autouse=True)
def stars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The kind is installed."""
    with installed(tmp_path_factory.mktemp("installed")):
        yield


class Told:
    """An engine that answers each text, a number, with the stars of that place in a list."""

    fitted: dict[str, float] = {}  # noqa: RUF012  nothing

    def __init__(self, stars_N: np.ndarray) -> None:
        self.task, self.stars_N = task_of({"kind": NAME}), stars_N
        self.card = SimpleNamespace(variants={"torch": SimpleNamespace(backend="torch"), "int8": None}, labels=())

    def outputs(self, items: list[Item]) -> np.ndarray:
        return self.stars_N[[int(item.values[0]) for item in items]][:, None]

    settled = outputs


def candidate(name: str, errors: Any, p95: float = 1.0, variant: str = "torch") -> Candidate:
    """A candidate whose answers are so many stars too high."""
    artifact, engine = SimpleNamespace(fingerprint=name[:2]), Told(TRUTH + errors)
    made = Candidate(name, cast(Artifact, artifact), variant, cast(Engine, engine), 9)
    made.seconds = [p95 / 1e3]
    return made


def judged(*candidates: Candidate) -> list[dict[str, Any]]:
    for one in candidates:
        judge_quality(one, ROWS, candidates[0], learning_of(NAME).metric(candidates[0].task, None), 500)
        measure_batch_mates(one, ROWS.items, 8, 40, 1)
    measure_parity(candidates)
    return [
        {"candidate": one.name, "bytes": 9, "parameters": 9, "variant": one.variant, "uri": one.name, "fingerprint": one.name}
        | {"latency_p50_ms": 1.0, "latency_p95_ms": 1e3 * one.seconds[0], "speedup": 1.0, "size_ratio": 1.0, **one.figures}
        for one in candidates
    ]


def rows() -> list[dict[str, Any]]:
    """A teacher half a star off, a student that keeps four fifths of that, its export, and a candidate without any merit."""
    errors = np.where(np.arange(400) % 2, 0.25, 0.75)
    export = candidate("st:int8", errors * 1.25 + 0.25 * (np.arange(400) == 7), 0.5, "int8")
    return judged(candidate("teacher", errors, 4.0), candidate("st", errors * 1.25), export, candidate("bad", errors * 3, 5.0))


def report() -> dict[str, Any]:
    figures = {metric.name: metric.short for metric in learning_of(NAME).metrics}
    told = {"kind": NAME, "fields": ["text"], "metric": "mean_error", "mode": "min", "figures": figures}
    return told | {"yardstick": "teacher", "split": "test", "examples": 400, "conditions": {"threads": 1}, "rows": rows()}


def test_what_is_kept_of_an_error_and_its_interval() -> None:
    teacher, student, export, bad = rows()
    assert (teacher["score"], student["score"], bad["score"]) == pytest.approx((0.5, 0.625, 1.5))
    assert (teacher["kept"], student["kept"], bad["kept"]) == pytest.approx((1.0, 0.8, 1 / 3))
    assert teacher["kept_interval"] == [1, 1] and student["kept_interval"] == pytest.approx([0.8, 0.8]), "in every resample"
    assert student["interval"][0] < 0.625 < student["interval"][1] < 1
    assert (student["mean_error"], student["largest_error"]) == pytest.approx((0.625, 0.9375))
    assert student["slices"]["shop web"]["goodness"] < student["slices"]["shop market"]["goodness"] < 1
    assert not {"accuracy", "macro_f1", "confusion", "calibration_error"} & student.keys()
    assert (export["parity_reference"], export["parity_change"]) == ("st", pytest.approx(0.25))
    assert student["parity_change"] == student["batch_change"] == student["batch_flips"] == 0
    assert 0 < student["agreement"] <= 1 and 0 <= export["parity_flips"] <= 1 / 400


def test_no_error_at_all_keeps_all_there_is() -> None:
    perfect, other = judged(candidate("teacher", 0.0), candidate("other", 0.5))
    assert (perfect["kept"], perfect["interval"], other["kept"]) == (1.0, [0.0, 0.0], 0.0)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_score_that_keeps_a_share_keeps_it(mode: Any) -> None:
    metric = Metric("error", mode=mode)
    assert metric.kept(metric.keeping(0.8, 0.5), 0.5) == pytest.approx(0.8)
    assert metric.kept(metric.keeping(1.25, 0.5), 0.5) == pytest.approx(1.25)


def test_fewer_errors_keep_more_down_to_none_at_all() -> None:
    error = Metric("error", mode="min")
    kept = [error.kept(score, reference=0.5) for score in (2.0, 0.51, 0.5, 0.49, 0.25, 0.0)]
    assert kept == pytest.approx([0.25, 0.5 / 0.51, 1.0, 1.02, 1.5, 2.0])


def test_a_figure_below_zero_keeps_nothing_and_has_its_interval() -> None:
    correlation = Metric("correlation", highest=1.0, lowest=-1.0)
    assert (correlation.kept(-0.1, 0.5), correlation.kept(0.5, -0.1), correlation.kept(-0.1, -0.1)) == (0.0, 0.0, 1.0)
    low, high = bootstrap_interval(np.linspace(-0.4, 0.2, 99), -0.1, correlation.highest, correlation.lowest)
    assert -0.4 < low < -0.1 < high < 0.2
    assert bootstrap_interval(np.linspace(-2, 0, 99), -0.95, correlation.highest, correlation.lowest)[0] == -1


def test_the_front_has_the_smallest_errors() -> None:
    made = report()
    assert pareto_front(made["rows"], mode="min") == ["teacher", "st", "st:int8"]
    front = front_of(made)
    assert front["axes"]["score"] == "lower" and [one["candidate"] for one in front["front"]] == ["st:int8", "st", "teacher"]
    assert front["beaten"] == [{"candidate": "bad", "by": ["teacher", "st", "st:int8"]}]


def test_the_best_that_keeps_enough_is_selected(tmp_path: Path) -> None:
    made = report()
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "report.json").write_text(json.dumps(made))
    artifact = publish_directory(tmp_path / "draft", tmp_path / "report", Kind.REPORT)
    (tmp_path / "out").mkdir()
    context = Context(str(tmp_path / "runs"), "stars", "winner", str(tmp_path / "verdict"), "1", directory=tmp_path / "out")
    outcome = run(SelectConfig(minimum_kept=0.3, prefer="best"), Inputs(report=[artifact]), context)
    assert outcome.details["winner"] == "st", "the teacher itself is no candidate"
    teacher, student, _, bad = made["rows"]
    assert not shortfalls(student, teacher, SelectConfig(minimum_kept=0.79, minimum_kept_low=0.79))
    lost, kept = shortfalls(bad, teacher, SelectConfig(minimum_kept=0.5, maximum_slice_loss=0.1))[-2:]
    assert "points less right in the slice" in lost and "keeps 33.3% of the teacher's score, 50.0% are asked" in kept


def test_a_search_looks_for_the_smallest_error() -> None:
    step = replace(climbing({"scheduler": "none", "keep": 2}), metrics=(Metric("mean_error", mode="min"),))
    trials: list[dict[str, Any]] = [
        {"name": str(score), "values": {}, "score": score, "status": "finished"} for score in (0.5, 0.3, 0.4)
    ]
    assert [one["name"] for one in kept_of(step, trials)] == ["0.3", "0.4"]
    assert (tune_config(step, 1).metric, tune_config(step, 1).mode) == ("mean_error", "min")


def test_the_report_has_the_task_s_columns_and_no_section_that_it_has_not(tmp_path: Path) -> None:
    made, place = report(), tmp_path / "draft"
    place.mkdir()
    (place / "report.json").write_text(json.dumps(made))
    artifacts = {"judged": publish_directory(place, tmp_path / "judged", Kind.REPORT, stage="evaluate")}
    asked = {"text": "fine", "asked": "fine", "value": 3.26}
    answers = [{**asked, "said": "3 stars", "expected": "4 stars", "right": False}]
    details = {"answers": answers, "url": "http://127.0.0.1/v1/predict"}
    artifacts["live"] = publish_directory(place, tmp_path / "live", Kind.REPORT, stage="deploy", details=details)
    choice = {"winner": "st", "budget": {"minimum_kept": 0.75}}
    page = render_page("stars", artifacts, choice)
    assert "keeps 80.0% of the teacher’s mean error" in page and "mean error (less is better)" in page
    assert "How steady" in page and '<th scope="col">largest error</th>' in page
    assert not [word for word in ("Where they err", "How sure", "accuracy", "alibration") if word in page]
    assert "<q>fine</q>" in page and "<td>3 stars</td><td>3.26</td>" in page and "✗ expected 4 stars" in page
    table = comparison_table(made, "st").splitlines()
    assert table[0].split()[:5] == ["candidate", "mean", "error", "kept", "most"] and "acc" not in table[0].split()
    assert [line[0] for line in table[2:6]] == ["+", "*", "+", " "]


def test_what_does_not_say_how_sure_it_is_has_no_cascade() -> None:
    candidates = [candidate("teacher", 0.5), candidate("small", 0.6)]
    judged(*candidates)
    with pytest.raises(BadInput, match="cascade: answers of stars do not say how sure they are"):
        cascades_of(candidates, ROWS, ROWS, learning_of(NAME).metric(candidates[0].task, None), 0.99)


def test_a_figure_that_the_task_has_not_is_refused_by_the_step_too() -> None:
    with pytest.raises(BadInput, match="metric = 'macro_f1': this task has no such figure"):
        _metric(EvaluateConfig(metric="macro_f1"), learning_of(NAME), task_of({"kind": NAME}))
    assert _metric(EvaluateConfig(), learning_of(NAME), task_of({"kind": NAME})).name == "mean_error"
    assert _metric(EvaluateConfig(metric="largest_error"), learning_of(NAME), task_of({"kind": NAME})).mode == "min"


WRONG: dict[str, dict[str, Any]] = {
    "rows": {"stage": "prepare", "task": {"kind": "stars"}, "split": {"test": 0.1}},
    "labelled": {"stage": "prepare", "task": {"label": "name"}, "split": {"test": 0.1}},
    "pairs": {"stage": "prepare", "task": {"label": "name", "pair": "second"}, "split": {"test": 0.1}},
    "teacher": {
        "stage": "finetune",
        "inputs": {"examples": "rows"},
        "model": "sample:minilm_l6",
        "monitor": "macro_f1",
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "loss": {"delta": -1, "epsilon": 2, "class_weights": "balanced"},
    },
    "single": {"stage": "finetune", "inputs": {"examples": "labelled"}, "model": "sample:minilm_l6", "loss": {"delta": 1}},
    "soft": {"stage": "predict", "inputs": {"model": "teacher", "examples": "labelled"}},
    "right": {"stage": "predict", "inputs": {"model": "teacher", "examples": "rows"}},
    "student": {
        "stage": "distill",
        "inputs": {"examples": "labelled", "teacher": "right", "init": "single"},
        "loss": "huber",
    },
    "other": {"stage": "distill", "inputs": {"examples": "rows", "teacher": "right", "init": "teacher"}, "loss": "forward_kl"},
    "small": {
        "stage": "compress",
        "inputs": {"model": "single", "examples": "pairs"},
        "heal": {"monitor": "mean_error"},
    },
    "labels": {"stage": "predict", "inputs": {"model": "single", "examples": "labelled"}},
    "healed": {
        "stage": "compress",
        "inputs": {"model": "single", "examples": "labelled", "teacher": "labels"},
        "heal": {"loss": "huber"},
    },
    "judged": {
        "stage": "evaluate",
        "inputs": {"examples": "rows", "teacher": "teacher", "candidates": ["small"]},
        "metric": "accuracy",
        "cascade": 0.99,
    },
    "winner": {"stage": "select", "inputs": {"report": "judged"}, "maximum_calibration_error": 0.1},
}
TOLD = {
    "teacher.monitor = 'macro_f1'": "no such figure. Known here: mean_error, largest_error, validation_loss",
    "teacher.label_smoothing = 0.1": "the loss of stars has nothing like it",
    "teacher.class_weights = 'balanced'": "the loss of stars has nothing like it",
    "teacher.loss.delta = -1": "greater than 0",
    "teacher.loss.epsilon = 2": "the loss of stars has no such key. Known here: delta",
    "teacher.loss.class_weights": "it stands beside loss, not in it",
    "single.loss.delta = 1": "the loss of classification has no such key. Remove it",
    "soft.inputs.model = 'teacher'": "it answers stars of text, and labelled is for classification of text. Name one",
    "student.inputs.teacher = 'right'": "it answers stars of text, and labelled is for classification of text",
    "student.loss = 'huber'": "answers of classification cannot be compared so",
    "other.loss = 'forward_kl'": "answers of stars cannot be compared so. Known here: huber",
    "small.inputs.model = 'single'": "it answers classification of text, and pairs is for classification of text and pair",
    "small.heal.monitor = 'mean_error'": "Known here: macro_f1, accuracy, validation_loss",
    "healed.heal.loss = 'huber'": "answers of classification cannot be compared so",
    "judged.inputs.candidates = 'small'": "it answers classification of text, and rows is for stars of text",
    "judged.metric = 'accuracy'": "no such figure",
    "judged.cascade = 0.99": "answers of stars do not say how sure they are",
    "winner.maximum_calibration_error = 0.1": "answers of stars have no probabilities",
}


def test_everything_that_a_task_has_not_is_told_before_anything_runs(tmp_path: Path) -> None:
    """All of it at once, with exit code 2."""
    lines = [f"text {number},more {number},{number % 5},{'ab'[number % 2]}" for number in range(60)]
    steps = {name: {**step} for name, step in WRONG.items()}
    for name in ("rows", "labelled", "pairs"):
        steps[name]["source"] = str(tmp_path / f"{name}.csv")
        # Each of its own: of one text two of these steps would be refused for their splits too.
        own = [line.replace("text", name, 1) for line in lines]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,second,value,name", *own]))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "stars", "steps": steps}))
    (tmp_path / "installed").mkdir()
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{write_entry_point(tmp_path / 'installed')}"}
    command = [sys.executable, "-m", "jobs.pipeline", str(tmp_path / "recipe.yaml"), "--plan", "--storage", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    found = [line for line in done.stderr.splitlines() if "steps." in line]
    for path, said in TOLD.items():
        assert [line for line in found if f"steps.{path}" in line and said in line], (path, done.stderr)
    assert len(found) == len(TOLD), done.stderr
