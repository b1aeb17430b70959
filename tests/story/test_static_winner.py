"""A static student down the whole road: searched, judged beside its teacher in four precisions, selected, served, asked.

pytest tests/story/test_static_winner.py
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact, open_artifact
from jobs.core.config import BadInput
from jobs.core.recipe import load_recipe, parse_recipe
from jobs.running.preflight import preflight
from tests.story.running import run_job
from tests.story.tiny_world import OFFERS, TALK, recipe, write_recipe, write_world


@dataclass(frozen=True)
class StaticStory:
    """A finished run."""

    directory: Path
    made: dict[str, Artifact]

    def ask(self, path: str, body: Any) -> Any:
        """POST to the service."""
        url = str(self.made["served"].manifest.details["url"]).removesuffix("/predict")
        reply = requests.post(url + path, json=body, timeout=30)
        assert reply.status_code == 200, reply.text
        return reply.json()


def steps_of(directory: Path) -> dict[str, Any]:
    whole = recipe(write_world(directory))["steps"]
    examples = {"examples": "messages"}
    student = {"kind": "static", "dimension": {"choice": [16, 32]}, "hidden": 16}
    training = {"alpha": 0.2, "epochs": 30, "batch_size": 16, "optimizer": {"learning_rate": 1e-2}}
    return {
        "messages": whole["messages"],
        "teacher": {"stage": "finetune", "inputs": examples, "model": str(directory / "base"), "max_length": 32}
        | {"optimizer": {"learning_rate": 2e-3}, "epochs": 3, "batch_size": 16, "evaluations": 1},
        "soft": whole["soft"],
        "static": {"stage": "distill", "inputs": {**examples, "teacher": "soft", "teacher_model": "teacher"}}
        | {"student": student, "temperature": {"uniform": [1, 4]}, "tune": {"trials": 2, "scheduler": "none"}, **training},
        "judged": {"stage": "evaluate", "latency_texts": 20, "resamples": 100}
        | {"inputs": {**examples, "teacher": "teacher", "candidates": "static"}},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": 0.5, "prefer": "fastest"},
        "served": whole["served"] | {"route": "/static"},
    }


@pytest.fixture(scope="module")
def story(serving_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> StaticStory:
    directory = tmp_path_factory.mktemp("static")
    steps = steps_of(directory)
    file = write_recipe(directory / "static.yaml", {"name": "static", "steps": steps})
    preflight(load_recipe(file), str(directory / "runs"))
    ran = run_job(serving_cluster, "jobs.pipeline", file, "--storage", str(directory / "runs"))
    assert ran.exit_code == 0, ran.text
    places = {name: next(Path(directory, "runs", "static").glob(f"{name}-*")) for name in steps}
    return StaticStory(directory, {name: open_artifact(str(place)) for name, place in places.items()})


def test_each_table_is_judged_as_others_are(story: StaticStory) -> None:
    rows = {row["candidate"]: row for row in json.loads(Path(story.made["judged"].file("report.json")).read_text())["rows"]}
    students = {name: row for name, row in rows.items() if name != "teacher" and not row.get("floor")}
    assert set(students) == {"static", "static:fp16", "static:int8", "static:int4"} and "floor" in rows
    for row in students.values():
        assert row["score"] > 0.9 and row["shape"].startswith("static, ") and row["made"] == ["distilled"]
        assert 0 < row["latency_p50_ms"] < rows["teacher"]["latency_p50_ms"] and row["bytes"] < rows["teacher"]["bytes"]
    assert rows["static:int8"]["bytes"] < rows["static:fp16"]["bytes"] < rows["static"]["bytes"]


def test_the_search_tried_two_students(story: StaticStory) -> None:
    manifest = story.made["static"].manifest
    assert manifest.details["best"]["student.dimension"] in (16, 32)
    assert manifest.metrics["export_difference"] < 1e-4 and manifest.metrics["features"] > 50


def test_it_is_served_and_asked(story: StaticStory) -> None:
    answers = story.ask("/predict", {"inputs": [OFFERS[0], TALK[0]]})["answers"]
    assert [answer["label"] for answer in answers] == ["spam", "ham"]
    (vector,) = story.ask("/embeddings", {"inputs": OFFERS[0]})["embeddings"]
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)
    explained = story.ask("/explain", {"inputs": OFFERS[0]})
    assert explained


def test_what_cannot_be_is_refused_with_all_else(tmp_path: Path) -> None:
    steps = steps_of(tmp_path)
    steps["static"] = {key: value for key, value in steps["static"].items() if key not in ("tune", "temperature")}
    steps["static"] |= {"student": {"kind": "static"}, "match": {"last": {"what": "hidden"}}, "adapter": {"rank": 2}}
    steps["static"] |= {"model": str(tmp_path / "base"), "resources": {"workers": 2, "parallel": "fsdp"}}
    steps["small"] = {"stage": "compress", "inputs": {"model": "static", "examples": "messages"}}
    steps["further"] = {"stage": "finetune", "inputs": {"init": "static", "examples": "messages"}}
    steps["lines"] = {"stage": "distill", "inputs": {"examples": "messages", "teacher": "soft"}}
    steps["lines"] |= {"student": {"kind": "static", "features": "words", "rows": 100}, "max_length": 20}
    steps["none"] = {"stage": "distill", "inputs": {"examples": "messages", "teacher": "soft"}, "student": {"kind": "static"}}
    with pytest.raises(BadInput) as error:
        preflight(parse_recipe({"name": "static", "steps": steps}), str(tmp_path / "runs"))
    assert {problem.path.removeprefix("steps.") for problem in error.value.problems} >= {
        *("static.match", "static.adapter", "static.model", "static.resources.parallel"),
        *("small.inputs.model", "further.inputs.init", "lines.student.rows", "lines.max_length", "none.student.features"),
    }
