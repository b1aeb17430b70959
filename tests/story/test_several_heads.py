"""Several answers for a text by one model, the whole road at the smallest size: what a Chinese remark is about, in what mood.

A head of several labels beside a head of one; a quarter of the rows say nothing of the second.
"""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import pytest
import requests
from transformers import AutoModelForSequenceClassification

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact, open_artifact
from jobs.core.recipe import load_recipe
from jobs.running.preflight import preflight
from tests.story.running import SERVING_PORT, run_job
from tests.story.tiny_world import write_base, write_recipe

ABOUT = {
    "价格": ("价钱划算", "比别家贵", "打折以后买的"),
    "物流": ("快递三天才到", "送货上门", "包裹放在门口"),
    "质量": ("布料很薄", "扣子掉了一颗", "做工结实"),
}
MOODS = {"好": ("真心喜欢", "下次还来", "推荐给朋友"), "差": ("非常失望", "不会再买", "气得想退货")}
TOPIC, MOOD = "topic", "心情"
Remark = tuple[str, list[str], str]


@dataclass(frozen=True)
class Story:
    """A finished run."""

    directory: Path
    made: dict[str, Artifact]

    @property
    def url(self) -> str:
        return str(self.made["served"].manifest.details["url"])


def remarks(count: int, seed: int) -> list[Remark]:
    """Texts that speak of some of these things, or of none, in one of these moods."""
    draw, made = random.Random(seed), []
    for number in range(count):
        topics, mood = sorted(draw.sample(list(ABOUT), draw.choice((0, 1, 1, 2)))), draw.choice(list(MOODS))
        parts = [*(draw.choice(ABOUT[topic]) for topic in topics), draw.choice(MOODS[mood]), f"订单{1000 * seed + number}"]
        draw.shuffle(parts)
        made.append(("，".join(parts), topics, mood))
    return made


def write_rows(file: Path, rows: Sequence[Remark], without_mood: int = 0) -> str:
    """As CSV; each so many rows one says nothing of the mood."""
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["body", "topics", "mood"])
        for number, (text, topics, mood) in enumerate(rows):
            writer.writerow([text, ";".join(topics), "" if without_mood and number % without_mood == 0 else mood])
    return str(file)


