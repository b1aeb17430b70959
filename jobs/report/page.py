"""The report of a finished recipe as one HTML file that needs nothing else: no network, no scripts, no fonts.

    write_page("spam", {"teacher": open_artifact(uri), …, "judged": …, "winner": …}, Path("report.html"))

Everything in it comes from manifests and from the report that `evaluate` published; sections whose step the recipe
does not have are left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.store.artifact import Artifact, ArtifactError
from cluster.store.storage import read_bytes
from jobs.report import cascade_section as cascade
from jobs.report import front_sections as front
from jobs.report import sections
from jobs.report.html import document, element
from jobs.tasks import learning_of, usual_kind

REPORT_FILE = "report.json"


def write_page(recipe: str, artifacts: Mapping[str, Artifact], target: Path, choice: Mapping[str, Any] | None = None) -> None:
    """Write the page; `artifacts` are the recipe's, by step, in order.

    `choice` has winner, budget and verdicts where no select step's artifact does: it makes none where it refuses.
    Raises ArtifactError where none is of stage evaluate: then there is nothing to compare.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render_page(recipe, artifacts, choice), encoding="utf-8")


def render_page(recipe: str, artifacts: Mapping[str, Artifact], choice: Mapping[str, Any] | None = None) -> str:
    """The page as text."""
    report = read_evaluation(recipe, artifacts)
    choice, deployment = choice or _details(artifacts, "select"), _details(artifacts, "deploy")
    winner = next((row for row in report["rows"] if row["candidate"] == choice.get("winner")), None)
    name = None if winner is None else winner["candidate"]
    content = [
        sections.headline(recipe, report, winner),
        sections.comparison(report, name),
        sections.trade_off(report, name, choice.get("budget") or {}),
        front.against(report),
        front.front_table(report, name),
        front.operating_points(report),
        cascade.section(report, winner),
        sections.verdicts(choice),
        *learning_of(report.get("kind", usual_kind())).sections(report, name, sections),
        sections.doubtful(artifacts),
        sections.steadiness(report),
        sections.answers(deployment, report.get("fields", ("text",))),
        sections.learning(artifacts, report["metric"]),
        front.timed_shapes(artifacts),
        sections.searches(artifacts),
        sections.left_out(artifacts),
        sections.lineage(artifacts, None if winner is None else winner.get("step")),
        sections.hardware(artifacts),
    ]
    return document(f"{recipe}: report", element("main", *content))


def read_evaluation(recipe: str, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """What the recipe's last evaluate step published; ArtifactError where there is no such step."""
    judged = _last(artifacts, "evaluate")
    if judged is None:
        known = ", ".join(artifacts) or "no steps at all"
        raise ArtifactError(
            f"recipe {recipe} has no finished evaluate step (it has {known}): there is nothing to compare; add one and run it"
        )
    report: dict[str, Any] = json.loads(read_bytes(judged.file(REPORT_FILE)))
    return report


def _last(artifacts: Mapping[str, Artifact], stage: str) -> Artifact | None:
    return next((artifact for artifact in reversed(list(artifacts.values())) if artifact.manifest.stage == stage), None)


def _details(artifacts: Mapping[str, Artifact], stage: str) -> Mapping[str, Any]:
    found = _last(artifacts, stage)
    return {} if found is None else found.manifest.details
