"""The application around its models over real HTTP: names, embeddings, keys, deadlines, request ids, the access log."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests

from serve import keys
from serve.app import deployment_config
from serve.engines.engine import load_engine
from serve.settings import Arguments, BulkSettings, CascadeSettings, ModelSettings, ShadowSettings
from serve.tasks.shared.probabilities import softmax
from tests.serve.running import Server, running
from tests.serve.tiny_model import LABELS, TEXTS, publish_tiny, texts_as_items

PREDICT, EMBED = "/v1/predict", "/v1/embeddings"
DASHBOARD = Path(__file__).parents[2] / "cluster" / "dashboards" / "serve.json"
SURE = 0.8


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(keys_file: Path) -> str:
    return keys.add(str(keys_file), "tests", None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with other weights."""
    directory = tmp_path_factory.mktemp("teacher") / "other"
    publish_tiny(directory, seed=1)
    return directory


@pytest.fixture(scope="module")
def server(model_directory: Path, teacher: Path, keys_file: Path, key: str) -> Iterator[Server]:
    """Two replicas of the default model, one for long lists in torch, another model; with keys, open to all addresses.

    And a second application, a cascade.
    """
    place = str(model_directory)
    arguments = Arguments(
        model=place,
        cpus=0,
        min_replicas=2,
        max_replicas=2,
        cache_texts=100,
        keys=str(keys_file),
        others={"second": ModelSettings(model=place, variant="torch", cpus=0)},
        shadow=ShadowSettings(model="second", share=1.0),
        bulk=BulkSettings(model=place, variant="torch", cpus=0, from_texts=200),
    )
    cascaded = Arguments(
        model=place,
        cpus=0,
        keys=str(keys_file),
        others={"teacher": ModelSettings(model=str(teacher), cpus=0)},
        cascade=CascadeSettings(model="teacher", threshold=SURE),
    )
    entries = [deployment_config("guarded", arguments, "/guarded"), deployment_config("cascaded", cascaded, "/cascaded")]
    with running(entries, host="0.0.0.0") as server:
        yield server


def ask(
    server: Server, key: str | None, path: str, body: Any = None, application: str = "guarded", **headers: str
) -> requests.Response:
    """POST a body, or GET."""
    known = {} if key is None else {"authorization": f"Bearer {key}"}
    url = f"{server.address}/{application}{path}"
    return requests.request("GET" if body is None else "POST", url, json=body, headers=known | headers, timeout=30)


def test_models_are_asked_by_name(server: Server, key: str) -> None:
    listed = ask(server, key, "/v1/models").json()["models"]
    assert [(one["name"], one["variant"], one["default"], one["embeddings"]) for one in listed] == [
        ("tiny", "onnx", True, False),
        ("second", "torch", False, True),
    ]
    for name, variant in ((None, "onnx"), ("tiny", "onnx"), ("second", "torch")):
        reply = ask(server, key, PREDICT, {"inputs": TEXTS, "model": name} if name else {"inputs": TEXTS})
        assert (reply.status_code, reply.json()["model"]["variant"]) == (200, variant)
    unknown = ask(server, key, PREDICT, {"inputs": "a", "model": "third"})
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (404, "model")
    assert "tiny, second" in unknown.json()["errors"][0]["message"]


