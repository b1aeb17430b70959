"""Linear models down the whole road: a floor and a searched student judged beside a transformer, selected, served, asked.

pytest tests/story/test_linear_winner.py
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact, open_artifact
from jobs.core.recipe import load_recipe
from jobs.running.preflight import preflight
from tests.story.running import run_job
from tests.story.tiny_world import recipe, write_recipe, write_world


@dataclass(frozen=True)
class LinearStory:
    """A finished run."""

    directory: Path
    made: dict[str, Artifact]

    def ask(self, path: str, body: Any) -> requests.Response:
        """POST to the service."""
        url = str(self.made["served"].manifest.details["url"]).removesuffix("/predict")
        return requests.post(url + path, json=body, timeout=30)

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        report = json.loads(Path(self.made["judged"].file("report.json")).read_text())
        return {row["candidate"]: row for row in report["rows"]}


@pytest.fixture(scope="module")
def story(serving_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> LinearStory:
    directory = tmp_path_factory.mktemp("linear")
    whole = recipe(write_world(directory))["steps"]
    examples = {"examples": "messages"}
    steps: dict[str, Any] = {
        "messages": whole["messages"],
        "teacher": {"stage": "finetune", "inputs": examples, "model": str(directory / "base"), "max_length": 32}
        | {"optimizer": {"learning_rate": 2e-3}, "epochs": 3, "batch_size": 16, "evaluations": 1},
        "soft": whole["soft"],
        "floor": {"stage": "floor", "inputs": examples},
        "words": {"stage": "distill", "inputs": {**examples, "teacher": "soft"}, "temperature": {"uniform": [1, 4]}}
        | {"student": {"kind": "linear", "strength": {"loguniform": [1.0, 50.0]}}, "tune": {"trials": 2}},
        "judged": {"stage": "evaluate", "latency_texts": 20, "resamples": 100, "cascade": 0.99}
        | {"inputs": {**examples, "teacher": "teacher", "candidates": ["floor", "words"]}},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": 0.5, "prefer": "fastest"},
        "served": whole["served"] | {"route": "/linear", "cascade": True},
    }
    file = write_recipe(directory / "linear.yaml", {"name": "linear", "steps": steps})
    preflight(load_recipe(file), str(directory / "runs"))
    ran = run_job(serving_cluster, "jobs.pipeline", file, "--storage", str(directory / "runs"))
    assert ran.exit_code == 0, ran.text
    assert "one task, no training workers" in ran.text
    places = {name: next(Path(directory, "runs", "linear").glob(f"{name}-*")) for name in steps}
    return LinearStory(directory, {name: open_artifact(str(place)) for name, place in places.items()})


def test_both_are_judged_as_others_are(story: LinearStory) -> None:
    rows = story.rows
    assert set(rows) == {"teacher", "floor", "floor:fp16", "words", "words:fp16"}
    for name in ("floor", "words"):
        row = rows[name]
        assert row["score"] > 0.95 and row["shape"].startswith("linear, ") and row["shape"].endswith(" features")
        assert 0 < row["latency_p50_ms"] < rows["teacher"]["latency_p50_ms"]
        assert row["texts_per_second"] > 0 and row["memory_bytes"] > 0 and row["bytes"] < 20e6
        assert row["batch_change"] == row["parity_change"] == 0
    assert rows["words"]["made"] == ["distilled"] and rows["floor"]["made"] == []


def test_the_search_tried_two_strengths(story: LinearStory) -> None:
    trials = story.made["words"].manifest.details["trials"]
    assert len({trial["values"]["student.strength"] for trial in trials}) == 2
    assert story.made["floor"].manifest.metrics["features"] > 100


def test_a_linear_winner_answers_and_is_explained_over_http(story: LinearStory) -> None:
    winner = json.loads(Path(story.made["winner"].file("verdict.json")).read_text())["row"]
    assert winner["candidate"] in ("floor", "floor:fp16", "words", "words:fp16")
    reply = story.ask("/predict", {"inputs": ["claim your cash bonus", "see you at lunch", "Ωψξ"]})
    assert reply.status_code == 200
    labels = [answer["label"] for answer in reply.json()["answers"]]
    assert labels[:2] == ["spam", "ham"] and labels[2] in ("spam", "ham")
    explained = story.ask("/explain", {"inputs": "see you claim your cash bonus at lunch"})
    assert explained.status_code == 200
    refused = story.ask("/embeddings", {"inputs": "a"})
    assert refused.status_code == 409 and "serve a transformer beside it" in refused.text


def test_files_are_answered_by_it(story: LinearStory, serving_cluster: Cluster) -> None:
    file, place = story.directory / "asked.csv", story.directory / "answers"
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([["body"], ["win a free prize"], ["call mum tonight"]])
    model = story.made["floor"].uri
    command = ("--model", model, "--input", str(file), "--column", "body", "--output", str(place), "--format", "csv")
    ran = run_job(serving_cluster, "jobs.predict", *command)
    assert ran.exit_code == 0, ran.text
    answers = [row for part in sorted(place.glob("*.csv")) for row in csv.DictReader(part.open())]
    assert [row["predicted"] for row in answers] == ["spam", "ham"]
