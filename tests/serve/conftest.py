"""The tiny model, made once, and a real Serve application of it, started once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.app import deployment_config
from serve.settings import Arguments
from tests.serve.running import running
from tests.serve.tiny_model import publish_tiny


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain model directory, without a manifest."""
    directory = tmp_path_factory.mktemp("model") / "tiny"
    publish_tiny(directory)
    return directory


@pytest.fixture(scope="session")
def service(model_directory: Path) -> Iterator[str]:
    """The address of the tiny model behind real HTTP, on a Ray of its own that goes when the tests end."""
    arguments = Arguments(model=str(model_directory), batch_wait_seconds=0.05)
    with running([deployment_config("tiny", arguments, "/tiny")]) as server:
        yield f"{server.address}/tiny"