def test_embeddings_are_the_mean_of_the_last_states_and_a_variant_without_says_what_to_do(
    server: Server, key: str, model_directory: Path
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    reply = ask(server, key, EMBED, {"inputs": TEXTS[:3], "model": "second"})
    assert reply.status_code == 200
    tokenizer, model = AutoTokenizer.from_pretrained(model_directory), AutoModel.from_pretrained(model_directory).eval()
    for text, vector in zip(TEXTS[:3], reply.json()["embeddings"], strict=True):
        with torch.inference_mode():
            states_TD = model(**tokenizer(text, truncation=True, max_length=24, return_tensors="pt")).last_hidden_state[0]
        mean_D = states_TD.mean(0).numpy()
        np.testing.assert_allclose(vector, mean_D / np.linalg.norm(mean_D), atol=1e-4)
    refused = ask(server, key, EMBED, {"inputs": "a"})
    assert refused.status_code == 409
    assert "embeddings: true" in refused.json()["errors"][0]["message"]


def test_a_long_list_is_answered_in_parts_and_a_longer_one_elsewhere(server: Server, key: str, model_directory: Path) -> None:
    expected = load_engine(model_directory).answers(texts_as_items(TEXTS))
    for count, variant in ((150, "onnx"), (256, "torch")):
        texts = [f"{TEXTS[number % len(TEXTS)]}" for number in range(count)]
        reply = ask(server, key, PREDICT, {"inputs": texts, "top_k": 1}).json()
        assert reply["model"]["variant"] == variant
        assert [answer["label"] for answer in reply["answers"]] == [
            expected[number % len(TEXTS)].label for number in range(count)
        ]


def test_without_a_key_nothing_is_answered(server: Server, key: str) -> None:
    for headers in ({}, {"authorization": "Bearer rs_wrong"}):
        refused = ask(server, None, PREDICT, {"inputs": "a"}, **headers)
        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["www-authenticate"] == "Bearer"
    assert ask(server, key, PREDICT, {"inputs": "a"}).status_code == 200
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert ask(server, None, path).status_code == 200


def test_a_revoked_key_is_refused_without_a_restart(server: Server, keys_file: Path) -> None:
    made = keys.add(str(keys_file), "leaving", None)
    assert _eventually(server, made, 200)
    keys.revoke(str(keys_file), "leaving")
    assert _eventually(server, made, 401)


def test_a_key_is_revoked_while_the_logs_disk_is_full_and_the_lines_are_written_later(
    server: Server, key: str, keys_file: Path
) -> None:
    made = keys.add(str(keys_file), "full-disk", None)
    assert _eventually(server, made, 200)
    logs = list(Path(server.directory).glob("session_latest/logs/serve/access_guarded_*.jsonl"))
    kept = [log.rename(log.with_suffix(".kept")) for log in logs]
    try:
        for log in logs:
            log.symlink_to("/dev/full")
        assert ask(server, key, PREDICT, {"inputs": "a"}, **{"x-request-id": "no-room"}).status_code == 200
        time.sleep(3)
        keys.revoke(str(keys_file), "full-disk")
        assert _eventually(server, made, 401), "it stays good"
    finally:
        for log, before in zip(logs, kept, strict=True):
            log.unlink()
            before.rename(log)
    assert _logged(server, "no-room")["status"] == 200


def test_while_the_keys_cannot_be_read_there_is_a_log_and_there_are_metrics(
    server: Server, key: str, keys_file: Path, tmp_path: Path
) -> None:
    pipe, kept = tmp_path / "pipe", tmp_path / "keys.json"
    os.mkfifo(pipe)
    # Reading a pipe that nobody writes to hangs, as a storage that does not answer.
    content = keys_file.read_bytes()
    kept.write_bytes(content)
    os.rename(pipe, keys_file)
    writes = os.open(keys_file, os.O_RDWR)
    try:
        time.sleep(15)
        before = _answered(server)
        assert ask(server, key, PREDICT, {"inputs": "a"}, **{"x-request-id": "no-keys"}).status_code == 200
        assert _logged(server, "no-keys")["status"] == 200
        deadline = time.monotonic() + 40
        while _answered(server) <= before:
            assert time.monotonic() < deadline, "the metrics stand still"
            time.sleep(1)
    finally:
        os.rename(kept, keys_file)
        os.close(writes)
    made = keys.add(str(keys_file), "after", None)
    assert _eventually(server, made, 200), "the keys are read again"


def _answered(server: Server) -> float:
    """Requests of the first application to classify, as its metrics have them."""
    line = re.compile(
        r'^ray_raystill_requests_total\{(?=.*application="guarded").*route="/v1/predict".*\} (\S+)$', re.MULTILINE
    )
    return sum(map(float, line.findall(requests.get(server.metrics, timeout=10).text)))


def _eventually(server: Server, key: str, status: int) -> bool:
    """Whether both replicas answer so within half a minute; they read the file every ten seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if all(ask(server, key, "/v1/models").status_code == status for _ in range(8)):
            return True
        time.sleep(0.5)
    return False


def test_a_deadline_is_kept_and_a_wrong_one_is_named(server: Server, key: str) -> None:
    late = ask(server, key, PREDICT, {"inputs": ["long " * 100] * 200, "model": "second"}, **{"x-request-timeout": "0.0001"})
    assert late.status_code == 504
    assert late.headers["content-type"] == "application/problem+json"
    for wrong in ("soon", "-1", "0", "nan", "inf"):
        refused = ask(server, key, PREDICT, {"inputs": "a"}, **{"x-request-timeout": wrong})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "X-Request-Timeout")


def test_requests_have_ids_and_the_log_has_no_texts(server: Server, key: str) -> None:
    secret = "win a prize now, Mallory"
    given = ask(server, key, PREDICT, {"inputs": [secret, "a"]}, **{"x-request-id": "order-17"})
    assert given.headers["x-request-id"] == "order-17"
    made = [ask(server, key, PREDICT, {"inputs": "a"}).headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2 and all(made)
    line = _logged(server, "order-17")
    assert {name: line[name] for name in ("method", "path", "status", "key", "model", "texts", "characters")} == {
        "method": "POST",
        "path": PREDICT,
        "status": 200,
        "key": "tests",
        "model": "tiny",
        "texts": 2,
        "characters": len(secret) + 1,
    }
    assert line["ms"] > 0
    assert "Mallory" not in json.dumps(line) and key not in json.dumps(line)


def _logged(server: Server, request_id: str) -> Any:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for file in Path(server.directory).glob("session_latest/logs/serve/access_guarded_*.jsonl"):
            for line in map(json.loads, file.read_text().splitlines()):
                if line["request_id"] == request_id:
                    return line
        time.sleep(0.2)
    raise AssertionError(f"the access log has no request {request_id}")


def test_the_dashboards_metrics_stand_on_rays_endpoint(server: Server, key: str) -> None:
    for _ in range(4):  # the same text twice in a request, and again of the replica that has it in its cache
        assert ask(server, key, PREDICT, {"inputs": [*TEXTS, TEXTS[0]]}).status_code == 200
    assert ask(server, key, PREDICT, {"inputs": TEXTS}, "cascaded").status_code == 200
    wanted = set(re.findall(r"ray_raystill_\w+", DASHBOARD.read_text()))
    # Needs a model that knows its training texts.
    wanted.remove("ray_raystill_drift")
    # Need people: tests/story/test_feedback_learned.py.
    wanted -= {"ray_raystill_feedbacks", "ray_raystill_feedback_right"}
    deadline = time.monotonic() + 40
    while missing := wanted - set(re.findall(r"^\w+", told := requests.get(server.metrics, timeout=10).text, re.MULTILINE)):
        assert time.monotonic() < deadline, missing
        time.sleep(1)
    assert 'route="/v1/predict"' in told and 'application="guarded"' in told


def test_the_shadow_sees_what_was_asked_and_agrees_with_its_own_weights(server: Server, key: str) -> None:
    deadline = time.monotonic() + 30
    while not (seen := ask(server, key, "/v1/shadow").json())["agreed"]:
        assert time.monotonic() < deadline, seen
        assert ask(server, key, PREDICT, {"inputs": TEXTS}).status_code == 200
    assert (seen["model"], seen["disagreed"], seen["failed"]) == ("second", 0, 0)
    assert seen["mean_gap"] < 1e-4


def test_the_teacher_answers_where_the_small_model_is_unsure(
    server: Server, key: str, model_directory: Path, teacher: Path
) -> None:
    of_small, of_teacher = (
        softmax(np.asarray(load_engine(place).settled(texts_as_items(TEXTS)))) for place in (model_directory, teacher)
    )
    unsure = of_small.max(-1) < SURE
    assert 0 < unsure.sum() < len(TEXTS)
    answers = ask(server, key, PREDICT, {"inputs": TEXTS}, "cascaded").json()["answers"]
    told = [{one["label"]: one["probability"] for one in answer["probabilities"]} for answer in answers]
    given = np.array([[one[label] for label in LABELS] for one in told])
    np.testing.assert_allclose(given, np.where(unsure[:, None], of_teacher, of_small), atol=1e-4)
    line = re.compile(r'^ray_raystill_cascade_texts_total\{.*became="(\w+)".*\} (\S+)$', re.MULTILINE)
    deadline, found = time.monotonic() + 40, dict[str, float]()
    while not found or found.get("passed_on", 0) / sum(found.values()) != unsure.mean():
        assert time.monotonic() < deadline, found
        time.sleep(1)
        found = {became: float(count) for became, count in line.findall(requests.get(server.metrics, timeout=10).text)}


def test_a_client_that_asks_again_does_not_notice_a_killed_replica(server: Server, key: str, model_directory: Path) -> None:
    answers = load_engine(model_directory).answers(texts_as_items(TEXTS))
    right = {text: answer.label for text, answer in zip(TEXTS, answers, strict=True)}
    before = _wait(lambda: running if len(running := _replicas(server)) == 2 else None)
    given, stopped = [list[tuple[str, str]]() for _ in range(4)], threading.Event()
    with ThreadPoolExecutor(len(given)) as pool:
        clients = [pool.submit(_collect, server, key, labels, stopped) for labels in given]
        try:
            _wait(lambda: all(len(labels) > len(TEXTS) for labels in given) or any(client.done() for client in clients))
            before[0].kill()
            before[0].wait()
            _wait(lambda: len(_replicas(server)) == 2 or any(client.done() for client in clients))
            asked = [len(labels) for labels in given]
            _wait(lambda: all(len(own) > count for own, count in zip(given, asked, strict=True)))
        finally:
            stopped.set()
        for client in clients:
            client.result()
    assert [(text, label) for labels in given for text, label in labels if label != right[text]] == []


def _replicas(server: Server) -> list[psutil.Process]:
    """Those of the default model that run."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if re.match(r"ray::ServeReplica:guarded:model(?!-)", " ".join(process.cmdline())):
                found.append(process)
    return found


def _wait(told: Callable[[], Any], seconds: float = 120) -> Any:
    """What is told, as soon as it is anything."""
    deadline = time.monotonic() + seconds
    while not (found := told()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def _collect(server: Server, key: str, given: list[tuple[str, str]], stopped: threading.Event) -> None:
    """Add texts and the labels that they were given, until it is stopped."""
    while not stopped.is_set():
        for text in TEXTS:
            reply = _ask_again(server, key, {"inputs": text})
            assert reply.status_code == 200, reply.text
            given.append((text, reply.json()["answers"][0]["label"]))


def _ask_again(server: Server, key: str, body: Any) -> requests.Response:
    """The reply, after as many connections that break and 503 as a minute holds."""
    deadline, pause = time.monotonic() + 60, 0.1
    while True:
        try:
            reply = ask(server, key, PREDICT, body)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            if time.monotonic() > deadline:
                raise
        else:
            if reply.status_code != 503 or time.monotonic() > deadline:
                return reply
        time.sleep(pause)
        pause = min(2 * pause, 2)
