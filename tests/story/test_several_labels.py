"""Several labels for a text, the whole road at the smallest size: CSV, teacher, student, int8, service, files, report."""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact, open_artifact
from jobs.core.recipe import load_recipe
from jobs.running.preflight import preflight
from tests.story.running import SERVING_PORT, run_job
from tests.story.tiny_world import write_base, write_recipe

SAYS = {
    "delivery": ("it came two days late", "the parcel was left outside", "the courier was quick"),
    "price": ("far too expensive", "a bargain for this money", "the discount was gone"),
    "quality": ("the cloth is thin", "well made and heavy", "a button fell off"),
}
FILLER = ("as I said", "by the way", "to be honest", "my sister asked me", "for the record")


@dataclass(frozen=True)
class Story:
    """A finished run."""

    directory: Path
    made: dict[str, Artifact]

    @property
    def url(self) -> str:
        return str(self.made["served"].manifest.details["url"])


def remarks(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Texts that speak of some of these things, or of none."""
    draw, made = random.Random(seed), []
    for number in range(count):
        topics = sorted(draw.sample(list(SAYS), draw.choice((0, 1, 1, 2, 3))))
        parts = [draw.choice(SAYS[topic]) for topic in topics] + [draw.choice(FILLER), f"order {number}"]
        draw.shuffle(parts)
        made.append((", ".join(parts), topics))
    return made


def write_rows(file: Path, rows: Sequence[tuple[str, list[str]]]) -> str:
    """As CSV, the labels parted by a semicolon."""
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["body", "topics"])
        writer.writerows([text, ";".join(topics)] for text, topics in rows)
    return str(file)


@pytest.fixture(scope="module")
def story(serving_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Story:
    directory = tmp_path_factory.mktemp("remarks")
    rows = {"train": remarks(800, seed=0), "test": remarks(80, seed=1)}
    source = {name: write_rows(directory / f"{name}.csv", own) for name, own in rows.items()}
    write_base(directory / "base", [text for text, _ in rows["train"]])
    examples = {"examples": "rows"}
    training = {"max_length": 48, "batch_size": 16, "epochs": 20, "optimizer": {"learning_rate": 1e-3}}
    training |= {"model": str(directory / "base")}
    task = {"kind": "multi_label", "labels": "topics", "separator": ";"}
    steps = {
        "rows": {"stage": "prepare", "source": source, "text": "body", "task": task, "split": {"validation": 0.2}},
        "teacher": {"stage": "finetune", "inputs": examples, **training},
        "soft": {"stage": "predict", "inputs": {**examples, "model": "teacher"}},
        "student": {"stage": "distill", "inputs": {**examples, "teacher": "soft"}, **training},
        "small": {"stage": "compress", "inputs": {**examples, "model": "student", "teacher": "soft"}, "max_length": 48}
        | {"prune": {"feed_forward": 0.25}, "heal": {"optimizer": {"learning_rate": 1e-3}, "evaluations": 1}},
        "judged": {"stage": "evaluate", "inputs": {**examples, "teacher": "teacher", "candidates": "small"}}
        | {"latency_texts": 20, "resamples": 100, "cascade": 0.99},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": 0.5, "prefer": "smallest"},
        "served": {
            "stage": "deploy",
            "inputs": {**examples, "winner": "winner"},
            "route": "/remarks",
            "port": SERVING_PORT,
            "cpus": 0,
        },
    }
    # What is deployed is to be a transformer: a linear model, as good and smaller, is what the English story deploys.
    file = write_recipe(directory / "remarks.yaml", {"name": "remarks", "steps": steps, "floor": False})
    ran = run_job(serving_cluster, "jobs.pipeline", file, "--storage", str(directory / "runs"))
    assert ran.exit_code == 0, ran.text
    places = {name: next(Path(directory, "runs", "remarks").glob(f"{name}-*")) for name in steps}
    return Story(directory, {name: open_artifact(str(place)) for name, place in places.items()})


def test_rows_without_any_label_are_rows(story: Story) -> None:
    manifest = story.made["rows"].manifest
    assert manifest.metrics["rows_without_target"] == 0
    labels = manifest.details["labels"]["test"]
    assert set(labels) == {*SAYS, "no label"} and labels["no label"] > 5
    assert manifest.metrics["test_rows"] == 80


def test_all_have_learned_and_each_variant_has_its_thresholds(story: Story) -> None:
    report = json.loads(Path(story.made["judged"].file("report.json")).read_text())
    rows = {row["candidate"]: row for row in report["rows"]}
    assert report["metric"] == "macro_f1" and {"teacher", "small", "small:int8"} <= set(rows)
    for name, row in rows.items():
        assert row["score"] > 0.9, name
        assert {"micro_f1", "sample_f1", "exact_match", "hamming_loss"} <= set(row)
        assert [one["label"] for one in row["by_label"]] == sorted(SAYS)
    card = json.loads((story.made["small"].local() / "raystill.json").read_text())
    for name in ("torch", "onnx", "int8"):
        assert {f"threshold {label}" for label in SAYS} == set(card["variants"][name]["fitted"]), name
    config = json.loads((story.made["teacher"].local() / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_it_answers_over_http(story: Story) -> None:
    asked = remarks(80, seed=1)
    reply = requests.post(story.url, json={"inputs": [text for text, _ in asked], "top_k": 2}, timeout=60)
    assert reply.status_code == 200, reply.text
    answers = reply.json()["answers"]
    right = [sorted(answer["labels"]) == topics for answer, (_, topics) in zip(answers, asked, strict=True)]
    assert sum(right) > 60 and {len(answer["labels"]) for answer in answers} == {0, 1, 2, 3}
    assert {len(answer["probabilities"]) for answer in answers} == {2}
    root = story.url.removesuffix("predict")
    (listed,) = requests.get(f"{root}models", timeout=60).json()["models"]
    assert (listed["kind"], listed["view"], listed["explains"]) == ("multi_label", "list", True)
    text = next(text for text, topics in asked if topics == ["price"])
    explained = requests.post(f"{root}explain", json={"inputs": text, "label": "price"}, timeout=60)
    assert explained.status_code == 200, explained.text
    words = explained.json()["words"]
    most = max(words, key=lambda word: word["attribution"])
    assert explained.json()["label"] == "price" and set(explained.json()) >= {"probability", "given"}
    assert any(most["text"].strip(",") in say.split() for say in SAYS["price"]), [
        (one["text"], one["attribution"]) for one in words
    ]
    refused = requests.post(f"{root}explain", json={"inputs": text, "label": "colour"}, timeout=60)
    assert refused.status_code == 422 and "colour" in refused.text


def test_files_are_answered(story: Story, serving_cluster: Cluster) -> None:
    output = story.directory / "answers"
    asked = ["--model", story.made["small"].uri, "--input", str(story.directory / "test.csv"), "--column", "body"]
    ran = run_job(serving_cluster, "jobs.predict", *asked, "--output", str(output), "--probabilities", "--format", "jsonl")
    assert ran.exit_code == 0, ran.text
    (part,) = output.glob("part-*.jsonl")
    answered = [json.loads(line) for line in part.read_text().splitlines()]
    right = [sorted(row["predicted"]) == [one for one in row["topics"].split(";") if one] for row in answered]
    assert len(right) == 80 and sum(right) > 65
    assert all(0 <= row[f"probability_{label}"] <= 1 for row in answered for label in SAYS)


def test_the_shipped_recipe_is_sound_but_for_the_hub(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "labels": own}) for text, own in remarks(60, seed=2)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    source = f"{{train: {tmp_path}/rows.jsonl, test: {tmp_path}/rows.jsonl}}"
    preflight(load_recipe("jobs/recipes/emotions.yaml", [f"steps.rows.source={source}"]), str(tmp_path / "runs"))
    assert Path("jobs/recipes/emotions.yaml").read_text().count("\n") < 40
