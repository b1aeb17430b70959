"""Numbers for pairs of texts, and labels with an order for Chinese ones, the whole road at the smallest size: files, teacher,
student, int8, service, files, report; and what is wrong with such rows, told before anything runs."""

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from cluster.connection.connect import Cluster
from cluster.connection.embedded import free_ports
from cluster.store.artifact import Artifact, open_artifact
from jobs.core.recipe import load_recipe
from jobs.running.preflight import preflight
from tests.story.running import ROOT, run_job
from tests.story.tiny_world import write_base, write_recipe

PRAISE = {"superb": 2, "pleasant": 1, "ordinary": 0, "noisy": -1, "filthy": -2}
THINGS = ("the room", "our table", "the lobby", "that pool", "the garden")
POINTS = {"非常满意": 2, "味道不错": 1, "还可以吧": 0, "有点失望": -1, "再也不来": -2}
ASIDES = ("昨天去的", "和朋友一起", "离家很近", "第一次点")
GRADES = ("差", "中", "好")
Row = tuple[str, ...]


def impressions(count: int, seed: int) -> list[Row]:
    """Two remarks, and a number from 10 to 50 that says how good both are together."""
    draw = random.Random(seed)
    made: list[Row] = []
    for number in range(count):
        words = draw.choices(list(PRAISE), k=2)
        texts = [f"{draw.choice(THINGS)} was {word}, stay {number}" for word in words]
        made.append((*texts, str(30 + 5 * sum(PRAISE[word] for word in words))))
    return made


def meals(count: int, seed: int) -> list[Row]:
    """Reviews of two remarks, and the grade that they come to."""
    draw = random.Random(seed)
    made: list[Row] = []
    for number in range(count):
        says = draw.choices(list(POINTS), k=2)
        total = sum(POINTS[say] for say in says)
        parts = [*says, draw.choice(ASIDES), f"第{number}单"]
        draw.shuffle(parts)
        made.append(("，".join(parts), GRADES[0] if total < -1 else GRADES[2] if total > 1 else GRADES[1]))
    return made


def write_rows(file: Path, header: Row, rows: Sequence[Row]) -> str:
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(file)


@dataclass(frozen=True)
class Story:
    """A finished run."""

    directory: Path
    name: str
    steps: Sequence[str]

    @property
    def made(self) -> dict[str, Artifact]:
        runs = self.directory / "runs" / self.name
        return {step: open_artifact(str(next(runs.glob(f"{step}-*")))) for step in self.steps}

    @property
    def url(self) -> str:
        return str(self.made["served"].manifest.details["url"])

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(self.made["judged"].file("report.json")).read_text())
        return found


def road(name: str, source: dict[str, str], text: str, task: dict[str, Any], base: str, port: int) -> dict[str, Any]:
    """From rows to a service."""
    examples = {"examples": "rows"}
    training = {"model": base, "max_length": 40, "batch_size": 16, "evaluations": 2, "optimizer": {"learning_rate": 2e-3}}
    steps = {
        "rows": {"stage": "prepare", "source": source, "text": text, "task": task, "split": {"validation": 0.2}},
        "teacher": {"stage": "finetune", "inputs": examples, **training, "epochs": 12},
        "soft": {"stage": "predict", "inputs": {**examples, "model": "teacher"}},
        "student": {"stage": "distill", "inputs": {**examples, "teacher": "soft"}, **training, "epochs": 12},
        "small": {"stage": "compress", "inputs": {**examples, "model": "student", "teacher": "soft"}, "max_length": 40}
        | {"prune": {"feed_forward": 0.25}, "heal": {"optimizer": {"learning_rate": 1e-3}, "evaluations": 1}},
        "judged": {"stage": "evaluate", "inputs": {**examples, "teacher": "teacher", "candidates": "small"}}
        | {"latency_texts": 20, "resamples": 100},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": 0.3, "prefer": "smallest"},
        "served": {"stage": "deploy", "inputs": {**examples, "winner": "winner"}}
        | {"route": f"/{name}", "port": port, "cpus": 0},
    }
    # What is deployed is to be a transformer: a linear model, as good and smaller, is what the English story deploys.
    return {"name": name, "steps": steps, "floor": False}


@pytest.fixture(scope="module")
def stories(serving_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Story]:
    """Both roads, side by side."""
    directory, (port,) = tmp_path_factory.mktemp("numbers"), free_ports(1)
    rows = {"stays": (impressions, ("first", "second", "points")), "meals": (meals, ("review", "grade"))}
    tasks: dict[str, dict[str, Any]] = {
        "stays": {"kind": "regression", "value": "points", "pair": "second", "least": 10, "greatest": 50},
        "meals": {"kind": "ordinal", "label": "grade", "order": list(GRADES)},
    }
    files, made = {}, {}
    for name, (draw, header) in rows.items():
        own = {"train": draw(600, seed=0), "test": draw(80, seed=1)}
        source = {split: write_rows(directory / f"{name}_{split}.csv", header, some) for split, some in own.items()}
        write_base(directory / f"base_{name}", [text for row in own["train"] for text in row[:-1]])
        recipe = road(name, source, header[0], tasks[name], str(directory / f"base_{name}"), port)
        files[name] = write_recipe(directory / f"{name}.yaml", recipe)
        made[name] = Story(directory, name, list(recipe["steps"]))

    def run(name: str) -> None:
        ran = run_job(serving_cluster, "jobs.pipeline", files[name], "--storage", str(directory / "runs"))
        assert ran.exit_code == 0, ran.text

    with ThreadPoolExecutor() as both:
        list(both.map(run, files))
    return made


