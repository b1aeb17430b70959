"""Ten thousand requests made from the OpenAPI file, right and wrong ones: none is answered with a server error."""

from pathlib import Path

import pytest

from serve.app import deployment_config
from serve.settings import Arguments
from tests.chaos.faults import ROUNDS
from tests.serve.generated import ask_generated
from tests.serve.running import running
from tests.serve.tiny_model import publish_tiny

pytestmark = pytest.mark.skipif(ROUNDS < 2, reason="make chaos runs it")
CASES = 2_500 * ROUNDS
KINDS = 3
"""Routes that take a body; each gets as many examples, the others few."""


def test_no_request_made_from_the_openapi_file_is_answered_with_5xx(tmp_path: Path) -> None:
    publish_tiny(tmp_path / "tiny")
    with running([deployment_config("tiny", Arguments(model=str(tmp_path / "tiny")), "/tiny")]) as server:
        asked = ask_generated(f"{server.address}/tiny/openapi.json", examples=CASES // KINDS)
    print(f"{asked:,} requests made from the OpenAPI file, no server error")
    assert asked >= CASES
