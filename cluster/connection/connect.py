"""Which Ray cluster to use: the one that is named, or an embedded one that is started and ended here.

    with attach_or_start(None) as cluster:        # RAY_ADDRESS if that is set, else an embedded cluster
        client = cluster.jobs()                   # Ray Jobs
        ray.init()                                # or a driver in this very process

A cluster is named by its GCS (`host:port`) or its dashboard (`http://host:8265`), as an argument or in RAY_ADDRESS.
One that was named is never stopped.
"""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from cluster import ray_private
from cluster.connection import embedded
from cluster.store import storage

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SECONDS_TO_REACH = 5.0
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
ACCESS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", *embedded.LOOPBACK)
"""Environment variables besides the addresses that decide whether a cluster can be reached."""


class ConnectError(Exception):
    """A named cluster cannot be used; the message says why and what to do."""


@dataclass
class Cluster:
    """A cluster that can be reached. While it is open, this process's environment leads to it."""

    address: str | None
    """GCS `host:port` for ray.init; None where only the dashboard's URL is known."""
    dashboard: str
    """http URL of the dashboard and the jobs API."""
    owned: bool
    """Whether it was started here, and so ends with `close()`."""
    environment: dict[str, str]
    """What a client process must have in its environment to reach it."""
    temp_dir: str | None = None
    """Directory of an owned cluster: logs, token; removed on close."""
    _embedded: embedded.EmbeddedCluster | None = field(default=None, repr=False)
    _before: dict[str, str | None] = field(default_factory=dict, repr=False)

    def jobs(self) -> "JobSubmissionClient":
        """A client of its jobs API."""
        from cluster.connection.jobs import Jobs

        return Jobs(self.dashboard)

    def close(self) -> None:
        """End an owned cluster with all its processes; in any case give this process its old environment back."""
        try:
            if self._embedded is not None:
                self._embedded.close()
        finally:
            _apply(self._before)
            self._before = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def attach_or_start(address: str | None = None, cpus: int | None = None, gpus: int | None = None) -> Cluster:
    """The cluster at `address` or RAY_ADDRESS; where neither is set (or it is "local"), a new embedded one.

    `cpus` and `gpus` size an embedded cluster; by default what Ray detects. Raises ConnectError or StartError.
    """
    named = address or os.environ.get("RAY_ADDRESS") or "local"
    return _start(cpus, gpus) if named == "local" else attach(named)


def attach(address: str) -> Cluster:
    """A cluster that runs already; ConnectError says what is wrong if it cannot be used."""
    if urlsplit(address).scheme in ("http", "https"):
        gcs, dashboard = None, address.rstrip("/")
    elif "://" in address:
        raise ConnectError(f"{address}: use the GCS address (host:6379) or the dashboard's URL (http://host:8265) instead")
    else:
        gcs, dashboard = address, _dashboard_of(address)
    environment = {"RAY_ADDRESS": address, "RAY_API_SERVER_ADDRESS": dashboard}
    environment |= {name: os.environ[name] for name in ACCESS if name in os.environ} | _token_mode(dashboard)
    cluster = Cluster(gcs, dashboard, False, environment, _before=_apply(environment))
    try:
        cluster.jobs()
    except Exception as error:
        cluster.close()
        raise ConnectError(
            f"{dashboard}: its jobs API cannot be used ({type(error).__name__}: {error}). Is the cluster up, and is this "
            f"port open to you? {_TOKEN_HINT}"
        ) from error
    return cluster


def driver_address(address: str | None) -> str | None:
    """The address for a driver in this process (ray.init); ConnectError where it is a dashboard's, or nothing answers."""
    if address and urlsplit(address).scheme in ("http", "https"):
        raise ConnectError(
            f"RAY_ADDRESS is {address}, a dashboard's URL; who drives Ray from here needs the GCS address (host:6379). Set "
            f"that, or have the job run in the cluster: ray job submit --address {address} --working-dir . -- python -m …"
        )
    if address and address not in ("auto", "local") and "://" not in address:
        _answering(address)
    return address


@dataclass(frozen=True)
class Capacity:
    """What the living nodes of a cluster have, together and at most on one of them."""

    nodes: int
    cpus: float
    gpus: float
    memory: float
    """Bytes that Ray hands out to tasks."""
    largest: "Capacity | None" = None
    """The node with the most GPUs, then CPUs, then memory."""


