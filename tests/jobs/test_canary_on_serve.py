"""New versions on a real Serve application under a steady load: promoted, rolled back, put in place at once; none fails."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from cluster.connection.embedded import free_ports
from cluster.store import registry
from cluster.store.artifact import Artifact, open_artifact, publish
from jobs.core.stage import Context, Inputs, Refused
from jobs.deploy import DeployConfig, run
from jobs.deploying.canary_decision import CanaryConfig
from tests.serve.tiny_model import publish_tiny

NAME = "tried"
CLIENTS = 3
RECORD = {"stage": "select", "stage_version": 1, "config": {}, "parents": {}, "seconds": 0.0}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def model(storage: str, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    directory = tmp_path_factory.mktemp("tiny")
    publish_tiny(directory)
    record = RECORD | {"kind": "model", "step": "small", "created": datetime.now(UTC)}
    return publish(directory, f"{storage}/{NAME}/small-11111111", record)


def deploy(storage: str, model: Artifact, variant: str, config: DeployConfig, directory: Path) -> str:
    """Deploy a variant as the select step's winner; returns the address that is asked."""
    row = {"uri": model.uri, "fingerprint": model.fingerprint, "variant": variant, "candidate": f"small:{variant}"}
    directory.mkdir()
    (directory / "verdict.json").write_text(json.dumps({"row": row}))
    record = RECORD | {"kind": "report", "step": "winner", "created": datetime.now(UTC)}
    publish(directory, f"{storage}/{NAME}/winner-{variant}{directory.name}", record)
    winner = open_artifact(f"{storage}/{NAME}/winner-{variant}{directory.name}")
    outcome = run(config, Inputs(winner=[winner]), Context(storage, NAME, "served", "unused", "1"))
    return str(outcome.details["url"])


def variant_of(url: str) -> str:
    """The variant that answers."""
    return str(requests.post(url, json={"inputs": "a"}, timeout=30).json()["model"]["variant"])


@contextmanager
def load(url: str) -> Iterator[Counter[tuple[int, str]]]:
    """Clients that ask different texts, and how often each status came from each variant."""
    seen: Counter[tuple[int, str]] = Counter()
    ended = threading.Event()

    def ask(client: int) -> None:
        number = 0
        while not ended.wait(0.05):
            number += 1
            try:
                reply = requests.post(url, json={"inputs": f"text {number} of {client}"}, timeout=60)
                seen[reply.status_code, reply.json()["model"]["variant"] if reply.ok else reply.text] += 1
            except requests.ConnectionError as error:
                seen[0, str(error)] += 1

    clients = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        ended.set()
        for client in clients:
            client.join()


@pytest.mark.usefixtures("serving_cluster", "ray_driver")
def test_new_versions_are_promoted_rolled_back_or_put_in_place_and_no_request_fails(
    storage: str, model: Artifact, tmp_path: Path
) -> None:
    plain = DeployConfig(route=f"/{NAME}", port=free_ports(1)[0], cpus=0, questions=0)
    canary = CanaryConfig(share=0.4, minimum_requests=40, maximum_seconds=300, slack_ms=1000)
    url = deploy(storage, model, "torch", plain.model_copy(update={"canary": canary}), tmp_path / "1")
    with load(url) as seen:
        deploy(storage, model, "onnx", plain.model_copy(update={"canary": canary}), tmp_path / "2")
        impossible = canary.model_copy(update={"maximum_slowdown": 0.001, "slack_ms": 0.0})
        with pytest.raises(Refused, match="p95 is"):
            deploy(storage, model, "torch", plain.model_copy(update={"canary": impossible}), tmp_path / "3")
        assert variant_of(url) == "onnx"
        deploy(storage, model, "torch", plain, tmp_path / "4")
        assert variant_of(url) == "torch"
    assert {status for status, _ in seen} == {200}, seen
    assert seen[200, "torch"] > 40 and seen[200, "onnx"] > 40
    history = registry.read(storage, f"{NAME}/production").history
    assert [target.variant for target in history] == ["torch", "onnx", "torch"], "what was rolled back is no version"
    promoted, refused = registry.verdicts(storage, f"{NAME}/production")
    assert (promoted["winner"], refused["winner"]) == (model.uri, None)
    assert len(promoted["reasons"]) == 3 and "got another answer" in promoted["reasons"][2]
    assert len(refused["reasons"]) == 1
