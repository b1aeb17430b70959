"""What tests share: an embedded cluster for the whole run, an S3 server on loopback, and storages of both kinds."""

import faulthandler
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import requests

from cluster.connection.connect import Cluster, attach_or_start
from cluster.connection.embedded import free_ports
from cluster.ray_private import serve_rest_client
from cluster.store import storage

BUCKET = "raystill"
CLUSTERS = ("chaos", "cluster", "serve", "story")
"""Directories whose tests start clusters and services of their own."""

# A shell that starts something in the background has it ignore SIGINT, and children inherit that: tests of Ctrl-C would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)


_errors = pytest.StashKey[TextIO]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the way to where errors go: while a test runs, what is written there is captured, and lost in a crash."""
    config.stash[_errors] = os.fdopen(os.dup(2), "w")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of a real cluster may fail for what else the machine does: it is run once more, and named at the suite's end."""
    for item in items:
        directory = item.path.relative_to(Path(__file__).parent).parts[0]
        if directory in CLUSTERS or "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(autouse=True)
def _a_crash_tells_where(pytestconfig: pytest.Config) -> None:
    """Ray takes the handlers of fatal signals away when it disconnects: a crash after that would end pytest without a word."""
    faulthandler.disable()
    faulthandler.enable(pytestconfig.stash[_errors])


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """An embedded cluster of two CPUs, started once; ray.init() and `ray_cluster.jobs()` of this process reach it."""
    with attach_or_start("local", cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def serving_cluster(ray_cluster: Cluster) -> Iterator[Cluster]:
    """The embedded cluster; what was deployed on it ends with the module, or other tests would find its processes."""
    yield ray_cluster
    serve_rest_client(ray_cluster.dashboard).delete_applications()


@pytest.fixture
def ray_driver(ray_cluster: Cluster) -> Iterator[Cluster]:
    """This process connected to the embedded cluster as a driver, for one test."""
    import ray

    ray.init(ray_cluster.address, log_to_driver=False)
    yield ray_cluster
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on loopback with one bucket.

    A process of its own: pyarrow holds the interpreter's lock while it ends an upload, and a server that shares the
    lock could not answer.
    """
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _make_bucket(url, process)
        yield url
    finally:
        process.kill()
        process.wait()


def _make_bucket(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            requests.put(f"{url}/{BUCKET}", timeout=5).raise_for_status()
            return
        except requests.ConnectionError:
            assert process.poll() is None, "the S3 server ended; is moto[server] installed?"
            assert time.monotonic() < deadline, "the S3 server did not answer within 30 s"
            time.sleep(0.1)


@pytest.fixture
def s3_uri(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh place in the S3 bucket, and the environment of this process that leads there."""
    for name, value in s3_environment(s3_server).items():
        monkeypatch.setenv(name, value)
    storage._remote.cache_clear()
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}"


def s3_environment(url: str) -> dict[str, str]:
    """What a process needs to use the test's S3 server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(params=["local", "s3"])
def storage_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh storage of either kind."""
    if request.param == "local":
        return str(tmp_path / "storage")
    uri = request.getfixturevalue("s3_uri")
    assert isinstance(uri, str)
    return uri


@pytest.fixture(autouse=True)
def _working_directory_stays() -> Iterator[None]:
    """A test that changes the directory (Ray Tune does) must not move the next one."""
    before = os.getcwd()
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _no_connection_stays() -> Iterator[None]:
    """A process that is connected to a cluster is ended by Ray, without a word, a minute after that cluster has ended."""
    before = _is_connected()
    yield
    if not before and _is_connected():
        import ray

        ray.shutdown()
        raise AssertionError("this test left the process connected to a cluster: call ray.shutdown() whatever happens")


def _is_connected() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()
