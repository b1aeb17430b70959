"""A second node for a cluster on this machine, as processes of its own that can be killed.

with second_node(cluster, cpus=2) as node:
    node.kill()          # kill -9 of all that runs on it
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray
from ray.util.state import list_nodes

from cluster.connection.connect import Cluster
from cluster.connection.embedded import free_ports

# `ray start` refuses a second node on loopback; this is what it would do.
START = """
import os, sys
from ray._private.node import Node
from ray._private.parameter import RayParams

address, cpus, resources, *ports = sys.argv[1:]
names = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")
chosen = dict(zip(names, map(int, ports)))
chosen |= {"num_cpus": int(cpus), "object_store_memory": 200_000_000, "min_worker_port": 0, "max_worker_port": 0}
# Of its own: two nodes in one directory would remove each other's jobs' code.
chosen |= {"runtime_env_dir_name": resources}
Node(RayParams(gcs_address=address, node_ip_address="127.0.0.1", **chosen), head=False, spawn_reaper=False)
# A process that has ended and is not collected counts as alive for those that watch it: workers would outlive their raylet.
while os.wait():
    pass
"""
PORTS = 4


class Node:
    """A running node."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def kill(self) -> None:
        """kill -9 of all its processes at once, as a machine that goes away."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        assert any(child.name() == "raylet" for child in children), "the node has no raylet"
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def kill_raylet(self) -> None:
        """kill -9 of Ray's own process there; what it had started ends by itself."""
        (raylet,) = [child for child in psutil.Process(self.process.pid).children() if child.name() == "raylet"]
        raylet.kill()

    def runs(self, pid: int) -> bool:
        """Whether a living process of this node has that id."""
        return pid in {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}

    @property
    def id(self) -> str:
        """Ray's id of the node; this process must be connected to the cluster."""
        ports = {node["NodeManagerPort"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
        raylet = next(child for child in psutil.Process(self.process.pid).children() if child.name() == "raylet")
        listens = {found.laddr.port for found in raylet.net_connections("tcp") if found.status == psutil.CONN_LISTEN}
        (found,) = [ports[port] for port in listens & ports.keys()]
        return str(found)

    def close(self) -> None:
        """End all of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@ray.remote
class Occupant:
    """Is there."""

    def there(self) -> bool:
        return True


def occupy_head(cpus: int) -> Any:
    """An actor that holds so many of the head's CPUs until it is killed, so that work must go to the other node."""
    occupant = Occupant.options(num_cpus=cpus, resources={"node:__internal_head__": 0.001}).remote()  # type: ignore[attr-defined]
    assert ray.get(occupant.there.remote())
    return occupant


@contextmanager
def second_node(cluster: Cluster, cpus: int) -> Iterator[Node]:
    """Start it and wait until the cluster can use it."""
    assert cluster._embedded is not None
    embedded = cluster._embedded
    command = [
        sys.executable,
        "-c",
        START,
        embedded.address,
        str(cpus),
        f"resources-{uuid.uuid4().hex[:8]}",
        *map(str, free_ports(PORTS)),
    ]
    before = _alive(cluster)
    process = subprocess.Popen(
        command,
        env={**os.environ, **embedded.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    node = Node(process)
    try:
        deadline = time.monotonic() + 120
        while not _alive(cluster) - before:
            assert process.poll() is None and time.monotonic() < deadline, "the second node did not come up"
            time.sleep(0.2)
        yield node
    finally:
        node.close()


def _alive(cluster: Cluster) -> set[str]:
    """The ids of the nodes that are there, as the dashboard knows them: a driver would have to connect for each look."""
    return {node.node_id for node in list_nodes(address=cluster.dashboard, limit=10_000) if node.state == "ALIVE"}
