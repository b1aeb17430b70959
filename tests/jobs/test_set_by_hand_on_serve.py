"""API keys and more that were set by hand in a service outlive deployments, a canary and a rollback. On a real Serve."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from cluster.connection.connect import Cluster
from cluster.connection.embedded import free_ports
from cluster.ray_private import serve_rest_client
from cluster.store import registry
from cluster.store.artifact import Artifact, publish
from jobs.deploy import DeployConfig
from jobs.deploying.canary_decision import CanaryConfig
from jobs.deploying.serve_client import ServeClient
from serve import keys
from tests.jobs.test_canary_on_serve import NAME, RECORD, deploy
from tests.serve.tiny_model import publish_tiny
from tests.story.running import run_job


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def model(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    directory = tmp_path_factory.mktemp("tiny")
    publish_tiny(directory)
    record = RECORD | {"kind": "model", "step": "small", "created": datetime.now(UTC)}
    return publish(directory, f"{storage}/{NAME}/small-11111111", record)


def serve_deploy(entry: dict[str, Any], *others: dict[str, Any]) -> None:
    """Give Serve a config as `serve deploy FILE` does, and wait until it runs."""
    client = ServeClient()
    config = client.config_with(entry, client.http_address())
    config["applications"] = [*others, entry]
    client.apply(config, entry["name"], lambda state: None)


def told(cluster: Cluster, name: str) -> dict[str, Any]:
    applications = serve_rest_client(cluster.dashboard).get_serve_details()["applications"]
    assert applications[name]["status"] in ("RUNNING", "DEPLOYING")
    entry: dict[str, Any] = applications[name]["deployed_app_config"]
    return entry


@contextmanager
def clients(url: str, key: str) -> Iterator[Counter[int]]:
    """One client with a key, to be counted by a canary, and one without, whose statuses are given."""
    seen: Counter[int] = Counter()
    ended = threading.Event()

    def ask(headers: dict[str, str], counts: Counter[int]) -> None:
        number = 0
        while not ended.wait(0.02):
            number += 1
            counts[requests.post(url, json={"inputs": f"text {number}"}, headers=headers, timeout=60).status_code] += 1

    with_key: Counter[int] = Counter()
    both = [({"x-api-key": key}, with_key), ({}, seen)]
    threads = [threading.Thread(target=ask, args=one) for one in both]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert set(with_key) == {200}, with_key


@pytest.mark.usefixtures("ray_driver")
def test_what_was_set_by_hand_stays_and_the_service_never_answers_without_a_key(
    storage: str, model: Artifact, tmp_path: Path, serving_cluster: Cluster
) -> None:
    plain = DeployConfig(route=f"/{NAME}", port=free_ports(1)[0], cpus=0, questions=0)
    url = deploy(storage, model, "torch", plain, tmp_path / "1")
    file = str(tmp_path / "keys.json")
    key = keys.add(file, "tests", None)
    entry = told(serving_cluster, NAME)
    entry["args"] |= {"keys": file, "cache_texts": 7, "request_timeout_seconds": 21.0}
    entry |= {"deployments": [{"name": "model", "health_check_period_s": 7}], "runtime_env": {"env_vars": {"BY_HAND": "1"}}}
    beside = {**entry, "name": "beside", "route_prefix": "/beside", "deployments": []}
    serve_deploy(entry, beside)

    def still_there(variant: str) -> None:
        listed = url.replace("predict", "models")
        assert requests.get(listed, timeout=30).status_code == 401
        answered = requests.get(listed, headers={"x-api-key": key}, timeout=30)
        assert (answered.status_code, answered.json()["models"][0]["variant"]) == (200, variant)
        now = told(serving_cluster, NAME)
        assert {name: now["args"][name] for name in ("keys", "cache_texts", "request_timeout_seconds")} == {
            "keys": file,
            "cache_texts": 7,
            "request_timeout_seconds": 21.0,
        }
        assert now["deployments"] == entry["deployments"]
        assert now["runtime_env"]["env_vars"] == {"BY_HAND": "1"}
        assert told(serving_cluster, "beside")["args"] == beside["args"]

    still_there("torch")
    canary = CanaryConfig(share=0.4, minimum_requests=20, maximum_seconds=300, slack_ms=1000)
    with clients(url, key) as without_a_key:
        deploy(storage, model, "onnx", plain.model_copy(update={"canary": canary}), tmp_path / "2")
        still_there("onnx")
        ran = run_job(serving_cluster, "jobs.deploy", f"{NAME}/production", "--rollback", "--storage", storage)
        assert ran.exit_code == 0, ran.text
        assert "carried over: cache_texts, keys, request_timeout_seconds, runtime_env.env_vars, deployments" in ran.text
        still_there("torch")
        deploy(storage, model, "onnx", plain, tmp_path / "3")
        still_there("onnx")
    assert set(without_a_key) == {401} and without_a_key.total() > 100, without_a_key
    history = registry.read(storage, f"{NAME}/production").history
    assert [target.variant for target in history] == ["torch", "onnx", "torch", "onnx"]
    assert all(target.config and "keys" not in target.config["args"] for target in history)
    ran = run_job(serving_cluster, "jobs.deploy", f"{NAME}/production", "--rollback", "--drop", "keys", "--storage", storage)
    assert ran.exit_code == 0, ran.text
    assert requests.get(url.replace("predict", "models"), timeout=30).status_code == 200, "told so, it answers anyone"