def capacity() -> Capacity:
    """What the cluster that this process is connected to (ray.init) has now; nodes still to come do not count."""
    nodes = [_of_node(node) for node in _living_nodes()]
    return Capacity(
        nodes=len(nodes),
        cpus=sum(node.cpus for node in nodes),
        gpus=sum(node.gpus for node in nodes),
        memory=sum(node.memory for node in nodes),
        largest=max(nodes, key=lambda node: (node.gpus, node.cpus, node.memory), default=None),
    )


def local_storage_problem(storage_uri: str) -> str | None:
    """Why this storage cannot serve the connected cluster, or None: a local path exists on one host only.

    Several nodes on one host are fine. A cluster whose only node runs no work gets its workers on other hosts.
    """
    if not storage.is_local(storage_uri):
        return None
    nodes = _living_nodes()
    hosts = sorted({f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes})
    if len(hosts) > 1:
        found = f"the cluster has {len(hosts)} hosts: {', '.join(hosts[:4])}{', …' if len(hosts) > 4 else ''}"
    elif capacity().cpus == 0:
        found = f"the only host, {', '.join(hosts)}, has no CPU for tasks, so all work will run on hosts still to come"
    else:
        return None
    return (
        f"storage {storage_uri} is a path on one host, but {found}. What one host writes there the others cannot read; "
        f"choose a storage that all of them reach, such as s3://bucket/path or gs://bucket/path"
    )


def _living_nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _of_node(node: Mapping[str, Any]) -> Capacity:
    has = node["Resources"]
    return Capacity(1, has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0))


def _start(cpus: int | None, gpus: int | None) -> Cluster:
    running = embedded.start(cpus, gpus)
    environment = running.environment
    # A token of another cluster would be tried before this one's file.
    before = _apply({**environment, "RAY_AUTH_TOKEN": None})
    return Cluster(running.address, running.dashboard, True, environment, str(running.directory), running, before)


_TOKEN_HINT = "If the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"


def _token_mode(dashboard: str) -> dict[str, str]:
    """Beyond loopback a token is sent unless that is turned off by name. Inside a job the cluster's own mode holds."""
    host = urlsplit(dashboard).hostname
    if host in LOOPBACK_HOSTS or "RAY_AUTH_MODE" in os.environ or ray_private.JOB_CONFIG in os.environ:
        return {}
    if token_of(os.environ) is None:
        raise ConnectError(
            f"{dashboard} is not on this machine, and no token is known here: without one whoever reaches that port runs "
            f"commands on the cluster. Copy the cluster's to ~/.ray/auth_token (mode 600); RAY_AUTH_MODE=disabled goes on "
            f"without"
        )
    return {"RAY_AUTH_MODE": "token"}


def token_of(environment: Mapping[str, str]) -> str | None:
    """The token that Ray would send from here."""
    if environment.get("RAY_AUTH_TOKEN"):
        return environment["RAY_AUTH_TOKEN"].strip()
    file = token_file(environment)
    return file.read_text().strip() if file.is_file() else None


def token_file(environment: Mapping[str, str]) -> Path:
    """Where Ray looks for the token."""
    return Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _dashboard_of(gcs: str) -> str:
    if gcs != "auto":
        _answering(gcs)
    try:
        return ray_private.dashboard_url(gcs)
    except Exception as error:
        raise ConnectError(f"{gcs}: the cluster does not say where its dashboard is ({error}). {_TOKEN_HINT}") from error


def _answering(gcs: str) -> None:
    """ConnectError where nothing listens at `host:port`."""
    host, _, port = gcs.rpartition(":")
    try:
        # Ray itself would try for a minute.
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_REACH).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConnectError(
            f"{gcs}: no Ray cluster answers there ({error}); start it, mend RAY_ADDRESS, or unset it to have an "
            f"embedded cluster on this machine"
        ) from error


def _apply(environment: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set (None: unset) environment variables of this process; returns what they were."""
    before = {name: os.environ.get(name) for name in environment}
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "ray" in sys.modules:
        ray_private.read_environment_again()
    return before