def test_the_scale_is_that_of_the_training_numbers(stories: dict[str, Story]) -> None:
    made = stories["stays"].made["rows"]
    task = json.loads((made.local() / "task.json").read_text())
    assert 25 < task["mean"] < 35 and 7 < task["deviation"] < 13 and (task["least"], task["greatest"]) == (10, 50)
    assert "standard deviation" in Path(made.file("data_report.html")).read_text()
    assert json.loads((stories["meals"].made["rows"].local() / "task.json").read_text())["labels"] == list(GRADES)


def test_all_have_learned(stories: dict[str, Story]) -> None:
    report = stories["stays"].report
    rows = {row["candidate"]: row for row in report["rows"]}
    assert (report["metric"], report["mode"]) == ("rmse", "min") and {"teacher", "small", "small:int8"} <= set(rows)
    for name, row in rows.items():
        assert row["score"] < 4 and row["pearson"] > 0.9 and row["spearman"] > 0.9, (name, row["score"])
        assert row["interval"][0] <= row["score"] <= row["interval"][1] and row["mae"] <= row["rmse"]
        assert sum(one["examples"] for one in row["by_range"]) == report["examples"] > 60
    report = stories["meals"].report
    assert (report["metric"], report["labels"]) == ("quadratic_weighted_kappa", list(GRADES))
    for row in report["rows"]:
        assert row["score"] > 0.7 and row["within_one"] > 0.95, (row["candidate"], row["score"])
        assert np.array(row["confusion"]).sum() == report["examples"]
    card = json.loads((stories["meals"].made["small"].local() / "raystill.json").read_text())
    assert all(variant["fitted"]["temperature"] > 0 for variant in card["variants"].values())


def test_the_page_of_figures_says_what_only_these_have(stories: dict[str, Story]) -> None:
    pages = {name: (story.directory / "runs" / name / "report.html").read_text() for name, story in stories.items()}
    assert "By range: teacher" in pages["stays"] and "RMSE (less is better)" in pages["stays"]
    assert "Where they err" in pages["meals"] and "Where they err" not in pages["stays"]


def test_numbers_are_answered_over_http(stories: dict[str, Story]) -> None:
    asked = impressions(80, seed=1)
    inputs = [{"text": first, "pair": second} for first, second, _ in asked]
    url = stories["stays"].url
    reply = requests.post(url, json={"inputs": inputs}, timeout=60)
    assert reply.status_code == 200, reply.text
    answers = reply.json()["answers"]
    assert all(set(answer) == {"value"} and 10 <= answer["value"] <= 50 for answer in answers)
    errors = [abs(answer["value"] - float(points)) for answer, (_, _, points) in zip(answers, asked, strict=True)]
    assert np.mean(errors) < 4
    root = url.removesuffix("predict")
    (listed,) = requests.get(f"{root}models", timeout=60).json()["models"]
    assert (listed["kind"], listed["view"], listed["explains"]) == ("regression", "number", True)
    pair = {"text": "the room was superb", "pair": "our table was ordinary"}
    explained = requests.post(f"{root}explain", json={"inputs": pair}, timeout=60)
    assert explained.status_code == 200, explained.text
    most = max(explained.json()["words"], key=lambda word: word["attribution"])
    assert most["text"] == "superb"
    assert most["attribution"] == pytest.approx(explained.json()["value"] - most["value_without"], abs=1e-6)


def test_labels_with_an_order_are_answered_over_http(stories: dict[str, Story]) -> None:
    asked = meals(80, seed=1)
    url = stories["meals"].url
    reply = requests.post(url, json={"inputs": [text for text, _ in asked]}, timeout=60)
    assert reply.status_code == 200, reply.text
    answers = reply.json()["answers"]
    assert sum(answer["label"] == grade for answer, (_, grade) in zip(answers, asked, strict=True)) > 60
    for answer in answers:
        assert sum(one["probability"] for one in answer["probabilities"]) == pytest.approx(1)
        assert all(one["probability"] >= 0 for one in answer["probabilities"])
    root = url.removesuffix("predict")
    explained = requests.post(f"{root}explain", json={"inputs": asked[0][0], "label": "好"}, timeout=60)
    assert explained.json()["label"] == "好" and explained.json()["words"]


