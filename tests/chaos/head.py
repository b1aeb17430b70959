"""The head of a cluster on this machine, on the same ports after each start, with or without an autoscaler.

with Head(cpus=2) as head:
    head.kill()          # kill -9 of all that runs on it
    head.start()
"""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import yaml

from cluster.connection import embedded
from cluster.connection.connect import _apply
from cluster.fleet.supply import CLUSTER_FILE

FAKE_NODE = "f" * 51 + "00000"
"""The id that Ray's fake node provider gives to the head."""
HEAD_TYPE = "ray.head.default"
"""The type that it has there."""
FAKE: dict[str, Any] = {
    "cluster_name": "fake",
    "head_node_type": HEAD_TYPE,
    "upscaling_speed": 1.0,
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{key: [] for key in ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")},
    **{key: [] for key in ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")},
    **{key: [] for key in ("rsync_exclude", "rsync_filter")},
    "file_mounts_sync_continuously": False,
}
PROVIDER = {
    "type": "external",
    "module": "fake_nodes.Provider",
    "head_node_id": FAKE_NODE,
    **dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check", "launch_multiple"), True),
}
FAKE_ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_NODE,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_NODE,
    "RAY_NODE_TYPE_NAME": HEAD_TYPE,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}


class Head:
    """A running head."""

    def __init__(self, cpus: int, node_types: Mapping[str, Any] | None = None, idle_seconds: float = 60) -> None:
        """With `node_types` Ray's autoscaler starts such nodes, processes of this machine, and ends the idle ones."""
        self.cpus = cpus
        # Unix socket paths may have 104 characters at most.
        self.directory = Path(tempfile.mkdtemp(prefix="raystill-", dir="/tmp"))
        self.ports = embedded.free_ports(len(embedded.PORT_OPTIONS) + len(embedded.PORT_VARIABLES))
        self.token = secrets.token_hex(32)
        embedded._write_private(self.directory / embedded.TOKEN, self.token)
        self.options: Sequence[str] = ()
        self.environment: Mapping[str, str] = {}
        if node_types is not None:
            self._autoscale(node_types, idle_seconds)
        self.start()

    def _autoscale(self, node_types: Mapping[str, Any], idle_seconds: float) -> None:
        head = {"resources": {"CPU": self.cpus}, "node_config": {}, "max_workers": 0}
        config = FAKE | {
            "provider": PROVIDER | {"gcs_address": f"127.0.0.1:{self.ports[0]}"},
            "idle_timeout_minutes": idle_seconds / 60,
            "max_workers": sum(each["max_workers"] for each in node_types.values()),
            "available_node_types": {HEAD_TYPE: head, **node_types},
        }
        place = self.directory / "autoscaler.yaml"
        place.write_text(yaml.safe_dump(config))
        shutil.copy(Path(__file__).with_name("fake_nodes.py"), self.directory)
        # CLUSTER_FILE as this repository's clusters have it: jobs learn there which nodes may still come.
        found = {CLUSTER_FILE: str(place), "PYTHONPATH": str(self.directory)}
        self.options, self.environment = [f"--autoscaling-config={place}"], FAKE_ENVIRONMENT | found

    def start(self) -> None:
        """Wait until it is there."""
        with patch.dict(os.environ, self.environment):
            guarded = embedded._launch(self.directory, self.ports, self.cpus, None, self.options)
        self.running = embedded.EmbeddedCluster(self.directory, self.ports, guarded)
        embedded._wait_until_ready(self.running, self.token)

    def kill(self) -> None:
        """kill -9 of all its processes at once, those of jobs too, as a machine that goes away."""
        for process in self.running.processes:
            process.send_signal(signal.SIGKILL)
        self.running._guard.wait(30)
        assert not self.running.processes

    def __enter__(self) -> Self:
        """This process's environment leads to it from now on, as if it was all that there is."""
        self.before = _apply({**self.running.environment, "RAY_AUTH_TOKEN": None})
        return self

    def __exit__(self, *_: object) -> None:
        _apply(self.before)
        self.running.close()
        shutil.rmtree(self.directory, ignore_errors=True)
