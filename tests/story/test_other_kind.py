"""A kind of task that lives in tests alone goes the whole road: rows, teacher, student, int8, service, page, files, report.

Nothing outside of its two files knows it (tests/test_kinds.py); the cluster's processes find it by its entry point.
"""

import csv
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from cluster.connection.connect import Cluster, attach_or_start
from cluster.connection.embedded import free_ports
from cluster.store import registry
from cluster.store.artifact import Artifact, open_artifact
from jobs.data.training_rows import read_examples
from jobs.tasks.floors import NO_FLOOR
from tests.spotting.installed import KIND, installed, seen
from tests.spotting.world import ASKED, OTHERS, recipe, rows, write_world
from tests.story.running import ROOT, Ran, run_job
from tests.story.tiny_world import write_recipe

PASSAGE = "the friends once seen a violet otter near some old house by Kyoto, on their long"
ASKS = {"which animal is it?": (7, "otter"), "which colour is it?": (6, "violet"), "which city is it?": (13, "Kyoto,")}


@dataclass(frozen=True)
class Story:
    """A finished run."""

    directory: Path
    paths: dict[str, str]
    port: int
    ran: Ran

    @property
    def storage(self) -> str:
        return str(self.directory / "runs")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def artifact(self, step: str) -> Artifact:
        (place,) = Path(self.storage, KIND).glob(f"{step}-*")
        return open_artifact(str(place))

    def post(self, route: str, **body: Any) -> requests.Response:
        return requests.post(f"{self.url}v1/{route}", json=body, timeout=60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own: processes of one that runs already would not find the kind."""
    with seen(installed(tmp_path_factory.mktemp("installed"))), attach_or_start("local", cpus=2) as started:
        yield started


@pytest.fixture(scope="module")
def story(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Story:
    directory, port = tmp_path_factory.mktemp("spotting"), free_ports(1)[0]
    paths = write_world(directory)
    file = write_recipe(directory / "spotting.yaml", recipe(paths, port))
    ran = run_job(cluster, "jobs.pipeline", file, "--storage", str(directory / "runs"))
    assert ran.exit_code == 0, ran.text
    return Story(directory, paths, port, ran)


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """A command in a plain process; it reaches the test's cluster, and finds the kind, through the environment."""
    line = [sys.executable, "-m", *command]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), timeout=180, check=False)


def test_rows_become_examples(story: Story) -> None:
    made = story.artifact("rows")
    assert json.loads((made.local() / "task.json").read_text()) == {"kind": KIND}
    train = read_examples(made, "train").to_pydict()
    assert {"question", "passage", "answer"} <= train.keys()
    assert made.manifest.metrics["unlabelled_rows"] == sum(answer is None for answer in train["answer"]) == 60
    answered = [pair for pair in zip(train["passage"], train["answer"], strict=True) if pair[1] is not None]
    named = [name for names in ASKED.values() for name in names]
    assert all(passage.split()[answer - 1].strip(",") in named for passage, answer in answered)


def test_all_have_learned_which_word_is_asked_for(story: Story) -> None:
    report = json.loads(Path(story.artifact("judged").file("report.json")).read_text())
    chance = sum((len(row.passage.split()) + 1) / 2 for row in rows(60, seed=2)) / 60
    assert report["metric"] == "mean_rank" and "floor" not in report
    assert f"judged has no floor: of {KIND}, {NO_FLOOR}" in story.ran.text
    by_name = {row["candidate"]: row for row in report["rows"]}
    assert set(by_name) == {"teacher", "small", "small:onnx", "small:int8"}
    for name, row in by_name.items():
        assert row["score"] < 1.5 < chance / 5, name
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
        assert row["chance"] == pytest.approx(chance), "figures that the kind alone has"
    teacher, small = by_name["teacher"], by_name["small"]
    ratio = teacher["score"] / small["score"]
    kept = ratio if ratio <= 1 else 2 - 1 / ratio
    assert small["kept"] == pytest.approx(kept), "of two ranks the lower one is the better"


def test_each_variant_has_what_was_fitted_for_it(story: Story) -> None:
    card = json.loads((story.artifact("small").local() / "raystill.json").read_text())
    assert card["task"] == {"kind": KIND}
    sharpness = {name: variant["fitted"]["sharpness"] for name, variant in card["variants"].items()}
    assert {"torch", "onnx", "int8"} <= sharpness.keys()
    assert all(value > 0 for value in sharpness.values())


def test_the_winner_answers_over_http(story: Story) -> None:
    inputs = [{"question": question, "passage": PASSAGE} for question in ASKS]
    reply = story.post("predict", inputs=inputs, most=2)
    assert reply.status_code == 200, reply.text
    answers = reply.json()["answers"]
    assert [(answer["value"], answer["text"]) for answer in answers] == list(ASKS.values())
    for answer in answers:
        assert [*answer] == ["value", "text", "probability", "words"]
        assert answer["words"][0] == {key: answer[key] for key in ("value", "text", "probability")}
        assert len(answer["words"]) == 2
    alone = story.post("predict", inputs=inputs[0]).json()
    assert len(alone["answers"][0]["words"]) == 3
    assert alone["model"]["fingerprint"] == registry.read(story.storage, f"{KIND}/production").target.fingerprint