@pytest.fixture(scope="module")
def story(serving_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Story:
    directory = tmp_path_factory.mktemp("heads")
    rows = {"train": remarks(600, seed=0), "validation": remarks(80, seed=2), "test": remarks(80, seed=1)}
    source = {name: write_rows(directory / f"{name}.csv", own, 4 if name == "train" else 0) for name, own in rows.items()}
    write_base(directory / "base", [text for text, *_ in rows["train"]])
    examples = {"examples": "rows"}
    training = {"max_length": 48, "batch_size": 16, "optimizer": {"learning_rate": 1e-3}}
    heads = {TOPIC: {"kind": "multi_label", "labels": "topics", "separator": ";"}}
    heads |= {MOOD: {"kind": "classification", "label": "mood"}}
    loss = {"weights": {TOPIC: 3.0}, MOOD: {"class_weights": "balanced"}}
    steps = {
        "rows": {"stage": "prepare", "source": source, "text": "body", "task": {"kind": "several", "heads": heads}},
        "teacher": {"stage": "finetune", "inputs": examples, "loss": loss, **training}
        | {"model": str(directory / "base"), "epochs": 26},
        "soft": {"stage": "predict", "inputs": {**examples, "model": "teacher"}},
        "student": {"stage": "distill", "inputs": {**examples, "teacher": "soft", "init": "teacher"}, **training}
        | {"epochs": 3},
        "small": {"stage": "compress", "inputs": {**examples, "model": "student", "teacher": "soft"}, "max_length": 48}
        | {"prune": {"feed_forward": 0.25}, "heal": {"optimizer": {"learning_rate": 1e-3}, "evaluations": 1}},
        "judged": {"stage": "evaluate", "inputs": {**examples, "teacher": "teacher", "candidates": "small"}}
        | {"latency_texts": 20, "resamples": 100, "cascade": 0.99},
        "winner": {"stage": "select", "inputs": {"report": "judged"}, "minimum_kept": 0.5, "prefer": "smallest"},
        "served": {
            "stage": "deploy",
            "inputs": {**examples, "winner": "winner"},
            "route": "/heads",
            "port": SERVING_PORT,
            "cpus": 0,
        },
    }
    file = write_recipe(directory / "heads.yaml", {"name": "heads", "steps": steps})
    ran = run_job(serving_cluster, "jobs.pipeline", file, "--storage", str(directory / "runs"))
    assert ran.exit_code == 0, ran.text
    places = {name: next(Path(directory, "runs", "heads").glob(f"{name}-*")) for name in steps}
    return Story(directory, {name: open_artifact(str(place)) for name, place in places.items()})


def test_a_row_without_one_of_its_targets_is_a_row_and_counted_so(story: Story) -> None:
    manifest = story.made["rows"].manifest
    assert manifest.metrics["train_rows"] == 600 and manifest.metrics["rows_without_target"] == 0
    counted = manifest.details["labels"]["train"]
    assert counted[TOPIC] == 600 and counted[MOOD] == 450
    assert counted[f"{MOOD}.好"] + counted[f"{MOOD}.差"] == 450 and counted[f"{TOPIC}.no label"] > 50


def test_each_head_has_learned_and_each_variant_fits_its_own(story: Story) -> None:
    report = json.loads(Path(story.made["judged"].file("report.json")).read_text())
    rows = {row["candidate"]: row for row in report["rows"]}
    assert report["metric"] == "mean_score" and {"teacher", "small", "small:int8"} <= set(rows)
    for name, row in rows.items():
        own = row[f"{TOPIC}.macro_f1"], row[f"{MOOD}.macro_f1"]
        assert min(own) > 0.8, (name, own)
        assert row["score"] == pytest.approx(sum(own) / 2)
        assert row["calibration_error"] == row[f"{MOOD}.calibration_error"]
        assert {f"{TOPIC}: label 价格", f"{MOOD}: label 好"} <= set(row["slices"])
    card = json.loads((story.made["small"].local() / "raystill.json").read_text())
    fitted = {*(f"{TOPIC}.threshold {label}" for label in ABOUT), f"{MOOD}.temperature"}
    assert {name: set(variant["fitted"]) for name, variant in card["variants"].items()} == dict.fromkeys(
        ("torch", "onnx", "int8"), fitted
    )


def test_the_graph_has_an_output_a_head_and_transformers_loads_the_weights(story: Story) -> None:
    directory = story.made["small"].local()
    session = onnxruntime.InferenceSession(str(directory / "onnx" / "model.int8.onnx"), providers=["CPUExecutionProvider"])
    assert {node.name: node.shape[1] for node in session.get_outputs()} == {f"logits_{TOPIC}": 3, f"logits_{MOOD}": 2}
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    names = [*(f"{TOPIC}.{label}" for label in sorted(ABOUT)), *(f"{MOOD}.{label}" for label in sorted(MOODS))]
    assert list(model.config.id2label.values()) == names


def test_one_request_has_an_answer_of_each_head(story: Story) -> None:
    asked = remarks(80, seed=1)
    options = {TOPIC: {"top_k": 2}, MOOD: {"top_k": 1}}
    reply = requests.post(story.url, json={"inputs": [text for text, *_ in asked], **options}, timeout=60)
    assert reply.status_code == 200, reply.text
    answers = reply.json()["answers"]
    assert all(set(answer) == {TOPIC, MOOD} for answer in answers)
    right = [sorted(answer[TOPIC]["labels"]) == topics for answer, (_, topics, _) in zip(answers, asked, strict=True)]
    moods = [answer[MOOD]["label"] == mood for answer, (_, _, mood) in zip(answers, asked, strict=True)]
    assert sum(right) > 45 and sum(moods) > 65
    assert {(len(one[TOPIC]["probabilities"]), len(one[MOOD]["probabilities"])) for one in answers} == {(2, 1)}
    root = story.url.removesuffix("predict")
    (listed,) = requests.get(f"{root}models", timeout=60).json()["models"]
    assert (listed["view"], listed["views"]) == ("heads", {TOPIC: "list", MOOD: "labels"})
    described = requests.get(f"{root.removesuffix('v1/')}openapi.json", timeout=60).json()
    properties = described["components"]["schemas"]["SeveralAnswer"]["properties"]
    assert list(properties) == [TOPIC, MOOD] and "Labels" in properties[TOPIC]["$ref"]


def test_an_answer_of_one_head_is_explained(story: Story) -> None:
    root = story.url.removesuffix("predict")
    asked = {"inputs": "价钱划算，非常失望", MOOD: {"label": "差"}}
    explained = requests.post(f"{root}explain", json=asked, timeout=60)
    assert explained.status_code == 200, explained.text
    found = explained.json()
    assert (found["head"], found["whole"]["label"]) == (MOOD, "差")
    assert [word["text"] for word in found["words"]] == list(str(asked["inputs"]))
    assert all("probability_without" in word for word in found["words"])
    usual = requests.post(f"{root}explain", json={"inputs": "价钱划算"}, timeout=60).json()
    assert usual["head"] == TOPIC and "given" in usual["whole"]
    wrong = requests.post(f"{root}explain", json={"inputs": "价钱划算", "head": "天气"}, timeout=60)
    assert wrong.status_code == 422 and wrong.json()["errors"][0]["field"] == "head"


def test_files_are_answered_and_the_report_has_each_head(story: Story, serving_cluster: Cluster) -> None:
    output = story.directory / "answers"
    asked = ["--model", story.made["small"].uri, "--input", str(story.directory / "test.csv"), "--column", "body"]
    ran = run_job(serving_cluster, "jobs.predict", *asked, "--output", str(output), "--probabilities", "--format", "jsonl")
    assert ran.exit_code == 0, ran.text
    (part,) = output.glob("part-*.jsonl")
    answered = [json.loads(line) for line in part.read_text().splitlines()]
    assert len(answered) == 80 and sum(row[f"{MOOD}.predicted"] == row["mood"] for row in answered) > 65
    assert all(0 <= row[f"{TOPIC}.probability_物流"] <= 1 for row in answered)
    page = (story.directory / "runs" / "heads" / "report.html").read_text()
    assert f"Head {TOPIC}" in page and f"Head {MOOD}" in page
    assert "By label: teacher" in page and "Where they err" in page


def test_the_shipped_recipe_is_sound(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "topics": own, "sentiment": mood}) for text, own, mood in remarks(60, seed=2)]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines))
    override = f"steps.rows.source={tmp_path}/reviews.jsonl"
    preflight(load_recipe("jobs/recipes/several.yaml", [override]), str(tmp_path / "runs"))
    assert Path("jobs/recipes/several.yaml").read_text().count("\n") < 40
