"""A service of two replicas under load while a node and a replica die, a version is rolled out, its config changes.

No answer is wrong, and a client that tries again on 503 and broken connections gets every one of them.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from cluster.connection.connect import Cluster, attach_or_start
from cluster.connection.embedded import free_ports
from cluster.ingress import ingress_environment
from cluster.ray_private import serve_rest_client
from serve.app import deployment_config
from serve.engines.engine import load_engine
from serve.engines.published import open_model
from serve.settings import Arguments
from tests.chaos.faults import ROUNDS, note_load, processes, wait
from tests.chaos.second_node import Node, occupy_head, second_node
from tests.chaos.serve_load import PER_SECOND, SteadyLoad
from tests.serve.tiny_model import TEXTS, publish_tiny, texts_as_items
from tests.story.running import ROOT

pytestmark = pytest.mark.skipif(ROUNDS < 2, reason="make chaos runs it")
SECONDS = 45 * ROUNDS
"""Of load around each fault: three minutes with the four rounds of make chaos."""
HEAD_CPUS = 3


class Service:
    """A model with one replica on the head and one on another node, deployed as `serve deploy FILE` does."""

    def __init__(self, cluster: Cluster, node: Node, versions: Sequence[Path]) -> None:
        self.cluster, self.node, self.versions = cluster, node, versions
        self.fingerprints = [open_model(str(version)).fingerprint for version in versions]
        self._right = dict(zip(self.fingerprints, map(_answers, versions), strict=True))
        self._port = free_ports(1)[0]
        self._client = serve_rest_client(cluster.dashboard)

    def deploy(self, version: Path, **more: Any) -> None:
        """Return when all replicas are as wanted."""
        before = self._application().get("last_deployed_time_s")
        arguments = Arguments(model=str(version), name="tiny", **{"min_replicas": 2, "max_replicas": 2} | more)
        entry = deployment_config("tiny", arguments, "/tiny") | {"runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}}}
        http = {"host": "127.0.0.1", "port": self._port}
        self._client.deploy_applications({"proxy_location": "HeadOnly", "http_options": http, "applications": [entry]})

        def runs() -> bool:
            found = self._application()
            return found.get("status") == "RUNNING" and found["last_deployed_time_s"] != before

        wait(runs)

    def under_load(self, fault: str, happens: str, break_it: Callable[[], object]) -> set[str]:
        """Load before, during and after what breaks something; a row of the table. Returns the versions that answered."""
        load = SteadyLoad(f"http://127.0.0.1:{self._port}/tiny/v1/predict", TEXTS, self._right)
        load.start()
        began = time.monotonic()
        time.sleep(SECONDS / 3)
        break_it()
        time.sleep(max(0.0, began + SECONDS - time.monotonic()))
        seen = load.stop()
        assert seen.wrong == []
        assert seen.lost == []
        assert seen.requests >= 0.9 * SECONDS * PER_SECOND
        note_load(fault, happens, seen.requests, seen.first_failures, seen.p99())
        return seen.versions

    def replicas(self) -> list[psutil.Process]:
        """Those on the head."""
        return processes(self.cluster, "ServeReplica:tiny")

    def _application(self) -> dict[str, Any]:
        return dict(self._client.get_serve_details()["applications"].get("tiny", {}))


def _answers(version: Path) -> dict[str, tuple[str, float]]:
    answers = load_engine(version).answers(texts_as_items(TEXTS))
    return {text: (answer.label, answer.probability) for text, answer in zip(TEXTS, answers, strict=True)}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Behind HAProxy, as docs/serving.md has it."""
    place = tmp_path_factory.mktemp("served")
    versions = [place / "one", place / "two"]
    for seed, version in enumerate(versions):
        publish_tiny(version, seed)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as sockets:
        for name, value in (ingress_environment(Path(sockets), *free_ports(2)) | os.environ).items():
            patch.setenv(name, value)
        with attach_or_start("local", cpus=HEAD_CPUS) as cluster, second_node(cluster, cpus=1) as node:
            ray.init(cluster.address, log_to_driver=False)
            # One replica has to go to the other node; later ones find room here.
            occupant = occupy_head(HEAD_CPUS - 1)
            service = Service(cluster, node, versions)
            service.deploy(versions[0])
            ray.kill(occupant)
            yield service
            ray.shutdown()


def test_a_node_is_killed(service: Service) -> None:
    assert len(service.replicas()) == 1, "the other one is on the other node"
    service.under_load("a replica's node, kill -9", "the other replica answers; Serve starts one elsewhere", service.node.kill)
    wait(lambda: len(service.replicas()) == 2)


def test_a_replica_is_killed(service: Service) -> None:
    service.under_load("a replica, kill -9", "the other one answers; Serve starts another", service.replicas()[0].kill)


def test_a_version_is_rolled_out(service: Service) -> None:
    first, second = service.versions
    answered = service.under_load("a new version", "replicas go one by one", lambda: service.deploy(second))
    assert answered == set(service.fingerprints)
    service.deploy(first)


def test_the_config_is_changed(service: Service) -> None:
    first = service.versions[0]
    service.under_load(
        "the config is changed",
        "a third replica comes, all keep answers",
        lambda: service.deploy(first, max_replicas=3, min_replicas=3, cache_texts=100),
    )
    service.deploy(first)