def test_files_are_answered(stories: dict[str, Story], serving_cluster: Cluster) -> None:
    story, output = stories["stays"], stories["stays"].directory / "answers"
    columns = ["--columns", "text=first", "pair=second"]
    asked = ["--model", story.made["small"].uri, "--input", str(story.directory / "stays_test.csv"), *columns]
    ran = run_job(serving_cluster, "jobs.predict", *asked, "--output", str(output), "--format", "jsonl")
    assert ran.exit_code == 0, ran.text
    (part,) = output.glob("part-*.jsonl")
    answered = [json.loads(line) for line in part.read_text().splitlines()]
    assert len(answered) == 80 and np.mean([abs(row["predicted"] - float(row["points"])) for row in answered]) < 4


Case = tuple[dict[str, Any], str, tuple[str, ...]]
WRONG_ROWS: dict[str, Case] = {
    "decimals": ({"kind": "regression"}, "3,5", ("row 2 of", "decimals.csv", "'3,5' is no number; write 3.5")),
    "infinite": ({"kind": "regression"}, "inf", ("row 2 of", "infinite.csv", "'inf' is no finite number")),
    "below": ({"kind": "regression", "least": 2}, "1", ("row 2 of", "1 is below least: 2")),
    "constant": ({"kind": "regression"}, "4", ("training numbers are all about 4",)),
    "unplaced": ({"kind": "ordinal", "label": "value", "order": [3, 4]}, "5", ("row 2 of", "'5' is not in order: [3, 4]")),
    "unordered": ({"kind": "ordinal", "label": "value"}, "good", ("row 2 of", "'good' is no whole number", "write order:")),
}
WRONG_SETTINGS: dict[str, Case] = {
    "bounds": ({"kind": "regression", "least": 2, "greatest": 1}, "5", ("which is not below greatest, 1",)),
    "twice": ({"kind": "ordinal", "label": "value", "order": [3, 3]}, "4", ("'3' stands in it twice",)),
}
TRAINING: dict[str, dict[str, Any]] = {
    "rows": {"stage": "prepare", "task": {"kind": "regression"}, "split": {"validation": 0.2}},
    "teacher": {"stage": "finetune", "inputs": {"examples": "rows"}, "model": "sample:minilm_l6", "loss": {"huber_delta": 0}},
    "soft": {"stage": "predict", "inputs": {"examples": "rows", "model": "teacher"}},
    "student": {"stage": "distill", "inputs": {"examples": "rows", "teacher": "soft", "init": "teacher"}, "temperature": 4},
}


@pytest.mark.parametrize("cases", [WRONG_ROWS, WRONG_SETTINGS], ids=["rows", "settings"])
def test_what_is_wrong_is_told_all_at_once_with_exit_code_2(cases: dict[str, Case], tmp_path: Path) -> None:
    steps: dict[str, Any] = {}
    for name, (task, value, _) in cases.items():
        rows = [(f"{name} is fine", "4"), (f"{name} so so", value), (f"{name} bad", ""), (f"{name} none", "4")]
        source = {"train": write_rows(tmp_path / f"{name}.csv", ("text", "value"), rows)}
        steps[name] = {"stage": "prepare", "source": source, "task": task, "split": {"validation": 0.1}}
    lines = refused(write_recipe(tmp_path / "wrong.yaml", {"name": "wrong", "steps": steps}), tmp_path)
    for name, (_, _, told) in cases.items():
        own = [line for line in lines if f"steps.{name}.task" in line]
        assert own and all(words in own[0] for words in told), (name, lines)


def test_what_a_loss_of_numbers_has_not_is_told_with_exit_code_2(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.csv", ("text", "value"), [(f"text {number}", str(number)) for number in range(50)])
    steps = {**TRAINING, "rows": {**TRAINING["rows"], "source": source}}
    lines = refused(write_recipe(tmp_path / "wrong.yaml", {"name": "wrong", "steps": steps}), tmp_path)
    assert any("steps.student.temperature = 4" in line and "no probabilities that it could soften" in line for line in lines)
    assert any("steps.teacher.loss.huber_delta = 0" in line and "greater than 0" in line for line in lines), lines


def refused(file: str, directory: Path) -> list[str]:
    """What the pipeline says before it runs anything, a line a problem."""
    command = [sys.executable, "-m", "jobs.pipeline", file, "--plan", "--storage", str(directory / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    return [line for line in done.stderr.splitlines() if "steps." in line]


NAMES = {"差": "very negative", "中": "neutral", "好": "positive"}
SHIPPED: dict[str, list[Row]] = {
    "relatedness": [("sentence1", "sentence2", "score"), *((*row[:2], str(int(row[2]) / 50)) for row in impressions(90, 2))],
    "grades": [("text", "label_text"), *((text, NAMES[grade]) for text, grade in meals(90, 2))],
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_recipes_are_sound_but_for_the_hub(name: str, tmp_path: Path) -> None:
    file, (header, *rows) = f"jobs/recipes/{name}.yaml", SHIPPED[name]
    source = f"{{train: {write_rows(tmp_path / 'rows.csv', header, rows)}, test: {tmp_path}/rows.csv}}"
    preflight(load_recipe(file, [f"steps.rows.source={source}"]), str(tmp_path / "runs"))
    assert Path(file).read_text().count("\n") < 40
