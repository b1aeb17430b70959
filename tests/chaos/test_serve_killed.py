"""kill -9 of a Serve replica, and of the node that it runs on: the application answers again, and never wrongly."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import requests
from ray import serve

from cluster.connection.connect import attach_or_start
from cluster.connection.embedded import free_ports
from serve.app import Arguments, build
from tests.chaos.faults import ROUNDS, note
from tests.chaos.second_node import Node, occupy_head, second_node
from tests.serve.tiny_model import TEXTS, publish_tiny
from tests.story.running import ROOT

pytestmark = pytest.mark.skipif(ROUNDS < 2, reason="make chaos runs it")


class Service:
    """A deployed model, the node of its replica, and what holds the other node's CPU."""

    def __init__(self, url: str, node: Node, occupant: Any) -> None:
        self.url, self.node, self.occupant = url, node, occupant
        self.said = self.ask()

    def ask(self) -> Any:
        """The answers, whole; an error of requests where there are none."""
        reply = requests.post(f"{self.url}/v1/predict", json={"inputs": TEXTS}, timeout=10)
        reply.raise_for_status()
        return reply.json()

    def until_it_answers(self, well: int = 20) -> float:
        """Seconds until the first of so many good answers in a row; a wrong answer is an error."""
        began, in_a_row, first = time.monotonic(), 0, 0.0
        while in_a_row < well:
            assert time.monotonic() < began + 120
            try:
                said = self.ask()
            except requests.RequestException:
                in_a_row = 0
                time.sleep(0.1)
                continue
            assert said == self.said
            first = time.monotonic() - began if in_a_row == 0 else first
            in_a_row += 1
            time.sleep(0.1)
        return first

    def replica(self) -> psutil.Process:
        """Its process, on the second node."""
        children = psutil.Process(self.node.process.pid).children(recursive=True)
        (found,) = [child for child in children if any("ServeReplica:tiny" in word for word in child.cmdline())]
        return found


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """On the second of two nodes."""
    publish_tiny(tmp_path / "model")
    port = free_ports(1)[0]
    with attach_or_start("local", cpus=1) as cluster, second_node(cluster, cpus=1) as node:
        ray.init(cluster.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
        occupant = occupy_head(1)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(Arguments(model=str(tmp_path / "model"))), name="tiny", route_prefix="/tiny")
        yield Service(f"http://127.0.0.1:{port}/tiny", node, occupant)
        serve.shutdown()
        ray.shutdown()


def test_a_replica_and_then_its_node(service: Service) -> None:
    killed = service.replica()
    os.kill(killed.pid, signal.SIGKILL)
    note("a Serve replica", "Serve starts another", service.until_it_answers())
    assert service.replica().pid != killed.pid
    ray.kill(service.occupant)
    service.node.kill()
    note("a Serve replica's node", "Serve starts the replica on another node", service.until_it_answers())