def test_a_passage_of_many_windows_is_answered(story: Story) -> None:
    before, after = (" ".join(random.Random(seed).choices(OTHERS, k=40)) for seed in (0, 1))
    passage = f"{before} {PASSAGE} {after}"
    for question, (value, text) in ASKS.items():
        (answer,) = story.post("predict", inputs={"question": question, "passage": passage}).json()["answers"]
        assert (answer["value"], answer["text"]) == (40 + value, text)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"inputs": {"question": "which city is it?"}}, "inputs.passage"),
        ({"inputs": {"question": "which city is it?", "passage": "  "}}, "inputs.passage"),
        ({"inputs": {"question": "which city is it?", "passage": PASSAGE, "pair": "x"}}, "inputs.pair"),
        ({"inputs": [{"question": "which?", "passage": "a"}, {"text": "which city is it?"}]}, "inputs.1.question"),
        ({"inputs": "which city is it?"}, "inputs"),
        ({"inputs": {"question": "which city is it?", "passage": PASSAGE}, "top_k": 2}, "top_k"),
        ({"inputs": {"question": "which city is it?", "passage": PASSAGE}, "most": 0}, "most"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_by_its_field(story: Story, body: dict[str, Any], field: str) -> None:
    reply = story.post("predict", **body)
    assert reply.status_code == 422, reply.text
    assert reply.json()["errors"][0]["field"] == field


def test_an_answer_is_explained_by_words_of_both_texts(story: Story) -> None:
    item = {"question": "which animal is it?", "passage": PASSAGE}
    reply = story.post("explain", inputs=item)
    assert reply.status_code == 200, reply.text
    explained = reply.json()
    assert explained["value"] == 7
    assert {word["field"] for word in explained["words"]} == {"question", "passage"}
    for word in explained["words"]:
        assert item[word["field"]][word["start"] : word["end"]] == word["text"]
    most = max(explained["words"], key=lambda word: word["attribution"])
    assert most["text"] in ("otter", "animal")


def test_the_service_says_what_it_takes(story: Story) -> None:
    (listed,) = requests.get(f"{story.url}v1/models", timeout=60).json()["models"]
    told = {key: listed[key] for key in ("kind", "fields", "view", "explains", "labels")}
    assert told == {"kind": KIND, "fields": ["question", "passage"], "view": "number", "explains": True, "labels": []}
    described = requests.get(f"{story.url}openapi.json", timeout=60).json()["paths"]["/v1/predict"]["post"]
    assert described["summary"] == "Find the word that answers"
    body = described["requestBody"]["content"]["application/json"]
    assert body["schema"]["properties"]["most"]["default"] == 3
    assert story.post("predict", **body["example"]).status_code == 200
    page = requests.get(story.url, timeout=60)
    named = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert page.status_code == 200 and "page/page.js" in named
    for name in named:
        assert requests.get(f"{story.url}{name}", timeout=60).status_code == 200, name


def test_files_are_answered(story: Story, cluster: Cluster) -> None:
    output = story.directory / "answers"
    command = ["jobs.predict", "--model", f"{KIND}/production", "--input", story.paths["test"], "--output", str(output)]
    done = run(*command, "--columns", "question=question", "passage=context", "--storage", story.storage, "--probabilities")
    assert done.returncode == 0, done.stdout + done.stderr
    (part,) = output.glob("part-*.csv")
    with open(part, newline="") as file:
        answered = list(csv.DictReader(file))
    assert len(answered) == 60
    assert sum(row["predicted"] == row["place"] for row in answered) > 45
    for row in answered:
        assert row["word"] == row["context"].split()[int(row["predicted"]) - 1]
        assert len(json.loads(row["words"])) == len(row["context"].split())


def test_the_report_has_the_kinds_own_figure_and_section(story: Story) -> None:
    page = Path(story.ran.summary["report"]).read_text()
    assert "Where the right word stands" in page
    assert "mean" in page and "rank" in page
    assert story.ran.summary["winner"] in page


def test_nothing_of_the_run_is_garbage(story: Story) -> None:
    done = run("cluster.gc", story.storage)
    assert done.returncode == 0 and done.stdout.startswith("nothing to delete; "), done.stdout + done.stderr


def test_a_second_run_finds_everything_complete(story: Story, cluster: Cluster) -> None:
    done = run("jobs.pipeline", str(story.directory / "spotting.yaml"), "--storage", story.storage, "--plan")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines() if line.split()[2:3] in (["run"], ["skip"])}
    assert [step for step, does in plan.items() if does == "run"] == ["served"], done.stdout


def test_what_the_kind_has_not_is_told_before_anything_runs(story: Story, cluster: Cluster) -> None:
    (story.directory / "wrong.csv").write_text(
        "question,context,place\nwhich city is it?,in Kyoto,2\nwhich city is it?,in Quito,3\n"
    )
    wrong = {"train": str(story.directory / "wrong.csv")}
    tree = recipe(
        story.paths,
        story.port,
        teacher={"loss": {"othres": 0.1}},
        student={"loss": "forward_kl"},
        judged={"metric": "macro_f1"},
    )
    tree["steps"]["more"] = recipe(story.paths, story.port)["steps"]["rows"] | {"source": wrong}
    done = run("jobs.pipeline", write_recipe(story.directory / "wrong.yaml", tree), "--storage", story.storage)
    assert done.returncode == 2, done.stdout + done.stderr
    for words in (
        "Did you mean others?",
        "steps.student.loss",
        "listwise",
        "steps.judged.metric",
        "mean_rank",
        "steps.more.task.answer",
        "there is no word 3 in a passage of 2",
    ):
        assert words in done.stderr, (words, done.stderr)
    tree = recipe(story.paths, story.port, rows={"augment": {"copies": 2}})
    done = run("jobs.pipeline", write_recipe(story.directory / "wrong.yaml", tree), "--storage", story.storage)
    assert done.returncode == 2 and "leave out augment" in done.stderr, done.stdout + done.stderr
