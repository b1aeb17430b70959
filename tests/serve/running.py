"""A Serve of one's own in another process.

with running([entry]) as server:
    requests.get(server.address + "/spam/healthz")
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.connection.embedded import free_ports

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Server:
    """A Serve of its own, and how to deploy on it anew."""

    address: str
    directory: str
    """Ray's own: logs."""
    metrics: str
    """Where Prometheus reads Ray's metrics."""
    process: "subprocess.Popen[str]"

    def deploy(self, applications: list[dict[str, Any]]) -> None:
        """Replace its applications by these, and wait until they run."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(applications) + "\n")
        self.process.stdin.flush()
        self.wait()

    def wait(self) -> None:
        """Until it says that its applications run."""
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "")
        assert any(line == "ready\n" for line in lines), f"the server ended with {self.process.wait()} before it was ready"


@contextmanager
def running(applications: list[dict[str, Any]], host: str = "127.0.0.1", **environment: str) -> Iterator[Server]:
    """Start a server with these applications."""
    port, metrics = free_ports(2)
    # Unix sockets' paths must be short.
    place = tempfile.mkdtemp(prefix="rs", dir="/tmp")
    options = [str(port), str(metrics), place, host, json.dumps(applications)]
    command = [sys.executable, "-m", "tests.serve.server", *options]
    # A token of its own: Ray would else write one into the home directory, where other clusters find it.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **token, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    server = Server(f"http://127.0.0.1:{port}", place, f"http://127.0.0.1:{metrics}/metrics", process)
    try:
        server.wait()
        yield server
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(180)
        shutil.rmtree(place, ignore_errors=True)
