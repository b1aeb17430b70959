"""Running a pipeline as a Ray job, as a user does, and reading what it said."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.connection.connect import Cluster
from cluster.submit import follow, result, submit

ROOT = Path(__file__).resolve().parents[2]
SERVING_PORT = 18_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Where what a story deploys is asked: stories that run beside each other have clusters of their own, on one host."""


@dataclass
class Ran:
    """A job that has ended."""

    exit_code: int | None
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON of the last line."""
        return json.loads(self.lines[-1])

    def state(self, step: str) -> list[str]:
        """The states that a step went through."""
        return [line.split("] ", 1)[1].split()[1] for line in self.lines if line.startswith(f"[{step}] ")]


def run_job(cluster: Cluster, *command: str, environment: Mapping[str, str] | None = None) -> Ran:
    """Submit `python -m …` from the repository's root and wait for its end."""
    job = submit(cluster.jobs(), ["python", "-m", *command], working_dir=str(ROOT), environment=environment)
    lines = list(follow(cluster.jobs(), job))
    return Ran(result(cluster.jobs(), job).exit_code, lines)
