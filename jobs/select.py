"""select: of the candidates on the front that meet the budget one wins, and the registry's alias moves to it.

    ray job submit --working-dir . -- python -m jobs.select jobs/recipes/spam.yaml --step winner

Where none qualifies, nothing moves, and the error says what each one misses and by how much.
"""

import json
from typing import Any, Literal

from pydantic import Field

from cluster.artifact import Artifact, Kind
from cluster.registry import move
from jobs.core.cli import main
from jobs.core.config import Config
from jobs.core.stage import Context, Input, Inputs, Outcome, Refused, Stage
from jobs.evaluate import read_report
from jobs.front import pareto_front
from jobs.slices import falls


class SelectConfig(Config):
    """The budget, and which wins of those within it."""

    prefer: Literal["fastest", "smallest", "best"] = "fastest"
    """Which of those on the front that meet the budget wins: the lowest p95 latency, the fewest bytes or the highest score."""
    minimum_kept: float = Field(0.97, ge=0, le=2)
    """Share of the teacher's score that a winner must keep."""
    maximum_p95_ms: float | None = Field(None, gt=0)
    """Highest p95 latency of a single text."""
    maximum_bytes: int | None = Field(None, gt=0)
    """Largest size on disk."""
    minimum_speedup: float | None = Field(None, gt=0)
    """How many times faster than the teacher at least."""
    minimum_agreement: float | None = Field(None, ge=0, le=1)
    """Share of the texts for which a winner must say what the teacher says."""
    maximum_slice_loss: float | None = Field(None, ge=0, le=1)
    """By how much the accuracy of a slice (a label, a quarter of the lengths) may be below the teacher's, e.g. 0.05."""
    maximum_calibration_error: float | None = Field(None, ge=0, le=1)
    """Highest expected calibration error of the probabilities."""


def run(config: SelectConfig, inputs: Inputs, context: Context) -> Outcome:
    """Judge each candidate against the budget, write verdict.json."""
    report = read_report(inputs.one("report"))
    rows = report["rows"]
    verdicts = [
        {"candidate": row["candidate"], "qualifies": not (reasons := shortfalls(row, rows[0], config)), "reasons": reasons}
        for row in rows[1:]
    ]
    fit = [row for row, verdict in zip(rows[1:], verdicts, strict=True) if verdict["qualifies"]]
    if not fit:
        lines = [f"{verdict['candidate']}: {'; '.join(verdict['reasons'])}" for verdict in verdicts]
        raise Refused("no candidate is within the budget, the alias has not moved:\n  " + "\n  ".join(lines))
    # Of equals in what is preferred, one that nothing else beats.
    best = pareto_front(fit)
    winner = min((row for row in fit if row["candidate"] in best), key=lambda row: _order(row, config.prefer))
    details = {"winner": winner["candidate"], "budget": config.model_dump(), "verdicts": verdicts}
    (context.directory / "verdict.json").write_text(json.dumps({**details, "row": winner, "teacher": rows[0]}, indent=1))
    figures = {key: float(winner[key]) for key in ("score", "kept", "speedup", "size_ratio", "latency_p50_ms")}
    return Outcome(metrics=figures, details=details)


def _order(row: dict[str, Any], prefer: str) -> float:
    key = {"fastest": "latency_p95_ms", "smallest": "bytes"}.get(prefer)
    return float(-row["score"] if key is None else row[key])


def shortfalls(row: dict[str, Any], teacher: dict[str, Any], budget: SelectConfig) -> list[str]:
    """What keeps a candidate from the budget, each with by how much."""
    found = doubts(row, teacher, budget)
    if row["kept"] < budget.minimum_kept:
        short = 100 * (budget.minimum_kept - row["kept"])
        asked = f"{budget.minimum_kept:.1%} are asked ({short:.2g} points more)"
        found.append(f"keeps {row['kept']:.1%} of the teacher's score, {asked}")
    if budget.maximum_p95_ms is not None and row["latency_p95_ms"] > budget.maximum_p95_ms:
        over = row["latency_p95_ms"] - budget.maximum_p95_ms
        found.append(f"p95 is {row['latency_p95_ms']:.2f} ms, allowed are {budget.maximum_p95_ms:g} ({over:.2g} less)")
    if budget.maximum_bytes is not None and row["bytes"] > budget.maximum_bytes:
        over = row["bytes"] - budget.maximum_bytes
        found.append(f"has {row['bytes']:,} bytes, allowed are {budget.maximum_bytes:,} ({over:,} less)")
    if budget.minimum_speedup is not None and row["speedup"] < budget.minimum_speedup:
        short = budget.minimum_speedup - row["speedup"]
        asked = f"{budget.minimum_speedup:g} are asked ({short:.2g} more)"
        found.append(f"is {row['speedup']:.1f} times faster than the teacher, {asked}")
    return found


def doubts(row: dict[str, Any], teacher: dict[str, Any], budget: SelectConfig) -> list[str]:
    """What a good score may hide: other answers than the teacher's, a slice gone bad, probabilities that do not hold."""
    found = []
    if budget.minimum_agreement is not None and row["agreement"] < budget.minimum_agreement:
        short = 100 * (budget.minimum_agreement - row["agreement"])
        asked = f"{budget.minimum_agreement:.1%} are asked ({short:.2g} points more)"
        found.append(f"agrees with the teacher on {row['agreement']:.1%} of the texts, {asked}")
    if budget.maximum_slice_loss is not None:
        for name, lost in falls(row["slices"], teacher["slices"]).items():
            if lost > budget.maximum_slice_loss:
                allowed = (
                    f"allowed are {100 * budget.maximum_slice_loss:g} ({100 * (lost - budget.maximum_slice_loss):.2g} less)"
                )
                found.append(f"loses {100 * lost:.1f} points of accuracy in the slice '{name}', {allowed}")
    allowed_error = budget.maximum_calibration_error
    if allowed_error is not None and row["calibration_error"] > allowed_error:
        over = row["calibration_error"] - allowed_error
        found.append(
            f"its calibration error is {row['calibration_error']:.3f}, allowed are {allowed_error:g} ({over:.2g} less)"
        )
    return found


def read_verdict(artifact: Artifact) -> dict[str, Any]:
    """The verdict.json of a selection: winner, budget, verdicts, the winner's row and the teacher's."""
    return json.loads((artifact.local(["verdict.json"]) / "verdict.json").read_text())


def settle(artifact: Artifact, context: Context) -> None:
    """The alias {recipe}/winner points at the winner, also where the selection was found complete."""
    row = read_verdict(artifact)["row"]
    move(context.storage, f"{context.recipe}/winner", row["uri"], row["fingerprint"], row["variant"])


STAGE = Stage(
    name="select",
    purpose="choose a candidate on the front within the budget and move the alias",
    config=SelectConfig,
    run=run,
    inputs={"report": Input(Kind.REPORT, "the figures from evaluate")},
    output=Kind.REPORT,
    version=2,
    headline=("kept", "speedup", "size_ratio"),
    settle=settle,
)

if __name__ == "__main__":
    main(STAGE)
