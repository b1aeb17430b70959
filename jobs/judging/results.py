"""What evaluate and select have written, read back.

read_report(artifact)["rows"]         # the candidates with their figures, the yardstick first
read_verdict(artifact)["winner"]
"""

import json
from typing import Any

from cluster.store.artifact import Artifact

AGAINST_FLOOR = "against_floor"
"""In a manifest's details and in summary.json: the sentence on what all else is worth above the floor."""


def read_report(artifact: Artifact) -> dict[str, Any]:
    """The report.json of an evaluation."""
    return json.loads((artifact.local(["report.json"]) / "report.json").read_text())


def judged_on(report: dict[str, Any]) -> str | None:
    """The kind of processor that a report's figures hold for; None in those of older code, which do not say it."""
    kind: str | None = report["conditions"].get("processor")
    return kind


def read_verdict(artifact: Artifact) -> dict[str, Any]:
    """The verdict.json of a selection: winner, budget, verdicts, the winner's row and the teacher's."""
    return json.loads((artifact.local(["verdict.json"]) / "verdict.json").read_text())
