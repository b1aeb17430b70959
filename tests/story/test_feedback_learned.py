"""Feedback over real HTTP: two replicas and keys, killed processes, a new version; and what was said becomes examples."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from cluster.connection.connect import Cluster
from cluster.store.artifact import open_artifact
from serve import keys
from serve.app import deployment_config
from serve.cleaning.cleaning import Cleaning
from serve.engines.card import read_card, write_card
from serve.settings import Arguments, FeedbackSettings, ModelSettings
from tests.serve.running import Server, running
from tests.serve.tiny_model import LABELS, publish_tiny
from tests.story.running import run_job
from tests.story.tiny_world import write_recipe

PREDICT, FEEDBACK = "/v1/predict", "/v1/feedback"


@dataclass
class Service:
    """A running service, with a key of its own."""

    server: Server
    place: Path
    arguments: Arguments
    key: str
    other_key: str

    def ask(self, path: str, body: Any = None, key: str | None = None, **headers: str) -> requests.Response:
        known = {"authorization": f"Bearer {key or self.key}"}
        url, method = self.server.address + path, "GET" if body is None else "POST"
        return requests.request(method, url, json=body, headers=known | headers, timeout=60)

    def predict(self, inputs: Any, model: str = "tiny") -> tuple[str, Any]:
        """The request's id, and the reply."""
        reply = self.ask(PREDICT, {"inputs": inputs, "model": model})
        assert reply.status_code == 200, reply.text
        return reply.headers["x-request-id"], reply.json()

    def say(self, request_id: str, right: Any, **more: Any) -> requests.Response:
        return self.ask(FEEDBACK, {"request_id": request_id, "right": right, **more})

    def processes(self, deployment: str) -> list[psutil.Process]:
        children = psutil.Process(self.server.process.pid).children(recursive=True)
        named = re.compile(rf"ray::ServeReplica:fed:{deployment}(?!-)\b")
        return [one for one in children if named.match(_command(one))]

    @property
    def rows(self) -> dict[tuple[str, int], dict[str, Any]]:
        lines = [line for file in (self.place / "rows").glob("*.jsonl") for line in file.read_text().splitlines()]
        found = [json.loads(line) for line in lines]
        by_item = {(row["feedback"]["request_id"], row["feedback"]["index"]): row for row in found}
        assert len(by_item) == len(found)
        return by_item


