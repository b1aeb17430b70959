"""A Ray cluster of one's own on this machine: loopback only, free ports, a token of its own, gone when closed.

with start(cpus=2) as cluster:
    print(cluster.address, cluster.dashboard)
"""

import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from cluster.connection import guard
from cluster.ray_private import JOB_CONFIG
from cluster.store.storage import cache_directory

OBJECT_STORE_BYTES = 1_000_000_000
START_SECONDS = 60.0
LOG_FILE = "start.log"
TOKEN = "token"

# Below the range from which systems hand out ports by themselves, so that none is taken between choice and use.
PORTS = range(20_000, 32_000)
PORT_OPTIONS = (
    "--port",
    "--dashboard-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
    "--object-manager-port",
    "--node-manager-port",
    "--ray-client-server-port",
)
PORT_VARIABLES = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")

RAY_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # the end of a run waits for one check, and each takes time from the workers
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line twice
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Ray ends idle workers beyond one a CPU, its own actors among them, after a second; another takes seconds to start.
    "RAY_idle_worker_killing_time_threshold_ms": "10000",
}
LOOPBACK = {
    # Despite its name: without it Ray replaces 127.0.0.1 by this machine's outer address and listens on all of them.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
FOREIGN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", JOB_CONFIG, "RAY_AUTH_TOKEN")


class StartError(Exception):
    """The embedded cluster did not start; the message holds the end of its log."""


class EmbeddedCluster:
    """A running embedded cluster: where it is, and how to end it."""

    def __init__(self, directory: Path, ports: list[int], process: "subprocess.Popen[bytes]") -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{ports[0]}"
        self.dashboard = f"http://127.0.0.1:{ports[1]}"
        self._guard = process
        self._closed = False

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment to reach this cluster."""
        return {
            **LOOPBACK,
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.directory / TOKEN),
        }

    @property
    def exit_code(self) -> int | None:
        """None while the cluster runs; not None once it ended without having been closed."""
        return self._guard.poll()

    @property
    def processes(self) -> list[psutil.Process]:
        """The cluster's living processes, without their guard."""
        return guard.members(str(self.directory), self._guard.pid)

    def close(self) -> None:
        """End all its processes and remove its directory; silent when that is done already."""
        if self._closed:
            return
        self._closed = True
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout=20)
        # Normally the guard has done all this; it may itself have been killed.
        guard.end(str(self.directory), self._guard.pid, patience=2)
        self._guard.kill()
        self._guard.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(cpus: int | None = None, gpus: int | None = None) -> EmbeddedCluster:
    """Start a cluster and wait until its node and its jobs API are there; StartError with the end of its log if it does not.

    `cpus` and `gpus` are what it hands out to tasks; by default what Ray detects (container limits count).
    """
    # Unix socket paths may have 104 characters at most, and Ray adds seventy of its own.
    directory = Path(tempfile.mkdtemp(prefix="raystill-", dir="/tmp"))
    ports = free_ports(len(PORT_OPTIONS) + len(PORT_VARIABLES))
    token = secrets.token_hex(32)
    _write_private(directory / TOKEN, token)
    cluster = EmbeddedCluster(directory, ports, _launch(directory, ports, cpus, gpus))
    try:
        _wait_until_ready(cluster, token)
    except BaseException:
        cluster.close()
        raise
    return cluster


def free_ports(count: int) -> list[int]:
    """Different ports that nothing listens on, on any address of this machine."""
    chosen: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            chosen.append(port)
        if len(chosen) == count:
            return chosen
    raise StartError(f"only {len(chosen)} of {count} ports in {PORTS.start}–{PORTS.stop} are free; end what holds them")


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _launch(
    directory: Path, ports: list[int], cpus: int | None, gpus: int | None, more: Sequence[str] = ()
) -> "subprocess.Popen[bytes]":
    """Start the guard, and with it Ray (with `more` options), in a session of their own."""
    store = min(OBJECT_STORE_BYTES, int(psutil.virtual_memory().total * 0.3))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--log-style=record", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={directory}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={store}"]
    command += [f"{option}={port}" for option, port in zip(PORT_OPTIONS, ports, strict=False)]
    command += [f"--num-cpus={cpus}"] if cpus is not None else []
    command += [f"--num-gpus={gpus}"] if gpus is not None else []
    command += more
    # Without it Train and the state API look for any cluster on this machine, and fail where there are two.
    own = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports[1]}"}
    own |= {name: str(port) for name, port in zip(PORT_VARIABLES, ports[len(PORT_OPTIONS) :], strict=True)}
    with open(directory / LOG_FILE, "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", guard.__file__, str(directory), *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_inherited(directory), **own},
        )


def _inherited(directory: Path) -> dict[str, str]:
    """This process's environment without what would tie the cluster to another one or to this checkout.

    Jobs bring their code with them; a PYTHONPATH to the checkout would let them run other code than they uploaded.
    """
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    checkout = {Path.cwd(), Path(__file__).resolve().parents[2]}
    paths = [path for path in kept.pop("PYTHONPATH", "").split(os.pathsep) if path and Path(path).resolve() not in checkout]
    if paths:
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    # `python` in a job's command is the Python that runs here.
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    # Temporary files of Ray and of jobs go with the cluster; downloaded models outlive it.
    temporary = {"TMPDIR": str(directory), "RAYSTILL_CACHE": str(cache_directory())}
    access = {**LOOPBACK, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(directory / TOKEN)}
    return {**RAY_ENVIRONMENT, **kept, **temporary, **access}


def _wait_until_ready(cluster: EmbeddedCluster, token: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(cluster.dashboard, token):
        code = cluster.exit_code
        if code is not None:
            raise StartError(f"ray start ended with code {code} before it was ready:\n{_log_tail(cluster)}")
        if time.monotonic() > deadline:
            raise StartError(f"{cluster.dashboard}: not ready within {START_SECONDS:.0f} s:\n{_log_tail(cluster)}")
        time.sleep(0.1)


def _is_ready(dashboard: str, token: str) -> bool:
    """The dashboard is up before the node is, and may yet find that the node cannot start."""
    nodes = _get(f"{dashboard}/nodes?view=summary", token)
    alive = nodes is not None and any(node["raylet"]["state"] == "ALIVE" for node in nodes["data"]["summary"])
    return alive and _get(f"{dashboard}/api/jobs/", token) is not None


def _get(url: str, token: str) -> Any:
    """A JSON answer; None where there is none yet."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return json.load(reply)
    except OSError:  # refused, 503 and time-outs alike
        return None


def _log_tail(cluster: EmbeddedCluster, lines: int = 20) -> str:
    text = (cluster.directory / LOG_FILE).read_text(errors="replace")
    return "\n".join(text.splitlines()[-lines:]) or "(its log is empty)"
