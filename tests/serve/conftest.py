"""The tiny model, made once, and a real Serve application of it, started once."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.tiny_model import publish_tiny

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain model directory, without a manifest."""
    directory = tmp_path_factory.mktemp("model") / "tiny"
    publish_tiny(directory)
    return directory


@pytest.fixture(scope="session")
def service(model_directory: Path) -> Iterator[str]:
    """The address of the tiny model behind real HTTP, on a Ray of its own that goes when the tests end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.serve.server", str(model_directory), str(port)]
    # A token of its own: Ray would else write one into the home directory, where other clusters find it.
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    server = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        lines = iter(server.stdout.readline, "")
        assert any(line == "ready\n" for line in lines), f"the server ended with {server.wait()} before it was ready"
        yield f"http://127.0.0.1:{port}/tiny"
    finally:
        server.stdin.close()
        server.wait(180)