def _command(process: psutil.Process) -> str:
    """Of a process that lives."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def publish(directory: Path, seed: int) -> str:
    """A tiny model that masks addresses."""
    publish_tiny(directory, seed=seed)
    card = read_card(directory)
    write_card(directory, card.model_copy(update={"cleaning": Cleaning(masks=("email",))}))
    return str(directory)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("feedback")
    file = str(directory / "keys.json")
    made = [keys.add(file, name, None) for name in ("own", "other")]
    arguments = Arguments(
        model=publish(directory / "tiny", 0),
        cpus=0,
        min_replicas=2,
        max_replicas=2,
        keys=file,
        others={"second": ModelSettings(model=publish(directory / "other", 1), cpus=0)},
        feedback=FeedbackSettings(place=str(directory / "feedback"), columns={"text": "body"}),
    )
    with running([deployment_config("fed", arguments, "/")]) as server:
        yield Service(server, directory / "feedback", arguments, *made)


def test_what_is_said_reaches_what_another_replica_answered_and_the_last_word_counts(service: Service) -> None:
    for _ in range(6):  # whichever of the two replicas each request comes to
        request_id, reply = service.predict("Win a prize now, mallory@example.com")
        told = service.say(request_id, "其他")
        assert told.status_code == 200, told.text
        label = reply["answers"][0]["label"]
        assert told.json()["answer"]["label"] == label and told.json()["model"] == reply["model"]
        assert (told.json()["goodness"], told.json()["replaced"]) == (float(label == "其他"), False)
        again = service.say(request_id, label)
        assert (again.json()["goodness"], again.json()["replaced"]) == (1.0, True)
        row = service.rows[request_id, 0]
        assert (row["body"], row["label"]) == ("Win a prize now, <EMAIL>", label), "the text as the model read it"
        assert row["feedback"]["model"] == reply["model"]
    (score,) = service.ask(FEEDBACK).json()["scores"]
    assert (score["feedbacks"], score["right"], score["high"]) == (6, 1.0, 1.0) and 0.5 < score["low"] < 0.7


def test_of_several_inputs_it_is_said_which_is_meant_and_of_which_model(service: Service) -> None:
    request_id, reply = service.predict(["a prize", "the keys", "the film"], "second")
    refused = service.say(request_id, "spam")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "index")
    assert "0 to 2" in refused.json()["errors"][0]["message"]
    assert service.say(request_id, "spam", index=3).status_code == 422
    wrong = next(label for label in LABELS if label != reply["answers"][1]["label"])
    told = service.say(request_id, wrong, index=1)
    assert told.json()["goodness"] == 0.0 and told.json()["model"]["name"] == "second"
    assert service.rows[request_id, 1]["body"] == "the keys"
    scores = {one["model"]["name"]: one for one in service.ask(FEEDBACK).json()["scores"]}
    assert (scores["second"]["feedbacks"], scores["second"]["right"]) == (1, 0.0)
    listed = service.ask("/v1/models").json()["models"]
    assert [(one["feedback"], one["choices"]) for one in listed] == [(True, list(LABELS))] * 2


def test_what_does_not_fit_is_refused_by_field(service: Service) -> None:
    request_id, _ = service.predict("a prize")
    unknown = service.say(request_id, "Spam")
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (422, "right")
    assert unknown.headers["content-type"] == "application/problem+json"
    assert "ham, spam, 其他" in unknown.json()["errors"][0]["message"]
    for refused in (
        service.say("nobody-asked", "spam"),
        service.ask(FEEDBACK, {"request_id": request_id, "right": "spam"}, key=service.other_key),
    ):
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (404, "request_id")
        assert "24 hours" in refused.json()["errors"][0]["message"]
    sound = {"request_id": request_id, "right": "spam"}
    for body in ({"request_id": request_id}, sound | {"request_id": 1}, sound | {"a": 1}, sound | {"index": -1}):
        assert service.ask(FEEDBACK, body).status_code == 422
    url = service.server.address + FEEDBACK
    assert requests.post(url, json={"request_id": request_id, "right": "spam"}, timeout=30).status_code == 401
    known = {"authorization": f"Bearer {service.key}"}
    assert requests.post(url, data=b"{", headers=known, timeout=30).status_code == 400
    assert requests.post(url, data=b" " * (1 << 20) + b"{}", headers=known, timeout=30).status_code == 413
    assert (request_id, 0) not in service.rows
    described = requests.get(service.server.address + "/openapi.json", timeout=30).json()["paths"][FEEDBACK]["post"]
    example = described["requestBody"]["content"]["application/json"]["example"]
    assert example["right"] in LABELS and {"200", "401", "404", "422"} <= set(described["responses"])


def test_the_score_stands_among_the_metrics(service: Service) -> None:
    deadline, wanted = time.monotonic() + 40, {"ray_raystill_feedbacks", "ray_raystill_feedback_right"}
    while missing := wanted - set(re.findall(r"^\w+", told := requests.get(service.server.metrics, timeout=10).text, re.M)):
        assert time.monotonic() < deadline, missing
        time.sleep(1)
    assert re.search(r'ray_raystill_feedback_right\{(?=.*model="tiny")(?=.*what="mean").*\} 1\.0', told)
    dashboard = (Path(__file__).parents[2] / "cluster" / "dashboards" / "serve.json").read_text()
    assert all(name in dashboard for name in wanted)


def test_killed_processes_and_a_new_version_forget_nothing_that_was_handed_over(service: Service) -> None:
    before = len(service.rows)
    asked = [service.predict(f"the film, {number}")[0] for number in range(8)]
    time.sleep(8)  # Handed over within a second, and on the disk within five more.
    (desk,) = service.processes("feedback")
    replica = service.processes("model")[0]
    for process in (desk, replica):
        process.kill()
    _until(lambda: [one.pid != desk.pid for one in service.processes("feedback")] == [True])
    _until(lambda: len(service.processes("model")) == 2)
    _until(lambda: _is_taken(service, asked[0], "ham"))
    for request_id in asked[1:4]:
        assert service.say(request_id, "ham").status_code == 200
    renewed = service.arguments.model_copy(update={"model": service.arguments.others["second"].model, "others": {}})
    service.server.deploy([deployment_config("fed", renewed.model_copy(update={"name": "tiny"}), "/")])
    for request_id in asked[2:]:
        told = service.say(request_id, "spam")
        assert told.status_code == 200, told.text
        assert told.json()["replaced"] == (request_id in asked[:4])
    assert len(service.rows) == before + 8
    assert [service.rows[request_id, 0]["label"] for request_id in asked] == ["ham"] * 2 + ["spam"] * 6


def test_what_was_said_is_a_source_of_prepare(service: Service, ray_cluster: Cluster) -> None:
    for label in LABELS:
        for number in range(20):
            request_id, _ = service.predict(f"{label} it is, order {number}")
            assert service.say(request_id, label).status_code == 200
    directory, rows = service.place.parent, service.rows
    task = {"kind": "classification", "label": "label"}
    source = str(service.place / "rows" / "*.jsonl")
    steps = {"said": {"stage": "prepare", "source": source, "text": "body", "task": task, "slices": ["feedback.model.name"]}}
    file = write_recipe(directory / "said.yaml", {"name": "said", "steps": steps})
    ran = run_job(ray_cluster, "jobs.prepare", file, "--storage", str(directory / "runs"))
    assert ran.exit_code == 0, ran.text
    made = open_artifact(str(next((directory / "runs" / "said").glob("said-*"))))
    assert made.manifest.metrics["rows_read"] == len(rows) and made.manifest.metrics["rows_bad"] == 0

    import pyarrow.parquet as pq

    read = [row for part in sorted(made.local().glob("*/*.parquet")) for row in pq.read_table(part).to_pylist()]
    told = {row["text"]: row["label"] for row in read}
    assert {text: label for text, label in told.items() if " it is" in text} == {
        f"{label} it is, order {number}": label for label in LABELS for number in range(20)
    }
    assert all(told[row["body"]] == row["label"] for row in rows.values() if row["body"] in told)
    assert {row["slice_feedback.model.name"] for row in read} >= {"tiny"}


def _is_taken(service: Service, request_id: str, right: str) -> bool:
    try:
        return service.say(request_id, right).status_code == 200
    except requests.ConnectionError:
        return False


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)
